//! The hypervisor's traits for [`SimDomain`].

use super::device_model::{DeviceModelState, EMULATOR};
use super::domain::{SimDomain, SimPages, SimPagesMut};
use super::vcpu::HvmState;
use crate::hypervisor::error::{Error, Result};
use crate::hypervisor::types::{
    CleanMode, CpuPolicy, DirtyStats, DomainInfo, EmulatorHeader, GrantSeed, HvmParam, PageType, Pfn, ShutdownReason,
    TscInfo,
};
use crate::hypervisor::{DeviceModel, DirtyBitmap, Domain, LogDirty, PvDomain, RestoreDomain, SaveDomain, hvm_param};
use crate::stream::libxc::{CpuidPolicy, MsrPolicy};

impl Domain for SimDomain {
    fn info(&self) -> Result<DomainInfo> {
        if self.lives == Some(0) {
            return Err(Error::NoSuchDomain { domid: self.config.domid });
        }
        Ok(DomainInfo {
            domid: self.config.domid,
            name: self.config.name.clone(),
            uuid: self.config.uuid,
            kind: self.config.kind,
            nr_vcpus: self.config.vcpus,
            nr_pfns: self.memory.nr_pfns(),
            populated: self.memory.populated(),
            max_pages: self.memory.budget(),
            paused: self.paused,
            shutdown: self.shutdown,
        })
    }

    fn suspend(&mut self) -> Result<()> {
        match self.shutdown {
            Some(ShutdownReason::Suspend) => Err(self.wrong_state("suspend")),
            // A guest that has no time to run cannot answer either.
            None if self.config.acknowledge_suspend && !self.paused => {
                self.shutdown = Some(ShutdownReason::Suspend);
                self.lives = self.lives.map(|lives| lives.saturating_sub(1));
                Ok(())
            }
            shutdown => Err(Error::SuspendNotAcknowledged { domid: self.config.domid, shutdown }),
        }
    }

