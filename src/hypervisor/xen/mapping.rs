//! Pages of a domain in our address space.
//!
//! # Contents that change under us
//!
//! A mapping is shared memory. The domain's vCPUs and the device models write to it whenever they run, and no lock keeps them off.
//! It is given out as references to bytes all the same, as with a file mapped into memory, and that holds because
//!
//! * a byte has no invalid value, so whatever is there when it is read is one;
//! * the writers are other machines as far as this program is concerned (a vCPU, another process): none of its own threads writes to
//!   a page that another one reads, for a mapping that can be written to belongs to a `&mut` of its domain;
//! * the contents are copied or handed to the kernel, and nothing is decided by reading them twice. A copy that is torn by a
//!   concurrent write is worth as much as one made a moment earlier: the page is in the dirty log and is sent again.
//!
//! A saver's last look and all of a restorer's work are at a domain that stands still.
#![allow(unsafe_code)]

use super::domain::XenDomain;
use super::hypercall::foreign::Frames;
use crate::hypervisor::error::{Error, Result};
use crate::hypervisor::types::{PAGE_SIZE, Page, Pfn};
use crate::hypervisor::{PageBatch, PageBatchMut};
use crate::stream::libxc::BATCH;
use std::io;
use std::marker::PhantomData;
use std::ptr::NonNull;

/// The most pages of one mapping: a few batches of the stream.
pub const MAX_BATCH: usize = 4 * BATCH;

/// Errors by which Xen says that there is no page behind a frame: EINVAL and ENOENT.
const NO_PAGE: [i32; 2] = [22, 2];

/// Frames of a domain in a row of our address space, for as long as this value lives.
#[derive(Debug)]
struct Mapping {
    /// `None` where there are no pages.
    frames: Option<Frames>,
    pages: usize,
}

impl Mapping {
    /// Maps all of the frames or none.
    fn new(domain: &XenDomain, gfns: &[u64], writable: bool) -> Result<Self> {
        let (domid, pages) = (domain.domid, gfns.len());
        if pages > MAX_BATCH {
            return Err(Error::BatchTooLong { pages, limit: MAX_BATCH });
        }
        if gfns.is_empty() {
            return Ok(Mapping { frames: None, pages });
        }
        let mut errors = [0; MAX_BATCH];
        let Some(errors) = errors.get_mut(..pages) else { return Err(Error::BatchTooLong { pages, limit: MAX_BATCH }) };
        let frames = Frames::map(&domain.interface, domid, gfns, writable, Some(errors))?;
        let failed = |gfn, errno: i32| match errno.saturating_abs() {
            errno if NO_PAGE.contains(&errno) => Error::NotPopulated { pfn: gfn },
            errno => {
                let (xen, source) = (Some(domain.interface.version()), io::Error::from_raw_os_error(errno));
                Error::Map { domid, gfn, xen, source }
            }
        };
        match gfns.iter().zip(&*errors).find(|&(_, &error)| error != 0) {
            Some((&gfn, &error)) => Err(failed(gfn, error)),
            None => Ok(Mapping { frames: Some(frames), pages }),
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
        let frames = self.frames.as_ref().filter(|frames| index < frames.pages())?;
        // SAFETY: the mapping has so many pages from its base on, and `index` is below that.
        Some(unsafe { frames.base().cast::<Page>().add(index) })
    }
}

/// A batch of pages mapped for reading, in one run.
#[derive(Debug)]
pub struct XenPages<'a> {
    mapping: Mapping,
    /// The domain, so that it has no other mapping of a kind that this one excludes.
    domain: PhantomData<&'a XenDomain>,
}

impl<'a> XenPages<'a> {
    /// Maps frames of a domain for reading.
    pub(super) fn new(domain: &'a XenDomain, gfns: &[Pfn]) -> Result<Self> {
        Mapping::new(domain, gfns, false).map(|mapping| XenPages { mapping, domain: PhantomData })
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
    mapping: Mapping,
    /// The domain, so that it has no other mapping of a kind that this one excludes.
    domain: PhantomData<&'a mut XenDomain>,
}

impl<'a> XenPagesMut<'a> {
    /// Maps frames of a domain for reading and writing.
    pub(super) fn new(domain: &'a mut XenDomain, gfns: &[Pfn]) -> Result<Self> {
        Mapping::new(domain, gfns, true).map(|mapping| XenPagesMut { mapping, domain: PhantomData })
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
        let bytes = self.mapping.run(index)?.len();
        let start = self.mapping.page_pointer(index)?.cast::<u8>();
        // SAFETY: as in `page_mut`, for this page and all behind it. That a frame may be there at two addresses does not matter:
        // what is written through one shows at the other as if the domain had written it.
        Some(unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), bytes) })
    }
}
