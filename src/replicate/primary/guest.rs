//! Remus's part of a primary's guest thread: copies, writes to the stream.

use super::SharedOutput;
use crate::hypervisor::{self, DeviceModel, Replicated, SaveDomain};
use crate::libxc::{CopyAhead, SaveError};
use crate::remus::Session;
use crate::replicate::engine::guest::{self as engine, Guest, Observer};
use crate::replicate::failpoint::Step;
use crate::replicate::link::{Lane, Outbox, StopFlag};
use crate::stream::handover::{BetweenCheckpoints, LibxcWriter, ToLibxl};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// What to do besides what every guest's thread does.
#[derive(Debug)]
pub(super) enum Job {
    /// Send all memory while the guest runs, as the start of a new stream.
    Begin {
        outbox: Outbox,
        session: Session,
        stream: u32,
        checkpoint: u64,
    },
    Copy {
        checkpoint: u64,
    },
    Transmit {
        checkpoint: u64,
    },
}

/// What has been done, or not.
#[derive(Debug)]
pub(super) enum Done {
    Image {
        checkpoint: u64,
    },
    /// The hypervisor's doing, not the link's.
    CopyFailed {
        checkpoint: u64,
        error: SaveError,
    },
    Copied {
        checkpoint: u64,
        pages: u64,
    },
    Sent {
        checkpoint: u64,
        bytes: u64,
        took: Duration,
    },
    /// Given up, as asked.
    Stopped {
        checkpoint: u64,
    },
    WriteFailed(Session, SaveError),
}

/// Where the stream is. A failed write leaves none.
#[derive(Debug)]
enum Place {
    Image(LibxcWriter<Lane, ToLibxl>),
    Between(BetweenCheckpoints<Lane>),
}

/// A stream under way.
struct Stream {
    session: Session,
    lane: Lane,
    place: Option<Place>,
    /// The checkpoint was too large to be copied and is written already.
    direct: bool,
}

/// The thread's own.
pub(super) struct Worker<D, O> {
    guest: Guest<D, O>,
    output: SharedOutput,
    disks: Vec<Box<dyn Replicated>>,
    staging_limit: u64,
    stop: StopFlag,
    stream: Option<Stream>,
    /// Whether copying ahead has failed, for the copy that follows.
    ahead: Result<(), SaveError>,
}

impl<D: SaveDomain + DeviceModel, O: Observer<D>> engine::Worker for Worker<D, O> {
    type Domain = D;
    type Observer = O;
    type Job = Job;
    type Done = Done;

    fn guest(&mut self) -> &mut Guest<D, O> {
        &mut self.guest
    }

    fn suspending(&mut self) {
        if self.stream.is_some() && self.ahead.is_ok() {
            let limit = CopyAhead::of_interval(self.staging_limit);
            self.ahead = self.guest.saver.stage_ahead(&mut self.guest.domain, limit);
        }
    }

    fn begin_epoch(&mut self, epoch: u64) -> hypervisor::Result<()> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner).begin_epoch(epoch)
    }

    fn work(&mut self, job: Job, done: &mut impl FnMut(Done)) {
        match job {
            Job::Begin { outbox, session, stream: number, checkpoint } => {
                self.stream = None;
                self.ahead = Ok(());
                match self.begin(outbox, session, number, checkpoint) {
                    Ok((lane, out)) => {
                        self.stream = Some(Stream { session, lane, place: Some(Place::Image(out)), direct: false });
                        done(Done::Image { checkpoint });
                    }
                    // The machine has gone on to another stream, or will hear of the link's end.
                    Err(SaveError::Write(_)) if self.stop.stops(checkpoint) => {}
                    Err(error @ SaveError::Write(_)) => done(Done::WriteFailed(session, error)),
                    Err(error) => done(Done::CopyFailed { checkpoint, error: self.guest.unless_gone(error) }),
                }
            }
            Job::Copy { checkpoint } => {
                let copied = std::mem::replace(&mut self.ahead, Ok(()));
                match copied.and_then(|()| self.copy_all(checkpoint)) {
                    Ok(pages) => {
                        self.guest.taken(checkpoint);
                        done(Done::Copied { checkpoint, pages });
                    }
                    Err(error) => {
                        self.stream = None;
                        done(Done::CopyFailed { checkpoint, error: self.guest.unless_gone(error) });
                    }
                }
            }
            Job::Transmit { checkpoint } => {
                self.guest.failpoints.pass(Step::TransmitBegun);
                let started = Instant::now();
                match self.transmit(checkpoint) {
                    Ok(bytes) => {
                        self.guest.failpoints.pass(Step::Sealed);
                        done(Done::Sent { checkpoint, bytes, took: started.elapsed() });
                    }
                    Err(_) if self.stop.stops(checkpoint) => {
                        self.stream = None;
                        done(Done::Stopped { checkpoint });
                    }
                    Err(error) => {
                        // Without a stream there is none to fail: its end has been told.
                        if let Some(stream) = self.stream.take() {
                            done(Done::WriteFailed(stream.session, error));
                        }
                    }
                }
            }
        }
    }

    fn forget(&mut self) {
        self.stream = None;
        self.disks.iter_mut().for_each(|disk| disk.leave());
    }

    fn end(mut self) -> D {
        self.disks.iter_mut().for_each(|disk| disk.leave());
        self.guest.domain
    }
}

