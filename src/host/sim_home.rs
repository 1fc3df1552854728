//! A host of simulated guests in `receive`: by checkpoints, and in lock-step.

use super::colo::{Lockstep, SimLockstep};
use super::digests::Digests;
use super::home::{Home, Job, Served, Session};
use super::kept::WithDisks;
use super::operator::Desk;
use super::primary::{self, protect_simulated};
use super::sim::{Backend, Guest, SimTarget, xl_config};
use crate::colo::secondary::End;
use crate::disk::Device;
use crate::hypervisor::Domain;
use crate::hypervisor::sim::{Runner, SimDomain};
use crate::remus::Generation;
use crate::replicate::colo::secondary::{Driver, Settings, Survivor};
use crate::replicate::primary::Ending;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::time::Instant;

/// A host of simulated guests, as the secondary's.
#[derive(Debug, Clone)]
pub struct SimHome {
    /// Where they live.
    pub backend: Backend,
    /// What images are restored into.
    pub target: SimTarget,
    /// Their disks.
    pub disks: Vec<Device>,
    /// COLO, and whether the primary is libxl; Remus without it.
    pub colo: Option<(Lockstep, bool)>,
    /// Where to keep sums of the survivor's state, and of its checkpoints.
    pub digests: Option<PathBuf>,
}

impl Home for SimHome {
    type Copies = WithDisks<SimTarget>;

    fn copies(&self) -> WithDisks<SimTarget> {
        WithDisks { copies: self.target.clone(), disks: self.disks.clone() }
    }

    fn live(
        &self,
        mut domain: SimDomain,
        checkpoint: u64,
        job: primary::Job,
        desk: &Desk,
        tell: &dyn Fn(),
    ) -> io::Result<Ending> {
        let config = xl_config(domain.config());
        let mut digests = self.digests.as_deref().map(|path| Digests::open(path, true)).transpose()?;
        if let Some(digests) = &mut digests {
            digests.survivor(checkpoint, &domain)?;
        }
        domain.unpause().map_err(io::Error::other)?;
        let guest = self.backend.house(domain).map_err(io::Error::other)?;
        tell();
        protect_simulated(guest, primary::Job { config, ..job }, desk, digests).map_err(io::Error::other)
    }

    fn is_lockstep(&self) -> bool {
        self.colo.is_some()
    }

    fn one_in_lockstep(&self, session: Session, job: &Job<Self>, desk: &Desk) -> io::Result<Served<Self>> {
        let Some((lockstep, bare)) = self.colo else { return Err(io::ErrorKind::Unsupported.into()) };
        one_in_lockstep(session, job, lockstep, bare, desk)
    }
}

/// Serves one primary, and goes on with the guest when it may.
fn one_in_lockstep(
    session: Session,
    job: &Job<SimHome>,
    lockstep: Lockstep,
    bare: bool,
    desk: &Desk,
) -> io::Result<Served<SimHome>> {
    let Session { link, cancel, mut replica } = session;
    let protection = &job.protection;
    let driver = Driver::<SimLockstep>::default();
    desk.assign(driver.handle());
    let mut settings = Settings::new(protection.domain.clone(), lockstep.config(&protection.config));
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
    let outcome = outcome.map_err(io::Error::other)?;
    Ok(Served::of(outcome, |end| matches!(end, End::Stopped | End::Dismissed), live, job, desk))
}

/// The guest runs here already; now its card is plugged in.
fn live(survivor: Survivor<Runner>, job: &Job<SimHome>, desk: &Desk) -> io::Result<bool> {
    let Survivor { domain, checkpoint, generation, lost } = survivor;
    let guest = job.home.backend.plug(domain).map_err(io::Error::other)?;
    settle(guest, checkpoint, generation, lost, job, desk)
}

/// The life of a guest that runs here already.
fn settle(
    guest: Guest,
    checkpoint: u64,
    generation: Generation,
    lost: Instant,
    job: &Job<SimHome>,
    desk: &Desk,
) -> io::Result<bool> {
    let config = xl_config(guest.runner.turn().map_err(io::Error::other)?.config());
    let digests = job.home.digests.as_deref().map(|path| Digests::open(path, true)).transpose()?;
    job.tell(checkpoint, generation, lost);
    let next = primary::Job { config, ..job.next(generation) };
    let how = protect_simulated(guest, next, desk, digests).map_err(io::Error::other)?;
    Ok(matches!(how, Ending::SwitchedOver | Ending::Stopped))
}
