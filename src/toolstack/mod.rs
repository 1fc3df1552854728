//! What a toolstack has of a domain beside the hypervisor, and libxl keeps: xenstore, the emulator, the network, the disks.
//!
//! | file | what | interface |
//! |---|---|---|
//! | `store` | xenstore: keys, watches, transactions, and telling it of a resume | the protocol of `io/xs_wire.h` |
//! | `identity` | a domain by name or number: its kind, its configuration | xenstore, libxl's file of the configuration |
//! | `life` | asking a guest to suspend, and letting it go on | `control/shutdown`, `xc_domain_resume` |
//! | `suspend_channel` | the same by an event, where the guest offers that | libxenevtchn |
//! | `qmp` | a conversation with QEMU | its Unix socket |
//! | `emulator` | the emulator beside a HVM domain | QMP, its keys in xenstore |
//! | `netbuf`, `netlink` | the output of its network cards, held back | plug qdiscs, over rtnetlink |
//! | `cover` | both, from the start of a protection on | - |
//! | `devices` | which of them come and go while the domain is protected | a watch |
//! | `disks` | who replicates its disks, and which of them nobody does | xenstore; the daemons of [`crate::disk`] |
//! | `drbd` | those that a patched DRBD replicates | its requests, as libxl makes them |
//! | `command` | programs, run with a time-out | - |
//! | `xl` | ending a domain | the tool `xl` |
//!
//! Nothing here reads what a tool prints. Each call has a time-out. All of it builds, and is tested, without Xen: the hypervisor's part is
//! behind [`life::Hypervisor`], the kernel's behind [`netbuf::Network`].
#![deny(unsafe_code)]

pub mod command;
pub mod cover;
pub mod devices;
pub mod disks;
pub mod drbd;
pub mod emulator;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod fake_network;
pub mod identity;
pub mod life;
pub mod netbuf;
pub mod netlink;
pub mod qmp;
#[cfg(test)]
mod start_tests;
pub mod store;
mod suspend_channel;
pub mod xl;

use crate::hypervisor::Error;
use std::fmt::Display;

/// What failed, and with what, as the hypervisor's rooms pass it on.
fn failed(what: impl Display, error: impl Display) -> Error {
    Error::Toolstack(format!("{what}: {error}"))
}
