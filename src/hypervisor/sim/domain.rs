//! A simulated domain: memory, vCPUs, devices and card plugged together.

use super::config::SimConfig;
use super::device_model::{DeviceModelState, physmap_keys};
use super::layout::{Layout, NR_IOREQ_SERVER_PAGES, SpecialPages};
use super::memory::GuestMemory;
use super::nic::Nic;
use super::vcpu::HvmState;
use super::workload::control::Control;
use super::workload::{self, Machine};
use super::{platform, policy};
use crate::hypervisor::error::{Error, Result};
use crate::hypervisor::hvm_param;
use crate::hypervisor::types::{CpuPolicy, GrantSeed, PAGE_SHIFT, PAGE_SIZE, Page, Pfn, ShutdownReason, TscInfo};
use crate::hypervisor::{PageBatch, PageBatchMut};

/// Number of HVM parameters.
pub(super) const NR_PARAMS: usize = hvm_param::COUNT as usize;

/// A simulated HVM domain. It stands still except within [`SimDomain::run`].
#[derive(Debug)]
pub struct SimDomain {
    pub(super) config: SimConfig,
    pub(super) memory: GuestMemory,
    pub(super) hvm: HvmState,
    pub(super) params: [u64; NR_PARAMS],
    pub(super) tsc: TscInfo,
    pub(super) policy: CpuPolicy,
    pub(super) devices: DeviceModelState,
    pub(super) xenstore: Vec<(String, String)>,
    pub(super) nic: Nic,
    pub(super) grants: GrantSeed,
    pub(super) paused: bool,
    pub(super) shutdown: Option<ShutdownReason>,
    /// How often it will have been suspended when somebody destroys it.
    pub(super) lives: Option<u32>,
}

impl SimDomain {
    /// A domain with its workload in place, running, before its first step.
    ///
    /// Memory that neither image nor workload touches is not backed by the host yet.
    pub fn create(config: &SimConfig) -> Result<Self> {
        let mut domain = SimDomain::empty(config)?;
        let layout = Layout::new(config.layout, config.memory);
        for range in layout.populated() {
            for pfn in range {
                domain.memory.populate(pfn)?;
            }
        }
        domain.hvm = HvmState::from_entries(platform::power_on(config.vcpus, config.tsc_khz), config.vcpus)?;
        domain.policy = policy::policy(config.vcpus);
        domain.tsc = TscInfo { mode: 0, khz: config.tsc_khz, nsec: 0, incarnation: 1, reserved: 0 };
        domain.devices = DeviceModelState::power_on(config.seed);
        if config.emulator_xenstore {
            domain.xenstore = physmap_keys();
        }
        domain.set_special_pages(&layout.special)?;
        let control = Control::new(config, &layout);
        workload::install(&mut domain.machine(), control, config.image_pages)?;
        domain.paused = false;
        Ok(domain)
    }

    /// A domain to restore into: paused, no memory populated, no state. Of the configuration count the identity, the number of
    /// vCPUs, the extent of the layout, and the memory budget.
    pub fn empty(config: &SimConfig) -> Result<Self> {
        config.check()?;
        let layout = Layout::new(config.layout, config.memory);
        let mut memory = GuestMemory::new(layout.nr_pfns, config.budget())?;
        memory.set_logs_additions(config.logs_additions);
        SimDomain::around(config, memory)
    }

    /// The same, around memory that has no page yet.
    pub(super) fn around(config: &SimConfig, memory: GuestMemory) -> Result<Self> {
        Ok(SimDomain {
            memory,
            hvm: HvmState::from_entries(Vec::new(), config.vcpus)?,
            params: [0; NR_PARAMS],
            tsc: TscInfo::default(),
            policy: CpuPolicy::default(),
            devices: DeviceModelState::default(),
            xenstore: Vec::new(),
            nic: Nic::default(),
            grants: GrantSeed::default(),
            paused: true,
            shutdown: None,
            lives: None,
            config: config.clone(),
        })
    }

    /// Runs steps of the workload. An error when the domain does not run, or when its state turns out to be damaged.
    pub fn run(&mut self, steps: u64) -> Result<()> {
        if !self.is_running() {
            return Err(self.wrong_state("run"));
        }
        workload::run(&mut self.machine(), steps)?;
        Ok(())
    }

    /// Whether the guest makes steps: neither paused nor shut down.
    pub fn is_running(&self) -> bool {
        !self.paused && self.shutdown.is_none()
    }

    /// Has the workload check itself: whether memory is what was written to it, and registers agree with memory. Reads the whole
    /// working set; allowed in any state.
    pub fn self_check(&self) -> Result<()> {
        Ok(workload::self_check(&self.memory, &self.hvm)?)
    }

    /// How many steps the workload has run.
    pub fn steps(&self) -> Result<u64> {
        Ok(Control::load(&self.memory)?.step)
    }

    /// How the domain was configured.
    pub fn config(&self) -> &SimConfig {
        &self.config
    }

    /// The guest's memory.
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// The guest's memory, to break pages in it.
    pub fn memory_mut(&mut self) -> &mut GuestMemory {
        &mut self.memory
    }

    /// vCPUs and platform.
    pub fn hvm(&self) -> &HvmState {
        &self.hvm
    }

    /// The device model's state.
    pub fn devices(&self) -> &DeviceModelState {
        &self.devices
    }

