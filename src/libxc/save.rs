//! A domain's memory and vCPUs onto a stream.
//!
//! The steps stand for themselves, because their order is the caller's business:
//!
//! | | plain | live | first round of a checkpointed stream | every later one |
//! |---|---|---|---|---|
//! | [`Saver::static_data`] | x | x | x | |
//! | [`Saver::start_log`], [`Saver::precopy`] | | x | x | |
//! | suspend (the domain's) | x | x | x | x |
//! | [`Saver::collect`] | [`Saver::everything`] | x | x | x |
//! | [`Saver::send_pages`], [`Saver::send_state`]; or [`Saver::stage`], resume, [`Round::write`] | x | x | x | x |
//! | before the suspend: [`Saver::stage_ahead`], then [`Saver::stage_rest`] for [`Saver::stage`] | | | | x |
//!
//! [`Saver::image`] is the first two columns in one call. The saver keeps its buffers from batch to batch and from round
//! to round; contents are written from where the domain has them.

use super::added::Added;
use super::precopy::{Limits, Precopy};
use super::pv::PvSaver;
use super::round::Runs;
use super::window::{Window, entries};
use super::{Round, SaveError};
use crate::hypervisor::bitmap::BoundMismatch;
use crate::hypervisor::types::{CleanMode, DomainInfo, DomainKind, Pfn};
use crate::hypervisor::{self, DirtyBitmap, SaveDomain};
use crate::stream::handover::LibxcWriter;
use crate::stream::libxc::{CpuidPolicy, DomainHeader, DomainType, MsrPolicy, Record};
use std::io::Write;

/// The version of libxc's stream that is written: the one that has STATIC_DATA_END.
pub const STREAM_VERSION: u32 = 3;

/// How to save.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Xen's version for the domain header, major and minor.
    pub xen: (u32, u32),
    /// When the rounds that send a running guest's pages end. As Xen's by default.
    pub live: Limits,
    /// Behind a plain live image send VERIFY and all pages once more, for the receiver to compare.
    pub verify: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options { xen: (4, 17), live: Limits::default(), verify: false }
    }
}

/// Saves one domain.
#[derive(Debug)]
pub struct Saver {
    pub(super) options: Options,
    domid: u32,
    pub(super) dirty: DirtyBitmap,
    pub(super) window: Window,
    round: Round,
    /// Pfns whose page went while it was being sent: looked at once more when the guest stands still.
    pub(super) vanished: Vec<Pfn>,
    /// Changes of the domain's memory map of which the log does not tell.
    pub(super) added: Added,
    /// What a PV domain takes besides.
    pub(super) pv: Option<PvSaver>,
}

impl Saver {
    /// A saver for a domain. The p2m of a HVM domain may grow meanwhile; what it grows by is sent as if it had been written.
    ///
    /// # Errors
    /// The hypervisor's; [`SaveError::P2m`].
    pub fn new<D: SaveDomain>(domain: &mut D, options: Options) -> Result<Self, SaveError> {
        let info = domain.info()?;
        let pv = if info.kind == DomainKind::Pv { Some(PvSaver::new(domain)?) } else { None };
        let nr_pfns = pv.as_ref().map_or(info.nr_pfns, PvSaver::nr_pfns);
        Ok(Saver {
            options,
            domid: info.domid,
            window: Window::new(pv.is_some()),
            pv,
            dirty: DirtyBitmap::new(nr_pfns),
            round: Round::default(),
            vanished: Vec::new(),
            added: Added::default(),
        })
    }

    /// The header that the stream begins with.
    pub const fn header(&self) -> DomainHeader {
        let kind = if self.pv.is_some() { DomainType::Pv } else { DomainType::Hvm };
        DomainHeader::new(kind, self.options.xen.0, self.options.xen.1)
    }

    /// Writes what does not change while the guest lives: the CPU policies, and STATIC_DATA_END; of a PV domain also its width,
    /// and behind all this where its p2m is.
    ///
    /// # Errors
    /// The hypervisor's, or the stream's.
    pub fn static_data<W: Write, Home>(
        &self,
        domain: &impl SaveDomain,
        out: &mut LibxcWriter<W, Home>,
    ) -> Result<(), SaveError> {
        if let Some(pv) = &self.pv {
            out.record(&Record::X86PvInfo(pv.info()))?;
        }
        let policy = domain.cpu_policy()?;
        if !policy.cpuid.is_empty() {
            out.record(&Record::X86CpuidPolicy(CpuidPolicy { leaves: &policy.cpuid }))?;
        }
        if !policy.msrs.is_empty() {
            out.record(&Record::X86MsrPolicy(MsrPolicy { entries: &policy.msrs }))?;
        }
        out.record(&Record::StaticDataEnd)?;
        match &self.pv {
            Some(pv) => pv.write_frames(out),
            None => Ok(()),
        }
    }

