//! The host's m2p: the pfn of each machine frame, whoever owns it. Xen keeps it; a toolstack may read it.
#![allow(unsafe_code)]

use super::region::Region;
use crate::hypervisor::error::{Error, Result};
use crate::hypervisor::pv::{Mfn, Width};
use crate::hypervisor::types::{PAGE_SIZE, Pfn};
use crate::hypervisor::xen::handles::{Handles, hypercall};
use xenctrl_sys as sys;

/// `DOMID_XEN`: the owner of Xen's own frames.
const DOMID_XEN: u32 = 0x7ff2;
/// The m2p comes in extents of 2 MiB: so many frames of it, and so many entries.
const FRAMES: u64 = (2 << 20) / PAGE_SIZE as u64;
/// As above.
const ENTRIES: u64 = (2 << 20) / size_of::<Pfn>() as u64;

/// The m2p mapped.
#[derive(Debug)]
pub(super) struct M2p {
    nr_mfns: u64,
    /// Its extents, one mapping each; none where the machine has no memory.
    extents: Vec<Option<Region>>,
}

impl M2p {
    /// Maps the m2p of a machine with so many frames.
    pub(super) fn map(handles: &Handles, nr_mfns: u64) -> Result<Self> {
        let count = nr_mfns.div_ceil(ENTRIES);
        let too_many = Error::Config { field: "nr_mfns", value: nr_mfns, reason: "more than an m2p can have" };
        let mut starts = vec![0; usize::try_from(count).map_err(|_| too_many)?];
        // SAFETY: the interface is open, and there is room for as many extents as is said.
        let rc = unsafe { sys::xc_machphys_mfn_list(handles.xch(), count, starts.as_mut_ptr()) };
        hypercall("xc_machphys_mfn_list", DOMID_XEN, rc)?;
        let mut m2p = M2p { nr_mfns, extents: Vec::with_capacity(starts.len()) };
        for first in starts {
            // A large hole in the machine's memory is an extent at frame 0.
            let frames: Vec<Mfn> = if first == 0 { Vec::new() } else { (first..first + FRAMES).collect() };
            let region = match frames[..] {
                [] => Ok(None),
                _ => Region::map(handles, DOMID_XEN, &frames).map(Some),
            };
            match region {
                Ok(region) => m2p.extents.push(region),
                Err(error) => {
                    m2p.release(handles);
                    return Err(error);
                }
            }
        }
        Ok(m2p)
    }

    /// The pfn of a frame; `None` for one that the machine has not.
    pub(super) fn pfn(&self, mfn: Mfn) -> Option<Pfn> {
        if mfn >= self.nr_mfns {
            return None;
        }
        let extent = self.extents.get(usize::try_from(mfn / ENTRIES).ok()?)?.as_ref()?;
        extent.word((mfn % ENTRIES) as usize, Width::Bits64)
    }

    /// Unmaps it. The interface must be the one that it was mapped with.
    pub(super) fn release(self, handles: &Handles) {
        for region in self.extents.into_iter().flatten() {
            region.release(handles);
        }
    }
}
