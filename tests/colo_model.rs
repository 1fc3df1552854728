//! Explores the real machines of `colo`, in every dialect and mode, in every order of events that small bounds allow: delay of any
//! length (a step that is possible need not come), pauses (decided actions are carried out one by one, with everything else in
//! between), links that break in one direction or both, crashes, messages out of step, a witness out of reach. A cut that heals is
//! a delay. `docs/colo.md` says what is checked and gives the figures.

#[path = "common/explorer.rs"]
mod explorer;
#[path = "colo_model/steps.rs"]
mod steps;
#[path = "colo_model/world.rs"]
mod world;

use explorer::{Flaw, explore};
use world::{Bounds, Mutant, Setting, World};
use xen_replicate::colo::{Config, Dialect, Layout, Mode, Step, primary, secondary};
use xen_replicate::remus::Rule;

/// States beyond which a run is taken to be endless.
const MOST: usize = 8_000_000;

/// Nothing happens but what must; two packets from each guest, one of which can differ.
const QUIET: Bounds = Bounds {
    checkpoints: 2,
    packets: 2,
    differences: 1,
    faults: 0,
    crashes: 0,
    cuts: 0,
    garbage: 0,
    unreachable: 0,
    fence_failures: 0,
    failures: 0,
    commands: 0,
    timeouts: false,
};

const CRASH: Bounds = Bounds { faults: 1, crashes: 1, cuts: 1, timeouts: true, packets: 1, ..QUIET };
const GARBAGE: Bounds = Bounds { faults: 1, garbage: 1, packets: 1, ..QUIET };

fn setting(dialect: Dialect, mode: Mode, rule: Rule, bounds: Bounds) -> Setting {
    let config = Config { rule, fence: rule == Rule::PrimaryWins, ..Config::new(dialect, mode) };
    Setting { config, bounds, mutant: Mutant::None }
}

/// What an exploration must have met to be worth anything.
#[derive(Debug, Default)]
struct Met {
    states: usize,
    transitions: usize,
    /// States in which the secondary was active, the primary alone, its guest stopped for good.
    active: usize,
    alone: usize,
    ended: usize,
    /// Steps from which a secondary went on to take over, and a primary to be alone.
    taken_over_from: Vec<Step>,
}

impl Met {
    fn add(&mut self, other: &Met) {
        self.states += other.states;
        self.transitions += other.transitions;
        self.active += other.active;
        self.alone += other.alone;
        self.ended += other.ended;
    }
}

fn run(name: &str, setting: &Setting, invariant: impl Fn(&World) -> Result<(), Flaw>) -> Met {
    let mut met = Met::default();
    let visit = |world: &World| {
        met.active += usize::from(world.s.active);
        met.alone += usize::from(world.p.alone);
        met.ended += usize::from(world.p.paused);
        if let secondary::Phase::Session(step) = world.s.machine.phase()
            && !met.taken_over_from.contains(&step)
        {
            met.taken_over_from.push(step);
        }
    };
    match explore(World::new(setting), setting, MOST, visit, invariant) {
        Ok(extent) => {
            (met.states, met.transitions) = (extent.states, extent.transitions);
            println!(
                "{name}, {} {:?}: {} states, {} transitions; {} with the secondary active, {} after the primary went \
                 alone, {} with its guest stopped",
                setting.config.dialect,
                setting.config.mode,
                met.states,
                met.transitions,
                met.active,
                met.alone,
                met.ended
            );
            met
        }
        Err(found) => panic!("{name}: {}\n{:#?}\n{:#?}", found.flaw, found.world, found.trace),
    }
}

fn any(_: &World) -> Result<(), Flaw> {
    Ok(())
}

fn each(name: &str, rule: Rule, bounds: Bounds, invariant: impl Fn(&World) -> Result<(), Flaw>) -> Met {
    let mut all = Met::default();
    for dialect in Dialect::ALL {
        for mode in [Mode::LockStep, Mode::Periodic] {
            all.add(&run(name, &setting(dialect, mode, rule, bounds), &invariant));
        }
    }
    println!("{name}, all: {} states, {} transitions", all.states, all.transitions);
    all
}

/// Property 4: whatever is wrong with what one side says, without any other fault, nobody fails over and the guest runs on.
fn nobody_fails_over(world: &World) -> Result<(), Flaw> {
    if world.s.active || world.p.paused || !world.p.alive {
        return Err("P4: garbage has led to a fail-over".into());
    }
    Ok(())
}

#[test]
fn delay_alone_changes_nothing() {
    let met = each("delay", Rule::Witness, QUIET, nobody_fails_over);
    assert_eq!((met.active, met.alone, met.ended), (0, 0, 0));
}

#[test]
fn a_crash_a_cut_or_a_time_out() {
    let met = each("crash, cut, time-out", Rule::Witness, CRASH, any);
    assert!(met.active > 0 && met.alone > 0 && met.ended > 0);
}
