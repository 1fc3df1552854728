//! The guest's side of a primary, on a thread of its own: suspends, copies, resumes, writes to the stream.

use super::SharedOutput;
use crate::hypervisor::{DeviceModel, Replicated, SaveDomain};
use crate::libxc::{CopyAhead, SaveError};
use crate::libxl;
use crate::remus::Session;
use crate::replicate::engine::guest::{self as engine, Observer};
use crate::replicate::failpoint::Step;
use crate::replicate::link::{Lane, Outbox, StopFlag};
use crate::stream::handover::{BetweenCheckpoints, LibxcWriter, ToLibxl};
use std::sync::PoisonError;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

/// What to do, in order.
#[derive(Debug)]
pub(super) enum Job {
    Suspend,
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
    Resume {
        epoch: u64,
    },
    Transmit {
        checkpoint: u64,
    },
    /// Stand still for good.
    Pause,
    /// No stream any more: writes need not be tracked.
    Forget,
    /// Let it run on, unprotected and unwatched.
    Leave,
    Quit,
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
pub(super) struct Guest<D, O> {
    pub guest: engine::Guest<D, O>,
    pub saver: libxl::Saver,
    pub output: SharedOutput,
    pub disks: Vec<Box<dyn Replicated>>,
    pub staging_limit: u64,
    pub stop: StopFlag,
}

impl<D: SaveDomain + DeviceModel, O: Observer<D>> Guest<D, O> {
    /// Does jobs until told to quit. Gives the domain back.
    pub(super) fn run(
        mut self,
        jobs: &Receiver<Job>,
        mut done: impl FnMut(Done),
        mut guest: impl FnMut(engine::Done),
    ) -> D {
        let mut stream: Option<Stream> = None;
        let mut ahead = Ok(());
        for job in jobs {
            match job {
                Job::Suspend => {
                    if stream.is_some() && ahead.is_ok() {
                        let limit = CopyAhead::of_interval(self.staging_limit);
                        ahead = self.saver.stage_ahead(&mut self.guest.domain, limit);
                    }
                    guest(self.guest.suspend());
                }
                Job::Begin { outbox, session, stream: number, checkpoint } => {
                    stream = None;
                    ahead = Ok(());
                    match self.begin(outbox, session, number, checkpoint) {
                        Ok((lane, out)) => {
                            stream = Some(Stream { session, lane, place: Some(Place::Image(out)), direct: false });
                            done(Done::Image { checkpoint });
                        }
                        // The machine has gone on to another stream, or will hear of the link's end.
                        Err(SaveError::Write(_)) if self.stop.stops(checkpoint) => {}
                        Err(error @ SaveError::Write(_)) => done(Done::WriteFailed(session, error)),
                        Err(error) => done(Done::CopyFailed { checkpoint, error: self.guest.unless_gone(error) }),
                    }
                }
                Job::Copy { checkpoint } => {
                    let copied = std::mem::replace(&mut ahead, Ok(()));
                    match copied.and_then(|()| self.copy_all(stream.as_mut(), checkpoint)) {
                        Ok(pages) => {
                            self.guest.taken(checkpoint);
                            done(Done::Copied { checkpoint, pages });
                        }
                        Err(error) => {
                            stream = None;
                            done(Done::CopyFailed { checkpoint, error: self.guest.unless_gone(error) });
                        }
                    }
                }
                Job::Resume { epoch } => {
                    let epoch = self.output.lock().unwrap_or_else(PoisonError::into_inner).begin_epoch(epoch);
                    self.guest.resume(epoch, &mut guest);
                }
                Job::Transmit { checkpoint } => {
                    self.guest.failpoints.pass(Step::TransmitBegun);
                    let started = Instant::now();
                    match self.transmit(stream.as_mut(), checkpoint) {
                        Ok(bytes) => {
                            self.guest.failpoints.pass(Step::Sealed);
                            done(Done::Sent { checkpoint, bytes, took: started.elapsed() });
                        }
                        Err(_) if self.stop.stops(checkpoint) => {
                            stream = None;
                            done(Done::Stopped { checkpoint });
                        }
                        Err(error) => {
                            // Without a stream there is none to fail: its end has been told.
                            if let Some(stream) = stream.take() {
                                done(Done::WriteFailed(stream.session, error));
                            }
                        }
                    }
                }
                Job::Pause => self.guest.pause(),
                Job::Forget => {
                    stream = None;
                    self.disks.iter_mut().for_each(|disk| disk.leave());
                    if let Err(error) = self.saver.stop(&mut self.guest.domain) {
                        log::warn!("{}: ending the tracking of writes: {error}", self.guest.name);
                    }
                }
                Job::Leave => self.guest.leave(),
                Job::Quit => break,
            }
        }
        self.disks.iter_mut().for_each(|disk| disk.leave());
        self.guest.domain
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
        let out = self.saver.begin(&mut self.guest.domain, lane.clone())?;
        Ok((lane, out))
    }

    /// Takes the state of the suspended guest, its disks' included: those are on their way while its memory is copied.
    fn copy_all(&mut self, stream: Option<&mut Stream>, checkpoint: u64) -> Result<u64, SaveError> {
        let session = stream.as_ref().map(|stream| stream.session);
        if let Some(session) = session {
            self.disks.iter_mut().try_for_each(|disk| disk.suspended(session.0, checkpoint))?;
        }
        let pages = self.copy(stream, checkpoint)?;
        if session.is_some() {
            self.disks.iter_mut().try_for_each(|disk| disk.wait())?;
        }
        Ok(pages)
    }

    /// Takes the state of the suspended guest: as a copy, or, where there is too much for that, onto the stream.
    fn copy(&mut self, stream: Option<&mut Stream>, checkpoint: u64) -> Result<u64, SaveError> {
        let pages = self.saver.collect(&mut self.guest.domain)?.saturating_add(self.saver.staged_ahead());
        let Some(stream) = stream else { return Ok(pages) };
        stream.direct = !CopyAhead::of_interval(self.staging_limit).fits(pages);
        stream.lane.enter(checkpoint, stream.direct);
        if !stream.direct {
            self.saver.stage(&self.guest.domain)?;
            return Ok(self.saver.staged());
        }
        log::warn!(
            "{}: checkpoint {checkpoint}: {pages} pages are over the staging limit, the guest waits for the link",
            self.guest.name
        );
        let Some(place) = stream.place.take() else { return Ok(pages) };
        match self.saver.send_direct(&self.guest.domain, round(place)) {
            Ok(between) => stream.place = Some(Place::Between(between)),
            // The guest's state is not in danger; sending what follows will find the link as it is.
            Err(error @ SaveError::Write(_)) => log::warn!("{}: {error}", self.guest.name),
            Err(error) => return Err(error),
        }
        Ok(pages)
    }

    fn transmit(&mut self, stream: Option<&mut Stream>, checkpoint: u64) -> Result<u64, SaveError> {
        let write = |error| SaveError::Write(crate::stream::handover::WriteError::Io { offset: 0, error });
        let gone = || write(std::io::ErrorKind::NotConnected.into());
        let stream = stream.ok_or_else(gone)?;
        let place = stream.place.take().ok_or_else(gone)?;
        let between = match place {
            Place::Between(between) if stream.direct => between,
            place => self.saver.send(round(place))?,
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