    /// Has the hypervisor track what the guest writes, behind a look at which pages the guest has, where the log will not tell of others.
    /// The device model's part is libxl's.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn start_log(&mut self, domain: &mut impl SaveDomain) -> Result<(), SaveError> {
        self.added.begin(domain, self.dirty.nr_pfns(), self.pv.as_ref())?;
        domain.enable_log_dirty()?;
        Ok(self.added.begun(domain)?)
    }

    /// Ends the tracking.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn stop_log(&mut self, domain: &mut impl SaveDomain) -> Result<(), SaveError> {
        self.added.end();
        Ok(domain.disable_log_dirty()?)
    }

    /// Names every pfn as one to be sent.
    pub fn everything(&mut self) {
        self.dirty.set_all();
    }

    /// Names one more pfn; false when it is beyond the domain's p2m.
    pub fn also(&mut self, pfn: Pfn) -> bool {
        self.dirty.set(pfn) || self.dirty.contains(pfn)
    }

    /// How many pfns are named.
    pub fn named(&self) -> u64 {
        self.dirty.count()
    }

    /// One more than the highest pfn that can be named.
    pub fn nr_pfns(&self) -> u64 {
        self.dirty.nr_pfns()
    }

    /// Reads which pages a suspended guest has written since the last time, or was given where the log does not tell of that; gives their
    /// number.
    ///
    /// # Errors
    /// [`SaveError::NotSuspended`], or the hypervisor's.
    pub fn collect(&mut self, domain: &mut impl SaveDomain) -> Result<u64, SaveError> {
        let info = self.must_be_suspended(domain)?;
        self.take_log(domain, CleanMode::Final)?;
        self.added.find(domain, &info, &mut self.dirty, self.pv.as_ref())?;
        for pfn in self.vanished.drain(..) {
            self.dirty.set(pfn);
        }
        if let Some(pv) = &mut self.pv {
            pv.check(domain)?;
            pv.take_deferred(&mut self.dirty);
        }
        Ok(self.dirty.count())
    }

    /// Takes the dirty log of a running guest, with what has to be sent again; gives the number of pages that it has written.
    pub(super) fn read_log(&mut self, domain: &mut impl SaveDomain) -> Result<u64, SaveError> {
        self.added.taking(domain)?;
        let dirty = self.take_log(domain, CleanMode::Ongoing)?;
        self.added.taken(domain, &mut self.dirty)?;
        Ok(dirty)
    }

    /// Takes the dirty log; gives the number of dirty pages.
    fn take_log(&mut self, domain: &mut impl SaveDomain, mode: CleanMode) -> Result<u64, SaveError> {
        let known = self.dirty.nr_pfns();
        match domain.clean_log_dirty(&mut self.dirty, mode) {
            // Xen logs what is written, and a page that has just come need not have been.
            Err(hypervisor::Error::BitmapBound(BoundMismatch { expected, .. })) if self.pv.is_none() => {
                log::info!("the guest's p2m has {expected:#x} pfns now, {known:#x} before");
                self.dirty.resize(expected);
                let dirty = domain.clean_log_dirty(&mut self.dirty, mode)?.dirty_count;
                let new = (known..expected).filter(|&pfn| self.dirty.set(pfn)).count();
                Ok(dirty.saturating_add(new as u64))
            }
            read => Ok(read?.dirty_count),
        }
    }

    /// How many pages the log has, which stays as it is. 0 where the p2m has grown, which is looked after when the guest stands still.
    pub(super) fn peek(&mut self, domain: &mut impl SaveDomain) -> Result<u64, SaveError> {
        match domain.peek_log_dirty(&mut self.dirty) {
            Err(hypervisor::Error::BitmapBound(_)) => Ok(0),
            Err(error) => Err(error.into()),
            Ok(_) => Ok(self.dirty.count()),
        }
    }

    fn must_be_suspended(&self, domain: &impl SaveDomain) -> Result<DomainInfo, SaveError> {
        let info = domain.info()?;
        if info.is_suspended() { Ok(info) } else { Err(SaveError::NotSuspended { domid: self.domid }) }
    }

    /// Sends the pages named, from where the domain has them. Gives the number of pfns.
    ///
    /// # Errors
    /// The hypervisor's, or the stream's.
    pub fn send_pages<D: SaveDomain, W: Write, Home>(
        &mut self,
        domain: &D,
        out: &mut LibxcWriter<W, Home>,
    ) -> Result<u64, SaveError> {
        self.send_pages_told(domain, out, &mut |_, _| {})
    }

    /// The same; `told` hears before each batch how many pfns are sent of how many, and at the end that it is all.
    ///
    /// # Errors
    /// The hypervisor's, or the stream's.
    pub fn send_pages_told<D: SaveDomain, W: Write, Home>(
        &mut self,
        domain: &D,
        out: &mut LibxcWriter<W, Home>,
        told: &mut impl FnMut(u64, u64),
    ) -> Result<u64, SaveError> {
        let total = self.dirty.count();
        let still = self.pv.is_some() && domain.info()?.is_suspended();
        let (mut sent, mut next) = (0, Some(0));
        while let Some(from) = next {
            if sent < total {
                told(sent, total);
            }
            next = self.next_window(domain, from, still)?;
            loop {
                match self.send_batches(domain, out, still, &mut sent, |sent| told(sent, total)) {
                    Err(SaveError::Hypervisor(hypervisor::Error::NotPopulated { pfn })) if self.pv.is_none() => {
                        self.leave_out(domain, pfn)?;
                    }
                    result => break result?,
                }
            }
        }
        told(total, total);
        Ok(sent)
    }

    /// Sends the batches looked up. Nothing of them is written when their pages cannot be mapped.
    fn send_batches<D: SaveDomain, W: Write, Home>(
        &mut self,
        domain: &D,
        out: &mut LibxcWriter<W, Home>,
        still: bool,
        sent: &mut u64,
        mut told: impl FnMut(u64),
    ) -> Result<(), SaveError> {
        if let Some(pv) = &mut self.pv {
            let (mapped, pfns, types) = self.window.parts();
            *sent += pfns.len() as u64;
            if pfns.is_empty() {
                return Ok(());
            }
            if mapped.is_empty() {
                return Ok(out.page_data(entries(pfns, types), [])?);
            }
            let pages = domain.map_pages(mapped)?;
            let contents = pv.contents(domain, pfns, types, &pages, still)?;
            return Ok(out.page_data(entries(pfns, types), contents)?);
        }
        let mapped = self.window.mapped();
        let pages = if mapped.is_empty() { None } else { Some(domain.map_pages(mapped)?) };
        let mut first = 0;
        for (batch, entries) in self.window.batches().enumerate() {
            if batch > 0 {
                told(*sent);
            }
            *sent += entries.len() as u64;
            match &pages {
                None => out.page_data(entries, [])?,
                Some(pages) => {
                    let with_contents = entries.clone().filter(|entry| entry.page_type.has_contents()).count();
                    let here = first..first + with_contents;
                    first = here.end;
                    out.page_data(entries, Runs::of(pages, here))?;
                }
            }
        }
        Ok(())
    }

    /// Makes a hole of a page of the batches that a running guest has given back since it was looked up, and of all others that
    /// have gone with it.
    pub(super) fn leave_out(&mut self, domain: &impl SaveDomain, gone: Pfn) -> Result<(), SaveError> {
        if domain.info()?.is_suspended() {
            // Nobody can have taken it away: what the hypervisor says does not add up.
            return Err(hypervisor::Error::NotPopulated { pfn: gone }.into());
        }
        let vanished = &mut self.vanished;
        self.window.leave_out(domain, gone, &mut self.added, |pfn| {
            log::info!("pfn {pfn:#x} has gone while it was being sent: left out until the guest stands still");
            vanished.push(pfn);
        })
    }

    /// Sends the state of a suspended domain.
    ///
    /// # Errors
    /// The hypervisor's, or the stream's.
    pub fn send_state<W: Write, Home>(
        &mut self,
        domain: &impl SaveDomain,
        out: &mut LibxcWriter<W, Home>,
    ) -> Result<(), SaveError> {
        let state = &mut self.round.state;
        match &self.pv {
            None => state.take(domain)?,
            Some(pv) => {
                state.tsc = Some(domain.tsc_info()?);
                pv.take_state(domain, &mut state.pv)?;
            }
        }
        state.write(out)
    }

    /// Saves a whole plain image, up to END: of a running domain, which is suspended on the way and stays so. With
    /// `live` the guest runs while most of its memory is sent.
    ///
    /// # Errors
    /// The hypervisor's, or the stream's. The domain may be suspended then, and tracking may be on.
    pub fn image<D: SaveDomain, W: Write, Home>(
        &mut self,
        domain: &mut D,
        out: &mut LibxcWriter<W, Home>,
        live: bool,
    ) -> Result<Precopy, SaveError> {
        self.static_data(domain, out)?;
        let mut sent = Precopy::default();
        if live {
            self.start_log(domain)?;
            sent = self.precopy(domain, out)?;
        }
        domain.suspend()?;
        if live {
            self.collect(domain)?;
        } else {
            self.must_be_suspended(domain)?;
            self.everything();
        }
        self.send_pages(domain, out)?;
        if live && self.options.verify {
            out.record(&Record::Verify)?;
            self.everything();
            self.send_pages(domain, out)?;
        }
        self.send_state(domain, out)?;
        if live {
            self.stop_log(domain)?;
        }
        Ok(sent)
    }

    /// Looks up the next pages to send; gives where to go on. `still`: the domain is suspended.
    pub(super) fn next_window(
        &mut self,
        domain: &impl SaveDomain,
        from: Pfn,
        still: bool,
    ) -> Result<Option<Pfn>, SaveError> {
        self.window.look_up(domain, &self.dirty, from, self.pv.as_mut(), &mut self.added, still)
    }
}
