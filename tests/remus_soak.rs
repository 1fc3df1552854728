//! 20,000 checkpoints between two processes: what they hold of the system must not grow.
//!
//! ```text
//! cargo test --release --test remus_soak -- --include-ignored --nocapture
//! ```

mod commands_support;

use commands_support::{Guarded, command, wait};
use std::fs;
use std::process::Stdio;
use tempfile::TempDir;

/// From here on nothing is new to the processes.
const WARM: u64 = 2_000;
const END: u64 = 20_000;
/// How much more memory may be resident at the end, in KiB: a page table here, a larger checkpoint there.
const GROWTH: u64 = 4 << 10;

/// What a process holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    fds: usize,
    threads: u64,
    resident: u64,
}

fn held(process: &Guarded) -> Held {
    let id = process.0.id();
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let field = |name: &str| -> u64 {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let fds = fs::read_dir(format!("/proc/{id}/fd")).unwrap().count();
    Held { fds, threads: field("Threads:"), resident: field("VmRSS:") }
}

fn soak(warm: u64, end: u64) {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    let text = |name: &str| path(name).display().to_string();
    fs::create_dir(path("witness")).unwrap();
    let (witness, link) = (text("witness"), format!("unix:{}", text("link")));
    let both = ["--witness", &witness, "--timeout=10000"];
    let (a, b) = (text("a"), text("b"));
    let receive = [&["receive", "--domain=web", "--listen", &link, "--control", &b][..], &both].concat();
    let quiet =
        |arguments: &[&str]| Guarded(command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let secondary = quiet(&receive);
    wait(&path("b"), "the secondary", |status| status.phase == "waiting");
    let sim = r#"{"memory":512,"working_set":128,"image_pages":64,"writes_per_step":4}"#;
    let remus = [&["remus", "-i", "1", "--sim", sim, "--control", &a][..], &both, &["web", &link]].concat();
    let primary = quiet(&remus);
    wait(&path("a"), "the warm-up", |status| status.acknowledged >= warm);
    let before = [held(&primary), held(&secondary)];
    let last = wait(&path("a"), "the end", |status| status.acknowledged >= end);
    let after = [held(&primary), held(&secondary)];
    println!(
        "{} checkpoints, pause {:?} us: primary {:?} -> {:?}, secondary {:?} -> {:?}",
        last.acknowledged, last.statistics.pause, before[0], after[0], before[1], after[1]
    );
    assert_eq!((last.phase.as_str(), last.statistics.refused), ("protected", 0), "{last:#?}");
    for (name, before, after) in [("primary", before[0], after[0]), ("secondary", before[1], after[1])] {
        // A question on the control socket is a thread and a descriptor for its moment.
        assert!(after.fds <= before.fds + 1 && after.threads <= before.threads + 1, "{name}: {before:?} -> {after:?}");
        assert!(after.resident <= before.resident + GROWTH, "{name}: {before:?} -> {after:?}");
    }
}

#[test]
fn nothing_grows_in_a_thousand_checkpoints() {
    soak(200, 1_000);
}

#[test]
#[ignore = "long"]
fn nothing_grows_in_20_000_checkpoints() {
    soak(WARM, END);
}
