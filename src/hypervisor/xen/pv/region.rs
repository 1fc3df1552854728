//! Frames mapped for reading for as long as they are of use: the m2p, a guest's p2m.
//!
//! Their owners go on writing to them. A word of them is read as a whole and once, and never as part of a slice.
#![allow(unsafe_code)]

use crate::hypervisor::error::{Error, Result};
use crate::hypervisor::pv::Width;
use crate::hypervisor::types::PAGE_SIZE;
use crate::hypervisor::xen::handles::Handles;
use std::io;
use std::ptr::{NonNull, null_mut};
use xenforeignmemory_sys as foreign;

/// mmap(2)'s, for Linux on x86.
const PROT_READ: i32 = 1;

/// Frames in a row of our address space. Must be released by hand.
#[derive(Debug)]
pub(super) struct Region {
    base: NonNull<u8>,
    pages: usize,
}

// SAFETY: the mapping is the process's, and is read only.
unsafe impl Send for Region {}

impl Region {
    /// Maps all of the frames or none; at least one.
    pub(super) fn map(handles: &Handles, domid: u32, frames: &[u64]) -> Result<Self> {
        let first = frames.first().copied().unwrap_or_default();
        let failed = |source| Error::Map { domid, gfn: first, source };
        if frames.is_empty() {
            return Err(failed(io::ErrorKind::InvalidInput.into()));
        }
        // SAFETY: the handle is open, and there are as many frames as is said. Without room for errors it is all or nothing.
        let base = unsafe {
            foreign::xenforeignmemory_map(handles.fmem(), domid, PROT_READ, frames.len(), frames.as_ptr(), null_mut())
        };
        match NonNull::new(base.cast()) {
            Some(base) => Ok(Region { base, pages: frames.len() }),
            None => Err(failed(io::Error::last_os_error())),
        }
    }

    /// The word of this number, of the width's size; `None` beyond the end.
    pub(super) fn word(&self, index: usize, width: Width) -> Option<u64> {
        if index >= self.pages * (PAGE_SIZE / width.octets()) {
            return None;
        }
        // SAFETY: the word lies within the mapping, which is readable and page-aligned. It may change at any time, so it is read
        // as volatile; every pattern of bits is a value.
        Some(unsafe {
            match width {
                Width::Bits64 => self.base.cast::<u64>().add(index).read_volatile(),
                Width::Bits32 => self.base.cast::<u32>().add(index).read_volatile().into(),
            }
        })
    }

    /// Unmaps it. The interface must be the one that it was mapped with.
    pub(super) fn release(self, handles: &Handles) {
        // SAFETY: the handle is open, and this is the whole of a mapping that it made, which ends here. If it fails, address
        // space is lost and nothing else.
        unsafe { foreign::xenforeignmemory_unmap(handles.fmem(), self.base.as_ptr().cast(), self.pages) };
    }
}
