//! What the guest does.
//!
//! Memory, by pfns: a control page, a page of aliases, start info, the rings, a GDT, data; some pfns have no frame, as a balloon
//! leaves them; at the end the p2m and the page tables. All of it is mapped at one virtual address, the p2m at another, and a third
//! region of one table maps pages as the program likes: the list of what is mapped there stands beside it, so that the guest
//! can see whether its page tables say what it wrote.

use super::config::{P2mKind, PvConfig};
use super::domain::{PvSim, Vcpu};
use crate::decode::pv_words::{self, cr3_frame, frame_cr3, word};
use crate::decode::shared_info::Width;
use crate::hypervisor::error::{Error, GuestDamage, Result};
use crate::hypervisor::pv::{INVALID_MFN, Mfn, PvDomain};
use crate::hypervisor::sim::policy;
use crate::hypervisor::sim::workload::hash::{Rng, fill, mix, page_sum};
use crate::hypervisor::types::{PAGE_SIZE, PageType, Pfn, TscInfo};
use byteorder::{ByteOrder, LittleEndian};

const CONTROL: Pfn = 1;
const ALIASES: Pfn = 2;
const START_INFO: Pfn = 3;
const STORE: Pfn = 4;
const CONSOLE: Pfn = 5;
const GDT: Pfn = 6;
const FIRST_DATA: Pfn = 8;
/// Entries of a page table.
const ENTRIES: u64 = 512;
/// Present, writable, accessed, dirty.
const FLAGS: u64 = 0x63;
/// The control page begins with it.
const MAGIC: u64 = 0x5056_5349_4d31_0001;
/// Words of the control page: magic, steps, generator.
const STEPS: usize = 1;
/// As above.
const GENERATOR: usize = 2;

/// The places of the guest's own tables.
struct Layout {
    /// Frames of the p2m.
    p2m: Vec<Pfn>,
    /// Of a tree: the frames that name them, and the one that names those.
    lists: Vec<Pfn>,
    list_list: Pfn,
    /// First-level tables of all memory, of the aliases, of the p2m.
    memory: Vec<Pfn>,
    alias: Pfn,
    p2m_table: Pfn,
    /// The levels above: one table each, but for one second-level table for each region.
    seconds: [Pfn; 2],
    third: [Pfn; 2],
    root: Pfn,
    /// Where data ends.
    data_end: Pfn,
}

impl Layout {
    fn new(config: &PvConfig) -> Self {
        let per_frame = (PAGE_SIZE / config.width.bytes()) as u64;
        let mut next = config.pages;
        let mut take = |count: u64| {
            next -= count;
            (next..next + count).collect::<Vec<Pfn>>()
        };
        let one = |pfns: Vec<Pfn>| pfns.first().copied().unwrap_or_default();
        let leaves = config.pages.div_ceil(per_frame);
        Layout {
            p2m: take(leaves),
            lists: take(leaves.div_ceil(per_frame)),
            list_list: one(take(1)),
            memory: take(config.pages.div_ceil(ENTRIES)),
            alias: one(take(1)),
            p2m_table: one(take(1)),
            seconds: [one(take(1)), one(take(1))],
            third: [one(take(1)), one(take(1))],
            root: one(take(1)),
            data_end: next,
        }
    }
}

/// Where the three regions are: all memory with the aliases behind it, and the p2m.
const fn regions(width: Width) -> (u64, u64) {
    match width {
        Width::Bits64 => (0xffff_8800_0000_0000, 0xffff_c900_0000_0000),
        Width::Bits32 => (0xc000_0000, 0x4000_0000),
    }
}

