//! The guest's side of a primary, on a thread of its own: suspends, collects, writes to the stream, resumes.
#![forbid(unsafe_code)]

use super::SharedCard;
use crate::hypervisor::{DeviceModel, RunState, SaveDomain};
use crate::libxc::SaveError;
use crate::libxl;
use crate::replicate::colo::lists::Named;
use crate::replicate::colo::pipe::{Arm, Pipe, StreamOut};
use crate::replicate::failpoint::{Failpoints, Step};
use crate::replicate::primary::Observer;
use crate::stream::handover::{BetweenCheckpoints, LibxcWriter, ToLibxl};
use std::sync::PoisonError;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

/// What to do, in order.
#[derive(Debug)]
pub(super) enum Job {
    /// Send all memory while the guest runs, as the start of the stream.
    Image(Pipe),
    Suspend,
    Collect {
        checkpoint: u64,
        /// What the secondary has written is dirty too.
        merge: Option<Named>,
    },
    /// Say NEW.
    New,
    State {
        checkpoint: u64,
    },
    Resume {
        epoch: u64,
    },
    /// Stand still for good.
    Pause,
    /// No stream any more.
    Forget,
    Quit,
}

/// What has been done, or not.
#[derive(Debug)]
pub(super) enum Done {
    ImageReady,
    Suspended,
    /// What the guest is doing all the same.
    SuspendFailed(String, RunState),
    Collected {
        checkpoint: u64,
        pages: u64,
    },
    /// The hypervisor's doing, not the link's.
    Failed(String),
    Sent {
        checkpoint: u64,
        bytes: u64,
        took: Duration,
    },
    WriteFailed(String),
    Resumed {
        pause: Duration,
    },
    /// What the guest sends from here on may be counted to the epoch before.
    EpochFailed(crate::hypervisor::Error),
    /// The guest is suspended and could not be resumed.
    ResumeFailed(crate::hypervisor::Error),
}

#[derive(Debug)]
enum Place {
    /// In the image, or behind NEW.
    Round(LibxcWriter<StreamOut, ToLibxl>),
    Between(BetweenCheckpoints<StreamOut>),
}

#[derive(Debug)]
struct Stream {
    pipe: Pipe,
    arm: Arm,
    place: Option<Place>,
}

/// The thread's own.
pub(super) struct Guest<D, O> {
    pub domain: D,
    pub saver: libxl::Saver,
    pub card: SharedCard,
    pub observer: O,
    pub failpoints: Failpoints,
    pub name: String,
}

