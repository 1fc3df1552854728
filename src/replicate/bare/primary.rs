//! The primary: checkpoints out, at an interval, and a guest that goes on running whatever happens.

use crate::hypervisor::{DeviceModel, SaveDomain};
use crate::libxc::SaveError;
use crate::libxl;
use crate::replicate::stats::{RoundFigures, Statistics};
use crate::stream::handover::{BetweenCheckpoints, LibxcWriter, ToLibxl};
use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How to protect a domain.
#[derive(Debug, Clone)]
pub struct Options {
    /// From one suspend to the next. Where a round takes longer, the next follows at once.
    pub interval: Duration,
    /// Most octets of dirty pages that are copied before the guest runs on. A round that has more is written from the
    /// guest's own memory while it stands still.
    pub staging_limit: u64,
    /// How to save.
    pub save: libxl::save::Options,
}

impl Default for Options {
    /// xl's interval of 200 ms, and 1 GiB of staging.
    fn default() -> Self {
        Options { interval: Duration::from_millis(200), staging_limit: 1 << 30, save: libxl::save::Options::default() }
    }
}

/// Told of each checkpoint of a primary.
pub trait Observer<D> {
    /// The guest stands suspended at checkpoint `number`, its state is taken, and the time that is counted as its pause
    /// has been stopped. It is resumed when this returns.
    fn suspended(&mut self, number: u64, domain: &D) {
        let _ = (number, domain);
    }

    /// A checkpoint was written to the stream.
    fn sent(&mut self, round: &RoundFigures) {
        let _ = round;
    }
}

/// Nobody watches.
impl<D> Observer<D> for () {}

/// Ends [`protect`] from another thread. Clones end the same one.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<(Mutex<bool>, Condvar)>);

impl Stop {
    /// Asks for the end. The round under way is completed.
    pub fn stop(&self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.1.notify_all();
    }

