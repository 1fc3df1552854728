//! Replicated disks that need nothing of the kernel's: the writes of an epoch are kept apart on the other host, and become a part of the
//! copy there when their checkpoint is committed.
//!
//! ```text
//!   guest -- vbd -- /dev/nbd0 -- NBD -- primary ====== wire ====== keeper -- image, epochs
//!                                          |                          |
//!                          remus: begin, close, wait        receive: commit, promote
//! ```
//! A daemon for each disk on either host, which outlives the engine as the guest's disk must.
//!
//! | file | what |
//! |---|---|
//! | `daemon` | a process: its role, and what it is asked for |
//! | `nbd` | the server that the guest's disk is a client of |
//! | `source`, `source_link` | the primary: each write done here and sent, in one order; what the keeper needs; the connection |
//! | `wire` | frames between the two |
//! | `keeper` | the other side of the connection |
//! | `store`, `journal`, `folder` | the copy: its stages, an epoch's file, the state that outlives the daemon |
//! | `image`, `blocks` | a disk's content; sets of its blocks |
//! | [`control`] | the daemons' sockets |
//! | [`engine`] | what `remus` and `receive` do with them |
#![forbid(unsafe_code)]

mod blocks;
pub mod control;
pub mod daemon;
pub mod engine;
mod error;
mod folder;
mod image;
mod journal;
mod keeper;
mod nbd;
mod source;
mod source_link;
mod store;
mod wire;

#[cfg(test)]
mod tests;

pub use error::{Error, Result};

use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;

/// A checkpoint of the engine's: its number counts in its session only.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    /// The engine's session.
    pub session: u64,
    /// The checkpoint.
    pub checkpoint: u64,
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of session {:016x}", self.checkpoint, self.session)
    }
}

/// A guest's device, by the name that it has on both hosts: `/dev/nbdN`, or `nbd:unix:PATH` for QEMU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device(String);

impl Device {
    /// The device in what a domain's configuration, or xenstore, has of a disk. `None` where that is of another kind.
    pub fn of(behind: &str) -> Option<Self> {
        let bare = ["raw:", "aio:", "phy:"].iter().find_map(|format| behind.strip_prefix(format)).unwrap_or(behind);
        let number = bare.strip_prefix("/dev/nbd");
        let is_kernels = number.is_some_and(|number| !number.is_empty() && number.bytes().all(|c| c.is_ascii_digit()));
        let path = bare.strip_prefix("nbd:unix:");
        let is_qemus = path.is_some_and(|path| path.starts_with('/') && !path.contains([':', '\0']));
        (is_kernels || is_qemus).then(|| Device(bare.to_owned())).filter(|device| device.0.len() <= wire::MAX_NAME)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Whether the kernel's driver is between the server and the guest.
    pub fn is_kernels(&self) -> bool {
        self.0.starts_with('/')
    }

    /// The socket that the name has in it.
    pub fn socket(&self) -> Option<&Path> {
        self.0.strip_prefix("nbd:unix:").map(Path::new)
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
