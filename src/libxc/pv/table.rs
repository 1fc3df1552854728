//! Page tables between a guest's memory, where their entries name machine frames, and a stream, where they name pfns.
//!
//! Source: "PAGE_DATA" of `docs/specs/libxc-migration-stream.pandoc` ("x86 PV Guests"); Xen's own ranges in
//! `xen/include/public/arch-x86/xen-x86_64.h` and `xen-x86_32.h`.

use crate::hypervisor::pv::{Mfn, Width};
use crate::hypervisor::types::{Page, Pfn};
use byteorder::{ByteOrder, LittleEndian};
use thiserror::Error;

/// An entry is in use.
const PRESENT: u64 = 1;
/// An entry of a level above the first maps a superpage.
const LARGE: u64 = 1 << 7;
/// Bits 12 to 51.
const FRAME: u64 = 0x000f_ffff_ffff_f000;

/// Entries of a 64-bit guest's fourth level that are Xen's.
const XEN_64: std::ops::RangeInclusive<usize> = 256..=271;
/// Entries of a 32-bit guest's third level that the guest cannot use.
const UNUSED_32: std::ops::RangeInclusive<usize> = 4..=511;
/// Entries of a 32-bit guest's second level that are Xen's, in the tables that map Xen.
const XEN_32: std::ops::RangeInclusive<usize> = 428..=511;

/// An entry that cannot be translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("L{level}[{index}] = {entry:#018x}: {problem}")]
pub struct BadEntry {
    /// The table's level, 1 to 4.
    pub level: u8,
    /// Which entry.
    pub index: usize,
    /// Its bytes.
    pub entry: u64,
    /// What is wrong with it.
    pub problem: EntryProblem,
}

/// What is wrong with an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum EntryProblem {
    /// It names a frame that is not the guest's.
    #[error("its frame is not the guest's")]
    Foreign,
    /// It maps a superpage, which no stream can carry.
    #[error("a superpage")]
    Superpage,
    /// A 32-bit guest has no such table.
    #[error("a 32-bit guest has no such level")]
    Level,
    /// It names a pfn beyond the guest's p2m.
    #[error("its pfn is beyond the guest's maximum of {nr_pfns:#x} pfns")]
    Range {
        /// One more than the highest.
        nr_pfns: u64,
    },
}

/// The frame in an entry.
const fn frame(entry: u64) -> u64 {
    (entry & FRAME) >> 12
}

/// The pfns that a normalised table's entries name, in order.
pub fn pfns(table: &[u8]) -> impl Iterator<Item = (usize, u64, Pfn)> {
    let entries = table.chunks_exact(8).map(LittleEndian::read_u64).enumerate();
    entries.filter(|(_, entry)| entry & PRESENT != 0).map(|(index, entry)| (index, entry, frame(entry)))
}

/// Checks that a normalised table names pfns of the guest only.
///
/// # Errors
/// The first entry that does not.
pub fn check(table: &[u8], level: u8, nr_pfns: u64) -> Result<(), BadEntry> {
    let problem = EntryProblem::Range { nr_pfns };
    match pfns(table).find(|&(.., named)| named >= nr_pfns) {
        Some((index, entry, _)) => Err(BadEntry { level, index, entry, problem }),
        None => Ok(()),
    }
}

/// Turns machine frames into pfns, in place, and takes out what is Xen's: it is made anew on the other side.
///
/// # Errors
/// The first entry that cannot be. Of a guest that runs this may be an update half done; of one that stands still it is a
/// fault.
pub fn normalise(
    table: &mut [u8],
    level: u8,
    width: Width,
    compat_m2p: Mfn,
    pfn_of: impl Fn(Mfn) -> Option<Pfn>,
) -> Result<(), BadEntry> {
    let at = |index: usize| table.get(index * 8..index * 8 + 8).map_or(0, LittleEndian::read_u64);
    let xens = match (width, level) {
        (Width::Bits64, 4) => Some(XEN_64),
        (Width::Bits32, 4) => {
            return Err(BadEntry { level, index: 0, entry: at(0), problem: EntryProblem::Level });
        }
        (Width::Bits32, 3) => Some(UNUSED_32),
        // Only some second-level tables map Xen: those whose first such entry is the m2p that all guests have there.
        (Width::Bits32, 2) if frame(at(*XEN_32.start())) == compat_m2p => Some(XEN_32),
        _ => None,
    };
    for (index, bytes) in table.chunks_exact_mut(8).enumerate() {
        let entry = LittleEndian::read_u64(bytes);
        if xens.as_ref().is_some_and(|xens| xens.contains(&index)) {
            bytes.fill(0);
            continue;
        }
        if entry & PRESENT == 0 {
            continue;
        }
        let bad = |problem| BadEntry { level, index, entry, problem };
        if level > 1 && entry & LARGE != 0 {
            return Err(bad(EntryProblem::Superpage));
        }
        let pfn = pfn_of(frame(entry)).ok_or(bad(EntryProblem::Foreign))?;
        LittleEndian::write_u64(bytes, entry & !FRAME | pfn << 12);
    }
    Ok(())
}

