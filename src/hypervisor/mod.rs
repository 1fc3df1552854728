//! The only room that knows what a hypervisor is.
//!
//! A backend gives a handle to one domain, and the handle implements the traits below. Their cut follows what Xen's own saver
//! and restorer ask of the hypervisor, so that one implementation of the memory stream serves every backend:
//!
//! | trait | what it stands for | in Xen |
//! |---|---|---|
//! | [`Domain`] | identity, suspend, resume, pause | `getdomaininfo`, xenstore `control/shutdown`, `resumedomain` |
//! | [`LogDirty`] | which pages were written | `XEN_DOMCTL_shadow_op` |
//! | [`SaveDomain`] | reading memory and state | `getpageframeinfo3`, foreign mappings, `gethvmcontext` |
//! | [`PvDomain`] | what only PV domains have | m2p, p2m, page-table pinning, vCPU contexts |
//! | [`RestoreDomain`] | building a domain | `populate_physmap`, foreign mappings, `sethvmcontext` |
//! | [`DeviceModel`] | the emulator beside the domain, libxl's business | QMP `xen-save-devices-state`, its xenstore keys |
//! | [`OutputBuffer`] | the guest's outbound packets, held back and let go | a plug qdisc on the vif |
//! | [`Replicated`] | a disk whose writes reach another host | DRBD with patches, or [`crate::disk`] |
//! | [`ComparedCard`] | the same, compared with another copy's | COLO's proxy |
//!
//! [`sim`] is a real guest in process memory, for hosts without Xen. [`xen`] is the real hypervisor.
//!
//! Calls are synchronous. Failures are values; a failed call leaves the domain as it was unless its documentation says otherwise.
#![deny(unsafe_code)]

pub mod bitmap;
pub mod bounded;
pub mod compared;
pub mod error;
pub mod hvm_param;
pub mod output;
pub mod pv;
pub mod replicated;
pub mod sim;
pub mod types;
pub mod xen;

pub use bitmap::DirtyBitmap;
pub use bounded::Bounded;
pub use compared::{ComparedCard, OnInbound, OnSent, Sent};
pub use error::{DeviceModelProblem, Error, GuestDamage, HvmContextProblem, Result};
pub use output::{NoBuffer, OutputBuffer};
pub use pv::{INVALID_MFN, Mfn, PvDomain};
pub use replicated::Replicated;
pub use types::{
    CleanMode, CpuPolicy, DirtyStats, DomainInfo, DomainKind, EmulatorHeader, GrantSeed, HvmParam, PAGE_SHIFT,
    PAGE_SIZE, Page, PageType, ParseUuidError, Pfn, RunState, ShutdownReason, TscInfo, Uuid, XenVersion, ZERO_PAGE,
};

/// A domain's identity and life.
pub trait Domain {
    /// What the hypervisor says about the domain now. Asks anew at every call.
    fn info(&self) -> Result<DomainInfo>;

    /// Requests the guest to suspend and waits until it has: afterwards [`DomainInfo::is_suspended`] holds and nothing in the guest
    /// changes any more. The wait is bounded by the backend.
    ///
    /// # Errors
    /// Whatever fails, the guest runs: a backend resumes a guest that has suspended before it returns an error. Where that fails too,
    /// the error is [`Error::LeftSuspended`]; [`Error::guest_after`] gives the state in one word.
    fn suspend(&mut self) -> Result<()>;

    /// Lets a suspended domain go on where it stopped, in place (`postcopy` of a checkpoint).
    ///
    /// # Errors
    /// The guest is still suspended, [`Error::LeftSuspended`]. What fails after it runs is no error of this call.
    fn resume(&mut self) -> Result<()>;

    /// Stops the vCPUs from outside, without the guest's help. Pausing twice is pausing once.
    fn pause(&mut self) -> Result<()>;

    /// Takes back [`Domain::pause`]. A restored domain comes to life by this: it is built paused.
    fn unpause(&mut self) -> Result<()>;
}

/// Tracking of the pages that the guest writes.
pub trait LogDirty {
    /// Whether the log has the pages too that come to the guest while it is on, because the guest has taken them or because they were moved,
    /// and all that is written to them. Without that, a saver has to look for them itself.
    fn logs_additions(&self) -> bool {
        false
    }

