//! `receive`: a copy of another host's domain, and its life after a failover.

use super::Protection;
use super::colo::Lockstep;
use super::digests::Digests;
use super::operator::Desk;
use super::primary;
use super::sim::{self, Backend, Guest, SimTarget};
use crate::hypervisor::Domain;
use crate::libxl::restore::Options;
use crate::remus::Generation;
use crate::remus::pacing::Pacing;
use crate::replicate::failpoint::Failpoints;
use crate::replicate::link::Record;
use crate::replicate::primary::{Ending, Resolve};
use crate::replicate::secondary::{Driver, End, Outcome, Settings, Survivor};
use crate::transport::{Cancel, Link, Listener};
use std::io;
use std::path::PathBuf;
use std::time::Instant;

/// How to receive.
pub struct Job {
    /// Who may be active alone.
    pub protection: Protection,
    /// Where simulated guests live.
    pub backend: Backend,
    /// What images are restored into.
    pub target: SimTarget,
    /// How to restore.
    pub restore: Options,
    /// Where to keep the streams.
    pub record: Option<PathBuf>,
    /// Whether one primary is enough.
    pub once: bool,
    /// For the survivor: what `ctl protect HOST` means.
    pub resolve: Box<dyn Fn() -> Resolve>,
    /// For the survivor: how the interval moves by itself.
    pub pacing: Option<Pacing>,
    /// For the survivor: most octets copied before the guest runs on.
    pub staging_limit: u64,
    /// Where tests let this process die.
    pub failpoints: Failpoints,
    /// COLO, and whether the primary is libxl; Remus without it.
    pub colo: Option<(Lockstep, bool)>,
    /// Where to keep sums of the survivor's state, and of its checkpoints.
    pub digests: Option<PathBuf>,
}

/// Where primaries come from.
pub enum Source {
    /// One connection, which is there.
    Link(Link, Cancel),
    /// One after another.
    Listener(Listener),
}

/// Serves one primary after another, and goes on with the guest when it may.
///
/// Gives true when it ended as it should: dismissed or stopped, or, for a survivor, handed on or stopped.
///
/// # Errors
/// What the last session, or the survivor, failed with.
pub fn receive(source: Source, job: &Job, desk: &Desk) -> io::Result<bool> {
    log::info!("{}: {}", job.protection.domain, job.protection.rule_in_words());
    let mut record = job.record.clone().map(Record::new);
    let listener = match source {
        Source::Link(link, cancel) => {
            return one(link, cancel, job, &mut record, desk).map(|served| matches!(served, Served::Well));
        }
        Source::Listener(listener) => listener,
    };
    loop {
        let (link, cancel) = match listener.accept(&desk.waiting()) {
            Ok(accepted) => accepted,
            Err(_) if desk.is_terminated() => return Ok(true),
            Err(error) => return Err(error),
        };
        let served = one(link, cancel, job, &mut record, desk);
        if job.once || desk.is_terminated() || matches!(served, Ok(Served::Survived(_))) {
            return served.map(|served| matches!(served, Served::Well | Served::Survived(true)));
        }
        if let Err(error) = served {
            log::error!("{}: {error}", job.protection.domain);
        }
        log::info!("{}: waiting for a primary", job.protection.domain);
    }
}

pub(super) enum Served {
    Well,
    Badly,
    /// The guest came to live here; whether it left as it should.
    Survived(bool),
}

fn one(link: Link, cancel: Cancel, job: &Job, record: &mut Option<Record>, desk: &Desk) -> io::Result<Served> {
    if let Some((lockstep, bare)) = job.colo {
        return super::colo::one(link, cancel, job, lockstep, bare, desk);
    }
    let driver = Driver::<SimTarget>::default();
    desk.assign(driver.handle());
    let settings = Settings {
        domain: job.protection.domain.clone(),
        config: job.protection.config,
        restore: job.restore,
        fence: job.protection.fence.clone(),
        witness: job.protection.witness().map_err(io::Error::other)?,
        record: record.as_mut().map(Record::next_session),
        on_checkpoint: None,
        failpoints: job.failpoints.clone(),
    };
    let outcome = driver.run(link, cancel, job.target.clone(), settings);
    desk.retire(None);
    match outcome.map_err(io::Error::other)? {
        Outcome::Ended(End::Dismissed | End::Stopped) => Ok(Served::Well),
        Outcome::Ended(_) => Ok(Served::Badly),
        Outcome::Survivor(survivor) => live(survivor, job, desk).map(Served::Survived),
    }
}

/// The guest's life on this host.
pub(super) fn live(survivor: Survivor<crate::hypervisor::sim::SimDomain>, job: &Job, desk: &Desk) -> io::Result<bool> {
    let Survivor { mut domain, checkpoint, generation, lost } = survivor;
    let mut digests = job.digests.as_deref().map(|path| Digests::open(path, true)).transpose()?;
    if let Some(digests) = &mut digests {
        digests.survivor(checkpoint, &domain)?;
    }
    domain.unpause().map_err(io::Error::other)?;
    let guest = job.backend.house(domain).map_err(io::Error::other)?;
    settle(guest, checkpoint, generation, lost, job, desk)
}

/// A survivor's life on this host.
pub(super) fn settle(
    guest: Guest,
    checkpoint: u64,
    generation: Generation,
    lost: Instant,
    job: &Job,
    desk: &Desk,
) -> io::Result<bool> {
    let config = sim::xl_config(guest.runner.turn().map_err(io::Error::other)?.config());
    let digests = job.digests.as_deref().map(|path| Digests::open(path, true)).transpose()?;
    log::warn!(
        "{}: the guest runs here, from checkpoint {checkpoint}, {:.1} ms after the primary counted as lost; {generation}. \
         It is UNPROTECTED: ctl protect HOST",
        job.protection.domain,
        lost.elapsed().as_secs_f64() * 1e3,
    );
    let ended = primary::protect(
        guest,
        primary::Job {
            protection: job.protection.clone(),
            generation,
            to: None,
            resolve: (job.resolve)(),
            pacing: job.pacing,
            staging_limit: job.staging_limit,
            config,
            once: false,
            failpoints: Failpoints::default(),
        },
        desk,
        digests,
    );
    let how = ended.map_err(io::Error::other)?;
    Ok(matches!(how, Ending::SwitchedOver | Ending::Stopped))
}
