//! How a primary ends.

use crate::hypervisor;
use crate::libxc::SaveError;
use crate::protocol::Generation;
use crate::replicate::stats::Statistics;
use crate::replicate::status::Status;
use std::io;

/// How it ended. The domain is given back in each case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The guest runs on the other side, as asked.
    SwitchedOver,
    /// The guest is paused: the other side is, or may be, active.
    Fenced,
    /// Protection has ended; the guest runs, its output is free.
    Unprotected,
    /// Told to end; the guest runs, its output is free.
    Stopped,
    /// Told to end a second time, before it was decided who may be active: output is held.
    Abandoned,
}

/// A primary that has ended.
#[derive(Debug)]
pub struct Ended<D> {
    /// How.
    pub how: Ending,
    /// The domain.
    pub domain: D,
    /// What was counted.
    pub statistics: Statistics,
    /// The newest generation that it holds or knows of.
    pub generation: Generation,
    /// How it was at the end, for the operator.
    pub status: Status,
}

/// Why a primary could not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// A thread, a file descriptor.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The domain cannot be saved.
    #[error("{0}")]
    Save(#[from] SaveError),
    /// The guest cannot be resumed. Its output is held; the secondary goes active when the connection ends.
    #[error("the guest cannot be resumed: {0}; ending, so that the secondary takes over")]
    Resume(hypervisor::Error),
    /// A thread has panicked, and the domain with it.
    #[error("the guest's thread has panicked")]
    Panicked,
}
