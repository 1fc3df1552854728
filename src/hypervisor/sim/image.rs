//! A simulated domain put down in a form that another process can take up: everything but the contents of its pages.
//!
//! The contents stay in the mapping that the domain lives in, which is a file's where somebody else is to have them. Page `n` of the
//! file is the page in slot `n` ([`GuestMemory::slot`]).

use memmap2::MmapMut;
use serde::{Deserialize, Serialize};

use super::config::SimConfig;
use super::device_model::DeviceModelState;
use super::domain::SimDomain;
use super::layout::Layout;
use super::memory::GuestMemory;
use super::vcpu::HvmState;
use crate::hypervisor::error::Result;
use crate::hypervisor::types::{CpuPolicy, GrantSeed, HvmParam, Pfn, ShutdownReason, TscInfo};
use crate::hypervisor::{DeviceModel, RestoreDomain};

/// Stands for the pfn of pages that no pfn has.
pub const NO_PFN: Pfn = Pfn::MAX;

/// A domain's state without the contents of its pages. What is under way is not part of it: the dirty log, packets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SimImage {
    /// How the domain was configured.
    pub config: SimConfig,
    /// Runs of populated pfns, first pfn and number of pages, in the order of their slots. Slots without a page are a run from
    /// [`NO_PFN`] on.
    pub pages: Vec<(Pfn, u64)>,
    /// Pages declared broken.
    pub broken: Vec<Pfn>,
    /// Xen's HVM save blob; empty for a domain that has no vCPU state yet.
    pub hvm_context: Vec<u8>,
    /// HVM parameters that are not 0, index and value.
    pub hvm_params: Vec<(u64, u64)>,
    /// The time stamp counter's mode, kHz, nanoseconds and incarnation.
    pub tsc: (u32, u32, u64, u32),
    /// CPUID leaves in the bytes of their record.
    pub cpuid: Vec<u8>,
    /// MSRs in the bytes of their record.
    pub msrs: Vec<u8>,
    /// The device model's state.
    pub device_model: Vec<u8>,
    /// The device model's xenstore keys.
    pub xenstore: Vec<(String, String)>,
    /// Who the rings are granted to: console gfn and domain, xenstore gfn and domain.
    pub grants: (Pfn, u32, Pfn, u32),
    /// Whether the toolstack has paused it.
    pub paused: bool,
    /// Whether it is suspended.
    pub suspended: bool,
}

impl SimDomain {
    /// The domain's state without the contents of its pages. Allowed while running: the domain stands still between steps.
    ///
    /// # Errors
    /// A HVM context of more than 4 GiB.
    pub fn image(&self) -> Result<SimImage> {
        let (mut hvm_context, mut device_model) = (Vec::new(), Vec::new());
        if self.hvm.nr_online() > 0 {
            self.hvm.emit(&mut hvm_context)?;
        }
        self.devices.emit(&mut device_model)?;
        let TscInfo { mode, khz, nsec, incarnation, .. } = self.tsc;
        let GrantSeed { console_gfn, console_domid, xenstore_gfn, xenstore_domid } = self.grants;
        Ok(SimImage {
            config: self.config.clone(),
            pages: runs_by_slot(&self.memory),
            broken: self.memory.broken_pfns().collect(),
            hvm_context,
            hvm_params: (0..).zip(self.params).filter(|&(_, value)| value != 0).collect(),
            tsc: (mode, khz, nsec, incarnation),
            cpuid: self.policy.cpuid.clone(),
            msrs: self.policy.msrs.clone(),
            device_model,
            xenstore: self.xenstore.clone(),
            grants: (console_gfn, console_domid, xenstore_gfn, xenstore_domid),
            paused: self.paused,
            suspended: self.shutdown == Some(ShutdownReason::Suspend),
        })
    }
}

impl SimImage {
    /// Makes the domain whose pages are in `pages`: a mapping of the configured budget at least, with the contents that the
    /// domain had and, behind its populated pages, zeros. The domain goes on as it would have.
    ///
    /// # Errors
    /// A configuration that makes no sense, more pages than its budget, or parts that the domain does not take.
    pub fn wake(&self, pages: MmapMut) -> Result<SimDomain> {
        self.config.check()?;
        let layout = Layout::new(self.config.layout, self.config.memory);
        let mut memory = GuestMemory::with_pages(layout.nr_pfns, self.config.budget(), pages)?;
        memory.set_logs_additions(self.config.logs_additions);
        let mut gaps = Vec::new();
        for &(first, count) in &self.pages {
            if first == NO_PFN {
                gaps.push(memory.skip_slots(count)?);
                continue;
            }
            // A run beyond the layout or the budget ends at the first page that cannot be had.
            for pfn in first..first.saturating_add(count) {
                memory.populate(pfn)?;
            }
        }
        gaps.into_iter().for_each(|gap| memory.free_slots(gap));
        for &pfn in &self.broken {
            memory.break_page(pfn)?;
        }
        let mut domain = SimDomain::around(&self.config, memory)?;
        if !self.hvm_context.is_empty() {
            domain.hvm = HvmState::parse(&self.hvm_context, self.config.vcpus)?;
        }
        for &(index, value) in &self.hvm_params {
            domain.set_hvm_param(HvmParam { index, value })?;
        }
        let (mode, khz, nsec, incarnation) = self.tsc;
        domain.tsc = TscInfo { mode, khz, nsec, incarnation, reserved: 0 };
        domain.set_cpu_policy(&CpuPolicy { cpuid: self.cpuid.clone(), msrs: self.msrs.clone() })?;
        domain.devices = DeviceModelState::parse(&self.device_model)?;
        domain.set_emulator_xenstore(self.xenstore.clone())?;
        let (console_gfn, console_domid, xenstore_gfn, xenstore_domid) = self.grants;
        domain.grants = GrantSeed { console_gfn, console_domid, xenstore_gfn, xenstore_domid };
        domain.paused = self.paused;
        domain.shutdown = self.suspended.then_some(ShutdownReason::Suspend);
        Ok(domain)
    }
}

