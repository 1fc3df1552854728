//! What every protocol and its driver have in common: time, timers, sessions, who is alive, what can be asked for. No clock.
//!
//! | file | what |
//! |---|---|
//! | `types.rs` | time, timers by name, sessions, rules, what a guest does |
//! | `generation.rs` | the number that only one side can hold, and what a witness answers to a request for it |
//! | `guest.rs` | what a machine knows of its own guest |
//! | `bounds.rs` | what a time that an operator sets must keep |
//! | `timers.rs` | the driver's half of the timers |
//! | `liveness.rs` | the failure detector |
//! | `notice.rs` | what an operator is told |
//! | `refused.rs` | why a command is not obeyed |
//! | `primary.rs` | what the machines of all primaries take alike |
//! | `secondary.rs` | what the machines of all secondaries take and give alike |
//!
//! [`crate::claim`] decides who may run a domain; [`crate::remus`] and [`crate::colo`] stand on it.

mod bounds;
mod generation;
mod guest;
mod liveness;
mod notice;
pub mod primary;
mod refused;
pub mod secondary;
mod timers;
mod types;

pub use bounds::OutOfBounds;
pub use generation::{Answer, Generation, Verdict};
pub use guest::Guest;
pub use liveness::{Liveness, Progress, Silence};
pub use notice::{Level, Notice};
pub use refused::Refused;
pub use timers::Timers;
pub use types::{OutputCall, Rule, RunState, Session, Time, Timer};
