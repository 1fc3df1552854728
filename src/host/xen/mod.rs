//! The backend of a real host: domains of its Xen, as libxl has made them.
//!
//! | file | what |
//! |---|---|
//! | `incoming` | the secondary's copy: what a stock receiver has built |
//! | `receiver` | that receiver, and who decides when it takes over |
#![forbid(unsafe_code)]

pub mod incoming;
pub mod receiver;

use self::incoming::{Active, Incoming};
use super::operator::Desk;
use super::primary::{self, protect};
use super::secondary::Home;
use crate::hypervisor::xen::{Host, XenDomain};
use crate::hypervisor::{Domain, Error, NoBuffer, OutputBuffer, Replicated, Result, RunState, Uuid};
use crate::libxc;
use crate::replicate::primary::Ending;
use crate::toolstack::identity::Identity;
use crate::toolstack::netbuf::NetBuffer;
use crate::toolstack::store::Server;
use crate::toolstack::store::Store;
use crate::toolstack::{cover, disks, drbd, life, xl};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How a domain is to be protected.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long the guest may take to follow a request.
    pub patience: Duration,
    /// `-n`: output is never held.
    pub unbuffered: bool,
    /// `-N`: what sets up the buffer of a network card.
    pub netbuf_script: Option<PathBuf>,
    /// `-d`: disks are not looked at.
    pub any_disks: bool,
    /// Whether the other side acknowledges checkpoints: without that nobody commits them to keepers of disks.
    pub acknowledged: bool,
    /// A survivor's: there is nobody yet to hold output for, or to replicate disks to.
    pub lazy: bool,
}

/// A domain of this host, ready to be protected.
pub struct Guest {
    /// Its handle.
    pub domain: XenDomain,
    /// Its disks that are replicated.
    pub disks: Vec<Box<dyn Replicated>>,
    /// Where its packets wait.
    pub output: Box<dyn OutputBuffer>,
    /// The same, to be taken away at the end.
    pub buffer: Option<NetBuffer>,
    /// Who it is.
    pub identity: Identity,
    /// Its configuration, for xl's preamble.
    pub config: String,
    /// libxc's options: the version of this host's Xen.
    pub libxc: libxc::save::Options,
}

/// Who a domain is that the operator names.
///
/// # Errors
/// There is none, or more than one; xenstore's.
pub fn find(called: &str) -> Result<Identity> {
    let store = Store::open().map_err(|error| crate::hypervisor::Error::Toolstack(format!("xenstore: {error}")))?;
    Identity::find(&store, called)
}

/// What is found of a domain before it is decided whether it may run here. Nothing is changed by looking.
pub struct Found {
    /// Its UUID.
    pub uuid: Uuid,
    /// What it does.
    pub state: RunState,
    /// What an earlier process has left of its buffer, where that may hold output.
    left: Option<NetBuffer>,
}

impl Found {
    /// Looks at a domain.
    ///
    /// # Errors
    /// The hypervisor's, the toolstack's.
    pub fn look(identity: &Identity, options: &Options) -> Result<Self> {
        let info = life::open(&Host::open()?, identity, options.patience)?.info()?;
        let buffer = match NetBuffer::new(identity.domid, options.netbuf_script.clone()) {
            Ok(buffer) => buffer.is_left()?.then_some(buffer),
            // -n is for a domain whose output cannot be held.
            Err(_) if options.unbuffered => None,
            Err(error) => return Err(error),
        };
        Ok(Found { uuid: info.uuid, state: info.run_state(), left: buffer })
    }

    /// Whether an earlier process has left a buffer that may hold output.
    pub const fn is_output_left(&self) -> bool {
        self.left.is_some()
    }

    /// Another host holds the newest generation: what an earlier process has left of a buffer holds from here on.
    ///
    /// # Errors
    /// xenstore's, the kernel's.
    pub fn hold(&self) -> Result<()> {
        self.left.as_ref().map_or(Ok(()), |buffer| buffer.adopt().map(drop))
    }
}

/// Takes hold of a domain of which it is decided that it may run here. It runs on meanwhile; what an earlier process has held of its
/// output leaves.
///
/// # Errors
/// The hypervisor's, the toolstack's; what protects its output or its disks cannot be had.
pub fn house(identity: Identity, options: &Options) -> Result<Guest> {
    let host = Host::open()?;
    let version = host.version();
    let mut disks = if options.any_disks {
        Vec::new()
    } else {
        let store = Store::open().map_err(|error| Error::Toolstack(format!("xenstore: {error}")))?;
        disks::replicated(
            &disks::disks(&store, identity.domid)?,
            Path::new(drbd::PROBE),
            options.acknowledged,
            options.lazy,
        )?
    };
    let domain = life::open(&host, &identity, options.patience)?;
    let config = identity.config(domain.info()?.uuid)?;
    let buffer =
        if options.unbuffered { None } else { Some(NetBuffer::new(identity.domid, options.netbuf_script.clone())?) };
    disks.push(Box::new(cover::cover(identity.domid, Server::default(), buffer.as_ref(), options.lazy)?));
    let output: Box<dyn OutputBuffer> = match &buffer {
        Some(buffer) => Box::new(buffer.clone()),
        None => Box::new(NoBuffer),
    };
    Ok(Guest {
        domain,
        disks,
        output,
        buffer,
        identity,
        config,
        libxc: libxc::save::Options { xen: version, ..Default::default() },
    })
}

