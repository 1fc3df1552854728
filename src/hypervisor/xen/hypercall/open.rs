//! libxencall and libxenforeignmemory, open, and the memory that the former gives for hypercalls.
#![allow(unsafe_code)]

use super::library::{Calls, Foreign, Handle};
use super::messages;
use crate::hypervisor::error::{Error, Result};
use std::fmt;
use std::io;
use std::ptr::NonNull;

/// Both, with their handles.
pub(super) struct Open {
    pub calls: &'static Calls,
    pub foreign: &'static Foreign,
    pub call: Handle,
    /// Null only while it is being opened.
    pub memory: Handle,
}

// SAFETY: both libraries may be used by several threads at a time: their handles are descriptors, and libxencall's cache of buffers has a
// lock of its own unless XENCALL_OPENFLAG_NON_REENTRANT is given (xencall.h), which it is not.
unsafe impl Send for Open {}
// SAFETY: as above.
unsafe impl Sync for Open {}

impl fmt::Debug for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Open")
    }
}

impl Open {
    /// Opens them.
    ///
    /// # Errors
    /// [`Error::NoHypervisor`], [`Error::NoLibrary`], [`Error::OldLibrary`].
    pub fn new() -> Result<Self> {
        let (calls, foreign) = (Calls::get()?, Foreign::get()?);
        let failed = || Error::NoHypervisor { source: io::Error::last_os_error() };
        // SAFETY: the logger is valid for as long as the program runs, and so is all that it points to. 0 is no flag.
        let call = unsafe { (calls.open_handle)(messages::logger(), 0) };
        if call.is_null() {
            return Err(failed());
        }
        // Closed on every way out from here on.
        let mut open = Open { calls, foreign, call, memory: std::ptr::null_mut() };
        // SAFETY: as above.
        open.memory = unsafe { (foreign.open_handle)(messages::logger(), 0) };
        if open.memory.is_null() { Err(failed()) } else { Ok(open) }
    }

    /// So many pages for hypercalls, zeroed.
    pub fn alloc(&self, pages: usize) -> Option<NonNull<u8>> {
        // SAFETY: the handle is open.
        NonNull::new(unsafe { (self.calls.alloc)(self.call, pages) }.cast())
    }

    /// Gives pages back.
    ///
    /// # Safety
    /// They are from [`Open::alloc`] of this value, as many, and nobody uses them any more.
    pub unsafe fn free(&self, memory: NonNull<u8>, pages: usize) {
        // SAFETY: the handle is open; for the rest the caller answers.
        unsafe { (self.calls.free)(self.call, memory.as_ptr().cast(), pages) };
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // SAFETY: both handles are their libraries', and nobody has them any more: buffers and mappings share this.
        unsafe {
            if !self.memory.is_null() {
                (self.foreign.close)(self.memory);
            }
            (self.calls.close)(self.call);
        }
    }
}
