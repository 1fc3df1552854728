//! `remus -c`: a guest that runs on two hosts at once. The other host's part is its backend's: `sim_home.rs`.

use super::operator::Desk;
use super::primary;
use super::sim::{Guest, SimTarget};
use crate::colo::{Config, Dialect, Mode};
use crate::hypervisor::sim::{Pace, Runner, SimOutput};
use crate::hypervisor::{self, ComparedCard};
use crate::libxl;
use crate::replicate::colo::Times;
use crate::replicate::colo::primary::{Driver as Primary, Ended, Ending, Observer, Settings, Trouble};
use crate::replicate::colo::secondary::{LockstepTarget, Target};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

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

    pub(super) const fn times(&self, remus: &crate::remus::Config) -> Times {
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
