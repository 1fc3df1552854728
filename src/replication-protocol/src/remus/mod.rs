//! Remus with acknowledgements, heartbeats and fencing: the protocol, without any I/O.
//!
//! * [`wire`] - the thin framing that carries the migration-v2 stream and what v2 lacks;
//! * [`primary`] and [`secondary`] - the two machines: events in, actions out, the time passed in;
//! * [`Liveness`] - the failure detector; [`Refused`] - why a command is not obeyed;
//! * [`config`], [`pacing`], [`Timers`] - settings, the adaptive interval, the driver's table of deadlines.
//!
//! A driver feeds each event as it happens and carries out the actions *in order*. It may be late with any of them, by any
//! time: what is safe to decide here stays safe. There is no clock in the machines, and nothing that must hold depends on
//! one. A driver has none either: it delivers each timer when its deadline has come, and reports before it what the link shows,
//! [`Heard`] before [`Timer::Peer`] and [`Progress`](crate::protocol::primary::Event::Progress) before [`Timer::Answer`]. What an
//! action could not do is an event; a driver retries nothing by itself.
//!
//! [`Heard`]: crate::protocol::primary::Event::Heard
//!
//! From the last byte of a dead primary to the claim it takes the time-out and [`Liveness::SLACK`] at the most, whatever hangs on the
//! secondary.
//!
//! # Properties
//! `tests/remus_model.rs` explores these very machines and checks, in every state it reaches:
//!
//! 1. **Output commit.** A packet of epoch N (sent between the resume after checkpoint N and the suspend for checkpoint
//!    N+1) leaves only after the secondary has acknowledged the whole of checkpoint N+1 or a later one.
//! 2. **Whole states.** The survivor goes on from a checkpoint that it received whole and sound, never from one earlier
//!    than the last that it acknowledged.
//! 3. **One active copy.** At most one copy can emit output that is not yet acknowledged, under any loss, delay, half-open
//!    link or pause of a process, with [`Rule::Witness`]. Without a witness the rule in use is kept.
//! 4. **Garbage is no death.** A damaged checkpoint, or a damaged link, never makes the secondary go active. It is refused;
//!    the primary sends a whole image again, or stops protecting; its guest runs on.
//!
//! And liveness: from every state, once faults stop, exactly one copy is active after a bounded number of steps, unless the
//! only one entitled to it is dead.
//!
//! # Why they hold
//! While protected, a primary emits only what is acknowledged, so it is consistent with a secondary that goes active at any
//! moment, whether it knows of it or not. To emit more it must be *alone*, and a secondary must be alone to be active at
//! all. With a witness, alone means to hold generation g+1, where g is the session's. The witness gives g+1 once. The loser
//! never asks for another by itself: a primary pauses its guest for good, a secondary keeps its copy paused
//! ([`crate::claim::Denied`]), for the operator to force or to drop. Nobody gives a generation back,
//! so a decision stays right however late it is acted on. A new session has a generation of its own, taken by
//! the primary once a secondary has greeted, so that no secondary of an older session can be granted anything any more. A start of a
//! primary asks the witness first ([`crate::claim::Start`]).

pub mod config;
pub mod pacing;
pub mod primary;
pub mod secondary;
mod types;
pub mod wire;

pub use crate::protocol::{
    Generation, Level, Liveness, OutputCall, Progress, Refused, Rule, RunState, Session, Silence, Time, Timer, Timers,
    Verdict,
};
pub use config::{Config, ConfigError};
pub use primary::Primary;
pub use secondary::Secondary;
pub use types::{Image, RefuseReason};
