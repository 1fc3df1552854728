//! A PV guest on a machine of its own: machine frames in no order, an m2p, page tables, a p2m as a list or as a tree.
//!
//! | file | what |
//! |---|---|
//! | `machine.rs` | the host: frames, the m2p, types of frames, pinning |
//! | `domain.rs` | the domain: vCPUs, shared info, the dirty log; the hypervisor's traits |
//! | `guest.rs` | what the guest does: lays itself out, runs, suspends, wakes up elsewhere |
//! | `image.rs` | the domain put down, for another process to take up |
//!
//! The guest's whole state lies in its memory and in its vCPUs. It reaches its memory by its own page tables, and looks at each step
//! whether they lead where it thinks: a frame that was translated wrongly shows at the next [`PvSim::self_check`].

mod config;
mod domain;
mod guest;
mod image;
mod machine;

#[cfg(test)]
mod tests;

pub use config::{P2mKind, PvConfig};
pub use domain::{PvPages, PvPagesMut, PvSim};
pub use image::{PvImage, PvVcpuImage};
pub use machine::M2P_EXTENT;
