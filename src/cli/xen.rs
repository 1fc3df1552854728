//! `remus` of a domain of this host's Xen.

use super::live;
use super::remus::{Args, is_gone};
use crate::host::operator::Desk;
use crate::host::primary::protect;
use crate::host::xen::{self, Options};
use crate::remus::Config;
use std::io;
use std::time::Duration;

/// Protects a domain. True when it is gone from here at the end.
pub(super) fn remus(args: &Args, config: Config) -> io::Result<bool> {
    let usage = |text: &str| io::Error::new(io::ErrorKind::InvalidInput, text);
    if args.sim.is_some() {
        return Err(usage("--sim is for --backend sim: this domain is the hypervisor's"));
    }
    let identity = xen::find(&args.domain).map_err(io::Error::other)?;
    let name = identity.name.clone();
    // By its name it is known to the other side, to the witness and to the operator, whatever it was called here.
    let args = Args { domain: name.clone(), ..args.clone() };
    if args.no_network_buffer {
        log::warn!("{name}: -n: output is not held: after a failover clients may have seen what never was");
    }
    let protection = args.protection.protection(&name, config);
    let desk = Desk::new(&name)?;
    let office = desk.open(args.protection.control_path(&name)?.as_deref(), false)?;
    let options =
        Options { patience: Duration::from_secs(args.suspend_timeout), unbuffered: args.no_network_buffer };
    let guest = xen::house(identity, &options).map_err(io::Error::other)?;
    log::info!("{name}: domain {}, a {} guest", guest.identity.domid, guest.identity.kind);
    let job = args.job(protection, guest.config, guest.libxc)?;
    let table = args.protection.watch.then(|| live::start(&desk)).transpose()?;
    let ended = protect(guest.domain, guest.output, job, &desk, ());
    drop(table);
    drop(office);
    let (how, domain) = ended.map_err(io::Error::other)?;
    drop(domain);
    xen::leave(how, &guest.identity)?;
    Ok(is_gone(how))
}
