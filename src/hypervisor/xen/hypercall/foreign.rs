//! Frames of a domain mapped into our address space, and its grant table: libxenforeignmemory.
//!
//! What is mapped is given out as an address only: who reads it, and how, is in the mappings.
#![allow(unsafe_code)]

use super::abi::{self, GrantEntry, Op, xenmem};
use super::interface::Interface;
use crate::hypervisor::error::{Error, Result};
use crate::hypervisor::types::{GrantSeed, PAGE_SIZE};
use std::ffi::c_void;
use std::io;
use std::ptr::NonNull;

/// mmap(2)'s, for Linux on x86.
const PROT_READ: i32 = 1;
const PROT_WRITE: i32 = 2;
/// No frame, as who has none says it (`INVALID_PFN`).
const NO_FRAME: u64 = u64::MAX;
/// What messages call the grant table's mapping.
const GRANT_TABLE: Op = Op { number: xenmem::RESOURCE_GRANT_TABLE, name: "XENMEM_acquire_resource of the grant table" };

/// Frames in a row of our address space, for as long as this value lives.
#[derive(Debug)]
pub(in crate::hypervisor::xen) struct Frames {
    interface: Interface,
    base: NonNull<u8>,
    pages: usize,
}

// SAFETY: a mapping is the process's, not a thread's. What may be done with its contents is the matter of who reads them.
unsafe impl Send for Frames {}

impl Frames {
    /// Maps frames, of which there must be at least one. With `errors`, which must be as long, each frame that cannot be had leaves a hole
    /// and its number there, negative; without it is all or nothing.
    pub(in crate::hypervisor::xen) fn map(
        interface: &Interface,
        domid: u32,
        frames: &[u64],
        writable: bool,
        errors: Option<&mut [i32]>,
    ) -> Result<Self> {
        let first = frames.first().copied().unwrap_or_default();
        let failed = |source| Error::Map { domid, gfn: first, xen: Some(interface.version()), source };
        if frames.is_empty() || errors.as_ref().is_some_and(|errors| errors.len() != frames.len()) {
            return Err(failed(io::ErrorKind::InvalidInput.into()));
        }
        let (library, handle) = interface.foreign();
        let protection = if writable { PROT_READ | PROT_WRITE } else { PROT_READ };
        let errors = errors.map_or(std::ptr::null_mut(), |errors| errors.as_mut_ptr());
        // SAFETY: the handle is open, and there are as many frames as is said, and either as many errors or none, checked above.
        let base = unsafe { (library.map)(handle, domid, protection, frames.len(), frames.as_ptr(), errors) };
        let base = NonNull::new(base.cast()).ok_or_else(|| failed(io::Error::last_os_error()))?;
        Ok(Frames { interface: interface.clone(), base, pages: frames.len() })
    }

    /// Where it begins: a whole page's address.
    pub(in crate::hypervisor::xen) const fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Pages in it.
    pub(in crate::hypervisor::xen) const fn pages(&self) -> usize {
        self.pages
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        let (library, handle) = self.interface.foreign();
        // SAFETY: the handle is open, and this is the whole of a mapping that it made; what borrows from `self` is gone. If it fails,
        // address space is lost and nothing else.
        unsafe { (library.unmap)(handle, self.base.as_ptr().cast(), self.pages) };
    }
}

impl Interface {
    /// Writes the two reserved entries of a new domain's grant table, mapped as a resource of it.
    pub(in crate::hypervisor::xen) fn seed_grants(&self, domid: u32, seed: GrantSeed) -> Result<()> {
        let domain = self.domain(GRANT_TABLE, domid)?;
        let (library, handle) = self.foreign();
        let (kind, id) = (xenmem::RESOURCE_GRANT_TABLE, xenmem::RESOURCE_GRANT_TABLE_SHARED);
        let mut base: *mut c_void = std::ptr::null_mut();
        // SAFETY: the handle is open, and `base` is a place for the address, which is not given: the kernel chooses one.
        let resource =
            unsafe { (library.map_resource)(handle, domain, kind, id, 0, 1, &raw mut base, PROT_READ | PROT_WRITE, 0) };
        if resource.is_null() {
            return Err(self.failure(GRANT_TABLE, domid, io::Error::last_os_error()));
        }
        let entries = [
            (abi::GNTTAB_RESERVED_CONSOLE, seed.console_domid, seed.console_gfn),
            (abi::GNTTAB_RESERVED_XENSTORE, seed.xenstore_domid, seed.xenstore_gfn),
        ];
        const { assert!(abi::GNTTAB_RESERVED_XENSTORE < PAGE_SIZE / size_of::<GrantEntry>()) };
        for (index, backend, gfn) in entries {
            // As libxenguest: nothing is granted to the domain itself. A frame has 32 bits there.
            if backend == domid || gfn == NO_FRAME {
                continue;
            }
            let entry = GrantEntry { flags: abi::GTF_PERMIT_ACCESS, domid: backend as u16, frame: gfn as u32 };
            // SAFETY: the mapping is one page, page-aligned and writable, and has room for more entries than that (checked above). The
            // domain has not run yet; whoever else looks at the table sees one word as a whole.
            unsafe { base.cast::<GrantEntry>().add(index).write_volatile(entry) };
        }
        // SAFETY: the handle is open, and this is a mapping that it made, unmapped once.
        unsafe { (library.unmap_resource)(handle, resource) };
        Ok(())
    }
}
