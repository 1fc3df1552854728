//! One loop for every primary and one for every secondary, whatever the protocol.
//!
//! A protocol brings a machine that decides, the threads that read, write and copy, and what its own actions mean ([`primary::Protocol`],
//! [`secondary::Protocol`]). The loop owns the rest: the clock and the timers, the witness, the fencing command, the operator, what is
//! told, and how all of it ends.

mod ending;
pub(in crate::replicate) mod guest;
mod mailbox;
mod outcome;
pub(in crate::replicate) mod primary;
mod replica;
pub(in crate::replicate) mod secondary;
mod told;
mod words;
