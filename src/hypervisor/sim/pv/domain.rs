//! The domain, as the hypervisor has it.

use super::config::PvConfig;
use super::machine::{COMPAT_M2P, Machine};
use crate::decode::pv_words;
use crate::decode::shared_info::Width;
use crate::hypervisor::error::{Error, Result};
use crate::hypervisor::pv::{INVALID_MFN, Mfn, PvDomain, VcpuRecord};
use crate::hypervisor::sim::policy;
use crate::hypervisor::types::{
    CleanMode, CpuPolicy, DirtyStats, DomainInfo, DomainKind, GrantSeed, HvmParam, Page, PageType, Pfn, ShutdownReason,
    TscInfo, Uuid,
};
use crate::hypervisor::{DirtyBitmap, Domain, LogDirty, PageBatch, PageBatchMut, RestoreDomain, SaveDomain};

/// A vCPU's parts, as the hypercalls give them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Vcpu {
    pub online: bool,
    pub basic: Vec<u8>,
    pub extended: Vec<u8>,
    pub xsave: Vec<u8>,
    pub msrs: Vec<u8>,
}

/// A simulated PV domain. It stands still except within [`PvSim::run`].
#[derive(Debug)]
pub struct PvSim {
    pub(super) config: PvConfig,
    pub(super) width: Width,
    pub(super) machine: Machine,
    pub(super) shared_info: Mfn,
    pub(super) vcpus: Vec<Vcpu>,
    pub(super) policy: CpuPolicy,
    pub(super) tsc: TscInfo,
    pub(super) log: Option<DirtyBitmap>,
    pub(super) paused: bool,
    pub(super) shutdown: Option<ShutdownReason>,
    pub(super) grants: GrantSeed,
    /// Where the toolstack has found the guest's p2m.
    followed: Option<(Vec<Mfn>, Width)>,
    pub(super) pinned: Vec<Mfn>,
}

impl PvSim {
    /// A domain to restore into: paused, without memory. Of the configuration count the identity, the number of vCPUs, and the
    /// memory there is to give; its width is that of a new domain, 64 bits.
    ///
    /// # Errors
    /// More memory than this machine has.
    pub fn empty(config: &PvConfig) -> Result<Self> {
        let mut machine = Machine::new(config.budget, config.seed)?;
        let none = Error::OutOfMemory { pfn: INVALID_MFN, populated: 0, budget: config.budget };
        let shared_info = machine.take(None).ok_or(none)?;
        Ok(PvSim::around(config, machine, shared_info))
    }

    /// The same on a machine that has given it its shared info page.
    pub(super) fn around(config: &PvConfig, machine: Machine, shared_info: Mfn) -> Self {
        PvSim {
            width: Width::Bits64,
            machine,
            shared_info,
            vcpus: vec![Vcpu::default(); config.vcpus as usize],
            policy: CpuPolicy::default(),
            tsc: TscInfo::default(),
            log: None,
            paused: true,
            shutdown: None,
            grants: GrantSeed::default(),
            followed: None,
            pinned: Vec::new(),
            config: config.clone(),
        }
    }

    /// How the domain was configured.
    pub const fn config(&self) -> &PvConfig {
        &self.config
    }

    /// Has the guest stand still for good: it has gone wrong.
    pub fn crash(&mut self) {
        self.shutdown = Some(ShutdownReason::Crash);
    }

    /// The grants of the rings, as a restorer has set them: frames.
    pub const fn grants(&self) -> GrantSeed {
        self.grants
    }

    /// A frame of the machine.
    pub fn page(&self, mfn: Mfn) -> Option<&Page> {
        self.machine.page(mfn)
    }

    /// The shared info page.
    pub fn shared_info(&self) -> Option<&Page> {
        self.machine.page(self.shared_info)
    }

    /// The frames of pinned page tables, in the order of pinning.
    pub fn pinned(&self) -> &[Mfn] {
        &self.pinned
    }

