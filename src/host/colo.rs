//! `remus -c` and `receive --colo`: a guest that runs on two hosts at once, and on one of them from then on.

use super::custody::Kept;
use super::digests::Digests;
use super::operator::Desk;
use super::sim::{Backend, Guest, SimHome, SimTarget};
use super::{primary, secondary};
use crate::colo::secondary::End;
use crate::colo::{Config, Dialect, Mode};
use crate::hypervisor::sim::{Pace, Runner, SimOutput};
use crate::hypervisor::{self, ComparedCard};
use crate::libxl;
use crate::replicate::colo::Times;
use crate::replicate::colo::primary::{Driver as Primary, Ended, Ending, Observer, Settings, Trouble};
use crate::replicate::colo::secondary::{
    Driver as Secondary, LockstepTarget, Outcome, Settings as SecondarySettings, Survivor, Target,
    Trouble as SecondaryTrouble,
};
use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What COLO needs to know besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lockstep {
    /// What the secondary's guest does between checkpoints.
    pub mode: Mode,
    /// The longest time between two checkpoints.
    pub period: Duration,
    /// How long a packet of one guest waits for the other's.
    pub patience: Duration,
}

impl Default for Lockstep {
    /// Lock-step, 5 s, 200 ms.
    fn default() -> Self {
        let config = Config::new(Dialect::Libxl, Mode::LockStep);
        Lockstep { mode: config.mode, period: config.period, patience: Times::default().patience }
    }
}

impl Lockstep {
    /// The settings of COLO's machine, with the rule, the fence and the times of Remus' one.
    pub fn config(&self, remus: &crate::remus::Config) -> Config {
        Config {
            period: self.period,
            answer: remus.answer,
            retry: remus.retry,
            rule: remus.rule,
            fence: remus.fence,
            ..Config::new(Dialect::Libxl, self.mode)
        }
    }

    const fn times(&self, remus: &crate::remus::Config) -> Times {
        Times { heartbeat: remus.heartbeat, timeout: remus.timeout, patience: self.patience }
    }
}

/// Makes simulated domains that run beside a primary's.
#[derive(Debug, Clone)]
pub struct SimLockstep {
    /// What domains are taken.
    pub target: SimTarget,
    /// How fast they run.
    pub pace: Pace,
}

impl Target for SimLockstep {
    type Domain = Runner;

    fn create(&mut self, config: Option<&[u8]>) -> hypervisor::Result<Runner> {
        Runner::start(self.target.create(config)?, self.pace)
    }
}

impl LockstepTarget for SimLockstep {
    fn card(&self, domain: &Runner) -> Box<dyn ComparedCard> {
        Box::new(SimOutput::new(domain.nic()))
    }
}

/// An observer that a second driver of the same guest goes on with.
struct Shared<O>(Arc<Mutex<O>>);

impl<O: Observer<Runner>> Observer<Runner> for Shared<O> {
    fn suspended(&mut self, number: u64, domain: &Runner) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).suspended(number, domain);
    }
}

/// Has a guest followed by another host, until there is none or this process is told to end. A guest that is left alone then waits, unless
/// `once`, for another host to protect it: by Remus.
///
/// # Errors
/// [`Trouble`]; or the domain that is left is damaged.
pub fn protect(
    guest: Guest,
    job: primary::Job,
    lockstep: Lockstep,
    desk: &Desk,
    observer: impl Observer<Runner> + 'static,
) -> Result<Ending, Trouble> {
    let Guest { runner, output, wire } = guest;
    let Some(to) = job.to.clone() else {
        return primary::protect_simulated(Guest { runner, output, wire }, job, desk, observer);
    };
    let remus = job.protection.config;
    log::info!("{}: {}", job.protection.domain, job.protection.rule_in_words());
    let card = Box::new(SimOutput::new(runner.nic()));
    let mut settings = Settings::new(job.protection.domain.clone(), lockstep.config(&remus), job.generation, card);
    settings.times = lockstep.times(&remus);
    settings.witness = job.protection.witness().map_err(|error| Trouble::Io(io::Error::other(error)))?;
    settings.save = libxl::save::Options { config: Some(job.config.clone()), ..libxl::save::Options::default() };
    settings.bare = remus.bare;
    settings.once = job.once;
    settings.failpoints = job.failpoints.clone();
    let driver = Primary::default();
    desk.assign(driver.handle());
    let observer = Arc::new(Mutex::new(observer));
    let ended = driver.run(runner, to, Shared(Arc::clone(&observer)), settings);
    desk.retire(ended.as_ref().ok().map(|ended| ended.status.clone()));
    let Ended { how, domain: runner, generation, .. } = ended?;
    if how == Ending::Unprotected && !job.once {
        let job = primary::Job { to: None, generation, ..job };
        return primary::protect_simulated(Guest { runner, output, wire }, job, desk, Shared(observer));
    }
    if how == Ending::Stopped || how == Ending::Unprotected {
        primary::leave(&job.protection.domain, &runner)?;
    }
    drop(wire);
    Ok(how)
}

