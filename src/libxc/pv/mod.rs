//! What a PV domain's image has that others have not: machine frames turned into pfns and back, wherever they stand.
//!
//! | file | what |
//! |---|---|
//! | `table.rs` | page tables |
//! | `context.rs` | vCPU contexts, start info, shared info |
//! | `p2m.rs` | finding a running guest's p2m |
//! | `state.rs` | a checkpoint's vCPUs and shared info |
//! | `save.rs`, `restore.rs` | the parts of [`super::Saver`] and [`super::Restorer`] that only PV domains need |
//!
//! Where Xen's structures have their frames is in [`crate::decode::pv_words`].
//!
//! Source: "x86 PV Guests" of `docs/specs/libxc-migration-stream.pandoc`.

pub mod context;
pub mod p2m;
mod restore;
mod save;
pub mod state;
pub mod table;

pub(super) use restore::{PvRestorer, Trouble as PvTrouble};
pub(super) use save::PvSaver;
pub use state::PvState;