    /// The frame of a pfn by the host's m2p, whatever the guest's p2m says.
    pub fn mfn_of(&self, pfn: Pfn) -> Option<Mfn> {
        (0..self.machine.nr_mfns()).find(|&mfn| self.machine.m2p(mfn) == Some(pfn))
    }

    /// Whether the guest makes steps.
    pub fn is_running(&self) -> bool {
        !self.paused && self.shutdown.is_none()
    }

    pub(super) fn wrong_state(&self, operation: &'static str) -> Error {
        let state = match (self.shutdown, self.paused) {
            (Some(_), _) => "suspended",
            (None, true) => "paused",
            (None, false) => "running",
        };
        Error::WrongState { domid: self.config.domid, operation, state }
    }

    fn vcpu(&self, vcpu: u32) -> Result<&Vcpu> {
        self.vcpus.get(vcpu as usize).ok_or(Error::Vcpu { vcpu, nr_vcpus: self.config.vcpus })
    }

    fn mapped(&self, mfns: &[Mfn]) -> Result<()> {
        // The shared info page and what the guest has; Xen's frames are nobody's.
        let foreign = |&&mfn: &&Mfn| mfn != self.shared_info && self.machine.page_type(mfn) == PageType::XTAB;
        match mfns.iter().find(foreign) {
            Some(&pfn) => Err(Error::NotPopulated { pfn }),
            None => Ok(()),
        }
    }
}

impl Domain for PvSim {
    fn info(&self) -> Result<DomainInfo> {
        let shared_info = self.shared_info().map_or(&[][..], |page| &page[..]);
        Ok(DomainInfo {
            domid: self.config.domid,
            name: "pv".into(),
            uuid: Uuid::default(),
            kind: DomainKind::Pv,
            nr_vcpus: self.config.vcpus,
            nr_pfns: pv_words::MAX_PFN.get(shared_info, self.width),
            populated: self.config.budget - self.machine.free(),
            max_pages: self.config.budget,
            paused: self.paused,
            shutdown: self.shutdown,
        })
    }

    fn suspend(&mut self) -> Result<()> {
        if !self.is_running() {
            return Err(Error::SuspendNotAcknowledged { domid: self.config.domid, shutdown: self.shutdown });
        }
        self.prepare_suspend()?;
        self.shutdown = Some(ShutdownReason::Suspend);
        Ok(())
    }

    fn resume(&mut self) -> Result<()> {
        if self.shutdown.take() != Some(ShutdownReason::Suspend) {
            return Err(self.wrong_state("resume"));
        }
        self.suspend_cancelled()
    }

    fn pause(&mut self) -> Result<()> {
        self.paused = true;
        Ok(())
    }

    fn unpause(&mut self) -> Result<()> {
        self.paused = false;
        Ok(())
    }
}

impl LogDirty for PvSim {
    fn enable_log_dirty(&mut self) -> Result<()> {
        self.log = Some(DirtyBitmap::new(self.info()?.nr_pfns));
        Ok(())
    }

    fn clean_log_dirty(&mut self, bitmap: &mut DirtyBitmap, mode: CleanMode) -> Result<DirtyStats> {
        if mode == CleanMode::Final && self.is_running() {
            return Err(self.wrong_state("read the dirty log for the last time"));
        }
        let log = self.log.as_mut().ok_or(Error::LogDirtyOff { domid: self.config.domid })?;
        log.swap(bitmap)?;
        log.clear_all();
        Ok(DirtyStats { fault_count: bitmap.count(), dirty_count: bitmap.count() })
    }

    fn peek_log_dirty(&mut self, bitmap: &mut DirtyBitmap) -> Result<DirtyStats> {
        let log = self.log.as_ref().ok_or(Error::LogDirtyOff { domid: self.config.domid })?;
        bitmap.copy_from_words(log.words());
        Ok(DirtyStats { fault_count: log.count(), dirty_count: log.count() })
    }

    fn disable_log_dirty(&mut self) -> Result<()> {
        self.log = None;
        Ok(())
    }
}

impl PvDomain for PvSim {
    fn guest_width(&self) -> Result<Width> {
        Ok(self.width)
    }

