//! The backend of a real host: domains of its Xen, as libxl has made them.
//!
//! | file | what |
//! |---|---|
//! | `incoming` | the secondary's copy: what a stock receiver has built |
//! | `receiver` | that receiver, and who decides when it takes over |

pub mod incoming;
pub mod receiver;

use self::incoming::Incoming;
use super::operator::Desk;
use super::primary::{self, protect};
use super::secondary::Home;
use crate::hypervisor::xen::{Host, XenDomain};
use crate::hypervisor::{Domain, NoBuffer, OutputBuffer, Result};
use crate::libxc;
use crate::replicate::primary::Ending;
use crate::toolstack::identity::Identity;
use crate::toolstack::store::Store;
use crate::toolstack::{life, xl};
use std::io;
use std::time::Duration;

/// How a domain is to be protected.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long the guest may take to follow a request.
    pub patience: Duration,
    /// `-n`: output is never held.
    pub unbuffered: bool,
}

/// A domain of this host, ready to be protected.
pub struct Guest {
    /// Its handle.
    pub domain: XenDomain,
    /// Where its packets wait.
    pub output: Box<dyn OutputBuffer>,
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

/// Takes hold of a domain. It runs on meanwhile.
///
/// # Errors
/// The hypervisor's, the toolstack's; what protects its output or its disks cannot be had.
pub fn house(identity: Identity, options: &Options) -> Result<Guest> {
    let host = Host::open()?;
    let version = host.version()?;
    let domain = life::open(&host, &identity, options.patience)?;
    let config = identity.config(domain.info()?.uuid)?;
    let output: Box<dyn OutputBuffer> = Box::new(NoBuffer);
    Ok(Guest { domain, output, identity, config, libxc: libxc::save::Options { xen: version, ..Default::default() } })
}

/// What becomes of the domain when protection has ended.
///
/// # Errors
/// It lives elsewhere now, and what is left of it cannot be removed.
pub fn leave(how: Ending, identity: &Identity) -> io::Result<()> {
    match how {
        Ending::SwitchedOver => xl::destroy(identity.domid),
        // Its packets were dropped. Whoever looks for the reason of all this finds it as it was.
        Ending::Fenced => {
            log::warn!("{}: domain {} is left paused; xl destroy removes it", identity.name, identity.domid);
            Ok(())
        }
        Ending::Stopped | Ending::Unprotected | Ending::Abandoned => Ok(()),
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

    /// xl has let it run.
    fn live(
        &self,
        identity: Identity,
        _checkpoint: u64,
        job: primary::Job,
        desk: &Desk,
        tell: &dyn Fn(),
    ) -> io::Result<Ending> {
        tell();
        let guest = house(identity, &self.options).map_err(io::Error::other)?;
        let job = primary::Job { config: guest.config, libxc: guest.libxc, ..job };
        let (how, domain) = protect(guest.domain, guest.output, job, desk, ()).map_err(io::Error::other)?;
        drop(domain);
        leave(how, &guest.identity)?;
        Ok(how)
    }
}
