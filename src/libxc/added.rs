//! Pages that have come to the guest while its writes are tracked, and of which the dirty log does not tell.
//!
//! A guest may give memory back and take it again (a balloon), and a device's memory may move. On hardware-assisted paging, Xen enters a
//! page that comes as one that may be written to, and tracks the writes to it only from the next taking of the log on. Before 4.19.5,
//! 4.20.3 and 4.21.1 it does not put the page into the log either: what it holds is in no round, and if it is not written to later, for
//! good. Of a PV guest no Xen does: the p2m's own page is logged, and not the frame that the guest was given.
//!
//! So whatever had no page at the last look and has one now counts as written. What had no page is known from the look at all of them
//! after which the log is begun ([`Added::begin`]), and from then on from the types that are looked up for each page sent
//! ([`Added::note`]). Two things follow:
//!
//! * Only a look at a suspended guest makes a page known as present. One seen to have a page while the guest runs may have got it
//!   after the last taking of the log, and what is written to it from then on is not tracked. Counting it when the guest is suspended is
//!   enough: the log is taken after it is suspended, so its writes are tracked.
//! * A page that comes before the look at the beginning is tracked from the log's beginning on.
//!
//! ## What is looked at
//!
//! The types of all holes would be the certain answer, and may be a million of hypercall entries (a PC's hole below 4 GiB) while the guest
//! is suspended. The number of the domain's pages and its highest gfn cost nothing, and are no proof that nothing has changed: a balloon
//! that gives one page and takes another leaves both as they are. Therefore, of a HVM guest, in this order:
//!
//! 1. What was once seen to go, always: a balloon takes what it has given. As many as are away.
//! 2. New pfns at the end, when the highest has changed.
//! 3. One hypercall's worth of all others, going round: what the signs are silent about does not stay unknown.
//! 4. Where anything was found, or the number of pages has changed: the pages of this round's log, for a balloon clears what it gives
//!    back, so what went is mostly in it.
//! 5. Where the number of pages that have come and gone, as found, is not that by which the domain's number of pages has changed: the holes
//!    that never had a page, and if it still is not, all that is left.
//!
//! The cost is that of what changed; 5 costs what the first round's look costs, and comes where the guest gives memory back without having
//! written to it, or takes memory where it never had any.
//!
//! ## What it does not tell
//!
//! A page that goes and another one that comes in the same interval, where the first was not written to in this interval and the second
//! comes to the same pfn, or to one that never had a page: neither the number of pages nor the types of the pages that are looked at have
//! changed. The second kind is found when 3 comes to it, after at most one checkpoint for each 1,024 pfns. The first kind is not found;
//! Linux' balloon does not do it, as it clears a page before it gives it back.
//!
//! What is sent by a log that was taken while the guest runs is another matter: a page may have gone before the taking and be back when it
//! is looked at ([`super::returning`]).
//!
//! Of a PV guest the p2m is mapped: all its holes are looked at each time, without a hypercall.
#![forbid(unsafe_code)]

use super::pv::PvSaver;
use super::returning::Returning;
use crate::hypervisor::types::{DomainInfo, PageType, Pfn};
use crate::hypervisor::{self, DirtyBitmap, INVALID_MFN, Mfn, SaveDomain};

/// Pfns whose types are asked for at a time.
const BATCH: usize = 1024;

/// What a saver knows of the pages that a domain has.
#[derive(Debug, Default)]
pub(super) struct Added {
    /// Without it, the log is enough.
    looking: Option<Looking>,
}

#[derive(Debug)]
struct Looking {
    /// Pfns without a page when they were looked at last.
    empty: DirtyBitmap,
    /// Those of them that have had one since the log began.
    had: DirtyBitmap,
    /// How many those are.
    away: u64,
    /// The domain's number of pages at the last look.
    populated: u64,
    /// Where the look that goes round goes on.
    cursor: Pfn,
    /// Of a PV guest there is none: the writes to a frame are tracked from the first on.
    returning: Option<Returning>,
}

/// Pages that a look has found to have come, and to have gone.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Found {
    came: u64,
    went: u64,
}