    fn set_guest_width(&mut self, width: Width) -> Result<()> {
        if self.machine.free() + 1 < self.config.budget {
            return Err(self.wrong_state("change the width of a domain with memory"));
        }
        self.width = width;
        Ok(())
    }

    fn shared_info_frame(&self) -> Result<Mfn> {
        Ok(self.shared_info)
    }

    fn m2p(&self, mfn: Mfn) -> Option<Pfn> {
        self.machine.m2p(mfn)
    }

    fn nr_mfns(&self) -> Result<u64> {
        Ok(self.machine.nr_mfns())
    }

    fn compat_m2p_frame(&self) -> Result<Mfn> {
        Ok(COMPAT_M2P)
    }

    fn follow_p2m(&mut self, frames: &[Mfn], width: Width) -> Result<()> {
        self.mapped(frames)?;
        self.followed = Some((frames.to_vec(), width));
        Ok(())
    }

    fn p2m_entry(&self, pfn: Pfn) -> Option<Mfn> {
        let (frames, width) = self.followed.as_ref()?;
        let per_frame = 4096 / width.bytes();
        let pfn = usize::try_from(pfn).ok()?;
        let page = self.machine.page(*frames.get(pfn / per_frame)?)?;
        pv_words::p2m_entry(pv_words::word().nth(pfn % per_frame).get(page, *width), *width)
    }

    fn vcpu_is_online(&self, vcpu: u32) -> Result<bool> {
        Ok(self.vcpu(vcpu)?.online)
    }

    fn vcpu_part(&self, vcpu: u32, part: VcpuRecord, blob: &mut Vec<u8>) -> Result<()> {
        let vcpu = self.vcpu(vcpu)?;
        blob.clear();
        blob.extend_from_slice(match part {
            VcpuRecord::Basic => &vcpu.basic,
            VcpuRecord::Extended => &vcpu.extended,
            VcpuRecord::Xsave => &vcpu.xsave,
            VcpuRecord::Msrs => &vcpu.msrs,
        });
        Ok(())
    }

    fn set_vcpu_part(&mut self, vcpu: u32, part: VcpuRecord, blob: &[u8]) -> Result<()> {
        let width = self.width;
        let unknown = Error::Vcpu { vcpu, nr_vcpus: self.config.vcpus };
        if part == VcpuRecord::Basic {
            // As Xen: the root must be memory of the guest, and becomes a page table, with all that it leads to.
            let root = pv_words::cr3_frame(pv_words::CR3.get(blob, width), width);
            self.mapped(&[root])?;
            self.machine.validate(root, width.levels(), width)?;
        }
        let vcpu = self.vcpus.get_mut(vcpu as usize).ok_or(unknown)?;
        let place = match part {
            VcpuRecord::Basic => {
                vcpu.online = true;
                &mut vcpu.basic
            }
            VcpuRecord::Extended => &mut vcpu.extended,
            VcpuRecord::Xsave => &mut vcpu.xsave,
            VcpuRecord::Msrs => &mut vcpu.msrs,
        };
        *place = blob.to_vec();
        Ok(())
    }

    fn populate_frames(&mut self, pfns: &[Pfn], mfns: &mut [Mfn]) -> Result<()> {
        if pfns.len() != mfns.len() {
            return Err(Error::BatchLength { pfns: pfns.len(), types: mfns.len() });
        }
        for (&pfn, place) in pfns.iter().zip(mfns) {
            let populated = self.config.budget - self.machine.free();
            let none = Error::OutOfMemory { pfn, populated, budget: self.config.budget };
            *place = self.machine.take(Some(pfn)).ok_or(none)?;
        }
        Ok(())
    }

    fn pin_tables(&mut self, tables: &[(u8, Mfn)]) -> Result<()> {
        for &(level, mfn) in tables {
            self.mapped(&[mfn])?;
            self.machine.pin(mfn, level, self.width)?;
            self.pinned.push(mfn);
        }
        Ok(())
    }
}

