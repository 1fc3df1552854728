//! Access to the hypervisor of this host.
#![allow(unsafe_code)]

use super::domain::XenDomain;
use super::handles::Handles;
use crate::hypervisor::error::{Error, Result};
use std::io;
use xenctrl_sys as sys;

/// Access to the hypervisor of this host.
#[derive(Debug)]
pub struct Host {
    handles: Handles,
}

impl Host {
    /// Opens libxenctrl's interface.
    ///
    /// # Errors
    /// [`Error::NoHypervisor`] where there is no Xen, in a guest, and without privilege.
    pub fn open() -> Result<Self> {
        Ok(Host { handles: Handles::open()? })
    }

    /// Xen's version, major and minor, for the domain header of a stream (`XENVER_version`).
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn version(&self) -> Result<(u32, u32)> {
        // SAFETY: the interface is open for as long as `self` lives, and this sub-operation has no argument, so null is what
        // xenctrl.h asks for.
        let version = unsafe { sys::xc_version(self.handles.xch(), sys::XENVER_version as i32, std::ptr::null_mut()) };
        let version = u32::try_from(version)
            .map_err(|_| Error::Os { operation: "asking Xen for its version", source: io::Error::last_os_error() })?;
        Ok((version >> 16, version & 0xffff))
    }

    /// A handle on one domain, with an interface of its own: it may go to another thread.
    ///
    /// # Errors
    /// [`Error::NoSuchDomain`], or the hypervisor's.
    pub fn domain(&self, domid: u32) -> Result<XenDomain> {
        XenDomain::open(domid)
    }
}