/// Turns pfns into machine frames, from a table in a stream into one in memory.
///
/// # Errors
/// The first entry whose pfn has no frame.
pub fn localise(
    source: &[u8],
    table: &mut Page,
    level: u8,
    mfn_of: impl Fn(Pfn) -> Option<Mfn>,
) -> Result<(), BadEntry> {
    for (index, (source, place)) in source.chunks_exact(8).zip(table.chunks_exact_mut(8)).enumerate() {
        let entry = LittleEndian::read_u64(source);
        let local = match entry & PRESENT {
            0 => entry,
            _ => {
                let bad = BadEntry { level, index, entry, problem: EntryProblem::Foreign };
                entry & !FRAME | mfn_of(frame(entry)).ok_or(bad)? << 12
            }
        };
        LittleEndian::write_u64(place, local);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(entries: &[(usize, u64)]) -> Page {
        let mut table = [0; 4096];
        for &(index, entry) in entries {
            LittleEndian::write_u64(&mut table[index * 8..index * 8 + 8], entry);
        }
        table
    }

    fn known(mfn: Mfn) -> Option<Pfn> {
        (mfn >= 0x100).then(|| mfn - 0x100)
    }

    #[test]
    fn flags_stay_and_frames_change() {
        let flags = 0x8000_0000_0000_0067;
        let mut page = table(&[(0, 0x105_000 | flags), (7, 0x99_000), (511, 0x100_000 | 1)]);
        normalise(&mut page, 1, Width::Bits64, 0, known).unwrap();
        assert_eq!(page, table(&[(0, 0x5000 | flags), (7, 0x99_000), (511, 1)]));
        assert_eq!(pfns(&page).map(|(index, _, pfn)| (index, pfn)).collect::<Vec<_>>(), [(0, 5), (511, 0)]);
        let mut back = [0xff; 4096];
        localise(&page, &mut back, 1, |pfn| Some(pfn + 0x100)).unwrap();
        assert_eq!(back, table(&[(0, 0x105_000 | flags), (7, 0x99_000), (511, 0x100_000 | 1)]));
        let bad = localise(&page, &mut back, 1, |_| None).unwrap_err();
        assert_eq!((bad.index, bad.problem), (0, EntryProblem::Foreign));
    }

    #[test]
    fn what_is_xens_is_taken_out() {
        let mut l4 = table(&[(255, 0x101_001), (256, 1), (271, 0x80 | 1), (272, 0x102_001)]);
        normalise(&mut l4, 4, Width::Bits64, 0, known).unwrap();
        assert_eq!(l4, table(&[(255, 0x1001), (272, 0x2001)]));
        let mut l3 = table(&[(3, 0x101_001), (4, 1)]);
        normalise(&mut l3, 3, Width::Bits32, 0, known).unwrap();
        assert_eq!(l3, table(&[(3, 0x1001)]));
        let mut mapping_xen = table(&[(427, 0x101_001), (428, 0x42_0e3), (511, 0x43_0e3)]);
        normalise(&mut mapping_xen, 2, Width::Bits32, 0x42, known).unwrap();
        assert_eq!(mapping_xen, table(&[(427, 0x1001)]));
        let mut other = table(&[(428, 0x101_001)]);
        normalise(&mut other, 2, Width::Bits32, 0x42, known).unwrap();
        assert_eq!(other, table(&[(428, 0x1001)]));
    }

    #[test]
    fn what_cannot_be_translated_is_named() {
        for (level, width, entry, problem) in [
            (1, Width::Bits64, 0x99_001, EntryProblem::Foreign),
            (2, Width::Bits64, 0x101_081, EntryProblem::Superpage),
            (4, Width::Bits32, 0x101_001, EntryProblem::Level),
        ] {
            let mut page = table(&[(0, entry)]);
            let bad = normalise(&mut page, level, width, 0, known).unwrap_err();
            assert_eq!(bad, BadEntry { level, index: 0, entry, problem });
        }
        // The bit that means a superpage above is the PAT's in a first-level table.
        normalise(&mut table(&[(0, 0x101_081)]), 1, Width::Bits64, 0, known).unwrap();
    }
}
