//! `xen-replicate receive`: what it can be told.

use super::endpoint::{self, Reach, SSH_COMMAND};
use super::live;
use super::protection::{MOST_MIB, ProtectionArgs, SIMULATED, ms};
use crate::host::bare::{self, Sender};
use crate::host::beside;
use crate::host::colo::Lockstep;
use crate::host::operator::Desk;
use crate::host::secondary::{Home, Job, Source, receive};
use crate::host::sim::{SimHome, SimTarget};
use crate::hypervisor::PAGE_SIZE;
use crate::libxl::restore::Options;
use crate::remus::Config;
use crate::transport::{Address, Cancel, Link, Listener, connect};
use clap::Args as ClapArgs;
use std::io;
use std::path::PathBuf;

/// Options of the command: the other half of `remus`. It takes the options of `xl migrate-receive` (`main_migrate_receive` in
/// `tools/xl/xl_migrate.c`), so that it can stand in its place; of one that is given again the last counts, as for xl.
#[derive(Debug, Clone, ClapArgs)]
#[command(args_override_self = true)]
pub struct Args {
    /// Stay in the foreground; accepted for compatibility, for it always does
    #[arg(short = 'e', visible_short_alias = 'F', long)]
    pub foreground: bool,
    /// Receive checkpoints; accepted for compatibility, for it always does
    #[arg(short = 'r', long)]
    pub remus: bool,
    /// Print more; accepted for compatibility, see RUST_LOG
    #[arg(short = 'd', long)]
    pub debug: bool,
    /// Leave the domain paused; accepted for compatibility, for behind checkpoints xl does not either
    #[arg(short = 'p', long)]
    pub paused: bool,
    /// Wait for primaries there, one after the other: unix:PATH or tcp:ADDR:PORT [default: standard input and output]
    #[arg(long, value_name = "WHERE", conflicts_with = "fd")]
    pub listen: Option<String>,
    /// Use these descriptors, the first to read and the second to write
    #[arg(long, value_name = "R,W")]
    pub fd: Option<String>,
    /// The primary is a stock xl remus: send xl's banner, and read a bare stream
    #[arg(long)]
    pub bare: bool,
    /// The primary's is remus -c: run the copy beside it; with --bare its primary is libxl
    #[arg(long)]
    pub colo: bool,
    /// The script that sets up COLO's proxy; accepted for compatibility, for a simulated guest's card needs none
    #[arg(long, value_name = "SCRIPT", requires = "colo")]
    pub coloft_script: Option<String>,
    /// COLO's proxy in user space; accepted for compatibility
    #[arg(long, requires = "colo")]
    pub userspace_colo_proxy: bool,
    /// Most MiB of a checkpoint that is kept until it is whole; a larger one is refused [default: what the domain's memory may take, at
    /// least 1024]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=MOST_MIB))]
    pub memory_budget: Option<u64>,
    /// The domain to take; images of others are refused [default with --bare, without --listen: the one that comes]
    #[arg(long, value_name = "NAME", required_unless_present = "bare")]
    pub domain: Option<String>,
    /// Most MiB of memory that the simulated guest may have here [default: what it asks for]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=MOST_MIB),
        help_heading = SIMULATED, hide = true)]
    pub domain_memory: Option<u64>,
    /// What builds a real domain here: xl's receiver, for sh
    #[arg(long, value_name = "CMD", default_value = "xl migrate-receive -r")]
    pub receiver: String,
    /// This project's save helper, which is put inside of it [default: beside this program, or where xl-plugin/install.sh puts it]
    #[arg(long, value_name = "FILE")]
    pub save_helper: Option<PathBuf>,
    /// Take a domain whatever is behind its disks, as its primary does with -F -d
    #[arg(long)]
    pub any_disks: bool,
    /// Keep the migration-v2 stream as it was received
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// End when the primary leaves, instead of listening for the next
    #[arg(long)]
    pub once: bool,
    /// Milliseconds from one checkpoint to the next, for when this side has become the primary
    #[arg(long, value_name = "MS", default_value_t = ms(Config::default().interval),
        value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub interval: u64,
    /// What both sides can be told.
    #[command(flatten)]
    pub protection: ProtectionArgs,
}

