//! The small values that all machines and their drivers share.

use core::fmt;
use core::time::Duration;

/// A point on the caller's monotonic clock, in nanoseconds from an origin of its own choice. The clocks of the two sides
/// are never compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(pub u64);

impl Time {
    /// The time `span` later; the clock's end when that is nearer.
    pub fn after(self, span: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// The time `span` earlier; the clock's origin when that is nearer.
    pub fn before(self, span: Duration) -> Time {
        Time(self.0.saturating_sub(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// The span since `earlier`, zero when that is later.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Names one connection between one primary and one secondary. Random, chosen by the primary, in every frame; frames of
/// another session are dropped unseen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Session(pub u64);

/// What a guest is doing: one word of these from the hypervisor to the operator's status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RunState {
    /// Its vCPUs may run.
    Running,
    /// Paused from outside (`xl pause`), without its help; `xl unpause` lets it run.
    Paused,
    /// It has acknowledged a suspend request and waits to be resumed, here or where its image is restored.
    Suspended,
    /// It has ended by itself: power-off, reboot, crash, watchdog. Or it is not there any more.
    ShutDown,
}

impl fmt::Display for RunState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RunState::Running => "running",
            RunState::Paused => "paused",
            RunState::Suspended => "suspended",
            RunState::ShutDown => "shut down",
        })
    }
}

/// What was asked of the output buffer and failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutputCall {
    /// To hold what the guest sends.
    Hold,
    /// To begin an epoch: what the guest sends from here on may be counted to the epoch before.
    Epoch,
    /// To let out the packets of epochs that are acknowledged.
    Release,
    /// To let out everything, from now on as it is sent.
    Free,
    /// To drop what is held.
    Discard,
}

/// Who may be active alone after the two sides have lost each other. Both sides must be given the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Rule {
    /// A lease with a generation number decides. Nobody is active alone without the newest.
    Witness = 1,
    /// The primary goes on alone at once. The secondary goes active when the operator says so, and only then.
    Manual = 2,
    /// The primary goes on alone at once. The secondary goes active when the fencing command has succeeded. At most one copy
    /// is active, but what a primary released after it went on alone is lost when it is fenced then.
    PrimaryWins = 3,
}

impl Rule {
    /// `witness`, `manual` or `primary-wins`.
    pub const fn name(self) -> &'static str {
        match self {
            Rule::Witness => "witness",
            Rule::Manual => "manual",
            Rule::PrimaryWins => "primary-wins",
        }
    }

    /// The rule of a number on the wire.
    pub const fn from_wire(value: u8) -> Option<Rule> {
        match value {
            1 => Some(Rule::Witness),
            2 => Some(Rule::Manual),
            3 => Some(Rule::PrimaryWins),
            _ => None,
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The timers of both machines. A machine keeps no time; the driver keeps one deadline for each ([`super::Timers`]).
///
/// Nothing that must hold depends on when a timer fires. One that fires early, late or twice costs protection at worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Timer {
    /// A heartbeat is due.
    Heartbeat,
    /// The peer has been silent for the time-out.
    Peer,
    /// The next checkpoint is due (primary).
    Round,
    /// An answer (HELLO, ACK, ACTIVE) is overdue (primary).
    Answer,
    /// Ask the witness, or run the fencing command, again; resume a guest again.
    Retry,
    /// Try the output buffer again (primary).
    Output,
}

impl Timer {
    /// All timers.
    pub const ALL: [Timer; 6] =
        [Timer::Heartbeat, Timer::Peer, Timer::Round, Timer::Answer, Timer::Retry, Timer::Output];
}