impl<D: SaveDomain + DeviceModel, O: Observer<D>> Guest<D, O> {
    /// Does jobs until told to quit. Gives the domain back.
    pub(super) fn run(mut self, jobs: &Receiver<Job>, mut done: impl FnMut(Done)) -> D {
        let mut stream: Option<Stream> = None;
        let mut suspended_at = Instant::now();
        // Not the guest's time.
        let mut watched = Duration::ZERO;
        let mut paused = false;
        for job in jobs {
            match job {
                Job::Image(pipe) => {
                    let (out, arm) = StreamOut::new(pipe.clone(), self.failpoints.clone());
                    self.failpoints.pass(Step::ImageBegun);
                    arm.arm(Step::ImageMiddle);
                    let begun = self.saver.begin_colo(&mut self.domain, out);
                    let here = stream.insert(Stream { pipe, arm, place: None });
                    match begun {
                        Ok(out) => {
                            here.place = Some(Place::Round(out));
                            done(Done::ImageReady);
                        }
                        Err(error) => failed(here, error, &mut done),
                    }
                }
                Job::Suspend => {
                    suspended_at = Instant::now();
                    watched = Duration::ZERO;
                    done(match self.domain.suspend() {
                        Ok(()) => Done::Suspended,
                        Err(error) => {
                            let guest = match self.domain.info() {
                                Ok(info) => info.run_state(),
                                Err(crate::hypervisor::Error::NoSuchDomain { .. }) => RunState::ShutDown,
                                // It may have acknowledged the request: rather resumed twice than never.
                                Err(_) => RunState::Suspended,
                            };
                            Done::SuspendFailed(error.to_string(), guest)
                        }
                    });
                }
                Job::Collect { checkpoint, merge } => match self.collect(merge) {
                    Ok(pages) => {
                        let started = Instant::now();
                        self.observer.suspended(checkpoint, &self.domain);
                        watched += started.elapsed();
                        done(Done::Collected { checkpoint, pages });
                    }
                    Err(error) => done(Done::Failed(error.to_string())),
                },
                Job::New => {
                    let Some(stream) = &mut stream else { continue };
                    let Some(Place::Between(between)) = stream.place.take() else { continue };
                    match between.out_of_sync() {
                        Ok(out) => stream.place = Some(Place::Round(out)),
                        Err(error) => failed(stream, error.into(), &mut done),
                    }
                }
                Job::State { checkpoint } => {
                    let Some(stream) = &mut stream else { continue };
                    let Some(Place::Round(out)) = stream.place.take() else { continue };
                    self.failpoints.pass(Step::TransmitBegun);
                    stream.arm.arm(Step::TransmitMiddle);
                    let (started, before) = (Instant::now(), stream.pipe.taken());
                    match self.saver.send_direct(&self.domain, out) {
                        Ok(between) => {
                            self.failpoints.pass(Step::Sealed);
                            stream.place = Some(Place::Between(between));
                            let bytes = stream.pipe.taken().saturating_sub(before);
                            done(Done::Sent { checkpoint, bytes, took: started.elapsed() });
                        }
                        Err(error) => failed(stream, error, &mut done),
                    }
                }
                Job::Resume { epoch } => {
                    if let Err(error) = self.begin_epoch(epoch) {
                        // Before the guest runs: nothing may be released from here on.
                        done(Done::EpochFailed(error));
                    }
                    match self.run_on(&mut paused) {
                        Ok(()) => {
                            self.failpoints.pass(Step::Resumed);
                            done(Done::Resumed { pause: suspended_at.elapsed().saturating_sub(watched) });
                        }
                        Err(error) => done(Done::ResumeFailed(error)),
                    }
                }
                Job::Pause => {
                    paused = true;
                    if let Err(error) = self.domain.pause() {
                        // Its output goes nowhere any more, whatever it does.
                        log::error!("{}: pausing the guest: {error}", self.name);
                    }
                }
                Job::Forget => {
                    stream = None;
                    if let Err(error) = self.saver.stop(&mut self.domain) {
                        log::warn!("{}: ending the tracking of writes: {error}", self.name);
                    }
                }
                Job::Quit => break,
            }
        }
        self.domain
    }

    fn collect(&mut self, merge: Option<Named>) -> Result<u64, SaveError> {
        let mut pages = self.saver.collect(&mut self.domain)?;
        if let Some(named) = merge {
            // The listener has refused what the guest cannot have; one that went meanwhile is not there to be sent.
            let theirs = named.take(|pfn| {
                self.saver.also(pfn);
            });
            log::debug!("{}: {theirs} pages of the secondary's", self.name);
            pages = self.saver.named();
        }
        Ok(pages)
    }

    /// Stamps the guest's packets and those for it with the epoch.
    fn begin_epoch(&self, epoch: u64) -> crate::hypervisor::Result<()> {
        let mut card = self.card.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = card.begin_epoch(epoch);
        card.begin_inbound(epoch);
        begun
    }

    /// Lets the guest run. One that was paused for good, until the operator said otherwise, need not have been suspended.
    fn run_on(&mut self, paused: &mut bool) -> crate::hypervisor::Result<()> {
        if std::mem::take(paused) {
            self.domain.unpause()?;
            if !self.domain.info()?.is_suspended() {
                return Ok(());
            }
        }
        self.domain.resume()
    }
}

/// Tells why the stream goes no further, unless it was called off.
fn failed(stream: &Stream, error: SaveError, done: &mut impl FnMut(Done)) {
    match error {
        _ if stream.pipe.is_stopped() => {}
        SaveError::Write(error) => done(Done::WriteFailed(error.to_string())),
        error => done(Done::Failed(error.to_string())),
    }
}
