//! A simulated guest that runs in real time: on a thread of its own, until somebody wants to look at it.

use std::num::NonZeroU32;
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::domain::{SimDomain, copy_pages};
use super::nic::Nic;
use crate::hypervisor::error::{Error, Result};
use crate::hypervisor::types::{PAGE_SIZE, Page, Pfn};
use crate::hypervisor::{PageBatch, PageBatchMut, SaveDomain};

/// How fast a guest runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// As fast as the host lets it.
    Free,
    /// So many steps a second. Steps that are late are caught up with; those missed while the guest stood still are not.
    StepsPerSecond(NonZeroU32),
}

/// Owns a guest and runs it whenever it is neither paused nor suspended.
///
/// Whoever wants something of the guest takes a turn, during which the guest stands at the end of a step; the hypervisor's traits
/// do so for each call. Pages of a guest that stands still are mapped in place and need no turn to stay; pages of a running guest
/// are copied once, so that it runs on. Dropping the runner ends the thread and the guest.
#[derive(Debug)]
pub struct Runner {
    shared: Arc<Shared>,
    thread: GuestThread,
    nic: Nic,
    pub(super) logs_additions: bool,
    /// Buffers for the pages of a running guest, kept from batch to batch.
    buffers: Mutex<Vec<Vec<u8>>>,
}

#[derive(Debug)]
struct Shared {
    guest: Mutex<Guest>,
    /// Told whenever a turn ends.
    turn_over: Condvar,
    /// How many threads wait for a turn. The guest lets them go first: a mutex alone would let it win every time.
    waiting: AtomicUsize,
}

#[derive(Debug)]
struct Guest {
    /// Shared with batches of pages mapped in place, which exist only while the guest stands still.
    domain: Arc<SimDomain>,
    /// Why the guest stopped by itself, until somebody asks.
    fault: Option<Error>,
    /// The thread is to end.
    quit: bool,
}

/// Ends and joins the guest's thread when dropped.
#[derive(Debug)]
struct GuestThread {
    shared: Arc<Shared>,
    handle: Option<JoinHandle<()>>,
}

impl Drop for GuestThread {
    fn drop(&mut self) {
        self.shared.take_turn().quit = true;
        self.shared.turn_over.notify_all();
        if let Some(handle) = self.handle.take() {
            // Should it have panicked, then its lock is poisoned and says no more than this would.
            let _ = handle.join();
        }
    }
}

impl Runner {
    /// Lets the guest run from now on, as far as its state allows.
    pub fn start(domain: SimDomain, pace: Pace) -> Result<Self> {
        let nic = domain.nic().clone();
        let logs_additions = domain.memory().logs_additions();
        let guest = Mutex::new(Guest { domain: Arc::new(domain), fault: None, quit: false });
        let shared = Arc::new(Shared { guest, turn_over: Condvar::new(), waiting: AtomicUsize::new(0) });
        let handle = std::thread::Builder::new().name("sim-guest".into()).spawn({
            let shared = Arc::clone(&shared);
            move || shared.run(pace)
        });
        let handle = handle.map_err(|source| Error::Os { operation: "starting the guest's thread", source })?;
        let thread = GuestThread { shared: Arc::clone(&shared), handle: Some(handle) };
        Ok(Runner { shared, thread, nic, logs_additions, buffers: Mutex::new(Vec::new()) })
    }