/// Frames of a [`PvSim`] mapped for reading, in place.
#[derive(Debug)]
pub struct PvPages<'a> {
    machine: &'a Machine,
    mfns: &'a [Mfn],
}

impl PageBatch for PvPages<'_> {
    fn len(&self) -> usize {
        self.mfns.len()
    }

    fn page(&self, index: usize) -> Option<&Page> {
        self.machine.page(*self.mfns.get(index)?)
    }

    fn run(&self, index: usize) -> Option<&[u8]> {
        self.machine.run(self.mfns.get(index..)?)
    }
}

/// Frames of a [`PvSim`] mapped for writing, in place.
#[derive(Debug)]
pub struct PvPagesMut<'a> {
    machine: &'a mut Machine,
    mfns: &'a [Mfn],
}

impl PageBatch for PvPagesMut<'_> {
    fn len(&self) -> usize {
        self.mfns.len()
    }

    fn page(&self, index: usize) -> Option<&Page> {
        self.machine.page(*self.mfns.get(index)?)
    }
}

impl PageBatchMut for PvPagesMut<'_> {
    fn page_mut(&mut self, index: usize) -> Option<&mut Page> {
        self.machine.page_mut(*self.mfns.get(index)?)
    }
}

impl SaveDomain for PvSim {
    type Pages<'a> = PvPages<'a>;

    fn page_types(&self, mfns: &[Mfn], types: &mut [PageType]) -> Result<()> {
        if mfns.len() != types.len() {
            return Err(Error::BatchLength { pfns: mfns.len(), types: types.len() });
        }
        for (place, &mfn) in types.iter_mut().zip(mfns) {
            *place = self.machine.page_type(mfn);
        }
        Ok(())
    }

    fn map_pages<'a>(&'a self, mfns: &'a [Mfn]) -> Result<PvPages<'a>> {
        self.mapped(mfns)?;
        Ok(PvPages { machine: &self.machine, mfns })
    }

    fn cpu_policy(&self) -> Result<CpuPolicy> {
        Ok(self.policy.clone())
    }

    fn tsc_info(&self) -> Result<TscInfo> {
        Ok(self.tsc)
    }

    fn hvm_context(&self, _: &mut Vec<u8>) -> Result<()> {
        Err(Error::Unsupported { backend: "sim", what: "the HVM context of a PV domain" })
    }

    fn hvm_param(&self, _: u64) -> Result<u64> {
        Err(Error::Unsupported { backend: "sim", what: "a HVM parameter of a PV domain" })
    }
}

impl RestoreDomain for PvSim {
    type PagesMut<'a> = PvPagesMut<'a>;

    fn populate(&mut self, _: &[Pfn]) -> Result<()> {
        Err(Error::Unsupported { backend: "sim", what: "memory of a PV domain without frames" })
    }

    fn map_pages_mut<'a>(&'a mut self, mfns: &'a [Mfn]) -> Result<PvPagesMut<'a>> {
        self.mapped(mfns)?;
        Ok(PvPagesMut { machine: &mut self.machine, mfns })
    }

    fn set_cpu_policy(&mut self, policy: &CpuPolicy) -> Result<()> {
        let default = policy::policy(self.config.vcpus);
        self.policy.cpuid = if policy.cpuid.is_empty() { default.cpuid } else { policy.cpuid.clone() };
        self.policy.msrs = if policy.msrs.is_empty() { default.msrs } else { policy.msrs.clone() };
        Ok(())
    }

    fn set_tsc_info(&mut self, tsc: TscInfo) -> Result<()> {
        self.tsc = tsc;
        Ok(())
    }

    fn set_hvm_param(&mut self, _: HvmParam) -> Result<()> {
        Err(Error::Unsupported { backend: "sim", what: "a HVM parameter of a PV domain" })
    }

    fn set_hvm_context(&mut self, _: &[u8]) -> Result<()> {
        Err(Error::Unsupported { backend: "sim", what: "the HVM context of a PV domain" })
    }

    fn seed_grant_table(&mut self, seed: GrantSeed) -> Result<()> {
        self.grants = seed;
        Ok(())
    }
}
