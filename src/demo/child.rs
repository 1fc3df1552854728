//! The two hosts of the demonstration, each a process of its own.

use super::{colo, state};
use crate::control::lock_step::LockStep;
use crate::host::sim::{Backend, Guest, SimTarget, xl_config};
use crate::hypervisor::Domain;
use crate::hypervisor::sim::{Runner, SimConfig, SimDomain};
use crate::libxl;
use crate::remus::{Config, Generation, Rule};
use crate::replicate::RoundFigures;
use crate::replicate::failpoint::Failpoints;
use crate::replicate::fence::Fence;
use crate::replicate::link::Record;
use crate::replicate::primary::{self, Observer};
use crate::replicate::secondary::{self, Outcome, Survivor};
use crate::transport::{Address, Cancel, connect};
use clap::Args as ClapArgs;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::time::Duration;

/// Steps of the guest's program in a second.
const STEPS_PER_SECOND: NonZeroU32 = NonZeroU32::new(2000).unwrap();
/// How long the survivor runs before it is checked.
const RUN_ON: Duration = Duration::from_millis(500);
/// Standard input is the link between the two hosts.
pub(super) const LINK: Address = Address::Fds { read: 0, write: 0 };

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
    pub cable: Cable,
    /// COLO, with this period in milliseconds.
    pub colo: Option<u64>,
}

/// Where a guest's network card is, on this machine.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Cable {
    pub nic: SocketAddr,
    pub client: SocketAddr,
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
    pub cable: Cable,
    /// The primary's process: fencing makes sure of its death.
    pub primary: u32,
    /// COLO: the guest runs here too.
    pub colo: bool,
}

/// What a child tells its parent, one line of JSON each.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Event {
    /// Primary: a checkpoint is acknowledged.
    Round(Round),
    /// Primary: what both guests have sent, so far.
    Compared(LockStep),
    /// Secondary: a checkpoint is whole.
    Whole { number: u64 },
    /// Secondary: the guest runs, so long after the primary counted as lost.
    Resumed { checkpoint: u64, took: Duration },
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
    pub bytes: u64,
    pub pause: Duration,
    pub transmission: Duration,
    pub acknowledgement: Duration,
    pub output_delay: Option<Duration>,
}

impl From<&RoundFigures> for Round {
    fn from(from: &RoundFigures) -> Self {
        let &RoundFigures { number, dirty_pages, bytes, pause, transmission, acknowledgement, output_delay } = from;
        Round { number, dirty_pages, bytes, pause, transmission, acknowledgement, output_delay }
    }
}

pub(super) fn tell(event: &Event) -> io::Result<()> {
    let mut line = serde_json::to_string(event)?;
    line.push('\n');
    let mut out = io::stdout().lock();
    out.write_all(line.as_bytes())?;
    out.flush()
}

/// Has the system end this process with its parent.
pub(super) fn follow_parent(parent: u32) -> io::Result<()> {
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
pub(super) fn inherited(fd: RawFd) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(format!("/proc/self/fd/{fd}"))
}

/// Both sides' settings. The demonstration has no third party: the primary goes on alone when it has lost the secondary, the
/// secondary when it has made sure of the primary's death.
fn config(interval: Duration) -> Config {
    Config {
        interval,
        rule: Rule::PrimaryWins,
        fence: true,
        // The dead process is there until its parent has seen it.
        retry: Duration::from_millis(10),
        ..Config::default()
    }
}

pub(super) fn backend(cable: Cable) -> Backend {
    Backend { steps: Some(STEPS_PER_SECOND), nic: Some(cable.nic), nic_peer: Some(cable.client), unbuffered: false }
}

/// Keeps the guest's state at each checkpoint, beside the stream and not by way of it.
pub(super) struct Keeper(pub(super) Vec<File>);

impl Observer<Runner> for Keeper {
    fn suspended(&mut self, number: u64, domain: &Runner) {
        let slot = usize::try_from(number).ok().and_then(|number| number.checked_rem(self.0.len()));
        if let Some(file) = slot.and_then(|slot| self.0.get(slot))
            && let Err(error) = state::keep(domain, number, file)
        {
            // The parent ends, and this process with it.
            let _ = tell(&Event::Trouble { text: error.to_string() });
        }
    }
}

