//! Which pages a domain under construction has, and in what pieces the missing ones are asked for.
#![forbid(unsafe_code)]

use crate::hypervisor::types::Pfn;
use std::collections::BTreeMap;
use std::ops::Range;

/// No guest has frames from here on: 48 bits of address, four levels of nested page tables.
///
/// A domain that is yet to be filled says nothing of how far its memory will reach ([`DomainInfo::nr_pfns`] is that of an empty
/// one); this is the bound for a restorer of such a domain. Memory for book-keeping is used by pages that Xen has really given,
/// so a lone pfn near this bound costs no more than one at 0.
///
/// [`DomainInfo::nr_pfns`]: crate::hypervisor::DomainInfo::nr_pfns
pub const PFN_LIMIT: u64 = 1 << 36;

/// log2 of the pages in 2 MiB.
pub(super) const SUPERPAGE_ORDER: u32 = 9;

/// Pages in 2 MiB.
pub(super) const SUPERPAGE: u64 = 1 << SUPERPAGE_ORDER;

/// The most pages that are asked for in one hypercall.
const MOST: usize = 1024;

/// What is known of a domain's pages.
#[derive(Debug, Default)]
pub(super) struct Memory {
    pub(super) populated: PopulatedPages,
    /// Whether the domain was empty at first, so that it has what is in `populated` and nothing else. `None` before the first
    /// look.
    pub(super) complete: Option<bool>,
    /// The pages of one call that are missing, kept for its memory.
    pub(super) missing: Vec<Pfn>,
}

/// A set of pfns that grows with what is in it and not with the highest.
#[derive(Debug, Default)]
pub(super) struct PopulatedPages {
    /// By 2 MiB of address space, one bit a page.
    blocks: BTreeMap<u64, Block>,
}

type Block = [u64; SUPERPAGE as usize / 64];

const fn position(pfn: Pfn) -> (usize, u64) {
    ((pfn % SUPERPAGE / 64) as usize, 1 << (pfn % 64))
}

impl PopulatedPages {
    /// Adds pfns.
    pub(super) fn insert(&mut self, pfns: &[Pfn]) {
        for pfns in pfns.chunk_by(|a, b| a / SUPERPAGE == b / SUPERPAGE) {
            let Some(first) = pfns.first() else { continue };
            let block = self.blocks.entry(first / SUPERPAGE).or_default();
            for &pfn in pfns {
                let (word, bit) = position(pfn);
                if let Some(word) = block.get_mut(word) {
                    *word |= bit;
                }
            }
        }
    }

    /// Puts those of `pfns` that are not in the set into `missing`, replacing what it had: ascending, each once.
    pub(super) fn missing(&self, pfns: &[Pfn], missing: &mut Vec<Pfn>) {
        missing.clear();
        for pfns in pfns.chunk_by(|a, b| a / SUPERPAGE == b / SUPERPAGE) {
            let block = pfns.first().and_then(|first| self.blocks.get(&(first / SUPERPAGE)));
            missing.extend(pfns.iter().filter(|&&pfn| {
                let (word, bit) = position(pfn);
                block.and_then(|block| block.get(word)).is_none_or(|word| word & bit == 0)
            }));
        }
        if !missing.is_sorted() {
            missing.sort_unstable();
        }
        missing.dedup();
    }
}

/// A part of a list of missing pages, by its indices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    /// 512 pages that make up 2 MiB.
    Superpage(Range<usize>),
    /// Pages one by one, at most 1,024.
    Pages(Range<usize>),
}

