//! Options that both sides of a protection share.

use super::endpoint::quoted;
use crate::control;
use crate::host::digests::Digests;
use crate::host::{Protection, sim};
use crate::protocol::OutOfBounds;
use crate::remus::pacing::{Pacing, Target};
use crate::remus::{Config, ConfigError, Rule};
use crate::replicate::failpoint::Failpoints;
use crate::replicate::fence::Fence;
use crate::witness::Holder;
use clap::{Args, ValueEnum};
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

/// The shortest interval of the adaptive mode unless it is given, in milliseconds.
const SHORTEST: u64 = 5;
/// The longest.
const LONGEST: u64 = 5000;
/// Most MiB that a limit may be: 1 TiB.
pub(super) const MOST_MIB: u64 = 1 << 20;

/// The heading of the options that the simulated guest has: they are shown by --help-sim alone.
pub(super) const SIMULATED: &str = "Simulated guest (--backend sim)";

/// What both sides of a protection can be told.
#[derive(Debug, Clone, Args)]
pub struct ProtectionArgs {
    /// Whose guest it is: a domain of this host's Xen, or `sim`, the simulated guest, which needs none: see --help-sim [default: xen]
    #[arg(long, value_enum, value_name = "NAME")]
    pub backend: Option<Backend>,
    /// Print the options of the simulated guest
    #[arg(long)]
    pub help_sim: bool,
    /// Protect or receive on a Xen that is newer than all that this version knows; without it that is refused
    #[arg(long, help_heading = "Safety")]
    pub trust_xen: bool,
    /// Steps a second of the simulated guest's program; 0: as fast as it can
    #[arg(long, value_name = "N", default_value_t = 2000, help_heading = SIMULATED, hide = true)]
    pub sim_steps: u32,
    /// Where the simulated guest's network card receives: a UDP address of this machine
    #[arg(long, value_name = "ADDR:PORT", help_heading = SIMULATED, hide = true)]
    pub nic: Option<SocketAddr>,
    /// Where the packets of the simulated guest's network card go
    #[arg(long, value_name = "ADDR:PORT", help_heading = SIMULATED, hide = true)]
    pub nic_peer: Option<SocketAddr>,

