//! Xen's migration-v2 stream outside Xen.

pub mod hypervisor;
