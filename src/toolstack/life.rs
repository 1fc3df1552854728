//! Suspending a guest with its help, and letting it go on: what libxl does between `xc_domain_save`'s callbacks.
//!
//! ```text
//!   control/shutdown = "suspend"      the guest takes the value away: it has heard
//!     (or an event, where the guest offers a channel: suspend_channel.rs)
//!                                     Xen has it as shut down, reason suspend; xenstored tells (@releaseDomain)
//!   emulator: stop                     ... emulator: cont
//!                                     xc_domain_resume(fast), xenstored is told (RESUME)
//! ```
//! A guest that does not answer in time has the request taken back, so that it does not follow it when nobody waits any more.
//!
//! Whatever fails after the guest has suspended, it is resumed before the failure is returned. Where that fails as well, the error is
//! [`Error::LeftSuspended`], and `xen-replicate resume` is what helps: no subcommand of xl's up to 4.18 resumes a suspended domain
//! (`xl unpause` takes back a pause, which is another state).
#![forbid(unsafe_code)]

use super::emulator::Emulator;
use super::failed;
use super::identity::{Identity, Kind};
use super::store::Server;
use super::store::Session;
use super::suspend_channel::Channel;
use crate::hypervisor::{
    Domain, SaveDomain,
    xen::{Host, LifeHook, XenDomain},
};
use crate::hypervisor::{DomainInfo, Error, Result, ShutdownReason};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long libxl lets a guest take: to acknowledge the request, and to follow it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What a guest is asked for.
const SUSPEND: &str = "suspend";
/// Tokens of the two watches.
const REQUEST: &str = "request";
const ENDS: &str = "ends";
/// HVM parameters that are no part of a stream (`public/hvm/params.h`): how events reach the guest, which a guest with PV drivers has
/// set; and its ACPI sleep state.
pub(super) const CALLBACK_IRQ: u64 = 0;
const ACPI_S_STATE: u64 = 14;

/// What of a domain's life is the hypervisor's.
pub trait Hypervisor: Send {
    /// How the domain is now.
    ///
    /// # Errors
    /// The hypervisor's.
    fn info(&self) -> Result<DomainInfo>;

    /// The value of a HVM parameter.
    ///
    /// # Errors
    /// The hypervisor's.
    fn hvm_param(&self, index: u64) -> Result<u64>;

    /// Shuts the domain down as if it had suspended itself.
    ///
    /// # Errors
    /// The hypervisor's.
    fn suspend_from_outside(&mut self) -> Result<()>;

    /// Lets the suspended domain run.
    ///
    /// # Errors
    /// The hypervisor's: it is suspended still.
    fn resume(&mut self) -> Result<()>;
}

impl Hypervisor for XenDomain {
    fn info(&self) -> Result<DomainInfo> {
        Domain::info(self)
    }

    fn hvm_param(&self, index: u64) -> Result<u64> {
        SaveDomain::hvm_param(self, index)
    }

    fn suspend_from_outside(&mut self) -> Result<()> {
        XenDomain::suspend_from_outside(self)
    }

    fn resume(&mut self) -> Result<()> {
        Domain::resume(self)
    }
}

/// A domain's handle with the toolstack behind it: it can be suspended and resumed, and its emulator saved.
///
/// # Errors
/// The domain, its emulator or xenstored cannot be reached.
pub fn open(host: &Host, identity: &Identity, patience: Duration) -> Result<XenDomain> {
    let domain = host.domain(identity.domid)?;
    let server = Server::default();
    let emulator = if identity.kind == Kind::Hvm {
        let uuid = Domain::info(&domain)?.uuid;
        Some(Emulator::new(identity.domid, uuid, super::emulator::Place::default(), server.clone())?)
    } else {
        None
    };
    // A handle of its own: it tells, and resumes, while another one saves.
    let other = host.domain(identity.domid)?;
    let mut session = Session::at(&server).map_err(|error| failed("xenstore", error))?;
    let channel = super::suspend_channel::SuspendChannel::open(&other, &mut session).unwrap_or_else(|error| {
        log::warn!("domain {}: its suspend event channel is not used: {error}", identity.domid);
        None
    });
    let mut life = Life::new(identity, other, emulator.clone(), server, patience)?;
    life.channel = channel.map(|channel| Box::new(channel) as Box<dyn Channel>);
    let life = Arc::new(Mutex::new(life));
    let other = Arc::clone(&life);
    let suspend: LifeHook = Box::new(move || life.lock().unwrap_or_else(PoisonError::into_inner).suspend());
    let resume: LifeHook = Box::new(move || other.lock().unwrap_or_else(PoisonError::into_inner).resume());
    let domain = domain.with_suspend(suspend).with_resume(resume);
    Ok(match emulator {
        Some(emulator) => domain.with_device_model(Box::new(emulator)),
        None => domain,
    })
}

