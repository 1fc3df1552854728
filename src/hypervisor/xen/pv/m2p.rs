//! The host's m2p: the pfn of each machine frame, whoever owns it. Xen keeps it; a toolstack may read it.
#![forbid(unsafe_code)]

use super::region::Region;
use crate::hypervisor::error::{Error, Result};
use crate::hypervisor::pv::{Mfn, Width};
use crate::hypervisor::types::{PAGE_SIZE, Pfn};
use crate::hypervisor::xen::hypercall::abi::DOMID_XEN;
use crate::hypervisor::xen::hypercall::interface::Interface;

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
    pub(super) fn map(interface: &Interface, nr_mfns: u64) -> Result<Self> {
        let too_many = Error::Config { field: "nr_mfns", value: nr_mfns, reason: "more than an m2p can have" };
        let count = u32::try_from(nr_mfns.div_ceil(ENTRIES)).map_err(|_| too_many)?;
        let starts = interface.m2p_extents(count)?;
        let mut m2p = M2p { nr_mfns, extents: Vec::with_capacity(starts.len()) };
        for first in starts {
            // A large hole in the machine's memory is an extent at frame 0.
            let frames: Vec<Mfn> =
                if first == 0 { Vec::new() } else { (first..first.saturating_add(FRAMES)).collect() };
            let region = match frames[..] {
                [] => None,
                _ => Some(Region::map(interface, DOMID_XEN, &frames)?),
            };
            m2p.extents.push(region);
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
}
