//! Explores the real machines of `remus` in every order of events that small bounds allow: delay of any length (a step that
//! is possible need not come), pauses (decided actions are carried out one by one, with everything else in between), loss,
//! links that break in one direction or both, crashes, damage, a witness out of reach. `docs/remus.md` says what is checked
//! and gives the figures.

#[path = "remus_model/explore.rs"]
mod explore;
#[path = "common/explorer.rs"]
mod explorer;
#[path = "remus_model/steps.rs"]
mod steps;
#[path = "remus_model/world.rs"]
mod world;

use explore::{Explored, explore};
use replication_protocol::remus::{Config, Rule};
use world::{Bounds, Flaw, Mutant, Setting, World};

fn setting(rule: Rule, fence: bool, bounds: Bounds) -> Setting {
    let config = Config { rule, fence, refusals: 1, ..Config::default() };
    Setting { config, bounds, mutant: Mutant::None }
}

fn holds(name: &str, setting: &Setting, least: usize, invariant: impl Fn(&World) -> Result<(), Flaw>) -> Explored {
    match explore(setting, invariant) {
        Ok(explored) => {
            let Explored { states, transitions, failed_over, alone, ended } = explored;
            println!(
                "{name}: {states} states, {transitions} transitions; {failed_over} with the secondary active, \
                 {alone} after the primary went alone, {ended} with the primary's guest stopped"
            );
            assert!(states >= least, "{name}: only {states} states; the model has shrunk");
            explored
        }
        Err(found) => panic!("{name}: {}\n{:#?}\n{:#?}", found.flaw, found.world, found.trace),
    }
}

fn any(_: &World) -> Result<(), Flaw> {
    Ok(())
}

/// One fault of any kind, in one session.
const FAULT: Bounds =
    Bounds { sessions: 1, steps: 1, faults: 1, crashes: 1, losses: 1, damages: 1, unreachable: 1, ..Bounds::NONE };

#[test]
fn with_a_witness_all_properties_hold_under_a_fault_of_the_link_or_a_crash() {
    let bounds = Bounds { unreachable: 0, damages: 0, checkpoints: 1, steps: 2, ..FAULT };
    let explored = holds("witness, crash or loss", &setting(Rule::Witness, false, bounds), 1_015_000, any);
    assert!(explored.failed_over > 0 && explored.alone > 0 && explored.ended > 0);
}

#[test]
#[ignore = "long"]
fn two_crashes_or_losses() {
    let bounds = Bounds { faults: 2, damages: 0, crashes: 2, losses: 2, unreachable: 0, checkpoints: 1, ..FAULT };
    holds("witness, two crashes or losses", &setting(Rule::Witness, false, bounds), 643_000, any);
}

#[test]
#[ignore = "long"]
fn a_witness_twice_out_of_reach() {
    let bounds = Bounds { faults: 2, damages: 0, crashes: 0, losses: 0, unreachable: 2, ..FAULT };
    holds("witness, twice out of reach", &setting(Rule::Witness, false, bounds), 5_224_000, any);
}

#[test]
fn what_a_host_cannot_do_is_no_danger() {
    let bounds = Bounds { faults: 2, failures: 2, crashes: 0, losses: 0, damages: 0, unreachable: 0, ..FAULT };
    let bounds = Bounds { timeouts: false, ..bounds };
    holds("failures", &setting(Rule::Witness, false, bounds), 22_800, any);
    let bounds = Bounds { crashes: 1, checkpoints: 1, ..bounds };
    holds("failures, crash", &setting(Rule::Witness, false, bounds), 4_600, any);
}

#[test]
#[ignore = "long"]
fn a_switch_over_meets_a_fault() {
    let bounds = Bounds { switch_overs: 1, unreachable: 0, checkpoints: 1, steps: 1, ..FAULT };
    let no_time_out = Bounds { timeouts: false, failures: 1, ..bounds };
    holds("switch-over, any fault", &setting(Rule::Witness, false, no_time_out), 36_200, any);
    let twice = Bounds { faults: 2, crashes: 2, losses: 2, ..no_time_out };
    holds("switch-over, two faults", &setting(Rule::Witness, false, twice), 323_000, any);
    let crash = Bounds { losses: 0, damages: 0, ..bounds };
    holds("switch-over, crash or time-out", &setting(Rule::Witness, false, crash), 616_000, any);
}

#[test]
#[ignore = "long"]
fn a_second_session_meets_a_fault() {
    let bounds = Bounds { sessions: 2, unprotects: 1, steps: 1, checkpoints: 2, damages: 0, ..FAULT };
    let no_time_out = Bounds { timeouts: false, unreachable: 0, failures: 1, ..bounds };
    holds("two sessions, a fault", &setting(Rule::Witness, false, no_time_out), 2_058_000, any);
}

#[test]
#[ignore = "long"]
fn the_operator_switches_over_without_faults_but_with_delay() {
    let bounds = Bounds { switch_overs: 1, faults: 0, ..FAULT };
    holds("switch-over, delay", &setting(Rule::Witness, false, bounds), 2_025_000, any);
}

