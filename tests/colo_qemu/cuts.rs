//! QEMU 11.1 with two channels: either side fails at twelve named places of the fourth checkpoint; the other runs the guest.

use super::failures::{fourth, goes_on, pair_as};
use super::newer::SID;
use super::plays_as;
use super::qemu::Setup;
use super::tap::counts_on;

/// What becomes of the fourth checkpoint when the primary is killed there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fourth {
    /// It has not come: the secondary's guest goes on from where it is, or was stopped.
    Dropped,
    /// The secondary has it, whole.
    Loaded,
    /// A channel owes pages that the main connection has asked for.
    Owed,
}

const PLACES: [(&str, Fourth); 12] = [
    ("checkpoint-request@4", Fourth::Dropped),
    ("checkpoint-request@4+4", Fourth::Dropped),
    ("checkpoint-reply@4", Fourth::Dropped),
    ("vmstate-send@4", Fourth::Dropped),
    // In the RAM section, which names no page here.
    ("vmstate-send@4+10", Fourth::Dropped),
    ("vmstate-size@4", Fourth::Dropped),
    ("vmstate-size@4+1012", Fourth::Dropped),
    ("vmstate-received@4", Fourth::Loaded),
    ("vmstate-loaded@4", Fourth::Loaded),
    // In front of what channel 0 has for the first flush mark of the fourth checkpoint, inside of channel 1's header, and in front of
    // what channel 0 has for the second mark.
    ("channel-0-sync@7", Fourth::Owed),
    ("channel-1-sync@7+700", Fourth::Owed),
    ("channel-0-sync@8", Fourth::Owed),
];

const TWO: Setup = Setup { channels: 2, ..SID };

fn the_primary_fails(places: &[(&str, Fourth)]) {
    for (place, becomes) in places {
        println!("{place}: {becomes:?}");
        let mut pair = pair_as(Some(place), TWO);
        let in_fourth = pair.first.fresh_count();
        let from = pair.second.fresh_count();
        assert!(from >= pair.count);
        fourth(&pair.tap, &mut pair.first);
        pair.first.kill();
        match becomes {
            Fourth::Dropped => goes_on(&mut pair.second, from),
            Fourth::Loaded => counts_on(&mut pair.second, in_fourth),
            // That QEMU's secondary may wait for the channel for good (docs/colo.md); what the tap has recorded runs on another.
            Fourth::Owed => pair.second.kill(),
        }
        pair.tap.ends_well();
        if *becomes == Fourth::Owed {
            plays_as(pair.home.path(), &pair.home.path().join("session.rec"), pair.count, TWO);
        }
    }
}

fn the_secondary_fails(places: &[(&str, Fourth)]) {
    for (place, _) in places {
        println!("{place}");
        let mut pair = pair_as(Some(place), TWO);
        let from = pair.first.fresh_count();
        fourth(&pair.tap, &mut pair.first);
        pair.second.kill();
        goes_on(&mut pair.first, from);
        pair.tap.ends_well();
    }
}

/// One of each kind.
fn some() -> Vec<(&'static str, Fourth)> {
    [2, 7, 10].map(|at| PLACES[at]).to_vec()
}

#[test]
#[ignore = "fetches QEMU 11.1"]
fn quick_a_primary_of_sid_fails_at_a_place_of_each_kind() {
    the_primary_fails(&some());
}

#[test]
#[ignore = "fetches QEMU 11.1"]
fn quick_a_secondary_of_sid_fails_at_a_place_of_each_kind() {
    the_secondary_fails(&some());
}

#[test]
#[ignore = "fetches QEMU 11.1"]
fn a_primary_of_sid_fails_at_twelve_places() {
    the_primary_fails(&PLACES);
}

#[test]
#[ignore = "fetches QEMU 11.1"]
fn a_secondary_of_sid_fails_at_twelve_places() {
    the_secondary_fails(&PLACES);
}