    /// Starts tracking, with no page dirty. Where tracking is on for another purpose, it is taken over and starts anew.
    fn enable_log_dirty(&mut self) -> Result<()>;

    /// Moves the dirty set into `bitmap`, replacing what it had, and starts anew with no page dirty. The bitmap's bound must be
    /// the domain's `nr_pfns`; the backend may exchange its buffer with the bitmap's.
    fn clean_log_dirty(&mut self, bitmap: &mut DirtyBitmap, mode: CleanMode) -> Result<DirtyStats>;

    /// Copies the dirty set into `bitmap`, replacing what it had, and leaves it as it is.
    fn peek_log_dirty(&mut self, bitmap: &mut DirtyBitmap) -> Result<DirtyStats>;

    /// Stops tracking. No error when it is off.
    fn disable_log_dirty(&mut self) -> Result<()>;
}

/// Pages mapped for reading. They stay mapped, and their contents in place, for as long as this value lives.
///
/// While the guest runs, a backend gives the contents as of the time of mapping or later; pages that change meanwhile are in the
/// dirty log.
pub trait PageBatch {
    /// How many pages the batch has.
    fn len(&self) -> usize;

    /// Whether the batch has no page.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The page at `index` of the batch; `None` only where `index` is not below [`PageBatch::len`].
    fn page(&self, index: usize) -> Option<&Page>;

    /// As many pages from `index` on as lie next to each other in our memory, as one slice: a whole multiple of [`PAGE_SIZE`],
    /// at least one page. This is what makes one iovec of adjacent pages.
    fn run(&self, index: usize) -> Option<&[u8]> {
        self.page(index).map(|page| page.as_slice())
    }
}

/// Pages mapped for writing.
pub trait PageBatchMut: PageBatch {
    /// The page at `index` of the batch, to be written; `None` only where `index` is not below [`PageBatch::len`].
    fn page_mut(&mut self, index: usize) -> Option<&mut Page>;

    /// As many pages from `index` on as lie next to each other in our memory, as [`PageBatch::run`], to be written.
    fn run_mut(&mut self, index: usize) -> Option<&mut [u8]> {
        self.page_mut(index).map(|page| page.as_mut_slice())
    }
}

/// What a saver needs of a domain.
pub trait SaveDomain: Domain + LogDirty + PvDomain {
    /// A batch of pages mapped for reading.
    type Pages<'a>: PageBatch
    where
        Self: 'a;

    /// The types of a batch of pages, one for each frame (of a PV domain: mfn; else pfn): [`PageType::XTAB`] for holes, also those beyond the domain's maximum.
    /// The slices must have the same length.
    fn page_types(&self, pfns: &[Pfn], types: &mut [PageType]) -> Result<()>;

    /// Maps the pages of a batch for reading, in the order given; nothing is copied where the guest stands still. All of them
    /// must have contents ([`PageType::has_contents`]), else [`Error::NotPopulated`] with the first that has none.
    fn map_pages<'a>(&'a self, pfns: &'a [Pfn]) -> Result<Self::Pages<'a>>;

    /// The domain's CPU policy, as the stream's static records carry it.
    fn cpu_policy(&self) -> Result<CpuPolicy>;

    /// How the domain sees the time stamp counter.
    fn tsc_info(&self) -> Result<TscInfo>;

    /// Puts Xen's HVM save blob into `blob`, replacing what it had. The domain must be suspended or paused.
    fn hvm_context(&self, blob: &mut Vec<u8>) -> Result<()>;

    /// The value of one HVM parameter, 0 where it was never set.
    fn hvm_param(&self, index: u64) -> Result<u64>;

    /// Puts the parameters that a stream carries into `params`, replacing what it had: [`hvm_param::SAVED`] in its order,
    /// without those of value 0.
    fn hvm_params(&self, params: &mut Vec<HvmParam>) -> Result<()> {
        params.clear();
        for index in hvm_param::SAVED {
            let value = self.hvm_param(index)?;
            if value != 0 {
                params.push(HvmParam { index, value });
            }
        }
        Ok(())
    }
}

