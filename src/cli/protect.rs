//! `xen-replicate remus`: what it does.

use super::Exit;
use super::live;
use super::remus::{Args, is_gone};
use crate::disk::engine;
use crate::host::colo;
use crate::host::operator::Desk;
use crate::host::primary::protect_simulated;
use crate::host::sim::{Backend, xl_config};
use crate::hypervisor::Replicated;
use crate::hypervisor::sim::SimDomain;
use std::io;

/// Runs the command. [`Exit::Yes`] when the guest is gone from here at the end, as with `xl remus`.
pub(super) fn run(args: &Args) -> io::Result<Exit> {
    let usage = |text: String| io::Error::new(io::ErrorKind::InvalidInput, text);
    let config = args.config().map_err(usage)?;
    if args.sim.is_some() && args.protection.is_xens() {
        return Err(usage("--sim is for --backend sim: a domain of Xen's is not simulated".into()));
    }
    args.protection.guest_of().map_err(usage)?;
    if args.protection.is_xens() {
        return super::xen::remus(args, config);
    }
    if args.netbuf_script.is_some() {
        log::info!("{}: -N: a simulated guest's output needs no script", args.domain);
    }
    if args.no_network_buffer {
        log::warn!("{}: -n: output is not held: after a failover clients may have seen what never was", args.domain);
    }
    let sim = args.sim_config().map_err(usage)?;
    let mut protection = args.protection.protection(&args.domain, config);
    let digests = args.protection.digests()?;
    let desk = Desk::new(&args.domain, true)?;
    let office = desk.open(args.protection.control_path(&args.domain)?.as_deref(), false)?;
    let give_up = args.become_secondary();
    let found = args.found(&sim.uuid, false, "the guest was not started".into(), give_up);
    let generation = match args.claim(&mut protection, found, &desk)? {
        Ok(generation) => generation,
        Err(exit) => return Ok(exit),
    };
    let domain = SimDomain::create(&sim).map_err(io::Error::other)?;
    let backend = Backend { unbuffered: args.no_network_buffer, ..args.protection.backend() };
    let guest = backend.house(domain).map_err(io::Error::other)?;
    let mut job = args.job(protection, generation, xl_config(&sim), crate::libxc::save::Options::default())?;
    for disk in &args.protection.disk {
        let found = engine::find(disk, false).map_err(io::Error::other)?;
        let found = found.ok_or_else(|| usage(format!("--disk: no daemon serves {disk} on this host")))?;
        let mut found = found.of(args.protection.disk.len());
        found.prepare(&|| desk.is_terminated()).map_err(io::Error::other)?;
        job.disks.push(Box::new(found));
    }
    let table = args.protection.watch.then(|| live::start(&desk)).transpose()?;
    let ended = match args.lockstep() {
        Some(lockstep) => colo::protect(guest, job, lockstep, &desk, digests),
        None => protect_simulated(guest, job, &desk, digests),
    };
    drop(table);
    drop(office);
    Ok(is_gone(ended.map_err(io::Error::other)?).into())
}
