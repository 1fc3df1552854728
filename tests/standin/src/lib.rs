//! Stands in for the three lowest libraries of Xen's toolstack, so that the libraries and programs above them run where there is
//! no hypervisor.
//!
//! `libxencall.so.1`, `libxenforeignmemory.so.1` and `libxendevicemodel.so.1` are all that `libxenctrl` and `libxenguest` know of the
//! hypervisor. This library has their functions, under their symbol versions, and answers the hypercalls and foreign mappings on
//! top of one simulated domain ([`xen_replicate::hypervisor::sim`]) that lives in the calling process. `setup` links it and puts it
//! into a folder under the three names; with that folder first in `LD_LIBRARY_PATH`, Debian's own `libxl-save-helper` saves and
//! restores the simulated domain. `README.md` says how.
//!
//! | room | what it does |
//! |---|---|
//! | `config` | which domain, from the file that `XEN_STANDIN` names |
//! | `host` | the domain, its memory's file, its guest's thread; takes it up at the start and puts it down at exit |
//! | `control` | a socket on which the driver of a test plays the guest's and the toolstack's part: suspend, resume |
//! | `caller`, `abi` | the caller's memory, and Xen's structures in it |
//! | `call` | `libxencall`: hypercall buffers, and the way to the hypercalls |
//! | `context` | a HVM context as a release has it |
//! | `domctl`, `memory`, `hvm`, `version`, `sysctl` | the hypercalls |
//! | `vcpu`, `mmu` | those that only PV domains have: vCPU contexts, pinned page tables |
//! | `guest`, `pv` | the domain of either kind; a PV guest's thread |
//! | `foreign`, `grant` | `libxenforeignmemory`: foreign mappings, the grant table |
//! | `kept` | a domain's memory mapped once and for all, to measure what a caller does besides |
//! | `machine` | the machine's frames, as mappings name them |
//! | `release` | which release of Xen this claims to be |
//! | `failure` | a call that is to fail |
//! | `devicemodel` | `libxendevicemodel`: there is no device model here |
//!
//! Hypercalls that are not known fail with `ENOSYS`, as Xen's do, and leave a line in the log.

#![warn(missing_docs)]
#![deny(unsafe_op_in_unsafe_fn)]

mod abi;
mod call;
mod caller;
mod config;
mod context;
mod control;
mod devicemodel;
mod domctl;
mod errno;
mod failure;
mod foreign;
mod grant;
mod guest;
mod host;
mod hvm;
mod kept;
mod machine;
mod memory;
mod mmu;
mod pv;
mod release;
mod sysctl;
mod vcpu;
mod version;