    /// Who may go on alone when the two sides have lost each other [default: witness with --witness, else manual]
    #[arg(long, value_enum, value_name = "RULE", help_heading = "Safety")]
    pub rule: Option<RuleArg>,
    /// The witness: a folder that both hosts see, with the number that just one of them can take
    #[arg(long, value_name = "DIR", help_heading = "Safety")]
    pub witness: Option<PathBuf>,
    /// A command for sh that switches the primary's host off, and exits with 0 only when it is off; run before a failover
    #[arg(long, value_name = "COMMAND", help_heading = "Safety")]
    pub fence: Option<String>,
    /// Seconds that the fencing command may take
    #[arg(long, value_name = "S", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600),
        help_heading = "Safety")]
    pub fence_timeout: u64,

    /// Milliseconds between two heartbeats
    #[arg(long, value_name = "MS", default_value_t = ms(Config::default().heartbeat), help_heading = "Times")]
    pub heartbeat: u64,
    /// Milliseconds of silence after which the other side counts as lost; more than three heartbeats
    #[arg(long, value_name = "MS", default_value_t = ms(Config::default().timeout), help_heading = "Times")]
    pub timeout: u64,
    /// Milliseconds that an acknowledgement or another answer may take; at least --timeout
    #[arg(long, value_name = "MS", default_value_t = ms(Config::default().answer), help_heading = "Times")]
    pub answer_timeout: u64,
    /// Milliseconds between two tries of the witness or of the fencing command
    #[arg(long, value_name = "MS", default_value_t = ms(Config::default().retry), help_heading = "Times")]
    pub retry: u64,
    /// Checkpoints in a row that may be refused before protection is given up
    #[arg(long, value_name = "N", default_value_t = Config::default().refusals, help_heading = "Times")]
    pub refusals: u32,
    /// Checkpoints of any 100 that may be refused before protection is given up, whatever comes between them
    #[arg(long, value_name = "N", default_value_t = Config::default().refusals_of_100, help_heading = "Times")]
    pub refusals_of_100: u32,
    /// Adapt the interval: paused=PERCENT keeps the share of time that the guest stands still, delay=MS what output waits
    #[arg(long, value_name = "TARGET", value_parser = target, help_heading = "Times")]
    pub adaptive: Option<Target>,
    /// The shortest adaptive interval in milliseconds [default: 5]
    #[arg(long, value_name = "MS", help_heading = "Times")]
    pub shortest: Option<u64>,
    /// The longest adaptive interval in milliseconds [default: 5000]
    #[arg(long, value_name = "MS", help_heading = "Times")]
    pub longest: Option<u64>,
    /// Most MiB of dirty pages that are copied before the guest runs on; with more it stands still while they are sent
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=MOST_MIB))]
    pub staging_limit: u64,

    /// The socket for `xen-replicate ctl` [default: DOMAIN.sock in the folder of the running processes]
    #[arg(long, value_name = "PATH", help_heading = "Control")]
    pub control: Option<PathBuf>,
    /// Have no control socket
    #[arg(long, conflicts_with = "control", help_heading = "Control")]
    pub no_control: bool,
    /// Show a live table on standard output
    #[arg(long, help_heading = "Control")]
    pub watch: bool,

    /// Die or stop at a named step, for tests
    #[arg(long, value_name = "NAME[@N][=kill|stop|panic|hang]", hide = true)]
    pub failpoint: Vec<String>,
    /// Keep sums of the guest's state at each checkpoint, for tests
    #[arg(long, value_name = "FILE", hide = true)]
    pub keep_digests: Option<PathBuf>,
    /// A simulated guest's disk, that a daemon of `disk` has on this host, for tests
    #[arg(long, value_name = "DEVICE", hide = true)]
    pub disk: Vec<String>,
    /// Let TCP go to private networks, for tests
    #[arg(long, hide = true)]
    pub allow_private: bool,
}

/// Whose guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Backend {
    /// The simulated guest
    Sim,
    /// A domain of this host's Xen
    Xen,
}

/// [`Rule`], as it is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RuleArg {
    /// The side that acquires the generation lock in the witness
    Witness,
    /// The primary; the secondary when the operator says so
    Manual,
    /// The primary; the secondary when its fencing command has succeeded
    PrimaryWins,
}

impl ProtectionArgs {
    /// The rule in use.
    ///
    /// # Errors
    /// It needs a witness that is not given, or has no use for the one that is.
    pub fn rule(&self) -> Result<Rule, String> {
        let rule = match self.rule {
            None if self.witness.is_some() => Rule::Witness,
            None | Some(RuleArg::Manual) => Rule::Manual,
            Some(RuleArg::Witness) => Rule::Witness,
            Some(RuleArg::PrimaryWins) => Rule::PrimaryWins,
        };
        match (rule, self.witness.is_some()) {
            (Rule::Witness, false) => Err("--rule witness needs --witness DIR".into()),
            (Rule::Manual | Rule::PrimaryWins, true) => {
                Err(format!("--witness is of no use with --rule {rule}: leave one of them out"))
            }
            _ => Ok(rule),
        }
    }

    /// The machine's settings, checked. The interval is that of its own option, in milliseconds.
    ///
    /// # Errors
    /// What is wrong, with the option's name.
    pub(super) fn config(&self, interval: u64, bare: bool) -> Result<Config, String> {
        self.pacing()?;
        if self.nic_peer.is_some() && self.nic.is_none() {
            return Err("--nic-peer needs --nic".into());
        }
        let config = Config {
            interval: Duration::from_millis(interval),
            heartbeat: Duration::from_millis(self.heartbeat),
            timeout: Duration::from_millis(self.timeout),
            answer: Duration::from_millis(self.answer_timeout),
            retry: Duration::from_millis(self.retry),
            refusals: self.refusals,
            refusals_of_100: self.refusals_of_100,
            rule: self.rule()?,
            fence: self.fence.is_some(),
            bare,
            unheld: false,
            domain: 0,
        };
        config.validate().map_err(|error| format!("{}: {error}", option(&error)))?;
        Ok(config)
    }

