//! One checkpoint in memory of our own: what a saver copies while the guest stands still, and what a restorer holds
//! until it has all of it.

use super::SaveError;
use super::pv::PvState;
use crate::hypervisor::types::{HvmParam, PAGE_SIZE, TscInfo};
use crate::hypervisor::{PageBatch, SaveDomain};
use crate::stream::handover::LibxcWriter;
use crate::stream::libxc::{BATCH, HvmParams, PageData, PageEntry, Record, emit_hvm_params};
use std::collections::TryReserveError;
use std::io::Write;
use std::ops::Range;

/// Pages and state of one checkpoint. Cleared and filled again it keeps its memory, so that a round of the usual size
/// costs no allocation.
#[derive(Debug, Clone, Default)]
pub struct Round {
    /// Pages with their types, in stream order.
    entries: Vec<PageEntry>,
    /// How many of the entries, from the first on, were staged ahead: in the order of their pfns, all of them with contents.
    ahead: usize,
    /// Contents of those entries that have some, in the same order.
    contents: Vec<u8>,
    /// Which of the entries that were staged ahead are of another type by now, in no order.
    replaced: Vec<usize>,
    /// Everything but memory.
    pub state: MachineState,
}

/// What the hypervisor keeps of a domain besides its memory. A HVM domain has context and parameters, a PV domain the rest.
#[derive(Debug, Clone, Default)]
pub struct MachineState {
    /// How the guest sees the time stamp counter.
    pub tsc: Option<TscInfo>,
    /// Xen's save blob; empty when there is none.
    pub context: Vec<u8>,
    /// The parameters, in stream order; those of value 0 are left out.
    pub params: Vec<HvmParam>,
    /// vCPUs and shared info of a PV domain.
    pub pv: PvState,
    /// The body of HVM_PARAMS, kept for its memory.
    params_body: Vec<u8>,
}

impl Round {
    /// Drops everything and keeps the memory.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.ahead = 0;
        self.contents.clear();
        self.replaced.clear();
        self.state.clear();
    }

    /// Pages with their types, in stream order.
    pub fn entries(&self) -> &[PageEntry] {
        &self.entries
    }

    /// Bytes that the round holds: contents, entries and state.
    pub fn bytes(&self) -> u64 {
        self.contents_bytes() + self.other_bytes()
    }

    /// Bytes of the pages' contents.
    pub(super) const fn contents_bytes(&self) -> u64 {
        self.contents.len() as u64
    }

    /// Bytes of all else: entries and state.
    pub(super) fn other_bytes(&self) -> u64 {
        (size_of_val(&self.entries[..]) + self.state.context.len()) as u64
            + size_of_val(&self.state.params[..]) as u64
            + self.state.pv.bytes()
    }

    /// The round's pages in parts of at most a batch, each part's entries with their contents.
    pub fn batches(&self) -> impl Iterator<Item = (&[PageEntry], &[u8])> {
        let mut contents = &self.contents[..];
        self.entries.chunks(BATCH).map(move |entries| {
            let pages = entries.iter().filter(|entry| entry.page_type.has_contents()).count();
            // Entries and contents grow together only, so there are never fewer contents than that.
            let (here, rest) = contents.split_at(contents.len().min(pages * PAGE_SIZE));
            contents = rest;
            (entries, here)
        })
    }

    /// Makes room for so many pages with contents.
    pub(super) fn reserve(&mut self, pages: usize) {
        self.entries.reserve(pages);
        self.contents.reserve(pages.saturating_mul(PAGE_SIZE));
    }

    /// Adds pages of a domain that runs, in the order of their pfns: `pages` are those of `entries` that have contents, and only
    /// those are added.
    pub(super) fn add_ahead(&mut self, entries: impl Iterator<Item = PageEntry>, pages: &impl PageBatch) {
        self.entries.extend(entries.filter(|entry| entry.page_type.has_contents()));
        self.ahead = self.entries.len();
        for run in Runs::new(pages) {
            crate::copying::append(run, &mut self.contents);
        }
    }

    /// Adds pages of a domain that stands still: `pages` are those of `entries` that have contents. Where one was added ahead, its
    /// contents take the place of those; where it is of another type by now, the entry there is left to [`Round::drop_replaced`].
    pub(super) fn add_pages(&mut self, entries: impl Iterator<Item = PageEntry>, pages: &impl PageBatch) {
        if self.ahead > 0 {
            return self.renew_pages(entries, pages);
        }
        self.entries.extend(entries);
        for run in Runs::new(pages) {
            crate::copying::append(run, &mut self.contents);
        }
    }

    fn renew_pages(&mut self, entries: impl Iterator<Item = PageEntry>, pages: &impl PageBatch) {
        let mut mapped = 0..pages.len();
        for entry in entries {
            let page =
                if entry.page_type.has_contents() { mapped.next().and_then(|index| pages.page(index)) } else { None };
            let ahead = self.entries.get(..self.ahead).unwrap_or_default();
            let place = ahead.binary_search_by_key(&entry.pfn, |entry| entry.pfn).ok();
            let same = place.filter(|&place| ahead.get(place) == Some(&entry));
            if same.is_none() {
                self.replaced.extend(place);
            }
            let old = same.and_then(|place| self.contents.get_mut(place * PAGE_SIZE..(place + 1) * PAGE_SIZE));
            match (page, old) {
                (Some(page), Some(old)) => crate::copying::copy(page, old),
                (page, _) => {
                    self.entries.push(entry);
                    crate::copying::append(page.map_or(&[], |page| &page[..]), &mut self.contents);
                }
            }
        }
    }

    /// Drops the entries staged ahead whose pages were added once more as another type: no page is in a round twice.
    pub(super) fn drop_replaced(&mut self) {
        if self.replaced.is_empty() {
            return;
        }
        self.replaced.sort_unstable();
        let mut gaps = self.replaced.iter().copied().peekable();
        let mut kept = 0;
        // Those staged ahead all have contents: the same places count for both.
        for place in 0..self.ahead {
            if gaps.next_if_eq(&place).is_some() {
                continue;
            }
            if kept < place {
                self.entries.swap(kept, place);
                self.contents.copy_within(place * PAGE_SIZE..(place + 1) * PAGE_SIZE, kept * PAGE_SIZE);
            }
            kept += 1;
        }
        self.entries.drain(kept..self.ahead);
        self.contents.drain(kept * PAGE_SIZE..self.ahead * PAGE_SIZE);
        self.ahead = kept;
        self.replaced.clear();
    }

    /// The same with contents that were made ready.
    pub(super) fn add_contents(&mut self, entries: impl Iterator<Item = PageEntry>, contents: &[&[u8]]) {
        self.entries.extend(entries);
        for part in contents {
            crate::copying::append(part, &mut self.contents);
        }
    }

    /// Adds entries none of which has contents.
    pub(super) fn add_empty(&mut self, entries: impl Iterator<Item = PageEntry>) {
        self.entries.extend(entries);
    }

    /// Makes room for the pages of a record, whose number is a stranger's word.
    pub(super) fn try_reserve(&mut self, pages: &PageData<'_>) -> Result<(), TryReserveError> {
        self.entries.try_reserve(pages.count())?;
        self.contents.try_reserve(pages.contents().map_or(0, <[u8]>::len))
    }

    /// Adds the pages of a record.
    pub(super) fn add_record(&mut self, pages: &PageData<'_>) {
        self.entries.extend(pages.entries());
        crate::copying::append(pages.contents().unwrap_or_default(), &mut self.contents);
    }

    /// Writes pages and state.
    ///
    /// # Errors
    /// The stream's.
    pub fn write<W: Write, Home>(&mut self, out: &mut LibxcWriter<W, Home>) -> Result<(), SaveError> {
        self.write_pages(out)?;
        self.state.write(out)
    }

    /// Writes the pages alone.
    ///
    /// # Errors
    /// The stream's.
    pub fn write_pages<W: Write, Home>(&self, out: &mut LibxcWriter<W, Home>) -> Result<(), SaveError> {
        for (entries, contents) in self.batches() {
            out.page_data(entries.iter().copied(), [contents].into_iter().filter(|contents| !contents.is_empty()))?;
        }
        Ok(())
    }
}

