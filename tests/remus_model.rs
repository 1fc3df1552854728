//! Explores the real machines of `remus` in every order of events that small bounds allow: delay of any length (a step that
//! is possible need not come), pauses (decided actions are carried out one by one, with everything else in between), loss,
//! links that break in one direction or both, crashes, damage, a witness out of reach. `docs/remus.md` says what is checked
//! and gives the figures.

#[path = "remus_model/explore.rs"]
mod explore;
#[path = "remus_model/steps.rs"]
mod steps;
#[path = "remus_model/world.rs"]
mod world;

use explore::{Explored, explore};
use world::{Bounds, Flaw, Mutant, Setting, World};
use xen_replicate::remus::{Config, Rule};

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

/// Faults of every kind, two together, one session.
fn faults() -> Bounds {
    Bounds { sessions: 1, faults: 2, crashes: 2, losses: 2, damages: 2, unreachable: 2, ..Bounds::NONE }
}

#[test]
fn with_a_witness_all_properties_hold_under_faults() {
    let explored = holds("witness", &setting(Rule::Witness, false, faults()), 1000, any);
    assert!(explored.failed_over > 0 && explored.alone > 0 && explored.ended > 0);
}
