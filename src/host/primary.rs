//! `remus`: a domain of this host, protected.

use super::Protection;
use super::operator::Desk;
use super::sim::Guest;
use crate::hypervisor::sim::Runner;
use crate::hypervisor::{Bounded, DeviceModel, OutputBuffer, Replicated, SaveDomain};
use crate::remus::Generation;
use crate::remus::pacing::Pacing;
use crate::replicate::failpoint::Failpoints;
use crate::replicate::primary::{Driver, Ended, Ending, Observer, Resolve, Settings, Trouble};
use crate::transport::Address;
use crate::{libxc, libxl};

/// How to protect.
pub struct Job {
    /// Who may be active alone.
    pub protection: Protection,
    /// The newest generation that this side holds, or that the witness has given.
    pub generation: Generation,
    /// Whom to take as secondary at once.
    pub to: Option<Address>,
    /// What `ctl protect HOST` means.
    pub resolve: Resolve,
    /// How the interval moves by itself.
    pub pacing: Option<Pacing>,
    /// Most bytes copied before the guest runs on.
    pub staging_limit: u64,
    /// The configuration for xl's preamble.
    pub config: String,
    /// libxc's options.
    pub libxc: libxc::save::Options,
    /// The domain's disks that are replicated.
    pub disks: Vec<Box<dyn Replicated>>,
    /// Whether to end when protection does.
    pub once: bool,
    /// Where tests let this process die.
    pub failpoints: Failpoints,
}

/// Protects a domain until it is gone, or this process is told to end. The domain is given back in any state.
///
/// # Errors
/// [`Trouble`].
pub fn protect<D: SaveDomain + DeviceModel + Send + 'static>(
    domain: D,
    output: Box<dyn OutputBuffer>,
    job: Job,
    desk: &Desk,
    observer: impl Observer<D> + 'static,
) -> Result<(Ending, D), Trouble> {
    log::info!("{}: {}", job.protection.domain, job.protection.rule_in_words());
    // Heartbeats are not to be missed for a buffer that hangs: a half, and the heartbeat before it, are no time-out.
    let output = Box::new(Bounded::start(output, job.protection.config.timeout / 2)?);
    let settings = Settings {
        witness: job.protection.witness().map_err(|error| Trouble::Io(std::io::Error::other(error)))?,
        domain: job.protection.domain,
        config: job.protection.config,
        generation: job.generation,
        pacing: job.pacing,
        staging_limit: job.staging_limit,
        save: libxl::save::Options { config: Some(job.config), libxc: job.libxc },
        output,
        disks: job.disks,
        resolve: job.resolve,
        once: job.once,
        on_round: None,
        failpoints: job.failpoints,
    };
    let driver = Driver::default();
    desk.assign(driver.handle());
    let ended = driver.run(domain, job.to, observer, settings);
    desk.retire(ended.as_ref().ok().map(|ended| ended.status.clone()));
    let Ended { how, domain, .. } = ended?;
    Ok((how, domain))
}

/// The same for a simulated guest, which ends with this process.
///
/// # Errors
/// [`Trouble`]; or the domain that is left is damaged.
pub fn protect_simulated(
    guest: Guest,
    job: Job,
    desk: &Desk,
    observer: impl Observer<Runner> + 'static,
) -> Result<Ending, Trouble> {
    let Guest { runner, output, wire } = guest;
    let domain = job.protection.domain.clone();
    let (how, runner) = protect(runner, output, job, desk, observer)?;
    if how == Ending::Stopped || how == Ending::Unprotected {
        leave(&domain, &runner)?;
    }
    drop(wire);
    Ok(how)
}

/// A simulated guest lives in this process; a real one would go on. This one can say how it has fared.
pub(super) fn leave(domain: &str, runner: &Runner) -> Result<(), Trouble> {
    let turn = runner.turn().map_err(std::io::Error::other)?;
    turn.self_check().map_err(|error| std::io::Error::other(format!("the guest is damaged: {error}")))?;
    let run = if turn.is_running() { "running" } else { "standing still" };
    log::info!("{domain}: leaving it, {run} and sound after {} steps", turn.steps().unwrap_or_default());
    Ok(())
}
