//! A tap on a COLO session: between a QEMU primary and its secondary, or in the place of either.
//!
//! * [`session`] - the bytes of both directions to [`event`]s;
//! * [`channel`] - a multifd channel beside the main connection;
//! * [`return_path`] - the secondary's answers in front of COLO's messages;
//! * [`recording`] - the file of a session;
//! * [`pass`] - between the two: every byte passed on, unchanged;
//! * [`answer`] - in the place of the secondary: the answers that a primary waits for;
//! * [`replay`] - in the place of the primary: a recording played to a secondary, in step with its answers;
//! * [`cut`] - where a test has one direction carry nothing any more.
#![forbid(unsafe_code)]

pub mod answer;
pub mod channel;
mod channels;
mod connections;
pub mod cut;
pub mod event;
pub mod pass;
pub mod recording;
mod records;
pub mod replay;
pub mod return_path;
pub mod session;
mod watch;

pub use cut::Cut;
pub use event::{Event, What};
pub use recording::{Direction, Form};
pub use session::Session;
pub use watch::Watch;

/// Bytes read at once.
const CHUNK: usize = 256 << 10;
