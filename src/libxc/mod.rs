//! libxc's half of a domain's image: its memory and its vCPUs, saved and restored.
//!
//! [`save`] and [`restore`] mirror each other around one value, [`Round`]: the pages and the state of one checkpoint.
//! The saver fills it from a suspended domain and writes it to the stream; the restorer fills it from the stream and
//! applies it to a domain. Where nothing has to wait, pages go straight from the domain to the stream and back.
//!
//! HVM and PVH domains only; a PV domain is refused by value ([`SaveError::Pv`], [`RestoreError::Kind`]). What PV adds
//! has its place already: page-table pages are normalised between mapping and writing in [`save`]'s batches (where a
//! page that cannot be is deferred to a later round and listed as XTAB), and localised between reading and writing in
//! [`restore`]'s; its p2m frames belong to the start of the stream, its vCPU records into [`round::HvmState`]'s place.
#![forbid(unsafe_code)]

mod error;
pub mod restore;
pub mod round;
pub mod save;

pub use error::{RestoreError, SaveError};
pub use restore::Restorer;
pub use round::Round;
pub use save::Saver;
