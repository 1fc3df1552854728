//! A round copied into memory of our own, so that the guest need not stand still while it is written.
//!
//! What the guest has written long before a checkpoint need not be copied while it stands still either: [`Saver::stage_ahead`]
//! takes the dirty log and copies those pages while the guest runs. What it writes from then on is in the log anew and is copied by
//! [`Saver::stage_rest`] over what is there, when it stands still. That is sound for the reason for which live rounds are: the log
//! is taken *before* the pages are mapped. A page that the guest writes, or that is given to the pfn and written, behind that
//! moment is in the log again; so a copy that is torn or stale is one that is made once more.
#![forbid(unsafe_code)]

use super::save::Saver;
use super::window::entries;
use super::{Round, SaveError};
use crate::hypervisor::{self, SaveDomain};

impl Saver {
    /// Copies the pages named and the state of a suspended domain into `round`, replacing what it had. The guest may run
    /// on as soon as this has returned; [`Round::write`] sends the copy.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn stage<D: SaveDomain>(&mut self, domain: &D, round: &mut Round) -> Result<(), SaveError> {
        round.clear();
        self.stage_rest(domain, round)
    }

    /// How many pages a running guest has written since the log was taken last. 0 for a PV guest, nothing of which can be staged
    /// ahead: its page tables are made ready for the stream while they stand still. 0 too where the p2m has grown, which is looked
    /// after when the guest stands still.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn written(&mut self, domain: &mut impl SaveDomain) -> Result<u64, SaveError> {
        if self.pv.is_some() {
            return Ok(0);
        }
        self.peek(domain)
    }

    /// Copies what a running guest has written since the last time into `round`, replacing what it had. Not for a PV guest
    /// ([`Saver::written`] is 0 then).
    ///
    /// # Errors
    /// The hypervisor's. What was dirty is lost to the log then: the replica needs a whole image.
    pub fn stage_ahead<D: SaveDomain>(&mut self, domain: &mut D, round: &mut Round) -> Result<(), SaveError> {
        round.clear();
        round.reserve(usize::try_from(self.read_log(domain)?).unwrap_or(0));
        let mut next = Some(0);
        while let Some(from) = next {
            next = self.next_window(domain, from, false)?;
            while !self.window.mapped().is_empty() {
                let gone = match domain.map_pages(self.window.mapped()) {
                    Err(hypervisor::Error::NotPopulated { pfn }) => pfn,
                    pages => {
                        round.add_ahead(self.window.entries(), &pages?);
                        break;
                    }
                };
                self.leave_out(domain, gone)?;
            }
            // What is a hole now is looked at again when nothing changes any more.
            let holes = self.window.entries().filter(|entry| !entry.page_type.has_contents());
            self.vanished.extend(holes.map(|entry| entry.pfn));
        }
        Ok(())
    }

    /// Drops the pages of a round that [`Saver::stage_ahead`] has begun, and names them instead: the guest is suspended, and what is
    /// left to send has become too much for a copy.
    pub fn unstage(&mut self, round: &mut Round) {
        for entry in round.entries() {
            self.dirty.set(entry.pfn);
        }
        round.clear();
    }

    /// Copies the pages named and the state of a suspended domain into a round that [`Saver::stage_ahead`] has begun, over what
    /// it has of the same pages.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn stage_rest<D: SaveDomain>(&mut self, domain: &D, round: &mut Round) -> Result<(), SaveError> {
        round.reserve(usize::try_from(self.dirty.count()).unwrap_or(0));
        let mut next = Some(0);
        while let Some(from) = next {
            next = self.next_window(domain, from, true)?;
            let (mapped, pfns, types) = self.window.parts();
            if mapped.is_empty() {
                round.add_empty(entries(pfns, types));
                continue;
            }
            let pages = domain.map_pages(mapped)?;
            match &mut self.pv {
                None => round.add_pages(entries(pfns, types), &pages),
                Some(pv) => {
                    let contents = pv.contents(domain, pfns, types, &pages, true)?;
                    round.add_contents(entries(pfns, types), &contents);
                }
            }
        }
        round.drop_replaced();
        match &self.pv {
            None => round.state.take(domain),
            Some(pv) => {
                round.state.tsc = Some(domain.tsc_info()?);
                pv.take_state(domain, &mut round.state.pv)
            }
        }
    }
}