    /// Waits until the deadline or until the end is asked for, and says whether it is.
    pub fn wait_until(&self, deadline: Instant) -> bool {
        let mut stopped = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if *stopped || left.is_zero() {
                return *stopped;
            }
            stopped = self.0.1.wait_timeout(stopped, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// The stream between two steps. A failed write leaves none: nothing can follow on a stream cut at an unknown place.
#[derive(Debug)]
enum Place<W> {
    Image(LibxcWriter<W, ToLibxl>),
    Between(BetweenCheckpoints<W>),
}

impl<W: Write> Place<W> {
    fn round(self) -> LibxcWriter<W, ToLibxl> {
        match self {
            Place::Image(out) => out,
            Place::Between(out) => out.next_round(),
        }
    }
}

/// A checkpoint taken from a suspended guest.
#[derive(Debug)]
enum Taken<W> {
    /// Copied, to be written.
    Staged(LibxcWriter<W, ToLibxl>),
    /// Written.
    Sent(BetweenCheckpoints<W>),
}

/// Protection of one domain over one stream, a step at a time.
#[derive(Debug)]
pub struct Primary<W> {
    saver: libxl::Saver,
    place: Option<Place<W>>,
    staging_limit: u64,
    number: u64,
    /// Octets of stream up to the last checkpoint.
    written: u64,
}

impl<W: Write> Primary<W> {
    /// Sends all memory while the guest runs, and tracks its writes from then on. The first checkpoint completes the
    /// image.
    ///
    /// # Errors
    /// The hypervisor's or the stream's; the guest runs, and its writes are not tracked any more.
    pub fn start<D: SaveDomain + DeviceModel>(domain: &mut D, sink: W, options: &Options) -> Result<Self, SaveError> {
        let mut saver = libxl::Saver::new(domain, options.save.clone())?;
        match saver.begin(domain, sink) {
            Ok(out) => {
                let place = Some(Place::Image(out));
                Ok(Primary { saver, place, staging_limit: options.staging_limit, number: 0, written: 0 })
            }
            Err(error) => {
                quietly(saver.stop(domain));
                Err(error)
            }
        }
    }

    /// Number of the last checkpoint sent; 0 before the first.
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// Takes a checkpoint, lets the guest run on, and sends it.
    ///
    /// # Errors
    /// The hypervisor's or the stream's; the guest runs, except behind [`SaveError::Resume`]. The stream is over.
    pub fn checkpoint<D: SaveDomain + DeviceModel>(
        &mut self,
        domain: &mut D,
        observer: &mut impl Observer<D>,
    ) -> Result<RoundFigures, SaveError> {
        let Some(place) = self.place.take() else {
            let gone = std::io::Error::new(std::io::ErrorKind::NotConnected, "the stream is over");
            return Err(SaveError::Write(crate::stream::handover::WriteError::Io { offset: 0, error: gone }));
        };
        let mut round = RoundFigures { number: self.number + 1, ..RoundFigures::default() };
        let start = Instant::now();
        domain.suspend()?;
        let taken = self.take(domain, place.round(), &mut round);
        round.pause = start.elapsed();
        if taken.is_ok() {
            observer.suspended(round.number, domain);
        }
        let resuming = Instant::now();
        let resumed = domain.resume();
        round.pause += resuming.elapsed();
        if let Err(error) = resumed {
            // Worse than what may have gone wrong before it.
            if let Err(error) = &taken {
                log::error!("checkpoint {}: {error}", round.number);
            }
            return Err(SaveError::Resume(error));
        }
        let taken = taken?;
        let between = match taken {
            Taken::Sent(between) => between,
            Taken::Staged(out) => {
                let sending = Instant::now();
                let between = self.saver.send(out)?;
                round.transmission = sending.elapsed();
                between
            }
        };
        round.octets = between.written() - self.written;
        self.written = between.written();
        self.place = Some(Place::Between(between));
        self.number = round.number;
        observer.sent(&round);
        Ok(round)
    }

    /// Takes the state of the suspended guest: as a copy, or, where there is too much for that, onto the stream.
    fn take<D: SaveDomain + DeviceModel>(
        &mut self,
        domain: &mut D,
        out: LibxcWriter<W, ToLibxl>,
        round: &mut RoundFigures,
    ) -> Result<Taken<W>, SaveError> {
        round.dirty_pages = self.saver.collect(domain)?;
        let octets = round.dirty_pages.saturating_mul(crate::hypervisor::PAGE_SIZE as u64);
        if octets <= self.staging_limit {
            self.saver.stage(domain)?;
            return Ok(Taken::Staged(out));
        }
        log::warn!("checkpoint {}: {octets} octets are over the staging limit, the guest waits", round.number);
        let sending = Instant::now();
        let between = self.saver.send_direct(domain, out)?;
        round.transmission = sending.elapsed();
        Ok(Taken::Sent(between))
    }

    /// Ends protection: the guest's writes are not tracked any more.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn stop<D: SaveDomain + DeviceModel>(mut self, domain: &mut D) -> Result<(), SaveError> {
        self.saver.stop(domain)
    }
}

/// Protection that ended by a failure. The guest runs on without it where [`Unprotected::guest_runs`] says so.
#[derive(Debug, thiserror::Error)]
#[error("unprotected after checkpoint {checkpoint}: {error}")]
pub struct Unprotected {
    /// The last checkpoint that was written whole; 0 for none.
    pub checkpoint: u64,
    /// What failed.
    pub error: SaveError,
}

/// Protects a domain until `stop` is asked for: checkpoints at the interval, from suspend to suspend.
///
/// # Errors
/// [`Unprotected`] when the stream or the hypervisor fails. The guest runs on where [`Unprotected::guest_runs`], and its
/// writes are not tracked any more.
pub fn protect<D: SaveDomain + DeviceModel, W: Write>(
    domain: &mut D,
    sink: W,
    options: &Options,
    stop: &Stop,
    observer: &mut impl Observer<D>,
) -> Result<Statistics, Unprotected> {
    let mut statistics = Statistics::default();
    let mut primary = Primary::start(domain, sink, options).map_err(|error| unprotected(0, error))?;
    let mut due = Instant::now();
    loop {
        if stop.wait_until(due) {
            quietly(primary.stop(domain));
            return Ok(statistics);
        }
        due = (due + options.interval).max(Instant::now());
        match primary.checkpoint(domain, observer) {
            Ok(round) => statistics.add(&round),
            Err(error) => {
                let unprotected = unprotected(primary.number(), error);
                quietly(primary.stop(domain));
                return Err(unprotected);
            }
        }
    }
}

impl Unprotected {
    /// Whether the guest runs. It does not when it could not be resumed behind a checkpoint.
    pub const fn guest_runs(&self) -> bool {
        !matches!(self.error, SaveError::Resume(_))
    }
}

fn unprotected(checkpoint: u64, error: SaveError) -> Unprotected {
    let unprotected = Unprotected { checkpoint, error };
    log::error!("{unprotected}{}", if unprotected.guest_runs() { "; the guest runs on" } else { "" });
    unprotected
}

/// Nothing more can be done about it, and the guest does not depend on it.
fn quietly(result: Result<(), SaveError>) {
    if let Err(error) = result {
        log::warn!("ending the tracking of writes: {error}");
    }
}
