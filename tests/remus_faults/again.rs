//! Protected again after a failover, handed on as planned, told to end: what an operator does on purpose.

use crate::cases::{self, Dice, Outcome};
use crate::side::{PATIENCE, Side, until};
use crate::world::{PRIMARY, SECONDARY, THIRD, Wanted, World};
use xen_replicate::control::Request;
use xen_replicate::control::status::Output;

fn protect(world: &World, side: &mut Side, place: u8) -> u64 {
    side.order(&Request::Protect { host: world.link(place), rsh: None, remote: None });
    side.wait("protected again", |status| status.protected && status.acknowledged >= 5).acknowledged
}

fn third(world: &World) -> Side {
    let mut third = world.receive::<&str>("third", THIRD, &[]);
    third.wait_until_idle();
    third
}

/// Two failovers in a row: what the second survivor goes on from was protected by the first.
fn twice(tcp: &bool) -> Outcome {
    let (world, mut primary, mut secondary) = World::protected(Wanted { tcp: *tcp, ..Wanted::default() }, 5);
    let acknowledged = primary.status().map_or(0, |status| status.acknowledged);
    primary.kill();
    world.survives(&primary, &mut secondary, SECONDARY, acknowledged);
    let mut third = third(&world);
    protect(&world, &mut secondary, THIRD);
    world.goes_on(SECONDARY);
    let acknowledged = secondary.status().map_or(0, |status| status.acknowledged);
    secondary.kill();
    world.survives(&secondary, &mut third, THIRD, acknowledged);
    assert_eq!(world.progress().changes, 2);
    world.over("chains of two failovers", Some(&mut third))
}

#[test]
fn killed_protected_again_and_killed() {
    let counts = cases::run("two failovers in a row", &[false, true, false, true], twice);
    assert_eq!(counts.what.get("chains of two failovers"), Some(&4));
}

/// The secondary is lost, the primary takes another one, and is lost itself.
#[test]
fn another_secondary_in_place_of_a_dead_one() {
    let counts = cases::run("another secondary", &[false, true], |tcp| {
        let (world, mut primary, mut secondary) = World::protected(Wanted { tcp: *tcp, ..Wanted::default() }, 5);
        secondary.kill();
        primary.wait_for_active();
        let mut third = third(&world);
        protect(&world, &mut primary, THIRD);
        world.goes_on(PRIMARY);
        let acknowledged = primary.status().map_or(0, |status| status.acknowledged);
        primary.kill();
        world.survives(&primary, &mut third, THIRD, acknowledged);
        world.over("failovers", Some(&mut third))
    });
    assert_eq!(counts.cases, 2);
}

/// A planned switch-over, and another: neither loses anything, nor takes as long as a time-out.
fn handed_on(tcp: &bool) -> Outcome {
    let wanted = Wanted { tcp: *tcp, timeout: 5000, answer: 10_000, ..Wanted::default() };
    let (world, mut primary, mut secondary) = World::protected(wanted, 5);
    primary.order(&Request::SwitchOver);
    assert_eq!(primary.end().code(), Some(0));
    let last = world.survives(&primary, &mut secondary, SECONDARY, 5);
    assert_eq!(primary.checkpoint(last + 1), None, "it ran on behind the last checkpoint");
    let mut third = third(&world);
    protect(&world, &mut secondary, THIRD);
    secondary.order(&Request::SwitchOver);
    assert_eq!(secondary.end().code(), Some(0));
    world.survives(&secondary, &mut third, THIRD, 5);
    let outcome = world.over("handed on twice", Some(&mut third));
    assert!(outcome.seen.fail_over_ns < Some(5_000_000_000), "{:?}", outcome.seen);
    outcome
}

#[test]
fn switched_over_as_planned() {
    let counts = cases::run("planned switch-over", &[false, true, false, true], handed_on);
    assert_eq!(counts.what.get("handed on twice"), Some(&4));
}

#[derive(Debug, Clone, Copy)]
enum End {
    /// SIGTERM to the primary: the simulated guest ends with it, in order.
    TermPrimary,
    /// SIGTERM to the secondary.
    TermSecondary,
    /// `unprotect`, and `protect` with the same receiver.
    UnprotectAndAgain,
    /// SIGTERM to the receiver that has taken over.
    TermSurvivor,
}

