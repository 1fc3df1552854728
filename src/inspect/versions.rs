//! What each page held when it was last sent: a hash for each page frame, in bounded memory.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// Page frames of a block.
const BLOCK: u64 = 512;
/// Most blocks: 96 MiB of hashes, for 48 GiB of a guest's memory in one piece.
pub const MAX_BLOCKS: usize = 24_576;
/// Page frames that are known at most, if they are in whole blocks.
pub const MAX_PFNS: u64 = MAX_BLOCKS as u64 * BLOCK;

/// What a page was before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// Never sent.
    New,
    /// Sent once or more.
    Sent {
        /// With these contents.
        same: bool,
        /// More than once.
        often: bool,
    },
    /// Nobody knows: there were too many before it.
    Unknown,
}

/// Hashes of pages by page frame. Memory: 8 bytes a page frame, in blocks of 512, and no more than [`MAX_BLOCKS`] of those.
#[derive(Debug, Default)]
pub struct Versions {
    /// 0 for a page that was never sent; else a hash whose lowest bit says whether it was sent again.
    blocks: HashMap<u64, Box<[u64; BLOCK as usize]>>,
    distinct: u64,
}

impl Versions {
    /// Takes a page's newest contents, as a hash of 64 bits, of which 62 count.
    pub fn put(&mut self, pfn: u64, hash: u64) -> Before {
        let full = self.blocks.len() >= MAX_BLOCKS;
        let block = match self.blocks.entry(pfn / BLOCK) {
            Entry::Occupied(block) => block.into_mut(),
            Entry::Vacant(_) if full => return Before::Unknown,
            Entry::Vacant(place) => place.insert(Box::new([0; BLOCK as usize])),
        };
        let Some(known) = block.get_mut((pfn % BLOCK) as usize) else { return Before::Unknown };
        // Never 0, and the lowest bit free.
        let hash = hash & !0b11 | 0b10;
        if *known == 0 {
            *known = hash;
            self.distinct += 1;
            return Before::New;
        }
        let before = Before::Sent { same: *known & !1 == hash, often: *known & 1 == 1 };
        *known = hash | 1;
        before
    }

    /// Different page frames that are known.
    pub const fn distinct(&self) -> u64 {
        self.distinct
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_new_then_the_same_or_another() {
        let mut versions = Versions::default();
        assert_eq!(versions.put(7, 0), Before::New);
        assert_eq!(versions.put(7, 0), Before::Sent { same: true, often: false });
        assert_eq!(versions.put(7, 4), Before::Sent { same: false, often: true });
        assert_eq!(versions.put(7, 4), Before::Sent { same: true, often: true });
        assert_eq!(versions.put(u64::MAX, u64::MAX), Before::New);
        assert_eq!(versions.put(u64::MAX, 0), Before::Sent { same: false, often: false });
        assert_eq!(versions.distinct(), 2);
    }

    #[test]
    fn pages_beyond_the_bound_are_not_known() {
        let mut versions = Versions::default();
        for block in 0..MAX_BLOCKS as u64 {
            assert_eq!(versions.put(block * BLOCK, 8), Before::New);
        }
        assert_eq!(versions.put(MAX_PFNS, 8), Before::Unknown);
        assert_eq!(versions.put(1, 8), Before::New, "a block that is there already");
        assert_eq!(versions.distinct(), MAX_BLOCKS as u64 + 1);
    }
}
