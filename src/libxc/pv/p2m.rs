//! Where a guest keeps its p2m: in a list at a virtual address, or in a tree of frames.
//!
//! Source: `struct arch_shared_info` in `xen/include/public/arch-x86/xen.h`. The list is found by the address space named in
//! `p2m_cr3` and the address in `p2m_vaddr`; without it the tree by `pfn_to_mfn_frame_list_list`, a frame of frames of frames of
//! entries.

use crate::decode::pv_words::{
    self as words, FRAME_LIST_LIST, Field, MAX_PFN, P2M_CR3, P2M_GENERATION, P2M_VADDR, cr3_frame,
};
use crate::hypervisor::pv::{Mfn, Width};
use crate::hypervisor::types::{PAGE_SIZE, Page, Pfn};
use crate::hypervisor::{self, PageBatch, SaveDomain};
use crate::stream::libxc::BATCH;
use thiserror::Error;

/// Most pfns that a p2m may have: 64 TiB of memory.
const MAX_PFNS: u64 = 1 << 34;
/// Virtual addresses that a p2m list must not touch: Xen's, of a 64-bit and of a 32-bit guest.
const XEN_64: (u64, u64) = (0xffff_8000_0000_0000, 0xffff_87ff_ffff_ffff);
/// As above.
const XEN_32: (u64, u64) = (0xf580_0000, 0xffff_ffff);

/// A p2m that cannot be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum P2mError {
    /// No pfns, or more than any guest has.
    #[error("a p2m of {nr_pfns:#x} pfns")]
    Size {
        /// One more than the highest pfn.
        nr_pfns: u64,
    },
    /// More than a tree can have.
    #[error("{nr_pfns:#x} pfns are too many for a p2m tree")]
    Tree {
        /// One more than the highest pfn.
        nr_pfns: u64,
    },
    /// A frame that is no memory of the host.
    #[error("{what}[{index}] is frame {mfn:#x}, which is none")]
    Frame {
        /// The table that names it.
        what: &'static str,
        /// The entry there.
        index: usize,
        /// The frame.
        mfn: Mfn,
    },
    /// A frame of the p2m that is not the guest's.
    #[error("frame {index} of the p2m, {mfn:#x}, is not the guest's")]
    Foreign {
        /// Which.
        index: usize,
        /// The frame.
        mfn: Mfn,
    },
    /// Addresses where no p2m can be.
    #[error("a p2m list from {start:#x} to {end:#x}")]
    Address {
        /// The first byte's.
        start: u64,
        /// The last byte's.
        end: u64,
    },
    /// The guest changed the place of its p2m while it was followed.
    #[error("the guest has moved its p2m (generation {before}, now {now})")]
    Moved {
        /// The count of changes at the start.
        before: u64,
        /// Now.
        now: u64,
    },
}

/// Either kind of trouble.
#[derive(Debug, Error)]
pub enum FindError {
    /// The p2m's.
    #[error(transparent)]
    P2m(#[from] P2mError),
    /// The hypervisor's.
    #[error(transparent)]
    Hypervisor(#[from] hypervisor::Error),
}

/// A p2m that is followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct P2m {
    width: Width,
    nr_pfns: u64,
    nr_mfns: u64,
    /// The pfns of its frames.
    frames: Vec<Pfn>,
    /// The guest's count of changes; none where it keeps a tree, which has no such thing.
    generation: Option<u64>,
}

/// Entries in a frame.
const fn per_frame(width: Width) -> u64 {
    (PAGE_SIZE / width.bytes()) as u64
}

impl P2m {
    /// Finds a domain's p2m, and has the backend follow it.
    ///
    /// # Errors
    /// [`FindError`].
    pub fn find<D: SaveDomain>(domain: &mut D) -> Result<Self, FindError> {
        let width = domain.guest_width()?;
        let nr_mfns = domain.nr_mfns()?;
        let shared_info = shared_info(domain)?;
        let nr_pfns = MAX_PFN.get(&shared_info[..], width);
        if nr_pfns == 0 || nr_pfns > MAX_PFNS {
            return Err(P2mError::Size { nr_pfns }.into());
        }
        let mut walk = Walk { domain, width, nr_mfns, nr_pfns };
        let cr3 = P2M_CR3.get(&shared_info[..], width);
        let (mfns, generation) = if cr3 != 0 {
            let start = P2M_VADDR.get(&shared_info[..], width);
            (walk.list(cr3_frame(cr3, width), start)?, Some(P2M_GENERATION.get(&shared_info[..], width)))
        } else {
            (walk.tree(FRAME_LIST_LIST.get(&shared_info[..], width))?, None)
        };
        let nr_pfns = walk.nr_pfns;
        domain.follow_p2m(&mfns, width)?;
        let mut p2m = P2m { width, nr_pfns, nr_mfns, frames: Vec::with_capacity(mfns.len()), generation };
        for (index, &mfn) in mfns.iter().enumerate() {
            p2m.frames.push(p2m.pfn_of(domain, mfn).ok_or(P2mError::Foreign { index, mfn })?);
        }
        Ok(p2m)
    }

