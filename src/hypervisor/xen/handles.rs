//! What is open towards the hypervisor, and how its calls fail.
#![allow(unsafe_code)]

use super::messages;
use crate::hypervisor::error::{Error, Result};
use std::io;
use std::ptr::NonNull;
use xenctrl_sys as sys;
use xenforeignmemory_sys as foreign;

/// libxenctrl's interface, with the foreign-memory handle that it holds.
///
/// Not `Sync`: libxenctrl keeps the last error in the interface without a lock.
#[derive(Debug)]
pub(super) struct Handles {
    xch: NonNull<sys::xc_interface>,
    fmem: NonNull<foreign::xenforeignmemory_handle>,
}

// SAFETY: nothing in libxenctrl or libxenforeignmemory is tied to the thread that opened it (xenctrl.h allows reentrant use unless
// XC_OPENFLAG_NON_REENTRANT was given, which it is not), and without `Sync` only one thread at a time has the pointers.
unsafe impl Send for Handles {}

impl Handles {
    pub(super) fn open() -> Result<Self> {
        let logger = messages::logger();
        // SAFETY: `logger` is valid for as long as the program runs, and so is all that it points to. 0 is no flag.
        let xch = unsafe { sys::xc_interface_open(logger, logger, 0) };
        let xch = NonNull::new(xch).ok_or_else(|| Error::NoHypervisor { source: io::Error::last_os_error() })?;
        // SAFETY: `xch` was just opened.
        let fmem = unsafe { sys::xc_interface_fmem_handle(xch.as_ptr()) };
        // Both bindings name the same C type, `struct xenforeignmemory_handle`.
        match NonNull::new(fmem.cast::<foreign::xenforeignmemory_handle>()) {
            Some(fmem) => Ok(Handles { xch, fmem }),
            None => {
                // SAFETY: `xch` was just opened, and is given to nobody else.
                unsafe { sys::xc_interface_close(xch.as_ptr()) };
                Err(Error::NoHypervisor { source: io::ErrorKind::Unsupported.into() })
            }
        }
    }

    /// The interface, open for as long as `self` lives.
    pub(super) const fn xch(&self) -> *mut sys::xc_interface {
        self.xch.as_ptr()
    }

    /// The interface's handle for mappings, open for as long as `self` lives.
    pub(super) const fn fmem(&self) -> *mut foreign::xenforeignmemory_handle {
        self.fmem.as_ptr()
    }
}

impl Drop for Handles {
    fn drop(&mut self) {
        // SAFETY: the interface is open, and what borrows from `self` (buffers, mappings) is gone. It is closed even where the
        // call fails (xenctrl.h), so there is nothing to do about that.
        unsafe { sys::xc_interface_close(self.xch.as_ptr()) };
    }
}

/// Judges what a function returned whose failure is a negative number and an errno. To be called before anything else can change
/// errno. Gives the number, which is not negative then.
pub(super) fn hypercall(call: &'static str, domid: u32, returned: i32) -> Result<u32> {
    u32::try_from(returned).map_err(|_| Error::Hypercall { call, domid, source: io::Error::last_os_error() })
}
