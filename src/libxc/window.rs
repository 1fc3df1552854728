//! The pages of a domain that a saver looks up and maps at a time.
//!
//! Each mapping has a price of its own, whatever its size; but it must not be kept for long: the page of a translated guest's pfn may be
//! taken away and another put in its place, and a mapping goes on showing the first. So what is mapped is mapped anew in each round,
//! just behind the look at its types.
#![forbid(unsafe_code)]

use super::SaveError;
use super::added::Added;
use super::pv::PvSaver;
use crate::hypervisor::types::{PageType, Pfn};
use crate::hypervisor::{DirtyBitmap, Mfn, SaveDomain};
use crate::stream::libxc::{BATCH, PageEntry};

/// Batches of the stream in a window of a HVM domain. Those of a PV domain come one by one.
const BATCHES: usize = 4;

/// A part of a domain's pages in the order of their pfns, with the types that they had when they were looked up.
#[derive(Debug)]
pub(super) struct Window {
    most: usize,
    pfns: Vec<Pfn>,
    /// Of a PV domain, those of the pfns.
    frames: Vec<Mfn>,
    types: Vec<PageType>,
    /// Whether all pages have contents.
    whole: bool,
    /// Frames of the pages that have contents, where not all have some.
    with_contents: Vec<Mfn>,
}

impl Window {
    pub(super) fn new(pv: bool) -> Self {
        let most = if pv { BATCH } else { BATCHES * BATCH };
        let frames = if pv { Vec::with_capacity(most) } else { Vec::new() };
        let (pfns, types) = (Vec::with_capacity(most), Vec::with_capacity(most));
        Window { most, pfns, frames, types, whole: true, with_contents: Vec::new() }
    }

    /// Takes the next pages of `dirty` from pfn `from` on, and looks up what they are; gives where to go on. `still`: the
    /// domain is suspended.
    ///
    /// # Errors
    /// The hypervisor's.
    pub(super) fn look_up(
        &mut self,
        domain: &impl SaveDomain,
        dirty: &DirtyBitmap,
        from: Pfn,
        pv: Option<&mut PvSaver>,
        added: &mut Added,
        still: bool,
    ) -> Result<Option<Pfn>, SaveError> {
        let next = dirty.next_batch(from, self.most, &mut self.pfns);
        if let Some(pv) = pv {
            pv.translate(domain, &self.pfns, &mut self.frames, still);
        }
        self.look_again(domain)?;
        added.note(&self.pfns, &self.frames, &self.types);
        Ok(next)
    }

    /// Looks up once more what the pages are.
    fn look_again(&mut self, domain: &impl SaveDomain) -> Result<(), SaveError> {
        self.types.clear();
        self.types.resize(self.pfns.len(), PageType::XTAB);
        if !self.pfns.is_empty() {
            domain.page_types(frames_of(&self.pfns, &self.frames), &mut self.types)?;
        }
        self.note_contents();
        Ok(())
    }

    fn note_contents(&mut self) {
        self.with_contents.clear();
        self.whole = self.types.iter().all(|page_type| page_type.has_contents());
        if !self.whole {
            let frames = frames_of(&self.pfns, &self.frames).iter().zip(&self.types);
            self.with_contents.extend(frames.filter(|(_, kind)| kind.has_contents()).map(|(&frame, _)| frame));
        }
    }

    /// The frames to be mapped: those of the pages that have contents.
    pub(super) fn mapped(&self) -> &[Mfn] {
        if self.whole { frames_of(&self.pfns, &self.frames) } else { &self.with_contents }
    }

    /// The pages with their types.
    pub(super) fn entries(&self) -> impl ExactSizeIterator<Item = PageEntry> + Clone {
        entries(&self.pfns, &self.types)
    }

    /// The same in batches of the stream.
    pub(super) fn batches(&self) -> impl Iterator<Item = impl ExactSizeIterator<Item = PageEntry> + Clone> {
        self.pfns.chunks(BATCH).zip(self.types.chunks(BATCH)).map(|(pfns, types)| entries(pfns, types))
    }

    /// The frames to be mapped, and the pages with their types, which may be changed while those are mapped.
    pub(super) fn parts(&mut self) -> (&[Mfn], &[Pfn], &mut [PageType]) {
        let mapped = if self.whole { frames_of(&self.pfns, &self.frames) } else { &self.with_contents };
        (mapped, &self.pfns, &mut self.types)
    }

    /// Makes a hole of the page of `gone`, which a running HVM guest has given back since it was looked up, and of all others that have
    /// gone with it, each of which is told.
    ///
    /// # Errors
    /// The hypervisor's.
    pub(super) fn leave_out(
        &mut self,
        domain: &impl SaveDomain,
        gone: Pfn,
        added: &mut Added,
        mut told: impl FnMut(Pfn),
    ) -> Result<(), SaveError> {
        let before = std::mem::take(&mut self.types);
        self.types.reserve_exact(self.most);
        self.look_again(domain)?;
        for ((&pfn, before), now) in self.pfns.iter().zip(before).zip(&mut self.types) {
            let went = before.has_contents() && (pfn == gone || !now.has_contents());
            if went {
                told(pfn);
            }
            // What has become a page meanwhile is in the log, or found when the guest is suspended.
            *now = if went { PageType::XTAB } else { before };
        }
        added.note(&self.pfns, &self.frames, &self.types);
        self.note_contents();
        Ok(())
    }
}

/// The frames by which the hypervisor knows the pages.
const fn frames_of<'a>(pfns: &'a [Pfn], frames: &'a [Mfn]) -> &'a [Mfn] {
    if frames.is_empty() { pfns } else { frames }
}

/// Pages as a stream has them.
pub(super) fn entries(pfns: &[Pfn], types: &[PageType]) -> impl ExactSizeIterator<Item = PageEntry> + Clone {
    pfns.iter().zip(types).map(|(&pfn, &page_type)| PageEntry { page_type, pfn })
}
