//! The recordings of `fixtures/colo`, played to a fresh QEMU of their release: the recorded answers come, and the guest counts on.

use super::newer::{SID, TRIXIE};
use super::qemu::{INSTALLED, Qemu, Setup};
use super::tap::{Tap, counts_on, unix};
use serde_json::json;
use std::path::Path;

/// As the guest of `qemu111-nic` was started.
const NIC: &[&str] = &["-netdev", "user,id=net0", "-device", "e1000,netdev=net0"];

fn plays(name: &str, setup: Setup, devices: &[&str]) {
    println!("{name}");
    let home = tempfile::tempdir().unwrap();
    let recording = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/colo/{name}.rec.xz"));
    let options = [&["-incoming", "defer"], devices].concat();
    let mut fresh = Qemu::start_with(home.path(), "fresh", &options, setup);
    let to = unix(&home.path().join("fresh.in"));
    fresh.command("migrate-incoming", json!({"uri": to}));
    let mut tap = Tap::start(&["--replay", recording.to_str().unwrap(), "--to", &to]);
    // An answer that is not the recorded one ends the replay before this.
    tap.says("played: ");
    counts_on(&mut fresh, 1);
    tap.ends_well();
}

#[test]
#[ignore = "fetches QEMU 11.1"]
fn quick_recordings_of_sid_are_played() {
    plays("qemu111-plain", SID, &[]);
    plays("qemu111-between", SID, &[]);
    plays("qemu111-nic", SID, NIC);
    plays("qemu111-mf2", Setup { channels: 2, ..SID }, &[]);
    plays("qemu111-mf2-zlib", Setup { channels: 2, compression: "zlib", ..SID }, &[]);
}

#[test]
#[ignore = "needs QEMU 7.2"]
fn quick_recordings_of_the_installed_qemu_are_played() {
    plays("qemu72-between", INSTALLED, &[]);
    plays("qemu72-answered", INSTALLED, &[]);
}

#[test]
#[ignore = "fetches QEMU 10.0"]
fn recordings_of_trixie_are_played() {
    plays("qemu100-plain", TRIXIE, &[]);
    plays("qemu100-between", TRIXIE, &[]);
}
