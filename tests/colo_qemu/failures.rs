//! Either side fails after three checkpoints, between two of them or in the middle of the fourth; the other runs the guest.
//!
//! Nothing here is left to chance. The time between checkpoints is an hour, and changing it makes QEMU take one at once, so the
//! session is idle for as long as a test wants. In the middle means: the tap has cut a direction at a named byte of a named
//! message, has said so, and only then the side is killed.

use super::qemu::{INSTALLED, Qemu, Setup};
use super::tap::{Tap, counts_on, primary, primary_as, secondary, secondary_as, unix};
use serde_json::json;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

pub const HOUR: u32 = 3_600_000;

/// Where the fourth checkpoint is cut: behind the message, 1,000 bytes into what follows it; or in front of an answer.
const REQUEST: &str = "checkpoint-request@4+4";
const RAM: &str = "vmstate-send@4+1004";
const STATE: &str = "vmstate-size@4+1012";
const REPLY: &str = "checkpoint-reply@4";
const RECEIVED: &str = "vmstate-received@4";
const LOADED: &str = "vmstate-loaded@4";

/// A checkpoint, now.
pub fn checkpoint(primary: &mut Qemu) {
    primary.command("migrate-set-parameters", json!({"x-checkpoint-delay": HOUR}));
}

/// Three of them; gives a count that is in each.
pub fn three_checkpoints(tap: &Tap, primary: &mut Qemu) -> [u32; 3] {
    tap.sees("checkpoint-ready", 1);
    [(); 3].map(|()| {
        let count = primary.fresh_count();
        checkpoint(primary);
        tap.sees("vmstate-loaded", 1);
        primary.runs();
        count
    })
}

/// A fourth that stops where the tap was told to.
pub fn fourth(tap: &Tap, primary: &mut Qemu) {
    checkpoint(primary);
    tap.sees_event("cut");
}

/// Tells a QEMU that the other side is lost; its guest counts on from behind `from`, without a count that is missing.
pub fn goes_on(qemu: &mut Qemu, from: u32) {
    qemu.command("x-colo-lost-heartbeat", json!({}));
    let mut last = from;
    // All that was printed since, and more.
    let until = qemu.counted() + 20;
    while qemu.taken() < until {
        last += 1;
        assert_eq!(qemu.count(), last);
    }
    qemu.runs();
}

/// Options of the tap besides its addresses.
fn tap(home: &Path, forward: Option<&Path>, cut: Option<&str>) -> (Tap, PathBuf) {
    let listen = home.join("tap");
    let (at, record) = (unix(&listen), home.join("session.rec"));
    let mut options = vec!["--listen", &at, "--record", record.to_str().unwrap()];
    let forward = forward.map(unix);
    options.extend(forward.iter().flat_map(|to| ["--forward", to.as_str()]));
    options.extend(cut.iter().flat_map(|cut| ["--cut", *cut]));
    (Tap::listening(&options), listen)
}

/// Two QEMUs with the tap between them, behind three checkpoints.
pub struct Pair {
    pub home: TempDir,
    pub first: Qemu,
    pub second: Qemu,
    pub tap: Tap,
    /// In the third checkpoint.
    pub count: u32,
}

fn pair(cut: Option<&str>) -> Pair {
    pair_as(cut, INSTALLED)
}

/// The same of any QEMU.
pub fn pair_as(cut: Option<&str>, setup: Setup) -> Pair {
    let home = tempfile::tempdir().unwrap();
    let (second, forward) = secondary_as(home.path(), "secondary", setup);
    let (tap, listen) = tap(home.path(), Some(&forward), cut);
    let mut first = primary_as(home.path(), &listen, HOUR, setup);
    let [.., count] = three_checkpoints(&tap, &mut first);
    Pair { home, first, second, tap, count }
}

#[test]
#[ignore = "needs QEMU 7.2"]
fn quick_the_primary_fails_between_checkpoints() {
    let mut pair = pair(None);
    let from = pair.second.fresh_count();
    assert!(from >= pair.count);
    pair.first.kill();
    goes_on(&mut pair.second, from);
    pair.tap.ends_well();
}

/// What of the fourth checkpoint has come is nothing to the secondary: its guest goes on from where it was stopped for it.
#[test]
#[ignore = "needs QEMU 7.2"]
fn the_primary_fails_in_the_middle_of_a_checkpoint() {
    for cut in [REQUEST, RAM, STATE] {
        println!("{cut}");
        let mut pair = pair(Some(cut));
        let from = pair.second.fresh_count();
        assert!(from >= pair.count);
        fourth(&pair.tap, &mut pair.first);
        pair.first.kill();
        goes_on(&mut pair.second, from);
        pair.tap.ends_well();
    }
}

