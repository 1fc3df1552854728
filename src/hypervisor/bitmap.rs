//! The log-dirty bitmap: one bit a pfn, in words of 64 bits as the hypervisor hands it out.
#![forbid(unsafe_code)]

use super::types::Pfn;

/// A set of pfns below a fixed bound, kept as a bitmap.
///
/// Bits beyond the bound are always clear, so words can be counted, merged and compared whole. Pfns at or beyond the bound
/// are refused by [`DirtyBitmap::set`] and absent from [`DirtyBitmap::contains`]; nothing here panics on them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DirtyBitmap {
    words: Vec<u64>,
    nr_pfns: u64,
}

/// The bitmap has another bound than the one asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a dirty bitmap for {found} pfns where one for {expected} is needed")]
pub struct BoundMismatch {
    /// The bound that was needed.
    pub expected: u64,
    /// The bound that was found.
    pub found: u64,
}

impl DirtyBitmap {
    /// A bitmap for the pfns `0..nr_pfns`, all clear.
    pub fn new(nr_pfns: u64) -> Self {
        let words = usize::try_from(nr_pfns.div_ceil(64)).unwrap_or(usize::MAX);
        DirtyBitmap { words: vec![0; words], nr_pfns }
    }

    /// A bitmap for the pfns `0..nr_pfns`, all set: what a saver starts its first round with.
    pub fn full(nr_pfns: u64) -> Self {
        let mut bitmap = DirtyBitmap::new(nr_pfns);
        bitmap.set_all();
        bitmap
    }

    /// The bound: no pfn at or beyond it can be in the set.
    pub fn nr_pfns(&self) -> u64 {
        self.nr_pfns
    }

    /// The words, lowest pfn in the lowest bit of the first.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Gives the bitmap another bound. Bits below both bounds stay; new ones are clear.
    pub fn resize(&mut self, nr_pfns: u64) {
        self.words.resize(usize::try_from(nr_pfns.div_ceil(64)).unwrap_or(usize::MAX), 0);
        self.nr_pfns = nr_pfns;
        self.trim();
    }

    /// Takes over words filled by the hypervisor. Missing words count as clear, surplus words and bits are dropped.
    pub fn copy_from_words(&mut self, words: &[u64]) {
        let mut source = words.iter().copied();
        for word in &mut self.words {
            *word = source.next().unwrap_or(0);
        }
        self.trim();
    }

    /// Adds a pfn. Returns whether it is new; a pfn at or beyond the bound is not taken and gives false.
    pub fn set(&mut self, pfn: Pfn) -> bool {
        let Some((word, mask)) = self.position(pfn) else {
            return false;
        };
        match self.words.get_mut(word) {
            Some(word) if *word & mask == 0 => {
                *word |= mask;
                true
            }
            _ => false,
        }
    }

    /// Removes a pfn. Returns whether it was there.
    pub fn clear(&mut self, pfn: Pfn) -> bool {
        let Some((word, mask)) = self.position(pfn) else {
            return false;
        };
        match self.words.get_mut(word) {
            Some(word) if *word & mask != 0 => {
                *word &= !mask;
                true
            }
            _ => false,
        }
    }

    /// Whether the set has the pfn.
    pub fn contains(&self, pfn: Pfn) -> bool {
        self.position(pfn).is_some_and(|(word, mask)| self.words.get(word).is_some_and(|w| w & mask != 0))
    }

    /// Removes every pfn.
    pub fn clear_all(&mut self) {
        self.words.fill(0);
    }

    /// Adds every pfn below the bound.
    pub fn set_all(&mut self) {
        self.words.fill(u64::MAX);
        self.trim();
    }

    /// How many pfns the set has.
    pub fn count(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Whether the set is empty. Cheaper than counting where it is not.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|&word| word == 0)
    }

    /// Adds every pfn of another set.
    pub fn merge(&mut self, other: &DirtyBitmap) -> Result<(), BoundMismatch> {
        if self.nr_pfns != other.nr_pfns {
            return Err(BoundMismatch { expected: self.nr_pfns, found: other.nr_pfns });
        }
        for (mine, theirs) in self.words.iter_mut().zip(&other.words) {
            *mine |= theirs;
        }
        Ok(())
    }

    /// Exchanges contents with another bitmap of the same bound: how a clean hands the set over without copying it.
    pub fn swap(&mut self, other: &mut DirtyBitmap) -> Result<(), BoundMismatch> {
        if self.nr_pfns != other.nr_pfns {
            return Err(BoundMismatch { expected: self.nr_pfns, found: other.nr_pfns });
        }
        std::mem::swap(&mut self.words, &mut other.words);
        Ok(())
    }

    /// The pfns of the set, ascending. Clear words are passed over whole.
    pub fn iter(&self) -> Iter<'_> {
        Iter { words: self.words.iter(), bits: 0, base: 0, next_base: 0 }
    }

    /// Fills `batch` (emptied first) with the next pfns of the set at or after `from`, at most `limit` of them. Returns where
    /// to go on, or `None` when the set has no more: a saver's walk, batch by batch, without holding a borrow meanwhile.
    pub fn next_batch(&self, from: Pfn, limit: usize, batch: &mut Vec<Pfn>) -> Option<Pfn> {
        batch.clear();
        let mut index = usize::try_from(from / 64).ok()?;
        let mut bits = self.words.get(index).copied()? & (u64::MAX << (from % 64));
        loop {
            while bits != 0 {
                let pfn = index as u64 * 64 + u64::from(bits.trailing_zeros());
                if batch.len() == limit {
                    return Some(pfn);
                }
                batch.push(pfn);
                bits &= bits - 1;
            }
            let rest = self.words.get(index + 1..)?;
            index += 1 + rest.iter().position(|&word| word != 0)?;
            bits = self.words.get(index).copied()?;
        }
    }

    fn position(&self, pfn: Pfn) -> Option<(usize, u64)> {
        if pfn >= self.nr_pfns {
            return None;
        }
        Some((usize::try_from(pfn / 64).ok()?, 1 << (pfn % 64)))
    }

    fn trim(&mut self) {
        let used = self.nr_pfns % 64;
        if used != 0
            && let Some(last) = self.words.last_mut()
        {
            *last &= (1 << used) - 1;
        }
    }
}