    /// The adaptive interval, if asked for.
    ///
    /// # Errors
    /// Its bounds: without it, outside [`Config::INTERVAL`], or the wrong way round.
    pub fn pacing(&self) -> Result<Option<Pacing>, String> {
        let bounds = [("--shortest", self.shortest, SHORTEST), ("--longest", self.longest, LONGEST)];
        let Some(target) = self.adaptive else {
            return match bounds.iter().find(|(_, value, _)| value.is_some()) {
                Some((name, ..)) => Err(format!("{name} needs --adaptive")),
                None => Ok(None),
            };
        };
        let [shortest, longest] = bounds.map(|(name, value, default)| {
            let value = Duration::from_millis(value.unwrap_or(default));
            Config::interval_in_bounds(value).map_err(|error| format!("{name}: {error}")).map(|()| value)
        });
        let (shortest, longest) = (shortest?, longest?);
        if shortest > longest {
            return Err(format!("--shortest of {shortest:?} is longer than --longest of {longest:?}"));
        }
        Ok(Some(Pacing { target, shortest, longest }))
    }

    /// What is run on the other host unless the operator says otherwise: our other half, with what both sides must agree on.
    /// One word, for the remote shell takes it apart again.
    ///
    /// # Errors
    /// As for [`ProtectionArgs::rule`].
    pub fn remote_command(&self, domain: &str) -> Result<String, String> {
        self.remote_command_with(domain, "", false)
    }

    /// The same with options behind the rule. With `or_stock` a host that has no program of ours runs xl's receiver.
    ///
    /// # Errors
    /// As for [`ProtectionArgs::rule`].
    pub fn remote_command_with(&self, domain: &str, options: &str, or_stock: bool) -> Result<String, String> {
        let mut command = format!("xen-replicate receive --domain {} --rule {}{options}", quoted(domain), self.rule()?);
        if let Some(backend) = self.backend.as_ref().and_then(ValueEnum::to_possible_value) {
            command.push_str(&format!(" --backend {}", backend.get_name()));
        }
        if let Some(directory) = &self.witness {
            // The other process has another working directory.
            let directory = std::path::absolute(directory).map_err(|error| format!("--witness: {error}"))?;
            command.push_str(" --witness ");
            command.push_str(&quoted(&directory.to_string_lossy()));
        }
        let default = Config::default();
        for (option, value, usual) in [
            ("--heartbeat", self.heartbeat, default.heartbeat),
            ("--timeout", self.timeout, default.timeout),
            ("--answer-timeout", self.answer_timeout, default.answer),
            ("--retry", self.retry, default.retry),
        ] {
            if value != ms(usual) {
                command.push_str(&format!(" {option} {value}"));
            }
        }
        if or_stock {
            // `-e`, where it is asked for, comes behind it all.
            let ours = format!("command -v xen-replicate >/dev/null && exec {command} \"$@\"");
            let script = format!("{ours}; exec xl migrate-receive -r \"$@\"");
            command = format!("sh -c {} sh", quoted(&script));
        }
        Ok(quoted(&command))
    }

    /// Who may be active alone, with the machine's settings.
    pub fn protection(&self, domain: &str, config: Config) -> Protection {
        let timeout = self.fence_timeout();
        Protection {
            domain: domain.to_owned(),
            config,
            witness: self.witness.clone(),
            fence: self.fence.clone().map(|command| Fence { command, timeout }),
            holder: Holder::new(),
        }
    }

    /// Whether the guest is a domain of this host's Xen: unless the operator says that it is a simulated one.
    pub fn is_xens(&self) -> bool {
        self.backend != Some(Backend::Sim)
    }