/// What suspends and resumes one guest.
pub struct Life<H> {
    domid: u32,
    kind: Kind,
    domain: H,
    emulator: Option<Emulator>,
    server: Server,
    session: Session,
    /// xenstored has not been told yet that the domain runs again.
    untold: bool,
    /// By which the guest is asked, where it offers one.
    channel: Option<Box<dyn Channel>>,
    /// Where it is asked else.
    request: String,
    patience: Duration,
}

impl<H: Hypervisor> Life<H> {
    /// A guest's life. `patience` is how long it may take to acknowledge a request, and to follow it.
    ///
    /// # Errors
    /// xenstored's.
    pub fn new(
        identity: &Identity,
        domain: H,
        emulator: Option<Emulator>,
        server: Server,
        patience: Duration,
    ) -> Result<Self> {
        let domid = identity.domid;
        let request = format!("/local/domain/{domid}/control/shutdown");
        let session = watching(&server, &request)?;
        let kind = identity.kind;
        Ok(Life { domid, kind, domain, emulator, server, session, untold: false, channel: None, request, patience })
    }

    /// Has the guest suspend, and its emulator stop.
    ///
    /// # Errors
    /// It runs on, but for [`Error::LeftSuspended`].
    pub fn suspend(&mut self) -> Result<()> {
        self.reconnect()?;
        let (sleeps, hears) = (self.sleeps()?, self.can_be_asked()?);
        self.emulator.as_ref().map_or(Ok(()), Emulator::attend)?;
        // From here on it may have been asked.
        let suspended = self.ask_and_wait(sleeps, hears);
        let stopped = suspended.and_then(|()| self.emulator.as_ref().map_or(Ok(()), Emulator::stop));
        stopped.map_err(|error| self.undo(error))
    }

    fn ask_and_wait(&mut self, sleeps: bool, hears: bool) -> Result<()> {
        match &self.channel {
            Some(channel) if !sleeps => channel.ask()?,
            _ if hears => self.ask()?,
            _ => self.domain.suspend_from_outside()?,
        }
        self.until_suspended()
    }

    /// Lets the guest run again, whatever it was that failed.
    fn undo(&mut self, error: Error) -> Error {
        self.withdraw();
        match self.domain.info() {
            Ok(info) if !info.is_suspended() => {
                self.emulator.as_ref().inspect(|emulator| emulator.let_be());
                error
            }
            Err(gone @ Error::NoSuchDomain { .. }) => gone,
            // Where its state cannot be read it may be suspended; of one that runs Xen refuses a resume.
            Ok(_) | Err(_) => match self.resume() {
                Ok(()) => error,
                Err(Error::LeftSuspended { problem, .. }) => {
                    Error::LeftSuspended { domid: self.domid, cause: Box::new(error), problem }
                }
                Err(problem) => {
                    Error::LeftSuspended { domid: self.domid, cause: Box::new(error), problem: Box::new(problem) }
                }
            },
        }
    }

    /// Takes a request back that nobody waits for any more, over a new connection where the old one has failed.
    fn withdraw(&mut self) {
        let taken = self.reconnect().and_then(|()| {
            self.session.exchange(&self.request, SUSPEND, "").map_err(|error| failed("xenstore", error))
        });
        if let Err(error) = taken {
            log::error!(
                "domain {}: the request to suspend cannot be taken back, it may follow it yet: {error}",
                self.domid
            );
        }
    }

    /// A connection that has failed is replaced, and tells what the other one did not.
    fn reconnect(&mut self) -> Result<()> {
        if self.session.is_broken() {
            self.session = watching(&self.server, &self.request)?;
        }
        if self.untold {
            self.session.resumed(self.domid).map_err(|error| failed("telling xenstored of a resume", error))?;
            self.untold = false;
        }
        Ok(())
    }

