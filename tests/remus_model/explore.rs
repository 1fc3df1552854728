//! Breadth first over everything that can happen, and from each state on to rest.

use super::steps::Step;
use super::world::{Flaw, Setting, Who, World};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::Hash;
use xen_replicate::remus::primary::Phase;
use xen_replicate::remus::{Rule, Timer, secondary};
use xxhash_rust::xxh3::Xxh3;

/// Steps within which the world must come to rest once faults stop.
const REST: usize = 300;

pub struct Explored {
    pub states: usize,
    pub transitions: usize,
    /// States in which a secondary was active, the primary went on alone, or its guest was stopped: what the exploration
    /// must have met to be worth anything.
    pub failed_over: usize,
    pub alone: usize,
    pub ended: usize,
}

#[derive(Debug)]
pub struct Found {
    pub flaw: Flaw,
    pub trace: Vec<Step>,
    pub world: Box<World>,
}

/// 128 bits: among 10^7 states, two that share one have a chance of 10^-25.
fn fingerprint(world: &World) -> u128 {
    let mut hasher = Xxh3::new();
    world.hash(&mut hasher);
    hasher.digest128()
}

/// Explores all states of `setting`. `invariant` is checked in each, besides the properties that always hold.
pub fn explore(setting: &Setting, invariant: impl Fn(&World) -> Result<(), Flaw>) -> Result<Explored, Box<Found>> {
    let rule = setting.config.rule;
    let start = World::new(setting);
    let mut parents: HashMap<u128, (u128, Option<Step>)> = HashMap::from([(fingerprint(&start), (0, None))]);
    let mut queue = VecDeque::from([start]);
    let mut at_rest = HashSet::new();
    let mut explored = Explored { states: 0, transitions: 0, failed_over: 0, alone: 0, ended: 0 };
    let mut steps = Vec::new();
    while let Some(world) = queue.pop_front() {
        let from = fingerprint(&world);
        explored.states += 1;
        assert!(explored.states < 6_000_000, "the model has grown past its bounds");
        explored.failed_over += usize::from(world.sites.iter().any(|site| site.active.is_some()));
        explored.alone += usize::from(world.primary.went_alone);
        explored.ended += usize::from(world.primary.paused);
        let found = |flaw, mut trace: Vec<Step>, world| {
            let mut path = path(&parents, from);
            path.append(&mut trace);
            Box::new(Found { flaw, trace: path, world: Box::new(world) })
        };
        if let Err((flaw, trace, world)) = rest(&world, setting, &mut at_rest) {
            return Err(found(flaw, trace, world));
        }
        steps.clear();
        world.steps(rule, true, &mut steps);
        let mut next = Vec::new();
        for &step in &steps {
            explored.transitions += 1;
            let mut after = world.clone();
            if let Err(flaw) = after.apply(step, setting).and_then(|()| invariant(&after)) {
                return Err(found(flaw, vec![step], after));
            }
            next.push((step, after));
        }
        for (step, after) in next {
            if let Entry::Vacant(entry) = parents.entry(fingerprint(&after)) {
                entry.insert((from, Some(step)));
                queue.push_back(after);
            }
        }
    }
    Ok(explored)
}

fn path(parents: &HashMap<u128, (u128, Option<Step>)>, mut at: u128) -> Vec<Step> {
    let mut path = Vec::new();
    while let Some((parent, Some(step))) = parents.get(&at) {
        path.push(*step);
        at = *parent;
    }
    path.reverse();
    path
}

/// With faults off, one fair way on: exactly one copy must be active where nothing more happens.
#[expect(clippy::result_large_err, reason = "once, at the end of a failed test")]
fn rest(from: &World, setting: &Setting, known: &mut HashSet<u128>) -> Result<(), (Flaw, Vec<Step>, World)> {
    let mut world = from.clone();
    let mut way = Vec::new();
    let mut trace = Vec::new();
    let mut steps = Vec::new();
    for _ in 0..REST {
        let here = fingerprint(&world);
        if known.contains(&here) {
            known.extend(way);
            return Ok(());
        }
        way.push(here);
        steps.clear();
        world.steps(setting.config.rule, false, &mut steps);
        let Some(&step) = steps.iter().min_by_key(|&&step| rank(step)) else {
            return match at_rest(&world, setting) {
                Ok(()) => {
                    known.extend(way);
                    Ok(())
                }
                Err(flaw) => Err((flaw, trace, world)),
            };
        };
        trace.push(step);
        if let Err(flaw) = world.apply(step, setting) {
            return Err((flaw, trace, world));
        }
    }
    Err(("liveness: no rest".into(), trace, world))
}

/// Timers come last, and the long one last of all.
fn rank(step: Step) -> u8 {
    match step {
        Step::PrimaryTimer(Timer::Answer) => 3,
        Step::SiteTimer(..) | Step::PrimaryTimer(_) => 2,
        Step::SiteFailOver(_) => 4,
        _ => 1,
    }
}

fn at_rest(world: &World, setting: &Setting) -> Result<(), Flaw> {
    let p = &world.primary;
    let primary = p.alive
        && p.running
        && matches!(p.machine.phase(), Phase::Alone | Phase::Protected | Phase::Greeting | Phase::Connecting);
    let active = usize::from(primary) + world.sites.iter().filter(|site| site.active.is_some()).count();
    let usable =
        |at: usize| world.sites[at].alive && !matches!(world.sites[at].machine.phase(), secondary::Phase::Ended(_));
    let nobody_left = !p.alive && !(0..world.sites.len()).any(usable);
    let entitled_is_dead = setting.config.rule == Rule::Witness
        && match world.witness.1 {
            Who::Primary => !p.alive,
            Who::Site(at) => !usable(at.into()),
        };
    // Without a witness some questions are the operator's.
    let operator = setting.config.rule != Rule::Witness
        && (matches!(p.machine.phase(), Phase::Leaving { .. }) || (!p.alive && p.went_alone));
    match active {
        1 => Ok(()),
        0 if nobody_left || entitled_is_dead || operator => Ok(()),
        n => Err(format!("liveness: {n} active at rest")),
    }
}