    /// Checks, before anything is touched, that there is what the guest is to be of.
    ///
    /// # Errors
    /// In words: this host has no Xen, and no simulated guest was asked for; or what only a simulated guest has.
    pub fn guest_of(&self) -> Result<(), String> {
        if !self.is_xens() {
            return Ok(());
        }
        if let Some(option) =
            [(self.nic.is_some(), "--nic"), (self.nic_peer.is_some(), "--nic-peer")].iter().find(|o| o.0)
        {
            return Err(format!("{} is for --backend sim: a simulated guest's", option.1));
        }
        if crate::hypervisor::xen::is_xen_host() {
            return Ok(());
        }
        Err("this host has no Xen: there is no /dev/xen/privcmd, so no domain can be protected or received here. \
             A simulated guest needs none, and must be asked for: --backend sim"
            .into())
    }

    /// Where a simulated guest lives.
    pub fn backend(&self) -> sim::Backend {
        sim::Backend {
            steps: NonZeroU32::new(self.sim_steps),
            nic: self.nic,
            nic_peer: self.nic_peer,
            unbuffered: false,
        }
    }

    /// The file of sums, begun anew.
    ///
    /// # Errors
    /// The system's.
    pub fn digests(&self) -> io::Result<Option<Digests>> {
        self.keep_digests.as_deref().map(|path| Digests::open(path, false)).transpose()
    }

    /// The armed failpoints.
    ///
    /// # Errors
    /// A text that is none.
    pub fn failpoints(&self) -> Result<Failpoints, String> {
        Failpoints::parse(&self.failpoint).map_err(|error| format!("--failpoint: {error}"))
    }

    /// How long the fencing command may take.
    pub const fn fence_timeout(&self) -> Duration {
        Duration::from_secs(self.fence_timeout)
    }

    /// Bytes of dirty pages that are copied before the guest runs on.
    pub const fn staging_limit(&self) -> u64 {
        self.staging_limit << 20
    }

    /// Where the control socket is to be; none when there is to be none.
    ///
    /// # Errors
    /// As for [`control::default_path`].
    pub fn control_path(&self, domain: &str) -> io::Result<Option<PathBuf>> {
        match &self.control {
            _ if self.no_control => Ok(None),
            Some(path) => Ok(Some(path.clone())),
            None => control::default_path(domain).map(Some),
        }
    }
}

/// The option that a setting came from.
fn option(error: &ConfigError) -> &'static str {
    match error {
        ConfigError::Bounds(OutOfBounds { name: "interval", .. }) => "--interval",
        ConfigError::Bounds(OutOfBounds { name: "heartbeat", .. }) => "--heartbeat",
        ConfigError::Bounds(OutOfBounds { name: "retry", .. }) => "--retry",
        ConfigError::Bounds(OutOfBounds { name: "answer", .. }) | ConfigError::Answer { .. } => "--answer-timeout",
        ConfigError::Bounds(_) | ConfigError::Timeout { .. } => "--timeout",
    }
}

fn target(text: &str) -> Result<Target, String> {
    match text.split_once('=') {
        Some(("paused", percent)) => {
            let value: f64 =
                percent.trim_end_matches('%').parse().map_err(|_| format!("{percent:?} is not a number"))?;
            if !(0.1..=99.9).contains(&value) {
                return Err(format!("{percent} per cent is outside 0.1 to 99.9"));
            }
            Ok(Target::PausedShare((value * 10.0).round() as u32))
        }
        Some(("delay", delay)) => {
            let value: u64 = delay.parse().map_err(|_| format!("{delay:?} is not a number of milliseconds"))?;
            if !(1..=60_000).contains(&value) {
                return Err(format!("{value} ms is outside 1 to 60000"));
            }
            Ok(Target::OutputDelay(Duration::from_millis(value)))
        }
        _ => Err("neither paused=PERCENT nor delay=MS".into()),
    }
}

/// A default of [`Config`] in milliseconds.
pub(super) fn ms(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
