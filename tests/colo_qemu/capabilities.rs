//! Capabilities that change what is on the wire, each between two QEMUs, answered by the tap, and played again.

use super::newer::{SID, TRIXIE, is_answered_and_played, is_watched_and_played};
use super::qemu::{INSTALLED, Setup};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

const TWO: Setup = Setup { channels: 2, ..SID };

/// A session of each kind; gives what `test` finds in the recordings.
fn in_each_role(setup: Setup, test: impl Fn(&Path)) {
    let test = &test as &dyn Fn(&Path);
    is_watched_and_played(setup, test);
    is_answered_and_played(setup, test);
}

fn stats(recording: &Path) -> Value {
    let out = Command::new(env!("CARGO_BIN_EXE_xen-replicate")).args(["stats", "--json"]).arg(recording).output();
    serde_json::from_slice(&out.unwrap().stdout).unwrap()
}

fn dump(recording: &Path) -> String {
    let out = Command::new(env!("CARGO_BIN_EXE_xen-replicate")).arg("dump").arg(recording).output().unwrap();
    String::from_utf8(out.stdout).unwrap()
}

/// multifd and xbzrle exclude each other.
#[test]
#[ignore = "fetches QEMU 11.1 and 10.0"]
fn pages_as_differences_are_followed_in_every_release() {
    for setup in [INSTALLED, TRIXIE, SID] {
        in_each_role(Setup { more: &["xbzrle"], ..setup }, |recording| {
            let stats = stats(recording);
            assert!(stats["connections"][0]["xbzrle"].as_u64().unwrap() > 5, "{stats}");
        });
    }
}

#[test]
#[ignore = "fetches QEMU 11.1"]
fn quick_pages_of_zeros_of_sid_on_the_main_connection() {
    in_each_role(Setup { zero_pages: Some("legacy"), ..TWO }, |recording| {
        let stats = stats(recording);
        let of = |at: usize, kind: &str| stats["connections"][at][kind].as_u64().unwrap();
        assert!(of(0, "zero") > 1000 && of(0, "full") == 0, "{stats}");
        assert_eq!(of(1, "zero") + of(2, "zero"), 0, "{stats}");
    });
}

#[test]
#[ignore = "fetches QEMU 11.1"]
fn zeros_of_sid_sent_as_any_page_and_a_uuid_on_the_wire() {
    in_each_role(Setup { zero_pages: Some("none"), more: &["validate-uuid"], ..TWO }, |recording| {
        let stats = stats(recording);
        let sum = |kind: &str| (0..3).map(|at| stats["connections"][at][kind].as_u64().unwrap()).sum::<u64>();
        assert!(sum("full") > 4000 && sum("zero") == 0, "{stats}");
    });
}

/// A machine type of before 11.1 has its primary wait for one SWITCHOVER_ACK. Which capabilities there are, is not on the wire.
#[test]
#[ignore = "fetches QEMU 11.1"]
fn quick_a_primary_of_sid_that_waits_for_an_acknowledgement_gets_it() {
    in_each_role(Setup { machine: "pc-i440fx-10.0", more: &["switchover-ack"], ..SID }, |recording| {
        assert_eq!(dump(recording).matches("SWITCHOVER_ACK").count(), 1);
    });
    in_each_role(Setup { machine: "pc-i440fx-10.0", more: &["switchover-ack"], ..TWO }, |recording| {
        assert_eq!(dump(recording).matches("SWITCHOVER_ACK").count(), 1);
    });
}

/// With its own machine type it waits for none, and fails over one.
#[test]
#[ignore = "fetches QEMU 11.1"]
fn a_primary_of_sid_that_waits_for_no_acknowledgement_gets_none() {
    in_each_role(Setup { more: &["switchover-ack"], ..SID }, |recording| {
        assert_eq!(dump(recording).matches("SWITCHOVER_ACK").count(), 0);
    });
}
