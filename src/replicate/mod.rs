//! Drivers: a domain on one side, a link on the other, a clock, and what has to happen when.
//!
//! * [`primary`] drives [`crate::remus::Primary`]: it checkpoints a running guest, holds its output, and keeps it running
//!   whatever happens;
//! * [`secondary`] drives [`crate::remus::Secondary`]: it keeps the newest whole checkpoint and gives the domain back as a
//!   survivor when it may go active;
//! * [`link`] is what both say to each other: frames out and in over a [`crate::transport::Link`];
//! * [`colo`] is both for COLO: two guests that run, compared;
//! * [`bare`] speaks to Xen's own tools, which have none of this;
//! * [`Handle`] is the way in for an operator: a [`Command`] and its [`Answer`], or why it is [`Refused`]; [`status`] what a side tells of
//!   itself;
//! * [`stats`] is what all of them count, [`failpoint`] where tests let them die.
//!
//! All of it is plain threads: one that owns the state machine and never waits for anything but the next message or the
//! next deadline; one for the guest's memory and one for each direction of the link, which may wait.
#![forbid(unsafe_code)]

pub mod bare;
pub mod capability;
mod clock;
pub mod colo;
pub mod custody;
mod engine;
pub mod failpoint;
pub mod fence;
pub mod held;
pub mod link;
mod operator;
pub mod outbox;
pub mod primary;
pub mod secondary;
pub mod signals;
pub mod stats;
pub mod status;
mod witness;

pub use capability::Capability;
pub use operator::{Answer, Ask, Command, Handle, Refused};
pub use stats::{Histogram, RoundFigures, Statistics};
pub use status::Status;
