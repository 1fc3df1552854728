//! The two hosts of the demonstration, each a process of its own.

use super::state;
use crate::hypervisor::Domain;
use crate::hypervisor::sim::{Pace, Runner, SimConfig, SimDomain};
use crate::libxl;
use crate::replicate::RoundFigures;
use crate::replicate::bare::{self as replicate, Outcome, Recorder, Stop, primary, secondary};
use clap::Args as ClapArgs;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Write};
use std::num::NonZeroU32;
use std::os::fd::{AsFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Steps of the guest's program in a second.
const STEPS_PER_SECOND: NonZeroU32 = NonZeroU32::new(2000).unwrap();
/// How long the survivor runs before it is checked.
const RUN_ON: Duration = Duration::from_millis(250);

/// The setup of a child, from its parent.
#[derive(Debug, ClapArgs)]
pub struct ChildArgs {
    setup: String,
}

/// What the primary has to know.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct PrimarySetup {
    pub parent: u32,
    pub config: SimConfig,
    pub interval_ms: u64,
    /// Open files for the states, used in turn.
    pub states: Vec<RawFd>,
}

/// What the secondary has to know.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SecondarySetup {
    pub parent: u32,
    pub config: SimConfig,
    /// An open file for the state at failover.
    pub state: RawFd,
    /// An open file for the stream.
    pub record: Option<RawFd>,
}

/// What a child tells its parent, one line of JSON each.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Event {
    /// Primary: a checkpoint is sent.
    Round(Round),
    /// Secondary: a checkpoint is whole and applied.
    Applied { number: u64 },
    /// Secondary: the stream has stopped.
    Gone { checkpoint: u64 },
    /// Secondary: the guest runs.
    Resumed { took: Duration },
    /// Secondary: the guest has run on for so many steps; what its own check found.
    RanOn { steps: u64, damage: Option<String> },
    /// Secondary: the record of the stream is not whole. That costs nobody the guest.
    Unrecorded { text: String },
    /// Secondary: the stream is refused.
    Refused { text: String },
    /// Either: something that has no place in a demonstration.
    Trouble { text: String },
}

/// [`RoundFigures`] on their way.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Round {
    pub number: u64,
    pub dirty_pages: u64,
    pub octets: u64,
    pub pause: Duration,
    pub transmission: Duration,
}

fn tell(event: &Event) -> io::Result<()> {
    let mut line = serde_json::to_string(event)?;
    line.push('\n');
    let mut out = io::stdout().lock();
    out.write_all(line.as_bytes())?;
    out.flush()
}

/// Has the system end this process with its parent.
fn follow_parent(parent: u32) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let now = getppid().map(Pid::as_raw_nonzero).map_or(0, |pid| pid.get());
    if now.unsigned_abs() != parent {
        return Err(io::Error::other("the demonstration has ended already"));
    }
    Ok(())
}

fn setup<T: DeserializeOwned>(args: &ChildArgs) -> io::Result<T> {
    Ok(serde_json::from_str(&args.setup)?)
}

/// A file that the parent has opened.
fn inherited(fd: RawFd) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(format!("/proc/self/fd/{fd}"))
}

fn socket() -> io::Result<UnixStream> {
    Ok(UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?))
}

/// Keeps the guest's state at each checkpoint, beside the stream and not by way of it.
struct Keeper {
    states: Vec<File>,
    failed: Option<io::Error>,
}

impl primary::Observer<Runner> for Keeper {
    fn suspended(&mut self, number: u64, domain: &Runner) {
        let slot = usize::try_from(number).ok().and_then(|number| number.checked_rem(self.states.len()));
        if let Some(file) = slot.and_then(|slot| self.states.get(slot))
            && let Err(error) = state::keep(domain, number, file)
        {
            self.failed.get_or_insert(error);
        }
    }

    fn sent(&mut self, round: &RoundFigures) {
        let &RoundFigures { number, dirty_pages, octets, pause, transmission, .. } = round;
        let told = tell(&Event::Round(Round { number, dirty_pages, octets, pause, transmission }));
        if let Err(error) = told {
            self.failed.get_or_insert(error);
        }
    }
}

