//! The guest's side of a primary, on a thread of its own: suspends, copies, resumes, writes to the stream.

use super::SharedOutput;
use crate::hypervisor::{self, DeviceModel, Replicated, RunState, SaveDomain};
use crate::libxc::{CopyAhead, SaveError};
use crate::libxl;
use crate::remus::Session;
use crate::replicate::failpoint::{Failpoints, Step};
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
    Suspended,
    /// What the guest is doing all the same.
    SuspendFailed(SaveError, RunState),
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
    Resumed {
        at: Instant,
        pause: Duration,
    },
    /// Packets cannot be told apart by epochs any more.
    EpochFailed(hypervisor::Error),
    /// The guest stands still and cannot be helped.
    ResumeFailed(hypervisor::Error),
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
    pub domain: D,
    pub saver: libxl::Saver,
    pub output: SharedOutput,
    pub disks: Vec<Box<dyn Replicated>>,
    pub observer: O,
    pub staging_limit: u64,
    pub failpoints: Failpoints,
    pub stop: StopFlag,
    pub domain_name: String,
}

impl<D: SaveDomain + DeviceModel, O: Observer<D>> Guest<D, O> {
    /// Does jobs until told to quit. Gives the domain back.
    pub(super) fn run(mut self, jobs: &Receiver<Job>, mut done: impl FnMut(Done)) -> D {
        let mut stream: Option<Stream> = None;
        let mut suspended_at = Instant::now();
        // Not the guest's time.
        let mut watched = Duration::ZERO;
        let mut paused = false;
        let mut ahead = Ok(());
        for job in jobs {
            match job {
                Job::Suspend => {
                    if stream.is_some() && ahead.is_ok() {
                        ahead = self.saver.stage_ahead(&mut self.domain, CopyAhead::of_interval(self.staging_limit));
                    }
                    suspended_at = Instant::now();
                    watched = Duration::ZERO;
                    done(match self.domain.suspend() {
                        Ok(()) => Done::Suspended,
                        Err(error) => {
                            let guest = match self.domain.info() {
                                Ok(info) => info.run_state(),
                                Err(hypervisor::Error::NoSuchDomain { .. }) => RunState::ShutDown,
                                // It may have acknowledged the request: rather resumed twice than never.
                                Err(_) => RunState::Suspended,
                            };
                            Done::SuspendFailed(self.unless_gone(error.into()), guest)
                        }
                    });
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
                        Err(error) => done(Done::CopyFailed { checkpoint, error: self.unless_gone(error) }),
                    }
                }
                Job::Copy { checkpoint } => {
                    let copied = std::mem::replace(&mut ahead, Ok(()));
                    match copied.and_then(|()| self.copy_all(stream.as_mut(), checkpoint)) {
                        Ok(pages) => {
                            let started = Instant::now();
                            self.observer.suspended(checkpoint, &self.domain);
                            watched += started.elapsed();
                            done(Done::Copied { checkpoint, pages });
                        }
                        Err(error) => {
                            stream = None;
                            done(Done::CopyFailed { checkpoint, error: self.unless_gone(error) });
                        }
                    }
                }
                Job::Resume { epoch } => {
                    let epoch = self.output.lock().unwrap_or_else(PoisonError::into_inner).begin_epoch(epoch);
                    if let Err(error) = epoch {
                        // Before the guest runs: nothing may be released from here on.
                        done(Done::EpochFailed(error));
                    }
                    let resumed =
                        self.run_on(&mut paused).or_else(|error| if self.is_gone() { Ok(()) } else { Err(error) });
                    match resumed {
                        // Or there is nobody to run any more, which the next checkpoint finds: the secondary is told of it then, and
                        // does not take this host for dead.
                        Ok(()) => {
                            let at = Instant::now();
                            self.failpoints.pass(Step::Resumed);
                            done(Done::Resumed { at, pause: (at - suspended_at).saturating_sub(watched) });
                        }
                        Err(error) => done(Done::ResumeFailed(error)),
                    }
                }
                Job::Transmit { checkpoint } => {
                    self.failpoints.pass(Step::TransmitBegun);
                    let started = Instant::now();
                    match self.transmit(stream.as_mut(), checkpoint) {
                        Ok(bytes) => {
                            self.failpoints.pass(Step::Sealed);
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
                Job::Pause => {
                    paused = true;
                    if let Err(error) = self.domain.pause() {
                        // Its output goes nowhere any more, whatever it does.
                        log::error!("{}: pausing the guest: {error}", self.domain_name);
                    }
                }
                Job::Forget => {
                    stream = None;
                    self.disks.iter_mut().for_each(|disk| disk.leave());
                    if let Err(error) = self.saver.stop(&mut self.domain) {
                        log::warn!("{}: ending the tracking of writes: {error}", self.domain_name);
                    }
                }
                Job::Leave => {
                    let suspended = self.domain.info().map(|info| info.is_suspended());
                    if let Err(error) = suspended.and_then(|is| if is { self.run_on(&mut paused) } else { Ok(()) }) {
                        log::error!("{}: the guest that is left cannot be resumed: {error}", self.domain_name);
                    }
                }
                Job::Quit => break,
            }
        }
        self.disks.iter_mut().for_each(|disk| disk.leave());
        self.domain
    }

    /// The same error, but where the domain is gone: whatever was asked of it has failed for that.
    fn unless_gone(&self, error: SaveError) -> SaveError {
        match self.domain.info() {
            Err(gone @ hypervisor::Error::NoSuchDomain { .. }) => {
                log::debug!("{}: {error}", self.domain_name);
                gone.into()
            }
            _ => error,
        }
    }

    fn is_gone(&self) -> bool {
        matches!(self.domain.info(), Err(hypervisor::Error::NoSuchDomain { .. }))
    }

    /// Lets the guest run. One that stood still for good, until the operator said otherwise, need not have been suspended.
    fn run_on(&mut self, paused: &mut bool) -> hypervisor::Result<()> {
        if std::mem::take(paused) {
            self.domain.unpause()?;
            if !self.domain.info()?.is_suspended() {
                return Ok(());
            }
        }
        self.domain.resume()
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
            Lane::begin(outbox, number, checkpoint, self.stop.clone(), self.failpoints.clone()).map_err(write)?;
        self.failpoints.pass(Step::ImageBegun);
        self.disks.iter_mut().try_for_each(|disk| disk.begin(session.0))?;
        let out = self.saver.begin(&mut self.domain, lane.clone())?;
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
        let pages = self.saver.collect(&mut self.domain)?.saturating_add(self.saver.staged_ahead());
        let Some(stream) = stream else { return Ok(pages) };
        stream.direct = !CopyAhead::of_interval(self.staging_limit).fits(pages);
        stream.lane.enter(checkpoint, stream.direct);
        if !stream.direct {
            self.saver.stage(&self.domain)?;
            return Ok(self.saver.staged());
        }
        log::warn!(
            "{}: checkpoint {checkpoint}: {pages} pages are over the staging limit, the guest waits for the link",
            self.domain_name
        );
        let Some(place) = stream.place.take() else { return Ok(pages) };
        match self.saver.send_direct(&self.domain, round(place)) {
            Ok(between) => stream.place = Some(Place::Between(between)),
            // The guest's state is not in danger; sending what follows will find the link as it is.
            Err(error @ SaveError::Write(_)) => log::warn!("{}: {error}", self.domain_name),
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
