//! The host's memory, as far as one PV domain has it.

use crate::decode::shared_info::Width;
use crate::hypervisor::error::{Error, Result};
use crate::hypervisor::pv::{INVALID_MFN, Mfn};
use crate::hypervisor::sim::workload::hash::mix;
use crate::hypervisor::types::{PAGE_SIZE, Page, PageType, Pfn};
use byteorder::{ByteOrder, LittleEndian};
use memmap2::{MmapMut, MmapOptions};

/// Frames at the bottom that are Xen's: among them what it maps into every guest.
pub(super) const XENS: u64 = 16;
/// The first frame of the m2p as 32-bit guests have it mapped.
pub(super) const COMPAT_M2P: Mfn = 3;
/// Entries of a guest's page tables that are Xen's: in the fourth level of a 64-bit guest; in those second-level tables of a
/// 32-bit guest that the last entry of its third level names.
const XEN_SLOTS_64: std::ops::Range<usize> = 256..272;
/// As above.
const XEN_SLOTS_32: std::ops::Range<usize> = 428..512;
/// Present.
const PRESENT: u64 = 1;
/// The frame of an entry.
const FRAME: u64 = 0x000f_ffff_ffff_f000;

/// Bytes of an entry of the m2p.
const ENTRY: usize = size_of::<Pfn>();
/// The m2p comes in extents of so many bytes (`XENMEM_machphys_mfn_list`).
pub const M2P_EXTENT: usize = 2 << 20;

/// Frames of a machine that has so many to give.
pub(super) const fn nr_mfns(frames: u64) -> u64 {
    frames.saturating_add(XENS)
}

/// Bytes of an m2p for so many frames: whole extents.
pub(super) const fn m2p_length(nr_mfns: u64) -> usize {
    (nr_mfns as usize).saturating_mul(ENTRY).next_multiple_of(M2P_EXTENT)
}

/// Frames, in part the domain's.
#[derive(Debug)]
pub(super) struct Machine {
    memory: MmapMut,
    nr_mfns: u64,
    /// The pfn of each frame in eight bytes, [`INVALID_MFN`] for none. Where others read it too it is a file's.
    m2p: MmapMut,
    types: Vec<PageType>,
    /// Frames that are nobody's, in the order in which they are given.
    free: Vec<Mfn>,
    broken: bool,
}

impl Machine {
    /// A machine with so many frames to give. `seed` decides in which order.
    pub(super) fn new(frames: u64, seed: u64) -> Result<Self> {
        let nr_mfns = nr_mfns(frames);
        let length = usize::try_from(nr_mfns).ok().and_then(|frames| frames.checked_mul(PAGE_SIZE));
        let too_big = Error::Config { field: "frames", value: frames, reason: "more than this machine can address" };
        let failed = |source| Error::Os { operation: "allocating machine memory", source };
        let memory = MmapOptions::new().len(length.ok_or(too_big)?).no_reserve_swap().map_anon().map_err(failed)?;
        let mut m2p = MmapOptions::new().len(m2p_length(nr_mfns)).map_anon().map_err(failed)?;
        m2p.fill(0xff);
        let mut free: Vec<Mfn> = (XENS..nr_mfns).collect();
        free.sort_by_key(|mfn| mix(mfn ^ mix(seed)));
        let types = vec![PageType::NOTAB; nr_mfns as usize];
        Ok(Machine { memory, nr_mfns, m2p, types, free, broken: false })
    }

    /// A machine of so many frames in all, put down before: memory and m2p are mappings of the lengths that they need.
    pub(super) fn wake(memory: MmapMut, m2p: MmapMut, types: Vec<PageType>, free: Vec<Mfn>) -> Result<Self> {
        let nr_mfns = types.len() as u64;
        let bad = |field, reason| Error::Config { field, value: nr_mfns, reason };
        if memory.len() / PAGE_SIZE < types.len() {
            return Err(bad("memory", "less than its frames take"));
        }
        if m2p.len() < m2p_length(nr_mfns) {
            return Err(bad("m2p", "less than its frames take"));
        }
        if free.iter().any(|mfn| !(XENS..nr_mfns).contains(mfn)) {
            return Err(bad("free", "a frame that there is not"));
        }
        Ok(Machine { memory, nr_mfns, m2p, types, free, broken: false })
    }

    /// The frames' types, and the frames that are nobody's.
    pub(super) fn parts(&self) -> (&[PageType], &[Mfn]) {
        (&self.types, &self.free)
    }

    pub(super) const fn nr_mfns(&self) -> u64 {
        self.nr_mfns
    }

    /// Takes a frame, zeroed; for a pfn or for nobody's memory.
    pub(super) fn take(&mut self, pfn: Option<Pfn>) -> Option<Mfn> {
        let mfn = self.free.pop()?;
        self.page_mut(mfn)?.fill(0);
        if let Some(pfn) = pfn {
            self.set_m2p(mfn, pfn);
        }
        Some(mfn)
    }

    /// Gives a frame back.
    pub(super) fn give_back(&mut self, mfn: Mfn) {
        if mfn < self.nr_mfns {
            self.set_m2p(mfn, INVALID_MFN);
            self.set_type(mfn, PageType::NOTAB);
            self.free.insert(0, mfn);
        }
    }

