//! The guest's pseudo-random numbers and checksums. None of it is meant to resist an adversary.

use crate::hypervisor::types::{PAGE_SIZE, Page, Pfn};

/// Bytes of a cache line, the unit of small writes and of the working set's checksum.
pub const LINE_SIZE: usize = 64;

/// Cache lines in a page.
pub const LINES: usize = PAGE_SIZE / LINE_SIZE;

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Spreads a number over 64 bits, one to one (the finaliser of SplitMix64).
pub fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(GOLDEN);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The checksum of one cache line at its place; 0 for a line of zeros, so that untouched memory need not be read.
pub fn line_sum(pfn: Pfn, line: usize, bytes: &[u8]) -> u64 {
    let mut hash = 0u64;
    let mut any = 0u64;
    let mut words = bytes.chunks_exact(8);
    for word in &mut words {
        let word = word.try_into().map_or(0, u64::from_le_bytes);
        any |= word;
        hash = (hash ^ word).wrapping_mul(GOLDEN).rotate_left(29);
    }
    if any == 0 { 0 } else { mix(hash ^ mix(pfn.wrapping_mul(LINES as u64).wrapping_add(line as u64))) }
}

/// The checksum of a page at its place: its lines' sums added up.
pub fn page_sum(pfn: Pfn, page: &Page) -> u64 {
    let lines = page.chunks_exact(LINE_SIZE).enumerate();
    lines.map(|(line, bytes)| line_sum(pfn, line, bytes)).fold(0, u64::wrapping_add)
}

/// Fills bytes with a sequence of numbers that follows from `start`.
pub fn fill(bytes: &mut [u8], start: u64) {
    for (value, word) in (start..).zip(bytes.chunks_exact_mut(8)) {
        word.copy_from_slice(&mix(value).to_le_bytes());
    }
}

/// xoshiro256**, whose four words of state fit four registers of a vCPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rng(pub [u64; 4]);

impl Rng {
    /// A generator whose sequence follows from `seed`.
    pub fn new(seed: u64) -> Self {
        let a = mix(seed);
        let b = mix(a);
        let c = mix(b);
        Rng([a, b, c, mix(c) | 1])
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        let [a, b, c, d] = self.0;
        let result = b.wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let (c, d) = (c ^ a, d ^ b);
        self.0 = [a ^ d, b ^ c, c ^ (b << 17), d.rotate_left(45)];
        result
    }

    /// The next number below `bound`; 0 for a bound of 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_xoshiro256_starstar() {
        // The first outputs for the state 1, 2, 3, 4, worked out from the generator's published definition.
        let mut rng = Rng([1, 2, 3, 4]);
        let first: Vec<u64> = (0..4).map(|_| rng.next_u64()).collect();
        assert_eq!(first, [11520, 0, 1_509_978_240, 1_215_971_899_390_074_240]);
    }

    #[test]
    fn numbers_stay_below_their_bound_and_reach_all_of_it() {
        let mut rng = Rng::new(3);
        let mut seen = [false; 5];
        for _ in 0..200 {
            seen[rng.below(5) as usize] = true;
        }
        assert_eq!(seen, [true; 5]);
        assert_eq!(rng.below(0), 0);
    }

    #[test]
    fn line_sums_depend_on_place_and_contents_and_zero_is_zero() {
        let line = [7; LINE_SIZE];
        assert_eq!(line_sum(1, 2, &[0; LINE_SIZE]), 0);
        assert_ne!(line_sum(1, 2, &line), line_sum(1, 3, &line));
        assert_ne!(line_sum(1, 2, &line), line_sum(2, 2, &line));
        let mut page = [0; PAGE_SIZE];
        page[64..128].copy_from_slice(&line);
        assert_eq!(page_sum(1, &page), line_sum(1, 1, &line));
    }
}
