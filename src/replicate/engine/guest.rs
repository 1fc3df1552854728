//! The guest of a primary, on a thread of its own, whatever the protocol: suspended, resumed, paused.

use crate::hypervisor::{self, DeviceModel, RunState, SaveDomain, ShutdownReason};
use crate::libxc::SaveError;
use crate::libxl;
use crate::replicate::failpoint::{Failpoints, Step};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

/// What to do, in order.
#[derive(Debug)]
pub(in crate::replicate) enum Job<J> {
    Suspend,
    Resume {
        epoch: u64,
    },
    /// Stand still for good.
    Pause,
    /// No stream any more: writes need not be tracked.
    Forget,
    /// Let it run on, unprotected and unwatched.
    Leave,
    Quit,
    /// The protocol's own.
    Own(J),
}

/// What has been done, or not.
#[derive(Debug)]
pub(in crate::replicate) enum Done {
    Suspended,
    /// What the guest is doing all the same.
    SuspendFailed(SaveError, RunState),
    Resumed {
        at: Instant,
        pause: Duration,
    },
    /// Packets cannot be told apart by epochs any more.
    EpochFailed(hypervisor::Error),
    /// The guest is suspended and cannot be helped.
    ResumeFailed(hypervisor::Error),
}

/// Told of the guest at each checkpoint.
pub trait Observer<D>: Send {
    /// The guest stands at checkpoint `number` and its state is taken. The time this takes is not counted as pause.
    fn suspended(&mut self, number: u64, domain: &D) {
        let _ = (number, domain);
    }
}

/// Nobody watches.
impl<D> Observer<D> for () {}

/// Somebody watches, or nobody.
impl<D, O: Observer<D>> Observer<D> for Option<O> {
    fn suspended(&mut self, number: u64, domain: &D) {
        if let Some(observer) = self {
            observer.suspended(number, domain);
        }
    }
}

/// What a protocol does on the guest's thread.
pub(in crate::replicate) trait Worker {
    /// The domain.
    type Domain: SaveDomain + DeviceModel;
    /// Who watches it.
    type Observer: Observer<Self::Domain>;
    /// What it is to do.
    type Job;
    /// What it has done.
    type Done;

    /// The guest.
    fn guest(&mut self) -> &mut Guest<Self::Domain, Self::Observer>;
    /// The guest is about to be suspended.
    fn suspending(&mut self) {}
    /// Stamps packets with this epoch from now on.
    fn begin_epoch(&mut self, epoch: u64) -> hypervisor::Result<()>;
    /// Does a job of its own.
    fn work(&mut self, job: Self::Job, done: &mut impl FnMut(Self::Done));
    /// There is no stream any more.
    fn forget(&mut self);
    /// The thread ends: gives the domain back.
    fn end(self) -> Self::Domain;
}

/// Does jobs until told to quit. Gives the domain back.
pub(in crate::replicate) fn serve<W: Worker>(
    mut worker: W,
    jobs: &Receiver<Job<W::Job>>,
    mut own: impl FnMut(W::Done),
    mut done: impl FnMut(Done),
) -> W::Domain {
    for job in jobs {
        match job {
            Job::Suspend => {
                worker.suspending();
                done(worker.guest().suspend());
            }
            Job::Resume { epoch } => {
                let epoch = worker.begin_epoch(epoch);
                worker.guest().resume(epoch, &mut done);
            }
            Job::Pause => worker.guest().pause(),
            Job::Forget => {
                worker.forget();
                worker.guest().untrack();
            }
            Job::Leave => worker.guest().leave(),
            Job::Quit => break,
            Job::Own(job) => worker.work(job, &mut own),
        }
    }
    worker.end()
}

/// The domain, how it is saved, and what is known of its pause.
pub(in crate::replicate) struct Guest<D, O> {
    pub domain: D,
    pub saver: libxl::Saver,
    observer: O,
    pub failpoints: Failpoints,
    pub name: String,
    suspended_at: Instant,
    /// Not the guest's time.
    watched: Duration,
    paused: bool,
}

