//! SIGSTOP of either side, and SIGCONT when the other has gone on without it: it must not come back active.

use crate::cases::{self, Dice, Outcome};
use crate::side::{PATIENCE, Side, until};
use crate::world::{PRIMARY, SECONDARY, Wanted, World};
use rustix::process::Signal;
use std::time::Instant;
use xen_replicate::control::Request;
use xen_replicate::control::status::Guest;
use xen_replicate::replicate::failpoint::{Side as At, Step};

/// A step, and how often it is passed before.
#[derive(Debug, Clone, Copy)]
struct Case {
    step: Step,
    passed: u64,
}

impl Case {
    fn failpoint(self) -> String {
        format!("--failpoint={}@{}=stop", self.step, self.passed + 1)
    }
}

fn steps(side: At, passed: fn(Step) -> &'static [u64]) -> Vec<Case> {
    let mine = Step::ALL.iter().filter(|row| row.2 == side).map(|row| row.0);
    mine.flat_map(|step| passed(step).iter().map(move |&passed| Case { step, passed })).collect()
}

fn wait_until_stopped(side: &Side) {
    assert!(until(PATIENCE, || side.is_stopped().then_some(())).is_some(), "its failpoint was not passed");
}

/// The primary is continued after the secondary has gone active in its place: it ends without a word to anybody.
fn comes_back_late(world: World, mut primary: Side, mut secondary: Side) -> Outcome {
    secondary.wait_for_active();
    world.goes_on(SECONDARY);
    primary.signal(Signal::CONT);
    let gave_way = until(PATIENCE, || (primary.is_gone() || primary.status()?.phase == "fenced").then_some(()));
    assert!(gave_way.is_some(), "{:#?}", primary.status());
    // One that had meant to switch over has what it wanted, and ends.
    let handed_over = primary.is_gone();
    let told = primary.status();
    assert!(told.as_ref().is_none_or(|status| status.guest == Guest::Stopped), "{told:#?}");
    world.survives(&primary, &mut secondary, SECONDARY, told.map_or(1, |status| status.acknowledged));
    world.one_active_at_most(&mut [&mut primary, &mut secondary]);
    assert_eq!(if handed_over { primary.end().code() } else { Some(primary.terminate()) }, Some(0));
    world.over("came back and stood still", Some(&mut secondary))
}

fn primary_steps() -> Vec<Case> {
    steps(At::Primary, |step| match step {
        Step::Greeted | Step::ImageBegun | Step::ImageMiddle | Step::Held | Step::Delegated => &[0],
        Step::Claiming => &[0, 1],
        _ => &[0, 11],
    })
}

fn primary_stops_at(case: &Case) -> Outcome {
    let (world, mut primary, mut secondary) = World::pair(Wanted::default().remus(&[&case.failpoint()]));
    let command = match (case.step, case.passed) {
        (Step::Delegated, _) => Some(Request::SwitchOver),
        (Step::Claiming, 1) => Some(Request::Unprotect { force: false }),
        _ => None,
    };
    if let Some(command) = &command {
        primary.wait("protected", |status| status.acknowledged >= 5);
        let _ = primary.request(command);
    }
    wait_until_stopped(&primary);
    if (case.step, case.passed) == (Step::Claiming, 0) {
        // Nothing had begun; nothing is late.
        primary.signal(Signal::CONT);
        primary.wait("protected", |status| status.acknowledged >= 5);
        world.goes_on(PRIMARY);
        return world.over("had not begun, and was protected", Some(&mut primary));
    }
    let decided = until(PATIENCE, || {
        let empty = secondary.log().contains("before one checkpoint was whole");
        (empty || secondary.survivor().is_some()).then_some(empty)
    });
    if decided.expect("the secondary notices the silence") {
        assert!(case.passed == 0 && command.is_none());
        primary.signal(Signal::CONT);
        world.runs_on(&mut primary, Instant::now());
        secondary.wait_until_idle();
        return world.over("ran on: nothing had been whole", Some(&mut primary));
    }
    comes_back_late(world, primary, secondary)
}

#[test]
fn primary_stopped_at_every_step() {
    let counts = cases::run("primary stopped at every step, then continued", &primary_steps(), primary_stops_at);
    assert!(counts.what.get("came back and stood still") >= Some(&12), "{counts}");
}

fn secondary_steps() -> Vec<Case> {
    steps(At::Secondary, |step| match step {
        Step::Arriving | Step::Received | Step::Applying | Step::Applied => &[0, 11],
        _ => &[0],
    })
}

