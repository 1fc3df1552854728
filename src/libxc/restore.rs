//! A domain's memory and vCPUs from a stream.
//!
//! The first image is applied as it arrives ([`Restorer::first_image`]). Every later round of a checkpointed stream is
//! taken whole into a [`Round`] ([`Restorer::receive`]) and only then applied ([`Restorer::prepare`],
//! [`Restorer::commit`]), so that the domain is at one checkpoint or at the next and never between two. At the end
//! [`Restorer::complete`] makes the domain fit to run.
//!
//! Pages, TSC and parameters are set in stream order and the HVM context behind them, as Xen's restorer does. In later
//! rounds the context goes first: it is what the hypervisor may refuse, and then nothing else has changed yet.

use super::pv::{PvRestorer, PvState, PvTrouble, table};
use super::{RestoreError, Round};
use crate::hypervisor::types::{CpuPolicy, DomainKind, GrantSeed, HvmParam, PAGE_SIZE, Page, Pfn, TscInfo, ZERO_PAGE};
use crate::hypervisor::{self, INVALID_MFN, Mfn, PageBatch, PageBatchMut, RestoreDomain, hvm_param};
use crate::stream::framer::Item;
use crate::stream::handover::LibxcReader;
use crate::stream::libxc::{BATCH, DomainHeader, DomainType, MAX_BODY, PageData, PageEntry, Record, VcpuBlob};
use crate::stream::reader::Contents;
use std::io::Read;

/// Pages that differ in a VERIFY pass and are named in the log; all are counted.
const NAMED_DIFFERENCES: u64 = 16;

/// How to restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// Pages at and beyond this pfn are refused; without a value what the domain says of itself counts.
    pub nr_pfns: Option<u64>,
    /// Most bytes that a buffered checkpoint may have. Without a value its pages may have as many as the domain may have memory, for
    /// no sender has a page in a checkpoint twice, and all else as many as one record. The reader's own buffer for a record comes on
    /// top.
    pub round_limit: Option<u64>,
    /// The domain's rings on this host.
    pub rings: Rings,
}

/// Bytes that a buffered checkpoint of a domain with so many bytes of memory may take: each page once, and as many as one record has for
/// all else, with the room that a record takes while it is read.
pub const fn whole_checkpoint(memory: u64) -> u64 {
    memory.saturating_add(2 * MAX_BODY as u64)
}

/// Who serves the restored domain's xenstore and console rings, and over which event channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rings {
    /// The domain's event channel for xenstore.
    pub store_evtchn: u32,
    /// The domain that serves xenstore.
    pub store_domid: u32,
    /// The domain's event channel for the console.
    pub console_evtchn: u32,
    /// The domain that serves the console.
    pub console_domid: u32,
}

/// How libxc's turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// END: the image is complete.
    End,
    /// CHECKPOINT: libxl's part of the checkpoint follows.
    Checkpoint,
}

/// What a VERIFY pass found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Verified {
    /// Pages compared.
    pub pages: u64,
    /// Pages that differ.
    pub different: u64,
    /// The first of them.
    pub first: Option<Pfn>,
}

/// Which static data the stream did not have, so that the toolstack has to make it up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Missing {
    /// No X86_CPUID_POLICY.
    pub cpuid: bool,
    /// No X86_MSR_POLICY.
    pub msrs: bool,
}

/// Restores one domain.
#[derive(Debug)]
pub struct Restorer {
    options: Options,
    nr_pfns: u64,
    /// Bytes of memory that the domain may have.
    memory: u64,
    policy: CpuPolicy,
    missing: Option<Missing>,
    verified: Option<Verified>,
    /// The context to be set; behind the first checkpoint the one that is set.
    context: Vec<u8>,
    store_gfn: Pfn,
    console_gfn: Pfn,
    pfns: Vec<Pfn>,
    /// Those of a PV domain's batch, as frames.
    frames: Vec<Mfn>,
    /// What a PV domain takes besides.
    pv: Option<PvRestorer>,
    offset: u64,
}

