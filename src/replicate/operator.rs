//! The operator's way to a driver, and the driver's words to the operator.

use super::status::{Figures, Notice as Told, Status, Summary};
use crate::claim::denied::NotNow;
use crate::protocol::Level;
use crate::protocol::{self, Generation};
use crate::remus::wire::Capabilities;
use crate::replicate::stats::Statistics;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

/// What an operator can want of a side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Its [`Status`].
    Status,
    /// What it can do.
    Capabilities,
    /// Switch a capability on or off.
    SetCapability {
        /// Its name, or that of micro-checkpointing's.
        name: String,
        /// Which.
        on: bool,
    },
    /// Change the interval between checkpoints.
    SetInterval(Duration),
    /// Hand the guest to the secondary, without loss.
    SwitchOver,
    /// Take a secondary, while the guest runs.
    Protect {
        /// Where it is, as in `xen-replicate remus`.
        host: String,
        /// What to reach it with, in place of the one in use: a shell command, as in `-s`.
        rsh: Option<String>,
        /// What to run there, in place of the one in use.
        remote: Option<String>,
    },
    /// Stop protecting and run on.
    Unprotect {
        /// The operator's word that no other replica is or will be active.
        force: bool,
    },
    /// Go active.
    FailOver {
        /// The operator's word that the primary is not and will not be active.
        force: bool,
        /// Of a side that was denied: the newest generation, typed by the operator.
        generation: Option<Generation>,
    },
    /// Free the replica of a side that was denied.
    Drop,
}

/// What a side answers to a command that it obeys. Whether that has come to anything is in the status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It is done, and there is nothing to add.
    Done,
    /// How the side is, now that the command is done or begun.
    Status(Box<Status>),
    /// What the side can do.
    Capabilities {
        /// What it offers.
        offered: Capabilities,
        /// What the session has.
        in_use: Capabilities,
    },
}

impl From<Status> for Answer {
    fn from(status: Status) -> Self {
        Answer::Status(Box::new(status))
    }
}

/// Why a command is not obeyed. Nothing has changed then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The machine's reason.
    #[error(transparent)]
    Machine(protocol::Refused),
    /// Not in this phase, by its name.
    #[error("cannot be done while {0}")]
    Phase(&'static str),
    /// For the other side.
    #[error("this side is the secondary: ask the primary")]
    Secondary,
    /// For the other side.
    #[error("this side is the primary: ask the secondary")]
    Primary,
    /// COLO does not have it.
    #[error("COLO {0}")]
    Colo(&'static str),
    /// The commands that decide what becomes of a replica whose side was denied, where there is none.
    #[error("no replica is kept here that was denied: --force-generation and drop are for such a one")]
    NothingDenied,
    /// Another command than those where there is one.
    #[error("this side keeps a replica that was denied: drop, or fail-over")]
    Denied,
    /// The reason of the machine of a replica that was denied.
    #[error(transparent)]
    Kept(NotNow),
    /// What the operator calls a host is none.
    #[error("{0}")]
    Host(String),
    /// A capability that is not known, or cannot be set while running.
    #[error("{0}")]
    Capability(String),
    /// Somebody else was faster.
    #[error("the witness denies {asked}: {newest} was given meanwhile")]
    Held {
        /// What was asked for.
        asked: Generation,
        /// The newest given.
        newest: Generation,
    },
    /// The witness has not answered.
    #[error("the witness cannot be asked for {0}: the replica is kept")]
    Unreachable(Generation),
    /// The side is not there any more.
    #[error("this side has ended")]
    Ended,
    /// There is neither a primary nor a secondary.
    #[error("cannot be done while no domain is protected or received")]
    Idle,
}

impl Refused {
    /// The machine's reason, with the name of the phase where it says no more than that.
    pub(super) const fn in_phase(refused: protocol::Refused, phase: &'static str) -> Self {
        match refused {
            protocol::Refused::Phase => Refused::Phase(phase),
            refused => Refused::Machine(refused),
        }
    }
}

/// To the commands that set what Remus negotiates.
pub(super) const NO_CAPABILITIES: Refused = Refused::Colo("has none of the capabilities, which are Remus's");

/// What an operator wants of a driver.
#[derive(Debug)]
pub enum Ask {
    /// Something that is answered, to the sender.
    Command(Command, Sender<Result<Answer, Refused>>),
    /// SIGTERM or SIGINT: end in a defined state. Asked twice: end at once.
    Terminate,
    /// Somebody else waits to be served: a secondary whose primary has not said who it is ends.
    Unmet,
}

/// A way to a running driver. Clones lead to the same one; when it has ended, requests are answered with an error.
#[derive(Clone)]
pub struct Handle(Arc<dyn Fn(Ask) -> bool + Send + Sync>);

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Handle")
    }
}

impl Handle {
    /// `tell` gives false when nobody hears any more.
    pub(crate) fn new(tell: impl Fn(Ask) -> bool + Send + Sync + 'static) -> Self {
        Handle(Arc::new(tell))
    }

    /// Asks, and waits for the answer; `None` from a driver that has ended.
    pub fn ask(&self, command: Command) -> Option<Result<Answer, Refused>> {
        let (answer, answered) = channel();
        if (self.0)(Ask::Command(command, answer)) { answered.recv().ok() } else { None }
    }

    /// Somebody else waits to be served.
    pub(crate) fn unmet(&self) {
        (self.0)(Ask::Unmet);
    }

    /// What a signal asks for.
    pub fn terminate(&self) {
        (self.0)(Ask::Terminate);
    }
}

/// Notices kept for the status.
const KEPT: usize = 16;

/// The newest notices. Each is a line in the log too.
#[derive(Debug, Default)]
pub(super) struct Notices(VecDeque<(Instant, Level, String)>);

impl Notices {
    pub(super) fn add(&mut self, domain: &str, level: Level, text: String) {
        let line = match level {
            Level::Info => log::Level::Info,
            Level::Warning => log::Level::Warn,
            Level::Critical => log::Level::Error,
        };
        log::log!(line, "{domain}: {text}");
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back((Instant::now(), level, text));
    }

    pub(super) fn list(&self) -> Vec<Told> {
        self.0
            .iter()
            .map(|(at, level, text)| Told { age_ms: millis_since(*at), level: (*level).into(), text: text.clone() })
            .collect()
    }
}

/// Counters and histograms as they are told.
pub(super) fn figures(statistics: &Statistics) -> Figures {
    Figures {
        checkpoints: statistics.checkpoints,
        refused: statistics.refused,
        pages: statistics.dirty_pages,
        bytes: statistics.bytes,
        interval_stretched: statistics.stretched,
        pause: Summary::from_nanos(statistics.pause.summary()),
        transmission: Summary::from_nanos(statistics.transmission.summary()),
        acknowledgement: Summary::from_nanos(statistics.acknowledgement.summary()),
        output_delay: Summary::from_nanos(statistics.output_delay.summary()),
        pages_per_checkpoint: statistics.pages.summary().into(),
        bytes_per_checkpoint: statistics.bytes_each.summary().into(),
        ..Figures::default()
    }
}

/// Milliseconds since then.
pub(super) fn millis_since(at: Instant) -> u64 {
    u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX)
}
