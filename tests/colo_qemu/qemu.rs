//! A QEMU with a guest that counts, driven over QMP.

use super::boot;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

/// Longer than anything here takes; nothing waits for it to pass.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A running QEMU, killed when dropped.
pub struct Qemu {
    child: Child,
    qmp: BufReader<UnixStream>,
    counts: Receiver<u32>,
}

/// Builds the library that a primary needs (`docs/colo.md`).
pub fn preload() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("qemu-preload");
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/qemu-preload/Cargo.toml");
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--locked", "--release", "--manifest-path"])
        .arg(manifest)
        .arg("--target-dir")
        .arg(&target)
        .status()
        .unwrap();
    assert!(status.success(), "tests/qemu-preload does not build");
    target.join("release/libqemu_preload.so")
}

impl Qemu {
    /// Starts one, with the files it needs in `home`. An incoming one waits for `migrate-incoming`.
    pub fn start(home: &Path, name: &str, incoming: bool) -> Qemu {
        let disk = home.join("boot.img");
        if !disk.exists() {
            std::fs::write(&disk, boot::disk()).unwrap();
        }
        let listen = |kind: &str| {
            let path = home.join(format!("{name}.{kind}"));
            (UnixListener::bind(&path).unwrap(), path)
        };
        let ((qmp, qmp_path), (serial, serial_path)) = (listen("qmp"), listen("serial"));
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args(["-accel", "tcg", "-M", "pc", "-m", "16", "-display", "none", "-nodefaults", "-vga", "none"])
            .args(["-drive", &format!("if=floppy,format=raw,readonly=on,file={}", disk.display())])
            .args(["-serial", &format!("unix:{}", serial_path.display())])
            .args([
                "-chardev",
                &format!("socket,id=qmp,path={}", qmp_path.display()),
                "-mon",
                "chardev=qmp,mode=control",
            ])
            .env("LD_PRELOAD", preload())
            .stdin(Stdio::null());
        if incoming {
            command.args(["-incoming", "defer"]);
        }
        let child = command.spawn().expect("qemu-system-x86_64 must be there: apt-get install qemu-system-x86");
        let (sender, counts) = channel();
        let port = serial.accept().unwrap().0;
        thread::spawn(move || {
            for line in BufReader::new(port).lines() {
                // A line may be torn where the guest was replaced.
                let Ok(Ok(count)) = line.map(|line| u32::from_str_radix(&line, 16)) else { continue };
                if sender.send(count).is_err() {
                    break;
                }
            }
        });
        let qmp = qmp.accept().unwrap().0;
        qmp.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut qemu = Qemu { child, qmp: BufReader::new(qmp), counts };
        assert!(qemu.line().get("QMP").is_some());
        qemu.command("qmp_capabilities", json!({}));
        qemu.command("migrate-set-capabilities", json!({"capabilities": [{"capability": "x-colo", "state": true}]}));
        qemu
    }

    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.qmp.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    /// Runs a command; its result. Events on the way are passed over.
    pub fn command(&mut self, name: &str, arguments: Value) -> Value {
        let command = json!({"execute": name, "arguments": arguments});
        writeln!(self.qmp.get_mut(), "{command}").unwrap();
        loop {
            let answer = self.line();
            if let Some(result) = answer.get("return") {
                return result.clone();
            }
            assert!(answer.get("event").is_some(), "{name}: {answer}");
        }
    }

    /// The next count that the guest prints.
    pub fn count(&self) -> u32 {
        self.counts.recv_timeout(PATIENCE).expect("the guest counts")
    }

    /// The last count that the guest has printed so far.
    pub fn last_count(&self) -> u32 {
        let first = self.count();
        self.counts.try_iter().last().unwrap_or(first)
    }

    /// Forgets what the guest has printed.
    pub fn forget(&self) {
        self.counts.try_iter().for_each(drop);
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