impl PvSim {
    /// A guest that runs, before its first step.
    ///
    /// # Errors
    /// A configuration without room for the guest's own tables.
    pub fn create(config: &PvConfig) -> Result<Self> {
        let bad = |field, value, reason| Error::Config { field, value, reason };
        if !(64..=ENTRIES * 400).contains(&config.pages) {
            return Err(bad("pages", config.pages, "not 64 to 204800"));
        }
        if config.budget <= config.pages {
            return Err(bad("budget", config.budget, "not more than the guest's pages"));
        }
        let mut guest = PvSim::empty(config)?;
        guest.width = config.width;
        guest.policy = policy::policy(config.vcpus);
        guest.tsc = TscInfo { mode: 0, khz: 2_400_000, nsec: 12_345, incarnation: 1, reserved: 0 };
        let layout = Layout::new(config);
        let mut p2m = Vec::new();
        for pfn in 0..config.pages {
            // Pfn 0 and every sixteenth page of data have been given away.
            let hole = pfn == 0 || (FIRST_DATA..layout.data_end).contains(&pfn) && pfn % 16 == 9;
            p2m.push(if hole { INVALID_MFN } else { guest.machine.take(Some(pfn)).unwrap_or(INVALID_MFN) });
        }
        let mfn = |pfn: Pfn| p2m.get(pfn as usize).copied().unwrap_or(INVALID_MFN);
        guest.build_tables(&layout, &mfn)?;
        guest.write_p2m(&layout.p2m, &p2m);
        for pfn in FIRST_DATA..layout.data_end {
            if let Some(page) = guest.machine.page_mut(mfn(pfn)) {
                fill(page, mix(config.seed ^ mix(pfn)));
            }
        }
        guest.build_vcpus(&layout, &mfn)?;
        guest.build_control(&mfn);
        guest.build_start_info(&mfn);
        guest.publish(&layout, &mfn);
        guest.paused = false;
        Ok(guest)
    }

    fn build_tables(&mut self, layout: &Layout, mfn: &dyn Fn(Pfn) -> Mfn) -> Result<()> {
        let width = self.width;
        let (memory, p2m) = regions(width);
        let entry = |pfn: Pfn| mfn(pfn) << 12 | FLAGS;
        for (table, first) in layout.memory.iter().zip((0..).step_by(ENTRIES as usize)) {
            for index in 0..ENTRIES {
                let pfn = first + index;
                if pfn < self.config.pages && mfn(pfn) != INVALID_MFN {
                    self.machine.set_entry(mfn(*table), index as usize, entry(pfn));
                }
            }
        }
        for (index, &pfn) in layout.p2m.iter().enumerate() {
            self.machine.set_entry(mfn(layout.p2m_table), index, entry(pfn));
        }
        let [second, p2m_second] = layout.seconds.map(mfn);
        for (index, &table) in layout.memory.iter().chain([&layout.alias]).enumerate() {
            self.machine.set_entry(second, index, entry(table));
        }
        self.machine.set_entry(p2m_second, 0, entry(layout.p2m_table));
        let slot = |address: u64, level: u32| (address >> (12 + 9 * (level - 1)) & 511) as usize;
        let root = mfn(layout.root);
        match width {
            Width::Bits64 => {
                for ((address, third), second) in [memory, p2m].into_iter().zip(layout.third).zip(layout.seconds) {
                    self.machine.set_entry(mfn(third), slot(address, 3), entry(second));
                    self.machine.set_entry(root, slot(address, 4), entry(third));
                }
                self.machine.pin(root, 4, width)
            }
            Width::Bits32 => {
                // The third level has four entries, present and nothing else.
                self.machine.set_entry(root, slot(memory, 3) & 3, mfn(layout.seconds[0]) << 12 | 1);
                self.machine.set_entry(root, slot(p2m, 3) & 3, mfn(layout.seconds[1]) << 12 | 1);
                self.machine.pin(root, 3, width)
            }
        }
    }

    fn write_p2m(&mut self, frames: &[Pfn], p2m: &[Mfn]) {
        let per_frame = PAGE_SIZE / self.width.bytes();
        for (&frame, entries) in frames.iter().zip(p2m.chunks(per_frame)) {
            let mfn = p2m.get(frame as usize).copied().unwrap_or(INVALID_MFN);
            let Some(page) = self.machine.page_mut(mfn) else { continue };
            page.fill(0xff);
            for (index, &entry) in entries.iter().enumerate() {
                word().nth(index).set(page, self.width, entry);
            }
        }
    }

