//! A PV guest on a thread of its own: until somebody wants to look at it.
#![forbid(unsafe_code)]

use std::num::NonZeroU32;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use xen_replicate::hypervisor::Error;
use xen_replicate::hypervisor::sim::pv::PvSim;

/// Owns a guest and runs it whenever it is neither paused nor suspended.
pub struct PvRunner {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

struct Shared {
    state: Mutex<State>,
    /// Told whenever a turn ends.
    turn_over: Condvar,
    /// How many threads wait for a turn: the guest lets them go first.
    waiting: AtomicUsize,
}

struct State {
    guest: PvSim,
    /// Why the guest stopped by itself, until somebody asks.
    fault: Option<Error>,
    quit: bool,
}

impl PvRunner {
    /// Lets the guest run from now on, as far as its state allows.
    pub fn start(guest: PvSim, pace: Option<NonZeroU32>) -> std::io::Result<Self> {
        let state = Mutex::new(State { guest, fault: None, quit: false });
        let shared = Arc::new(Shared { state, turn_over: Condvar::new(), waiting: AtomicUsize::new(0) });
        let thread = std::thread::Builder::new().name("pv-guest".into()).spawn({
            let shared = Arc::clone(&shared);
            move || shared.run(pace)
        })?;
        Ok(PvRunner { shared, thread })
    }

    /// Keeps the guest at the end of a step while the turn lasts. An error where it has stopped by itself; it is told once.
    pub fn turn(&self) -> Result<PvTurn<'_>, Error> {
        let mut state = self.shared.take_turn();
        match state.fault.take() {
            Some(fault) => Err(fault),
            None => Ok(PvTurn { state, shared: &self.shared }),
        }
    }

    /// Ends the thread and hands the guest back.
    pub fn stop(self) -> Result<PvSim, Error> {
        self.shared.take_turn().quit = true;
        self.shared.turn_over.notify_all();
        let gone = Error::WrongState { domid: 0, operation: "hand the guest back", state: "in use elsewhere" };
        // Should it have panicked, then its lock is poisoned and says no more than this would.
        let _ = self.thread.join();
        let state =
            Arc::into_inner(self.shared).ok_or(gone)?.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        match state.fault {
            Some(fault) => Err(fault),
            None => Ok(state.guest),
        }
    }
}

impl Shared {
    fn take_turn(&self) -> MutexGuard<'_, State> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        state
    }

    fn run(&self, pace: Option<NonZeroU32>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while !state.quit {
            if self.waiting.load(Ordering::SeqCst) > 0 || !state.guest.is_running() {
                state = self.turn_over.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            if let Err(error) = state.guest.run(1) {
                state.guest.crash();
                state.fault = Some(error);
            }
            if let Some(steps) = pace {
                let step = Duration::from_secs(1) / steps.get();
                state = self.turn_over.wait_timeout(state, step).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }
}

/// A turn with the guest, which stands still meanwhile.
pub struct PvTurn<'a> {
    state: MutexGuard<'a, State>,
    shared: &'a Shared,
}

impl Deref for PvTurn<'_> {
    type Target = PvSim;

    fn deref(&self) -> &PvSim {
        &self.state.guest
    }
}

impl DerefMut for PvTurn<'_> {
    fn deref_mut(&mut self) -> &mut PvSim {
        &mut self.state.guest
    }
}

impl Drop for PvTurn<'_> {
    fn drop(&mut self) {
        self.shared.turn_over.notify_all();
    }
}
