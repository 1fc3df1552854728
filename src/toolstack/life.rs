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
#![forbid(unsafe_code)]

use super::emulator::Emulator;
use super::failed;
use super::identity::{Identity, Kind};
use super::store::Session;
use super::suspend_channel::SuspendChannel;
use crate::hypervisor::xen::{Host, LifeHook, XenDomain};
use crate::hypervisor::{Domain, Error, Result, SaveDomain, ShutdownReason};
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
const CALLBACK_IRQ: u64 = 0;
const ACPI_S_STATE: u64 = 14;

/// A domain's handle with the toolstack behind it: it can be suspended and resumed, and its emulator saved.
///
/// # Errors
/// The domain, its emulator or xenstored cannot be reached.
pub fn open(host: &Host, identity: &Identity, patience: Duration) -> Result<XenDomain> {
    let domain = host.domain(identity.domid)?;
    let emulator = if identity.kind == Kind::Hvm { Some(Emulator::new(identity.domid)?) } else { None };
    let life = Arc::new(Mutex::new(Life::new(host, identity, emulator.clone(), patience)?));
    let other = Arc::clone(&life);
    let suspend: LifeHook = Box::new(move || life.lock().unwrap_or_else(PoisonError::into_inner).suspend());
    let resume: LifeHook = Box::new(move || other.lock().unwrap_or_else(PoisonError::into_inner).resume());
    let domain = domain.with_suspend(suspend).with_resume(resume);
    Ok(match emulator {
        Some(emulator) => domain.with_device_model(Box::new(emulator)),
        None => domain,
    })
}

struct Life {
    domid: u32,
    kind: Kind,
    /// A handle of its own: it tells, and resumes, while another one saves.
    domain: XenDomain,
    emulator: Option<Emulator>,
    session: Session,
    /// By which the guest is asked, where it offers one.
    channel: Option<SuspendChannel>,
    /// Where it is asked else.
    request: String,
    patience: Duration,
}

impl Life {
    fn new(host: &Host, identity: &Identity, emulator: Option<Emulator>, patience: Duration) -> Result<Self> {
        let domid = identity.domid;
        let asked = |error| failed("xenstore", error);
        let mut session = Session::open().map_err(asked)?;
        let request = format!("/local/domain/{domid}/control/shutdown");
        session.watch(&request, REQUEST).map_err(asked)?;
        session.watch("@releaseDomain", ENDS).map_err(asked)?;
        let domain = host.domain(domid)?;
        let channel = SuspendChannel::open(&domain, &mut session).unwrap_or_else(|error| {
            log::warn!("domain {domid}: its suspend event channel is not used: {error}");
            None
        });
        Ok(Life { domid, kind: identity.kind, domain, emulator, session, channel, request, patience })
    }

    fn suspend(&mut self) -> Result<()> {
        match &self.channel {
            Some(channel) if !self.sleeps()? => channel.ask()?,
            _ if self.can_be_asked()? => self.ask()?,
            _ => self.domain.suspend_from_outside()?,
        }
        self.until_suspended()?;
        self.emulator.as_ref().map_or(Ok(()), Emulator::stop)
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
                Some(channel) => self.session.changes_or(channel, deadline),
            };
            let told = told.map_err(|error| failed("xenstore", error))?;
            self.channel.as_ref().map_or(Ok(()), SuspendChannel::heard)?;
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

    fn resume(&mut self) -> Result<()> {
        // The guest may not run before its devices do.
        if let Some(emulator) = &self.emulator {
            emulator.resume()?;
        }
        self.domain.resume()?;
        self.session.resumed(self.domid).map_err(|error| failed("telling xenstored of a resume", error))
    }
}
