//! The tap on real COLO sessions of QEMU 7.2, under software emulation.
//!
//! ```text
//! cargo test --test colo_qemu -- --ignored --test-threads=1
//! ```
//!
//! Needs `qemu-system-x86_64` of Debian 12 (`apt-get install qemu-system-x86`) and fails without it. `COLO_RECORDINGS=FOLDER` keeps
//! the recordings there.

#[path = "colo_qemu/boot.rs"]
mod boot;
#[path = "colo_qemu/qemu.rs"]
mod qemu;

use qemu::{PATIENCE, Qemu};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

/// A running tap, killed when dropped.
struct Tap {
    child: Child,
    stderr: BufReader<ChildStderr>,
    events: Receiver<Value>,
}

impl Tap {
    fn start(arguments: &[&str]) -> Tap {
        let mut child = Command::new(env!("CARGO_BIN_EXE_xen-replicate"))
            .args(["tap", "--json"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, events) = channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(serde_json::from_str(&line).unwrap()).is_err() {
                    break;
                }
            }
        });
        Tap { child, stderr, events }
    }

    /// Waits for a line of its standard error that begins like this.
    fn says(&mut self, beginning: &str) -> String {
        let mut said = String::new();
        loop {
            let mut line = String::new();
            assert!(self.stderr.read_line(&mut line).unwrap() > 0, "no {beginning:?}, but {said}");
            if line.starts_with(beginning) {
                return line;
            }
            said += &line;
        }
    }

    /// Waits for so many messages of a name; none of the events on the way may be trouble.
    fn sees(&self, name: &str, times: usize) {
        let mut seen = 0;
        while seen < times {
            let event = self.events.recv_timeout(PATIENCE).expect("the session goes on");
            assert_ne!(event["event"], "trouble", "{event}");
            seen += usize::from(event["name"] == name);
        }
    }

    fn ends_well(mut self) {
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}");
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn unix(path: &Path) -> String {
    format!("unix:{}", path.display())
}

/// A primary that connects to `to` for its migration.
fn primary(home: &Path, to: &Path) -> Qemu {
    let mut primary = Qemu::start(home, "primary", false);
    primary.command("migrate-set-parameters", json!({"x-checkpoint-delay": 100}));
    primary.count();
    primary.command("migrate", json!({"uri": unix(to)}));
    primary
}

fn secondary(home: &Path, name: &str) -> (Qemu, PathBuf) {
    let path = home.join(format!("{name}.in"));
    let mut secondary = Qemu::start(home, name, true);
    secondary.command("migrate-incoming", json!({"uri": unix(&path)}));
    (secondary, path)
}

/// Ten checkpoints and more; a count that is in the last of them, the primary being dead.
fn ten_checkpoints_then_dead(tap: &Tap, primary: &mut Qemu) -> u32 {
    tap.sees("vmstate-loaded", 5);
    primary.forget();
    let count = primary.last_count();
    tap.sees("vmstate-loaded", 7);
    primary.kill();
    count
}

/// Tells a secondary that its primary is dead; its guest then counts on, from behind `count`.
fn counts_on(secondary: &mut Qemu, count: u32) {
    secondary.command("x-colo-lost-heartbeat", json!({}));
    secondary.forget();
    // A line that was half printed when the guest was replaced may be missing, or wrong.
    secondary.count();
    let first = secondary.count();
    assert!(first >= count, "{first:#x} after {count:#x}");
    for next in 1..=5 {
        assert_eq!(secondary.count(), first + next);
    }
    assert_eq!(secondary.command("query-status", json!({}))["running"], true);
}

/// `verify` calls the recording valid, with ten checkpoints or more.
fn is_valid(recording: &Path) {
    let run = |command: &str, json: bool| {
        let mut run = Command::new(env!("CARGO_BIN_EXE_xen-replicate"));
        run.arg(command).arg(recording);
        if json {
            run.arg("--json");
        }
        run.output().unwrap()
    };
    let verdict = run("verify", true);
    let report: Value = serde_json::from_slice(&verdict.stdout).unwrap();
    assert!(verdict.status.success() && report["valid"] == true, "{report}");
    assert!(report["checkpoints"].as_u64().unwrap() >= 10, "{report}");
    let dump = run("dump", false);
    let text = String::from_utf8(dump.stdout).unwrap();
    assert!(dump.status.success(), "{text}");
    assert!(text.contains("device sections by description"), "{text}");
    assert!(text.matches("vmstate-loaded").count() >= 10, "{text}");
    if let Some(folder) = std::env::var_os("COLO_RECORDINGS") {
        std::fs::copy(recording, Path::new(&folder).join(recording.file_name().unwrap())).unwrap();
    }
}

/// Plays a recording to a QEMU that was never in the session; the guest counts on from the last checkpoint in it.
fn plays(home: &Path, recording: &Path, count: u32) {
    let (mut third, to) = secondary(home, "third");
    let mut tap = Tap::start(&["--replay", recording.to_str().unwrap(), "--to", &unix(&to)]);
    tap.says("played: ");
    counts_on(&mut third, count);
    tap.ends_well();
}

#[test]
#[ignore = "needs QEMU 7.2"]
fn a_tap_between_two_qemus_sees_their_checkpoints_and_plays_them_again() {
    let home = tempfile::tempdir().unwrap();
    let (listen, recording) = (home.path().join("tap"), home.path().join("between.rec"));
    let (mut second, forward) = secondary(home.path(), "secondary");
    let mut tap = Tap::start(&[
        "--listen",
        &unix(&listen),
        "--forward",
        &unix(&forward),
        "--record",
        recording.to_str().unwrap(),
    ]);
    tap.says("listening on");
    let mut first = primary(home.path(), &listen);
    let count = ten_checkpoints_then_dead(&tap, &mut first);
    counts_on(&mut second, count);
    tap.ends_well();
    is_valid(&recording);
    plays(home.path(), &recording, count);
}

#[test]
#[ignore = "needs QEMU 7.2"]
fn a_tap_is_the_secondary_itself_and_what_it_recorded_runs_on_another_qemu() {
    let home = tempfile::tempdir().unwrap();
    let (listen, recording) = (home.path().join("tap"), home.path().join("answered.rec"));
    let mut tap = Tap::start(&["--listen", &unix(&listen), "--record", recording.to_str().unwrap()]);
    tap.says("listening on");
    let mut first = primary(home.path(), &listen);
    let count = ten_checkpoints_then_dead(&tap, &mut first);
    tap.ends_well();
    is_valid(&recording);
    plays(home.path(), &recording, count);
}