/// The primary. Does not return before something fails.
pub fn primary(args: &ChildArgs) -> io::Result<bool> {
    let setup: PrimarySetup = setup(args)?;
    follow_parent(setup.parent)?;
    if let Some(period) = setup.colo {
        return colo::primary(&setup, Duration::from_millis(period));
    }
    let states = setup.states.iter().map(|&fd| inherited(fd)).collect::<io::Result<_>>()?;
    let domain = SimDomain::create(&setup.config).map_err(io::Error::other)?;
    let Guest { runner, output, wire } = backend(setup.cable).house(domain).map_err(io::Error::other)?;
    let settings = primary::Settings {
        domain: setup.config.name.clone(),
        config: config(Duration::from_millis(setup.interval_ms)),
        generation: Generation::default(),
        pacing: None,
        staging_limit: 1 << 30,
        save: libxl::save::Options { config: Some(xl_config(&setup.config)), ..libxl::save::Options::default() },
        witness: None,
        output,
        disks: Vec::new(),
        resolve: Box::new(|_, _, _| Err("a demonstration has two hosts".into())),
        once: true,
        on_round: Some(Box::new(|round: &RoundFigures| {
            // Should the parent be gone, so will we be.
            let _ = tell(&Event::Round(Round::from(round)));
        })),
        failpoints: Failpoints::default(),
    };
    let ended = primary::Driver::default().run(runner, Some(LINK), Keeper(states), settings);
    drop(wire);
    match ended {
        Ok(ended) => trouble(&format!("the primary has ended by itself: {:?}", ended.how)),
        Err(error) => trouble(&format!("the primary: {error}")),
    }
}

/// The secondary.
pub fn secondary(args: &ChildArgs) -> io::Result<bool> {
    let setup: SecondarySetup = setup(args)?;
    follow_parent(setup.parent)?;
    if setup.colo {
        return colo::secondary(&setup);
    }
    let state = inherited(setup.state)?;
    let record = setup.record.map(|fd| Record::new(PathBuf::from(format!("/proc/self/fd/{fd}"))));
    let unrecorded = record.as_ref().map(Record::failed);
    let fence = Fence { command: format!("! kill -0 {} 2>&-", setup.primary), timeout: Duration::from_secs(10) };
    let settings = secondary::Settings {
        domain: setup.config.name.clone(),
        config: config(Config::default().interval),
        restore: libxl::restore::Options::default(),
        fence: Some(fence),
        witness: None,
        record,
        on_checkpoint: Some(Box::new(|number| {
            let _ = tell(&Event::Whole { number });
        })),
        on_replica: None,
        failpoints: Failpoints::default(),
    };
    let cancel = Cancel::new()?;
    let link = connect(&LINK, &cancel)?;
    let target = SimTarget { domain: setup.config.name.clone(), memory_budget: None };
    let outcome = secondary::Driver::default().run(link, cancel, target, settings);
    let Survivor { mut domain, checkpoint, lost, .. } = match outcome {
        Ok(Outcome::Survivor(survivor)) => survivor,
        // The demonstration has no witness.
        Ok(Outcome::Denied(held)) => {
            tell(&Event::Refused { text: format!("the secondary was denied: {held:?}") })?;
            return Ok(false);
        }
        Ok(Outcome::Ended(end)) => {
            tell(&Event::Refused { text: format!("the secondary has ended: {end:?}") })?;
            return Ok(false);
        }
        Err(error) => {
            tell(&Event::Refused { text: error.to_string() })?;
            return Ok(false);
        }
    };
    let decided = lost.elapsed();
    if let Some(text) = unrecorded.as_ref().and_then(|failed| failed.get()) {
        tell(&Event::Unrecorded { text: text.clone() })?;
    }
    // Not a part of a failover.
    state::keep(&domain, checkpoint, &state)?;
    let resuming = std::time::Instant::now();
    let before = domain.steps().map_err(io::Error::other)?;
    domain.unpause().map_err(io::Error::other)?;
    let guest = backend(setup.cable).house(domain).map_err(io::Error::other)?;
    tell(&Event::Resumed { checkpoint, took: decided + resuming.elapsed() })?;
    run_on(guest, before)
}

/// Lets the survivor run for a while, and tells how it was behind the step `before`.
pub(super) fn run_on(guest: Guest, before: u64) -> io::Result<bool> {
    let Guest { runner, output, wire } = guest;
    // Nobody sends: it is a wait.
    let (_keep, nothing) = channel::<()>();
    let _ = nothing.recv_timeout(RUN_ON);
    let (steps, damage) = match runner.stop() {
        Ok(domain) => {
            let damage = domain.self_check().err().map(|error| error.to_string());
            (domain.steps().map_err(io::Error::other)?.saturating_sub(before), damage)
        }
        Err(error) => (0, Some(error.to_string())),
    };
    drop((wire, output));
    tell(&Event::RanOn { steps, damage })?;
    Ok(true)
}

pub(super) fn trouble(text: &str) -> io::Result<bool> {
    tell(&Event::Trouble { text: text.into() })?;
    Ok(false)
}