    fn build_vcpus(&mut self, layout: &Layout, mfn: &dyn Fn(Pfn) -> Mfn) -> Result<()> {
        let width = self.width;
        let length = if width == Width::Bits64 { pv_words::CONTEXT_64 } else { pv_words::CONTEXT_32 };
        let cr3 = frame_cr3(mfn(layout.root), width);
        let cr3 = cr3.ok_or(Error::Config { field: "budget", value: self.config.budget, reason: "too large" })?;
        for number in 0..self.config.vcpus {
            let mut basic = vec![0; length];
            // The FPU's state, which nobody translates.
            fill(basic.get_mut(..512).unwrap_or_default(), u64::from(number) + self.config.seed);
            pv_words::FLAGS.set(&mut basic, width, 1 << 5);
            pv_words::GDT_ENTS.set(&mut basic, width, 14);
            pv_words::GDT_FRAMES.set(&mut basic, width, mfn(GDT));
            pv_words::CR3.set(&mut basic, width, cr3);
            let mut extended = vec![0; 64];
            LittleEndian::write_u32(extended.get_mut(..4).unwrap_or_default(), number);
            LittleEndian::write_u32(extended.get_mut(4..8).unwrap_or_default(), 64);
            let mut xsave = vec![0; 16 + 576];
            fill(&mut xsave, u64::from(number) << 32);
            let msrs = if number == 0 { vec![0x11; 16] } else { Vec::new() };
            if let Some(vcpu) = self.vcpus.get_mut(number as usize) {
                *vcpu = Vcpu { online: true, basic, extended, xsave, msrs };
            }
        }
        // The last of several is offline.
        if let [_, .., last] = &mut self.vcpus[..] {
            *last = Vcpu::default();
        }
        Ok(())
    }

    fn build_control(&mut self, mfn: &dyn Fn(Pfn) -> Mfn) {
        let seed = self.config.seed;
        if let Some(page) = self.machine.page_mut(mfn(CONTROL)) {
            let words = [MAGIC, 0].into_iter().chain(Rng::new(seed).0);
            for (word, bytes) in words.zip(page.chunks_exact_mut(8)) {
                LittleEndian::write_u64(bytes, word);
            }
        }
        if let Some(page) = self.machine.page_mut(mfn(ALIASES)) {
            page.fill(0xff);
        }
    }

    fn build_start_info(&mut self, mfn: &dyn Fn(Pfn) -> Mfn) {
        let (width, pages, shared_info) = (self.width, self.config.pages, self.shared_info);
        if let Some(page) = self.machine.page_mut(mfn(START_INFO)) {
            for (place, byte) in page.iter_mut().zip(b"xen-3.0-x86_64p\0") {
                *place = *byte;
            }
            pv_words::NR_PAGES.set(page, width, pages);
            pv_words::SHARED_INFO.set(page, width, shared_info << 12);
            pv_words::STORE_MFN.set(page, width, mfn(STORE));
            pv_words::CONSOLE_MFN.set(page, width, mfn(CONSOLE));
            pv_words::STORE_EVTCHN.set_u32(page, width, 1);
            pv_words::CONSOLE_EVTCHN.set_u32(page, width, 2);
        }
    }

    /// Tells the toolstack where the p2m is.
    fn publish(&mut self, layout: &Layout, mfn: &dyn Fn(Pfn) -> Mfn) {
        let (width, kind) = (self.width, self.config.p2m);
        let per_frame = PAGE_SIZE / width.bytes();
        if kind == P2mKind::Tree {
            for (&list, leaves) in layout.lists.iter().zip(layout.p2m.chunks(per_frame)) {
                let Some(page) = self.machine.page_mut(mfn(list)) else { continue };
                for (index, &leaf) in leaves.iter().enumerate() {
                    word().nth(index).set(page, width, mfn(leaf));
                }
            }
            if let Some(page) = self.machine.page_mut(mfn(layout.list_list)) {
                for (index, &list) in layout.lists.iter().enumerate() {
                    word().nth(index).set(page, width, mfn(list));
                }
            }
            for pfn in layout.lists.iter().chain([&layout.list_list]) {
                self.wrote(*pfn);
            }
        }
        let (pages, shared_info) = (self.config.pages, self.shared_info);
        let cr3 = frame_cr3(mfn(layout.root), width).unwrap_or_default();
        let Some(page) = self.machine.page_mut(shared_info) else { return };
        pv_words::MAX_PFN.set(page, width, pages);
        match kind {
            P2mKind::Tree => pv_words::FRAME_LIST_LIST.set(page, width, mfn(layout.list_list)),
            P2mKind::List => {
                pv_words::P2M_CR3.set(page, width, cr3);
                pv_words::P2M_VADDR.set(page, width, regions(width).1);
                pv_words::P2M_GENERATION.set(page, width, 2);
            }
        }
    }