    pub(super) fn free(&self) -> u64 {
        self.free.len() as u64
    }

    pub(super) fn m2p(&self, mfn: Mfn) -> Option<Pfn> {
        let at = usize::try_from(mfn).ok().filter(|_| mfn < self.nr_mfns)? * ENTRY;
        self.m2p.get(at..at + ENTRY).map(LittleEndian::read_u64)
    }

    fn set_m2p(&mut self, mfn: Mfn, pfn: Pfn) {
        let at = mfn as usize * ENTRY;
        if let Some(bytes) = self.m2p.get_mut(at..at + ENTRY) {
            LittleEndian::write_u64(bytes, pfn);
        }
    }

    /// The type of a frame, XTAB for one that the domain has not.
    pub(super) fn page_type(&self, mfn: Mfn) -> PageType {
        match self.m2p(mfn) {
            Some(pfn) if pfn != INVALID_MFN => self.types.get(mfn as usize).copied().unwrap_or(PageType::XTAB),
            _ => PageType::XTAB,
        }
    }

    pub(super) fn set_type(&mut self, mfn: Mfn, page_type: PageType) {
        if let Some(place) = self.types.get_mut(mfn as usize) {
            *place = page_type;
        }
    }

    fn range(&self, mfn: Mfn) -> Option<std::ops::Range<usize>> {
        let start = usize::try_from(mfn).ok().filter(|_| mfn < self.nr_mfns)?.checked_mul(PAGE_SIZE)?;
        Some(start..start + PAGE_SIZE)
    }

    pub(super) fn page(&self, mfn: Mfn) -> Option<&Page> {
        self.memory.get(self.range(mfn)?)?.try_into().ok()
    }

    pub(super) fn page_mut(&mut self, mfn: Mfn) -> Option<&mut Page> {
        let range = self.range(mfn)?;
        self.memory.get_mut(range)?.try_into().ok()
    }

    /// The frames as far as they lie next to each other from the first on.
    pub(super) fn run(&self, mfns: &[Mfn]) -> Option<&[u8]> {
        let first = *mfns.first()?;
        let adjacent = (first..).zip(mfns).take_while(|&(expected, &mfn)| mfn == expected).count();
        let start = self.range(first)?.start;
        self.memory.get(start..start + adjacent * PAGE_SIZE)
    }

    /// An entry of a page table.
    pub(super) fn entry(&self, table: Mfn, index: usize) -> u64 {
        let bytes = self.page(table).and_then(|page| page.get(index * 8..index * 8 + 8));
        bytes.map_or(0, LittleEndian::read_u64)
    }

    pub(super) fn set_entry(&mut self, table: Mfn, index: usize, entry: u64) {
        if let Some(bytes) = self.page_mut(table).and_then(|page| page.get_mut(index * 8..index * 8 + 8)) {
            LittleEndian::write_u64(bytes, entry);
        }
    }

    /// The frame that a virtual address leads to.
    pub(super) fn walk(&self, root: Mfn, width: Width, address: u64) -> Option<Mfn> {
        (1..=width.levels()).rev().try_fold(root, |table, level| {
            let index = (address >> (12 + 9 * (u32::from(level) - 1)))
                & if level == 3 && width == Width::Bits32 { 3 } else { 511 };
            let entry = self.entry(table, index as usize);
            (entry & PRESENT != 0).then_some((entry & FRAME) >> 12)
        })
    }

    /// Pins a table as Xen does: looks at each entry, types what it leads to, and puts its own entries in.
    pub(super) fn pin(&mut self, table: Mfn, level: u8, width: Width) -> Result<()> {
        self.validate(table, level, width)?;
        if let Some(pinned) = PageType::from_wire(level + 8) {
            self.set_type(table, pinned);
        }
        Ok(())
    }

    /// Takes a table into use, as a vCPU's root: the same without the pin.
    pub(super) fn validate(&mut self, table: Mfn, level: u8, width: Width) -> Result<()> {
        self.broken = false;
        self.promote(table, level, width, false);
        if self.broken { Err(Error::PageTable { mfn: table, level }) } else { Ok(()) }
    }

    fn promote(&mut self, table: Mfn, level: u8, width: Width, maps_xen: bool) {
        let known = self.page_type(table);
        if known.table_level() == Some(level) {
            return;
        }
        let Some(page_type) = PageType::from_wire(level).filter(|_| known == PageType::NOTAB) else {
            self.broken = true;
            return;
        };
        self.set_type(table, page_type);
        let xens = match (width, level) {
            (Width::Bits64, 4) => XEN_SLOTS_64,
            (Width::Bits32, 2) if maps_xen => XEN_SLOTS_32,
            _ => 0..0,
        };
        for index in 0..PAGE_SIZE / 8 {
            if xens.contains(&index) {
                self.set_entry(table, index, (COMPAT_M2P + (index - xens.start) as u64 % 8) << 12 | 0xe3);
                continue;
            }
            let entry = self.entry(table, index);
            if entry & PRESENT == 0 {
                continue;
            }
            let frame = (entry & FRAME) >> 12;
            match level {
                1 => self.broken |= self.page_type(frame) == PageType::XTAB,
                _ => self.promote(frame, level - 1, width, width == Width::Bits32 && index == 3),
            }
        }
    }
}
