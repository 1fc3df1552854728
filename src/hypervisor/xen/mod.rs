//! The real hypervisor: any Xen from 4.14 on, through its stable libraries, which are opened at run time. It is part of every build, and a
//! host without Xen or without its libraries gets an error from [`Host::open`].
//!
//! [`Host::open`] asks for access, [`Host::domain`] gives a handle on one domain, and [`XenDomain`] implements the traits of
//! [`crate::hypervisor`].
//!
//! | file | purpose | in Xen |
//! |---|---|---|
//! | `hypercall` | the libraries, Xen's structures, each hypercall in use | `libxencall`, `libxenforeignmemory`, `libxenevtchn` |
//! | `host` | which Xen this is, and what may be done on it | `XENVER_version`, `XEN_DOMCTL_INTERFACE_VERSION` |
//! | `domain` | identity and life | `XEN_DOMCTL_getdomaininfo`, `XEN_DOMCTL_resumedomain` |
//! | `device_model` | the emulator beside it, as whoever opens it has it | - |
//! | `log_dirty` | which pages were written | `XEN_DOMCTL_shadow_op` |
//! | `mapping` | pages of a domain in our address space | `xenforeignmemory_map` |
//! | `save`, `restore` | the two halves of a stream | `XEN_DOMCTL_gethvmcontext` and so on |
//! | `populate` | which pages a domain has, and what of them may come in 2 MiB | `XENMEM_populate_physmap` |
//! | `policy` | CPU policies between C and the stream | `XEN_DOMCTL_get_cpu_policy` |
//! | `pv` | what only PV domains have: vCPU contexts, m2p and p2m, pinned tables | `XEN_DOMCTL_getvcpucontext`, `mmuext_op` |
//!
//! libxenctrl and libxenguest are not used: each of their releases serves one release of Xen, and changes its name with it. `docs/design.md`
//! has more of that.
//!
//! For translated guests, HVM and PVH, and for PV guests. What only one of the two kinds has, the other answers with
//! [`Error::Unsupported`](super::Error::Unsupported).
#![deny(unsafe_code)]

mod device_model;
mod domain;
mod host;
pub mod hypercall;
mod log_buffer;
mod log_dirty;
mod mapping;
mod policy;
mod populate;
mod pv;
mod restore;
mod save;

pub use domain::{LifeHook, XenDomain};
pub use host::{Host, HostPolicy, Use};
pub use hypercall::event_channel::EventChannel;
pub use hypercall::is_xen_host;
pub use mapping::{MAX_BATCH, XenPages, XenPagesMut};
pub use populate::PFN_LIMIT;