    fn wrote(&mut self, pfn: Pfn) {
        if let Some(log) = &mut self.log {
            log.set(pfn);
        }
    }

    /// The root of the guest's page tables.
    fn root(&self) -> Mfn {
        let context = self.vcpus.first().map_or(&[][..], |vcpu| &vcpu.basic);
        cr3_frame(pv_words::CR3.get(context, self.width), self.width)
    }

    /// The frame of a pfn, by the guest's own page tables.
    pub fn reach(&self, pfn: Pfn) -> Option<Mfn> {
        if pfn >= self.config.pages {
            return None;
        }
        self.machine.walk(self.root(), self.width, regions(self.width).0 + (pfn << 12))
    }

    fn word(&self, pfn: Pfn, index: usize) -> u64 {
        let page = self.reach(pfn).and_then(|mfn| self.machine.page(mfn));
        page.map_or(0, |page| word_at(page, index))
    }

    fn set_word(&mut self, pfn: Pfn, index: usize, value: u64) {
        if let Some(page) = self.reach(pfn).and_then(|mfn| self.machine.page_mut(mfn)) {
            LittleEndian::write_u64(page.get_mut(index * 8..index * 8 + 8).unwrap_or(&mut [0; 8]), value);
        }
        self.wrote(pfn);
    }

    /// Runs steps: each writes to a page of data, and now and then has an alias lead elsewhere.
    ///
    /// # Errors
    /// The guest does not run, or its page tables do not lead to its memory.
    pub fn run(&mut self, steps: u64) -> Result<()> {
        if !self.is_running() {
            return Err(self.wrong_state("run"));
        }
        let layout = Layout::new(&self.config);
        if self.word(CONTROL, 0) != MAGIC {
            return Err(GuestDamage::NoWorkload { found: self.word(CONTROL, 0) }.into());
        }
        for _ in 0..steps {
            let mut rng = Rng([0, 1, 2, 3].map(|index| self.word(CONTROL, GENERATOR + index)));
            let span = layout.data_end - FIRST_DATA;
            let mut pfn = FIRST_DATA + rng.next_u64() % span;
            while self.reach(pfn).is_none() {
                pfn = FIRST_DATA + rng.next_u64() % span;
            }
            let (index, value) = ((rng.next_u64() % 512) as usize, rng.next_u64());
            self.set_word(pfn, index, value);
            let step = self.word(CONTROL, STEPS) + 1;
            if step.is_multiple_of(4) {
                let alias = rng.next_u64() % ENTRIES;
                let frame = self.reach(pfn).unwrap_or(INVALID_MFN);
                let table = self.reach(layout.alias).ok_or(GuestDamage::Layout { pfn: layout.alias })?;
                self.machine.set_entry(table, alias as usize, frame << 12 | FLAGS);
                self.wrote(layout.alias);
                self.set_word(ALIASES, alias as usize, pfn);
            }
            for (index, word) in rng.0.into_iter().enumerate() {
                self.set_word(CONTROL, GENERATOR + index, word);
            }
            self.set_word(CONTROL, STEPS, step);
        }
        Ok(())
    }

    /// How many steps the guest has run.
    pub fn steps(&self) -> u64 {
        self.word(CONTROL, STEPS)
    }

    /// Has the guest look at its page tables and its p2m: whether each of them leads to the page that it should.
    ///
    /// # Errors
    /// The first that does not.
    pub fn self_check(&self) -> Result<()> {
        let layout = Layout::new(&self.config);
        let base = regions(self.width).0;
        let aliases = base + ((layout.memory.len() as u64 * ENTRIES) << 12);
        let same = |mfn: Option<Mfn>, pfn: Pfn| mfn.and_then(|mfn| self.machine.m2p(mfn)) == Some(pfn);
        for pfn in 1..self.config.pages {
            let mfn = self.reach(pfn);
            if mfn.is_some() && !same(mfn, pfn) || self.guests_p2m(&layout, pfn) != mfn {
                return Err(GuestDamage::Layout { pfn }.into());
            }
        }
        for index in 0..ENTRIES {
            let pfn = self.word(ALIASES, index as usize);
            let mfn = self.machine.walk(self.root(), self.width, aliases + (index << 12));
            if if pfn == u64::MAX { mfn.is_some() } else { !same(mfn, pfn) } {
                return Err(GuestDamage::Layout { pfn }.into());
            }
        }
        Ok(())
    }

