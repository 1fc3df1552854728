//! A domain's memory that is mapped once and for all.

use memmap2::{Mmap, MmapMut, MmapOptions};
use std::ffi::c_void;
use std::fs::File;
use xen_replicate::hypervisor::PAGE_SIZE;

/// All of the memory, twice. It is never unmapped.
pub struct Kept {
    reading: Mmap,
    writing: MmapMut,
}

impl Kept {
    /// Maps the memory, and has all of it in the page tables.
    pub fn new(memory: &File) -> std::io::Result<Self> {
        // SAFETY: as for the mapping that the guest itself has (`host::open_pages`). This program only gives addresses in the two
        // away, and looks at none of their bytes.
        unsafe {
            let reading = MmapOptions::new().populate().map(memory)?;
            Ok(Kept { reading, writing: MmapOptions::new().populate().map_mut(memory)? })
        }
    }

    /// Where pages of the file are, if they are one behind the other.
    pub fn place(&self, pages: &[Option<usize>], writable: bool) -> Option<*mut c_void> {
        let first = pages.first().copied().flatten()?;
        let adjacent = pages.iter().zip(first..).all(|(&page, expected)| page == Some(expected));
        if !adjacent || (first + pages.len()) * PAGE_SIZE > self.reading.len() {
            return None;
        }
        let start = if writable { self.writing.as_ptr() } else { self.reading.as_ptr() };
        Some(start.wrapping_add(first * PAGE_SIZE).cast_mut().cast())
    }

    /// Whether an address is one of those that [`Kept::place`] gives.
    pub fn has(&self, address: *const c_void) -> bool {
        [self.reading.as_ptr_range(), self.writing.as_ptr_range()].iter().any(|range| range.contains(&address.cast()))
    }
}