/// Lets a suspended domain run again, its emulator before it. False where it was not suspended: its state is given.
///
/// # Errors
/// There is no such domain; the hypervisor's, the toolstack's.
pub fn resume(called: &str) -> Result<(Identity, RunState)> {
    let identity = find(called)?;
    let mut domain = life::open(&Host::open()?, &identity, life::PATIENCE)?;
    let state = domain.info()?.run_state();
    if state == RunState::Suspended {
        domain.resume()?;
    }
    Ok((identity, state))
}

/// Lets out what an earlier process has held of a domain's output, and takes its buffer away. False where none was held.
///
/// # Errors
/// There is no such domain; xenstore's, the kernel's: it is held still.
pub fn free_output(called: &str) -> Result<bool> {
    let identity = find(called)?;
    let mut buffer = NetBuffer::new(identity.domid, None)?;
    if !buffer.adopt()? {
        return Ok(false);
    }
    buffer.free()?;
    buffer.remove();
    Ok(true)
}

/// Protects a domain until that ends, by `job` with the domain's own configuration, and leaves it as is due then.
///
/// # Errors
/// What the primary failed with. Output that is held then stays held, for the copy may be active.
pub fn watch_over(guest: Guest, job: primary::Job, desk: &Desk) -> io::Result<Ending> {
    let Guest { domain, disks, output, buffer, identity, config, libxc } = guest;
    match protect(domain, output, primary::Job { config, libxc, disks, ..job }, desk, ()) {
        Ok((how, _)) => leave(how, &identity, buffer.as_ref()).map(|()| how),
        Err(trouble) => {
            match buffer {
                Some(buffer) if buffer.is_holding() => {
                    log::error!("{}: its output stays held: {}", identity.name, held(&identity));
                }
                Some(buffer) => buffer.remove(),
                None => {}
            }
            Err(io::Error::other(trouble))
        }
    }
}

/// What an operator may do about output that is held and nobody protects.
fn held(identity: &Identity) -> String {
    format!(
        "where the peer does not run it, `xen-replicate resume --free-output {}` lets it out; where it does, `xl destroy {}`",
        identity.name, identity.domid
    )
}

/// What becomes of the domain when protection has ended.
///
/// # Errors
/// It lives elsewhere now, and what is left of it cannot be removed.
fn leave(how: Ending, identity: &Identity, buffer: Option<&NetBuffer>) -> io::Result<()> {
    match how {
        Ending::SwitchedOver => {
            let destroyed = xl::destroy(identity.domid);
            buffer.inspect(|buffer| buffer.remove());
            destroyed
        }
        // Its packets were dropped. Whoever looks for the reason of all this finds it as it was.
        Ending::Fenced => {
            log::warn!("{}: domain {} is left paused; xl destroy removes it", identity.name, identity.domid);
            Ok(())
        }
        Ending::Stopped | Ending::Unprotected => {
            buffer.inspect(|buffer| buffer.remove());
            Ok(())
        }
        Ending::Abandoned => {
            log::warn!("{}: its output stays held: {}", identity.name, held(identity));
            Ok(())
        }
    }
}

/// This host, as the secondary's.
#[derive(Debug, Clone)]
pub struct XenHome {
    /// What takes the streams.
    pub incoming: Incoming,
    /// How a survivor is to be protected, once it is again.
    pub options: Options,
}

impl Home for XenHome {
    type Copies = Incoming;

    fn copies(&self) -> Incoming {
        self.incoming.clone()
    }

    fn beside(&mut self) {
        self.incoming.beside();
    }

    /// xl has let it run.
    fn live(
        &self,
        active: Active,
        _checkpoint: u64,
        job: primary::Job,
        desk: &Desk,
        tell: &dyn Fn(),
    ) -> io::Result<Ending> {
        tell();
        let Active { domid, name } = active;
        let unwatched = |error: &dyn std::fmt::Display| {
            io::Error::other(format!(
                "domain {domid} RUNS here, unprotected and unwatched: {error}; `xen-replicate remus {name} HOST` protects it"
            ))
        };
        let store = Store::open().map_err(|error| unwatched(&format_args!("xenstore: {error}")))?;
        let mut identity = Identity::of(&store, domid).map_err(|error| unwatched(&error))?;
        if identity.name != name {
            match xl::rename(domid, &name) {
                Ok(()) => identity.name = name.clone(),
                // On one and the same host the primary may still have the name.
                Err(error) => log::warn!("{name}: its copy stays {}: {error}", identity.name),
            }
        }
        let guest = house(identity, &self.options).map_err(|error| unwatched(&error))?;
        watch_over(guest, job, desk)
    }
}
