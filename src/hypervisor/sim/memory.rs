//! A simulated guest's physical memory: populated pages in one allocation, holes, and the dirty log.

use std::collections::BTreeSet;
use std::ops::Range;

use memmap2::{Advice, MmapMut, MmapOptions};

use crate::hypervisor::bitmap::{BoundMismatch, DirtyBitmap};
use crate::hypervisor::error::{Error, Result};
use crate::hypervisor::types::{DirtyStats, PAGE_SIZE, Page, PageType, Pfn};

/// Entries in one table of the second level: one for each page of 2 MiB of guest-physical space.
const TABLE_ENTRIES: usize = 512;

/// Second level of the page map: slot number plus one, 0 for a hole.
type Table = [u32; TABLE_ENTRIES];

/// Guest-physical memory.
///
/// Pages live in one mapping, in the order in which they were populated, and the kernel backs them as they are touched.
/// A two-level table leads from the pfn to the page, so that sparse layouts cost little and lookups do not depend on the size.
///
/// The memory map may change while the guest lives: pages are given back, and moved. Whether the dirty log tells
/// of that depends on the hypervisor.
#[derive(Debug)]
pub struct GuestMemory {
    pages: MmapMut,
    tables: Vec<Option<Box<Table>>>,
    nr_pfns: u64,
    /// Slots handed out so far, those that are free again included.
    slots: u32,
    /// Slots without a page below that, each once.
    free: Vec<u32>,
    budget: u32,
    broken: BTreeSet<Pfn>,
    log: Option<DirtyLog>,
    device_log: bool,
    logs_additions: bool,
}

#[derive(Debug)]
struct DirtyLog {
    dirty: DirtyBitmap,
    /// Pages that came since the log began or was taken, where it does not tell of them: their writes are not in it either.
    unlogged: BTreeSet<Pfn>,
    dirty_count: u64,
    fault_count: u64,
}

impl DirtyLog {
    /// A page has come to `pfn`.
    fn added(&mut self, pfn: Pfn, tells: bool) {
        if !tells {
            self.unlogged.insert(pfn);
        } else if self.dirty.set(pfn) {
            self.dirty_count += 1;
        }
    }

    /// The page at `pfn` has gone.
    fn removed(&mut self, pfn: Pfn, tells: bool) {
        self.unlogged.remove(&pfn);
        if tells && self.dirty.clear(pfn) {
            self.dirty_count -= 1;
        }
    }

    /// The page at `pfn` is written; gives whether it was clean.
    fn written(&mut self, pfn: Pfn) -> bool {
        let new = !self.unlogged.contains(&pfn) && self.dirty.set(pfn);
        self.dirty_count += u64::from(new);
        new
    }
}

impl GuestMemory {
    /// Memory for the pfns `0..nr_pfns`, all holes, which may be given `budget` pages at most.
    pub(super) fn new(nr_pfns: u64, budget: u64) -> Result<Self> {
        let pages = MmapOptions::new()
            .len(length_of(budget)?)
            .no_reserve_swap()
            .map_anon()
            .map_err(|source| Error::Os { operation: "allocating guest memory", source })?;
        // Huge pages would back 512 pages for each that is written. A kernel that has none refuses, which is just as well.
        let _ = pages.advise(Advice::NoHugePage);
        GuestMemory::with_pages(nr_pfns, budget, pages)
    }

    /// The same in a mapping that the caller has made, of `budget` pages at least: of a file, say, so that others can map the
    /// guest's pages too ([`GuestMemory::slot`] tells where they lie in it). New pages have what the mapping has there.
    pub(super) fn with_pages(nr_pfns: u64, budget: u64, pages: MmapMut) -> Result<Self> {
        if pages.len() < length_of(budget)? {
            let value = pages.len() as u64 / PAGE_SIZE as u64;
            return Err(Error::Config { field: "memory", value, reason: "the mapping is smaller than the budget" });
        }
        let budget = u32::try_from(budget).ok().filter(|&b| b < u32::MAX).ok_or(too_big("memory_budget", budget))?;
        let tables =
            usize::try_from(nr_pfns.div_ceil(TABLE_ENTRIES as u64)).map_err(|_| too_big("nr_pfns", nr_pfns))?;
        Ok(GuestMemory {
            pages,
            tables: vec![None; tables],
            nr_pfns,
            slots: 0,
            free: Vec::new(),
            budget,
            broken: BTreeSet::new(),
            log: None,
            device_log: false,
            logs_additions: true,
        })
    }

