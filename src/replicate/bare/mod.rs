//! The bare stream: what Xen's own tools send and take, in one direction, with nothing beside it.
//!
//! The primary is [`super::primary`], which serves such a peer too.
//!
//! * [`receive`] is the secondary: the end of the stream is the primary's death, for nothing else can tell of it. A stream
//!   that must be refused is no reason to go active.
//! * [`Recorder`] keeps a copy of what a secondary reads.
//!
//! None of the properties of [`crate::remus`] hold here: see [`crate::remus::wire::Capabilities::cost`].

pub mod recorder;
pub mod secondary;

pub use recorder::Recorder;
pub use secondary::{Outcome, Refusal, receive, receive_new};