    /// A HVM guest without PV drivers, or asleep, has nobody who would hear.
    fn can_be_asked(&self) -> Result<bool> {
        Ok(self.kind != Kind::Hvm || (self.domain.hvm_param(CALLBACK_IRQ)? != 0 && !self.sleeps()?))
    }

    fn sleeps(&self) -> Result<bool> {
        Ok(self.kind == Kind::Hvm && self.domain.hvm_param(ACPI_S_STATE)? != 0)
    }

    /// Asks, and waits until the guest has heard.
    fn ask(&mut self) -> Result<()> {
        let asked = |error| failed("xenstore", error);
        // libxl makes the key when it makes the domain, and removes it before it destroys it.
        if !self.session.replace(&self.request, SUSPEND).map_err(asked)? {
            return Err(Error::NoSuchDomain { domid: self.domid });
        }
        let deadline = Instant::now() + self.patience;
        loop {
            // Whoever is suspended has heard, whatever xenstore still has.
            if self.has_suspended()? || self.session.get(&self.request).map_err(asked)?.as_deref() != Some(SUSPEND) {
                return Ok(());
            }
            if self.session.next_event(deadline).map_err(asked)?.is_none() {
                let unheard = self.session.exchange(&self.request, SUSPEND, "").map_err(asked)?;
                // At the last moment, or the guest went on without it.
                return if unheard { Err(self.unanswered("acknowledge")) } else { Ok(()) };
            }
        }
    }

    fn until_suspended(&mut self) -> Result<()> {
        let deadline = Instant::now() + self.patience;
        while !self.has_suspended()? {
            let told = match &self.channel {
                None => self.session.next_event(deadline).map(|event| event.is_some()),
                // What is no suspend is told by xenstored alone.
                Some(channel) => self.session.changes_or(&channel.as_fd(), deadline),
            };
            let told = told.map_err(|error| failed("xenstore", error))?;
            self.channel.as_ref().map_or(Ok(()), |channel| channel.heard())?;
            if !told && !self.has_suspended()? {
                return Err(self.unanswered("follow"));
            }
        }
        Ok(())
    }

    /// A guest that is shut down for another reason will not suspend any more.
    fn has_suspended(&self) -> Result<bool> {
        match self.domain.info()?.shutdown {
            None => Ok(false),
            Some(ShutdownReason::Suspend) => Ok(true),
            shutdown => Err(Error::SuspendNotAcknowledged { domid: self.domid, shutdown }),
        }
    }

    fn unanswered(&self, what: &str) -> Error {
        let Life { domid, kind, patience, .. } = self;
        Error::Toolstack(format!(
            "domain {domid}: the {kind} guest did not {what} the request to suspend in {patience:?}"
        ))
    }

    /// What fails and leaves the guest suspended is tried once more.
    fn let_run(&mut self) -> Result<()> {
        let Err(error) = self.domain.resume() else { return Ok(()) };
        match self.domain.info() {
            Ok(info) if !info.is_suspended() => Ok(()),
            _ => self.domain.resume().map_err(|_| error),
        }
    }

    /// Lets the guest run again, after its emulator.
    ///
    /// # Errors
    /// It is suspended still: [`Error::LeftSuspended`].
    pub fn resume(&mut self) -> Result<()> {
        // The guest may not run before its devices do.
        let resumed = self.emulator.as_ref().map_or(Ok(()), Emulator::resume).and_then(|()| self.let_run());
        if let Err(problem) = resumed {
            let cause = Box::new(Error::Toolstack("it was to be resumed".into()));
            return Err(Error::LeftSuspended { domid: self.domid, cause, problem: Box::new(problem) });
        }
        // It runs, whatever comes now.
        self.untold = true;
        if let Err(error) = self.reconnect().or_else(|_| self.reconnect()) {
            log::warn!("domain {}: it runs; xenstored is told so before its next checkpoint: {error}", self.domid);
        }
        Ok(())
    }
}

fn watching(server: &Server, request: &str) -> Result<Session> {
    let asked = |error| failed("xenstore", error);
    let mut session = Session::at(server).map_err(asked)?;
    session.watch(request, REQUEST).map_err(asked)?;
    session.watch("@releaseDomain", ENDS).map_err(asked)?;
    Ok(session)
}

#[cfg(test)]
#[path = "life_tests.rs"]
mod tests;
