//! The hypercalls in use, made by ourselves over Xen's stable libraries, so that one binary serves every Xen from 4.14 on.
//!
//! | file | what |
//! |---|---|
//! | `abi` | numbers and structures of Xen's public headers |
//! | `library` | `libxencall.so.1`, `libxenforeignmemory.so.1`, `libxenevtchn.so.1`, opened at run time |
//! | `messages` | what the libraries log, into ours |
//! | `open` | the libraries, open |
//! | `interface` | the version of Xen, and of its domctls by trial; how calls are made and fail |
//! | `buffer` | memory for hypercalls |
//! | `domain`, `vcpu`, `memory` | the operations |
//! | `system` | questions about the host |
//! | `foreign` | frames mapped, the grant table |
//! | `event_channel` | an event channel to a domain |
//! | `quirks` | what differs from one Xen to another |
//!
//! A failure is a value: the operation by its name in Xen's headers, the domain, the version of Xen, and errno.

pub mod abi;
pub(in crate::hypervisor::xen) mod buffer;
pub(in crate::hypervisor::xen) mod domain;
pub(in crate::hypervisor::xen) mod event_channel;
pub(in crate::hypervisor::xen) mod foreign;
pub(in crate::hypervisor::xen) mod interface;
mod library;
mod memory;
mod messages;
mod open;
pub mod quirks;
mod system;
pub(in crate::hypervisor::xen) mod vcpu;

pub use library::is_xen_host;
