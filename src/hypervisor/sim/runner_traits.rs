//! The hypervisor's traits for [`Runner`]: each call takes a turn with the guest.

use super::runner::{Runner, RunnerPages, RunnerPagesMut};
use crate::hypervisor::error::Result;
use crate::hypervisor::types::{
    CleanMode, CpuPolicy, DirtyStats, DomainInfo, EmulatorHeader, GrantSeed, HvmParam, PageType, Pfn, TscInfo,
};
use crate::hypervisor::{DeviceModel, DirtyBitmap, Domain, LogDirty, PvDomain, RestoreDomain, SaveDomain};

impl Domain for Runner {
    fn info(&self) -> Result<DomainInfo> {
        self.turn()?.info()
    }

    fn suspend(&mut self) -> Result<()> {
        self.with(|domain| domain.suspend())
    }

    fn resume(&mut self) -> Result<()> {
        self.with(|domain| domain.resume())
    }

    fn pause(&mut self) -> Result<()> {
        self.with(|domain| domain.pause())
    }

    fn unpause(&mut self) -> Result<()> {
        self.with(|domain| domain.unpause())
    }
}

impl LogDirty for Runner {
    fn logs_additions(&self) -> bool {
        self.logs_additions
    }

    fn enable_log_dirty(&mut self) -> Result<()> {
        self.with(|domain| domain.enable_log_dirty())
    }

    fn clean_log_dirty(&mut self, bitmap: &mut DirtyBitmap, mode: CleanMode) -> Result<DirtyStats> {
        self.with(|domain| domain.clean_log_dirty(bitmap, mode))
    }

    fn peek_log_dirty(&mut self, bitmap: &mut DirtyBitmap) -> Result<DirtyStats> {
        self.with(|domain| domain.peek_log_dirty(bitmap))
    }

    fn disable_log_dirty(&mut self) -> Result<()> {
        self.with(|domain| domain.disable_log_dirty())
    }
}

/// None is a PV domain.
impl PvDomain for Runner {}

impl SaveDomain for Runner {
    type Pages<'a> = RunnerPages<'a>;

    fn page_types(&self, pfns: &[Pfn], types: &mut [PageType]) -> Result<()> {
        self.turn()?.page_types(pfns, types)
    }

    fn map_pages<'a>(&'a self, pfns: &'a [Pfn]) -> Result<RunnerPages<'a>> {
        self.pages(pfns)
    }

    fn cpu_policy(&self) -> Result<CpuPolicy> {
        self.turn()?.cpu_policy()
    }

    fn tsc_info(&self) -> Result<TscInfo> {
        self.turn()?.tsc_info()
    }

    fn hvm_context(&self, blob: &mut Vec<u8>) -> Result<()> {
        self.turn()?.hvm_context(blob)
    }

    fn hvm_param(&self, index: u64) -> Result<u64> {
        self.turn()?.hvm_param(index)
    }

    fn hvm_params(&self, params: &mut Vec<HvmParam>) -> Result<()> {
        self.turn()?.hvm_params(params)
    }
}

impl RestoreDomain for Runner {
    type PagesMut<'a> = RunnerPagesMut<'a>;

    fn populate(&mut self, pfns: &[Pfn]) -> Result<()> {
        self.with(|domain| domain.populate(pfns))
    }

    fn map_pages_mut<'a>(&'a mut self, pfns: &'a [Pfn]) -> Result<RunnerPagesMut<'a>> {
        RunnerPagesMut::new(self, pfns)
    }

    fn set_cpu_policy(&mut self, policy: &CpuPolicy) -> Result<()> {
        self.with(|domain| domain.set_cpu_policy(policy))
    }

    fn set_tsc_info(&mut self, tsc: TscInfo) -> Result<()> {
        self.with(|domain| domain.set_tsc_info(tsc))
    }

    fn set_hvm_param(&mut self, param: HvmParam) -> Result<()> {
        self.with(|domain| domain.set_hvm_param(param))
    }

    fn set_hvm_context(&mut self, blob: &[u8]) -> Result<()> {
        self.with(|domain| domain.set_hvm_context(blob))
    }

    fn seed_grant_table(&mut self, seed: GrantSeed) -> Result<()> {
        self.with(|domain| domain.seed_grant_table(seed))
    }
}

impl DeviceModel for Runner {
    fn emulator(&self) -> EmulatorHeader {
        super::device_model::EMULATOR
    }

    fn save_device_model(&self, blob: &mut Vec<u8>) -> Result<()> {
        self.turn()?.save_device_model(blob)
    }

    fn load_device_model(&mut self, blob: &[u8]) -> Result<()> {
        self.with(|domain| domain.load_device_model(blob))
    }

    fn emulator_xenstore(&self) -> Result<Vec<(String, String)>> {
        self.turn()?.emulator_xenstore()
    }

    fn set_emulator_xenstore(&mut self, pairs: Vec<(String, String)>) -> Result<()> {
        self.with(|domain| domain.set_emulator_xenstore(pairs))
    }

    fn set_device_model_log_dirty(&mut self, enable: bool) -> Result<()> {
        self.with(|domain| domain.set_device_model_log_dirty(enable))
    }
}