impl MachineState {
    fn clear(&mut self) {
        self.tsc = None;
        self.context.clear();
        self.params.clear();
        self.pv.clear();
    }

    /// Takes the state of a HVM domain that is suspended.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn take(&mut self, domain: &impl SaveDomain) -> Result<(), SaveError> {
        self.tsc = Some(domain.tsc_info()?);
        domain.hvm_context(&mut self.context)?;
        domain.hvm_params(&mut self.params)?;
        Ok(())
    }

    /// Writes X86_TSC_INFO, and HVM_CONTEXT and HVM_PARAMS or SHARED_INFO and the vCPUs, in the order in which Xen's saver does;
    /// the specification's text has HVM_CONTEXT and HVM_PARAMS the other way round.
    ///
    /// # Errors
    /// The stream's.
    pub fn write<W: Write, Home>(&mut self, out: &mut LibxcWriter<W, Home>) -> Result<(), SaveError> {
        if let Some(tsc) = self.tsc {
            out.record(&Record::X86TscInfo(tsc))?;
        }
        if !self.context.is_empty() {
            out.record(&Record::HvmContext(&self.context))?;
        }
        if !self.params.is_empty() {
            self.params_body.clear();
            emit_hvm_params(&self.params, &mut self.params_body);
            if let Ok(params) = HvmParams::parse(&self.params_body) {
                out.record(&Record::HvmParams(params))?;
            }
        }
        self.pv.write(out)
    }

    /// Takes a HVM context from a stream. The reader has refused one that is no chain of entries that Xen can have written;
    /// what the entries say is the hypervisor's matter.
    pub(super) fn set_context(&mut self, blob: &[u8]) {
        self.context.clear();
        self.context.extend_from_slice(blob);
    }
}

/// The pages of a batch as few slices as possible, in order.
pub(super) struct Runs<'p, P> {
    pages: &'p P,
    index: usize,
    end: usize,
}

impl<'p, P: PageBatch> Runs<'p, P> {
    pub(super) fn new(pages: &'p P) -> Self {
        Runs::of(pages, 0..usize::MAX)
    }

    /// Some of them.
    pub(super) fn of(pages: &'p P, Range { start, end }: Range<usize>) -> Self {
        Runs { pages, index: start, end }
    }
}

impl<P> Clone for Runs<'_, P> {
    fn clone(&self) -> Self {
        Runs { ..*self }
    }
}

impl<'p, P: PageBatch> Iterator for Runs<'p, P> {
    type Item = &'p [u8];

    fn next(&mut self) -> Option<&'p [u8]> {
        let most = self.end.checked_sub(self.index).filter(|&most| most > 0)?.saturating_mul(PAGE_SIZE);
        let run = self.pages.run(self.index).filter(|run| run.len() >= PAGE_SIZE)?;
        let run = run.get(..most).unwrap_or(run);
        self.index += run.len() / PAGE_SIZE;
        Some(run)
    }
}