    /// Waits for the end of the current step and keeps the guest there while the turn lasts.
    ///
    /// A thread that has a turn must end it before it calls the runner again. An error when the guest has stopped by itself because
    /// its state is damaged; it is told once, and the guest is paused from then on.
    pub fn turn(&self) -> Result<Turn<'_>> {
        let mut guest = self.shared.take_turn();
        match guest.fault.take() {
            Some(fault) => Err(fault),
            None => Ok(Turn { guest, shared: &self.shared }),
        }
    }

    /// Like [`Runner::turn`], to change the guest.
    pub fn with<T>(&mut self, change: impl FnOnce(&mut SimDomain) -> Result<T>) -> Result<T> {
        let mut turn = self.turn()?;
        match Arc::get_mut(&mut turn.guest.domain) {
            Some(domain) => change(domain),
            // Batches borrow the runner, which is borrowed here for ourselves alone.
            None => Err(turn.wrong_state("change the guest while its pages are mapped")),
        }
    }

    /// The host's end of the guest's network card, for any thread to have: it needs no turn.
    pub fn nic(&self) -> Nic {
        self.nic.clone()
    }

    /// Ends the thread and hands the guest back, standing at the end of a step.
    pub fn stop(self) -> Result<SimDomain> {
        let Runner { shared, thread, .. } = self;
        drop(thread);
        let gone = Error::WrongState { domid: 0, operation: "hand the guest back", state: "in use elsewhere" };
        let Some(shared) = Arc::into_inner(shared) else {
            return Err(gone);
        };
        let guest = shared.guest.into_inner().unwrap_or_else(PoisonError::into_inner);
        match guest.fault {
            Some(fault) => Err(fault),
            None => Arc::into_inner(guest.domain).ok_or(gone),
        }
    }

    /// Pages for reading: in place where the guest stands still, else as copies.
    pub(super) fn pages<'a>(&'a self, pfns: &'a [Pfn]) -> Result<RunnerPages<'a>> {
        let turn = self.turn()?;
        let pages = turn.map_pages(pfns)?;
        if !turn.is_running() {
            return Ok(RunnerPages(Pages::InPlace { domain: Arc::clone(&turn.guest.domain), pfns }));
        }
        let mut buffer = self.lock_buffers().pop().unwrap_or_default();
        copy_pages(&pages, &mut buffer);
        Ok(RunnerPages(Pages::Copied { buffer, runner: self }))
    }

    fn lock_buffers(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Guest> {
        self.guest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_turn(&self) -> MutexGuard<'_, Guest> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let guest = self.lock();
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        guest
    }

    /// The guest's thread.
    fn run(&self, pace: Pace) {
        let step_time = match pace {
            Pace::Free => Duration::ZERO,
            Pace::StepsPerSecond(steps) => Duration::from_secs(1) / steps.get(),
        };
        let mut guest = self.lock();
        let mut due = Instant::now();
        loop {
            let Guest { domain, fault, quit } = &mut *guest;
            if *quit {
                return;
            }
            let asked = self.waiting.load(Ordering::SeqCst) > 0;
            let domain = Arc::get_mut(domain).filter(|domain| !asked && domain.is_running());
            let Some(domain) = domain else {
                guest = self.turn_over.wait(guest).unwrap_or_else(PoisonError::into_inner);
                due = due.max(Instant::now());
                continue;
            };
            let early = due.saturating_duration_since(Instant::now());
            if !early.is_zero() {
                guest = self.turn_over.wait_timeout(guest, early).unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            if let Err(error) = domain.run(1) {
                domain.paused = true;
                *fault = Some(error);
            }
            due += step_time;
        }
    }
}

/// A turn with the guest, which stands still meanwhile.
#[derive(Debug)]
pub struct Turn<'a> {
    guest: MutexGuard<'a, Guest>,
    shared: &'a Shared,
}

impl Deref for Turn<'_> {
    type Target = SimDomain;

    fn deref(&self) -> &SimDomain {
        &self.guest.domain
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // The guest's thread wakes now and gets the lock as soon as this turn lets go of it. A guest that stands still has no
        // use for it, and whoever saves its state takes many turns.
        if self.guest.domain.is_running() {
            self.shared.turn_over.notify_all();
        }
    }
}

/// Pages of a [`Runner`]'s guest mapped for reading.
#[derive(Debug)]
pub struct RunnerPages<'a>(Pages<'a>);

#[derive(Debug)]
enum Pages<'a> {
    InPlace { domain: Arc<SimDomain>, pfns: &'a [Pfn] },
    Copied { buffer: Vec<u8>, runner: &'a Runner },
}

impl PageBatch for RunnerPages<'_> {
    fn len(&self) -> usize {
        match &self.0 {
            Pages::InPlace { pfns, .. } => pfns.len(),
            Pages::Copied { buffer, .. } => buffer.len() / PAGE_SIZE,
        }
    }

    fn page(&self, index: usize) -> Option<&Page> {
        match &self.0 {
            Pages::InPlace { domain, pfns } => domain.memory().page(*pfns.get(index)?),
            Pages::Copied { buffer, .. } => {
                let start = index.checked_mul(PAGE_SIZE)?;
                buffer.get(start..start.checked_add(PAGE_SIZE)?)?.try_into().ok()
            }
        }
    }

    fn run(&self, index: usize) -> Option<&[u8]> {
        match &self.0 {
            Pages::InPlace { domain, pfns } => domain.memory().run(pfns.get(index..)?),
            Pages::Copied { buffer, .. } => buffer.get(index.checked_mul(PAGE_SIZE)?..).filter(|run| !run.is_empty()),
        }
    }
}

impl Drop for RunnerPages<'_> {
    fn drop(&mut self) {
        if let Pages::Copied { buffer, runner } = &mut self.0 {
            runner.lock_buffers().push(std::mem::take(buffer));
        }
    }
}

/// Pages of a [`Runner`]'s guest mapped for writing. The guest stands still while they are.
#[derive(Debug)]
pub struct RunnerPagesMut<'a> {
    turn: Turn<'a>,
    pfns: &'a [Pfn],
}

impl<'a> RunnerPagesMut<'a> {
    pub(super) fn new(runner: &'a mut Runner, pfns: &'a [Pfn]) -> Result<Self> {
        let turn = runner.turn()?;
        turn.map_pages(pfns)?;
        Ok(RunnerPagesMut { turn, pfns })
    }
}

impl PageBatch for RunnerPagesMut<'_> {
    fn len(&self) -> usize {
        self.pfns.len()
    }

    fn page(&self, index: usize) -> Option<&Page> {
        self.turn.memory().page(*self.pfns.get(index)?)
    }

    fn run(&self, index: usize) -> Option<&[u8]> {
        self.turn.memory().run(self.pfns.get(index..)?)
    }
}

impl PageBatchMut for RunnerPagesMut<'_> {
    fn page_mut(&mut self, index: usize) -> Option<&mut Page> {
        let pfn = *self.pfns.get(index)?;
        Arc::get_mut(&mut self.turn.guest.domain)?.memory.toolstack_page(pfn)
    }
}