    fn resume(&mut self) -> Result<()> {
        if self.shutdown != Some(ShutdownReason::Suspend) || !self.config.resumes || self.lives == Some(0) {
            return Err(self.wrong_state("resume"));
        }
        self.shutdown = None;
        Ok(())
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

impl LogDirty for SimDomain {
    fn logs_additions(&self) -> bool {
        self.memory.logs_additions()
    }

    fn enable_log_dirty(&mut self) -> Result<()> {
        self.memory.enable_log();
        Ok(())
    }

    fn clean_log_dirty(&mut self, bitmap: &mut DirtyBitmap, mode: CleanMode) -> Result<DirtyStats> {
        if mode == CleanMode::Final && self.is_running() {
            return Err(self.wrong_state("read the dirty log for the last time"));
        }
        self.memory.clean_log(bitmap)?.ok_or(Error::LogDirtyOff { domid: self.config.domid })
    }

    fn peek_log_dirty(&mut self, bitmap: &mut DirtyBitmap) -> Result<DirtyStats> {
        self.memory.peek_log(bitmap)?.ok_or(Error::LogDirtyOff { domid: self.config.domid })
    }

    fn disable_log_dirty(&mut self) -> Result<()> {
        self.memory.disable_log();
        Ok(())
    }
}

/// None is a PV domain.
impl PvDomain for SimDomain {}

impl SaveDomain for SimDomain {
    type Pages<'a> = SimPages<'a>;

    fn page_types(&self, pfns: &[Pfn], types: &mut [PageType]) -> Result<()> {
        if pfns.len() != types.len() {
            return Err(Error::BatchLength { pfns: pfns.len(), types: types.len() });
        }
        for (kind, &pfn) in types.iter_mut().zip(pfns) {
            *kind = self.memory.page_type(pfn);
        }
        Ok(())
    }

    fn map_pages<'a>(&'a self, pfns: &'a [Pfn]) -> Result<SimPages<'a>> {
        match pfns.iter().find(|&&pfn| !self.memory.has_data(pfn)) {
            Some(&pfn) => Err(Error::NotPopulated { pfn }),
            None => Ok(SimPages { memory: &self.memory, pfns }),
        }
    }

    fn cpu_policy(&self) -> Result<CpuPolicy> {
        Ok(self.policy.clone())
    }

    fn tsc_info(&self) -> Result<TscInfo> {
        Ok(self.tsc)
    }

    fn hvm_context(&self, blob: &mut Vec<u8>) -> Result<()> {
        if self.is_running() {
            return Err(self.wrong_state("save the HVM context"));
        }
        self.hvm.emit(blob)
    }

    fn hvm_param(&self, index: u64) -> Result<u64> {
        let param = usize::try_from(index).ok().and_then(|index| self.params.get(index));
        param.copied().ok_or(Error::HvmParam { index, value: 0 })
    }
}

impl RestoreDomain for SimDomain {
    type PagesMut<'a> = SimPagesMut<'a>;

    fn populate(&mut self, pfns: &[Pfn]) -> Result<()> {
        pfns.iter().try_for_each(|&pfn| self.memory.populate(pfn))
    }

    fn map_pages_mut<'a>(&'a mut self, pfns: &'a [Pfn]) -> Result<SimPagesMut<'a>> {
        match pfns.iter().find(|&&pfn| !self.memory.has_data(pfn)) {
            Some(&pfn) => Err(Error::NotPopulated { pfn }),
            None => Ok(SimPagesMut { memory: &mut self.memory, pfns }),
        }
    }

    fn set_cpu_policy(&mut self, policy: &CpuPolicy) -> Result<()> {
        let parts = [("CPUID", &policy.cpuid, CpuidPolicy::LEAF), ("MSR", &policy.msrs, MsrPolicy::ENTRY)];
        for (part, bytes, entry) in parts {
            if bytes.len() % entry != 0 {
                return Err(Error::CpuPolicyLength { part, length: bytes.len(), entry });
            }
        }
        for (mine, given) in [(&mut self.policy.cpuid, &policy.cpuid), (&mut self.policy.msrs, &policy.msrs)] {
            if !given.is_empty() {
                mine.clone_from(given);
            }
        }
        Ok(())
    }

    fn set_tsc_info(&mut self, tsc: TscInfo) -> Result<()> {
        self.tsc = tsc;
        Ok(())
    }

    fn set_hvm_param(&mut self, param: HvmParam) -> Result<()> {
        let HvmParam { index, value } = param;
        // Xen takes these from the toolstack once, at other places, or not at all.
        let settable = index < hvm_param::COUNT && index != hvm_param::PAE_ENABLED;
        let slot = usize::try_from(index).ok().filter(|_| settable).and_then(|index| self.params.get_mut(index));
        *slot.ok_or(Error::HvmParam { index, value })? = value;
        Ok(())
    }

    fn set_hvm_context(&mut self, blob: &[u8]) -> Result<()> {
        if self.is_running() {
            return Err(self.wrong_state("load a HVM context"));
        }
        self.hvm = HvmState::parse(blob, self.config.vcpus)?;
        Ok(())
    }

    fn seed_grant_table(&mut self, seed: GrantSeed) -> Result<()> {
        self.grants = seed;
        Ok(())
    }
}

impl DeviceModel for SimDomain {
    fn emulator(&self) -> EmulatorHeader {
        EMULATOR
    }

    fn save_device_model(&self, blob: &mut Vec<u8>) -> Result<()> {
        if self.is_running() {
            return Err(self.wrong_state("save the device model"));
        }
        self.devices.emit(blob)
    }

    fn load_device_model(&mut self, blob: &[u8]) -> Result<()> {
        if self.is_running() {
            return Err(self.wrong_state("load a device model"));
        }
        self.devices = DeviceModelState::parse(blob)?;
        Ok(())
    }

    fn emulator_xenstore(&self) -> Result<Vec<(String, String)>> {
        Ok(self.xenstore.clone())
    }

    fn set_emulator_xenstore(&mut self, pairs: Vec<(String, String)>) -> Result<()> {
        self.xenstore = pairs;
        Ok(())
    }

    fn set_device_model_log_dirty(&mut self, enable: bool) -> Result<()> {
        self.memory.set_device_log(enable);
        Ok(())
    }
}