/// Where the stream comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// Standard input and output.
    Stdio,
    /// Two inherited descriptors.
    Fds(Address),
    /// A Unix or TCP socket to listen at.
    At(Address),
}

impl Args {
    /// Checks what the options need of each other, and gives the machine's settings.
    ///
    /// # Errors
    /// What is wrong, with the option's name.
    pub fn config(&self) -> Result<Config, String> {
        if self.domain.is_none() && (self.listen.is_some() || self.colo) {
            return Err("--domain is needed with --listen and with --colo".into());
        }
        if self.bare && self.listen.is_some() {
            return Err("--bare cannot be used with --listen: a stock xl remus starts its receiver itself (over ssh, xl remus -s), \
                        with standard input and output as the connection: leave --listen out, or use --fd"
                .into());
        }
        if let Some(fence) = &self.protection.fence {
            super::fence::check(fence).map_err(|error| format!("--fence: {error}"))?;
        }
        self.protection.config(self.interval, self.bare)
    }

    /// The domain to take; empty as long as only its sender knows.
    pub fn domain(&self) -> &str {
        self.domain.as_deref().unwrap_or_default()
    }

    /// Where the stream comes from.
    ///
    /// # Errors
    /// What is wrong, with the option's name.
    pub fn source(&self) -> Result<Listen, String> {
        match (&self.listen, &self.fd) {
            (Some(text), _) => endpoint::listen(text, self.protection.allow_private)
                .map(Listen::At)
                .map_err(|error| format!("--listen: {error}")),
            (None, Some(text)) => {
                Address::parse(&format!("fd:{text}"), false).map(Listen::Fds).map_err(|error| format!("--fd: {error}"))
            }
            (None, None) => Ok(Listen::Stdio),
        }
    }

    /// The way to another host, for `ctl protect` once this side is the primary. What it does not say has the default.
    ///
    /// # Errors
    /// The host is of none of its forms.
    pub fn endpoint_of(&self, host: &str, ssh: Option<&str>, remote: Option<&str>) -> Result<Address, String> {
        let ours = self.protection.remote_command(self.domain())?;
        let reach = Reach {
            ssh: ssh.unwrap_or(SSH_COMMAND),
            remote: remote.unwrap_or(&ours),
            foreground: false,
            private: self.protection.allow_private,
        };
        endpoint::host(host, &reach)
    }

    /// Bytes of a checkpoint that is kept until it is whole; none: what the domain's memory may take.
    pub fn memory_budget(&self) -> Option<u64> {
        self.memory_budget.map(|mib| mib << 20)
    }
}

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

