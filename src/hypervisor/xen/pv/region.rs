//! Frames mapped for reading for as long as they are of use: the m2p, a guest's p2m.
//!
//! Their owners go on writing to them. A word of them is read as a whole and once, and never as part of a slice.
#![allow(unsafe_code)]

use crate::hypervisor::error::Result;
use crate::hypervisor::pv::Width;
use crate::hypervisor::types::PAGE_SIZE;
use crate::hypervisor::xen::hypercall::foreign::Frames;
use crate::hypervisor::xen::hypercall::interface::Interface;

/// Frames in a row of our address space.
#[derive(Debug)]
pub(super) struct Region {
    frames: Frames,
}

impl Region {
    /// Maps all of the frames or none; at least one.
    pub(super) fn map(interface: &Interface, domid: u32, frames: &[u64]) -> Result<Self> {
        Ok(Region { frames: Frames::map(interface, domid, frames, false, None)? })
    }

    /// The word of this number, of the width's size; `None` beyond the end.
    pub(super) fn word(&self, index: usize, width: Width) -> Option<u64> {
        if index >= self.frames.pages() * (PAGE_SIZE / width.bytes()) {
            return None;
        }
        let base = self.frames.base();
        // SAFETY: the word lies within the mapping, which is readable and page-aligned. It may change at any time, so it is read
        // as volatile; every pattern of bits is a value.
        Some(unsafe {
            match width {
                Width::Bits64 => base.cast::<u64>().add(index).read_volatile(),
                Width::Bits32 => base.cast::<u32>().add(index).read_volatile().into(),
            }
        })
    }
}