impl<D: SaveDomain + DeviceModel, O: Observer<D>> Worker<D, O> {
    pub(super) const fn new(
        guest: Guest<D, O>,
        output: SharedOutput,
        disks: Vec<Box<dyn Replicated>>,
        staging_limit: u64,
        stop: StopFlag,
    ) -> Self {
        Worker { guest, output, disks, staging_limit, stop, stream: None, ahead: Ok(()) }
    }

    fn begin(
        &mut self,
        outbox: Outbox,
        session: Session,
        number: u32,
        checkpoint: u64,
    ) -> Result<(Lane, LibxcWriter<Lane, ToLibxl>), SaveError> {
        let write = |error| SaveError::Write(crate::stream::handover::WriteError::Io { offset: 0, error });
        let lane =
            Lane::begin(outbox, number, checkpoint, self.stop.clone(), self.guest.failpoints.clone()).map_err(write)?;
        self.guest.failpoints.pass(Step::ImageBegun);
        self.disks.iter_mut().try_for_each(|disk| disk.begin(session.0))?;
        let out = self.guest.saver.begin(&mut self.guest.domain, lane.clone())?;
        Ok((lane, out))
    }

    /// Takes the state of the suspended guest, its disks' included: those are on their way while its memory is copied.
    fn copy_all(&mut self, checkpoint: u64) -> Result<u64, SaveError> {
        let session = self.stream.as_ref().map(|stream| stream.session);
        if let Some(session) = session {
            self.disks.iter_mut().try_for_each(|disk| disk.suspended(session.0, checkpoint))?;
        }
        let pages = self.copy(checkpoint)?;
        if session.is_some() {
            self.disks.iter_mut().try_for_each(|disk| disk.wait())?;
        }
        Ok(pages)
    }

    /// Takes the state of the suspended guest: as a copy, or, where there is too much for that, onto the stream.
    fn copy(&mut self, checkpoint: u64) -> Result<u64, SaveError> {
        let Guest { domain, saver, name, .. } = &mut self.guest;
        let pages = saver.collect(domain)?.saturating_add(saver.staged_ahead());
        let Some(stream) = &mut self.stream else { return Ok(pages) };
        stream.direct = !CopyAhead::of_interval(self.staging_limit).fits(pages);
        stream.lane.enter(checkpoint, stream.direct);
        if !stream.direct {
            saver.stage(domain)?;
            return Ok(saver.staged());
        }
        log::warn!(
            "{name}: checkpoint {checkpoint}: {pages} pages are over the staging limit, the guest waits for the link"
        );
        let Some(place) = stream.place.take() else { return Ok(pages) };
        match saver.send_direct(domain, round(place)) {
            Ok(between) => stream.place = Some(Place::Between(between)),
            // The guest's state is not in danger; sending what follows will find the link as it is.
            Err(error @ SaveError::Write(_)) => log::warn!("{name}: {error}"),
            Err(error) => return Err(error),
        }
        Ok(pages)
    }

    fn transmit(&mut self, checkpoint: u64) -> Result<u64, SaveError> {
        let write = |error| SaveError::Write(crate::stream::handover::WriteError::Io { offset: 0, error });
        let gone = || write(std::io::ErrorKind::NotConnected.into());
        let stream = self.stream.as_mut().ok_or_else(gone)?;
        let place = stream.place.take().ok_or_else(gone)?;
        let between = match place {
            Place::Between(between) if stream.direct => between,
            place => self.guest.saver.send(round(place))?,
        };
        let bytes = stream.lane.seal(checkpoint).map_err(write)?;
        stream.place = Some(Place::Between(between));
        Ok(bytes)
    }
}

fn round(place: Place) -> LibxcWriter<Lane, ToLibxl> {
    match place {
        Place::Image(out) => out,
        Place::Between(out) => out.next_round(),
    }
}
