//! A panic of whichever thread passes a step: the process ends, with a message, and the peer does what it does after a kill.

use crate::cases::{self, Outcome};
use crate::side::{PATIENCE, Side, until};
use crate::world::{SECONDARY, Wanted, World};
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};
use xen_replicate::control::Request;
use xen_replicate::replicate::failpoint::{Side as At, Step};

/// Time for what comes behind the decision: claiming, loading, and a busy machine.
const SLACK: Duration = Duration::from_secs(1);

/// Waits for the end that a panic has, and for its message.
fn panicked(side: &mut Side, step: Step) -> Instant {
    let exit = side.end();
    let since = Instant::now();
    assert_eq!(exit.signal(), Some(rustix::process::Signal::ABORT.as_raw()), "{exit}");
    let log = side.log();
    assert!(log.contains(&format!("failpoint {step}")) && log.contains("an internal error"), "{log}");
    since
}

fn primary_panics_at(step: &Step) -> Outcome {
    // Behind some rounds, where there is something to take over.
    let passed = if *step == Step::Delegated { 1 } else { 12 };
    let failpoint = format!("--failpoint={step}@{passed}=panic");
    let (world, mut primary, mut secondary) = World::pair(Wanted::default().remus(&[&failpoint]));
    if *step == Step::Delegated {
        primary.wait("protected", |status| status.acknowledged >= 5);
        let _ = primary.request(&Request::SwitchOver);
    }
    let acknowledged = world.last_words(&mut primary);
    let since = panicked(&mut primary, *step);
    // The process was gone before this was noticed: the bound is met with time to spare, or not at all.
    let active = until(PATIENCE, || secondary.survivor());
    let took = since.elapsed();
    assert!(active.is_some() && took <= Duration::from_millis(world.wanted.timeout) + SLACK, "after {took:?}");
    world.survives(&primary, &mut secondary, SECONDARY, acknowledged);
    world.over("failovers", Some(&mut secondary))
}

#[test]
fn the_secondary_takes_over_wherever_the_primary_panics() {
    // All threads of the primary pass one of these: the machine's, the guest's, and that of `connect` none.
    let steps = [
        Step::Suspended,
        Step::Copied,
        Step::Resumed,
        Step::TransmitBegun,
        Step::TransmitMiddle,
        Step::Transmitted,
        Step::Sealed,
        Step::Acknowledged,
        Step::Released,
        Step::Delegated,
    ];
    let counts = cases::run("primary panics at 10 steps", &steps, primary_panics_at);
    assert_eq!(counts.what.get("failovers"), Some(&10), "{counts}");
}

fn secondary_panics_at(step: &Step) -> Outcome {
    let passed = if *step == Step::Welcomed || *step == Step::ImageArriving { 1 } else { 12 };
    let failpoint = format!("--failpoint={step}@{passed}=panic");
    let (world, mut primary, mut secondary) = World::pair(Wanted::default().receive(&[&failpoint]));
    world.last_words(&mut secondary);
    panicked(&mut secondary, *step);
    world.runs_on(&mut primary, Instant::now());
    world.over("ran on unprotected", Some(&mut primary))
}

#[test]
fn the_primary_runs_on_wherever_the_secondary_panics() {
    let mine = Step::ALL.iter().filter(|row| row.2 == At::Secondary).map(|row| row.0);
    let steps: Vec<Step> = mine
        .filter(|step| !matches!(step, Step::Asking | Step::Fencing | Step::Activating | Step::Activated))
        .collect();
    let counts = cases::run("secondary panics at every step of a round", &steps, secondary_panics_at);
    assert_eq!(counts.what.get("ran on unprotected"), Some(&(steps.len() as u64)), "{counts}");
}