/// What a restorer needs of a domain that was created empty and paused. It may also be a domain that has run meanwhile and was
/// suspended again (COLO's secondary), which is why [`LogDirty`] is part of it.
pub trait RestoreDomain: Domain + LogDirty + PvDomain {
    /// A batch of pages mapped for writing.
    type PagesMut<'a>: PageBatchMut
    where
        Self: 'a;

    /// Whether [`PageBatchMut::run_mut`] gives a batch whole, as a rule, so that a stream can be read right into it.
    const LONG_RUNS: bool = false;

    /// Gives the guest memory at these pfns. New pages are zero; pfns that have a page already keep it with its contents.
    /// Stops at the first that cannot be had ([`Error::OutOfMemory`], [`Error::PfnOutOfRange`]); those before it stay.
    fn populate(&mut self, pfns: &[Pfn]) -> Result<()>;

    /// Maps the pages of a batch for writing, in the order given. All must be populated; the same pfn twice is the same page
    /// twice. The writes of a restorer do not show in the dirty log.
    fn map_pages_mut<'a>(&'a mut self, pfns: &'a [Pfn]) -> Result<Self::PagesMut<'a>>;

    /// Clears one populated page.
    fn clear_page(&mut self, pfn: Pfn) -> Result<()> {
        let pfns = [pfn];
        let mut pages = self.map_pages_mut(&pfns)?;
        match pages.page_mut(0) {
            Some(page) => {
                page.fill(0);
                Ok(())
            }
            None => Err(Error::NotPopulated { pfn }),
        }
    }

    /// Sets the CPU policy. An empty part leaves the domain's default for it.
    fn set_cpu_policy(&mut self, policy: &CpuPolicy) -> Result<()>;

    /// Sets how the domain sees the time stamp counter.
    fn set_tsc_info(&mut self, tsc: TscInfo) -> Result<()>;

    /// Sets one HVM parameter and nothing else.
    fn set_hvm_param(&mut self, param: HvmParam) -> Result<()>;

    /// Takes one HVM parameter from a stream as Xen's restorer does: the pages of the xenstore, console, ioreq and bufioreq rings
    /// are cleared first, for their other ends start anew on this host, and the historic PAE switch is passed over. A page that the
    /// guest has given back is none that could be cleared.
    fn restore_hvm_param(&mut self, param: HvmParam) -> Result<()> {
        if param.index == hvm_param::PAE_ENABLED {
            return Ok(());
        }
        if hvm_param::names_cleared_page(param.index) {
            match self.clear_page(param.value) {
                Err(Error::NotPopulated { pfn }) => {
                    log::info!("HVM parameter {}: there is no page at pfn {pfn:#x} to be cleared", param.index);
                }
                cleared => cleared?,
            }
        }
        self.set_hvm_param(param)
    }

    /// Loads Xen's HVM save blob. On error the domain keeps the context that it had.
    fn set_hvm_context(&mut self, blob: &[u8]) -> Result<()>;

    /// Grants the console and xenstore rings to the domains that serve them.
    fn seed_grant_table(&mut self, seed: GrantSeed) -> Result<()>;
}

/// The emulator beside a HVM domain. libxl looks after it, not libxc, hence a trait of its own.
pub trait DeviceModel {
    /// Which emulator this is, for the sub-header of its records.
    fn emulator(&self) -> EmulatorHeader;

    /// Puts the emulator's state into `blob`, replacing what it had: opaque to everybody else. The domain must be suspended or
    /// paused.
    fn save_device_model(&self, blob: &mut Vec<u8>) -> Result<()>;

    /// Loads a state saved by the same kind of emulator. On error the emulator keeps the state that it had.
    fn load_device_model(&mut self, blob: &[u8]) -> Result<()>;

    /// The emulator's xenstore keys (relative to its own directory) and values that have to be there on the other side.
    fn emulator_xenstore(&self) -> Result<Vec<(String, String)>>;

    /// Sets the emulator's xenstore keys, replacing what it had.
    fn set_emulator_xenstore(&mut self, pairs: Vec<(String, String)>) -> Result<()>;

    /// Has the emulator report the pages that it writes to the dirty log (libxl's `switch_qemu_logdirty`). Without it, the
    /// log misses what devices write to guest memory.
    fn set_device_model_log_dirty(&mut self, enable: bool) -> Result<()>;
}
