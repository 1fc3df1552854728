//! `xen-replicate demo`: a guest survives the death of its host, on one machine and without Xen.
//!
//! Three processes: this one watches, and is the client outside that talks to the guest; two children of the same program
//! are the hosts, with the drivers that `remus` and `receive` use. The children share one end each of a socket as standard
//! input, tell what happens on standard output, and keep their states in files without a name that this process has opened. So there is nothing to clean up, whichever of the three ends in whatever way.

mod child;
mod colo;
mod report;
mod screen;
mod setup;
mod state;

pub use child::{ChildArgs, primary, secondary};

use crate::hypervisor::sim::SimConfig;
use crate::outside::{ClientConfig, ClientThread};
use clap::Args as ClapArgs;
use report::{Failover, Report};
use rustix::io::{FdFlags, fcntl_setfd};
use screen::Screen;
use serde::Serialize;
use setup::{Cable, Event, PrimarySetup, SecondarySetup};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// States that the primary keeps. The last one that was sent whole and the one that was under way are enough.
const STATES: usize = 3;
/// What the client asks.
const REQUESTS_PER_SECOND: u32 = 200;
/// How long a child may take for something that takes a moment.
const PATIENCE: Duration = Duration::from_secs(60);

/// Options of the command.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Milliseconds from one checkpoint to the next
    #[arg(long, value_name = "MS", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    interval: u64,
    /// COLO: the guest runs on both hosts, and checkpoints are taken when the two send different things
    #[arg(long, conflicts_with = "interval")]
    colo: bool,
    /// With --colo: every how many steps the guest takes a random number of its host's, 2000 steps being a second; 0 for never
    #[arg(long, value_name = "STEPS", default_value_t = 500, requires = "colo")]
    noise: u32,
    /// With --colo: milliseconds from one checkpoint to the next at most
    #[arg(long, value_name = "MS", default_value_t = 5000, requires = "colo",
        value_parser = clap::value_parser!(u64).range(10..=3_600_000))]
    period: u64,
    /// Seconds from the first checkpoint to the death of the primary
    #[arg(long, value_name = "N", default_value = "3", value_parser = seconds)]
    seconds: Duration,
    /// The guest's memory in MiB; both hosts and the copies for the comparison hold as much
    #[arg(long, value_name = "MIB", default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=1024))]
    memory: u64,
    /// The guest's vCPUs
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=128))]
    vcpus: u32,
    /// What the guest's pseudo-random numbers start from
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Keep the stream as the secondary received it
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// One JSON object with the result, and nothing else
    #[arg(long)]
    json: bool,
    /// Just the verdict
    #[arg(long, conflicts_with = "json")]
    quiet: bool,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if !(0.0..=86_400.0).contains(&seconds) {
        return Err("must be 0 to 86400".into());
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// Runs the command; true when the guest survived.
pub fn run(args: &Args) -> io::Result<bool> {
    let memory = args.memory * 256;
    let config = SimConfig {
        name: "demo".into(),
        seed: args.seed,
        memory,
        vcpus: args.vcpus,
        image_pages: memory / 2,
        working_set: memory / 2,
        hot_pages: (memory / 64).max(1),
        noise_every: if args.colo { args.noise } else { 0 },
        steady_answers: args.colo,
        ..SimConfig::default()
    };
    config.check().map_err(io::Error::other)?;
    let mut screen = Screen::new(args.json || args.quiet);
    let mut show = Show::start(args, config, &mut screen)?;
    show.until_killed(args.seconds, &mut screen)?;
    let report = show.verdict(&mut screen)?;
    let mut out = io::stdout().lock();
    let told = if args.json {
        writeln!(out, "{}", serde_json::to_string(&report)?)
    } else {
        report.print(args.quiet, &mut out)
    };
    match told {
        // Whoever read the lines has seen enough; the exit code says the rest.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
        _ => {}
    }
    match (show.unrecorded, &args.record) {
        (Some(text), Some(file)) if report.survived => {
            Err(io::Error::other(format!("{}: the record is not whole: {text}", file.display())))
        }
        _ => Ok(report.survived),
    }
}

/// Which child told something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Host {
    Primary,
    Secondary,
}

/// What a child's standard output gave: an event, or its end.
type Told = (Host, Option<Event>);

/// A child that does not outlive this value.
struct Guarded(Child);

