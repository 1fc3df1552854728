//! Pages of a domain in our address space.
//!
//! # Contents that change under us
//!
//! A mapping is shared memory. The domain's vCPUs and the device models write to it whenever they run, and no lock keeps them off.
//! It is given out as references to octets all the same, as with a file mapped into memory, and that holds because
//!
//! * an octet has no invalid value, so whatever is there when it is read is one;
//! * the writers are other machines as far as this program is concerned (a vCPU, another process): none of its own threads writes to
//!   a page that another one reads, for a mapping that can be written to belongs to a `&mut` of its domain;
//! * the contents are copied or handed to the kernel, and nothing is decided by reading them twice. A copy that is torn by a
//!   concurrent write is worth as much as one made a moment earlier: the page is in the dirty log and is sent again.
//!
//! A saver's last look and all of a restorer's work are at a domain that stands still.
#![allow(unsafe_code)]

use super::domain::XenDomain;
use super::handles::Handles;
use crate::hypervisor::error::{Error, Result};
use crate::hypervisor::types::{PAGE_SIZE, Page, Pfn};
use crate::hypervisor::{PageBatch, PageBatchMut};
use crate::stream::libxc::BATCH;
use std::io;
use std::ptr::NonNull;
use xenforeignmemory_sys as foreign;

/// The most pages of one mapping: a few batches of the stream.
pub const MAX_BATCH: usize = 4 * BATCH;

// mmap(2)'s, for Linux on x86.
const PROT_READ: i32 = 1;
const PROT_WRITE: i32 = 2;

/// Errors by which Xen says that there is no page behind a frame: EINVAL and ENOENT.
const NO_PAGE: [i32; 2] = [22, 2];

/// Frames of a domain in a row of our address space, for as long as this value lives.
#[derive(Debug)]
struct Mapping<'h> {
    handles: &'h Handles,
    /// Dangling where there are no pages.
    base: NonNull<u8>,
    pages: usize,
}

impl<'h> Mapping<'h> {
    /// Maps all of the frames or none.
    fn new(handles: &'h Handles, domid: u32, gfns: &[u64], prot: i32) -> Result<Self> {
        let pages = gfns.len();
        if pages > MAX_BATCH {
            return Err(Error::BatchTooLong { pages, limit: MAX_BATCH });
        }
        let Some(&first) = gfns.first() else {
            return Ok(Mapping { handles, base: NonNull::dangling(), pages });
        };
        let mut errors = [0; MAX_BATCH];
        // SAFETY: the handle is open, and there are `pages` frames to be read and room for as many errors, checked above.
        let base = unsafe {
            foreign::xenforeignmemory_map(handles.fmem(), domid, prot, pages, gfns.as_ptr(), errors.as_mut_ptr())
        };
        let failed = |gfn, errno: i32| match errno.saturating_abs() {
            errno if NO_PAGE.contains(&errno) => Error::NotPopulated { pfn: gfn },
            errno => Error::Map { domid, gfn, source: io::Error::from_raw_os_error(errno) },
        };
        let base = NonNull::new(base.cast()).ok_or_else(|| Error::Map {
            domid,
            gfn: first,
            source: io::Error::last_os_error(),
        })?;
        // From here on it is unmapped on every way out.
        let mapping = Mapping { handles, base, pages };
        match gfns.iter().zip(&errors).find(|&(_, &error)| error != 0) {
            Some((&gfn, &error)) => Err(failed(gfn, error)),
            None => Ok(mapping),
        }
    }

    fn page(&self, index: usize) -> Option<&Page> {
        let page = self.page_pointer(index)?;
        // SAFETY: the page lies within the mapping, which is readable and outlives the reference. That its contents may change:
        // see the top of this file.
        Some(unsafe { page.as_ref() })
    }

    /// All pages from `index` on; at least one.
    fn run(&self, index: usize) -> Option<&[u8]> {
        let start = self.page_pointer(index)?.cast::<u8>();
        // SAFETY: `index` is below `pages`, so this is the rest of the mapping, which is readable and outlives the reference. That
        // its contents may change: see the top of this file.
        Some(unsafe { std::slice::from_raw_parts(start.as_ptr(), (self.pages - index) * PAGE_SIZE) })
    }

    fn page_pointer(&self, index: usize) -> Option<NonNull<Page>> {
        if index >= self.pages {
            return None;
        }
        // SAFETY: the mapping has `pages` pages from `base` on, and `index` is below that.
        Some(unsafe { self.base.cast::<Page>().add(index) })
    }
}

impl Drop for Mapping<'_> {
    fn drop(&mut self) {
        if self.pages > 0 {
            // SAFETY: the handle is open, and this is the whole of a mapping that it made. No reference into it is left, for they
            // all borrow from `self`. If it fails, address space is lost and nothing else.
            unsafe { foreign::xenforeignmemory_unmap(self.handles.fmem(), self.base.as_ptr().cast(), self.pages) };
        }
    }
}

/// A batch of pages mapped for reading, in one run.
#[derive(Debug)]
pub struct XenPages<'a> {
    mapping: Mapping<'a>,
}

impl<'a> XenPages<'a> {
    /// Maps frames of a domain for reading.
    pub(super) fn new(domain: &'a XenDomain, gfns: &[Pfn]) -> Result<Self> {
        Mapping::new(&domain.handles, domain.domid, gfns, PROT_READ).map(|mapping| XenPages { mapping })
    }
}

impl PageBatch for XenPages<'_> {
    fn len(&self) -> usize {
        self.mapping.pages
    }

    fn page(&self, index: usize) -> Option<&Page> {
        self.mapping.page(index)
    }

    fn run(&self, index: usize) -> Option<&[u8]> {
        self.mapping.run(index)
    }
}

/// A batch of pages mapped for writing, in one run. A frame that is in it twice is there at two addresses.
#[derive(Debug)]
pub struct XenPagesMut<'a> {
    mapping: Mapping<'a>,
}

impl<'a> XenPagesMut<'a> {
    /// Maps frames of a domain for reading and writing.
    pub(super) fn new(domain: &'a mut XenDomain, gfns: &[Pfn]) -> Result<Self> {
        Mapping::new(&domain.handles, domain.domid, gfns, PROT_READ | PROT_WRITE).map(|mapping| XenPagesMut { mapping })
    }
}

impl PageBatch for XenPagesMut<'_> {
    fn len(&self) -> usize {
        self.mapping.pages
    }

    fn page(&self, index: usize) -> Option<&Page> {
        self.mapping.page(index)
    }

    fn run(&self, index: usize) -> Option<&[u8]> {
        self.mapping.run(index)
    }
}

impl PageBatchMut for XenPagesMut<'_> {
    fn page_mut(&mut self, index: usize) -> Option<&mut Page> {
        let mut page = self.mapping.page_pointer(index)?;
        // SAFETY: the page lies within the mapping, which is writable (only `new` above makes this type) and outlives the
        // reference. `&mut self` keeps off every other reference into this mapping, so also one to the same frame at another
        // address, and `new` borrowed the domain mutably, so there is no other mapping by this handle.
        Some(unsafe { page.as_mut() })
    }

    fn run_mut(&mut self, index: usize) -> Option<&mut [u8]> {
        let octets = self.mapping.run(index)?.len();
        let start = self.mapping.page_pointer(index)?.cast::<u8>();
        // SAFETY: as in `page_mut`, for this page and all behind it. That a frame may be there at two addresses does not matter:
        // what is written through one shows at the other as if the domain had written it.
        Some(unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), octets) })
    }
}