impl Added {
    /// Looks at all pages of a domain whose log is about to be begun; not where the log will tell.
    ///
    /// # Errors
    /// The hypervisor's.
    pub(super) fn begin(
        &mut self,
        domain: &impl SaveDomain,
        nr_pfns: u64,
        pv: Option<&PvSaver>,
    ) -> hypervisor::Result<()> {
        self.looking = None;
        if pv.is_none() && domain.logs_additions() {
            return Ok(());
        }
        let (empty, had) = (DirtyBitmap::new(nr_pfns), DirtyBitmap::new(nr_pfns));
        let populated = domain.info()?.populated;
        let returning = pv.is_none().then(|| Returning::new(nr_pfns, populated));
        let mut looking = Looking { empty, had, away: 0, populated, cursor: 0, returning };
        match pv {
            Some(pv) => {
                (0..nr_pfns).filter(|&pfn| !pv.has_frame(domain, pfn)).for_each(|pfn| {
                    looking.empty.set(pfn);
                });
            }
            None => {
                looking.look(domain, 0..nr_pfns, |_| {})?;
                // Seen for the first time: nobody knows whether they have had one.
                looking.had.clear_all();
                looking.away = 0;
                if let Some(returning) = &mut looking.returning {
                    returning.counted(domain.info()?.populated);
                }
            }
        }
        log::debug!("{} of {nr_pfns:#x} pfns are without a page", looking.empty.count());
        self.looking = Some(looking);
        Ok(())
    }

    /// The log has begun.
    ///
    /// # Errors
    /// The hypervisor's.
    pub(super) fn begun(&mut self, domain: &impl SaveDomain) -> hypervisor::Result<()> {
        if let Some(returning) = self.returning() {
            returning.begun(domain.info()?.populated);
        }
        Ok(())
    }

    /// The log of a running domain is about to be taken.
    ///
    /// # Errors
    /// The hypervisor's.
    pub(super) fn taking(&mut self, domain: &impl SaveDomain) -> hypervisor::Result<()> {
        if let Some(returning) = self.returning() {
            returning.counted(domain.info()?.populated);
        }
        Ok(())
    }

    /// `log` was taken of a running domain. What of earlier ones has to be sent again is added.
    ///
    /// # Errors
    /// The hypervisor's.
    pub(super) fn taken(&mut self, domain: &impl SaveDomain, log: &mut DirtyBitmap) -> hypervisor::Result<()> {
        if let Some(returning) = self.returning() {
            returning.counted(domain.info()?.populated);
            returning.taken(log);
        }
        Ok(())
    }

    fn returning(&mut self) -> Option<&mut Returning> {
        self.looking.as_mut()?.returning.as_mut()
    }

    /// Forgets all: the log is off.
    pub(super) fn end(&mut self) {
        self.looking = None;
    }

    /// Takes note of pages that were looked up for a round and have none. Of a PV guest, the frames count.
    pub(super) fn note(&mut self, pfns: &[Pfn], frames: &[Mfn], types: &[PageType]) {
        let Some(looking) = &mut self.looking else { return };
        if frames.is_empty() {
            let gone = pfns.iter().zip(types).filter(|(_, kind)| **kind == PageType::XTAB);
            for (&pfn, _) in gone {
                looking.gone(pfn);
                if let Some(returning) = &mut looking.returning {
                    returning.absent(pfn);
                }
            }
        } else {
            let gone = pfns.iter().zip(frames).filter(|(_, frame)| **frame == INVALID_MFN);
            gone.for_each(|(&pfn, _)| looking.gone(pfn));
        }
    }

    /// Adds the pages that have come since the last time to `dirty`, the log just taken of a suspended domain, of which `info` was
    /// said by then.
    ///
    /// # Errors
    /// The hypervisor's.
    pub(super) fn find(
        &mut self,
        domain: &impl SaveDomain,
        info: &DomainInfo,
        dirty: &mut DirtyBitmap,
        pv: Option<&PvSaver>,
    ) -> hypervisor::Result<()> {
        let Some(looking) = &mut self.looking else { return Ok(()) };
        match pv {
            Some(pv) => looking.find_frames(domain, pv, dirty),
            None => {
                let mut sign = looking.find(domain, info, dirty)? != Found::default();
                if let Some(returning) = &mut looking.returning {
                    // Nobody has looked yet at the pages of the log just taken.
                    if !sign && returning.is_waiting() {
                        sign = is_any_absent(domain, dirty)?;
                    }
                    returning.suspended(info.populated, sign, dirty);
                }
            }
        }
        Ok(())
    }
}

impl Looking {
    /// A pfn has no page.
    fn gone(&mut self, pfn: Pfn) {
        if self.empty.set(pfn) && self.had.set(pfn) {
            self.away += 1;
        }
    }

    /// A pfn has a page, by a look at a suspended guest; gives whether it had none.
    fn came(&mut self, pfn: Pfn) -> bool {
        self.away -= u64::from(self.had.clear(pfn));
        self.empty.clear(pfn)
    }