    fn guests_p2m(&self, layout: &Layout, pfn: Pfn) -> Option<Mfn> {
        let per_frame = (PAGE_SIZE / self.width.bytes()) as u64;
        let leaf = layout.p2m.get((pfn / per_frame) as usize)?;
        let page = self.machine.page(self.reach(*leaf)?)?;
        pv_words::p2m_entry(word().nth((pfn % per_frame) as usize).get(page, self.width), self.width)
    }

    /// A sum over all pages of data, by pfn: the same wherever the frames are.
    pub fn data_sum(&self) -> u64 {
        let layout = Layout::new(&self.config);
        let pages = (CONTROL..=ALIASES).chain(FIRST_DATA..layout.data_end);
        let sums = pages.filter_map(|pfn| Some(page_sum(pfn, self.machine.page(self.reach(pfn)?)?)));
        sums.fold(0, u64::wrapping_add)
    }

    /// Makes a frame leave the guest, as its balloon driver does.
    ///
    /// # Errors
    /// There is none.
    pub fn balloon_out(&mut self, pfn: Pfn) -> Result<()> {
        let layout = Layout::new(&self.config);
        let mfn = self.reach(pfn).ok_or(Error::NotPopulated { pfn })?;
        let (table, index) = ((pfn / ENTRIES) as usize, (pfn % ENTRIES) as usize);
        let table = layout.memory.get(table).copied().ok_or(Error::NotPopulated { pfn })?;
        let table_mfn = self.reach(table).ok_or(Error::NotPopulated { pfn: table })?;
        self.machine.set_entry(table_mfn, index, 0);
        self.wrote(table);
        let per_frame = PAGE_SIZE / self.width.bytes();
        if let Some(&leaf) = layout.p2m.get(pfn as usize / per_frame)
            && let Some(page) = self.reach(leaf).and_then(|mfn| self.machine.page_mut(mfn))
        {
            word().nth(pfn as usize % per_frame).set(page, self.width, INVALID_MFN);
            self.wrote(leaf);
        }
        // The driver looks through the aliases first.
        for alias in 0..ENTRIES as usize {
            if self.word(ALIASES, alias) == pfn {
                let table = self.reach(layout.alias).ok_or(Error::NotPopulated { pfn: layout.alias })?;
                self.machine.set_entry(table, alias, 0);
                self.wrote(layout.alias);
                self.set_word(ALIASES, alias, u64::MAX);
            }
        }
        // Nobody else is to read what it had.
        if let Some(page) = self.machine.page_mut(mfn) {
            page.fill(0);
        }
        self.wrote(pfn);
        self.machine.give_back(mfn);
        Ok(())
    }

    /// Has a frame come to the guest, as its balloon driver does: into the p2m and the page tables. Nobody writes to the frame.
    ///
    /// # Errors
    /// The machine has no frame for it; there is no such pfn.
    pub fn balloon_in(&mut self, pfn: Pfn) -> Result<()> {
        let layout = Layout::new(&self.config);
        let mut frame = [INVALID_MFN];
        let (table, index) = ((pfn / ENTRIES) as usize, (pfn % ENTRIES) as usize);
        let table = layout.memory.get(table).copied().ok_or(Error::NotPopulated { pfn })?;
        let table_mfn = self.reach(table).ok_or(Error::NotPopulated { pfn: table })?;
        self.populate_frames(&[pfn], &mut frame)?;
        let per_frame = PAGE_SIZE / self.width.bytes();
        if let Some(&leaf) = layout.p2m.get(pfn as usize / per_frame)
            && let Some(page) = self.reach(leaf).and_then(|mfn| self.machine.page_mut(mfn))
        {
            word().nth(pfn as usize % per_frame).set(page, self.width, frame[0]);
            self.wrote(leaf);
        }
        self.machine.set_entry(table_mfn, index, frame[0] << 12 | FLAGS);
        self.wrote(table);
        Ok(())
    }

