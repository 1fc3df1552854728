//! The machine's frames: what a foreign mapping names, and where it lies in which file.
#![forbid(unsafe_code)]

use crate::errno::Errno;
use crate::pv::PvTurn;
use std::fs::File;
use std::os::fd::AsRawFd;
use xen_replicate::hypervisor::sim::Turn;
use xen_replicate::hypervisor::sim::pv::M2P_EXTENT;
use xen_replicate::hypervisor::{PAGE_SIZE, PageType, PvDomain, SaveDomain};

/// Where Xen has its m2p: frames far from any guest's.
const M2P_BASE: u64 = 1 << 34;

/// The first frame of each of the m2p's extents.
pub fn m2p_extents(bytes: usize) -> impl Iterator<Item = u64> {
    (0..bytes.div_ceil(M2P_EXTENT)).map(|extent| M2P_BASE + (extent * (M2P_EXTENT / PAGE_SIZE)) as u64)
}

/// Frames that can be mapped, and the file that they are in. A domain stands still while this is there.
pub enum Machine<'a> {
    /// A translated guest's: named by their gfns, in the file in the order of its slots.
    Hvm(Turn<'a>, &'a File),
    /// A PV guest's: named by their mfns, which is also their place in the file.
    Pv(PvTurn<'a>, &'a File),
    /// Xen's own: the m2p.
    M2p(usize, &'a File),
}

impl Machine<'_> {
    /// Which page of the file a frame is; `EINVAL` for one that nobody can map. It stays the same for good.
    pub fn page(&self, frame: u64, writable: bool) -> Result<usize, Errno> {
        let page = match self {
            Machine::Hvm(domain, _) => {
                let memory = domain.memory();
                memory.slot(frame).filter(|_| memory.has_data(frame))
            }
            Machine::Pv(domain, _) => {
                let mut kind = [PageType::XTAB];
                domain.page_types(&[frame], &mut kind)?;
                let shared_info = domain.shared_info_frame()? == frame;
                // Nobody may write to a page table but Xen.
                let mappable = kind[0].has_contents() && !(writable && kind[0].table_level().is_some());
                usize::try_from(frame).ok().filter(|_| shared_info || mappable)
            }
            Machine::M2p(bytes, _) => {
                let page = frame.checked_sub(M2P_BASE).and_then(|page| usize::try_from(page).ok());
                page.filter(|page| page * PAGE_SIZE < *bytes && !writable)
            }
        };
        page.ok_or(Errno(libc::EINVAL))
    }

    /// The file's descriptor, and bytes in it.
    pub fn file(&self) -> (i32, usize) {
        let (file, bytes) = match self {
            Machine::Hvm(domain, file) => {
                (file, usize::try_from(domain.memory().budget()).unwrap_or(0).saturating_mul(PAGE_SIZE))
            }
            Machine::Pv(domain, file) => {
                let frames = domain.nr_mfns().unwrap_or(0);
                (file, usize::try_from(frames).unwrap_or(0).saturating_mul(PAGE_SIZE))
            }
            Machine::M2p(bytes, file) => (file, *bytes),
        };
        (file.as_raw_fd(), bytes)
    }
}