impl Restorer {
    /// A restorer for an empty, paused domain.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn new(domain: &impl RestoreDomain, options: Options) -> Result<Self, RestoreError> {
        let failed = |error| RestoreError::Hypervisor { offset: 0, error };
        let info = domain.info().map_err(failed)?;
        let nr_pfns = options.nr_pfns.unwrap_or(info.nr_pfns);
        let pv = match info.kind {
            DomainKind::Pv => Some(PvRestorer::new(domain).map_err(failed)?),
            DomainKind::Hvm => None,
        };
        Ok(Restorer {
            options,
            nr_pfns,
            memory: info.max_pages.saturating_mul(PAGE_SIZE as u64),
            policy: CpuPolicy::default(),
            missing: None,
            verified: None,
            context: Vec::new(),
            store_gfn: 0,
            console_gfn: 0,
            pfns: Vec::with_capacity(BATCH),
            frames: Vec::new(),
            pv,
            offset: 0,
        })
    }

    /// What the VERIFY pass found; `None` when the stream has none. A difference is no error, as with Xen's restorer.
    pub const fn verified(&self) -> Option<Verified> {
        self.verified
    }

    /// Which static data was missing; `None` before its end.
    pub const fn missing(&self) -> Option<Missing> {
        self.missing
    }

    /// gfns of the xenstore and console rings, 0 when the stream has not named them.
    pub const fn ring_gfns(&self) -> (Pfn, Pfn) {
        (self.store_gfn, self.console_gfn)
    }

    /// Reads libxc's headers.
    ///
    /// # Errors
    /// The stream's, or [`RestoreError::Kind`].
    pub fn headers<R: Read, Home>(&mut self, reader: &mut LibxcReader<R, Home>) -> Result<DomainHeader, RestoreError> {
        let (_, header) = reader.headers()?;
        // The reader has refused other types than these two.
        let kind = header.domain_type().unwrap_or(DomainType::Hvm);
        if (kind == DomainType::Pv) != self.pv.is_some() {
            return Err(RestoreError::Kind(kind));
        }
        Ok(header)
    }

    /// Reads the first image, or the only one, and applies it as it arrives.
    ///
    /// # Errors
    /// The stream's, the hypervisor's, [`RestoreError::Pfn`].
    pub fn first_image<R: Read, Home, D: RestoreDomain>(
        &mut self,
        reader: &mut LibxcReader<R, Home>,
        domain: &mut D,
    ) -> Result<Ending, RestoreError> {
        self.first_image_told(reader, domain, &mut |_| Ok::<_, RestoreError>(()))
    }

    /// The same; `told` hears at the end of the static data what of it is missing, before any memory is given, and may
    /// end the restore.
    ///
    /// # Errors
    /// As [`Restorer::first_image`], or that of `told`.
    pub fn first_image_told<R: Read, Home, D: RestoreDomain, E: From<RestoreError>>(
        &mut self,
        reader: &mut LibxcReader<R, Home>,
        domain: &mut D,
        told: &mut impl FnMut(Missing) -> Result<(), E>,
    ) -> Result<Ending, E> {
        loop {
            // Contents of a HVM domain's pages are read to where they belong; those of a PV domain's and those to be compared are
            // looked at first.
            if D::LONG_RUNS && self.pv.is_none() && self.verified.is_none() {
                let Some((item, record, mut contents)) = reader.next_held().map_err(RestoreError::from)? else { break };
                self.offset = item.offset;
                if let Record::PageData(pages) = record {
                    if self.missing.is_none() {
                        told(self.end_static_data(domain)?)?;
                    }
                    self.page_data_held(&pages, &mut contents, domain)?;
                } else if let Some(ending) = self.first_record(&item, &record, domain, told)? {
                    return Ok(ending);
                }
            } else {
                let Some((item, record)) = reader.next_record().map_err(RestoreError::from)? else { break };
                self.offset = item.offset;
                if let Some(ending) = self.first_record(&item, &record, domain, told)? {
                    return Ok(ending);
                }
            }
        }
        Err(RestoreError::Unexpected { record: "the end of libxc's turn", offset: reader.offset() }.into())
    }

    /// Applies a record of the first image; tells when it is the last.
    fn first_record<D: RestoreDomain, E: From<RestoreError>>(
        &mut self,
        item: &Item<'_>,
        record: &Record<'_>,
        domain: &mut D,
        told: &mut impl FnMut(Missing) -> Result<(), E>,
    ) -> Result<Option<Ending>, E> {
        match *record {
            Record::End => return Ok(Some(Ending::End)),
            Record::Checkpoint => return Ok(Some(Ending::Checkpoint)),
            Record::X86PvInfo(info) => {
                let pv = self.pv.as_mut().ok_or(unexpected(record, item.offset))?;
                pv.info(info, domain).map_err(|error| RestoreError::Hypervisor { offset: item.offset, error })?;
            }
            Record::X86PvP2mFrames(frames) => {
                if self.missing.is_none() {
                    told(self.end_static_data(domain)?)?;
                }
                let pv = self.pv.as_mut().ok_or(unexpected(record, item.offset))?;
                pv.frames(&frames);
                self.nr_pfns = pv.nr_pfns().min(self.options.nr_pfns.unwrap_or(u64::MAX));
            }
            Record::SharedInfo(page) => {
                let pv = self.pv.as_mut().ok_or(unexpected(record, item.offset))?;
                pv.state.shared_info = <Page>::try_from(page).ok().map(Box::new);
            }
            Record::X86PvVcpu(part) => {
                let pv = self.pv.as_mut().ok_or(unexpected(record, item.offset))?;
                take_part(pv, &part, None, item.offset)?;
            }
            Record::X86CpuidPolicy(policy) => self.policy.cpuid = policy.leaves.to_vec(),
            Record::X86MsrPolicy(policy) => self.policy.msrs = policy.entries.to_vec(),
            Record::StaticDataEnd => told(self.end_static_data(domain)?)?,
            Record::PageData(pages) => {
                if self.missing.is_none() {
                    told(self.end_static_data(domain)?)?;
                }
                self.page_data(&pages, domain)?;
            }
            Record::Verify => self.verified = Some(Verified::default()),
            Record::X86TscInfo(tsc) => self.set_tsc(tsc, domain)?,
            Record::HvmParams(params) => self.set_params(params.params(), domain)?,
            Record::HvmContext(blob) => {
                self.context.clear();
                self.context.extend_from_slice(blob);
            }
            // Of no use to a HVM domain, or not known and optional.
            Record::Toolstack(_) | Record::Optional { .. } => {}
            _ => return Err(unexpected(record, item.offset).into()),
        }
        Ok(None)
    }

    /// Reads a later round into `round`, replacing what it had. Nothing of it is applied.
    ///
    /// # Errors
    /// The stream's, also of a round without the state of its vCPUs, [`RestoreError::RoundLimit`],
    /// [`RestoreError::RoundMemory`], [`RestoreError::Pfn`]. The domain is at the checkpoint before, and `round` is of no use.
    pub fn receive<R: Read, Home>(
        &mut self,
        reader: &mut LibxcReader<R, Home>,
        round: &mut Round,
    ) -> Result<Ending, RestoreError> {
        round.clear();
        while let Some((item, record)) = reader.next_record()? {
            self.offset = item.offset;
            let ending = match record {
                Record::End => Ending::End,
                Record::Checkpoint => Ending::Checkpoint,
                Record::PageData(pages) => {
                    let contents = pages.contents().map_or(0, <[u8]>::len);
                    let entries = pages.count() * size_of::<PageEntry>();
                    self.check_limit(round, contents, entries)?;
                    for entry in pages.entries() {
                        self.check_pfn(entry)?;
                    }
                    if round.try_reserve(&pages).is_err() {
                        let needed = round.bytes().saturating_add((contents + entries) as u64);
                        return Err(RestoreError::RoundMemory { offset: item.offset, needed });
                    }
                    round.add_record(&pages);
                    continue;
                }
                Record::X86TscInfo(tsc) => {
                    round.state.tsc = Some(tsc);
                    continue;
                }
                Record::HvmContext(blob) => {
                    self.check_limit(round, 0, blob.len())?;
                    round.state.set_context(blob);
                    continue;
                }
                Record::HvmParams(params) => {
                    self.check_limit(round, 0, params.params().len() * size_of::<HvmParam>())?;
                    round.state.params.clear();
                    round.state.params.extend(params.params());
                    continue;
                }
                Record::SharedInfo(page) if self.pv.is_some() => {
                    round.state.pv.shared_info = <Page>::try_from(page).ok().map(Box::new);
                    continue;
                }
                Record::X86PvVcpu(part) => {
                    self.check_limit(round, 0, part.context.len())?;
                    let pv = self.pv.as_mut().ok_or(unexpected(&record, item.offset))?;
                    take_part(pv, &part, Some(&mut round.state.pv), item.offset)?;
                    continue;
                }
                Record::Optional { .. } => continue,
                _ => return Err(unexpected(&record, item.offset)),
            };
            return Ok(ending);
        }
        Err(RestoreError::Unexpected { record: "the end of libxc's turn", offset: reader.offset() })
    }

    /// Does what may be refused of a whole round: gives the domain the memory that it lacks, and sets the HVM context.
    ///
    /// # Errors
    /// The hypervisor's. The domain is at the checkpoint before, except that pfns which were holes may have zero pages.
    pub fn prepare<D: RestoreDomain>(&mut self, round: &Round, domain: &mut D) -> Result<(), RestoreError> {
        for (entries, contents) in round.batches() {
            self.check_tables(entries.iter().copied(), contents)?;
        }
        for (entries, contents) in round.batches() {
            self.populate(entries.iter().copied(), contents, domain)?;
        }
        if self.pv.is_some() {
            return Ok(());
        }
        domain.set_hvm_context(&round.state.context).map_err(|error| self.failed(error))
    }

    /// Takes back the HVM context that [`Restorer::prepare`] has set.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn take_back<D: RestoreDomain>(&mut self, domain: &mut D) -> Result<(), RestoreError> {
        if self.pv.is_some() {
            return Ok(());
        }
        domain.set_hvm_context(&self.context).map_err(|error| self.failed(error))
    }

    /// Applies the rest of a round that is prepared. The round's context is exchanged for the one before.
    ///
    /// # Errors
    /// The hypervisor's. The domain is then at no checkpoint any more and must not run.
    pub fn commit<D: RestoreDomain>(&mut self, round: &mut Round, domain: &mut D) -> Result<(), RestoreError> {
        for (entries, contents) in round.batches() {
            self.write(entries.iter().copied(), contents, domain)?;
        }
        if let Some(tsc) = round.state.tsc {
            self.set_tsc(tsc, domain)?;
        }
        self.set_params(round.state.params.iter().copied(), domain)?;
        match &mut self.pv {
            Some(pv) => std::mem::swap(&mut pv.state, &mut round.state.pv),
            None => std::mem::swap(&mut self.context, &mut round.state.context),
        }
        Ok(())
    }

    /// Sets the HVM context of the first image.
    ///
    /// # Errors
    /// The hypervisor's; [`RestoreError::NoHvmContext`].
    pub fn set_context<D: RestoreDomain>(&mut self, domain: &mut D) -> Result<(), RestoreError> {
        if self.pv.is_some() {
            // Its vCPUs are set when everything is there.
            return Ok(());
        }
        if self.context.is_empty() {
            return Err(RestoreError::NoHvmContext { offset: self.offset });
        }
        domain.set_hvm_context(&self.context).map_err(|error| self.failed(error))
    }

    /// Makes the domain fit to run on this host: event channels of the rings, HVM context, grants. It stays paused.
    ///
    /// # Errors
    /// The hypervisor's; [`RestoreError::NoHvmContext`] where no vCPU would have a state.
    pub fn complete<D: RestoreDomain>(&mut self, domain: &mut D) -> Result<(), RestoreError> {
        let rings = self.options.rings;
        if let Some(pv) = &self.pv {
            let frames = pv.complete(domain, rings).map_err(|trouble| match trouble {
                PvTrouble::Pv(error) => RestoreError::Pv { offset: self.offset, error },
                PvTrouble::Hypervisor(error) => self.failed(error),
            })?;
            (self.store_gfn, self.console_gfn) = (frames.store, frames.console);
            return self.seed(domain);
        }
        for (index, port) in
            [(hvm_param::STORE_EVTCHN, rings.store_evtchn), (hvm_param::CONSOLE_EVTCHN, rings.console_evtchn)]
        {
            let param = HvmParam { index, value: port.into() };
            domain.set_hvm_param(param).map_err(|error| self.failed(error))?;
        }
        self.set_context(domain)?;
        self.seed(domain)
    }

    /// Grants the rings to who serves them.
    fn seed<D: RestoreDomain>(&self, domain: &mut D) -> Result<(), RestoreError> {
        let rings = self.options.rings;
        let seed = GrantSeed {
            console_gfn: self.console_gfn,
            console_domid: rings.console_domid,
            xenstore_gfn: self.store_gfn,
            xenstore_domid: rings.store_domid,
        };
        domain.seed_grant_table(seed).map_err(|error| self.failed(error))
    }

    /// Bytes that a buffered checkpoint may take.
    pub(crate) fn round_limit(&self) -> u64 {
        self.options.round_limit.unwrap_or(whole_checkpoint(self.memory))
    }

    fn failed(&self, error: hypervisor::Error) -> RestoreError {
        RestoreError::Hypervisor { offset: self.offset, error }
    }

    /// Whether a round has room for so many bytes more, of pages' contents and of all else.
    fn check_limit(&self, round: &Round, contents: usize, rest: usize) -> Result<(), RestoreError> {
        let check = |needed: u64, limit| match needed > limit {
            true => Err(RestoreError::RoundLimit { offset: self.offset, needed, limit }),
            false => Ok(()),
        };
        let (contents, rest) = (contents as u64 + round.contents_bytes(), rest as u64 + round.other_bytes());
        match self.options.round_limit {
            Some(limit) => check(contents.saturating_add(rest), limit),
            None => check(contents, self.memory).and_then(|()| check(rest, MAX_BODY.into())),
        }
    }

    /// Holes may be listed anywhere: the sender's p2m may be longer than ours.
    fn check_pfn(&self, PageEntry { page_type, pfn }: PageEntry) -> Result<(), RestoreError> {
        if page_type.is_populated() && pfn >= self.nr_pfns {
            return Err(RestoreError::Pfn { offset: self.offset, pfn, nr_pfns: self.nr_pfns });
        }
        Ok(())
    }

    fn end_static_data<D: RestoreDomain>(&mut self, domain: &mut D) -> Result<Missing, RestoreError> {
        let missing = Missing { cpuid: self.policy.cpuid.is_empty(), msrs: self.policy.msrs.is_empty() };
        self.missing = Some(missing);
        // It is not needed any more, and may be large.
        let policy = std::mem::take(&mut self.policy);
        domain.set_cpu_policy(&policy).map_err(|error| self.failed(error))?;
        Ok(missing)
    }

    fn set_tsc<D: RestoreDomain>(&self, tsc: TscInfo, domain: &mut D) -> Result<(), RestoreError> {
        domain.set_tsc_info(TscInfo { reserved: 0, ..tsc }).map_err(|error| self.failed(error))
    }

    fn set_params<D: RestoreDomain>(
        &mut self,
        params: impl Iterator<Item = HvmParam>,
        domain: &mut D,
    ) -> Result<(), RestoreError> {
        for param in params {
            match param.index {
                hvm_param::STORE_PFN => self.store_gfn = param.value,
                hvm_param::CONSOLE_PFN => self.console_gfn = param.value,
                _ => {}
            }
            if hvm_param::names_cleared_page(param.index) {
                let (pfn, nr_pfns) = (param.value, self.nr_pfns);
                if pfn >= nr_pfns {
                    return Err(self.failed(hypervisor::Error::PfnOutOfRange { pfn, nr_pfns }));
                }
            }
            domain.restore_hvm_param(param).map_err(|error| self.failed(error))?;
        }
        Ok(())
    }

    /// Applies a record of pages, batch by batch: a record may be longer than any that Xen writes.
    fn page_data<D: RestoreDomain>(&mut self, pages: &PageData<'_>, domain: &mut D) -> Result<(), RestoreError> {
        for entry in pages.entries() {
            self.check_pfn(entry)?;
        }
        let mut contents = pages.contents().unwrap_or_default();
        let mut entries = pages.entries();
        while entries.len() > 0 {
            let batch = entries.clone().take(BATCH);
            let bytes = batch.clone().filter(|entry| entry.page_type.has_contents()).count() * PAGE_SIZE;
            let (here, rest) = contents.split_at(bytes.min(contents.len()));
            self.check_tables(batch.clone(), here)?;
            self.populate(batch.clone(), here, domain)?;
            if self.verified.is_some() {
                self.compare(batch, here, domain)?;
            } else {
                self.write(batch, here, domain)?;
            }
            contents = rest;
            entries.by_ref().take(BATCH).for_each(drop);
        }
        Ok(())
    }

    /// The same for a HVM domain, straight from the source into its pages.
    fn page_data_held<R: Read, D: RestoreDomain>(
        &mut self,
        pages: &PageData<'_>,
        contents: &mut Contents<'_, R>,
        domain: &mut D,
    ) -> Result<(), RestoreError> {
        pages.entries().try_for_each(|entry| self.check_pfn(entry))?;
        let mut entries = pages.entries();
        while entries.len() > 0 {
            let batch = entries.clone().take(BATCH);
            if pages.populates_with_contents() {
                if self.select(batch) {
                    domain.populate(&self.pfns).map_err(|error| self.failed(error))?;
                }
            } else {
                self.populate(batch.clone(), &[], domain)?;
                self.select(batch);
            }
            if !self.pfns.is_empty() {
                let offset = self.offset;
                let failed = |error| RestoreError::Hypervisor { offset, error };
                let mut mapped = domain.map_pages_mut(&self.pfns).map_err(failed)?;
                let mut index = 0;
                while let Some(run) = mapped.run_mut(index).filter(|run| run.len() >= PAGE_SIZE) {
                    contents.read_exact(run)?;
                    index += run.len() / PAGE_SIZE;
                }
            }
            entries.by_ref().take(BATCH).for_each(drop);
        }
        Ok(())
    }

    /// Checks that page tables name pfns of the guest only, before anything is done to it.
    fn check_tables(&self, entries: impl Iterator<Item = PageEntry>, contents: &[u8]) -> Result<(), RestoreError> {
        let Some(pv) = &self.pv else { return Ok(()) };
        let tables = entries.filter(|entry| entry.page_type.has_contents()).zip(contents.chunks_exact(PAGE_SIZE));
        for (entry, source) in tables {
            if let Some(level) = entry.page_type.table_level() {
                pv.check_table(entry.pfn, level, source)
                    .map_err(|error| RestoreError::Pv { offset: self.offset, error })?;
            }
        }
        Ok(())
    }

    /// Gives the domain the memory that a batch needs: its pages, and those of a PV domain that its page tables name.
    fn populate<D: RestoreDomain>(
        &mut self,
        entries: impl Iterator<Item = PageEntry> + Clone,
        contents: &[u8],
        domain: &mut D,
    ) -> Result<(), RestoreError> {
        if let Some(pv) = &mut self.pv {
            let with_contents = entries.clone().filter(|entry| entry.page_type.has_contents());
            let tables = with_contents.zip(contents.chunks_exact(PAGE_SIZE));
            let tables = tables.filter(|(entry, _)| entry.page_type.table_level().is_some());
            let named = tables.flat_map(|(_, source)| table::pfns(source).map(|(.., pfn)| pfn));
            let pages = entries.clone().filter(|entry| entry.page_type.is_populated()).map(|entry| entry.pfn);
            pv.populate(pages.chain(named), domain)
                .map_err(|error| RestoreError::Hypervisor { offset: self.offset, error })?;
            pv.set_types(entries);
            return Ok(());
        }
        self.pfns.clear();
        self.pfns.extend(entries.filter(|entry| entry.page_type.is_populated()).map(|entry| entry.pfn));
        if self.pfns.is_empty() {
            return Ok(());
        }
        domain.populate(&self.pfns).map_err(|error| self.failed(error))
    }

    fn select(&mut self, entries: impl Iterator<Item = PageEntry>) -> bool {
        self.pfns.clear();
        self.pfns.extend(entries.filter(|entry| entry.page_type.has_contents()).map(|entry| entry.pfn));
        if let Some(pv) = &self.pv {
            self.frames.clear();
            // All of them have been populated; what is not shows when it is mapped.
            self.frames.extend(self.pfns.iter().map(|&pfn| pv.mfn_of(pfn).unwrap_or(INVALID_MFN)));
        }
        !self.pfns.is_empty()
    }

    fn write<D: RestoreDomain>(
        &mut self,
        entries: impl Iterator<Item = PageEntry> + Clone,
        contents: &[u8],
        domain: &mut D,
    ) -> Result<(), RestoreError> {
        if !self.select(entries.clone()) {
            return Ok(());
        }
        let frames = if self.pv.is_some() { &self.frames } else { &self.pfns };
        let mut pages = domain.map_pages_mut(frames).map_err(|error| self.failed(error))?;
        let entries = entries.filter(|entry| entry.page_type.has_contents());
        for (index, (source, entry)) in contents.chunks_exact(PAGE_SIZE).zip(entries).enumerate() {
            let Some(page) = pages.page_mut(index) else { continue };
            match &self.pv {
                None => crate::copying::copy(source, page),
                Some(pv) => {
                    pv.place(entry, source, page).map_err(|error| RestoreError::Pv { offset: self.offset, error })?
                }
            }
        }
        Ok(())
    }

    fn compare<D: RestoreDomain>(
        &mut self,
        entries: impl Iterator<Item = PageEntry> + Clone,
        contents: &[u8],
        domain: &mut D,
    ) -> Result<(), RestoreError> {
        if !self.select(entries.clone()) {
            return Ok(());
        }
        let frames = if self.pv.is_some() { &self.frames } else { &self.pfns };
        let pages = domain.map_pages_mut(frames).map_err(|error| self.failed(error))?;
        let Some(verified) = &mut self.verified else { return Ok(()) };
        let entries = entries.filter(|entry| entry.page_type.has_contents());
        let mut local = Box::new(ZERO_PAGE);
        for (index, (source, entry)) in contents.chunks_exact(PAGE_SIZE).zip(entries).enumerate() {
            let pfn = entry.pfn;
            verified.pages += 1;
            let expected = match self.pv.as_ref().filter(|_| entry.page_type.table_level().is_some()) {
                None => source,
                Some(pv) => {
                    pv.place(entry, source, &mut local)
                        .map_err(|error| RestoreError::Pv { offset: self.offset, error })?;
                    &local[..]
                }
            };
            if pages.page(index).is_none_or(|page| page[..] != *expected) {
                verified.different += 1;
                verified.first.get_or_insert(pfn);
                if verified.different <= NAMED_DIFFERENCES {
                    log::warn!("VERIFY: pfn {pfn:#x} differs");
                }
            }
        }
        Ok(())
    }
}

/// Takes a part of a PV vCPU's state: into a round's, or into the domain's own.
fn take_part(
    pv: &mut PvRestorer,
    part: &VcpuBlob<'_>,
    state: Option<&mut PvState>,
    offset: u64,
) -> Result<(), RestoreError> {
    let VcpuBlob { part, vcpu_id, context, .. } = *part;
    // Empty ones come from Xen 4.6 to 4.8 and mean nothing.
    if context.is_empty() {
        return Ok(());
    }
    pv.check_vcpu(vcpu_id).map_err(|error| RestoreError::Pv { offset, error })?;
    state.unwrap_or(&mut pv.state).set(vcpu_id, part, context);
    Ok(())
}

fn unexpected(record: &Record<'_>, offset: u64) -> RestoreError {
    RestoreError::Unexpected { record: crate::stream::libxc::type_name(record.type_id()).unwrap_or("a record"), offset }
}