impl<D: SaveDomain + DeviceModel, O: Observer<D>> Guest<D, O> {
    pub fn new(domain: D, saver: libxl::Saver, observer: O, failpoints: Failpoints, name: String) -> Self {
        let suspended_at = Instant::now();
        Guest { domain, saver, observer, failpoints, name, suspended_at, watched: Duration::ZERO, paused: false }
    }

    fn suspend(&mut self) -> Done {
        self.suspended_at = Instant::now();
        self.watched = Duration::ZERO;
        let Err(error) = self.domain.suspend() else { return Done::Suspended };
        let guest = match self.domain.info() {
            Ok(info) => info.run_state(),
            Err(hypervisor::Error::NoSuchDomain { .. }) => RunState::ShutDown,
            // It may have acknowledged the request: rather resumed twice than never.
            Err(_) => RunState::Suspended,
        };
        Done::SuspendFailed(self.unless_gone(error.into()), guest)
    }

    /// The guest's state at this checkpoint is taken.
    pub fn taken(&mut self, checkpoint: u64) {
        let started = Instant::now();
        self.observer.suspended(checkpoint, &self.domain);
        self.watched += started.elapsed();
    }

    /// Lets the guest run on in an epoch of its output.
    fn resume(&mut self, epoch: hypervisor::Result<()>, done: &mut impl FnMut(Done)) {
        if let Err(error) = epoch {
            // Before the guest runs: nothing may be released from here on.
            done(Done::EpochFailed(error));
        }
        let resumed = self.run_on().or_else(|error| if self.is_gone() { Ok(()) } else { Err(error) });
        match resumed {
            // Or there is nobody to run any more, which the next checkpoint finds: the secondary is told of it then, and
            // does not take this host for dead.
            Ok(()) => {
                let at = Instant::now();
                self.failpoints.pass(Step::Resumed);
                done(Done::Resumed { at, pause: (at - self.suspended_at).saturating_sub(self.watched) });
            }
            Err(error) => done(Done::ResumeFailed(error)),
        }
    }

    /// Stops it for good.
    fn pause(&mut self) {
        self.paused = true;
        if let Err(error) = self.domain.pause() {
            // Its output goes nowhere any more, whatever it does.
            log::error!("{}: pausing the guest: {error}", self.name);
        }
    }

    /// Lets it run on, unprotected and unwatched.
    fn leave(&mut self) {
        let suspended = self.domain.info().map(|info| info.is_suspended());
        if let Err(error) = suspended.and_then(|is| if is { self.run_on() } else { Ok(()) }) {
            log::error!("{}: the guest that is left cannot be resumed: {error}", self.name);
        }
    }

    /// Its writes need not be tracked any more.
    fn untrack(&mut self) {
        if let Err(error) = self.saver.stop(&mut self.domain) {
            log::warn!("{}: ending the tracking of writes: {error}", self.name);
        }
    }

    /// The same error, but where the domain is gone: whatever was asked of it has failed for that.
    pub fn unless_gone(&self, error: SaveError) -> SaveError {
        match self.domain.info() {
            Err(gone @ hypervisor::Error::NoSuchDomain { .. }) => {
                log::debug!("{}: {error}", self.name);
                gone.into()
            }
            _ => error,
        }
    }

    fn is_gone(&self) -> bool {
        matches!(self.domain.info(), Err(hypervisor::Error::NoSuchDomain { .. }))
    }

    /// Lets the guest run. One that was paused for good, until the operator said otherwise, need not have been suspended.
    fn run_on(&mut self) -> hypervisor::Result<()> {
        if std::mem::take(&mut self.paused) {
            self.domain.unpause()?;
            if !self.domain.info()?.is_suspended() {
                return Ok(());
            }
        }
        self.domain.resume()
    }
}

/// Whether a guest that was asked something has ended by itself, by the error that was given.
pub(in crate::replicate) const fn has_ended(error: &SaveError) -> bool {
    matches!(
        error,
        SaveError::Hypervisor(
            hypervisor::Error::NoSuchDomain { .. }
                | hypervisor::Error::SuspendNotAcknowledged {
                    shutdown: Some(
                        ShutdownReason::Poweroff
                            | ShutdownReason::Reboot
                            | ShutdownReason::Crash
                            | ShutdownReason::Watchdog,
                    ),
                    ..
                },
        )
    )
}
