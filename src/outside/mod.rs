//! The outside world: a client that talks to a simulated guest over the network, and judges what it hears.
//!
//! It knows nothing of checkpoints or of who is primary; it sees packets and where they come from. That is enough to tell whether a
//! failover was sound, because the guest numbers its packets and says in each how far it has come: [`Judge`] has the rules,
//! [`Client`] the socket, [`Seen`] the result.
#![forbid(unsafe_code)]

pub mod client;
pub mod judge;
pub mod judges;
pub mod request;
pub mod seen;

#[cfg(test)]
mod tests;

pub use client::{Client, ClientConfig, ClientThread};
pub use judge::Judge;
pub use request::Request;
pub use seen::{Fault, HostSeen, Progress, Seen, Verdict};