/// The secondary is continued after the primary has gone on without it: it is dismissed.
fn is_dismissed(world: World, mut primary: Side, mut secondary: Side, since: Instant) -> Outcome {
    world.runs_on(&mut primary, since);
    secondary.signal(Signal::CONT);
    // One that has asked the witness before it has read the primary's goodbye keeps its replica.
    secondary.wait_until_idle();
    assert!(secondary.survivor().is_none());
    world.goes_on(PRIMARY);
    world.one_active_at_most(&mut [&mut primary, &mut secondary]);
    assert_eq!(secondary.terminate(), 0);
    world.over("came back and was dismissed", Some(&mut primary))
}

fn secondary_stops_at(case: &Case) -> Outcome {
    let mut wanted = Wanted::default().receive(&[&case.failpoint()]);
    if case.step == Step::Fencing {
        wanted = wanted.receive(&["--fence=true"]);
    }
    let (world, mut primary, secondary) = World::pair(wanted);
    let mut secondary = secondary;
    if matches!(case.step, Step::Asking | Step::Fencing | Step::Activating | Step::Activated) {
        secondary.wait("able to take over", |status| status.acknowledged >= 5);
        let _ = secondary.request(&Request::FailOver { force: true, generation: None });
    }
    wait_until_stopped(&secondary);
    let since = Instant::now();
    if matches!(case.step, Step::Fencing | Step::Activating | Step::Activated) {
        // It holds the generation: the guest waits for it.
        primary.wait_for_phase("fenced");
        secondary.signal(Signal::CONT);
        world.survives(&primary, &mut secondary, SECONDARY, 5);
        world.one_active_at_most(&mut [&mut primary, &mut secondary]);
        return world.over("came back and went active", Some(&mut secondary));
    }
    is_dismissed(world, primary, secondary, since)
}

#[test]
fn secondary_stopped_at_every_step() {
    let counts = cases::run("secondary stopped at every step, then continued", &secondary_steps(), secondary_stops_at);
    assert_eq!(counts.what.get("came back and went active"), Some(&3), "{counts}");
    assert!(counts.what.get("came back and was dismissed") >= Some(&9), "{counts}");
}

fn primary_stops_behind(packets: &u64) -> Outcome {
    let (world, primary, secondary) = World::protected(Wanted::default(), 1);
    world.wait_for_packets(*packets);
    primary.signal(Signal::STOP);
    comes_back_late(world, primary, secondary)
}

fn secondary_stops_behind(packets: &u64) -> Outcome {
    let (world, primary, secondary) = World::protected(Wanted::default(), 1);
    world.wait_for_packets(*packets);
    secondary.signal(Signal::STOP);
    is_dismissed(world, primary, secondary, Instant::now())
}

/// Stopped for a moment that is shorter than the time-out: nothing comes of it.
fn either_blinks(&(packets, primary_blinks): &(u64, bool)) -> Outcome {
    let wanted = Wanted { timeout: 20_000, answer: 20_000, ..Wanted::default() };
    let (world, mut primary, secondary) = World::protected(wanted, 1);
    world.wait_for_packets(packets);
    let stopped = if primary_blinks { &primary } else { &secondary };
    stopped.signal(Signal::STOP);
    wait_until_stopped(stopped);
    stopped.signal(Signal::CONT);
    let behind = primary.status().map_or(0, |status| status.acknowledged) + 5;
    primary.wait("protected as before", |status| status.protected && status.acknowledged >= behind);
    world.goes_on(PRIMARY);
    assert!(secondary.survivor().is_none());
    world.over("went on as before", Some(&mut primary))
}

fn moments(count: u64, seed: u64) -> Vec<u64> {
    let mut dice = Dice::new(seed);
    (0..count).map(|_| dice.below(120)).collect()
}

#[test]
fn stopped_at_some_moments() {
    cases::run("primary stopped at 4 moments", &moments(4, 5), primary_stops_behind);
    cases::run("secondary stopped at 4 moments", &moments(4, 6), secondary_stops_behind);
    let blinks: Vec<(u64, bool)> = moments(8, 7).into_iter().map(|n| (n, n % 2 == 0)).collect();
    let counts = cases::run("either stopped for less than the time-out", &blinks, either_blinks);
    assert_eq!(counts.cases, 8);
}

#[test]
#[ignore = "long"]
fn stopped_at_100_moments() {
    let counts = cases::run("primary stopped at 100 moments", &moments(100, 8), primary_stops_behind);
    assert_eq!(counts.what.get("came back and stood still"), Some(&100));
    let counts = cases::run("secondary stopped at 100 moments", &moments(100, 9), secondary_stops_behind);
    assert_eq!(counts.what.get("came back and was dismissed"), Some(&100));
}
