//! Two sides that do not fit: the tap between says so while both are there; and releases that fit across.

use super::newer::{SID, TRIXIE, is_watched_and_played_on};
use super::qemu::{INSTALLED, Qemu, Setup};
use super::tap::{Tap, primary_as, secondary_as, unix};
use serde_json::{Value, json};

/// A machine type that all three know.
const COMMON: &str = "pc-i440fx-7.2";
const OLD_SID: Setup = Setup { machine: COMMON, ..SID };
const OLD_TRIXIE: Setup = Setup { machine: COMMON, ..TRIXIE };
const TWO: Setup = Setup { channels: 2, ..SID };

struct Pair {
    first: Qemu,
    second: Qemu,
    tap: Tap,
    _home: tempfile::TempDir,
}

/// A session between the two, up to the first that the tap says of it.
fn told(one: Setup, other: Setup, expected: &str) -> Pair {
    println!("{one:?} to {other:?}");
    let home = tempfile::tempdir().unwrap();
    let (second, forward) = secondary_as(home.path(), "secondary", other);
    let listen = home.path().join("tap");
    let tap = Tap::listening(&["--listen", &unix(&listen), "--forward", &unix(&forward), "--patience", "2"]);
    let first = primary_as(home.path(), &listen, 100, one);
    let trouble = tap.sees_trouble();
    assert!(trouble["message"].as_str().unwrap().contains(expected), "{expected}: {trouble}");
    Pair { first, second, tap, _home: home }
}

fn refused(one: Setup, other: Setup, expected: &str) {
    let Pair { mut first, tap, .. } = told(one, other, expected);
    // Nothing is lost: the primary keeps its guest.
    first.fresh_count();
    first.runs();
    first.kill();
    let (code, said) = tap.ends();
    assert_eq!(code, Some(1), "{said}");
}

fn status(qemu: &mut Qemu, of: &str) -> Value {
    qemu.command(of, json!({}))["status"].take()
}

fn two_running_guests(other: Setup) {
    let Pair { mut first, mut second, tap, .. } =
        told(Setup { machine: other.machine, ..SID }, other, "two running guests");
    // The primary is in COLO, where its guest goes on once it is told that its secondary is lost; the other one runs already.
    second.fresh_count();
    second.runs();
    assert_eq!(status(&mut second, "query-migrate"), "completed");
    assert_eq!(status(&mut first, "query-migrate"), "colo");
    first.kill();
    let (code, said) = tap.ends();
    assert_eq!(code, Some(1), "{said}");
}

#[test]
#[ignore = "fetches QEMU 11.1"]
fn quick_a_primary_of_sid_and_an_older_secondary_are_two_running_guests() {
    two_running_guests(Setup { machine: COMMON, ..INSTALLED });
}

#[test]
#[ignore = "fetches QEMU 11.1 and 10.0"]
fn a_primary_of_sid_in_colo_alone_is_two_running_guests() {
    two_running_guests(OLD_TRIXIE);
    two_running_guests(Setup { colo: false, ..SID });
    two_running_guests(Setup { colo: false, return_path: false, ..SID });
}

#[test]
#[ignore = "fetches QEMU 11.1 and 10.0"]
fn an_older_primary_is_refused_by_sid() {
    for one in [Setup { machine: COMMON, ..INSTALLED }, OLD_TRIXIE] {
        refused(one, OLD_SID, "the secondary ended before it had the first image");
    }
    let asks = Setup { machine: COMMON, return_path: true, ..INSTALLED };
    refused(asks, OLD_SID, "SHUT 0x1: the secondary could not load the first image");
}

#[test]
#[ignore = "fetches QEMU 11.1"]
fn quick_machine_types_and_capabilities_that_differ_are_told() {
    refused(OLD_SID, SID, "the secondary ended before it had the first image (machine \"pc-i440fx-7.2\"");
    refused(Setup { more: &["x-ignore-shared"], ..SID }, SID, "the secondary ended before it had the first image");
    // It waits for channels that do not come.
    refused(SID, TWO, "PING was not answered within 2s: the secondary does not read");
}

#[test]
#[ignore = "fetches QEMU 11.1"]
fn channels_that_differ_are_told() {
    refused(TWO, SID, "the secondary closed channel");
    refused(Setup { channels: 4, ..SID }, TWO, "the secondary closed channel");
    refused(Setup { compression: "zlib", ..TWO }, TWO, "the secondary closed channel");
    refused(TWO, Setup { compression: "zstd", ..TWO }, "the secondary closed channel");
}

/// The primary has sent all, and its guest is stopped, when it shows that its secondary waits for two channels more.
#[test]
#[ignore = "fetches QEMU 11.1"]
fn a_secondary_of_sid_that_waits_for_more_channels_is_told() {
    let Pair { mut first, mut second, tap, .. } =
        told(TWO, Setup { channels: 4, ..SID }, "It waits for more connections than there are (2 channels");
    first.kill();
    second.kill();
    assert_eq!(tap.ends().0, Some(1));
}

#[test]
#[ignore = "fetches QEMU 11.1"]
fn an_acknowledgement_that_does_not_come_is_told() {
    let one = Setup { machine: "pc-i440fx-10.0", more: &["switchover-ack"], ..SID };
    refused(
        one,
        Setup { more: &[], ..one },
        "after 0 SWITCHOVER_ACKs. With capability switchover-ack it waits for one",
    );
    let one = Setup { machine: "pc-i440fx-10.0", more: &["switchover-ack"], ..TWO };
    refused(
        one,
        Setup { more: &[], ..one },
        "after 0 SWITCHOVER_ACKs. With capability switchover-ack it waits for one",
    );
}

fn ordinary(one: Setup, other: Setup, expected: &str) {
    let Pair { mut first, mut second, tap, .. } = told(one, other, expected);
    assert_eq!(status(&mut first, "query-status"), "postmigrate");
    second.kill();
    first.kill();
    let (code, said) = tap.ends();
    assert_eq!(code, Some(1), "{said}");
}

#[test]
#[ignore = "fetches QEMU 11.1"]
fn a_primary_that_is_not_in_colo_is_told() {
    let none = Setup { colo: false, ..INSTALLED };
    ordinary(none, INSTALLED, "the primary is not in COLO");
    ordinary(none, none, "the primary is not in COLO");
    // Before or after checkpoint-ready.
    ordinary(Setup { colo: false, ..SID }, SID, "it is not in COLO");
}

/// A return path, which COLO of before 11.1 does not close.
#[test]
#[ignore = "fetches QEMU 10.0"]
fn a_return_path_of_an_older_release_is_told() {
    for setup in [INSTALLED, TRIXIE] {
        let setup = Setup { return_path: true, ..setup };
        refused(setup, setup, "the secondary sends COLO's messages without SHUT");
    }
}

/// ENABLE_COLO sets a secondary of before 11.1 to COLO; and 7.2 and 10.0 understand each other.
#[test]
#[ignore = "fetches QEMU 10.0"]
fn older_releases_fit_across() {
    is_watched_and_played_on(INSTALLED, Setup { colo: false, ..INSTALLED });
    let old = Setup { machine: COMMON, ..INSTALLED };
    is_watched_and_played_on(old, OLD_TRIXIE);
    is_watched_and_played_on(OLD_TRIXIE, old);
}
