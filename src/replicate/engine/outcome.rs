//! How a secondary ends.

use crate::protocol::Generation;
use crate::replicate::held::Held;
use std::io;
use std::time::Instant;

/// A domain that may run: nobody else is active.
#[derive(Debug)]
pub struct Survivor<D> {
    /// Complete and paused; one that ran beside its primary's runs already.
    pub domain: D,
    /// The checkpoint that it is at, or that it went on from.
    pub checkpoint: u64,
    /// The generation it is active in.
    pub generation: Generation,
    /// When the primary counted as lost, or the switch-over was asked for.
    pub lost: Instant,
}

/// How it ended; `E` is the protocol's own end.
#[derive(Debug)]
pub enum Outcome<D, E> {
    /// This side goes on with the guest.
    Survivor(Survivor<D>),
    /// This side has no part any more.
    Ended(E),
    /// There was no session.
    Unsuited(String),
    /// This side was denied the next generation. Its replica is kept.
    Denied(Held<D>),
}

/// Why a secondary could not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// A thread, a file descriptor.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Somebody else is at the other end.
    #[error("the other side is {0}")]
    Peer(&'static str),
    /// The copy could not be made fit to run. The generation is taken: nobody else goes active by itself.
    #[error("the copy cannot run: {0}; this side holds {1}, start the guest elsewhere by force")]
    Unfit(String, Generation),
}
