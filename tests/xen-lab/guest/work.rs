//! What the guest does to its memory: a pure function of its counter, so that whoever reads its console can tell from the counter alone
//! what the memory must hold.

/// Bytes of a page.
pub const PAGE: usize = 4096;
/// Words of a page.
pub const WORDS: usize = PAGE / 8;

/// How much memory there is, and how fast it changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Pages of the region.
    pub pages: usize,
    /// Pages that a step writes.
    pub step: usize,
}

impl Shape {
    /// The region's page that step `count` writes as its `nth`; steps go round the region.
    pub fn written(self, count: u64, nth: usize) -> usize {
        ((count as usize).wrapping_mul(self.step) + nth) % self.pages
    }

    /// The step that wrote `page` last when the counter is at `count`; 0 where none has.
    pub fn writer(self, count: u64, page: usize) -> u64 {
        let (pages, step) = (self.pages as u64, self.step as u64);
        // The latest position up to the end of step `count` that falls on this page.
        let last = count * step + step - 1;
        let back = (last % pages + pages - page as u64) % pages;
        match last.checked_sub(back) {
            Some(position) if position >= step => position / step,
            _ => 0,
        }
    }
}

/// Word `index` of `page` as step `count` writes it.
pub fn word(page: usize, count: u64, index: usize) -> u64 {
    let mut x = (page as u64) << 40 ^ count << 12 ^ index as u64;
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Adds a word to a checksum. Order counts.
pub fn add(sum: u64, word: u64) -> u64 {
    (sum.rotate_left(7) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The checksum that the region must have when the counter is at `count`.
#[allow(dead_code)]
pub fn expected(shape: Shape, count: u64) -> u64 {
    (0..shape.pages)
        .flat_map(|page| {
            let writer = shape.writer(count, page);
            (0..WORDS).map(move |index| word(page, writer, index))
        })
        .fold(0, add)
}
