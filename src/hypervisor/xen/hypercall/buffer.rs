//! Memory that Xen may read and write during a hypercall: locked, and in whole pages. Between hypercalls it is ours alone.
#![allow(unsafe_code)]

use super::abi::Plain;
use super::open::Open;
use crate::hypervisor::error::{Error, Result};
use crate::hypervisor::types::PAGE_SIZE;
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;

/// A hypercall buffer of libxencall's.
#[derive(Debug)]
pub(in crate::hypervisor::xen) struct Buffer {
    open: Arc<Open>,
    memory: NonNull<u64>,
    pages: usize,
}

// SAFETY: the memory is reached through this value alone, and is the process's, not a thread's.
unsafe impl Send for Buffer {}

impl Buffer {
    /// Room for so many bytes at least, zeroed.
    pub(super) fn new(open: &Arc<Open>, bytes: usize) -> Result<Self> {
        let pages = bytes.div_ceil(PAGE_SIZE).max(1);
        let memory = open.alloc(pages).ok_or_else(|| Error::Os {
            operation: "allocating a hypercall buffer",
            source: io::Error::last_os_error(),
        })?;
        Ok(Buffer { open: Arc::clone(open), memory: memory.cast(), pages })
    }

    /// With these values in it.
    pub(super) fn with<T: Plain>(open: &Arc<Open>, values: &[T]) -> Result<Self> {
        let mut buffer = Buffer::new(open, size_of_val(values))?;
        buffer.put(values);
        Ok(buffer)
    }

    /// Bytes that it has room for.
    pub(in crate::hypervisor::xen) const fn len(&self) -> usize {
        self.pages * PAGE_SIZE
    }

    /// Its address, to be put into a hypercall's arguments. Xen writes there only while this is borrowed mutably: within the call.
    pub(super) fn address(&mut self) -> u64 {
        self.memory.as_ptr().expose_provenance() as u64
    }

    /// What is in it.
    pub(in crate::hypervisor::xen) const fn words(&self) -> &[u64] {
        // SAFETY: whole pages, page-aligned and zeroed when they were allocated, that live as long as `self`. Xen writes to them only
        // inside of a call that borrows `self` mutably.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr(), self.len() / size_of::<u64>()) }
    }

    /// The same, byte by byte.
    pub(super) const fn bytes(&self) -> &[u8] {
        // SAFETY: as in `words`.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().cast(), self.len()) }
    }

    /// Puts values at its start, as far as there is room.
    pub(super) fn put<T: Plain>(&mut self, values: &[T]) {
        self.put_at(0, values);
    }

    /// Puts values at an offset, as far as there is room.
    pub(super) fn put_at<T: Plain>(&mut self, offset: usize, values: &[T]) {
        let offset = offset.min(self.len());
        let bytes = size_of_val(values).min(self.len() - offset);
        // SAFETY: there is room for as many bytes from the offset on, `values` has at least as many, all of which are initialised since
        // `T` is `Plain`, and nobody else has a reference to the buffer while `self` is borrowed mutably.
        unsafe {
            let target = self.memory.as_ptr().cast::<u8>().add(offset);
            std::ptr::copy_nonoverlapping(values.as_ptr().cast(), target, bytes);
        }
    }

    /// Copies the values at its start, as far as it goes.
    pub(super) fn get<T: Plain>(&self, values: &mut [T]) {
        self.get_at(0, values);
    }

    /// Copies the values at an offset, as far as it goes.
    pub(super) fn get_at<T: Plain>(&self, offset: usize, values: &mut [T]) {
        let offset = offset.min(self.len());
        let bytes = size_of_val(values).min(self.len() - offset);
        // SAFETY: the buffer has as many bytes from the offset on, `values` has room for as many and is borrowed mutably, and every
        // pattern of bits is a value since `T` is `Plain`.
        unsafe {
            let source = self.memory.as_ptr().cast::<u8>().add(offset);
            std::ptr::copy_nonoverlapping(source, values.as_mut_ptr().cast(), bytes);
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: the memory came from these handles with this number of pages, and nobody has a reference any more.
        unsafe { self.open.free(self.memory.cast(), self.pages) };
    }
}