    /// One more than the highest pfn there can be.
    pub fn nr_pfns(&self) -> u64 {
        self.nr_pfns
    }

    /// How many pages are populated.
    pub fn populated(&self) -> u64 {
        u64::from(self.slots) - self.free.len() as u64
    }

    /// How many pages may be populated.
    pub fn budget(&self) -> u64 {
        u64::from(self.budget)
    }

    /// Puts a zero page at `pfn`. A pfn that has a page keeps it.
    pub(super) fn populate(&mut self, pfn: Pfn) -> Result<()> {
        let (table, entry) = self.position(pfn)?;
        if self.slot(pfn).is_some() {
            return Ok(());
        }
        let full = Error::OutOfMemory { pfn, populated: self.populated(), budget: self.budget() };
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.slots >= self.budget => return Err(full),
            None => {
                self.slots += 1;
                self.slots
            }
        };
        let table = self.tables.get_mut(table).map(|table| table.get_or_insert_with(|| Box::new([0; TABLE_ENTRIES])));
        if let Some(place) = table.and_then(|table| table.get_mut(entry)) {
            *place = slot;
        }
        if let Some(log) = &mut self.log {
            log.added(pfn, self.logs_additions);
        }
        Ok(())
    }

    /// Passes over so many slots. They are nobody's until [`GuestMemory::free_slots`] hears of them.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] beyond the budget.
    pub(super) fn skip_slots(&mut self, count: u64) -> Result<Range<u32>> {
        let first = self.slots;
        match u32::try_from(count).ok().filter(|count| *count <= self.budget - first) {
            Some(count) => {
                self.slots += count;
                Ok(first..self.slots)
            }
            None => Err(Error::OutOfMemory { pfn: Pfn::MAX, populated: self.populated(), budget: self.budget() }),
        }
    }

    /// Lets slots that were passed over be given out.
    pub(super) fn free_slots(&mut self, slots: Range<u32>) {
        self.free.extend(slots.map(|slot| slot + 1));
    }

    /// Takes the page at `pfn` away, with its contents: the guest gives it back (`XENMEM_decrease_reservation`).
    ///
    /// # Errors
    /// [`Error::NotPopulated`].
    pub(super) fn give_back(&mut self, pfn: Pfn) -> Result<()> {
        let page = self.toolstack_page(pfn).ok_or(Error::NotPopulated { pfn })?;
        // Whoever gets it next finds nothing in it.
        page.fill(0);
        let slot = std::mem::take(self.entry(pfn).ok_or(Error::NotPopulated { pfn })?);
        self.free.push(slot);
        self.removed(pfn);
        Ok(())
    }

    /// Moves the page at `from` to `to`, in the place of what is there (`XENMEM_add_to_physmap` of `XENMAPSPACE_gmfn`): `from` is a hole
    /// then. The contents go along.
    ///
    /// # Errors
    /// [`Error::NotPopulated`] of `from`, [`Error::PfnOutOfRange`] of `to`: nothing is moved.
    pub(super) fn move_page(&mut self, from: Pfn, to: Pfn) -> Result<()> {
        let (table, entry) = self.position(to)?;
        self.slot(from).ok_or(Error::NotPopulated { pfn: from })?;
        if from == to {
            return Ok(());
        }
        if self.slot(to).is_some() {
            self.give_back(to)?;
        }
        let slot = self.entry(from).map_or(0, std::mem::take);
        let table = self.tables.get_mut(table).map(|table| table.get_or_insert_with(|| Box::new([0; TABLE_ENTRIES])));
        if let Some(place) = table.and_then(|table| table.get_mut(entry)) {
            *place = slot;
        }
        if self.broken.contains(&from) {
            self.broken.insert(to);
        }
        self.removed(from);
        if let Some(log) = &mut self.log {
            log.added(to, self.logs_additions);
        }
        Ok(())
    }

    fn removed(&mut self, pfn: Pfn) {
        self.broken.remove(&pfn);
        if let Some(log) = &mut self.log {
            log.removed(pfn, self.logs_additions);
        }
    }

    /// Where the page map has the slot of `pfn`, plus one.
    fn entry(&mut self, pfn: Pfn) -> Option<&mut u32> {
        let (table, entry) = self.position(pfn).ok()?;
        self.tables.get_mut(table)?.as_mut()?.get_mut(entry)
    }

    /// Whether the dirty log has the pages that come to a pfn, as since Xen 4.19.5, 4.20.3 and 4.21.1, and no more those that have
    /// gone. Where it does not, as before, neither a page that comes is in the log, nor what is written to it until the log is taken or
    /// begun next: only then are the writes to it tracked.
    pub(super) fn set_logs_additions(&mut self, logs: bool) {
        self.logs_additions = logs;
    }

    /// Whether it does.
    pub(super) fn logs_additions(&self) -> bool {
        self.logs_additions
    }

    /// Declares the page at `pfn` broken: it keeps its place and cannot be read any more.
    pub fn break_page(&mut self, pfn: Pfn) -> Result<()> {
        self.slot(pfn).ok_or(Error::NotPopulated { pfn })?;
        self.broken.insert(pfn);
        Ok(())
    }

    /// The type of the page at `pfn`.
    pub fn page_type(&self, pfn: Pfn) -> PageType {
        if self.slot(pfn).is_none() {
            PageType::XTAB
        } else if self.broken.contains(&pfn) {
            PageType::BROKEN
        } else {
            PageType::NOTAB
        }
    }

    /// Whether `pfn` has a page with contents.
    pub fn has_data(&self, pfn: Pfn) -> bool {
        self.slot(pfn).is_some() && !self.broken.contains(&pfn)
    }

    /// The page at `pfn`, `None` for a hole.
    pub fn page(&self, pfn: Pfn) -> Option<&Page> {
        let start = self.slot(pfn)?.checked_mul(PAGE_SIZE)?;
        self.pages.get(start..start + PAGE_SIZE)?.try_into().ok()
    }

    /// The pages at `pfns`, as far as they lie next to each other from the first on.
    pub(super) fn run(&self, pfns: &[Pfn]) -> Option<&[u8]> {
        let first = self.slot(*pfns.first()?)?;
        let adjacent = pfns.iter().enumerate().take_while(|&(i, &pfn)| self.slot(pfn) == Some(first + i)).count();
        let start = first.checked_mul(PAGE_SIZE)?;
        self.pages.get(start..start + adjacent.checked_mul(PAGE_SIZE)?)
    }

    /// The page at `pfn`, to be written from outside the guest: the dirty log does not see it.
    pub(super) fn toolstack_page(&mut self, pfn: Pfn) -> Option<&mut Page> {
        let start = self.slot(pfn)?.checked_mul(PAGE_SIZE)?;
        self.pages.get_mut(start..start + PAGE_SIZE)?.try_into().ok()
    }

    /// The page at `pfn`, to be written by a vCPU.
    pub(super) fn guest_page(&mut self, pfn: Pfn) -> Option<&mut Page> {
        self.slot(pfn)?;
        if let Some(log) = &mut self.log
            && log.written(pfn)
        {
            log.fault_count += 1;
        }
        self.toolstack_page(pfn)
    }

    /// The page at `pfn`, to be written by an emulated device. The log sees it only where the device model reports to it.
    pub(super) fn device_page(&mut self, pfn: Pfn) -> Option<&mut Page> {
        self.slot(pfn)?;
        if self.device_log
            && let Some(log) = &mut self.log
            && log.dirty.set(pfn)
        {
            // The device model says so itself, whatever the hypervisor tracks.
            log.dirty_count += 1;
        }
        self.toolstack_page(pfn)
    }

    /// Has devices report to the dirty log, or not.
    pub(super) fn set_device_log(&mut self, enable: bool) {
        self.device_log = enable;
    }

    /// Starts the log with no page dirty.
    pub(super) fn enable_log(&mut self) {
        let (dirty, unlogged) = (DirtyBitmap::new(self.nr_pfns), BTreeSet::new());
        self.log = Some(DirtyLog { dirty, unlogged, dirty_count: 0, fault_count: 0 });
    }

    /// Ends the log.
    pub(super) fn disable_log(&mut self) {
        self.log = None;
    }

    /// Moves the log into `bitmap` and starts anew; `None` when the log is off.
    pub(super) fn clean_log(&mut self, bitmap: &mut DirtyBitmap) -> Result<Option<DirtyStats>, BoundMismatch> {
        let Some(log) = &mut self.log else {
            return Ok(None);
        };
        log.dirty.swap(bitmap)?;
        log.dirty.clear_all();
        log.unlogged.clear();
        let stats = DirtyStats { fault_count: log.fault_count, dirty_count: log.dirty_count };
        (log.dirty_count, log.fault_count) = (0, 0);
        Ok(Some(stats))
    }

    /// Copies the log into `bitmap`; `None` when the log is off.
    pub(super) fn peek_log(&self, bitmap: &mut DirtyBitmap) -> Result<Option<DirtyStats>, BoundMismatch> {
        let Some(log) = &self.log else {
            return Ok(None);
        };
        if bitmap.nr_pfns() != self.nr_pfns {
            return Err(BoundMismatch { expected: self.nr_pfns, found: bitmap.nr_pfns() });
        }
        bitmap.copy_from_words(log.dirty.words());
        Ok(Some(DirtyStats { fault_count: log.fault_count, dirty_count: log.dirty_count }))
    }

    /// The pfns declared broken, ascending.
    pub(super) fn broken_pfns(&self) -> impl Iterator<Item = Pfn> {
        self.broken.iter().copied()
    }

    /// The populated pfns, ascending.
    pub fn populated_pfns(&self) -> impl Iterator<Item = Pfn> {
        let tables = (0u64..).step_by(TABLE_ENTRIES).zip(&self.tables);
        let tables = tables.filter_map(|(base, table)| table.as_ref().map(|table| (base, table)));
        tables.flat_map(|(base, table)| (base..).zip(table.iter()).filter(|&(_, &slot)| slot != 0).map(|(pfn, _)| pfn))
    }

    /// Where the pages lie in our address space.
    #[cfg(test)]
    pub(super) fn address(&self) -> usize {
        self.pages.as_ptr() as usize
    }

    fn position(&self, pfn: Pfn) -> Result<(usize, usize)> {
        let out_of_range = Error::PfnOutOfRange { pfn, nr_pfns: self.nr_pfns };
        if pfn >= self.nr_pfns {
            return Err(out_of_range);
        }
        let table = usize::try_from(pfn / TABLE_ENTRIES as u64).map_err(|_| out_of_range)?;
        Ok((table, (pfn % TABLE_ENTRIES as u64) as usize))
    }

    /// Which page of the mapping is at `pfn`, counted in pages from its beginning; `None` for a hole. It stays the same while the pfn has
    /// that page.
    pub fn slot(&self, pfn: Pfn) -> Option<usize> {
        let table = self.tables.get(usize::try_from(pfn / TABLE_ENTRIES as u64).ok()?)?.as_ref()?;
        let slot = *table.get((pfn % TABLE_ENTRIES as u64) as usize)?;
        Some(slot.checked_sub(1)? as usize)
    }
}