impl Guarded {
    fn kill(&mut self) {
        // Both fail only when the child is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The demonstration while it goes on.
struct Show {
    primary: Guarded,
    _secondary: Guarded,
    told: Receiver<Told>,
    states: Vec<File>,
    survivor: File,
    report: Report,
    /// The client outside, and where it finds the guest on the secondary.
    client: Option<(ClientThread, SocketAddr)>,
    killed: Instant,
    /// Why the record is not whole.
    unrecorded: Option<String>,
}

impl Show {
    fn start(args: &Args, config: SimConfig, screen: &mut Screen) -> io::Result<Self> {
        let (to_secondary, from_primary) = UnixStream::pair()?;
        let states: Vec<File> = (0..STATES).map(|_| inherited_file()).collect::<io::Result<_>>()?;
        let survivor = inherited_file()?;
        let record = args.record.as_ref().map(File::create).transpose().map_err(|error| named(args, &error))?;
        if let Some(record) = &record {
            fcntl_setfd(record, FdFlags::empty())?;
        }
        let parent = std::process::id();
        let (tell, told) = channel();
        let cards = cards()?;
        let client = ClientThread::start(ClientConfig {
            bind: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            to: cards.to_vec(),
            rate: REQUESTS_PER_SECOND,
            outstanding: 64,
            retry: Duration::from_millis(250),
        })?;
        let [first, second] = cards.map(|nic| Cable { nic, client: client.address() });
        let setup = PrimarySetup {
            parent,
            config: config.clone(),
            interval_ms: args.interval,
            states: states.iter().map(AsRawFd::as_raw_fd).collect(),
            cable: first,
            colo: args.colo.then_some(args.period),
        };
        let primary = spawn(Host::Primary, &setup, to_secondary.into(), tell.clone())?;
        let setup = SecondarySetup {
            parent,
            config,
            state: survivor.as_raw_fd(),
            record: record.as_ref().map(AsRawFd::as_raw_fd),
            cable: second,
            primary: primary.0.id(),
            colo: args.colo,
        };
        let secondary = spawn(Host::Secondary, &setup, from_primary.into(), tell)?;
        screen.say(&format!(
            "A guest of {} MiB with {} vCPUs runs on the primary, process {}.",
            args.memory,
            args.vcpus,
            primary.0.id()
        ))?;
        let other = secondary.0.id();
        screen.say(&match args.colo {
            false => format!(
                "Every {} ms a Remus checkpoint goes to the secondary, process {other}, over a socket.",
                args.interval
            ),
            true => format!(
                "It runs on the secondary too, process {other}. What both send leaves; when they differ, or after {} ms, comes a \
                 COLO checkpoint.",
                args.period
            ),
        })?;
        screen.say(&format!("A client outside sends the guest {REQUESTS_PER_SECOND} requests a second."))?;
        let killed = Instant::now();
        Ok(Show {
            primary,
            _secondary: secondary,
            told,
            states,
            survivor,
            report: Report::default(),
            client: Some((client, second.nic)),
            killed,
            unrecorded: None,
        })
    }

    /// Watches until the time has come, and kills the primary in whatever it is doing.
    fn until_killed(&mut self, after: Duration, screen: &mut Screen) -> io::Result<()> {
        let started = Instant::now();
        let mut deadline = started + PATIENCE;
        let mut protected = false;
        while let Some((host, event)) = self.next(deadline)? {
            match (host, event) {
                (_, Some(Event::Round(round))) => {
                    self.report.count(&round);
                    screen.round(&round)?;
                }
                (_, Some(Event::Compared(figures))) => self.report.lock_step = Some(figures),
                (_, Some(Event::Whole { number })) => {
                    self.report.received = number;
                    if !protected {
                        protected = true;
                        deadline = Instant::now() + after;
                    }
                }
                (_, Some(Event::Trouble { text })) => return Err(io::Error::other(text)),
                (_, Some(Event::Refused { text })) => return Err(io::Error::other(format!("the secondary: {text}"))),
                (_, Some(_)) | (Host::Primary, None) => {
                    return Err(io::Error::other("the primary has ended before it was to be killed"));
                }
                (Host::Secondary, None) => return Err(io::Error::other("the secondary has ended by itself")),
            }
        }
        if !protected {
            return Err(io::Error::other(format!("no checkpoint in {} s", PATIENCE.as_secs())));
        }
        self.killed = Instant::now();
        self.primary.kill();
        screen.done(&format!(
            "The primary is killed (SIGKILL), {:.1} s after its start.",
            started.elapsed().as_secs_f64()
        ))?;
        Ok(())
    }

    /// Waits for the survivor and looks at it.
    fn verdict(&mut self, screen: &mut Screen) -> io::Result<Report> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.next(deadline)? {
                Some((_, Some(Event::Round(round)))) => self.report.count(&round),
                Some((_, Some(Event::Compared(figures)))) => self.report.lock_step = Some(figures),
                Some((_, Some(Event::Whole { number }))) => self.report.received = number,
                Some((_, Some(Event::Resumed { checkpoint, took }))) => {
                    self.report.failover = Some(Failover { checkpoint, took });
                    screen.say("The secondary has failed over, the guest runs there.")?;
                }
                Some((_, Some(Event::RanOn { steps, damage }))) => {
                    self.report.ran_on(steps, damage);
                    break;
                }
                Some((_, Some(Event::Unrecorded { text }))) => self.unrecorded = Some(text),
                Some((_, Some(Event::Refused { text }))) => {
                    self.report.trouble = Some(text);
                    return Ok(std::mem::take(&mut self.report));
                }
                Some((_, Some(Event::Trouble { text }))) => return Err(io::Error::other(text)),
                Some((Host::Primary, None)) => {}
                Some((Host::Secondary, None)) => return Err(io::Error::other("the secondary has ended by itself")),
                None => return Err(io::Error::new(io::ErrorKind::TimedOut, "the secondary does not fail over")),
            }
        }
        let mut report = std::mem::take(&mut self.report);
        if let Some((client, survivor)) = self.client.take() {
            report.client_saw(client.stop()?, survivor);
        }
        let checkpoint = report.failover.as_ref().map_or(0, |failover| failover.checkpoint);
        let kept = state::find(&self.states, checkpoint)?;
        report.compared(state::compare(kept, &self.survivor)?);
        Ok(report)
    }