/// The primary. Does not return before something fails.
pub fn primary(args: &ChildArgs) -> io::Result<bool> {
    let setup: PrimarySetup = setup(args)?;
    follow_parent(setup.parent)?;
    let states = setup.states.iter().map(|&fd| inherited(fd)).collect::<io::Result<_>>()?;
    let domain = SimDomain::create(&setup.config).map_err(io::Error::other)?;
    let mut guest = Runner::start(domain, Pace::StepsPerSecond(STEPS_PER_SECOND)).map_err(io::Error::other)?;
    let options = primary::Options {
        interval: Duration::from_millis(setup.interval_ms),
        save: libxl::save::Options { config: Some(xl_config(&setup.config)), ..libxl::save::Options::default() },
        ..primary::Options::default()
    };
    let mut keeper = Keeper { states, failed: None };
    let ended = replicate::protect(&mut guest, socket()?, &options, &Stop::default(), &mut keeper);
    let text = match (keeper.failed, ended) {
        (Some(error), _) => error.to_string(),
        (None, Err(unprotected)) if unprotected.guest_runs() => {
            format!("the primary is {unprotected}; its guest runs on")
        }
        (None, Err(unprotected)) => format!("the primary is {unprotected}"),
        (None, Ok(_)) => "the primary has stopped".into(),
    };
    tell(&Event::Trouble { text })?;
    Ok(false)
}

/// A configuration as xl would put it into the preamble, as far as a simulated guest has one.
fn xl_config(config: &SimConfig) -> String {
    serde_json::json!({
        "c_info": { "type": "hvm", "name": config.name, "uuid": config.uuid },
        "b_info": {
            "max_vcpus": config.vcpus,
            "max_memkb": config.memory * 4,
            "target_memkb": config.memory * 4,
            "type.hvm": {}
        }
    })
    .to_string()
}

/// Tells what the secondary sees.
#[derive(Default)]
struct Witness {
    gone: Option<Instant>,
}

impl secondary::Observer for Witness {
    fn applied(&mut self, number: u64, _pages: usize, _octets: u64) {
        // Should the parent be gone, so will we be.
        let _ = tell(&Event::Applied { number });
    }

    fn sender_gone(&mut self, number: u64) {
        self.gone = Some(Instant::now());
        let _ = tell(&Event::Gone { checkpoint: number });
    }
}

/// The secondary.
pub fn secondary(args: &ChildArgs) -> io::Result<bool> {
    let setup: SecondarySetup = setup(args)?;
    follow_parent(setup.parent)?;
    let state = inherited(setup.state)?;
    let record = setup.record.map(inherited).transpose()?.map(BufWriter::new);
    let mut domain = SimDomain::empty(&setup.config).map_err(io::Error::other)?;
    let mut source = Recorder::new(socket()?, record);
    let mut witness = Witness::default();
    let source_in_use = BufReader::with_capacity(1 << 18, &mut source);
    let outcome = replicate::receive(source_in_use, &mut domain, libxl::restore::Options::default(), &mut witness);
    let ready = Instant::now();
    let checkpoint = match outcome {
        Ok(Outcome::FailOver { checkpoint, .. }) => checkpoint,
        Ok(Outcome::HandedOver) => return trouble("the primary has ended the stream"),
        Err(refusal) => {
            tell(&Event::Refused { text: refusal.to_string() })?;
            return Ok(false);
        }
    };
    if let Err(error) = source.finish() {
        tell(&Event::Unrecorded { text: error.to_string() })?;
    }
    state::keep(&domain, checkpoint, &state)?;
    let resuming = Instant::now();
    let before = domain.steps().map_err(io::Error::other)?;
    domain.unpause().map_err(io::Error::other)?;
    let guest = Runner::start(domain, Pace::StepsPerSecond(STEPS_PER_SECOND)).map_err(io::Error::other)?;
    let took = resuming.elapsed() + witness.gone.map_or(Duration::ZERO, |gone| ready.saturating_duration_since(gone));
    tell(&Event::Resumed { took })?;
    Stop::default().wait_until(Instant::now() + RUN_ON);
    let (steps, damage) = match guest.stop() {
        Ok(domain) => {
            let damage = domain.self_check().err().map(|error| error.to_string());
            (domain.steps().map_err(io::Error::other)?.saturating_sub(before), damage)
        }
        Err(error) => (0, Some(error.to_string())),
    };
    tell(&Event::RanOn { steps, damage })?;
    Ok(true)
}

fn trouble(text: &str) -> io::Result<bool> {
    tell(&Event::Trouble { text: text.into() })?;
    Ok(false)
}
