//! COLO: both guests run, and a checkpoint is taken when their outputs differ. The protocol in three dialects, without any I/O.
//!
//! * [`dialect`] - libxl's records, QEMU's messages, and the earlier form of these: numbers, names, directions;
//! * [`wire`] - bytes to messages and back;
//! * [`compare`] - what both guests send, held against each other;
//! * [`primary`] and [`secondary`] - the two machines: events in, actions out, the time passed in;
//! * [`fault`] - what ends a session, with the message, the step and the state of the guest; [`config`] - settings.
//!
//! A driver feeds each event as it happens and carries out the actions *in order*. It may be late with any of them, by any
//! time. There is no clock in the machines, and nothing that must hold depends on one. The time-outs and the witness are those
//! of [`crate::remus`], whose types are used here: [`crate::remus::Timer::Round`] is the gap and then the period,
//! [`crate::remus::Timer::Answer`] the next message, [`crate::remus::Timer::Retry`] the next try of the witness or the fence.
//!
//! # Properties
//! `tests/colo_model.rs` explores these very machines in every dialect and mode, and checks in every state it reaches:
//!
//! 1. **One checkpoint.** The two guests never run on from different checkpoints, whether in the session or after it.
//! 2. **Output.** No packet leaves that the survivor's guest has not sent itself, or has not in the state that it went on from:
//!    a packet leaves when both guests have sent it, or when a state behind it is loaded on the secondary. The rest is held.
//! 3. **One active copy.** At most one copy can emit what the other has not, with [`crate::remus::Rule::Witness`].
//! 4. **Garbage is no death.** A wrong, unknown, late or duplicate message ends the session. The secondary does not go active
//!    for it, and the primary's guest runs on.
//!
//! And liveness: no state without a way on while both live, and once faults stop, exactly one copy is active after a bounded
//! number of steps, unless the only one entitled to it is dead.
//!
//! # Why they hold
//! The primary stands still from before its state is collected until the secondary has loaded it; the secondary stands still
//! before the primary does. So where both run, both run on from the same. The primary, when it loses the secondary while its guest stands
//! still, keeps it so until it is granted the next generation: the secondary may have a newer checkpoint, or an older, and whoever
//! is not granted it never runs again. What both guests have sent is part of the secondary's state, whatever of the
//! checkpoint has arrived; what only the primary's has sent is, when a later state is loaded.
//!
//! The dialects have no heartbeat, no farewell and no generation on the wire. A driver gives both sides the generation when it
//! starts them. A side that ends the session because of a fault of the other says nothing: a primary leaves the connection open until it is
//! decided that it goes on, so that its secondary does not take the end for its death and ask first.

pub mod compare;
pub mod config;
pub mod dialect;
pub mod fault;
pub mod primary;
pub mod secondary;
pub mod wire;

pub use compare::{Compare, Found};
pub use config::{Config, ConfigError, Mode};
pub use dialect::{Dialect, Layout, Message, Point, Side};
pub use fault::{Fault, Guest, Misfit, Step, Wrong};
pub use primary::Primary;
pub use secondary::Secondary;