    /// The host's end of the network card. It may be cloned and used from any thread, whatever the guest does.
    pub fn nic(&self) -> &Nic {
        &self.nic
    }

    /// The rings' grants, as a restorer has set them.
    pub fn grants(&self) -> GrantSeed {
        self.grants
    }

    /// Whether the guest answers from now on when it is asked to suspend.
    pub fn set_acknowledge_suspend(&mut self, answers: bool) {
        self.config.acknowledge_suspend = answers;
    }

    /// Whether the hypervisor resumes the guest from now on.
    pub fn set_resumes(&mut self, resumes: bool) {
        self.config.resumes = resumes;
    }

    /// Has somebody destroy the domain while it is suspended for the time that is given, counted from now. Its end shows in
    /// [`Domain::info`](crate::hypervisor::Domain::info) and in what it is told to do.
    pub fn set_lives(&mut self, suspensions: u32) {
        self.lives = Some(suspensions);
    }

    /// What the domain is doing, for error messages.
    pub(super) fn state(&self) -> &'static str {
        match (self.shutdown, self.paused) {
            (Some(ShutdownReason::Suspend), _) => "suspended",
            (Some(_), _) => "shut down",
            (None, true) => "paused",
            (None, false) => "running",
        }
    }

    pub(super) fn wrong_state(&self, operation: &'static str) -> Error {
        Error::WrongState { domid: self.config.domid, operation, state: self.state() }
    }

    fn machine(&mut self) -> Machine<'_> {
        Machine { memory: &mut self.memory, hvm: &mut self.hvm, devices: &mut self.devices, nic: &self.nic }
    }

    /// Sets the parameters that name special pages and fills the page table for real mode.
    fn set_special_pages(&mut self, special: &SpecialPages) -> Result<()> {
        let address = |pfn: Pfn| pfn << PAGE_SHIFT;
        let params = [
            (hvm_param::STORE_PFN, special.xenstore),
            (hvm_param::IOREQ_PFN, special.ioreq),
            (hvm_param::BUFIOREQ_PFN, special.bufioreq),
            (hvm_param::PAGING_RING_PFN, special.paging),
            (hvm_param::MONITOR_RING_PFN, special.access),
            (hvm_param::SHARING_RING_PFN, special.sharing),
            (hvm_param::CONSOLE_PFN, special.console),
            (hvm_param::ACPI_IOPORTS_LOCATION, 1),
            (hvm_param::IDENT_PT, address(special.ident_pt)),
            (hvm_param::IOREQ_SERVER_PFN, special.ioreq_servers),
            (hvm_param::NR_IOREQ_SERVER_PAGES, NR_IOREQ_SERVER_PAGES),
            // 384 bytes at 0x280 into the page, the size in the high half.
            (hvm_param::VM86_TSS_SIZED, 0x180 << 32 | address(special.vm86_tss) | 0x280),
        ];
        for (index, value) in params {
            if let Some(param) = self.params.get_mut(index as usize) {
                *param = value;
            }
        }
        let page = self.memory.toolstack_page(special.ident_pt).ok_or(Error::NotPopulated { pfn: special.ident_pt })?;
        for (number, entry) in (0u32..).zip(page.chunks_exact_mut(4)) {
            // One 4 MiB page each: present, writable, user, accessed, dirty, large.
            entry.copy_from_slice(&(number << 22 | 0xe7).to_le_bytes());
        }
        Ok(())
    }
}

/// Pages of a [`SimDomain`] mapped for reading, in place.
#[derive(Debug)]
pub struct SimPages<'a> {
    pub(super) memory: &'a GuestMemory,
    pub(super) pfns: &'a [Pfn],
}

impl PageBatch for SimPages<'_> {
    fn len(&self) -> usize {
        self.pfns.len()
    }

    fn page(&self, index: usize) -> Option<&Page> {
        self.memory.page(*self.pfns.get(index)?)
    }

    fn run(&self, index: usize) -> Option<&[u8]> {
        self.memory.run(self.pfns.get(index..)?)
    }
}

/// Pages of a [`SimDomain`] mapped for writing, in place.
#[derive(Debug)]
pub struct SimPagesMut<'a> {
    pub(super) memory: &'a mut GuestMemory,
    pub(super) pfns: &'a [Pfn],
}

impl PageBatch for SimPagesMut<'_> {
    fn len(&self) -> usize {
        self.pfns.len()
    }

    fn page(&self, index: usize) -> Option<&Page> {
        self.memory.page(*self.pfns.get(index)?)
    }

    fn run(&self, index: usize) -> Option<&[u8]> {
        self.memory.run(self.pfns.get(index..)?)
    }
}

impl PageBatchMut for SimPagesMut<'_> {
    fn page_mut(&mut self, index: usize) -> Option<&mut Page> {
        self.memory.toolstack_page(*self.pfns.get(index)?)
    }
}

/// Copies the pages of a batch behind each other.
pub(super) fn copy_pages(pages: &impl PageBatch, buffer: &mut Vec<u8>) {
    buffer.clear();
    buffer.reserve(pages.len().saturating_mul(PAGE_SIZE));
    let mut index = 0;
    while let Some(run) = pages.run(index) {
        crate::copying::append(run, buffer);
        index += run.len() / PAGE_SIZE;
    }
}