    /// The guest's width.
    pub const fn width(&self) -> Width {
        self.width
    }

    /// One more than the highest pfn.
    pub const fn nr_pfns(&self) -> u64 {
        self.nr_pfns
    }

    /// The pfns of the frames that hold it.
    pub fn frames(&self) -> &[Pfn] {
        &self.frames
    }

    /// The machine frame of a pfn.
    pub fn mfn_of(&self, domain: &impl SaveDomain, pfn: Pfn) -> Option<Mfn> {
        domain.p2m_entry(pfn).filter(|_| pfn < self.nr_pfns)
    }

    /// The pfn of a machine frame, where the guest's p2m agrees with the host's m2p.
    pub fn pfn_of(&self, domain: &impl SaveDomain, mfn: Mfn) -> Option<Pfn> {
        let pfn = domain.m2p(mfn).filter(|_| mfn < self.nr_mfns)?;
        (self.mfn_of(domain, pfn)? == mfn).then_some(pfn)
    }

    /// Whether the p2m is where it was found.
    ///
    /// # Errors
    /// [`P2mError::Moved`], or the hypervisor's.
    pub fn check(&self, domain: &impl SaveDomain) -> Result<(), FindError> {
        let Some(before) = self.generation else { return Ok(()) };
        let now = P2M_GENERATION.get(&shared_info(domain)?[..], self.width);
        if now == before { Ok(()) } else { Err(P2mError::Moved { before, now }.into()) }
    }
}

/// A copy of the shared info page.
///
/// # Errors
/// The hypervisor's.
pub fn shared_info(domain: &impl SaveDomain) -> hypervisor::Result<Box<Page>> {
    let frame = [domain.shared_info_frame()?];
    let pages = domain.map_pages(&frame)?;
    let page = pages.page(0).ok_or(hypervisor::Error::NotPopulated { pfn: frame[0] })?;
    Ok(Box::new(*page))
}

struct Walk<'d, D> {
    domain: &'d mut D,
    width: Width,
    nr_mfns: u64,
    nr_pfns: u64,
}

