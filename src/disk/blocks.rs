//! Sets of a disk's blocks.
#![forbid(unsafe_code)]

use std::ops::RangeInclusive;

/// Bytes of a block: what is sent again is sent in these.
pub(super) const BLOCK: u64 = 64 << 10;

/// The blocks that a range of bytes touches; none where it is empty.
pub(super) fn touched(offset: u64, length: u64) -> RangeInclusive<u64> {
    match length.checked_sub(1) {
        Some(rest) => offset / BLOCK..=offset.saturating_add(rest) / BLOCK,
        None => RangeInclusive::new(1, 0),
    }
}

/// A set of blocks: a bit for each, an eighth of a byte for 64 KiB of disk.
#[derive(Debug, Clone)]
pub(super) struct Blocks {
    words: Vec<u64>,
    count: u64,
    blocks: u64,
}

impl Blocks {
    /// None of the blocks of a disk of `size` bytes.
    pub(super) fn none(size: u64) -> Self {
        let blocks = size.div_ceil(BLOCK);
        let words = usize::try_from(blocks.div_ceil(64)).unwrap_or(usize::MAX);
        Blocks { words: vec![0; words], count: 0, blocks }
    }

    /// How many are in the set.
    pub(super) const fn count(&self) -> u64 {
        self.count
    }

    /// How many the disk has.
    pub(super) const fn of(&self) -> u64 {
        self.blocks
    }

    /// Adds one. Those behind the end of the disk are not there to be added.
    pub(super) fn add(&mut self, block: u64) {
        if block < self.blocks
            && let Some(word) = self.word(block)
        {
            let bit = 1 << (block % 64);
            let new = *word & bit == 0;
            *word |= bit;
            self.count += u64::from(new);
        }
    }

    /// Takes one out.
    pub(super) fn remove(&mut self, block: u64) {
        if let Some(word) = self.word(block) {
            let bit = 1 << (block % 64);
            let old = *word & bit != 0;
            *word &= !bit;
            self.count -= u64::from(old);
        }
    }

    /// Adds all.
    pub(super) fn fill(&mut self) {
        (0..self.blocks).for_each(|block| self.add(block));
    }

    /// The first of the set at or behind `from`.
    pub(super) fn next(&self, from: u64) -> Option<u64> {
        let first = usize::try_from(from / 64).ok()?;
        let mut mask = u64::MAX << (from % 64);
        for (index, word) in self.words.iter().enumerate().skip(first) {
            let found = word & mask;
            if found != 0 {
                return Some(index as u64 * 64 + u64::from(found.trailing_zeros()));
            }
            mask = u64::MAX;
        }
        None
    }

    fn word(&mut self, block: u64) -> Option<&mut u64> {
        self.words.get_mut(usize::try_from(block / 64).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_touches_the_blocks_it_lies_in() {
        assert_eq!(touched(0, 1).collect::<Vec<_>>(), [0]);
        assert_eq!(touched(BLOCK - 1, 2).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(touched(BLOCK, BLOCK).collect::<Vec<_>>(), [1]);
        assert_eq!(touched(BLOCK, 0).count(), 0);
        assert_eq!(touched(u64::MAX, u64::MAX).count(), 1);
    }

    #[test]
    fn blocks_are_counted_found_and_bounded() {
        let mut blocks = Blocks::none(130 * BLOCK + 1);
        assert_eq!((blocks.of(), blocks.count(), blocks.next(0)), (131, 0, None));
        for block in [0, 63, 64, 130, 131, 5_000, 64] {
            blocks.add(block);
        }
        assert_eq!(blocks.count(), 4);
        assert_eq!(
            (blocks.next(1), blocks.next(64), blocks.next(65), blocks.next(131)),
            (Some(63), Some(64), Some(130), None)
        );
        blocks.remove(64);
        blocks.remove(64);
        blocks.remove(9_999);
        assert_eq!((blocks.count(), blocks.next(64)), (3, Some(130)));
        blocks.fill();
        assert_eq!(blocks.count(), 131);
    }
}
