//! QEMU's tools as the clients: what they write is what they read, on the other host, after a failover.

use super::host::{LONG, Pair, SIZE};
use super::mark;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;
use xen_replicate::disk::control::Request;

fn uri(socket: &Path) -> String {
    format!("nbd+unix:///?socket={}", socket.display())
}

/// What it prints.
#[track_caller]
fn tool(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{program} (Debian's qemu-utils): {error}"));
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {text}");
    text
}

#[track_caller]
fn io(socket: &Path, commands: &[&str]) {
    let uri = uri(socket);
    let mut arguments = vec!["-f", "raw"];
    commands.iter().for_each(|command| arguments.extend(["-c", command]));
    arguments.push(&uri);
    let text = tool("qemu-io", &arguments);
    assert!(!text.contains("failed"), "{text}");
}

#[test]
#[ignore = "needs Debian's qemu-utils"]
fn what_qemu_wrote_until_the_checkpoint_is_there_after_a_failover_and_what_it_wrote_later_is_not() {
    let mut pair = Pair::new();
    let a = pair.a.socket();
    let info = tool("qemu-img", &["info", "--output=json", &uri(&a)]);
    assert!(info.contains(&format!("\"virtual-size\": {SIZE}")), "{info}");
    tool("qemu-img", &["compare", "-f", "raw", "-F", "raw", &uri(&a), pair.a.image().to_str().unwrap()]);
    io(&a, &["write -P 0x11 0 1M", "write -P 0x22 -f 12345 4097", "discard 2M 64k", "write -z 3M 100k", "flush"]);
    pair.a.ask(&Request::Begin { session: 9 }).unwrap();
    for checkpoint in 1..=3u64 {
        io(&a, &[&format!("aio_write -P {checkpoint} {checkpoint}M 512k"), "aio_flush"]);
        let seq = pair.a.ask(&Request::Close { mark: mark(checkpoint), disks: 1 }).unwrap().seq.unwrap();
        pair.a.ask(&Request::Wait { seq }).unwrap();
        pair.b.ask(&Request::Commit { mark: mark(checkpoint) }).unwrap();
    }
    tool("qemu-img", &["compare", "-f", "raw", "-F", "raw", &uri(&a), pair.b.image().to_str().unwrap()]);
    io(&a, &["write -P 0x99 1M 4M", "flush"]);
    pair.a.daemon.take().unwrap().kill();
    pair.b.ask(&Request::Promote { mark: Some(mark(3)) }).unwrap();
    let b = pair.b.socket();
    io(
        &b,
        &[
            "read -P 0x22 12345 4097",
            "read -P 0x11 16442 1032134",
            "read -P 1 1M 512k",
            "read -P 2 2M 512k",
            "read -P 3 3M 512k",
            "write -P 0x44 4M 1M",
            "read -P 0x44 4M 1M",
        ],
    );
    tool("qemu-img", &["compare", "-f", "raw", "-F", "raw", &uri(&b), pair.b.image().to_str().unwrap()]);
}

#[test]
#[ignore = "needs Debian's qemu-utils"]
fn qemu_copies_a_whole_disk_through_the_server_while_it_is_replicated() {
    let pair = Pair::new();
    let other = pair.a.image().with_file_name("other");
    let bytes: Vec<u8> = super::noise(77, SIZE);
    std::fs::write(&other, &bytes).unwrap();
    let begun = Instant::now();
    tool("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", other.to_str().unwrap(), &uri(&pair.a.socket())]);
    pair.a.ask(&Request::Begin { session: 9 }).unwrap();
    let seq = pair.a.ask(&Request::Close { mark: mark(1), disks: 1 }).unwrap().seq.unwrap();
    pair.a.ask(&Request::Wait { seq }).unwrap();
    assert!(begun.elapsed() < LONG);
    assert!(std::fs::read(pair.b.image()).unwrap() == bytes);
}
