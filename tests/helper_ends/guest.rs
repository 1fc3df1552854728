//! One simulated guest for two owners: the helper, which sees it through the hypervisor's traits, and whoever plays
//! libxl and suspends and resumes it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use xen_replicate::hypervisor::PvDomain;
use xen_replicate::hypervisor::sim::{SimConfig, SimDomain};
use xen_replicate::hypervisor::*;

#[derive(Debug, Clone)]
pub struct Guest(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    domain: Mutex<SimDomain>,
    /// Steps that it makes behind each batch of its pages that is mapped while it runs.
    steps_per_batch: AtomicU64,
}

impl Guest {
    /// A guest that has run.
    pub fn running(config: &SimConfig, steps: u64) -> Self {
        let mut domain = SimDomain::create(config).unwrap();
        domain.run(steps).unwrap();
        Guest::new(domain)
    }

    /// A domain to restore into.
    pub fn empty(config: &SimConfig) -> Self {
        Guest::new(SimDomain::empty(config).unwrap())
    }

    fn new(domain: SimDomain) -> Self {
        Guest(Arc::new(Shared { domain: Mutex::new(domain), steps_per_batch: AtomicU64::new(0) }))
    }

    /// Has it go on while its memory is being sent.
    pub fn goes_on(self, steps_per_batch: u64) -> Self {
        self.0.steps_per_batch.store(steps_per_batch, Ordering::SeqCst);
        self
    }

    pub fn lock(&self) -> MutexGuard<'_, SimDomain> {
        self.0.domain.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the hypervisor tracks its writes.
    pub fn is_tracked(&self) -> bool {
        let mut guest = self.lock();
        let mut dirty = DirtyBitmap::new(guest.info().unwrap().nr_pfns);
        match guest.peek_log_dirty(&mut dirty) {
            Ok(_) => true,
            Err(Error::LogDirtyOff { .. }) => false,
            Err(error) => panic!("{error}"),
        }
    }
}

impl Domain for Guest {
    fn info(&self) -> Result<DomainInfo> {
        self.lock().info()
    }

    fn suspend(&mut self) -> Result<()> {
        panic!("a helper has libxl suspend the guest");
    }

    fn resume(&mut self) -> Result<()> {
        panic!("a helper has libxl resume the guest");
    }

    fn pause(&mut self) -> Result<()> {
        panic!("a helper has no business with this");
    }

    fn unpause(&mut self) -> Result<()> {
        panic!("a helper has no business with this");
    }
}

impl LogDirty for Guest {
    fn enable_log_dirty(&mut self) -> Result<()> {
        self.lock().enable_log_dirty()
    }

    fn clean_log_dirty(&mut self, bitmap: &mut DirtyBitmap, mode: CleanMode) -> Result<DirtyStats> {
        self.lock().clean_log_dirty(bitmap, mode)
    }

    fn peek_log_dirty(&mut self, bitmap: &mut DirtyBitmap) -> Result<DirtyStats> {
        self.lock().peek_log_dirty(bitmap)
    }

    fn disable_log_dirty(&mut self) -> Result<()> {
        self.lock().disable_log_dirty()
    }
}

/// Copies of a guest's pages.
#[derive(Debug)]
pub struct Copied(Vec<Page>);

fn copied(guest: &SimDomain, pfns: &[Pfn]) -> Result<Copied> {
    let pages = guest.map_pages(pfns)?;
    Ok(Copied((0..pages.len()).map(|index| *pages.page(index).unwrap()).collect()))
}

impl PageBatch for Copied {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn page(&self, index: usize) -> Option<&Page> {
        self.0.get(index)
    }
}

/// Copies that are written back when they are unmapped.
#[derive(Debug)]
pub struct WrittenBack<'a> {
    guest: &'a Guest,
    pfns: &'a [Pfn],
    pages: Copied,
}

impl PageBatch for WrittenBack<'_> {
    fn len(&self) -> usize {
        self.pages.len()
    }

    fn page(&self, index: usize) -> Option<&Page> {
        self.pages.page(index)
    }
}

impl PageBatchMut for WrittenBack<'_> {
    fn page_mut(&mut self, index: usize) -> Option<&mut Page> {
        self.pages.0.get_mut(index)
    }
}

impl Drop for WrittenBack<'_> {
    fn drop(&mut self) {
        let mut guest = self.guest.lock();
        let mut target = guest.map_pages_mut(self.pfns).unwrap();
        for (index, page) in self.pages.0.iter().enumerate() {
            *target.page_mut(index).unwrap() = *page;
        }
    }
}

impl PvDomain for Guest {}

impl SaveDomain for Guest {
    type Pages<'a> = Copied;

    fn page_types(&self, pfns: &[Pfn], types: &mut [PageType]) -> Result<()> {
        self.lock().page_types(pfns, types)
    }

    fn map_pages<'a>(&'a self, pfns: &'a [Pfn]) -> Result<Copied> {
        let mut guest = self.lock();
        let pages = copied(&guest, pfns)?;
        if guest.is_running() {
            guest.run(self.0.steps_per_batch.load(Ordering::SeqCst))?;
        }
        Ok(pages)
    }

    fn cpu_policy(&self) -> Result<CpuPolicy> {
        self.lock().cpu_policy()
    }

    fn tsc_info(&self) -> Result<TscInfo> {
        self.lock().tsc_info()
    }

    fn hvm_context(&self, blob: &mut Vec<u8>) -> Result<()> {
        self.lock().hvm_context(blob)
    }

    fn hvm_param(&self, index: u64) -> Result<u64> {
        self.lock().hvm_param(index)
    }
}

impl RestoreDomain for Guest {
    type PagesMut<'a> = WrittenBack<'a>;

    fn populate(&mut self, pfns: &[Pfn]) -> Result<()> {
        self.lock().populate(pfns)
    }

    fn map_pages_mut<'a>(&'a mut self, pfns: &'a [Pfn]) -> Result<WrittenBack<'a>> {
        let pages = copied(&self.lock(), pfns)?;
        Ok(WrittenBack { guest: self, pfns, pages })
    }

    fn set_cpu_policy(&mut self, policy: &CpuPolicy) -> Result<()> {
        self.lock().set_cpu_policy(policy)
    }

    fn set_tsc_info(&mut self, tsc: TscInfo) -> Result<()> {
        self.lock().set_tsc_info(tsc)
    }

    fn set_hvm_param(&mut self, param: HvmParam) -> Result<()> {
        self.lock().set_hvm_param(param)
    }

    fn set_hvm_context(&mut self, blob: &[u8]) -> Result<()> {
        self.lock().set_hvm_context(blob)
    }

    fn seed_grant_table(&mut self, seed: GrantSeed) -> Result<()> {
        self.lock().seed_grant_table(seed)
    }
}
