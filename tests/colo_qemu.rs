//! The tap on real COLO sessions of QEMU 7.2, 10.0 and 11.1, under software emulation.
//!
//! ```text
//! cargo test --test colo_qemu -- --ignored --test-threads=1 quick     # minutes; QEMU 7.2 and 11.1
//! cargo test --test colo_qemu -- --ignored --test-threads=1           # all, 10.0 too
//! ```
//!
//! Tests with `sid` in their name are those of QEMU 11.1, which is fetched from Debian sid and unpacked beside the build, those with `trixie`
//! of 10.0. The others need `qemu-system-x86_64` of Debian 12 (`apt-get install qemu-system-x86`) and fail without it.
//! `COLO_RECORDINGS=FOLDER` keeps the recordings there.

#[path = "colo_qemu/boot.rs"]
mod boot;
#[path = "colo_qemu/capabilities.rs"]
mod capabilities;
#[path = "colo_qemu/cuts.rs"]
mod cuts;
#[path = "colo_qemu/differences.rs"]
mod differences;
#[path = "colo_qemu/failures.rs"]
mod failures;
#[path = "colo_qemu/malformed.rs"]
mod malformed;
#[path = "colo_qemu/newer.rs"]
mod newer;
#[path = "colo_qemu/qemu.rs"]
mod qemu;
#[path = "colo_qemu/recordings.rs"]
mod recordings;
#[path = "colo_qemu/tap.rs"]
mod tap;

use qemu::Qemu;
use serde_json::Value;
use std::path::Path;
use std::process::Command;
use tap::{Tap, counts_on, primary, secondary, secondary_as, unix};

/// Ten checkpoints and more; a count that is in the last of them, the primary being dead.
fn ten_checkpoints_then_dead(tap: &Tap, primary: &mut Qemu) -> u32 {
    tap.sees("vmstate-loaded", 5);
    primary.forget();
    let count = primary.last_count();
    tap.sees("vmstate-loaded", 7);
    primary.kill();
    count
}

/// `verify` calls the recording valid, with so many checkpoints or more.
fn is_valid(recording: &Path, checkpoints: u64) {
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
    assert!(report["checkpoints"].as_u64().unwrap() >= checkpoints, "{report}");
    let dump = run("dump", false);
    let text = String::from_utf8(dump.stdout).unwrap();
    assert!(dump.status.success(), "{text}");
    assert!(text.contains("device sections by description"), "{text}");
    assert!(text.matches("vmstate-loaded").count() as u64 >= checkpoints, "{text}");
    if let Some(folder) = std::env::var_os("COLO_RECORDINGS") {
        std::fs::copy(recording, Path::new(&folder).join(recording.file_name().unwrap())).unwrap();
    }
}

/// Plays a recording to a QEMU that was never in the session; the guest counts on from the last checkpoint in it.
fn plays(home: &Path, recording: &Path, count: u32) {
    plays_as(home, recording, count, qemu::INSTALLED);
}

fn plays_as(home: &Path, recording: &Path, count: u32, setup: qemu::Setup) {
    let (mut third, to) = secondary_as(home, "third", setup);
    let mut tap = Tap::start(&["--replay", recording.to_str().unwrap(), "--to", &unix(&to)]);
    tap.says("played: ");
    counts_on(&mut third, count);
    tap.ends_well();
}

#[test]
#[ignore = "needs QEMU 7.2"]
fn quick_a_tap_between_two_qemus_sees_their_checkpoints_and_plays_them_again() {
    let home = tempfile::tempdir().unwrap();
    let (listen, recording) = (home.path().join("tap"), home.path().join("between.rec"));
    let (mut second, forward) = secondary(home.path(), "secondary");
    let tap = Tap::listening(&[
        "--listen",
        &unix(&listen),
        "--forward",
        &unix(&forward),
        "--record",
        recording.to_str().unwrap(),
    ]);
    let mut first = primary(home.path(), &listen, 100);
    let count = ten_checkpoints_then_dead(&tap, &mut first);
    counts_on(&mut second, count);
    tap.ends_well();
    is_valid(&recording, 10);
    plays(home.path(), &recording, count);
}

#[test]
#[ignore = "needs QEMU 7.2"]
fn quick_a_tap_is_the_secondary_itself_and_what_it_recorded_runs_on_another_qemu() {
    let home = tempfile::tempdir().unwrap();
    let (listen, recording) = (home.path().join("tap"), home.path().join("answered.rec"));
    let tap = Tap::listening(&["--listen", &unix(&listen), "--record", recording.to_str().unwrap()]);
    let mut first = primary(home.path(), &listen, 100);
    let count = ten_checkpoints_then_dead(&tap, &mut first);
    tap.ends_well();
    is_valid(&recording, 10);
    plays(home.path(), &recording, count);
}