impl<D: SaveDomain> Walk<'_, D> {
    /// The first `count` words, of the guest's width or of eight bytes, in these frames.
    fn entries(&self, mfns: &[Mfn], skip: u64, count: u64, bytes: usize) -> hypervisor::Result<Vec<u64>> {
        let width = if bytes == 8 { Width::Bits64 } else { Width::Bits32 };
        let first = (PAGE_SIZE / bytes) as u64;
        let mut entries = Vec::new();
        for (number, mfns) in (0u64..).zip(mfns.chunks(BATCH)) {
            let pages = self.domain.map_pages(mfns)?;
            let before = number * BATCH as u64 * first;
            for (page, words) in (0u64..).zip((0..mfns.len()).filter_map(|index| pages.page(index))) {
                let here = before + page * first;
                let wanted = skip.max(here)..(skip + count).min(here + first);
                const WORD: Field = words::word();
                entries.extend(wanted.map(|index| WORD.nth((index - here) as usize).get(words, width)));
            }
        }
        Ok(entries)
    }

    fn check(&self, what: &'static str, mfns: &[Mfn]) -> Result<(), P2mError> {
        match mfns.iter().position(|&mfn| mfn == 0 || mfn >= self.nr_mfns) {
            Some(index) => Err(P2mError::Frame { what, index, mfn: mfns.get(index).copied().unwrap_or_default() }),
            None => Ok(()),
        }
    }

    /// The frames of a tree.
    fn tree(&mut self, root: Mfn) -> Result<Vec<Mfn>, FindError> {
        let per_frame = per_frame(self.width);
        let middle = (self.nr_pfns - 1) / (per_frame * per_frame) + 1;
        if middle > per_frame {
            return Err(P2mError::Tree { nr_pfns: self.nr_pfns }.into());
        }
        self.check("shared_info.pfn_to_mfn_frame_list_list", &[root])?;
        let mut lists = self.entries(&[root], 0, middle, self.width.bytes())?;
        self.check("p2m frame list list", &lists)?;
        // Lists at the end that are one and the same name nothing but empty frames: two pfns cannot share a frame for long.
        let used = lists.iter().rposition(|list| Some(list) != lists.last()).map_or(0, |last| last + 1) + 1;
        lists.truncate(used);
        self.nr_pfns = self.nr_pfns.min(used as u64 * per_frame * per_frame);
        let leaves = (self.nr_pfns - 1) / per_frame + 1;
        let leaves = self.entries(&lists, 0, leaves, self.width.bytes())?;
        self.check("p2m frame list", &leaves)?;
        Ok(leaves)
    }

    /// The frames of a list, by the page tables that map it.
    fn list(&mut self, root: Mfn, start: u64) -> Result<Vec<Mfn>, FindError> {
        let frames = (self.nr_pfns - 1) / per_frame(self.width) + 1;
        let length = frames * PAGE_SIZE as u64;
        let mut end = start.wrapping_add(length - 1);
        let mask = self.check_addresses(start, end)?;
        self.check("p2m_cr3", &[root])?;
        let mut tables = vec![root];
        // Where in the address space the tables of this level begin.
        let mut base = 0;
        for level in (1..=self.width.levels()).rev() {
            let shift = 12 + 9 * (u32::from(level) - 1);
            let (first, last) = ((start & mask) >> shift, (end & mask) >> shift);
            // Entries are counted from the first table's first.
            let entries = self.entries(&tables, first - base, last - first + 1, 8)?;
            tables = entries.iter().map(|entry| (entry & 0x000f_ffff_ffff_f000) >> 12).collect();
            self.check("p2m list's page tables", &tables)?;
            base = first << 9;
            if level == 2 {
                // As with the tree: tables at the end that are one and the same name no frames of their own.
                let other = tables.iter().rposition(|table| Some(table) != tables.last()).map_or(0, |last| last + 1);
                if other > 0 && other + 1 < tables.len() {
                    tables.truncate(other);
                    let frames = other as u64 * 512 - ((start & mask) >> 12) % 512;
                    self.nr_pfns = self.nr_pfns.min(frames * per_frame(self.width));
                    end = start + frames * PAGE_SIZE as u64 - 1;
                }
            }
        }
        Ok(tables)
    }

    fn check_addresses(&self, start: u64, end: u64) -> Result<u64, P2mError> {
        let bad = P2mError::Address { start, end };
        let (mask, xen) = match self.width {
            Width::Bits64 => (0x0000_ffff_ffff_ffff, XEN_64),
            Width::Bits32 => (0xffff_ffff, XEN_32),
        };
        let canonical = |address: u64| match self.width {
            Width::Bits64 => (address as i64) >> 47 == (address as i64) >> 63,
            Width::Bits32 => address <= mask,
        };
        let sound = canonical(start) && canonical(end) && start <= end && start.is_multiple_of(PAGE_SIZE as u64);
        if !sound || (start <= xen.1 && end >= xen.0) { Err(bad) } else { Ok(mask) }
    }
}
