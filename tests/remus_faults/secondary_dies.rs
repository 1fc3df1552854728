//! SIGKILL of the secondary: at every step that it passes, and whenever.

use crate::cases::{self, Dice, Outcome};
use crate::world::{PRIMARY, Wanted, World};
use std::time::Instant;
use xen_replicate::control::Request;
use xen_replicate::replicate::failpoint::{Side as At, Step};

/// A step, and how often it is passed before.
#[derive(Debug, Clone, Copy)]
struct Case {
    step: Step,
    passed: u64,
}

impl Case {
    /// The operator has it go active, and it dies on its way there.
    const fn on_the_way(self) -> bool {
        matches!(self.step, Step::Asking | Step::Fencing | Step::Activating | Step::Activated)
    }

    /// It has taken the generation with it.
    const fn holds_the_generation(self) -> bool {
        matches!(self.step, Step::Fencing | Step::Activating | Step::Activated)
    }
}

fn steps() -> Vec<Case> {
    let mine = Step::ALL.iter().filter(|row| row.2 == At::Secondary).map(|row| row.0);
    let times = |step| match step {
        Step::Arriving | Step::Received | Step::Applying | Step::Applied => vec![0, 11],
        _ => vec![0],
    };
    mine.flat_map(|step| times(step).into_iter().map(move |passed| Case { step, passed })).collect()
}

fn killed_at(case: &Case) -> Outcome {
    let failpoint = format!("--failpoint={}@{}", case.step, case.passed + 1);
    let mut wanted = Wanted::default().receive(&[&failpoint]);
    if case.step == Step::Fencing {
        wanted = wanted.receive(&["--fence=true"]);
    }
    let (world, mut primary, mut secondary) = World::pair(wanted);
    if case.on_the_way() {
        secondary.wait("able to take over", |status| status.acknowledged >= 5);
        // It may die before it answers.
        let _ = secondary.request(&Request::FailOver { force: true, generation: None });
    }
    world.last_words(&mut secondary);
    assert!(secondary.survivor().is_none());
    if case.holds_the_generation() {
        // Nobody can know here that the other side will never run.
        primary.wait_for_phase("fenced");
        world.one_active_at_most(&mut [&mut primary, &mut secondary]);
        primary.order(&Request::Unprotect { force: true });
        world.runs_on(&mut primary, Instant::now());
        return world.over("fenced, and forced on", Some(&mut primary));
    }
    world.runs_on(&mut primary, Instant::now());
    world.over("ran on unprotected", Some(&mut primary))
}

#[test]
fn killed_at_every_step() {
    let cases = steps();
    let steps = Step::ALL.iter().filter(|row| row.2 == At::Secondary).count();
    let counts = cases::run(&format!("secondary killed at {steps} steps"), &cases, killed_at);
    assert_eq!(counts.what.get("fenced, and forced on"), Some(&3));
    assert!(counts.acknowledged >= 20 * counts.cases);
}

/// When the process is killed: behind so many packets of the client's.
fn killed_behind(packets: &u64) -> Outcome {
    let (world, mut primary, mut secondary) = World::protected(Wanted::default(), 1);
    world.wait_for_packets(*packets);
    let since = Instant::now();
    secondary.kill();
    world.runs_on(&mut primary, since);
    assert_eq!(world.progress().host, Some(world.nic(PRIMARY)));
    world.over("ran on unprotected", Some(&mut primary))
}

fn moments(count: u64, seed: u64) -> Vec<u64> {
    let mut dice = Dice::new(seed);
    (0..count).map(|_| dice.below(120)).collect()
}

#[test]
fn killed_at_some_moments() {
    let counts = cases::run("secondary killed at 12 moments", &moments(12, 3), killed_behind);
    assert_eq!(counts.what.get("ran on unprotected"), Some(&12));
}

#[test]
#[ignore = "long"]
fn killed_at_200_moments() {
    let counts = cases::run("secondary killed at 200 moments", &moments(200, 4), killed_behind);
    assert_eq!((counts.cases, counts.what.get("ran on unprotected")), (200, Some(&200)));
}
