//! A replica whose side was denied, on this host: kept while the process goes on listening, until the operator or the peer decides.

use super::home::{GoOn, Home, Job, Kept};
use super::operator::Desk;
use crate::claim::denied::Fate;
use crate::replicate::custody::{Custody as Driver, Settings};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

type Place<H> = Arc<Mutex<Option<GoOn<H>>>>;

/// What answers for it while the process does something else.
pub struct Custody<H> {
    driver: Driver,
    place: Place<H>,
    over: Arc<AtomicBool>,
}

/// What has become of it.
pub enum Decided {
    /// The guest has lived here; whether it ended as it should.
    Lived(bool),
    /// It was dropped, or replaced by a newer one, or the process was told to end.
    Freed,
}

fn lock<H>(place: &Place<H>) -> MutexGuard<'_, Option<GoOn<H>>> {
    place.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<H: Home> Custody<H> {
    /// Begins, and lets the operator at it.
    ///
    /// # Errors
    /// No thread can be started, the witness is of no use at all: the replica is freed.
    pub fn begin(kept: Kept<H>, job: &Job<H>, desk: &Desk) -> io::Result<Self> {
        let Kept { facts, go_on } = kept;
        let protection = &job.protection;
        let settings = Settings {
            domain: protection.domain.clone(),
            rule: protection.config.rule.name(),
            witness: protection.witness().map_err(io::Error::other)?,
            retry: protection.config.retry,
            facts,
            ctl: job.ctl.clone(),
        };
        let place: Place<H> = Arc::new(Mutex::new(Some(go_on)));
        let over = Arc::new(AtomicBool::new(false));
        let freed = Arc::clone(&place);
        let (decided, told) = (Arc::clone(&over), desk.clone());
        let driver = Driver::start(
            settings,
            move || drop(lock(&freed).take()),
            move || {
                decided.store(true, Ordering::SeqCst);
                // Who waits for a primary looks here first.
                told.wake();
            },
        )?;
        desk.keep(Some(driver.handle()));
        Ok(Custody { driver, place, over })
    }

    /// It is decided what becomes of it.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// Whether a primary that has connected may be served; [`Custody::disconnected`] follows then.
    pub fn admit(&self) -> bool {
        match self.driver.admit() {
            Ok(()) => true,
            Err(error) => {
                log::warn!("a primary has connected and is not served: {error}");
                false
            }
        }
    }

    /// The connection that was admitted has ended.
    pub fn disconnected(&self) {
        self.driver.disconnected();
    }

    /// What to call when a newer image is whole on this host.
    pub fn replaced(&self) -> Box<dyn FnOnce() + Send> {
        Box::new(self.driver.replaced())
    }

    /// Waits until it is decided what becomes of it, and does that.
    ///
    /// # Errors
    /// The guest could not be started, or what its life here failed with.
    pub fn end(self, job: &Job<H>, desk: &Desk) -> io::Result<Decided> {
        let fate = self.driver.join();
        desk.keep(None);
        let go_on = lock(&self.place).take();
        match (fate, go_on) {
            (Fate::Activated(generation), Some(go_on)) => go_on(generation, job, desk).map(Decided::Lived),
            _ => Ok(Decided::Freed),
        }
    }
}