fn ended(end: &End) -> Outcome {
    let (world, mut primary, mut secondary) = World::protected(Wanted::default(), 5);
    match end {
        End::TermPrimary => {
            let outcome = world.over("primary told to end: its guest sound", Some(&mut primary));
            assert_eq!(primary.end().code(), Some(1), "as for xl, the guest is still here");
            secondary.wait_until_idle();
            assert!(secondary.survivor().is_none());
            assert_eq!(secondary.terminate(), 0);
            outcome
        }
        End::TermSecondary => {
            assert_eq!(secondary.terminate(), 0);
            let status = primary.wait_for_active();
            assert_eq!(status.output, Output::Free);
            world.goes_on(PRIMARY);
            world.over("secondary told to end: unprotected", Some(&mut primary))
        }
        End::UnprotectAndAgain => {
            primary.order(&Request::Unprotect { force: false });
            let status = primary.wait_for_active();
            assert!(status.output == Output::Free && !status.protected, "{status:#?}");
            secondary.wait_until_idle();
            world.goes_on(PRIMARY);
            let before = status.checkpoint;
            primary.order(&Request::Protect { host: world.link(SECONDARY), rsh: None, remote: None });
            let status = primary.wait("protected again", |s| s.protected && s.acknowledged >= before + 5);
            primary.kill();
            world.survives(&primary, &mut secondary, SECONDARY, status.acknowledged);
            world.over("stopped protecting, began again", Some(&mut secondary))
        }
        End::TermSurvivor => {
            primary.kill();
            world.survives(&primary, &mut secondary, SECONDARY, 5);
            let outcome = world.over("survivor told to end: its guest sound", Some(&mut secondary));
            assert_eq!(secondary.end().code(), Some(0));
            outcome
        }
    }
}

#[test]
fn told_to_end_or_to_stop_protecting() {
    let ends = [End::TermPrimary, End::TermSecondary, End::UnprotectAndAgain, End::TermSurvivor];
    let counts = cases::run("told to end", &ends, ended);
    assert_eq!(counts.what.len(), 4);
}

/// Without a witness: nothing happens by itself.
#[test]
fn by_the_operators_word() {
    let counts = cases::run("rule manual", &["primary dies", "secondary dies"], |case| {
        let rule = ["--rule=manual"];
        let (world, mut primary, mut secondary) = World::protected(Wanted::default().remus(&rule).receive(&rule), 5);
        if *case == "secondary dies" {
            secondary.kill();
            primary.wait_for_active();
            world.goes_on(PRIMARY);
            return world.over("ran on", Some(&mut primary));
        }
        primary.kill();
        secondary.wait_for_phase("lost");
        assert!(secondary.says_critically("ctl fail-over") && secondary.survivor().is_none());
        secondary.order(&Request::FailOver { force: false, generation: None });
        world.survives(&primary, &mut secondary, SECONDARY, 5);
        world.over("went active when told", Some(&mut secondary))
    });
    assert_eq!(counts.what.len(), 2);
}

/// The fencing command fails: nobody goes active until it succeeds.
#[test]
fn a_fence_that_fails_at_first() {
    let counts = cases::run("fence fails at first", &[()], |()| {
        let world = World::new(Wanted::default());
        let gate = world.folder.path().join("dead");
        let fence = format!("--fence=test -e {}", gate.display());
        let mut secondary = world.receive("secondary", SECONDARY, &[fence]);
        secondary.wait_until_idle();
        let mut primary = world.remus(&world.link(SECONDARY));
        primary.wait("protected", |status| status.acknowledged >= 5);
        assert!(world.client().wait_until(PATIENCE, |now| now.acknowledged >= 10));
        primary.kill();
        secondary.wait_for_log("the fencing command has failed");
        assert!(secondary.survivor().is_none());
        std::fs::write(&gate, "").unwrap();
        world.survives(&primary, &mut secondary, SECONDARY, 5);
        assert!(until(PATIENCE, || secondary.status()).is_some_and(|status| status.generation == 2));
        world.over("failovers", Some(&mut secondary))
    });
    assert_eq!(counts.cases, 1);
}

/// Whatever a round was about when it was called off: the guest that is left runs.
#[test]
fn told_to_end_at_any_moment_of_a_round() {
    let mut dice = Dice::new(10);
    let moments: Vec<(u64, bool)> = (0..24).map(|n| (dice.below(40), n % 2 == 0)).collect();
    let counts = cases::run("told to end or to stop protecting at 24 moments", &moments, |&(packets, term)| {
        let (world, mut primary, _secondary) = World::protected(Wanted { interval: 1, ..Wanted::default() }, 5);
        world.wait_for_packets(packets);
        if !term {
            primary.order(&Request::Unprotect { force: false });
            primary.wait_for_active();
            world.goes_on(PRIMARY);
        }
        world.over(if term { "ended, the guest running" } else { "unprotected, the guest running" }, Some(&mut primary))
    });
    assert_eq!(counts.what.len(), 2);
}
