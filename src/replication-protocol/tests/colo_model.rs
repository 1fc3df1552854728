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
use replication_protocol::colo::{Config, Dialect, Layout, Mode, Step, primary, secondary};
use replication_protocol::remus::Rule;
use std::collections::HashSet;
use world::{Bounds, Mutant, Setting, World};

/// States beyond which a run is taken to be endless.
const MOST: usize = 8_000_000;

/// Nothing happens but what must; a packet or two from each guest, one of which can differ.
const QUIET: Bounds = Bounds {
    checkpoints: 2,
    packets: 1,
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

/// One fault of the hosts or the link.
const CRASH: Bounds = Bounds { faults: 1, crashes: 1, cuts: 1, ..QUIET };
const GARBAGE: Bounds = Bounds { faults: 1, garbage: 1, packets: 0, differences: 0, ..QUIET };

fn setting(dialect: Dialect, mode: Mode, rule: Rule, bounds: Bounds) -> Setting {
    let config = Config { rule, fence: rule == Rule::PrimaryWins, ..Config::new(dialect, mode) };
    Setting { config, bounds, mutant: Mutant::None }
}

/// What an exploration has met: without, it would be worth nothing.
#[derive(Debug, Default)]
struct Met {
    states: usize,
    transitions: usize,
    /// States in which the secondary was active, the primary alone, its guest stopped for good.
    active: usize,
    alone: usize,
    ended: usize,
    /// The steps of either side in which a fault could still come.
    primary: HashSet<Step>,
    secondary: HashSet<Step>,
}

fn run(name: &str, setting: &Setting, invariant: impl Fn(&World) -> Result<(), Flaw>) -> Met {
    let mut met = Met::default();
    let visit = |world: &World| {
        met.active += usize::from(world.s.active);
        met.alone += usize::from(world.p.alone);
        met.ended += usize::from(world.p.paused);
        if world.left.faults > 0 {
            if let primary::Phase::Session(step) = world.p.machine.phase() {
                met.primary.insert(step);
            }
            if let secondary::Phase::Session(step) = world.s.machine.phase() {
                met.secondary.insert(step);
            }
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
        Err(found) => panic!(
            "{name}, {} {:?}: {}\n{:#?}\n{:#?}",
            setting.config.dialect, setting.config.mode, found.flaw, found.world, found.trace
        ),
    }
}

fn any(_: &World) -> Result<(), Flaw> {
    Ok(())
}

/// Every dialect in both modes.
fn each(name: &str, rule: Rule, bounds: Bounds, least: usize, invariant: impl Fn(&World) -> Result<(), Flaw>) -> Met {
    let mut all = Met::default();
    for dialect in Dialect::ALL {
        for mode in [Mode::LockStep, Mode::Periodic] {
            let met = run(name, &setting(dialect, mode, rule, bounds), &invariant);
            if bounds.faults > 0 {
                every_step_is_met(dialect, mode, &met);
            }
            all.states += met.states;
            all.transitions += met.transitions;
            all.active += met.active;
            all.alone += met.alone;
            all.ended += met.ended;
        }
    }
    println!("{name}, all: {} states, {} transitions", all.states, all.transitions);
    assert!(all.states >= least, "{name}: only {} states; the model has shrunk", all.states);
    all
}

/// A fault can come in every step that the dialect and the mode have, on either side.
fn every_step_is_met(dialect: Dialect, mode: Mode, met: &Met) {
    let lock_step = mode == Mode::LockStep;
    let mut primary = vec![Step::Image, Step::Collect, Step::Load, Step::Run, Step::Suspend];
    let mut secondary = vec![Step::Image, Step::Load, Step::Run, Step::State];
    if lock_step {
        secondary.extend([Step::Resume, Step::Suspend]);
    }
    match dialect {
        Dialect::Libxl => primary.push(Step::Dirty),
        Dialect::Qemu(_) | Dialect::FrameV8 => {
            primary.push(Step::Receipt);
            secondary.push(Step::Announce);
        }
    }
    if dialect.confirms_resume() && lock_step {
        primary.push(Step::Resume);
    }
    match dialect.layout() {
        Some(Layout::Live) => secondary.extend([Step::Memory, Step::Size]),
        Some(Layout::Whole) => secondary.push(Step::Size),
        None => {}
    }
    assert_eq!(met.primary, primary.into_iter().collect(), "{dialect} {mode:?}");
    assert_eq!(met.secondary, secondary.into_iter().collect(), "{dialect} {mode:?}");
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
    let bounds = Bounds { packets: 2, ..QUIET };
    let met = each("delay", Rule::Witness, bounds, 42_000, nobody_fails_over);
    assert_eq!((met.active, met.alone, met.ended), (0, 0, 0));
}

#[test]
fn a_crash_or_a_cut_leaves_one_copy() {
    let met = each("crash or cut", Rule::Witness, CRASH, 579_000, any);
    assert!(met.active > 0 && met.alone > 0 && met.ended > 0);
}

#[test]
fn time_outs_and_a_crash_or_a_cut_leave_one_copy() {
    let bounds = Bounds { timeouts: true, packets: 0, differences: 0, ..CRASH };
    let met = each("crash, cut or time-out", Rule::Witness, bounds, 292_000, any);
    assert!(met.active > 0 && met.alone > 0 && met.ended > 0);
}

#[test]
fn garbage_alone_never_leads_to_a_fail_over() {
    let met = each("garbage", Rule::Witness, GARBAGE, 101_000, nobody_fails_over);
    assert!(met.alone > 0);
    each("garbage, manual", Rule::Manual, GARBAGE, 54_900, nobody_fails_over);
}

#[test]
fn what_a_host_cannot_do_is_no_danger() {
    let bounds = Bounds { faults: 1, failures: 1, packets: 0, differences: 0, ..QUIET };
    let met = each("failures", Rule::Witness, bounds, 2_900, any);
    assert!(met.alone > 0);
}

#[test]
fn a_heartbeat_or_an_operator_says_that_it_is_over() {
    let bounds = Bounds { faults: 1, commands: 1, packets: 0, differences: 0, ..QUIET };
    let met = each("commands", Rule::Witness, bounds, 48_700, any);
    assert!(met.active > 0 && met.alone > 0);
}

#[test]
fn without_a_witness_the_rule_is_kept_under_a_crash() {
    let bounds = Bounds { cuts: 0, fence_failures: 1, faults: 2, packets: 0, differences: 0, ..CRASH };
    each("manual, crash", Rule::Manual, bounds, 6_700, any);
    each("primary-wins, crash", Rule::PrimaryWins, bounds, 11_300, any);
}

#[test]
#[ignore = "long"]
fn a_crash_a_cut_or_a_time_out_with_packets() {
    let bounds = Bounds { timeouts: true, ..CRASH };
    each("packets; crash, cut or time-out", Rule::Witness, bounds, 3_850_000, any);
}

#[test]
#[ignore = "long"]
fn two_of_everything() {
    let bounds = Bounds {
        faults: 2,
        crashes: 2,
        cuts: 2,
        unreachable: 1,
        failures: 1,
        garbage: 1,
        commands: 1,
        packets: 0,
        differences: 0,
        ..QUIET
    };
    each("two faults of any kind", Rule::Witness, bounds, 2_509_000, any);
}

#[test]
#[ignore = "long"]
fn a_witness_out_of_reach() {
    let bounds = Bounds { faults: 2, unreachable: 1, timeouts: true, packets: 0, differences: 0, ..CRASH };
    each("witness out of reach", Rule::Witness, bounds, 915_000, any);
}

#[test]
#[ignore = "long"]
fn garbage_between_packets() {
    let bounds = Bounds { packets: 1, differences: 1, ..GARBAGE };
    each("garbage, packets", Rule::Witness, bounds, 1_224_000, nobody_fails_over);
}

/// Explores a broken variant: the property `by` must be found broken.
fn caught(mutant: Mutant, dialect: Dialect, bounds: Bounds, by: &str) {
    let mut setting = setting(dialect, Mode::LockStep, Rule::Witness, bounds);
    setting.mutant = mutant;
    let invariant = if by == "P4" { nobody_fails_over } else { any };
    match explore(World::new(&setting), &setting, MOST, |_| (), invariant) {
        Ok(extent) => panic!("{mutant:?} is not caught in {} states", extent.states),
        Err(found) => {
            println!("{mutant:?}, {dialect}: {} after {} steps", found.flaw, found.trace.len());
            assert!(found.flaw.starts_with(by), "{mutant:?}: {} at {:#?}", found.flaw, found.trace);
        }
    }
}

#[test]
fn broken_variants_are_caught() {
    let no_packets = Bounds { packets: 0, differences: 0, ..CRASH };
    for dialect in Dialect::ALL {
        caught(Mutant::ComparesNothing, dialect, QUIET, "P2");
        caught(Mutant::ReleaseWhenSent, dialect, QUIET, "P2");
        caught(Mutant::SentIsLoaded, dialect, QUIET, "P");
        caught(Mutant::SecondaryNeverStops, dialect, QUIET, "P1");
        caught(Mutant::GarbageIsDeath, dialect, GARBAGE, "P4");
        caught(Mutant::HangsUpAtOnce, dialect, GARBAGE, "P4");
        caught(Mutant::DamageUnseen, dialect, GARBAGE, "P1");
        caught(Mutant::RunsWhileLeaving, dialect, no_packets, "P");
        caught(Mutant::PrimaryAsksNobody, dialect, no_packets, "P");
        caught(Mutant::SecondaryAsksNobody, dialect, no_packets, "P");
        caught(Mutant::WitnessGrantsAll, dialect, no_packets, "P");
        // Of libxl's secondary, the primary hears SVM_RESUMED then, which is a fault and no deadlock.
        if dialect != Dialect::Libxl {
            caught(Mutant::LoadedUnsaid, dialect, QUIET, "liveness");
        }
    }
    caught(Mutant::NeverMerges, Dialect::Libxl, QUIET, "P1");
    // In QEMU's dialects it takes two wrong messages, for two confirm a state.
    let bounds = Bounds { faults: 2, garbage: 2, packets: 1, ..GARBAGE };
    for dialect in Dialect::ALL {
        caught(Mutant::AnyMessageFits, dialect, bounds, "P");
    }
}
