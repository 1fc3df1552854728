//! QEMU 11.1 with channels: either side fails at twelve named places of the fourth checkpoint, the tap being between the two, the secondary
//! or the primary; the other runs the guest.

use super::failures::{HOUR, checkpoint, fourth, goes_on, pair_as, tap, three_checkpoints};
use super::newer::SID;
use super::plays_as;
use super::qemu::{Qemu, Setup};
use super::tap::{Tap, counts_on, primary_as, secondary_as, unix};
use std::path::Path;
use tempfile::TempDir;

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

/// Where, who sends what is cut there, and what follows from it.
#[derive(Debug, Clone)]
struct Place {
    cut: String,
    answer: bool,
    becomes: Fourth,
}

fn places(channels: u8) -> [Place; 12] {
    let of = |cut: &str, answer, becomes| Place { cut: cut.into(), answer, becomes };
    let last = channels - 1;
    [
        of("checkpoint-request@4", false, Fourth::Dropped),
        of("checkpoint-request@4+4", false, Fourth::Dropped),
        of("checkpoint-reply@4", true, Fourth::Dropped),
        of("vmstate-send@4", false, Fourth::Dropped),
        // In the RAM section, which names no page here.
        of("vmstate-send@4+10", false, Fourth::Dropped),
        of("vmstate-size@4", false, Fourth::Dropped),
        of("vmstate-size@4+1012", false, Fourth::Dropped),
        of("vmstate-received@4", true, Fourth::Loaded),
        of("vmstate-loaded@4", true, Fourth::Loaded),
        // In front of what the first channel has for the first flush mark of the fourth checkpoint, inside of a header of the last channel, and
        // in front of what the first one has for the second mark.
        of("channel-0-sync@7", false, Fourth::Owed),
        of(&format!("channel-{last}-sync@7+700"), false, Fourth::Owed),
        of("channel-0-sync@8", false, Fourth::Owed),
    ]
}

const fn with(channels: u8) -> Setup {
    Setup { channels, ..SID }
}

fn the_primary_fails(setup: Setup, places: &[Place]) {
    for Place { cut, becomes, .. } in places {
        println!("the primary, {} channels, {cut}: {becomes:?}", setup.channels);
        let mut pair = pair_as(Some(cut), setup);
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
            plays_as(pair.home.path(), &pair.home.path().join("session.rec"), pair.count, setup);
        }
    }
}

fn the_secondary_fails(setup: Setup, places: &[Place]) {
    for Place { cut, .. } in places {
        println!("the secondary, {} channels, {cut}", setup.channels);
        let mut pair = pair_as(Some(cut), setup);
        let from = pair.first.fresh_count();
        fourth(&pair.tap, &mut pair.first);
        pair.second.kill();
        goes_on(&mut pair.first, from);
        pair.tap.ends_well();
    }
}

/// A primary behind three checkpoints, and in the middle of its fourth, whose secondary is the tap; a count that is in the third.
fn answered(setup: Setup, cut: &str) -> (TempDir, Qemu, Tap, u32) {
    let home = tempfile::tempdir().unwrap();
    let (tap, listen) = tap(home.path(), None, Some(cut));
    let mut first = primary_as(home.path(), &listen, HOUR, setup);
    let [.., count] = three_checkpoints(&tap, &mut first);
    (home, first, tap, count)
}

fn one_of_ours_as_the_secondary_fails(setup: Setup, places: &[Place]) {
    for Place { cut, .. } in places {
        println!("ours as the secondary, {} channels, {cut}", setup.channels);
        let (_home, mut first, mut tap, _) = answered(setup, cut);
        let from = first.fresh_count();
        fourth(&tap, &mut first);
        tap.kill();
        goes_on(&mut first, from);
        println!("its primary");
        let (home, mut first, tap, count) = answered(setup, cut);
        fourth(&tap, &mut first);
        first.kill();
        tap.ends_well();
        plays_as(home.path(), &home.path().join("session.rec"), count, setup);
    }
}

/// A recording of four checkpoints and more, and counts that are in the third and in the fourth.
fn recorded(home: &Path, setup: Setup) -> [u32; 2] {
    let (tap, listen) = tap(home, None, None);
    let mut first = primary_as(home, &listen, HOUR, setup);
    let [.., third] = three_checkpoints(&tap, &mut first);
    let fourth = first.fresh_count();
    tap_checkpoint(&tap, &mut first);
    tap_checkpoint(&tap, &mut first);
    first.kill();
    tap.ends_well();
    [third, fourth]
}

fn tap_checkpoint(tap: &Tap, primary: &mut Qemu) {
    checkpoint(primary);
    tap.sees("vmstate-loaded", 1);
    primary.runs();
}

