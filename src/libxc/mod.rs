//! libxc's half of a domain's image: its memory and its vCPUs, saved and restored.
//!
//! [`save`] and [`restore`] mirror each other around one value, [`Round`]: the pages and the state of one checkpoint.
//! The saver fills it from a suspended domain and writes it to the stream; the restorer fills it from the stream and
//! applies it to a domain. Where nothing has to wait, pages go straight from the domain to the stream and back.
//!
//! HVM and PVH domains name their memory by pfns, here as everywhere. A PV domain names machine frames: what that takes is in
//! [`pv`], and [`save`] and [`restore`] ask it between mapping and copying.
#![forbid(unsafe_code)]

mod added;
pub mod ahead;
mod error;
mod live;
pub mod precopy;
pub mod pv;
pub mod restore;
mod returning;
pub mod round;
pub mod save;
mod stage;
mod window;

pub use ahead::{Ahead, CopyAhead};
pub use error::{PvError, RestoreError, SaveError};
pub use restore::Restorer;
pub use round::Round;
pub use save::Saver;