    /// Leaves an entry of a page table half updated, with a frame that is not the guest's, or mends it. A saver cannot translate
    /// a torn one.
    ///
    /// # Errors
    /// There is no such table.
    pub fn tear_alias(&mut self, torn: bool) -> Result<()> {
        let layout = Layout::new(&self.config);
        let table = self.reach(layout.alias).ok_or(Error::NotPopulated { pfn: layout.alias })?;
        let used = |index: &usize| self.word(ALIASES, *index) != u64::MAX;
        let index = (0..ENTRIES as usize).find(used).unwrap_or_default();
        let pfn = self.word(ALIASES, index);
        let whole = self.reach(pfn).map_or(0, |mfn| mfn << 12 | FLAGS);
        self.machine.set_entry(table, index, if torn { self.shared_info << 12 | FLAGS } else { whole });
        self.wrote(layout.alias);
        Ok(())
    }

    /// Before it stops, the guest names its rings by pfns, and its start info in a register of vCPU 0.
    pub(super) fn prepare_suspend(&mut self) -> Result<()> {
        let mfn = self.reach(START_INFO).ok_or(GuestDamage::Layout { pfn: START_INFO })?;
        let width = self.width;
        if let Some(page) = self.machine.page_mut(mfn) {
            pv_words::STORE_MFN.set(page, width, STORE);
            pv_words::CONSOLE_MFN.set(page, width, CONSOLE);
        }
        self.wrote(START_INFO);
        if let Some(vcpu) = self.vcpus.first_mut() {
            pv_words::EDX.set(&mut vcpu.basic, width, mfn);
        }
        Ok(())
    }

    /// The guest goes on where it stopped, on the same host.
    pub(super) fn suspend_cancelled(&mut self) -> Result<()> {
        let frames = [STORE, CONSOLE, START_INFO].map(|pfn| self.reach(pfn));
        let [Some(store), Some(console), Some(start_info)] = frames else {
            return Err(GuestDamage::Layout { pfn: START_INFO }.into());
        };
        let width = self.width;
        if let Some(page) = self.machine.page_mut(start_info) {
            pv_words::STORE_MFN.set(page, width, store);
            pv_words::CONSOLE_MFN.set(page, width, console);
        }
        self.wrote(START_INFO);
        Ok(())
    }

    /// What a guest does first on another host: it looks where it is, and tells where its p2m is now. The configuration is that
    /// of the guest, not of the domain it was restored into.
    ///
    /// # Errors
    /// Its start info is not what the toolstack should have made of it.
    pub fn wake(&mut self, config: &PvConfig) -> Result<()> {
        self.config = PvConfig { budget: self.config.budget, domid: self.config.domid, ..config.clone() };
        let damaged = |pfn| Error::from(GuestDamage::Layout { pfn });
        let start_info = self.reach(START_INFO).ok_or(damaged(START_INFO))?;
        let page = self.machine.page(start_info).ok_or(damaged(START_INFO))?;
        let read = |field: pv_words::Field| field.get(page, self.width);
        let rings = (read(pv_words::STORE_MFN), read(pv_words::CONSOLE_MFN));
        let sound = (Some(rings.0), Some(rings.1)) == (self.reach(STORE), self.reach(CONSOLE))
            && read(pv_words::NR_PAGES) == self.config.pages
            && read(pv_words::SHARED_INFO) == self.shared_info << 12
            && (self.grants().xenstore_gfn, self.grants().console_gfn) == rings;
        if !sound {
            return Err(damaged(START_INFO));
        }
        let layout = Layout::new(&self.config);
        let p2m: Vec<Mfn> = (0..self.config.pages).map(|pfn| self.reach(pfn).unwrap_or(INVALID_MFN)).collect();
        self.publish(&layout, &|pfn| p2m.get(pfn as usize).copied().unwrap_or(INVALID_MFN));
        self.paused = false;
        self.shutdown = None;
        Ok(())
    }

    /// Has the guest say that it has changed where its p2m list is mapped.
    pub fn move_p2m(&mut self) {
        let (shared_info, width) = (self.shared_info, self.width);
        if let Some(page) = self.machine.page_mut(shared_info) {
            let generation = pv_words::P2M_GENERATION.get(page, width);
            pv_words::P2M_GENERATION.set(page, width, generation + 1);
        }
    }

    /// The types of the guest's frames, by pfn.
    pub fn types(&self) -> Vec<PageType> {
        let of = |pfn| self.reach(pfn).map_or(PageType::XTAB, |mfn| self.machine.page_type(mfn));
        (0..self.config.pages).map(of).collect()
    }
}

fn word_at(page: &[u8], index: usize) -> u64 {
    page.get(index * 8..index * 8 + 8).map_or(0, LittleEndian::read_u64)
}