/// The populated pfns in the order of their slots, adjacent ones together.
fn runs_by_slot(memory: &GuestMemory) -> Vec<(Pfn, u64)> {
    let mut pfns: Vec<(usize, Pfn)> =
        memory.populated_pfns().filter_map(|pfn| Some((memory.slot(pfn)?, pfn))).collect();
    pfns.sort_unstable();
    let mut runs: Vec<(Pfn, u64)> = Vec::new();
    let mut next = 0;
    for (slot, pfn) in pfns {
        if slot > next {
            runs.push((NO_PFN, (slot - next) as u64));
        }
        next = slot + 1;
        match runs.last_mut() {
            Some((first, count)) if *first != NO_PFN && first.checked_add(*count) == Some(pfn) => *count += 1,
            _ => runs.push((pfn, 1)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypervisor::types::PAGE_SIZE;
    use crate::hypervisor::{Domain, Error};

    /// A mapping with the contents of a domain's pages, each in its slot.
    fn pages_of(domain: &SimDomain) -> MmapMut {
        let memory = domain.memory();
        let mut pages = MmapMut::map_anon(memory.budget() as usize * PAGE_SIZE).unwrap();
        for pfn in memory.populated_pfns() {
            let start = memory.slot(pfn).unwrap() * PAGE_SIZE;
            pages[start..start + PAGE_SIZE].copy_from_slice(memory.page(pfn).unwrap());
        }
        pages
    }

    #[test]
    fn a_domain_goes_on_from_its_image_and_its_pages() {
        let config = SimConfig { vcpus: 3, ..SimConfig::default() };
        let mut domain = SimDomain::create(&config).unwrap();
        domain.run(40).unwrap();
        domain.memory_mut().break_page(0x900).unwrap();
        domain.suspend().unwrap();
        let image = domain.image().unwrap();
        let json = serde_json::to_string(&image).unwrap();
        let image: SimImage = serde_json::from_str(&json).unwrap();
        let mut copy = image.wake(pages_of(&domain)).unwrap();
        assert_eq!(copy.diff(&domain.snapshot().unwrap(), 5).unwrap(), []);
        assert_eq!(copy.info().unwrap(), domain.info().unwrap());
        assert_eq!(copy.image().unwrap(), image);
        for domain in [&mut domain, &mut copy] {
            domain.resume().unwrap();
            domain.run(40).unwrap();
            domain.self_check().unwrap();
        }
        assert_eq!(copy.diff(&domain.snapshot().unwrap(), 5).unwrap(), []);
    }

    #[test]
    fn slots_are_those_of_the_order_of_population() {
        let config = SimConfig::small(1);
        let mut domain = SimDomain::empty(&config).unwrap();
        domain.populate(&[9, 10, 3, 11]).unwrap();
        let image = domain.image().unwrap();
        assert_eq!(image.pages, [(9, 2), (3, 1), (11, 1)]);
        assert!(image.hvm_context.is_empty() && image.paused);
        let copy = image.wake(pages_of(&domain)).unwrap();
        assert_eq!([9, 10, 3, 11].map(|pfn| copy.memory().slot(pfn)), [0, 1, 2, 3].map(Some));
    }

    #[test]
    fn a_page_that_was_given_back_leaves_a_gap_among_the_slots() {
        let mut domain = SimDomain::create(&SimConfig::small(1)).unwrap();
        domain.give_back(&[200, 201]).unwrap();
        domain.run(20).unwrap();
        let image = domain.image().unwrap();
        assert!(image.pages.contains(&(NO_PFN, 2)), "{:?}", image.pages);
        let mut copy = image.wake(pages_of(&domain)).unwrap();
        assert_eq!(copy.diff(&domain.snapshot().unwrap(), 5).unwrap(), []);
        assert_eq!(copy.memory().populated(), domain.memory().populated());
        for domain in [&mut domain, &mut copy] {
            domain.take(&[201, 200]).unwrap();
        }
        assert_eq!(copy.diff(&domain.snapshot().unwrap(), 5).unwrap(), []);
    }

    #[test]
    fn an_image_of_more_pages_than_there_can_be_is_refused() {
        let domain = SimDomain::create(&SimConfig::small(1)).unwrap();
        let image = SimImage { pages: vec![(0, u64::MAX)], ..domain.image().unwrap() };
        let woken = image.wake(pages_of(&domain));
        assert!(matches!(woken, Err(Error::OutOfMemory { .. } | Error::PfnOutOfRange { .. })), "{woken:?}");
        let small = domain.image().unwrap().wake(MmapMut::map_anon(PAGE_SIZE).unwrap());
        assert!(matches!(small, Err(Error::Config { field: "memory", .. })), "{small:?}");
    }
}