/// The next part of `missing` (ascending, each once) from the index `from` on.
pub(super) fn next_piece(missing: &[Pfn], from: usize) -> Option<Piece> {
    let rest = missing.get(from..).filter(|rest| !rest.is_empty())?;
    let superpage = SUPERPAGE as usize;
    // In an ascending list without repetition, 512 pages whose ends are 511 apart are all there.
    let is_superpage = |index: usize| match (rest.get(index), rest.get(index + superpage - 1)) {
        (Some(first), Some(last)) => first.is_multiple_of(SUPERPAGE) && last - first == SUPERPAGE - 1,
        _ => false,
    };
    if is_superpage(0) {
        return Some(Piece::Superpage(from..from + superpage));
    }
    let most = rest.len().min(MOST);
    let pages = (1..most).find(|&index| is_superpage(index)).unwrap_or(most);
    Some(Piece::Pages(from..from + pages))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn pieces(missing: &[Pfn]) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut from = 0;
        while let Some(piece) = next_piece(missing, from) {
            let (Piece::Superpage(range) | Piece::Pages(range)) = piece.clone();
            assert_eq!(range.start, from);
            from = range.end;
            pieces.push(piece);
        }
        assert_eq!(from, missing.len());
        pieces
    }

    #[test]
    fn whole_aligned_runs_are_superpages() {
        let all: Vec<Pfn> = (0..1024).collect();
        assert_eq!(pieces(&all), [Piece::Superpage(0..512), Piece::Superpage(512..1024)]);

        let shifted: Vec<Pfn> = (100..1124).collect();
        assert_eq!(pieces(&shifted), [Piece::Pages(0..412), Piece::Superpage(412..924), Piece::Pages(924..1024)]);

        let holed: Vec<Pfn> = (0..1024).filter(|&pfn| pfn != 700).collect();
        assert_eq!(pieces(&holed), [Piece::Superpage(0..512), Piece::Pages(512..1023)]);

        let scattered: Vec<Pfn> = (0..3000).map(|n| n * 3).collect();
        assert_eq!(pieces(&scattered), [Piece::Pages(0..1024), Piece::Pages(1024..2048), Piece::Pages(2048..3000)]);

        assert!(pieces(&[]).is_empty());
    }

    #[test]
    fn what_is_populated_already_is_not_asked_for_again_nor_covered_by_a_superpage() {
        let mut pages = PopulatedPages::default();
        pages.insert(&[600]);
        let mut missing = Vec::new();
        pages.missing(&(0..1024).collect::<Vec<_>>(), &mut missing);
        assert_eq!(missing.len(), 1023);
        assert_eq!(pieces(&missing), [Piece::Superpage(0..512), Piece::Pages(512..1023)]);
    }

    #[test]
    fn one_page_at_the_limit_costs_one_block() {
        let mut pages = PopulatedPages::default();
        pages.insert(&[PFN_LIMIT - 1, 0]);
        assert_eq!(pages.blocks.len(), 2);
    }

    proptest! {
        #[test]
        fn missing_is_the_difference_in_order(
            have in proptest::collection::vec(0u64..3000, 0..200),
            want in proptest::collection::vec(0u64..3000, 0..200),
        ) {
            let mut pages = PopulatedPages::default();
            pages.insert(&have);
            let mut missing = vec![77];
            pages.missing(&want, &mut missing);
            let have: BTreeSet<u64> = have.into_iter().collect();
            let expected: BTreeSet<u64> = want.into_iter().filter(|pfn| !have.contains(pfn)).collect();
            prop_assert!(missing.iter().eq(&expected));
        }

        #[test]
        fn every_superpage_is_whole_and_every_whole_one_is_found(
            holes in proptest::collection::btree_set(0u64..4096, 0..4),
            start in 0u64..600,
            length in 0u64..3500,
        ) {
            let missing: Vec<u64> = (start..start + length).filter(|pfn| !holes.contains(pfn)).collect();
            let found: Vec<u64> = pieces(&missing).into_iter().filter_map(|piece| match piece {
                Piece::Superpage(range) => {
                    let pages = &missing[range];
                    assert!(pages.len() == 512 && pages.is_sorted() && pages[0].is_multiple_of(512) && pages[511] == pages[0] + 511);
                    Some(pages[0])
                }
                Piece::Pages(range) => {
                    assert!(range.len() <= 1024);
                    None
                }
            }).collect();
            let set: BTreeSet<u64> = missing.iter().copied().collect();
            let whole: Vec<u64> =
                (0..9).map(|n| n * 512).filter(|&first| (first..first + 512).all(|pfn| set.contains(&pfn))).collect();
            prop_assert_eq!(found, whole);
        }
    }
}
