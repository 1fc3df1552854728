//! The real hypervisor, through Xen's own libraries (cargo feature `xen`; Debian's `libxen-dev` 4.17 and `libclang-dev`).
//!
//! [`Host::open`] asks for access, [`Host::domain`] gives a handle on one domain, and [`XenDomain`] implements the traits of
//! [`crate::hypervisor`].
//!
//! | file | purpose | in Xen's libraries |
//! |---|---|---|
//! | `handles` | what is open, and how calls fail | `xc_interface_open` |
//! | `messages` | what the libraries log, into ours | `xentoollog.h` |
//! | `domain` | identity and life | `xc_domain_getinfolist`, `xc_domain_resume` |
//! | `device_model` | the emulator beside it, as whoever opens it has it | - |
//! | `log_dirty` | which pages were written | `xc_logdirty_control`, hypercall buffers |
//! | `mapping` | pages of a domain in our address space | `xenforeignmemory_map` |
//! | `save`, `restore` | the two halves of a stream | `xc_domain_hvm_getcontext` and so on |
//! | `populate` | which pages a domain has, and what of them may come in 2 MiB | `xc_domain_populate_physmap` |
//! | `policy` | CPU policies between C and the stream | `xc_cpu_policy_serialise` |
//! | `pv` | what only PV domains have: vCPU contexts, m2p and p2m, pinned tables | `xc_vcpu_getcontext`, `xc_mmuext_op` |
//! | `ffi` | declarations that the bindings do not have | `xenguest.h` |
//!
//! The bindings are those of `xenctrl-sys` and `xenforeignmemory-sys`. The safe crates above them, `xenctrl` and
//! `xenforeignmemory`, are not used: they load the libraries by the name that only a development package installs, call C
//! functions through pointers of Rust's calling convention, keep no errno, and map one page a call.
//!
//! For translated guests, HVM and PVH, and for PV guests. What only one of the two kinds has, the other answers with
//! [`Error::Unsupported`](super::Error::Unsupported).
#![deny(unsafe_code)]

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
compile_error!(
    "the feature `xen` is for x86-64 Linux: frame numbers and argument lists are taken to be as they are there"
);

mod device_model;
mod domain;
mod event_channel;
mod ffi;
mod handles;
mod host;
mod log_dirty;
mod mapping;
mod messages;
mod policy;
mod populate;
mod pv;
mod restore;
mod save;

pub use domain::{LifeHook, XenDomain};
pub use event_channel::EventChannel;
pub use host::Host;
pub use mapping::{MAX_BATCH, XenPages, XenPagesMut};
pub use populate::PFN_LIMIT;
