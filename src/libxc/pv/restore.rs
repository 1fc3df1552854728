//! Restoring a PV domain: a p2m of our own as it gets frames, page tables made local, and what is done once all is there.

use super::context::{self, FrameProblem, RingFrames, Use};
use super::state::Part;
use super::{PvState, table};
use crate::decode::pv_words as words;
use crate::hypervisor::pv::{INVALID_MFN, Mfn, VcpuRecord, Width};
use crate::hypervisor::types::{PAGE_SIZE, Page, PageType, Pfn};
use crate::hypervisor::{self, PageBatchMut, RestoreDomain};
use crate::libxc::error::PvError;
use crate::libxc::restore::Rings;
use crate::stream::libxc::{BATCH, P2mFrames, PageEntry, PvInfo};
use thiserror::Error;

/// Pfns in a part of our p2m.
const LEAF: usize = 512;

/// Either kind of trouble.
#[derive(Debug, Error)]
pub(in crate::libxc) enum Trouble {
    /// The stream's.
    #[error(transparent)]
    Pv(#[from] PvError),
    /// The hypervisor's.
    #[error(transparent)]
    Hypervisor(#[from] hypervisor::Error),
}

/// What restoring needs of a PV domain besides what restoring any needs.
#[derive(Debug)]
pub(in crate::libxc) struct PvRestorer {
    width: Width,
    nr_vcpus: u32,
    nr_pfns: u64,
    /// Our p2m and the pages' types: as large as what the guest has, not as what the stream claims.
    leaves: Vec<Option<Box<Leaf>>>,
    /// The pfns of the guest's p2m, in their order.
    frames: Vec<Pfn>,
    /// vCPUs and shared info of the last image or round.
    pub(in crate::libxc) state: PvState,
    /// Pfns to be populated, and their frames.
    pfns: Vec<Pfn>,
    mfns: Vec<Mfn>,
}

#[derive(Debug)]
struct Leaf {
    mfns: [Mfn; LEAF],
    types: [PageType; LEAF],
}

impl PvRestorer {
    pub(in crate::libxc) fn new(domain: &impl RestoreDomain) -> hypervisor::Result<Self> {
        Ok(PvRestorer {
            width: domain.guest_width()?,
            nr_vcpus: domain.info()?.nr_vcpus,
            nr_pfns: 0,
            leaves: Vec::new(),
            frames: Vec::new(),
            state: PvState::default(),
            pfns: Vec::with_capacity(BATCH),
            mfns: Vec::with_capacity(BATCH),
        })
    }

    /// One more than the highest pfn that the guest's p2m has.
    pub(in crate::libxc) const fn nr_pfns(&self) -> u64 {
        self.nr_pfns
    }

    /// X86_PV_INFO: the domain becomes one of this width.
    pub(in crate::libxc) fn info(&mut self, info: PvInfo, domain: &mut impl RestoreDomain) -> hypervisor::Result<()> {
        let width = Width::from_bytes(info.guest_width).unwrap_or(self.width);
        if width != self.width {
            domain.set_guest_width(width)?;
            self.width = width;
        }
        Ok(())
    }

    /// X86_PV_P2M_FRAMES, of which the reader has refused one that leaves a gap, or has another number of frames than the width asks for.
    pub(in crate::libxc) fn frames(&mut self, record: &P2mFrames<'_>) {
        let P2mFrames { start, end, .. } = *record;
        let got = record.pfns().len();
        let first = start as usize / (PAGE_SIZE / self.width.bytes());
        self.nr_pfns = self.nr_pfns.max(u64::from(end) + 1);
        if self.frames.len() < first + got {
            self.frames.resize(first + got, INVALID_MFN);
        }
        for (place, pfn) in self.frames.iter_mut().skip(first).zip(record.pfns()) {
            *place = pfn;
        }
        let leaves = (self.nr_pfns as usize).div_ceil(LEAF);
        if self.leaves.len() < leaves {
            self.leaves.resize_with(leaves, || None);
        }
    }

    /// Whether the domain has a vCPU. The reader has refused a state of another length than the guest's width has.
    pub(in crate::libxc) const fn check_vcpu(&self, vcpu: u32) -> Result<(), PvError> {
        if vcpu < self.nr_vcpus { Ok(()) } else { Err(PvError::Vcpu { vcpu, nr_vcpus: self.nr_vcpus }) }
    }

    fn leaf(&self, pfn: Pfn) -> Option<(&Leaf, usize)> {
        let pfn = usize::try_from(pfn).ok()?;
        Some((self.leaves.get(pfn / LEAF)?.as_ref()?, pfn % LEAF))
    }

    fn leaf_mut(&mut self, pfn: Pfn) -> Option<(&mut Leaf, usize)> {
        let pfn = usize::try_from(pfn).ok()?;
        let leaf = self.leaves.get_mut(pfn / LEAF)?;
        let leaf =
            leaf.get_or_insert_with(|| Box::new(Leaf { mfns: [INVALID_MFN; LEAF], types: [PageType::XTAB; LEAF] }));
        Some((leaf, pfn % LEAF))
    }

    /// The frame of a pfn, where it has one.
    pub(in crate::libxc) fn mfn_of(&self, pfn: Pfn) -> Option<Mfn> {
        let (leaf, at) = self.leaf(pfn)?;
        leaf.mfns.get(at).copied().filter(|&mfn| mfn != INVALID_MFN)
    }

    fn type_of(&self, pfn: Pfn) -> PageType {
        self.leaf(pfn).and_then(|(leaf, at)| leaf.types.get(at).copied()).unwrap_or(PageType::XTAB)
    }

    /// A frame that can stand in a place.
    fn mfn_for(&self, pfn: Pfn, purpose: Use) -> Result<Mfn, FrameProblem> {
        let mfn = self.mfn_of(pfn).ok_or(FrameProblem::Absent)?;
        let page_type = self.type_of(pfn);
        let fits = match purpose {
            Use::Plain => page_type == PageType::NOTAB,
            Use::Root => page_type.table_level() == Some(self.width.levels()),
            Use::Any => true,
        };
        if fits { Ok(mfn) } else { Err(FrameProblem::Type) }
    }

    /// Gives frames to the pfns that have none.
    pub(in crate::libxc) fn populate<D: RestoreDomain>(
        &mut self,
        pfns: impl Iterator<Item = Pfn>,
        domain: &mut D,
    ) -> hypervisor::Result<()> {
        let mut wanted = std::mem::take(&mut self.pfns);
        wanted.clear();
        wanted.extend(pfns.filter(|&pfn| self.mfn_of(pfn).is_none()));
        // The same page may be named twice.
        wanted.sort_unstable();
        wanted.dedup();
        let populated = wanted.chunks(BATCH).try_for_each(|pfns| {
            let mut mfns = std::mem::take(&mut self.mfns);
            mfns.clear();
            mfns.resize(pfns.len(), INVALID_MFN);
            let populated = domain.populate_frames(pfns, &mut mfns);
            // What there is of them is the domain's, also where the rest could not be had.
            for (&pfn, &mfn) in pfns.iter().zip(&mfns) {
                if let Some(place) = self.leaf_mut(pfn).and_then(|(leaf, at)| leaf.mfns.get_mut(at)) {
                    *place = mfn;
                }
            }
            self.mfns = mfns;
            populated
        });
        self.pfns = wanted;
        populated
    }

    /// Remembers what the pages of a batch are.
    pub(in crate::libxc) fn set_types(&mut self, entries: impl Iterator<Item = PageEntry>) {
        for entry in entries {
            // No part of the p2m for holes that nobody has heard of.
            if !entry.page_type.is_populated() && self.leaf(entry.pfn).is_none() {
                continue;
            }
            if let Some(place) = self.leaf_mut(entry.pfn).and_then(|(leaf, at)| leaf.types.get_mut(at)) {
                *place = entry.page_type;
            }
        }
    }

    /// Checks that a page table from the stream names pfns of the guest only.
    pub(in crate::libxc) fn check_table(&self, pfn: Pfn, level: u8, source: &[u8]) -> Result<(), PvError> {
        table::check(source, level, self.nr_pfns).map_err(|error| PvError::Table { pfn, error })
    }

    /// Writes a page as it is to be in memory. All pfns that a table names must have frames.
    pub(in crate::libxc) fn place(&self, entry: PageEntry, source: &[u8], page: &mut Page) -> Result<(), PvError> {
        match entry.page_type.table_level() {
            None => {
                crate::copying::copy(source, page);
                Ok(())
            }
            Some(level) => table::localise(source, page, level, |pfn| self.mfn_of(pfn))
                .map_err(|error| PvError::Table { pfn: entry.pfn, error }),
        }
    }

    /// Everything is there: shared info, vCPUs, pinned tables, the guest's p2m.
    pub(in crate::libxc) fn complete<D: RestoreDomain>(
        &self,
        domain: &mut D,
        rings: Rings,
    ) -> Result<RingFrames, Trouble> {
        let shared_info = domain.shared_info_frame()?;
        match &self.state.shared_info {
            Some(source) => with_page(domain, shared_info, |page| context::shared_info(page, &source[..], self.width))?,
            None => return Err(PvError::Missing("SHARED_INFO").into()),
        }
        let frames = self.set_vcpus(domain, shared_info, rings)?;
        self.pin(domain)?;
        self.write_p2m(domain)?;
        Ok(frames)
    }

    fn set_vcpus<D: RestoreDomain>(
        &self,
        domain: &mut D,
        shared_info: Mfn,
        rings: Rings,
    ) -> Result<RingFrames, Trouble> {
        let mut frames = None;
        for Part { vcpu, part, blob } in &self.state.parts {
            if *part != VcpuRecord::Basic {
                domain.set_vcpu_part(*vcpu, *part, blob)?;
                continue;
            }
            let bad = |error| PvError::Context { vcpu: *vcpu, error };
            let mut local = blob.clone();
            context::localise(&mut local, self.width, *vcpu, |pfn, purpose| self.mfn_for(pfn, purpose)).map_err(bad)?;
            if *vcpu == 0 {
                let start_info = words::EDX.get(&local, self.width);
                let made = with_page(domain, start_info, |page| {
                    let mfn_of = |pfn, purpose| self.mfn_for(pfn, purpose);
                    context::start_info(page, self.width, self.nr_pfns, shared_info, rings, mfn_of)
                })?;
                frames = Some(made.map_err(bad)?);
            }
            domain.set_vcpu_part(*vcpu, *part, &local)?;
        }
        frames.ok_or(Trouble::Pv(PvError::Missing("the state of vCPU 0")))
    }

    fn pin<D: RestoreDomain>(&self, domain: &mut D) -> hypervisor::Result<()> {
        let mut tables = Vec::with_capacity(BATCH);
        for leaf in self.leaves.iter().flatten() {
            for (page_type, &mfn) in leaf.types.iter().zip(&leaf.mfns) {
                if let Some(level) = page_type.table_level().filter(|_| page_type.is_pinned()) {
                    tables.push((level, mfn));
                }
                if tables.len() == BATCH {
                    domain.pin_tables(&tables)?;
                    tables.clear();
                }
            }
        }
        if tables.is_empty() { Ok(()) } else { domain.pin_tables(&tables) }
    }

    /// Tells the guest where its memory is now.
    fn write_p2m<D: RestoreDomain>(&self, domain: &mut D) -> Result<(), Trouble> {
        let per_frame = PAGE_SIZE / self.width.bytes();
        for (index, &pfn) in self.frames.iter().enumerate() {
            let mfn = self.mfn_for(pfn, Use::Plain).map_err(|problem| PvError::P2mFrame { index, pfn, problem })?;
            with_page(domain, mfn, |page| {
                for (at, pfn) in (0..per_frame).zip(index as u64 * per_frame as u64..self.nr_pfns) {
                    words::word().nth(at).set(page, self.width, self.mfn_of(pfn).unwrap_or(INVALID_MFN));
                }
            })?;
        }
        Ok(())
    }
}

/// Changes one page by its frame.
fn with_page<D: RestoreDomain, T>(
    domain: &mut D,
    mfn: Mfn,
    change: impl FnOnce(&mut Page) -> T,
) -> hypervisor::Result<T> {
    let mfns = [mfn];
    let mut pages = domain.map_pages_mut(&mfns)?;
    let page = pages.page_mut(0).ok_or(hypervisor::Error::NotPopulated { pfn: mfn })?;
    Ok(change(page))
}