fn too_big(field: &'static str, value: u64) -> Error {
    Error::Config { field, value, reason: "more than this machine can address" }
}

/// Bytes of so many pages.
fn length_of(budget: u64) -> Result<usize> {
    let length = usize::try_from(budget).ok().and_then(|pages| pages.checked_mul(PAGE_SIZE));
    length.filter(|&length| length <= isize::MAX as usize).ok_or(too_big("memory_budget", budget))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> GuestMemory {
        let mut memory = GuestMemory::new(2000, 4).unwrap();
        for pfn in [3, 4, 1999] {
            memory.populate(pfn).unwrap();
        }
        memory
    }

    #[test]
    fn holes_have_no_page_and_the_type_xtab() {
        let memory = memory();
        assert_eq!(memory.page_type(3), PageType::NOTAB);
        assert_eq!(memory.page_type(5), PageType::XTAB);
        assert_eq!(memory.page_type(u64::MAX), PageType::XTAB);
        assert!(memory.page(5).is_none());
        assert_eq!(memory.populated_pfns().collect::<Vec<_>>(), [3, 4, 1999]);
    }

    #[test]
    fn populating_stops_at_the_budget_and_at_the_bound() {
        let mut memory = memory();
        memory.populate(3).unwrap();
        assert_eq!(memory.populated(), 3);
        memory.populate(0).unwrap();
        assert!(matches!(memory.populate(1), Err(Error::OutOfMemory { pfn: 1, populated: 4, budget: 4 })));
        assert!(matches!(memory.populate(2000), Err(Error::PfnOutOfRange { pfn: 2000, nr_pfns: 2000 })));
        memory.populate(1999).unwrap();
    }

    #[test]
    fn runs_reach_as_far_as_the_pages_are_adjacent() {
        let memory = memory();
        assert_eq!(memory.run(&[3, 4, 1999]).unwrap().len(), 3 * PAGE_SIZE);
        assert_eq!(memory.run(&[3, 1999]).unwrap().len(), PAGE_SIZE);
        assert_eq!(memory.run(&[5]), None);
        assert_eq!(memory.run(&[]), None);
    }

    #[test]
    fn the_log_sees_guest_writes_and_device_writes_only_where_reported() {
        let mut memory = memory();
        let mut bitmap = DirtyBitmap::new(2000);
        assert_eq!(memory.clean_log(&mut bitmap), Ok(None));
        memory.guest_page(3).unwrap()[0] = 1;
        memory.enable_log();
        memory.toolstack_page(4).unwrap()[0] = 1;
        memory.device_page(3).unwrap()[0] = 2;
        assert_eq!(memory.peek_log(&mut bitmap).unwrap().unwrap().dirty_count, 0);
        memory.set_device_log(true);
        memory.device_page(3).unwrap()[0] = 3;
        memory.guest_page(1999).unwrap()[0] = 1;
        memory.guest_page(1999).unwrap()[1] = 1;
        let stats = DirtyStats { fault_count: 1, dirty_count: 2 };
        assert_eq!(memory.peek_log(&mut bitmap), Ok(Some(stats)));
        assert_eq!(bitmap.iter().collect::<Vec<_>>(), [3, 1999]);
        bitmap.set(77);
        assert_eq!(memory.clean_log(&mut bitmap), Ok(Some(stats)));
        assert_eq!(bitmap.iter().collect::<Vec<_>>(), [3, 1999]);
        assert_eq!(memory.clean_log(&mut bitmap), Ok(Some(DirtyStats::default())));
        assert!(bitmap.is_empty());
    }

    fn logged(memory: &mut GuestMemory) -> Vec<Pfn> {
        let mut bitmap = DirtyBitmap::new(2000);
        let stats = memory.clean_log(&mut bitmap).unwrap().unwrap();
        assert_eq!(stats.dirty_count, bitmap.count());
        bitmap.iter().collect()
    }

    #[test]
    fn a_page_that_is_given_back_leaves_its_room_to_another_which_is_zero() {
        let mut memory = memory();
        memory.populate(0).unwrap();
        memory.break_page(4).unwrap();
        for pfn in [4, 3] {
            memory.guest_page(pfn).unwrap().fill(7);
            memory.give_back(pfn).unwrap();
            assert!(matches!(memory.give_back(pfn), Err(Error::NotPopulated { .. })));
        }
        assert_eq!(memory.populated_pfns().collect::<Vec<_>>(), [0, 1999]);
        assert_eq!((memory.populated(), memory.page_type(4)), (2, PageType::XTAB));
        for pfn in [4, 700] {
            memory.populate(pfn).unwrap();
            assert!(memory.has_data(pfn) && memory.page(pfn).unwrap().iter().all(|&byte| byte == 0));
        }
        assert!(matches!(memory.populate(5), Err(Error::OutOfMemory { populated: 4, .. })));
    }

    #[test]
    fn a_page_that_is_moved_takes_its_contents_along_and_the_place_of_what_is_there() {
        let mut memory = memory();
        memory.guest_page(3).unwrap().fill(3);
        memory.move_page(3, 4).unwrap();
        memory.move_page(4, 1000).unwrap();
        memory.move_page(1000, 1000).unwrap();
        assert_eq!(memory.page(1000).unwrap()[0], 3);
        assert_eq!(memory.populated_pfns().collect::<Vec<_>>(), [1000, 1999]);
        assert!(matches!(memory.move_page(3, 5), Err(Error::NotPopulated { pfn: 3 })));
        assert!(matches!(memory.move_page(1999, 2000), Err(Error::PfnOutOfRange { pfn: 2000, .. })));
        assert_eq!(memory.populated(), 2);
    }

    /// As of Xen 4.20.3: what comes is in the log, what has gone is not.
    #[test]
    fn a_log_that_tells_of_additions_has_what_comes_and_not_what_has_gone() {
        let mut memory = memory();
        memory.enable_log();
        memory.guest_page(3).unwrap()[0] = 1;
        memory.give_back(3).unwrap();
        memory.populate(9).unwrap();
        memory.move_page(4, 11).unwrap();
        assert_eq!(logged(&mut memory), [9, 11]);
        memory.guest_page(9).unwrap()[0] = 1;
        assert_eq!(logged(&mut memory), [9]);
    }

    /// As of Xen 4.17: neither what comes is in the log nor what is written to it, until the log is taken.
    #[test]
    fn a_log_that_does_not_tell_is_silent_on_what_comes_until_it_is_taken() {
        let mut memory = memory();
        memory.set_logs_additions(false);
        memory.enable_log();
        memory.guest_page(3).unwrap()[0] = 1;
        memory.give_back(3).unwrap();
        memory.populate(9).unwrap();
        memory.move_page(4, 11).unwrap();
        memory.guest_page(9).unwrap()[0] = 1;
        memory.guest_page(11).unwrap()[0] = 1;
        assert_eq!(logged(&mut memory), [3]);
        memory.guest_page(9).unwrap()[0] = 2;
        memory.guest_page(11).unwrap()[0] = 2;
        assert_eq!(logged(&mut memory), [9, 11]);
    }

    #[test]
    fn a_mapping_of_the_caller_must_have_room_for_the_budget() {
        let pages = || MmapMut::map_anon(3 * PAGE_SIZE).unwrap();
        let mut memory = GuestMemory::with_pages(100, 3, pages()).unwrap();
        memory.populate(70).unwrap();
        memory.populate(5).unwrap();
        assert_eq!((memory.slot(70), memory.slot(5), memory.slot(6)), (Some(0), Some(1), None));
        let small = GuestMemory::with_pages(100, 4, pages());
        assert!(matches!(small, Err(Error::Config { field: "memory", value: 3, .. })), "{small:?}");
    }

    #[test]
    fn broken_pages_are_typed_so_and_have_no_data() {
        let mut memory = memory();
        memory.break_page(4).unwrap();
        assert_eq!(memory.page_type(4), PageType::BROKEN);
        assert!(!memory.has_data(4));
        assert!(matches!(memory.break_page(5), Err(Error::NotPopulated { pfn: 5 })));
    }
}