    /// The next thing told before the deadline.
    fn next(&self, deadline: Instant) -> io::Result<Option<Told>> {
        match self.told.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(told) => Ok(Some(told)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(io::Error::other("both hosts are gone")),
        }
    }
}

/// Two free addresses for the guest's card, one on each host.
fn cards() -> io::Result<[SocketAddr; 2]> {
    // Both are bound at once, so they differ.
    let sockets = [UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?, UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?];
    Ok([sockets[0].local_addr()?, sockets[1].local_addr()?])
}

/// A file without a name that children find open under the same number.
fn inherited_file() -> io::Result<File> {
    let file = tempfile::tempfile()?;
    fcntl_setfd(&file, FdFlags::empty())?;
    Ok(file)
}

fn named(args: &Args, error: &io::Error) -> io::Error {
    let name = args.record.as_ref().map(|name| name.display().to_string()).unwrap_or_default();
    io::Error::new(error.kind(), format!("{name}: {error}"))
}

/// Starts a child and a thread that passes on what it tells.
fn spawn(host: Host, setup: &impl Serialize, socket: OwnedFd, tell: Sender<Told>) -> io::Result<Guarded> {
    let command = match host {
        Host::Primary => "demo-primary",
        Host::Secondary => "demo-secondary",
    };
    let mut command_line = Command::new(std::env::current_exe()?);
    if std::env::var_os("RUST_LOG").is_none() {
        // What they have to say is on the screen.
        command_line.env("RUST_LOG", "off");
    }
    let mut child = command_line
        .args([command, &serde_json::to_string(setup)?])
        .stdin(Stdio::from(socket))
        .stdout(Stdio::piped())
        .spawn()?;
    let stdout = child.stdout.take();
    let guarded = Guarded(child);
    let Some(stdout) = stdout else { return Err(io::Error::other("a child without standard output")) };
    thread::Builder::new().name(command.into()).spawn(move || {
        for line in BufReader::new(stdout).lines() {
            // A line that is cut was cut by the child's death.
            let Some(event) = line.ok().and_then(|line| serde_json::from_str(&line).ok()) else { break };
            if tell.send((host, Some(event))).is_err() {
                return;
            }
        }
        // Nobody may be listening any more.
        let _ = tell.send((host, None));
    })?;
    Ok(guarded)
}
