//! Sessions of QEMU 11.1, with and without multifd, and of 10.0.

use super::failures::goes_on;
use super::qemu::{INSTALLED, Qemu, Setup};
use super::tap::{Tap, counts_on, primary_as, secondary_as, unix};
use super::{is_valid, plays_as};
use std::path::Path;

pub const SID: Setup = Setup { suite: Some("sid"), return_path: true, ..INSTALLED };
pub const TRIXIE: Setup = Setup { suite: Some("trixie"), ..INSTALLED };

/// Twenty checkpoints; a count that is in the last of them, the primary being dead.
fn twenty_checkpoints_then_dead(tap: &Tap, primary: &mut Qemu) -> u32 {
    tap.sees("vmstate-loaded", 18);
    primary.forget();
    let count = primary.last_count();
    tap.sees("vmstate-loaded", 2);
    primary.kill();
    count
}

fn between(home: &Path, setup: Setup, other: Setup) -> (Tap, Qemu, Qemu) {
    let (second, forward) = secondary_as(home, "secondary", other);
    let (listen, record) = (unix(&home.join("tap")), home.join("between.rec"));
    let tap =
        Tap::listening(&["--listen", &listen, "--forward", &unix(&forward), "--record", record.to_str().unwrap()]);
    let first = primary_as(home, &home.join("tap"), 50, setup);
    (tap, first, second)
}

/// Between the two, to the death of the primary; and what was recorded, looked at and played to another QEMU.
pub fn is_watched_and_played(setup: Setup, look: &dyn Fn(&Path)) {
    watched(setup, setup, look);
}

/// Between two different ones.
pub fn is_watched_and_played_on(setup: Setup, other: Setup) {
    watched(setup, other, &|_| {});
}

fn watched(setup: Setup, other: Setup, look: &dyn Fn(&Path)) {
    println!("{setup:?} to {other:?}");
    let home = tempfile::tempdir().unwrap();
    let (tap, mut first, mut second) = between(home.path(), setup, other);
    let count = twenty_checkpoints_then_dead(&tap, &mut first);
    counts_on(&mut second, count);
    tap.ends_well();
    drop(second);
    let recording = home.path().join("between.rec");
    is_valid(&recording, 20);
    look(&recording);
    plays_as(home.path(), &recording, count, other);
}

/// The secondary dies, and the primary counts on.
fn goes_on_without_its_secondary(setup: Setup) {
    println!("{setup:?}");
    let home = tempfile::tempdir().unwrap();
    let (tap, mut first, mut second) = between(home.path(), setup, setup);
    tap.sees("vmstate-loaded", 20);
    second.kill();
    let from = first.last_count();
    goes_on(&mut first, from);
}

/// The tap is the secondary.
pub fn is_answered_and_played(setup: Setup, look: &dyn Fn(&Path)) {
    println!("{setup:?}");
    let home = tempfile::tempdir().unwrap();
    let (listen, recording) = (home.path().join("tap"), home.path().join("answered.rec"));
    let tap = Tap::listening(&["--listen", &unix(&listen), "--record", recording.to_str().unwrap()]);
    let mut first = primary_as(home.path(), &listen, 50, setup);
    let count = twenty_checkpoints_then_dead(&tap, &mut first);
    tap.ends_well();
    is_valid(&recording, 20);
    look(&recording);
    plays_as(home.path(), &recording, count, setup);
}

#[test]
#[ignore = "fetches QEMU 11.1"]
fn quick_sid_is_watched_and_played() {
    is_watched_and_played(SID, &|_| {});
    is_watched_and_played(Setup { channels: 2, ..SID }, &|_| {});
}

#[test]
#[ignore = "fetches QEMU 11.1"]
fn quick_sid_is_answered_and_played() {
    is_answered_and_played(SID, &|_| {});
    is_answered_and_played(Setup { channels: 2, compression: "zlib", ..SID }, &|_| {});
}

#[test]
#[ignore = "fetches QEMU 11.1"]
fn sid_goes_on_without_its_secondary() {
    for channels in [0, 1, 2, 4] {
        goes_on_without_its_secondary(Setup { channels, ..SID });
    }
}

#[test]
#[ignore = "fetches QEMU 11.1"]
fn sid_with_one_channel_and_with_four() {
    is_watched_and_played(Setup { channels: 1, ..SID }, &|_| {});
    is_answered_and_played(Setup { channels: 1, ..SID }, &|_| {});
    is_answered_and_played(Setup { channels: 2, ..SID }, &|_| {});
    is_watched_and_played(Setup { channels: 4, compression: "zstd", ..SID }, &|_| {});
    is_answered_and_played(Setup { channels: 4, compression: "zstd", ..SID }, &|_| {});
}

#[test]
#[ignore = "fetches QEMU 10.0"]
fn trixie_is_watched_answered_and_played() {
    is_watched_and_played(TRIXIE, &|_| {});
    is_answered_and_played(TRIXIE, &|_| {});
    goes_on_without_its_secondary(TRIXIE);
}