    /// As [`Added::find`]; gives what was found.
    fn find(
        &mut self,
        domain: &impl SaveDomain,
        info: &DomainInfo,
        dirty: &mut DirtyBitmap,
    ) -> hypervisor::Result<Found> {
        let known = self.empty.nr_pfns();
        let mut found = Found::default();
        if info.nr_pfns > known {
            self.empty.resize(info.nr_pfns);
            self.had.resize(info.nr_pfns);
            for pfn in known..info.nr_pfns {
                self.empty.set(pfn);
            }
            self.look_into(domain, known..info.nr_pfns, dirty, &mut found)?;
        }
        if self.away > 0 {
            let away: Vec<Pfn> = self.had.iter().collect();
            self.look_into(domain, away, dirty, &mut found)?;
        }

        let end = self.cursor.saturating_add(BATCH as u64).min(known);
        self.look_into(domain, self.cursor..end, dirty, &mut found)?;
        self.cursor = if end < known { end } else { 0 };

        let before = std::mem::replace(&mut self.populated, info.populated);
        if found == Found::default() && before == info.populated && known == info.nr_pfns {
            return Ok(found);
        }
        let logged: Vec<Pfn> = dirty.iter().filter(|&pfn| !self.empty.contains(pfn)).collect();
        self.look_into(domain, logged, dirty, &mut found)?;
        if !found.explains(before, info.populated) {
            let never: Vec<Pfn> = self.empty.iter().filter(|&pfn| !self.had.contains(pfn)).collect();
            self.look_into(domain, never, dirty, &mut found)?;
        }
        if !found.explains(before, info.populated) {
            let left: Vec<Pfn> =
                (0..info.nr_pfns).filter(|&pfn| !self.empty.contains(pfn) && !dirty.contains(pfn)).collect();
            self.look_into(domain, left, dirty, &mut found)?;
        }
        log::debug!("{} pages have come that the log does not tell of, {} have gone", found.came, found.went);
        Ok(found)
    }

    fn find_frames(&mut self, domain: &impl SaveDomain, pv: &PvSaver, dirty: &mut DirtyBitmap) {
        let came: Vec<Pfn> = self.empty.iter().filter(|&pfn| pv.has_frame(domain, pfn)).collect();
        for pfn in came {
            self.came(pfn);
            dirty.set(pfn);
        }
    }

    /// Looks at pages, adds those that have come to `dirty`, and counts.
    fn look_into(
        &mut self,
        domain: &impl SaveDomain,
        pfns: impl IntoIterator<Item = Pfn>,
        dirty: &mut DirtyBitmap,
        found: &mut Found,
    ) -> hypervisor::Result<()> {
        let here = self.look(domain, pfns, |pfn| {
            dirty.set(pfn);
        })?;
        found.came += here.came;
        found.went += here.went;
        Ok(())
    }

    /// Looks at pages; `came` hears of each that has come.
    fn look(
        &mut self,
        domain: &impl SaveDomain,
        pfns: impl IntoIterator<Item = Pfn>,
        mut came: impl FnMut(Pfn),
    ) -> hypervisor::Result<Found> {
        let (mut batch, mut types) = (Vec::with_capacity(BATCH), Vec::with_capacity(BATCH));
        let mut pfns = pfns.into_iter();
        let mut found = Found::default();
        loop {
            batch.clear();
            batch.extend(pfns.by_ref().take(BATCH));
            if batch.is_empty() {
                return Ok(found);
            }
            types.clear();
            types.resize(batch.len(), PageType::XTAB);
            domain.page_types(&batch, &mut types)?;
            for (&pfn, &kind) in batch.iter().zip(&types) {
                if kind == PageType::XTAB {
                    found.went += u64::from(!self.empty.contains(pfn));
                    self.gone(pfn);
                } else if self.came(pfn) {
                    came(pfn);
                    found.came += 1;
                }
            }
        }
    }
}

/// Whether any of these has no page.
fn is_any_absent(domain: &impl SaveDomain, pfns: &DirtyBitmap) -> hypervisor::Result<bool> {
    let (mut batch, mut types) = (Vec::with_capacity(BATCH), Vec::with_capacity(BATCH));
    let mut next = Some(0);
    while let Some(from) = next {
        next = pfns.next_batch(from, BATCH, &mut batch);
        types.clear();
        types.resize(batch.len(), PageType::XTAB);
        if !batch.is_empty() {
            domain.page_types(&batch, &mut types)?;
        }
        if types.contains(&PageType::XTAB) {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Found {
    /// Whether this is by how much a domain's number of pages has changed.
    const fn explains(self, before: u64, now: u64) -> bool {
        before.saturating_add(self.came) == now.saturating_add(self.went)
    }
}
