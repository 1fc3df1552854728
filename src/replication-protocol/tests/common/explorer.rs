//! Breadth first over everything that can happen in a model, and from each state on to rest.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt::Debug;
use std::hash::Hash;
use xxhash_rust::xxh3::Xxh3;

/// A broken property.
pub type Flaw = String;

/// Steps within which a world must come to rest once faults stop.
const REST: usize = 300;

/// Something to explore.
pub trait Model: Clone + Hash {
    /// Something that can happen.
    type Step: Copy + Debug;
    /// What stays the same throughout.
    type Setting;

    /// What can happen next; with `faults` off, only what must happen by itself.
    fn steps(&self, setting: &Self::Setting, faults: bool, out: &mut Vec<Self::Step>);
    /// Does it, and looks whether all properties still hold.
    fn apply(&mut self, step: Self::Step, setting: &Self::Setting) -> Result<(), Flaw>;
    /// Which step comes first on the way to rest: the lowest.
    fn rank(step: Self::Step) -> u8;
    /// Whether the world may stay like this, nothing being left to happen by itself.
    fn at_rest(&self, setting: &Self::Setting) -> Result<(), Flaw>;
}

/// How much was explored.
#[derive(Debug, Clone, Copy, Default)]
pub struct Extent {
    pub states: usize,
    pub transitions: usize,
}

/// A broken property, and the way there.
#[derive(Debug)]
pub struct Found<M: Model> {
    pub flaw: Flaw,
    pub trace: Vec<M::Step>,
    pub world: Box<M>,
}

/// 128 bits: among 10^7 states, two that share one have a chance of 10^-25.
fn fingerprint(world: &impl Hash) -> u128 {
    let mut hasher = Xxh3::new();
    world.hash(&mut hasher);
    hasher.digest128()
}

type Parents<S> = HashMap<u128, (u128, Option<S>)>;

/// Explores all states from `start` on. `visit` sees each once; `invariant` is checked behind each step.
pub fn explore<M: Model>(
    start: M,
    setting: &M::Setting,
    most: usize,
    mut visit: impl FnMut(&M),
    invariant: impl Fn(&M) -> Result<(), Flaw>,
) -> Result<Extent, Box<Found<M>>> {
    let mut parents: Parents<M::Step> = HashMap::from([(fingerprint(&start), (0, None))]);
    let mut queue = VecDeque::from([start]);
    let mut at_rest = HashSet::new();
    let mut extent = Extent::default();
    let mut steps = Vec::new();
    while let Some(world) = queue.pop_front() {
        let from = fingerprint(&world);
        extent.states += 1;
        assert!(extent.states < most, "the model has grown past its bounds");
        visit(&world);
        let found = |flaw, mut trace: Vec<M::Step>, world| {
            let mut path = path(&parents, from);
            path.append(&mut trace);
            Box::new(Found { flaw, trace: path, world: Box::new(world) })
        };
        if let Err(end) = rest(&world, setting, &mut at_rest) {
            let (flaw, trace, world) = *end;
            return Err(found(flaw, trace, world));
        }
        steps.clear();
        world.steps(setting, true, &mut steps);
        let mut next = Vec::new();
        for &step in &steps {
            extent.transitions += 1;
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
    Ok(extent)
}

fn path<S: Copy>(parents: &Parents<S>, mut at: u128) -> Vec<S> {
    let mut path = Vec::new();
    while let Some((parent, Some(step))) = parents.get(&at) {
        path.push(*step);
        at = *parent;
    }
    path.reverse();
    path
}

/// How a way to rest went wrong: the flaw, the way, and where it ended.
type BadEnd<M> = Box<(Flaw, Vec<<M as Model>::Step>, M)>;

/// With faults off, one fair way on must end well.
fn rest<M: Model>(from: &M, setting: &M::Setting, known: &mut HashSet<u128>) -> Result<(), BadEnd<M>> {
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
        world.steps(setting, false, &mut steps);
        let Some(&step) = steps.iter().min_by_key(|&&step| M::rank(step)) else {
            return match world.at_rest(setting) {
                Ok(()) => {
                    known.extend(way);
                    Ok(())
                }
                Err(flaw) => Err(Box::new((flaw, trace, world))),
            };
        };
        trace.push(step);
        if let Err(flaw) = world.apply(step, setting) {
            return Err(Box::new((flaw, trace, world)));
        }
    }
    Err(Box::new(("liveness: no rest".into(), trace, world)))
}
