//! libxl's child process: a libxc behind libxl's pipe.
//!
//! libxl runs libxc's memory streaming in a program of its own, the save helper, and starts whatever the environment
//! variable `LIBXL_SAVE_HELPER` names in its place. This room is both ends of that arrangement: such a helper, and what
//! libxl needs to run one.
//!
//! ```text
//!   libxl                                       save helper
//!   parent.rs  --- argv: arguments.rs -------->  child.rs
//!              <-- messages: message.rs -------  callbacks.rs   log, progress, suspend, checkpoint, complete ...
//!              --- replies: one int each ----->                 abort.rs: SIGTERM
//!      |                                            |
//!      +----------------- the stream ---------------+  save.rs, restore.rs on top of crate::libxc
//!      +-------------- the back channel ------------+  back_channel.rs
//! ```
//!
//! Both processes have the stream's descriptor, and take turns. libxl's turn begins where libxc's record that hands over
//! ends (CHECKPOINT, END), so nothing is ever read beyond that record, and everything before it is written when libxl
//! is told (`checkpoint`, `complete`).
//!
//! `driver.rs` is a libxl on top of `parent.rs`: libxl's records from this project, libxc's from a helper.
//!
//! `limits.rs` is what whoever runs the host has set for live saves.
//!
//! HVM and PVH domains, as far as [`crate::libxc`] goes.

pub mod abort;
pub mod arguments;
pub mod back_channel;
pub mod callback_error;
pub mod callbacks;
pub mod child;
pub mod driver;
pub mod failure;
pub mod limits;
pub mod message;
pub mod parent;
pub mod restore;
pub mod save;
pub mod supervised;
pub mod usage;

pub use arguments::{Callbacks, Command, Fds, Flags, StreamType};
pub use child::{Channels, Opened, child_main, serve};
pub use failure::Failure;
pub use parent::{Answers, Completion, Helper, ParentError};
