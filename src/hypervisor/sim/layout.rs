//! Where a simulated guest's memory lies, and where its special pages are.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::hypervisor::types::Pfn;

/// How the guest's memory is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum MemoryLayout {
    /// As domain builders lay out a HVM guest on a PC: low memory, the VGA hole, memory up to 0xf0000 pfns, firmware pages and the
    /// special pages below 4 GiB, the rest of the memory above it.
    #[default]
    Pc,
    /// Everything close together with one small hole, so that bitmaps and first rounds of small tests stay small.
    Compact,
}

/// First pfn of the VGA hole of a PC.
const VGA_HOLE: Pfn = 0xa0;
/// First pfn after the VGA hole.
const VGA_HOLE_END: Pfn = 0xc0;
/// Where low memory ends at the latest: the MMIO hole begins here (Xen's `HVM_BELOW_4G_RAM_END`).
const LOW_RAM_END: Pfn = 0xf0000;
/// Where memory goes on above the MMIO hole.
const HIGH_RAM: Pfn = 0x100000;
/// Where HVM firmware keeps its ACPI tables, as seen in real streams.
const ACPI_PAGES: Range<Pfn> = 0xfc000..0xfc00b;
/// The page that firmware gives to the TSS for virtual 8086 mode, as seen in real streams.
const VM86_TSS_PAGE: Pfn = 0xfc100;
/// The first of the special pages proper, after those of the ioreq servers.
const PC_SPECIAL: Pfn = 0xfeff8;

/// How many pages there are for further ioreq servers.
pub(super) const NR_IOREQ_SERVER_PAGES: u64 = 8;
/// How many special pages there are.
const NR_SPECIAL_PAGES: u64 = 8;
/// Size of the hole in the compact layout.
const COMPACT_HOLE: u64 = 4;

/// The pages with a purpose of their own, in the order in which domain builders place them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpecialPages {
    /// First of the pages for further ioreq servers.
    pub ioreq_servers: Pfn,
    /// Memory-paging ring.
    pub paging: Pfn,
    /// Monitor ring.
    pub access: Pfn,
    /// Memory-sharing ring.
    pub sharing: Pfn,
    /// Buffered requests to the device model.
    pub bufioreq: Pfn,
    /// xenstore ring.
    pub xenstore: Pfn,
    /// Synchronous requests to the device model.
    pub ioreq: Pfn,
    /// Identity page table for real mode.
    pub ident_pt: Pfn,
    /// Console ring.
    pub console: Pfn,
    /// TSS for virtual 8086 mode.
    pub vm86_tss: Pfn,
}

impl SpecialPages {
    fn at(first: Pfn, vm86_tss: Pfn) -> Self {
        SpecialPages {
            ioreq_servers: first - NR_IOREQ_SERVER_PAGES,
            paging: first,
            access: first + 1,
            sharing: first + 2,
            bufioreq: first + 3,
            xenstore: first + 4,
            ioreq: first + 5,
            ident_pt: first + 6,
            console: first + 7,
            vm86_tss,
        }
    }
}

/// A layout worked out for a given amount of memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    /// Ordinary memory, ascending. The pages add up to what was asked for.
    pub ram: Vec<Range<Pfn>>,
    /// Further populated pages: firmware and special pages.
    pub other: Vec<Range<Pfn>>,
    /// The special pages.
    pub special: SpecialPages,
    /// One more than the highest pfn.
    pub nr_pfns: u64,
}

impl Layout {
    /// Lays out `memory` pages of ordinary memory; special pages come on top.
    pub fn new(kind: MemoryLayout, memory: u64) -> Self {
        match kind {
            MemoryLayout::Pc => Layout::pc(memory),
            MemoryLayout::Compact => Layout::compact(memory),
        }
    }

    fn pc(memory: u64) -> Self {
        let mut left = memory;
        let mut ram = Vec::new();
        for room in [0..VGA_HOLE, VGA_HOLE_END..LOW_RAM_END, HIGH_RAM..Pfn::MAX] {
            let pages = left.min(room.end - room.start);
            if pages > 0 {
                ram.push(room.start..room.start + pages);
            }
            left -= pages;
        }
        let special = SpecialPages::at(PC_SPECIAL, VM86_TSS_PAGE);
        let special_end = PC_SPECIAL + NR_SPECIAL_PAGES;
        let nr_pfns = ram.last().map_or(0, |range| range.end).max(special_end);
        let other = vec![ACPI_PAGES, VM86_TSS_PAGE..VM86_TSS_PAGE + 1, special.ioreq_servers..special_end];
        Layout { ram, other, special, nr_pfns }
    }

    fn compact(memory: u64) -> Self {
        let low = memory / 2;
        let ram_end = memory + COMPACT_HOLE;
        let special = SpecialPages::at(ram_end + 1 + NR_IOREQ_SERVER_PAGES, ram_end);
        let nr_pfns = special.paging + NR_SPECIAL_PAGES;
        let ram = vec![0..low, low + COMPACT_HOLE..ram_end];
        let other = std::iter::once(ram_end..nr_pfns).collect();
        Layout { ram, other, special, nr_pfns }
    }

    /// All populated ranges, ascending.
    pub fn populated(&self) -> Vec<Range<Pfn>> {
        let mut ranges: Vec<_> = self.ram.iter().chain(&self.other).cloned().collect();
        ranges.sort_by_key(|range| range.start);
        ranges
    }

    /// How many pages are populated.
    pub fn nr_populated(&self) -> u64 {
        self.ram.iter().chain(&self.other).map(|range| range.end - range.start).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pc_layout_is_that_of_real_streams() {
        let layout = Layout::new(MemoryLayout::Pc, 0x3fe0);
        assert_eq!(layout.nr_pfns, 0xff000);
        assert_eq!(layout.ram, [0..0xa0, 0xc0..0x4000]);
        assert_eq!(layout.special.xenstore, 0xfeffc);
        assert_eq!(layout.special.ioreq, 0xfeffd);
        assert_eq!(layout.special.bufioreq, 0xfeffb);
        assert_eq!(layout.special.ident_pt, 0xfeffe);
        assert_eq!(layout.special.console, 0xfefff);
        assert_eq!(layout.special.ioreq_servers, 0xfeff0);
        assert_eq!(layout.populated().last(), Some(&(0xfeff0..0xff000)));
    }

    #[test]
    fn big_guests_go_on_above_four_gigabytes() {
        let layout = Layout::new(MemoryLayout::Pc, 1 << 21);
        assert_eq!(layout.ram.len(), 3);
        assert_eq!(layout.ram.iter().map(|r| r.end - r.start).sum::<u64>(), 1 << 21);
        assert_eq!(layout.nr_pfns, 0x100000 + (1 << 21) - (0xf0000 - 0x20));
    }

    #[test]
    fn ranges_are_ascending_disjoint_and_below_the_bound() {
        for kind in [MemoryLayout::Pc, MemoryLayout::Compact] {
            for memory in [32, 33, 1000, 0xf0000, 0x200000] {
                let layout = Layout::new(kind, memory);
                let ranges = layout.populated();
                assert!(ranges.windows(2).all(|w| matches!(w, [a, b] if a.end <= b.start)), "{kind:?} {memory}");
                assert!(ranges.iter().all(|r| r.start < r.end && r.end <= layout.nr_pfns));
                assert_eq!(layout.nr_populated(), ranges.iter().map(|r| r.end - r.start).sum::<u64>());
                assert_eq!(layout.ram.iter().map(|r| r.end - r.start).sum::<u64>(), memory);
            }
        }
    }
}
