//! Which pages a domain writes: Xen's dirty log, read into memory that a hypercall may write to; and such memory for others.
#![allow(unsafe_code)]

use super::domain::XenDomain;
use super::handles::{Handles, hypercall};
use crate::hypervisor::bitmap::BoundMismatch;
use crate::hypervisor::error::{Error, Result};
use crate::hypervisor::types::{CleanMode, DirtyStats, DomainKind, PAGE_SIZE};
use crate::hypervisor::{DirtyBitmap, LogDirty};
use std::io;
use std::ptr::{NonNull, null_mut};
use xenctrl_sys as sys;

/// The buffer that a domain's log is read into, kept from read to read. Whether the log is on is the domain's matter: in COLO libxl
/// switches it on.
#[derive(Debug, Default)]
pub(super) struct DirtyLog {
    buffer: Option<HypercallBuffer>,
}

impl DirtyLog {
    /// Gives the buffer back to the interface, which must be the one that it was made with.
    pub(super) fn release(&mut self, handles: &Handles) {
        if let Some(buffer) = self.buffer.take() {
            buffer.free(handles);
        }
    }

    /// A buffer of at least so many words.
    fn buffer(&mut self, handles: &Handles, words: usize) -> Result<&mut HypercallBuffer> {
        if self.buffer.as_ref().is_some_and(|buffer| buffer.words().len() < words) {
            self.release(handles);
        }
        match &mut self.buffer {
            Some(buffer) => Ok(buffer),
            none => Ok(none.insert(HypercallBuffer::new(handles, words)?)),
        }
    }
}

/// Memory that Xen may write to during a hypercall: locked, and in whole pages. Between hypercalls it is ours alone. Must be
/// freed by hand.
#[derive(Debug)]
struct HypercallBuffer {
    raw: sys::xc_hypercall_buffer_t,
    memory: NonNull<u64>,
    pages: i32,
}

// SAFETY: the memory is reached through this value alone.
unsafe impl Send for HypercallBuffer {}

impl HypercallBuffer {
    fn new(handles: &Handles, words: usize) -> Result<Self> {
        let failed = |source| Error::Os { operation: "allocating a hypercall buffer", source };
        let pages = words.div_ceil(PAGE_SIZE / size_of::<u64>()).max(1);
        let pages = i32::try_from(pages).map_err(|_| failed(io::ErrorKind::OutOfMemory.into()))?;
        // As xenctrl.h initialises a buffer without bouncing.
        let mut raw = sys::xc_hypercall_buffer_t {
            hbuf: null_mut(),
            param_shadow: null_mut(),
            dir: 0,
            ubuf: std::ptr::without_provenance_mut(usize::MAX),
            sz: 0,
        };
        // SAFETY: the interface is open, and `raw` is a buffer description that has no memory yet.
        let memory = unsafe { sys::xc__hypercall_buffer_alloc_pages(handles.xch(), &raw mut raw, pages) };
        let memory = NonNull::new(memory.cast()).ok_or_else(|| failed(io::Error::last_os_error()))?;
        Ok(HypercallBuffer { raw, memory, pages })
    }

    /// What Xen has written, or zeros.
    fn words(&self) -> &[u64] {
        let words = usize::try_from(self.pages).unwrap_or(0) * (PAGE_SIZE / size_of::<u64>());
        // SAFETY: the allocation succeeded for `pages` whole pages, page-aligned and zeroed, and lives until `free` takes `self`.
        // Xen writes to it only inside of `read`, which borrows `self` mutably.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr(), words) }
    }

    /// Has Xen write the log of `nr_pfns` pfns here, at most as many as [`HypercallBuffer::words`] has bits.
    fn read(
        &mut self,
        handles: &Handles,
        domid: u32,
        operation: u32,
        mode: u32,
        nr_pfns: u64,
    ) -> Result<sys::xc_shadow_op_stats_t> {
        let bits = self.words().len() as u64 * u64::from(u64::BITS);
        if nr_pfns > bits {
            return Err(BoundMismatch { expected: nr_pfns, found: bits }.into());
        }
        let mut stats = sys::xc_shadow_op_stats_t::default();
        // SAFETY: the interface is open, `raw` describes memory of at least `nr_pfns` bits (checked above), which nobody else has
        // a reference to, and `stats` is a place for the one structure that is written.
        let pfns = unsafe {
            sys::xc_logdirty_control(handles.xch(), domid, operation, &raw mut self.raw, nr_pfns, mode, &raw mut stats)
        };
        let found = u64::try_from(pfns).map_err(|_| Error::Hypercall {
            call: "xc_logdirty_control",
            domid,
            source: io::Error::last_os_error(),
        })?;
        if found < nr_pfns { Err(Error::DirtyLogLength { domid, expected: nr_pfns, found }) } else { Ok(stats) }
    }

    /// Where it is, to be put into a hypercall's arguments.
    const fn pointer(&mut self) -> *mut u64 {
        self.memory.as_ptr()
    }

    fn words_mut(&mut self) -> &mut [u64] {
        let words = self.words().len();
        // SAFETY: as in `words`, and nobody else has a reference while `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_ptr(), words) }
    }

