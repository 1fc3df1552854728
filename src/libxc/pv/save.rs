//! Saving a PV domain: its p2m, and pages that may be page tables.

use super::p2m::{FindError, P2m};
use super::{PvState, table};
use crate::hypervisor::pv::{INVALID_MFN, Mfn, Width};
use crate::hypervisor::types::{PAGE_SIZE, PageType, Pfn};
use crate::hypervisor::{DirtyBitmap, PageBatch, SaveDomain};
use crate::libxc::SaveError;
use crate::stream::handover::LibxcWriter;
use crate::stream::libxc::{P2mFrames, PvInfo, Record, emit_p2m_frames};
use std::io::Write;

/// What saving needs of a PV domain besides what saving any needs.
#[derive(Debug)]
pub(in crate::libxc) struct PvSaver {
    p2m: P2m,
    compat_m2p: Mfn,
    nr_vcpus: u32,
    /// Pfns whose pages could not be sent: without a frame when they were looked at, or page tables in the middle of an update.
    deferred: DirtyBitmap,
    /// Page tables of the batch, normalised.
    tables: Vec<u8>,
}

impl PvSaver {
    pub(in crate::libxc) fn new<D: SaveDomain>(domain: &mut D) -> Result<Self, SaveError> {
        let p2m = P2m::find(domain).map_err(found)?;
        let compat_m2p = match p2m.width() {
            Width::Bits64 => INVALID_MFN,
            Width::Bits32 => domain.compat_m2p_frame()?,
        };
        let deferred = DirtyBitmap::new(p2m.nr_pfns());
        let nr_vcpus = domain.info()?.nr_vcpus;
        Ok(PvSaver { p2m, compat_m2p, nr_vcpus, deferred, tables: Vec::new() })
    }

    pub(in crate::libxc) const fn nr_pfns(&self) -> u64 {
        self.p2m.nr_pfns()
    }

    pub(in crate::libxc) const fn info(&self) -> PvInfo {
        match self.p2m.width() {
            Width::Bits64 => PvInfo::GUEST_64,
            Width::Bits32 => PvInfo::GUEST_32,
        }
    }

    /// Writes where the p2m is.
    pub(in crate::libxc) fn write_frames<W: Write, Home>(
        &self,
        out: &mut LibxcWriter<W, Home>,
    ) -> Result<(), SaveError> {
        let mut body = Vec::with_capacity(8 + 8 * self.p2m.frames().len());
        // 32 bits on the wire; a p2m of more would be of more than 16 TiB.
        let end = u32::try_from(self.p2m.nr_pfns() - 1).map_err(|_| SaveError::TooManyPfns(self.p2m.nr_pfns()))?;
        emit_p2m_frames(0, end, self.p2m.frames(), &mut body);
        match P2mFrames::parse(&body) {
            Ok(frames) => Ok(out.record(&Record::X86PvP2mFrames(frames))?),
            Err(_) => Err(SaveError::TooManyPfns(self.p2m.nr_pfns())),
        }
    }

    /// The frames of a batch of pfns. Those without one, while the guest may be moving them, are to be looked at once more when it
    /// stands still.
    pub(in crate::libxc) fn translate(
        &mut self,
        domain: &impl SaveDomain,
        pfns: &[Pfn],
        mfns: &mut Vec<Mfn>,
        still: bool,
    ) {
        mfns.clear();
        for &pfn in pfns {
            let mfn = self.p2m.mfn_of(domain, pfn).unwrap_or(INVALID_MFN);
            if mfn == INVALID_MFN && !still {
                self.deferred.set(pfn);
            }
            mfns.push(mfn);
        }
    }

    /// Whether a pfn has a frame.
    pub(in crate::libxc) fn has_frame(&self, domain: &impl SaveDomain, pfn: Pfn) -> bool {
        self.p2m.mfn_of(domain, pfn).is_some_and(|mfn| mfn != INVALID_MFN)
    }

    /// Adds what was deferred to what is to be sent.
    pub(in crate::libxc) fn take_deferred(&mut self, dirty: &mut DirtyBitmap) {
        // Both are made for this p2m.
        let _ = dirty.merge(&self.deferred);
        self.deferred.clear_all();
    }

    /// The contents of a batch as they stand in a stream: page tables normalised, as few slices as possible. A table that cannot
    /// be normalised is deferred while the guest may be changing it, and its type becomes XTAB.
    pub(in crate::libxc) fn contents<'a>(
        &'a mut self,
        domain: &impl SaveDomain,
        pfns: &[Pfn],
        types: &mut [PageType],
        pages: &'a impl PageBatch,
        still: bool,
    ) -> Result<Vec<&'a [u8]>, SaveError> {
        self.tables.clear();
        let mut parts: Vec<Part> = Vec::new();
        let with_contents = pfns.iter().zip(types).filter(|(_, page_type)| page_type.has_contents());
        for (index, (&pfn, page_type)) in with_contents.enumerate() {
            let Some(level) = page_type.table_level() else {
                match parts.last_mut() {
                    Some(Part::Pages { first, count }) if *first + *count == index => *count += 1,
                    _ => parts.push(Part::Pages { first: index, count: 1 }),
                }
                continue;
            };
            let start = self.tables.len();
            self.tables.extend_from_slice(pages.page(index).map_or(&[], |page| &page[..]));
            let table = self.tables.get_mut(start..).unwrap_or_default();
            let pfn_of = |mfn| self.p2m.pfn_of(domain, mfn);
            match table::normalise(table, level, self.p2m.width(), self.compat_m2p, pfn_of) {
                Ok(()) => parts.push(Part::Table(start)),
                Err(error) if still => return Err(SaveError::Table { pfn, error }),
                Err(_) => {
                    self.deferred.set(pfn);
                    self.tables.truncate(start);
                    *page_type = PageType::XTAB;
                }
            }
        }
        let mut contents = Vec::with_capacity(parts.len());
        for part in parts {
            match part {
                Part::Table(start) => contents.extend(self.tables.get(start..start + PAGE_SIZE)),
                Part::Pages { mut first, count } => {
                    let end = first + count;
                    while let Some(run) = pages.run(first).filter(|run| first < end && run.len() >= PAGE_SIZE) {
                        let pages = (run.len() / PAGE_SIZE).min(end - first);
                        contents.extend(run.get(..pages * PAGE_SIZE));
                        first += pages;
                    }
                }
            }
        }
        Ok(contents)
    }

    pub(in crate::libxc) fn take_state(&self, domain: &impl SaveDomain, state: &mut PvState) -> Result<(), SaveError> {
        state.take(domain, &self.p2m, self.nr_vcpus)
    }

    /// Whether the p2m is still where it was found.
    pub(in crate::libxc) fn check(&self, domain: &impl SaveDomain) -> Result<(), SaveError> {
        self.p2m.check(domain).map_err(found)
    }
}

/// Where a part of a batch's contents is.
enum Part {
    /// Pages that go as they are mapped.
    Pages { first: usize, count: usize },
    /// A table, by its place among the normalised.
    Table(usize),
}

fn found(error: FindError) -> SaveError {
    match error {
        FindError::P2m(error) => SaveError::P2m(error),
        FindError::Hypervisor(error) => SaveError::Hypervisor(error),
    }
}
