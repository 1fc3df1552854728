//! `xen-replicate receive`: what it does.

use super::live;
use super::receive::{Args, Listen};
use crate::host::bare::{self, Sender};
use crate::host::beside;
use crate::host::colo::Lockstep;
use crate::host::operator::Desk;
use crate::host::secondary::{Home, Job, Source, receive};
use crate::host::sim::SimTarget;
use crate::host::sim_home::SimHome;
use crate::hypervisor::PAGE_SIZE;
use crate::libxl::restore::Options;
use crate::remus::Config;
use crate::transport::{Cancel, Link, Listener, connect};
use std::io;

/// Runs the command. True when it ended as it should: dismissed, stopped, or, after a failover, switched over.
pub fn run(args: &Args) -> io::Result<bool> {
    let usage = |text: String| io::Error::new(io::ErrorKind::InvalidInput, text);
    let config = args.config().map_err(usage)?;
    args.protection.guest_of().map_err(usage)?;
    let mut named = args.clone();
    let met = match args.domain {
        Some(_) => None,
        // A stock sender tells in its stream alone.
        None => {
            let cancel = Cancel::new()?;
            let mut sender = Sender::new(link(args, &cancel)?);
            named.domain = Some(sender.domain()?);
            Some((sender, cancel))
        }
    };
    let args = &named;
    if args.protection.is_xens() {
        let home = super::xen::home(args).map_err(usage)?;
        return serve(args, config, home, met, bare::receive_checkpoints);
    }
    let home = SimHome {
        backend: args.protection.backend(),
        target: SimTarget {
            domain: args.domain().to_owned(),
            memory_budget: args.domain_memory.map(|mib| mib * ((1 << 20) / PAGE_SIZE as u64)),
        },
        disks: args.protection.disk.iter().map(|disk| super::disk::device(disk)).collect::<io::Result<_>>()?,
        colo: args.colo.then(|| (Lockstep::default(), args.bare)),
        digests: args.protection.keep_digests.clone(),
    };
    serve(args, config, home, met, bare::receive)
}

/// The one connection that there is without --listen.
fn link(args: &Args, cancel: &Cancel) -> io::Result<Link> {
    match args.source().map_err(|text| io::Error::new(io::ErrorKind::InvalidInput, text))? {
        Listen::Fds(address) => connect(&address, cancel),
        Listen::Stdio | Listen::At(_) => Link::stdio(cancel.clone()),
    }
}

/// The same for one backend; `bare` takes a bare stream, of a sender that was met already or not.
fn serve<H: Home>(
    args: &Args,
    config: Config,
    mut home: H,
    met: Option<(Sender, Cancel)>,
    bare: impl FnOnce(Sender, Cancel, &Job<H>, &Desk) -> io::Result<bool>,
) -> io::Result<bool> {
    let usage = |text: String| io::Error::new(io::ErrorKind::InvalidInput, text);
    let failpoints = args.protection.failpoints().map_err(usage)?;
    let pacing = args.protection.pacing().map_err(usage)?;
    let socket = args.protection.control_path(args.domain())?;
    let source = match (met, args.source().map_err(usage)?) {
        (Some((sender, cancel)), _) => Who::Stock(sender, cancel),
        (None, Listen::At(address)) => Who::Ours(Source::Listener(Listener::bind(&address)?)),
        (None, _) => {
            let cancel = Cancel::new()?;
            let link = link(args, &cancel)?;
            if args.bare && !args.colo {
                Who::Stock(Sender::new(link), cancel)
            } else {
                Who::Ours(Source::Link(link, cancel))
            }
        }
    };
    let mut restore = Options::default();
    restore.libxc.round_limit = args.memory_budget();
    let resolving = args.clone();
    let protection = args.protection.protection(args.domain(), config);
    protection.check().map_err(|error| {
        io::Error::other(format!(
            "{error}: without its witness this side could never take over; make it reachable and start again"
        ))
    })?;
    // Over ssh this may come beside the receiver of the last session, which was denied.
    let beside =
        socket.as_deref().filter(|_| args.listen.is_none()).and_then(|path| Some((path, beside::kept_at(path)?)));
    if let Some((path, kept)) = &beside {
        home.beside();
        log::warn!(
            "{}: the process at {} keeps a replica of it, denied {} s ago, in {} MiB: it is replaced when the image of this session is whole; until \
             then it answers there, and where memory is short `{}` makes room",
            args.domain(),
            path.display(),
            kept.since_ms / 1000,
            kept.memory >> 20,
            kept.drop,
        );
    }
    let beside = beside.map(|(path, _)| path.to_owned());
    let socket = socket.filter(|_| beside.is_none());
    let job = Job {
        home,
        restore,
        record: args.record.clone(),
        once: args.once,
        ctl: ctl(args),
        beside,
        resolve: Box::new(move || {
            let args = resolving.clone();
            Box::new(move |host, ssh, remote| args.endpoint_of(host, ssh, remote))
        }),
        pacing,
        staging_limit: args.protection.staging_limit(),
        failpoints,
        protection,
    };
    // Begun here, so that a path of no use is told now and not at a failover.
    drop(args.protection.digests()?);
    let desk = Desk::new(args.domain(), !args.protection.is_xens())?;
    // The remote shell that started this must not end it when it loses its own host.
    let office = desk.open(socket.as_deref(), !args.foreground)?;
    let table = args.protection.watch.then(|| live::start(&desk)).transpose()?;
    let received = match source {
        Who::Stock(sender, cancel) => bare(sender, cancel, &job, &desk),
        Who::Ours(source) => receive(source, &job, &desk),
    };
    drop(table);
    drop(office);
    received
}

/// The part of this side's operator's command line in front of the command.
fn ctl(args: &Args) -> String {
    let domain = args.domain();
    match (&args.protection.control, args.protection.no_control) {
        (_, true) => format!("(--no-control: nobody can be asked) xen-replicate ctl {domain}"),
        (Some(path), false) => format!("xen-replicate ctl {domain} --control {}", path.display()),
        (None, false) => format!("xen-replicate ctl {domain}"),
    }
}

/// Who sends.
enum Who {
    /// A stock xl, or who speaks as one does.
    Stock(Sender, Cancel),
    /// This project's `remus`.
    Ours(Source),
}
