//! `remus` and `receive` of a domain of this host's Xen.

use super::remus::{Args, is_gone};
use super::{Exit, live, receive};

use super::protection::ProtectionArgs;
use crate::host::operator::Desk;
use crate::host::xen::incoming::{Disks, Incoming};
use crate::host::xen::receiver::{Waits, Way};
use crate::host::xen::{self, Options, XenHome};
use crate::hypervisor::xen::{Host, Use};
use crate::hypervisor::{self, RunState};
use crate::remus::Config;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Whether a domain's life may depend on this host's Xen; asked before anything is touched.
fn admitted(args: &ProtectionArgs) -> hypervisor::Result<()> {
    Host::open()?.admit(Use::Writing { trusted: args.trust_xen })
}

/// Protects a domain. [`Exit::Yes`] when it is gone from here at the end.
pub(super) fn remus(args: &Args, config: Config) -> io::Result<Exit> {
    let usage = |text: &str| io::Error::new(io::ErrorKind::InvalidInput, text);
    if args.colo {
        return Err(usage(
            "-c (--colo) is for --backend sim: real domains are not protected in lock-step by this version",
        ));
    }
    admitted(&args.protection).map_err(io::Error::other)?;
    let identity = xen::find(&args.domain).map_err(io::Error::other)?;
    let name = identity.name.clone();
    // By its name it is known to the other side, to the witness and to the operator, whatever it was called here.
    let args = Args { domain: name.clone(), ..args.clone() };
    if args.no_network_buffer {
        log::warn!("{name}: -n: output is not held: after a failover clients may have seen what never was");
    }
    let mut protection = args.protection.protection(&name, config);
    let desk = Desk::new(&name, false)?;
    // The end of a terminal is no reason to leave the guest to the other side, while it runs on here.
    let office = desk.open(args.protection.control_path(&name)?.as_deref(), true)?;
    let options = Options {
        patience: Duration::from_secs(args.suspend_timeout),
        unbuffered: args.no_network_buffer,
        netbuf_script: args.netbuf_script.as_ref().map(PathBuf::from),
        any_disks: args.no_disk_replication,
        acknowledged: !(args.allow_bare || args.blackhole),
        lazy: false,
    };
    let looked = xen::Found::look(&identity, &options).map_err(io::Error::other)?;
    let domid = identity.domid;
    let stays = match (looked.is_output_left(), looked.state) {
        (true, state) => format!("domain {domid} stays {state}, its output held"),
        (false, RunState::Running) => {
            format!("domain {domid} stays as it is, RUNNING with its output free: `xl pause {domid}` stops it")
        }
        (false, state) => format!("domain {domid} stays {state}"),
    };
    let found = args.found(&looked.uuid, looked.is_output_left(), stays, format!("xl destroy {domid}"));
    let generation = match args.claim(&mut protection, found, &desk)? {
        Ok(generation) => generation,
        Err(exit) => {
            if exit == Exit::Superseded {
                looked.hold().map_err(io::Error::other)?;
            }
            return Ok(exit);
        }
    };
    if args.no_network_buffer && looked.is_output_left() {
        xen::free_output(&name).map_err(io::Error::other)?;
    }
    drop(looked);
    // All that can be wrong without the domain's doing comes first.
    let job = args.job(protection, generation, String::new(), Default::default())?;
    log::info!("{name}: domain {}, a {} guest", identity.domid, identity.kind);
    let mut guest = xen::house(identity, &options).map_err(io::Error::other)?;
    for disk in &mut guest.disks {
        disk.prepare(&|| desk.is_terminated()).map_err(io::Error::other)?;
    }
    let table = args.protection.watch.then(|| live::start(&desk)).transpose()?;
    let how = xen::watch_over(guest, job, &desk);
    drop(table);
    drop(office);
    how.map(|how| is_gone(how).into())
}

/// Where the save helper is when it is nowhere near this program: where xl-plugin/install.sh puts it.
const INSTALLED: &str = "/usr/local/lib/xen-replicate/xen-replicate-save-helper";

/// Where copies of real domains are kept.
///
/// # Errors
/// What is wrong, with the option's name.
pub(super) fn home(args: &receive::Args) -> Result<XenHome, String> {
    if args.colo {
        return Err("--colo is for --backend sim: real domains are not kept in lock-step by this version".into());
    }
    if args.domain_memory.is_some() {
        return Err("--domain-memory is for --backend sim: libxl says how much memory a domain has".into());
    }
    admitted(&args.protection).map_err(|error| error.to_string())?;
    let helper = args.save_helper.clone().or_else(near).unwrap_or_else(|| PathBuf::from(INSTALLED));
    let way = Way { command: args.receiver.clone(), helper, waits: Waits::default() };
    let options = Options {
        patience: crate::toolstack::life::PATIENCE,
        unbuffered: false,
        netbuf_script: None,
        any_disks: args.any_disks,
        acknowledged: true,
        lazy: true,
    };
    let disks = match (args.any_disks, args.bare) {
        (true, _) => Disks::Any,
        (false, true) => Disks::None,
        (false, false) => Disks::Kept,
    };
    Ok(XenHome { incoming: Incoming::new(args.domain().to_owned(), way, disks), options })
}

/// The save helper that was built or installed together with this program.
fn near() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    let folder = program.parent()?;
    ["xen-replicate-save-helper", "../lib/xen-replicate/xen-replicate-save-helper"]
        .into_iter()
        .map(|helper| folder.join(helper))
        .find(|helper| helper.is_file())
}