/// A start on a third host before, during and after the session, beside a crash: who was entitled before is so after it.
#[test]
fn a_stray_start_takes_nothing_from_a_session() {
    let bounds =
        Bounds { faults: 2, strays: 1, damages: 0, losses: 0, unreachable: 0, checkpoints: 1, steps: 1, ..FAULT };
    let explored = holds("stray start, crash", &setting(Rule::Witness, false, bounds), 353_000, any);
    assert!(explored.failed_over > 0 && explored.alone > 0);
}

#[test]
fn without_a_witness_the_rule_is_kept_under_crashes() {
    let bounds = Bounds { unreachable: 0, damages: 0, losses: 0, checkpoints: 1, fence_failures: 1, ..FAULT };
    holds("manual, crash", &setting(Rule::Manual, false, bounds), 13_300, any);
    holds("primary-wins, crash", &setting(Rule::PrimaryWins, true, bounds), 22_100, any);
}

#[test]
fn a_fence_that_fails() {
    let bounds = Bounds { fence_failures: 1, damages: 0, losses: 0, faults: 2, checkpoints: 1, ..FAULT };
    holds("witness, fence", &setting(Rule::Witness, true, bounds), 540_000, any);
}

#[test]
#[ignore = "long"]
fn the_operator_ends_it_on_either_side() {
    let bounds = Bounds { unprotects: 1, fail_overs: 1, stops: 1, checkpoints: 1, steps: 1, ..FAULT };
    holds("unprotect, fail-over, stop", &setting(Rule::Witness, false, bounds), 1_922_000, any);
}

#[test]
fn protected_again_with_what_is_late_of_the_session_before() {
    let bounds = Bounds { sessions: 2, faults: 0, unprotects: 1, steps: 0, timeouts: false, ..FAULT };
    holds("two sessions", &setting(Rule::Witness, false, bounds), 18_500, any);
}

#[test]
#[ignore = "long"]
fn without_a_witness_the_rule_is_kept() {
    holds("manual", &setting(Rule::Manual, false, Bounds { unreachable: 0, ..FAULT }), 164_000, any);
    let bounds = Bounds { unreachable: 0, fence_failures: 1, ..FAULT };
    holds("primary-wins", &setting(Rule::PrimaryWins, true, bounds), 326_000, any);
}

/// Property 4: whatever is damaged, without any other fault, nobody fails over and the guest runs on.
fn garbage(rule: Rule, fence: bool) -> Setting {
    let bounds = Bounds { faults: 2, damages: 2, crashes: 0, losses: 0, unreachable: 0, timeouts: false, ..FAULT };
    setting(rule, fence, Bounds { checkpoints: 3, ..bounds })
}

fn nobody_fails_over(world: &World) -> Result<(), Flaw> {
    if world.sites.iter().any(|site| site.active.is_some()) || world.primary.paused || !world.primary.alive {
        return Err("P4: damage has led to a fail-over".into());
    }
    Ok(())
}

#[test]
fn damage_alone_never_leads_to_a_fail_over() {
    holds("damage", &garbage(Rule::Witness, false), 150_000, nobody_fails_over);
    holds("damage, manual", &garbage(Rule::Manual, false), 63_600, nobody_fails_over);
    // Nobody is shot for what could not be read.
    holds("damage, primary-wins", &garbage(Rule::PrimaryWins, true), 63_600, nobody_fails_over);
}

fn caught(mutant: Mutant, mut setting: Setting, by: &str) {
    setting.mutant = mutant;
    match explore(&setting, if by == "P4" { nobody_fails_over } else { any }) {
        Ok(explored) => panic!("{mutant:?} is not caught in {} states", explored.states),
        Err(found) => {
            println!("{mutant:?}: {} after {} steps", found.flaw, found.trace.len());
            assert!(found.flaw.starts_with(by), "{mutant:?}: {} at {:#?}", found.flaw, found.trace);
        }
    }
}

#[test]
fn broken_variants_are_caught() {
    let witness = |bounds| setting(Rule::Witness, false, bounds);
    caught(Mutant::ReleaseWhenSent, witness(FAULT), "P1");
    caught(Mutant::GarbageIsDeath, garbage(Rule::Witness, false), "P4");
    caught(Mutant::SecondaryAsksNobody, witness(FAULT), "P3");
    caught(Mutant::PrimaryAsksNobody, witness(FAULT), "P");
    caught(Mutant::WitnessGrantsAll, witness(FAULT), "P");
    caught(Mutant::DamageUnseen, garbage(Rule::Witness, false), "P2");
    caught(Mutant::NeverWhole, garbage(Rule::Witness, false), "P2");
    let stray = Bounds { faults: 2, strays: 1, damages: 0, losses: 0, unreachable: 0, checkpoints: 1, ..FAULT };
    caught(Mutant::AcquiresBeforeGreeting, witness(stray), "liveness");
    caught(Mutant::SilencePostponed, witness(FAULT), "liveness");
    let two = Bounds { sessions: 2, faults: 0, unprotects: 1, steps: 0, timeouts: false, ..FAULT };
    caught(Mutant::AnyAck, witness(two), "P1");
}
