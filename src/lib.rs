//! Xen's migration-v2 stream outside Xen, and what stands on it.
#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod cli;
pub mod control;
mod copying;
pub mod demo;
pub mod disk;
mod enclose;
pub mod host;
pub mod host_info;
pub mod hypervisor;
pub mod inspect;
pub mod legacy;
pub mod libxc;
pub mod libxl;
pub mod outside;
pub mod replicate;
pub mod save_helper;
pub mod tap;
pub mod toolstack;
pub mod transport;
pub mod witness;

pub use replication_protocol::{claim, colo, protocol, remus};
pub use xen_migration_stream as stream;
pub use xen_migration_stream::decode;
