//! Drivers: a domain on one side, a stream on the other, a clock, and what has to happen when.
//!
//! * [`Primary`] sends one checkpoint after the other, [`protect`] does so at an interval. Whatever fails, the guest goes
//!   on running: unprotected, and loudly so.
//! * [`receive`] is the secondary: it takes whole checkpoints, and when the stream stops leaves the domain at the last of
//!   them, ready to run. A stream that must be refused is no reason for that.
//! * [`Recorder`] keeps a copy of what a secondary reads.
//! * [`stats`] is what both count.
//!
//! The wire is the bare migration-v2 stream in one direction; nothing comes back.
#![forbid(unsafe_code)]

pub mod primary;
pub mod recorder;
pub mod secondary;
pub mod stats;

pub use primary::{Primary, Stop, Unprotected, protect};
pub use recorder::Recorder;
pub use secondary::{Outcome, Refusal, receive};
pub use stats::{Histogram, RoundFigures, Statistics};
