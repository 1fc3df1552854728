//! The model of Remus to the explorer, and what an exploration must have met.

use super::explorer::{self, Found, Model};
use super::steps::Step;
use super::world::{Flaw, Setting, Who, World};
use replication_protocol::remus::primary::Phase;
use replication_protocol::remus::{Rule, Timer, secondary};

/// States that no model here reaches.
const MOST: usize = 20_000_000;

pub struct Explored {
    pub states: usize,
    pub transitions: usize,
    /// States in which a secondary was active, the primary went on alone, or its guest was stopped: what the exploration
    /// must have met to be worth anything.
    pub failed_over: usize,
    pub alone: usize,
    pub ended: usize,
}

/// Explores all states of `setting`. `invariant` is checked in each, besides the properties that always hold.
pub fn explore(
    setting: &Setting,
    invariant: impl Fn(&World) -> Result<(), Flaw>,
) -> Result<Explored, Box<Found<World>>> {
    let mut explored = Explored { states: 0, transitions: 0, failed_over: 0, alone: 0, ended: 0 };
    let visit = |world: &World| {
        explored.failed_over += usize::from(world.sites.iter().any(|site| site.active.is_some()));
        explored.alone += usize::from(world.primary.went_alone);
        explored.ended += usize::from(world.primary.paused);
    };
    let extent = explorer::explore(World::new(setting), setting, MOST, visit, invariant)?;
    Ok(Explored { states: extent.states, transitions: extent.transitions, ..explored })
}

impl Model for World {
    type Step = Step;
    type Setting = Setting;

    fn steps(&self, setting: &Setting, faults: bool, out: &mut Vec<Step>) {
        self.steps(setting.config.rule, faults, out);
    }

    fn apply(&mut self, step: Step, setting: &Setting) -> Result<(), Flaw> {
        self.apply(step, setting)
    }

    fn rank(step: Step) -> u8 {
        rank(step)
    }

    /// Exactly one copy must be active where nothing more happens.
    fn at_rest(&self, setting: &Setting) -> Result<(), Flaw> {
        at_rest(self, setting)
    }
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
        && matches!(
            p.machine.phase(),
            Phase::Alone | Phase::Protected | Phase::Greeting | Phase::Connecting | Phase::Claiming
        );
    let active = usize::from(primary) + world.sites.iter().filter(|site| site.active.is_some()).count();
    let usable =
        |at: usize| world.sites[at].alive && !matches!(world.sites[at].machine.phase(), secondary::Phase::Ended(_));
    let nobody_left = !p.alive && !(0..world.sites.len()).any(usable);
    let entitled_is_dead = setting.config.rule == Rule::Witness
        && match world.witness.1 {
            Who::Primary => !p.alive,
            Who::Site(at) => !usable(at.into()),
            // Nobody of the two, both of whom it has cut off.
            Who::Stray => false,
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
