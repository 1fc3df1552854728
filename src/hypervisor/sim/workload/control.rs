//! The workload's control page: what it is to do and how far it has come, all of it in guest memory.
//!
//! Words of 64 bits, little-endian, in the page [`CONTROL_PFN`]:
//!
//! | word | field |
//! |---|---|
//! | 0 | magic, the bytes `XRworkld` |
//! | 1 to 14 | seed, vCPUs, steps done, working set's checksum, working set, hot pages, share of hot writes, writes a step, share of whole pages, packet interval, packet size, disk interval, packets sent, packets answered |
//! | 15 to 20 | three ranges of usable memory: first pfn, pages |
//! | 21 to 23 | random numbers' interval, whether answers are steady, their sum |
//! | 24, 25 | pages of the balloon, steps from one event of it to the next |
//! | 31 | checksum of words 0 to 25 and of the vCPUs' counters |
//! | 64 on | steps run by each vCPU |

use std::ops::Range;

use byteorder::{ByteOrder, LittleEndian};

use super::hash::mix;
use crate::hypervisor::error::GuestDamage;
use crate::hypervisor::sim::config::{MAX_VCPUS, RESERVED_PFNS, SimConfig};
use crate::hypervisor::sim::layout::Layout;
use crate::hypervisor::sim::memory::GuestMemory;
use crate::hypervisor::types::{Page, Pfn};

/// Where the control page is.
pub const CONTROL_PFN: Pfn = 1;

/// Where the card puts an inbound packet: u32 length, then the bytes.
pub const RECEIVE_PFN: Pfn = 2;

const MAGIC: u64 = u64::from_le_bytes(*b"XRworkld");
const NR_RANGES: usize = 3;
const CHECKSUM: usize = 31;
const COUNTERS: usize = 64;

/// The control page, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    /// What the pseudo-random numbers started from.
    pub seed: u64,
    /// vCPUs that take turns.
    pub nr_vcpus: u64,
    /// Steps done.
    pub step: u64,
    /// Checksum of the working set.
    pub sum: u64,
    /// Pages that are written to.
    pub working_set: u64,
    /// The first of them, written more often.
    pub hot_pages: u64,
    /// Of 1,000 writes how many go there.
    pub hot_permille: u64,
    /// Writes in each step.
    pub writes_per_step: u64,
    /// Of 1,000 writes how many fill a page.
    pub whole_page_permille: u64,
    /// Steps from packet to packet, 0 for none.
    pub packets_every: u64,
    /// Bytes of a packet.
    pub packet_bytes: u64,
    /// Steps from disk write to disk write, 0 for none.
    pub disk_every: u64,
    /// Packets sent, which is the next one's sequence number.
    pub sent: u64,
    /// Inbound packets answered.
    pub answered: u64,
    /// Usable memory; the working set is its beginning.
    pub ranges: [(Pfn, u64); NR_RANGES],
    /// Steps from random number to random number, 0 for none.
    pub noise_every: u64,
    /// Answers do not tell when they were given.
    pub steady_answers: bool,
    /// Sum over what was answered, and over the random numbers.
    pub chain: u64,
    /// Pages at the end of usable memory that are given back and taken again, 0 for none.
    pub balloon_pages: u64,
    /// Steps from one such event to the next.
    pub balloon_every: u64,
    /// Steps run by each vCPU.
    pub counters: Vec<u64>,
}

impl Control {
    /// The control page of a guest that has not run yet.
    pub(in crate::hypervisor::sim) fn new(config: &SimConfig, layout: &Layout) -> Self {
        let mut ranges = [(0, 0); NR_RANGES];
        for (slot, range) in ranges.iter_mut().zip(usable(&layout.ram)) {
            *slot = (range.start, range.end - range.start);
        }
        Control {
            seed: config.seed,
            nr_vcpus: config.vcpus.into(),
            step: 0,
            sum: 0,
            working_set: config.working_set,
            hot_pages: config.hot_pages,
            hot_permille: config.hot_permille.into(),
            writes_per_step: config.writes_per_step.into(),
            whole_page_permille: config.whole_page_permille.into(),
            packets_every: config.packets_every.into(),
            packet_bytes: config.packet_bytes.into(),
            disk_every: config.disk_every.into(),
            sent: 0,
            answered: 0,
            noise_every: config.noise_every.into(),
            steady_answers: config.steady_answers,
            chain: 0,
            balloon_pages: config.balloon_pages.into(),
            balloon_every: config.balloon_every.into(),
            ranges,
            counters: vec![0; config.vcpus as usize],
        }
    }

