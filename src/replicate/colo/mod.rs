//! Drivers of [`crate::colo`]'s machines in libxl's dialect, end to end: two guests that run, each in a process of its own.
//!
//! * [`primary`] compares what both send and has checkpoints made; [`secondary`] runs the copy;
//! * [`frame`] and [`hello`] are what two of our own ends have around libxl's bytes, [`pipe`] the way out;
//! * [`lists`] are the pages that the secondary has written, `inlet` what its copy waits for.
//!
//! | thread | primary | secondary |
//! |---|---|---|
//! | the caller's | machine, timers, comparison | machine, timers |
//! | `colo-guest` | suspends, collects, writes the stream, resumes | reads the stream, loads, suspends, lists, resumes |
//! | `colo-in` | messages, lists, the other's packets | the stream's bytes, packets for the guest |
//! | `colo-out` | signs of life, packets for the other guest | signs of life, the guest's packets |
//! | `witness`, `fence`, `colo-connect` | whatever that takes | the same |
//!
//! # Packets
//! What the guests send is compared by the primary, which has the secondary's packets from lane 4 of the connection. What comes for the
//! guest comes to the primary, which gives it to the secondary in the other direction. Each is stamped with the checkpoint that its guest went on from. At a
//! checkpoint the secondary forgets what its guest has not fetched, and is given anew what the primary's has not.
//!
//! With libxl as the peer there are no such lanes: nothing can be compared, so all output waits for the next checkpoint, which comes after
//! the period.
#![forbid(unsafe_code)]

pub mod frame;
pub mod hello;
mod inlet;
pub mod lists;
pub mod pipe;
pub mod primary;
pub mod secondary;

use std::time::Duration;

/// How the two ends hear of each other's life, and of how much they compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// Between two signs of life.
    pub heartbeat: Duration,
    /// Silence after which the other counts as lost.
    pub timeout: Duration,
    /// How long a packet of one guest may wait for the other's.
    pub patience: Duration,
}

impl Default for Times {
    /// As in Remus: 100 ms and 1 s; 200 ms for a packet.
    fn default() -> Self {
        let usual = crate::remus::Config::default();
        Times { heartbeat: usual.heartbeat, timeout: usual.timeout, patience: Duration::from_millis(200) }
    }
}

/// Milliseconds for a peer.
fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