/// The fourth checkpoint is there, whole, and the primary never hears of it: the secondary goes on from the fourth.
#[test]
#[ignore = "needs QEMU 7.2"]
fn the_primary_fails_in_front_of_the_receipt() {
    for cut in [RECEIVED, LOADED] {
        println!("{cut}");
        let mut pair = pair(Some(cut));
        let count = pair.first.fresh_count();
        fourth(&pair.tap, &mut pair.first);
        pair.first.kill();
        counts_on(&mut pair.second, count);
        pair.tap.ends_well();
    }
}

#[test]
#[ignore = "needs QEMU 7.2"]
fn quick_the_secondary_fails_between_checkpoints() {
    let mut pair = pair(None);
    let from = pair.first.fresh_count();
    pair.second.kill();
    goes_on(&mut pair.first, from);
    pair.tap.ends_well();
}

#[test]
#[ignore = "needs QEMU 7.2"]
fn the_secondary_fails_in_the_middle_of_a_checkpoint() {
    for cut in [REQUEST, REPLY, RAM, STATE, RECEIVED, LOADED] {
        println!("{cut}");
        let mut pair = pair(Some(cut));
        let from = pair.first.fresh_count();
        fourth(&pair.tap, &mut pair.first);
        pair.second.kill();
        goes_on(&mut pair.first, from);
        pair.tap.ends_well();
    }
}

/// The tap in the place of the secondary is killed.
#[test]
#[ignore = "needs QEMU 7.2"]
fn ours_fails_as_the_secondary() {
    for cut in [None, Some(REPLY), Some(RAM), Some(RECEIVED), Some(LOADED)] {
        println!("{cut:?}");
        let home = tempfile::tempdir().unwrap();
        let (mut tap, listen) = tap(home.path(), None, cut);
        let mut first = primary(home.path(), &listen, HOUR);
        three_checkpoints(&tap, &mut first);
        let from = first.fresh_count();
        if cut.is_some() {
            fourth(&tap, &mut first);
        }
        tap.kill();
        goes_on(&mut first, from);
    }
}

/// The primary is killed; the tap in the place of its secondary has all of three checkpoints, and another QEMU runs the third.
/// What it played is then the session in which the tap, as the primary, fails too; and its secondary.
#[test]
#[ignore = "needs QEMU 7.2"]
fn the_primary_of_ours_fails_and_then_ours_as_the_primary() {
    for cut in [None, Some(RECEIVED)] {
        println!("{cut:?}");
        let home = tempfile::tempdir().unwrap();
        let (ours, listen) = tap(home.path(), None, cut);
        let mut first = primary(home.path(), &listen, HOUR);
        let counts = three_checkpoints(&ours, &mut first);
        if cut.is_some() {
            fourth(&ours, &mut first);
        }
        first.kill();
        ours.ends_well();
        ours_fails_as_the_primary(home.path(), counts);
        its_secondary_fails(home.path());
    }
}

fn play(home: &Path, to: &Path, cut: Option<&str>) -> Tap {
    let (file, to) = (home.join("session.rec"), unix(to));
    let mut options = vec!["--replay", file.to_str().unwrap(), "--to", &to];
    options.extend(cut.iter().flat_map(|cut| ["--cut", *cut]));
    Tap::start(&options)
}

fn ours_fails_as_the_primary(home: &Path, [_, second, third]: [u32; 3]) {
    let (mut idle, to) = secondary(home, "idle");
    let mut tap = play(home, &to, None);
    assert!(tap.says("played: ").contains("behind checkpoint 3"));
    tap.kill();
    counts_on(&mut idle, third);
    for (at, cut) in ["checkpoint-request@3+4", "vmstate-send@3+1004", "vmstate-size@3+1012"].into_iter().enumerate() {
        println!("as the primary: {cut}");
        let (mut middle, to) = secondary(home, &format!("middle{at}"));
        let mut tap = play(home, &to, Some(cut));
        tap.sees_event("cut");
        tap.kill();
        // From the second, the third being in pieces.
        counts_on(&mut middle, second);
    }
}

fn its_secondary_fails(home: &Path) {
    let (mut idle, to) = secondary(home, "third");
    let mut tap = play(home, &to, None);
    tap.says("played: ");
    idle.kill();
    tap.ends_well();
    let (mut middle, forward) = secondary(home, "fourth");
    let listen = unix(&home.join("between"));
    let between = Tap::listening(&["--listen", &listen, "--forward", &unix(&forward), "--cut", "vmstate-received@3"]);
    let tap = play(home, &home.join("between"), None);
    between.sees_event("cut");
    middle.kill();
    let (code, said) = tap.ends();
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("the secondary went away") && said.contains("vmstate-received is due"), "{said}");
}
