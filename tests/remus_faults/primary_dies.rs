//! SIGKILL of the primary: at every step that it passes, and whenever.

use crate::cases::{self, Counts, Dice, Outcome};
use crate::side::{PATIENCE, until};
use crate::world::{SECONDARY, Wanted, World};
use xen_replicate::control::Request;
use xen_replicate::replicate::failpoint::{Side as At, Step};

/// A step, and how often it is passed before.
#[derive(Debug, Clone, Copy)]
struct Case {
    step: Step,
    passed: u64,
}

/// What is left of the guest.
#[derive(Debug, PartialEq, Eq)]
enum Left {
    /// It goes on at the secondary.
    Survivor,
    /// It was not protected yet.
    Nothing,
    /// Its first checkpoint is on its way, and may or may not arrive.
    Either,
}

impl Case {
    /// The operator's word that leads to the step.
    fn command(self) -> Option<Request> {
        match (self.step, self.passed) {
            (Step::Delegated, _) => Some(Request::SwitchOver),
            (Step::Claiming, 1) => Some(Request::Unprotect { force: false }),
            _ => None,
        }
    }

    fn left(self) -> Left {
        match (self.step, self.passed) {
            (Step::Acknowledged | Step::Released | Step::Delegated, _) => Left::Survivor,
            (Step::Sealed, 0) => Left::Either,
            (_, 0) => Left::Nothing,
            _ => Left::Survivor,
        }
    }
}

/// Every step of the primary's at its first time, and those of a round later, too.
fn steps() -> Vec<Case> {
    let mine = Step::ALL.iter().filter(|row| row.2 == At::Primary).map(|row| row.0);
    let times = |step| match step {
        Step::Greeted | Step::ImageBegun | Step::ImageMiddle | Step::Held | Step::Delegated => vec![0],
        Step::Claiming => vec![0, 1],
        _ => vec![0, 11],
    };
    mine.flat_map(|step| times(step).into_iter().map(move |passed| Case { step, passed })).collect()
}

fn killed_at(case: &Case) -> Outcome {
    let failpoint = format!("--failpoint={}@{}", case.step, case.passed + 1);
    let (world, mut primary, mut secondary) = World::pair(Wanted::default().remus(&[&failpoint]));
    if let Some(command) = case.command() {
        primary.wait("protected", |status| status.acknowledged >= 5);
        // It may die before it answers.
        let _ = primary.request(&command);
    }
    let acknowledged = world.last_words(&mut primary);
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&primary.end()), Some(9));
    let survived = match case.left() {
        Left::Survivor => true,
        Left::Nothing => false,
        Left::Either => {
            let decided =
                || secondary.survivor().is_some() || secondary.log().contains("before one checkpoint was whole");
            assert!(until(PATIENCE, || decided().then_some(())).is_some());
            secondary.survivor().is_some()
        }
    };
    if survived {
        world.survives(&primary, &mut secondary, SECONDARY, acknowledged);
        let outcome = world.over("failovers", Some(&mut secondary));
        assert!(outcome.seen.acknowledged > 0);
        return outcome;
    }
    secondary.wait_until_idle();
    assert!(secondary.survivor().is_none() && acknowledged == 0);
    assert_eq!(secondary.terminate(), 0);
    world.over("before the first checkpoint was whole", None)
}

#[test]
fn killed_at_every_step() {
    let cases = steps();
    let steps = Step::ALL.iter().filter(|row| row.2 == At::Primary).count();
    let Counts { what, acknowledged, .. } = cases::run(&format!("primary killed at {steps} steps"), &cases, killed_at);
    assert!(acknowledged > 0 && what.get("failovers") >= Some(&12), "{what:?}");
}

/// When the process is killed: behind so many packets of the client's.
fn killed_behind(packets: &u64) -> Outcome {
    let (world, mut primary, mut secondary) = World::protected(Wanted::default(), 1);
    world.wait_for_packets(*packets);
    let acknowledged = primary.status().map_or(0, |status| status.acknowledged);
    primary.kill();
    world.survives(&primary, &mut secondary, SECONDARY, acknowledged);
    world.over("failovers", Some(&mut secondary))
}

fn moments(count: u64, seed: u64) -> Vec<u64> {
    let mut dice = Dice::new(seed);
    (0..count).map(|_| dice.below(120)).collect()
}

#[test]
fn killed_at_some_moments() {
    let counts = cases::run("primary killed at 12 moments", &moments(12, 1), killed_behind);
    assert_eq!(counts.what.get("failovers"), Some(&12));
}

#[test]
#[ignore = "long"]
fn killed_at_200_moments() {
    let counts = cases::run("primary killed at 200 moments", &moments(200, 2), killed_behind);
    assert_eq!((counts.cases, counts.what.get("failovers")), (200, Some(&200)));
}

/// What all the other cases rest on: were output not held, the client would notice.
#[test]
fn without_a_buffer_the_client_sees_what_is_lost() {
    let wanted = Wanted { interval: 500, ..Wanted::default() }.remus(&["-F", "-n"]);
    let (world, mut primary, mut secondary) = World::protected(wanted, 2);
    // What leaves between this checkpoint and the next is known to nobody else.
    let acknowledged = primary.wait("at a new checkpoint", |status| status.since_last_ms <= Some(50)).acknowledged;
    world.wait_for_packets(100);
    primary.kill();
    world.survives(&primary, &mut secondary, SECONDARY, acknowledged);
    let seen = world.seen();
    println!("primary killed, output not held: packets {}, lost {}", seen.packets, seen.lost);
    assert!(seen.lost > 0, "{seen:#?}");
}