/// Ours plays the recording up to the place, where what an answer would be is cut by another tap in between.
fn played(home: &Path, name: &str, setup: Setup, place: &Place) -> (Qemu, Tap, Option<Tap>) {
    let (second, to) = secondary_as(home, name, setup);
    let file = home.join("session.rec");
    let file = file.to_str().unwrap();
    if !place.answer {
        let ours = Tap::start(&["--replay", file, "--to", &unix(&to), "--cut", &place.cut]);
        ours.sees_event("cut");
        return (second, ours, None);
    }
    let listen = home.join(format!("{name}.tap"));
    let between = Tap::listening(&["--listen", &unix(&listen), "--forward", &unix(&to), "--cut", &place.cut]);
    let ours = Tap::start(&["--replay", file, "--to", &unix(&listen)]);
    between.sees_event("cut");
    (second, ours, Some(between))
}

fn one_of_ours_as_the_primary_fails(setup: Setup, places: &[Place]) {
    let home = tempfile::tempdir().unwrap();
    let [third, fourth] = recorded(home.path(), setup);
    for (at, place) in places.iter().enumerate() {
        println!("ours as the primary, {} channels, {}: {:?}", setup.channels, place.cut, place.becomes);
        let (mut second, mut ours, between) = played(home.path(), &format!("second{at}"), setup, place);
        ours.kill();
        match place.becomes {
            Fourth::Dropped => counts_on(&mut second, third),
            Fourth::Loaded => counts_on(&mut second, fourth),
            Fourth::Owed => second.kill(),
        }
        between.into_iter().for_each(Tap::ends_well);
        println!("its secondary");
        let (mut second, ours, between) = played(home.path(), &format!("another{at}"), setup, place);
        second.kill();
        // Where the cut was its own it knows of no answer that is due.
        let (code, said) = ours.ends();
        assert!(matches!(code, Some(0 | 2)) && (code == Some(2) || !place.answer), "{said}");
        assert!(code == Some(0) || said.contains("the secondary went away"), "{said}");
        between.into_iter().for_each(Tap::ends_well);
    }
}

/// One of each kind.
fn some() -> Vec<Place> {
    let places = places(2);
    [2, 7, 10].map(|at| places[at].clone()).to_vec()
}

#[test]
#[ignore = "fetches QEMU 11.1"]
fn quick_a_primary_of_sid_fails_at_a_place_of_each_kind() {
    the_primary_fails(with(2), &some());
}

#[test]
#[ignore = "fetches QEMU 11.1"]
fn quick_a_secondary_of_sid_fails_at_a_place_of_each_kind() {
    the_secondary_fails(with(2), &some());
}

#[test]
#[ignore = "fetches QEMU 11.1"]
fn quick_ours_fails_at_a_place_of_each_kind() {
    one_of_ours_as_the_secondary_fails(with(2), &some());
    one_of_ours_as_the_primary_fails(with(2), &some());
}

#[test]
#[ignore = "fetches QEMU 11.1"]
fn a_primary_of_sid_fails_at_twelve_places() {
    [1, 2, 4].into_iter().for_each(|channels| the_primary_fails(with(channels), &places(channels)));
}

#[test]
#[ignore = "fetches QEMU 11.1"]
fn a_secondary_of_sid_fails_at_twelve_places() {
    [1, 2, 4].into_iter().for_each(|channels| the_secondary_fails(with(channels), &places(channels)));
}

#[test]
#[ignore = "fetches QEMU 11.1"]
fn ours_and_its_primary_of_sid_fail_at_twelve_places() {
    [1, 2, 4].into_iter().for_each(|channels| one_of_ours_as_the_secondary_fails(with(channels), &places(channels)));
}

#[test]
#[ignore = "fetches QEMU 11.1"]
fn ours_and_its_secondary_of_sid_fail_at_twelve_places() {
    [1, 2, 4].into_iter().for_each(|channels| one_of_ours_as_the_primary_fails(with(channels), &places(channels)));
}

/// Twenty checkpoints, idle, either side: the tap as the secondary, and as the primary with what that has recorded.
#[test]
#[ignore = "fetches QEMU 11.1"]
fn ours_fails_behind_twenty_checkpoints_of_sid() {
    for channels in [1, 2, 4] {
        println!("{channels} channels");
        let setup = with(channels);
        let home = tempfile::tempdir().unwrap();
        let (mut ours, listen) = tap(home.path(), None, None);
        let mut first = primary_as(home.path(), &listen, 50, setup);
        ours.sees("vmstate-loaded", 20);
        let count = first.last_count();
        ours.sees("vmstate-loaded", 2);
        ours.kill();
        let from = first.last_count();
        goes_on(&mut first, from);
        let file = home.path().join("session.rec");
        super::is_valid(&file, 20);
        let replay = |name: &str| {
            let (second, to) = secondary_as(home.path(), name, setup);
            let mut ours = Tap::start(&["--replay", file.to_str().unwrap(), "--to", &unix(&to)]);
            ours.says("played: ");
            (second, ours)
        };
        let (mut second, mut ours) = replay("second");
        ours.kill();
        counts_on(&mut second, count);
        let (mut second, ours) = replay("third");
        second.kill();
        ours.ends_well();
    }
}
