//! What a restorer does to a domain.
#![forbid(unsafe_code)]

use super::domain::XenDomain;
use super::hypercall::abi;
use super::hypercall::domain::PolicyRefused;
use super::mapping::XenPagesMut;
use super::policy::{count_leaves, count_msrs};
use super::populate::{PFN_LIMIT, Piece, SUPERPAGE_ORDER, next_piece};
use crate::hypervisor::error::{Error, Result};
use crate::hypervisor::types::{CpuPolicy, GrantSeed, HvmParam, PageType, Pfn, TscInfo};
use crate::hypervisor::{RestoreDomain, SaveDomain};
use std::io;

impl RestoreDomain for XenDomain {
    type PagesMut<'a> = XenPagesMut<'a>;

    const LONG_RUNS: bool = true;

    /// Whole aligned runs of 2 MiB are asked for as such, and page by page where Xen has none. That new pages are zero is Xen's
    /// scrubbing.
    fn populate(&mut self, pfns: &[Pfn]) -> Result<()> {
        self.must_be_translated("populating by pfn")?;
        let mut missing = std::mem::take(&mut self.memory.missing);
        let result = self.populate_missing(pfns, &mut missing);
        self.memory.missing = missing;
        result
    }

    /// At most [`MAX_BATCH`](super::MAX_BATCH) pages, else [`Error::BatchTooLong`].
    fn map_pages_mut<'a>(&'a mut self, pfns: &'a [Pfn]) -> Result<XenPagesMut<'a>> {
        XenPagesMut::new(self, pfns)
    }

    fn set_cpu_policy(&mut self, policy: &CpuPolicy) -> Result<()> {
        let counts = (count_leaves(&policy.cpuid)?, count_msrs(&policy.msrs)?);
        let domid = self.domid;
        self.interface.set_cpu_policy(domid, counts, &policy.cpuid, &policy.msrs)?.map_err(|refused| {
            let PolicyRefused { leaf, subleaf, msr, source } = refused;
            Error::CpuPolicyRefused { domid, leaf, subleaf, msr, source }
        })
    }

    fn set_tsc_info(&mut self, tsc: TscInfo) -> Result<()> {
        let TscInfo { mode, khz, nsec, incarnation, .. } = tsc;
        let tsc = abi::TscInfo { tsc_mode: mode, gtsc_khz: khz, incarnation, pad: 0, elapsed_nsec: nsec };
        self.interface.set_tsc_info(self.domid, tsc)
    }

    fn set_hvm_param(&mut self, param: HvmParam) -> Result<()> {
        let HvmParam { index, value } = param;
        let Ok(number) = u32::try_from(index) else { return Err(Error::HvmParam { index, value }) };
        self.interface.set_hvm_param(self.domid, number, value).map_err(|error| match error {
            Error::Hypercall { source, .. } if source.kind() == io::ErrorKind::InvalidInput => {
                Error::HvmParam { index, value }
            }
            error => error,
        })
    }

    /// Xen loads entry by entry and stops at the first that it refuses; what it has loaded by then is put back.
    fn set_hvm_context(&mut self, blob: &[u8]) -> Result<()> {
        self.must_be_translated("a HVM context")?;
        let mut before = Vec::new();
        let kept = self.hvm_context(&mut before).is_ok();
        let Err(error) = self.interface.set_hvm_context(self.domid, blob) else { return Ok(()) };
        if !kept || self.interface.set_hvm_context(self.domid, &before).is_err() {
            log::error!("domain {}: the HVM context that it had could not be put back", self.domid);
        }
        Err(error)
    }

    fn seed_grant_table(&mut self, seed: GrantSeed) -> Result<()> {
        self.interface.seed_grants(self.domid, seed)
    }
}

impl XenDomain {
    fn populate_missing(&mut self, pfns: &[Pfn], missing: &mut Vec<Pfn>) -> Result<()> {
        self.memory.populated.missing(pfns, missing);
        let possible = missing.partition_point(|&pfn| pfn < PFN_LIMIT);
        let impossible = missing.get(possible).copied();
        missing.truncate(possible);
        if !missing.is_empty() {
            self.drop_what_xen_has(missing)?;
        }
        let mut from = 0;
        while let Some(piece) = next_piece(missing, from) {
            let (Piece::Superpage(range) | Piece::Pages(range)) = piece.clone();
            let end = range.end;
            let Some(pages) = missing.get_mut(range) else { break };
            let whole = matches!(piece, Piece::Superpage(_)) && self.populate_superpage(pages)?;
            if !whole {
                self.populate_pages(pages)?;
            }
            self.memory.populated.insert(pages);
            from = end;
        }
        match impossible {
            Some(pfn) => Err(Error::PfnOutOfRange { pfn, nr_pfns: PFN_LIMIT }),
            None => Ok(()),
        }
    }

    /// Takes those pages off the list that the domain has without this handle's doing: Xen would replace them by new ones.
    fn drop_what_xen_has(&mut self, missing: &mut Vec<Pfn>) -> Result<()> {
        let complete = match self.memory.complete {
            Some(complete) => complete,
            None => *self.memory.complete.insert(self.getdomaininfo()?.tot_pages == 0),
        };
        if complete {
            return Ok(());
        }
        let mut types = vec![PageType::XTAB; missing.len()];
        self.gfn_types(missing, &mut types)?;
        let mut types = types.into_iter();
        let populated = &mut self.memory.populated;
        missing.retain(|&pfn| {
            let there = types.next().is_some_and(PageType::is_populated);
            if there {
                populated.insert(&[pfn]);
            }
            !there
        });
        Ok(())
    }

    /// Asks for 2 MiB from the first of these pages on. Gives whether they were to be had.
    fn populate_superpage(&self, pages: &[Pfn]) -> Result<bool> {
        let mut first = pages.first().copied().unwrap_or_default();
        Ok(self.populate_physmap(std::slice::from_mut(&mut first), SUPERPAGE_ORDER)? == 1)
    }

    /// Asks for these pages one by one.
    fn populate_pages(&mut self, pages: &mut [Pfn]) -> Result<()> {
        let done = self.populate_physmap(pages, 0)?;
        let Some((have, &[pfn, ..])) = pages.split_at_checked(done) else { return Ok(()) };
        self.memory.populated.insert(have);
        let info = self.getdomaininfo()?;
        Err(Error::OutOfMemory { pfn, populated: info.tot_pages, budget: info.max_pages })
    }

    /// Has Xen give the guest memory, and gives the number of extents that it could. Their gfns stay as they are: only for a PV
    /// guest does Xen write frames over the pfns.
    pub(super) fn populate_physmap(&self, gfns: &mut [u64], order: u32) -> Result<usize> {
        self.interface.populate_physmap(self.domid, gfns, order)
    }
}