/// What of a command line for this side's operator comes before the command.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remus::Rule;
    use clap::{CommandFactory, Parser};
    use std::path::Path;
    use std::time::Duration;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parse(args: &[&str]) -> Result<Args, String> {
        let line = ["receive", "--domain=web"].iter().chain(args);
        let args = Line::try_parse_from(line).map_err(|error| error.to_string())?.args;
        args.config()?;
        args.source().map(|_| args)
    }

    #[track_caller]
    fn refused(args: &[&str], parts: &[&str]) {
        let error = parse(args).unwrap_err();
        assert!(parts.iter().all(|part| error.contains(part)), "{args:?}: {error}");
    }

    #[test]
    fn the_options_are_sound_and_the_defaults_known() {
        Line::command().debug_assert();
        let args = parse(&[]).unwrap();
        assert_eq!(args.config(), Ok(Config::default()));
        assert_eq!(args.source(), Ok(Listen::Stdio));
        assert_eq!(args.memory_budget(), None);
        assert!(!args.bare && !args.once && args.record.is_none());
    }

    #[test]
    fn it_takes_what_xl_passes() {
        let args = parse(&["-r", "-e"]).unwrap();
        assert!(args.remus && args.foreground);
        let long = parse(&["--remus", "--foreground"]).unwrap();
        assert_eq!(format!("{args:?}"), format!("{long:?}"));
        assert!(parse(&["-F"]).unwrap().foreground);
        assert!(matches!(parse(&["-rdp"]).unwrap(), Args { debug: true, paused: true, .. }));
        let twice = parse(&["-r", "-e", "-e", "-r", "--interval=5", "--interval=6"]).unwrap();
        assert!(twice.remus && twice.foreground && twice.interval == 6);
        let colo = parse(&["--colo", "--coloft-script", "/etc/x", "--userspace-colo-proxy", "-e"]).unwrap();
        assert!(colo.colo && colo.userspace_colo_proxy && colo.coloft_script.is_some());
        refused(&["--userspace-colo-proxy"], &["--colo"]);
        refused(&["--coloft-script=x"], &["--colo"]);
    }

    #[test]
    fn the_source_is_one_of_three() {
        let source = |args: &[&str]| parse(args).unwrap().source().unwrap();
        assert_eq!(source(&["--listen=unix:/x"]), Listen::At(Address::Unix("/x".into())));
        assert_eq!(source(&["--fd=3,3"]), Listen::Fds(Address::Fds { read: 3, write: 3 }));
        assert!(matches!(source(&["--listen=tcp:127.0.0.1:0"]), Listen::At(Address::Tcp(_))));
        assert!(matches!(source(&["--listen=tcp:10.0.0.1:0", "--allow-private"]), Listen::At(Address::Tcp(_))));
        refused(&["--listen=tcp:10.0.0.1:0"], &["--listen", "10.0.0.1"]);
        refused(&["--listen=host"], &["--listen"]);
        refused(&["--fd=3"], &["--fd"]);
        refused(&["--fd=3,4", "--listen=unix:/x"], &["--fd", "--listen"]);
        refused(&["host"], &["unexpected"]);
    }

    #[test]
    fn the_settings_are_those_of_both_sides_and_its_own() {
        let all = ["--bare", "--interval=20", "--witness=/w", "--fence=true", "--timeout=2000", "--memory-budget=3"];
        let args = parse(&all).unwrap();
        let config = args.config().unwrap();
        assert_eq!((config.rule, config.fence, config.bare), (Rule::Witness, true, true));
        assert_eq!((config.interval, config.timeout), (Duration::from_millis(20), Duration::from_secs(2)));
        assert_eq!(args.memory_budget(), Some(3 << 20));
        refused(&["--interval=0"], &["--interval"]);
        refused(&["--memory-budget=0"], &["--memory-budget"]);
        refused(&["--rule=witness"], &["--rule witness"]);
        refused(&["--longest=5"], &["--adaptive"]);
        refused(&["-i", "5"], &["-i"]);
        refused(&["--fence="], &["--fence", "empty"]);
    }

    #[test]
    fn the_domain_names_the_socket() {
        let args = parse(&["--once", "--record=/r"]).unwrap();
        assert!(args.once && args.protection.control_path(args.domain()).unwrap().unwrap().ends_with("web.sock"));
        let args = parse(&["--control=/c"]).unwrap();
        assert_eq!(args.protection.control_path("web").unwrap().as_deref(), Some(Path::new("/c")));
        let way = args.endpoint_of("b", None, Some("other")).unwrap();
        assert_eq!(way, Address::Command("exec ssh b other".into()));
        assert!(Line::try_parse_from(["receive"]).unwrap_err().to_string().contains("--domain"));
    }

    #[test]
    fn a_stock_sender_need_not_be_named_where_there_is_one_connection() {
        let unnamed = |args: &[&str]| {
            let args = Line::try_parse_from([&["receive", "--bare"], args].concat()).unwrap().args;
            args.config().map(|_| args)
        };
        assert_eq!(unnamed(&["-r"]).unwrap().domain(), "");
        assert_eq!(unnamed(&["--fd=3,4"]).unwrap().domain, None);
        for more in [&["--listen=unix:/x"][..], &["--colo"]] {
            assert!(unnamed(more).unwrap_err().contains("--domain"));
        }
        refused(&["--bare", "--listen=unix:/x"], &["--bare", "--listen", "--fd"]);
    }
}