    /// Reads the control page of a guest.
    pub(in crate::hypervisor::sim) fn load(memory: &GuestMemory) -> Result<Self, GuestDamage> {
        let page = memory.page(CONTROL_PFN).ok_or(GuestDamage::NoWorkload { found: 0 })?;
        let word = |index: usize| page.get(index * 8..index * 8 + 8).map_or(0, LittleEndian::read_u64);
        if word(0) != MAGIC {
            return Err(GuestDamage::NoWorkload { found: word(0) });
        }
        let nr_vcpus = word(2);
        let counters = (0..nr_vcpus.min(MAX_VCPUS.into()) as usize).map(|vcpu| word(COUNTERS + vcpu)).collect();
        let mut ranges = [(0, 0); NR_RANGES];
        for (slot, at) in ranges.iter_mut().zip((15..).step_by(2)) {
            *slot = (word(at), word(at + 1));
        }
        let control = Control {
            seed: word(1),
            nr_vcpus,
            step: word(3),
            sum: word(4),
            working_set: word(5),
            hot_pages: word(6),
            hot_permille: word(7),
            writes_per_step: word(8),
            whole_page_permille: word(9),
            packets_every: word(10),
            packet_bytes: word(11),
            disk_every: word(12),
            sent: word(13),
            answered: word(14),
            noise_every: word(21),
            steady_answers: word(22) != 0,
            chain: word(23),
            balloon_pages: word(24),
            balloon_every: word(25),
            ranges,
            counters,
        };
        let (expected, found) = (control.checksum(), word(CHECKSUM));
        if found != expected || !(1..=u64::from(MAX_VCPUS)).contains(&nr_vcpus) {
            return Err(GuestDamage::ControlPage { expected, found });
        }
        Ok(control)
    }

    /// Writes the control page.
    pub(in crate::hypervisor::sim) fn store(&self, page: &mut Page) {
        let mut put = |index: usize, value: u64| {
            if let Some(bytes) = page.get_mut(index * 8..index * 8 + 8) {
                LittleEndian::write_u64(bytes, value);
            }
        };
        for (index, value) in self.words().into_iter().enumerate() {
            put(index, value);
        }
        for (vcpu, &counter) in self.counters.iter().enumerate() {
            put(COUNTERS + vcpu, counter);
        }
        put(CHECKSUM, self.checksum());
    }

    /// The pfn of a page of the working set.
    pub fn working_pfn(&self, index: u64) -> Option<Pfn> {
        let mut left = index;
        for &(first, pages) in &self.ranges {
            if left < pages {
                return first.checked_add(left);
            }
            left -= pages;
        }
        None
    }

    fn words(&self) -> [u64; 26] {
        let [(a, m), (b, n), (c, o)] = self.ranges;
        [
            MAGIC,
            self.seed,
            self.nr_vcpus,
            self.step,
            self.sum,
            self.working_set,
            self.hot_pages,
            self.hot_permille,
            self.writes_per_step,
            self.whole_page_permille,
            self.packets_every,
            self.packet_bytes,
            self.disk_every,
            self.sent,
            self.answered,
            a,
            m,
            b,
            n,
            c,
            o,
            self.noise_every,
            self.steady_answers.into(),
            self.chain,
            self.balloon_pages,
            self.balloon_every,
        ]
    }

    fn checksum(&self) -> u64 {
        self.words().iter().chain(&self.counters).fold(0, |sum, &word| mix(sum ^ word))
    }
}

/// Ordinary memory without the pages that the workload keeps for itself.
fn usable(ram: &[Range<Pfn>]) -> impl Iterator<Item = Range<Pfn>> {
    ram.iter().map(|range| range.start.max(RESERVED_PFNS)..range.end).filter(|range| range.start < range.end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypervisor::sim::layout::MemoryLayout;

    fn control() -> Control {
        let config = SimConfig { vcpus: 3, ..SimConfig::default() };
        let mut control = Control::new(&config, &Layout::new(MemoryLayout::Pc, config.memory));
        control.counters = vec![5, 6, 7];
        control.step = 18;
        control
    }

    fn memory(control: &Control) -> GuestMemory {
        let mut memory = GuestMemory::new(16, 4).unwrap();
        memory.populate(CONTROL_PFN).unwrap();
        control.store(memory.toolstack_page(CONTROL_PFN).unwrap());
        memory
    }

    #[test]
    fn the_page_round_trips() {
        assert_eq!(Control::load(&memory(&control())), Ok(control()));
    }

    #[test]
    fn every_damaged_byte_that_counts_is_noticed() {
        let mut memory = memory(&control());
        for byte in (0..26 * 8).chain(CHECKSUM * 8..CHECKSUM * 8 + 8).chain(COUNTERS * 8..(COUNTERS + 3) * 8) {
            memory.toolstack_page(CONTROL_PFN).unwrap()[byte] ^= 0x80;
            let damage = Control::load(&memory).unwrap_err();
            let expected = if byte < 8 { "NoWorkload" } else { "ControlPage" };
            assert!(format!("{damage:?}").starts_with(expected), "byte {byte}: {damage:?}");
            memory.toolstack_page(CONTROL_PFN).unwrap()[byte] ^= 0x80;
        }
        assert_eq!(Control::load(&memory), Ok(control()));
    }

    #[test]
    fn the_working_set_leaves_out_reserved_pages_and_the_vga_hole() {
        let control = control();
        assert_eq!(control.working_pfn(0), Some(RESERVED_PFNS));
        assert_eq!(control.working_pfn(0xa0 - RESERVED_PFNS - 1), Some(0x9f));
        assert_eq!(control.working_pfn(0xa0 - RESERVED_PFNS), Some(0xc0));
        assert_eq!(control.working_pfn(4096 - RESERVED_PFNS), None);
    }
}
