//! A replica that a session has left behind: kept, paused, by the thread that has it.

use crate::remus::{Generation, Session};
use std::fmt;
use std::thread::JoinHandle;
use std::time::{Instant, SystemTime};

/// How a replica goes on: gives the domain, or says why it cannot.
pub(super) type Activate<D> = Box<dyn FnOnce() -> Result<D, String> + Send>;

/// What is told of a replica that was denied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The checkpoint that it is at.
    pub checkpoint: u64,
    /// The session that it comes from.
    pub session: Session,
    /// The newest generation that the witness has given, as far as is known.
    pub newest: Generation,
    /// Bytes of memory that it takes.
    pub memory: u64,
    /// Who its primary was, for people.
    pub peer: String,
    /// Since when it is kept.
    pub since: Instant,
    /// The same on this host's clock.
    pub date: SystemTime,
}

/// How a session has ended, before the replica has left its thread.
pub(super) enum Finished<Outcome> {
    Over(Outcome),
    /// This side was denied: a replica is to be kept, with so many bytes of memory.
    Denied(u64),
}

impl<Outcome> From<Outcome> for Finished<Outcome> {
    fn from(outcome: Outcome) -> Self {
        Finished::Over(outcome)
    }
}

/// A replica. Dropping it frees it, and waits until that is done.
pub struct Held<D> {
    /// What is told of it.
    pub facts: Facts,
    activate: Option<Activate<D>>,
    thread: Option<JoinHandle<()>>,
}

impl<D> fmt::Debug for Held<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").field("facts", &self.facts).finish_non_exhaustive()
    }
}

impl<D> Held<D> {
    /// Kept by a thread, which ends when `activate` is dropped or was called.
    pub(super) fn new(facts: Facts, activate: Activate<D>, thread: JoinHandle<()>) -> Self {
        Held { facts, activate: Some(activate), thread: Some(thread) }
    }

    /// Makes the domain fit to run.
    ///
    /// # Errors
    /// In words why it cannot be.
    pub fn activate(mut self) -> Result<D, String> {
        self.activate.take().map_or_else(|| Err("there is no copy".into()), |activate| activate())
    }
}

impl<D> Drop for Held<D> {
    fn drop(&mut self) {
        drop(self.activate.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the copy's thread has panicked");
        }
    }
}