    fn free(mut self, handles: &Handles) {
        // SAFETY: the memory came from this interface (the domain's, which alone is ever passed) with this number of pages, and
        // `self` ends here.
        unsafe { sys::xc__hypercall_buffer_free_pages(handles.xch(), &raw mut self.raw, self.pages) };
    }
}

/// A [`HypercallBuffer`] for one or two hypercalls, freed at the end.
pub(super) struct Buffer<'h> {
    handles: &'h Handles,
    /// `None` only while it is dropped.
    buffer: Option<HypercallBuffer>,
}

impl<'h> Buffer<'h> {
    /// Room for so many octets, zeroed.
    pub(super) fn new(handles: &'h Handles, octets: usize) -> Result<Self> {
        let buffer = HypercallBuffer::new(handles, octets.div_ceil(size_of::<u64>()))?;
        Ok(Buffer { handles, buffer: Some(buffer) })
    }

    /// With these octets in it.
    pub(super) fn with(handles: &'h Handles, octets: &[u8]) -> Result<Self> {
        let mut buffer = Buffer::new(handles, octets.len())?;
        let words = buffer.buffer.as_mut().map(HypercallBuffer::words_mut).unwrap_or_default();
        for (word, octets) in words.iter_mut().zip(octets.chunks(size_of::<u64>())) {
            let mut whole = [0; size_of::<u64>()];
            for (place, &octet) in whole.iter_mut().zip(octets) {
                *place = octet;
            }
            *word = u64::from_ne_bytes(whole);
        }
        Ok(buffer)
    }

    /// Where it is, to be put into a hypercall's arguments.
    pub(super) fn pointer(&mut self) -> *mut u64 {
        self.buffer.as_mut().map_or(null_mut(), HypercallBuffer::pointer)
    }

    /// What is in it.
    pub(super) fn words(&self) -> &[u64] {
        self.buffer.as_ref().map(HypercallBuffer::words).unwrap_or_default()
    }

    /// Adds its first octets to `blob`: as many as it has at most.
    pub(super) fn copy_to(&self, octets: usize, blob: &mut Vec<u8>) {
        blob.extend(self.words().iter().flat_map(|word| word.to_ne_bytes()).take(octets));
    }
}

impl Drop for Buffer<'_> {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            buffer.free(self.handles);
        }
    }
}

impl XenDomain {
    fn shadow_control(&self, operation: u32) -> Result<()> {
        // SAFETY: the interface is open; these operations have no memory size to exchange, for which null stands.
        let rc = unsafe { sys::xc_shadow_control(self.handles.xch(), self.domid, operation, null_mut(), 0) };
        hypercall("xc_shadow_control", self.domid, rc)?;
        Ok(())
    }

    fn read_log(&mut self, bitmap: &mut DirtyBitmap, operation: u32, mode: u32) -> Result<DirtyStats> {
        // What lies beyond the bitmap would be lost without a word. Only of a PV guest's p2m may the end name nothing.
        let all = self.nr_gpfns()?;
        let nr_pfns = bitmap.nr_pfns();
        if if self.kind == DomainKind::Pv { nr_pfns > all } else { nr_pfns != all } {
            return Err(BoundMismatch { expected: all, found: nr_pfns }.into());
        }
        let words = bitmap.words().len();
        let buffer = self.log.buffer(&self.handles, words)?;
        let domid = self.domid;
        let stats = buffer.read(&self.handles, domid, operation, mode, nr_pfns).map_err(|error| match error {
            // What Xen says to reading a log that is off; nothing else of this request can be invalid.
            Error::Hypercall { source, .. } if source.kind() == io::ErrorKind::InvalidInput => {
                Error::LogDirtyOff { domid }
            }
            other => other,
        })?;
        bitmap.copy_from_words(buffer.words());
        Ok(DirtyStats { fault_count: stats.fault_count.into(), dirty_count: stats.dirty_count.into() })
    }
}

impl LogDirty for XenDomain {
    fn enable_log_dirty(&mut self) -> Result<()> {
        if self.shadow_control(sys::XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY).is_err() {
            // It may be on already, for a device model that follows the video memory.
            self.shadow_control(sys::XEN_DOMCTL_SHADOW_OP_OFF)?;
            self.shadow_control(sys::XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY)?;
        }
        Ok(())
    }

    /// Xen counts with 32 bits: more stay at the highest number.
    fn clean_log_dirty(&mut self, bitmap: &mut DirtyBitmap, mode: CleanMode) -> Result<DirtyStats> {
        let mode = match mode {
            CleanMode::Ongoing => 0,
            CleanMode::Final => sys::XEN_DOMCTL_SHADOW_LOGDIRTY_FINAL,
        };
        self.read_log(bitmap, sys::XEN_DOMCTL_SHADOW_OP_CLEAN, mode)
    }

    fn peek_log_dirty(&mut self, bitmap: &mut DirtyBitmap) -> Result<DirtyStats> {
        self.read_log(bitmap, sys::XEN_DOMCTL_SHADOW_OP_PEEK, 0)
    }

    fn disable_log_dirty(&mut self) -> Result<()> {
        self.shadow_control(sys::XEN_DOMCTL_SHADOW_OP_OFF)
    }
}