/// Serves one primary, and goes on with the guest when it may.
pub(super) fn one(
    session: secondary::Session,
    job: &secondary::Job<SimHome>,
    lockstep: Lockstep,
    bare: bool,
    desk: &Desk,
) -> io::Result<secondary::Served<SimHome>> {
    let secondary::Session { link, cancel, mut replica } = session;
    let protection = &job.protection;
    let driver = Secondary::<SimLockstep>::default();
    desk.assign(driver.handle());
    let mut settings = SecondarySettings::new(protection.domain.clone(), lockstep.config(&protection.config));
    settings.times = lockstep.times(&protection.config);
    settings.bare = bare;
    settings.generation = if bare { protection.newest().map_err(io::Error::other)? } else { settings.generation };
    settings.restore = job.restore;
    settings.fence = protection.fence.clone();
    settings.witness = protection.witness().map_err(io::Error::other)?;
    settings.record = job.record.as_deref().map(File::create).transpose()?;
    settings.on_checkpoint = Some(Box::new(move |_| {
        if let Some(replaced) = replica.take() {
            replaced();
        }
    }));
    settings.failpoints = job.failpoints.clone();
    let target = SimLockstep { target: job.home.target.clone(), pace: job.home.backend.pace() };
    let digests = job.home.digests.as_deref().map(|path| Digests::open(path, true)).transpose()?;
    let outcome = driver.run(link, cancel, target, digests, settings);
    desk.retire(None);
    match outcome.map_err(io::Error::other)? {
        Outcome::Ended(End::Stopped | End::Dismissed) => Ok(secondary::Served::Well),
        Outcome::Ended(_) => Ok(secondary::Served::Badly),
        Outcome::Unsuited(text) => {
            log::error!("{}: {text}", protection.domain);
            Ok(secondary::Served::Badly)
        }
        Outcome::Denied(held) => Ok(secondary::Served::Denied(Kept {
            facts: held.facts.clone(),
            go_on: Box::new(move |generation, job, desk| {
                let (checkpoint, lost) = (held.facts.checkpoint, Instant::now());
                let unfit = |text| SecondaryTrouble::Unfit(text, generation);
                let domain = held.activate().map_err(unfit).map_err(io::Error::other)?;
                live(Survivor { domain, checkpoint, generation, lost }, job, desk)
            }),
        })),
        Outcome::Survivor(survivor) => live(survivor, job, desk).map(secondary::Served::Survived),
    }
}

/// The guest runs here already; now its card is plugged in.
fn live(survivor: Survivor<Runner>, job: &secondary::Job<SimHome>, desk: &Desk) -> io::Result<bool> {
    let Survivor { domain, checkpoint, generation, lost } = survivor;
    let guest = job.home.backend.plug(domain).map_err(io::Error::other)?;
    secondary::settle(guest, checkpoint, generation, lost, job, desk)
}

/// How fast a backend's guests run.
impl Backend {
    pub(crate) fn pace(&self) -> Pace {
        self.steps.map_or(Pace::Free, Pace::StepsPerSecond)
    }
}
