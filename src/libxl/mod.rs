//! libxl's half of a domain's image: the frame around libxc's, and the device model's state.
//!
//! [`Saver`] and [`Restorer`] mirror each other and run libxc's halves inside: one call saves a domain as `xl save` does,
//! one restores it; checkpointed streams go step by step. The stream changes hands as [`crate::stream::handover`] has
//! it, by a move, so the steps can only be taken in their order.
#![forbid(unsafe_code)]

pub(crate) mod emulator;
pub mod restore;
pub mod save;

pub use restore::{Restorer, Started, Turn};
pub use save::Saver;