impl<'a> IntoIterator for &'a DirtyBitmap {
    type Item = Pfn;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

/// The pfns of a [`DirtyBitmap`], ascending.
#[derive(Debug, Clone)]
pub struct Iter<'a> {
    words: std::slice::Iter<'a, u64>,
    bits: u64,
    base: u64,
    next_base: u64,
}

impl Iterator for Iter<'_> {
    type Item = Pfn;

    fn next(&mut self) -> Option<Pfn> {
        while self.bits == 0 {
            self.bits = *self.words.next()?;
            self.base = self.next_base;
            self.next_base += 64;
        }
        let bit = self.bits.trailing_zeros();
        self.bits &= self.bits - 1;
        Some(self.base + u64::from(bit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_full_bitmap_has_no_bits_beyond_its_bound() {
        for nr_pfns in [0, 1, 63, 64, 65, 128, 1000] {
            let bitmap = DirtyBitmap::full(nr_pfns);
            assert_eq!(bitmap.count(), nr_pfns);
            assert_eq!(bitmap.iter().last(), nr_pfns.checked_sub(1));
        }
    }

    #[test]
    fn pfns_beyond_the_bound_are_not_taken() {
        let mut bitmap = DirtyBitmap::new(70);
        assert!(!bitmap.set(70));
        assert!(!bitmap.set(u64::MAX));
        assert!(!bitmap.clear(70));
        assert!(bitmap.is_empty());
        assert!(bitmap.set(69));
        assert!(!bitmap.set(69));
        assert!(bitmap.clear(69));
        assert!(!bitmap.clear(69));
    }

    #[test]
    fn merging_needs_equal_bounds() {
        let mut bitmap = DirtyBitmap::new(64);
        assert_eq!(bitmap.merge(&DirtyBitmap::new(65)), Err(BoundMismatch { expected: 64, found: 65 }));
        assert_eq!(bitmap.swap(&mut DirtyBitmap::new(1)), Err(BoundMismatch { expected: 64, found: 1 }));
    }

    #[test]
    fn words_of_the_hypervisor_are_cut_to_the_bound() {
        let mut bitmap = DirtyBitmap::full(130);
        bitmap.copy_from_words(&[0, u64::MAX, u64::MAX, u64::MAX]);
        assert_eq!(bitmap.count(), 66);
        bitmap.copy_from_words(&[1]);
        assert_eq!(bitmap.iter().collect::<Vec<_>>(), [0]);
    }

    #[test]
    fn resizing_keeps_the_pfns_below_both_bounds() {
        let mut bitmap = DirtyBitmap::full(100);
        bitmap.resize(10);
        bitmap.resize(200);
        assert_eq!(bitmap.count(), 10);
        assert!(bitmap.set(199));
    }

    fn sets() -> impl Strategy<Value = (u64, BTreeSet<u64>, BTreeSet<u64>)> {
        (1u64..700).prop_flat_map(|n| {
            let set = || proptest::collection::btree_set(0..n, 0..80);
            (Just(n), set(), set())
        })
    }

    fn from_set(nr_pfns: u64, set: &BTreeSet<u64>) -> DirtyBitmap {
        let mut bitmap = DirtyBitmap::new(nr_pfns);
        for &pfn in set {
            assert!(bitmap.set(pfn));
        }
        bitmap
    }

    proptest! {
        #[test]
        fn behaves_as_a_set((nr_pfns, a, b) in sets()) {
            let mut bitmap = from_set(nr_pfns, &a);
            prop_assert_eq!(bitmap.count(), a.len() as u64);
            prop_assert_eq!(bitmap.is_empty(), a.is_empty());
            prop_assert!(bitmap.iter().eq(a.iter().copied()));
            bitmap.merge(&from_set(nr_pfns, &b)).unwrap();
            prop_assert!(bitmap.iter().eq(a.union(&b).copied()));
            for pfn in &a {
                bitmap.clear(*pfn);
            }
            prop_assert!(bitmap.iter().eq(b.difference(&a).copied()));
        }

        #[test]
        fn batches_give_what_the_iterator_gives((nr_pfns, a, _) in sets(), limit in 1usize..20) {
            let bitmap = from_set(nr_pfns, &a);
            let (mut all, mut batch, mut from) = (Vec::new(), Vec::new(), Some(0));
            while let Some(start) = from {
                from = bitmap.next_batch(start, limit, &mut batch);
                prop_assert!(batch.len() <= limit);
                prop_assert!(from.is_none() || batch.len() == limit);
                all.extend_from_slice(&batch);
            }
            prop_assert!(all.iter().copied().eq(a.iter().copied()));
        }

        #[test]
        fn swapping_hands_the_set_over((nr_pfns, a, b) in sets()) {
            let (mut left, mut right) = (from_set(nr_pfns, &a), from_set(nr_pfns, &b));
            left.swap(&mut right).unwrap();
            prop_assert!(left.iter().eq(b.iter().copied()));
            prop_assert!(right.iter().eq(a.iter().copied()));
        }
    }
}
