//! COLO's part of a primary's guest thread: collects, writes to the stream.
#![forbid(unsafe_code)]

use crate::hypervisor::{self, ComparedCard, DeviceModel, SaveDomain};
use crate::libxc::SaveError;
use crate::replicate::colo::lists::Named;
use crate::replicate::colo::pipe::{Arm, Pipe, StreamOut};
use crate::replicate::engine::guest::{self as engine, Guest, Observer};
use crate::replicate::engine::primary::Shared;
use crate::replicate::failpoint::Step;
use crate::stream::handover::{BetweenCheckpoints, LibxcWriter, ToLibxl};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// What to do besides what every guest's thread does.
#[derive(Debug)]
pub(super) enum Job {
    /// Send all memory while the guest runs, as the start of the stream.
    Image(Pipe),
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
}

/// What has been done, or not.
#[derive(Debug)]
pub(super) enum Done {
    ImageReady,
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
}

#[derive(Debug)]
enum Place {
    /// In the image, or behind NEW.
    Round(LibxcWriter<StreamOut, ToLibxl>),
    Between(BetweenCheckpoints<StreamOut>),
}

/// A stream under way.
#[derive(Debug)]
pub(super) struct Stream {
    pipe: Pipe,
    arm: Arm,
    place: Option<Place>,
}

/// The thread's own.
pub(super) struct Worker<D, O> {
    pub guest: Guest<D, O>,
    pub card: Shared<dyn ComparedCard>,
    pub stream: Option<Stream>,
}

impl<D: SaveDomain + DeviceModel, O: Observer<D>> engine::Worker for Worker<D, O> {
    type Domain = D;
    type Observer = O;
    type Job = Job;
    type Done = Done;

    fn guest(&mut self) -> &mut Guest<D, O> {
        &mut self.guest
    }

    /// Of the guest's packets and those for it.
    fn begin_epoch(&mut self, epoch: u64) -> hypervisor::Result<()> {
        let mut card = self.card.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = card.begin_epoch(epoch);
        card.begin_inbound(epoch);
        begun
    }

    fn work(&mut self, job: Job, done: &mut impl FnMut(Done)) {
        match job {
            Job::Image(pipe) => self.image(pipe, done),
            Job::Collect { checkpoint, merge } => match self.collect(merge) {
                Ok(pages) => {
                    self.guest.taken(checkpoint);
                    done(Done::Collected { checkpoint, pages });
                }
                Err(error) => done(Done::Failed(error.to_string())),
            },
            Job::New => {
                let Some(stream) = &mut self.stream else { return };
                let Some(Place::Between(between)) = stream.place.take() else { return };
                match between.out_of_sync() {
                    Ok(out) => stream.place = Some(Place::Round(out)),
                    Err(error) => failed(stream, error.into(), done),
                }
            }
            Job::State { checkpoint } => self.state(checkpoint, done),
        }
    }

    fn forget(&mut self) {
        self.stream = None;
    }

    fn end(self) -> D {
        self.guest.domain
    }
}

impl<D: SaveDomain + DeviceModel, O: Observer<D>> Worker<D, O> {
    fn image(&mut self, pipe: Pipe, done: &mut impl FnMut(Done)) {
        let (out, arm) = StreamOut::new(pipe.clone(), self.guest.failpoints.clone());
        self.guest.failpoints.pass(Step::ImageBegun);
        arm.arm(Step::ImageMiddle);
        let begun = self.guest.saver.begin_colo(&mut self.guest.domain, out);
        let here = self.stream.insert(Stream { pipe, arm, place: None });
        match begun {
            Ok(out) => {
                here.place = Some(Place::Round(out));
                done(Done::ImageReady);
            }
            Err(error) => failed(here, error, done),
        }
    }

    fn state(&mut self, checkpoint: u64, done: &mut impl FnMut(Done)) {
        let Some(stream) = &mut self.stream else { return };
        let Some(Place::Round(out)) = stream.place.take() else { return };
        self.guest.failpoints.pass(Step::TransmitBegun);
        stream.arm.arm(Step::TransmitMiddle);
        let (started, before) = (Instant::now(), stream.pipe.taken());
        match self.guest.saver.send_direct(&self.guest.domain, out) {
            Ok(between) => {
                self.guest.failpoints.pass(Step::Sealed);
                stream.place = Some(Place::Between(between));
                let bytes = stream.pipe.taken().saturating_sub(before);
                done(Done::Sent { checkpoint, bytes, took: started.elapsed() });
            }
            Err(error) => failed(stream, error, done),
        }
    }

    fn collect(&mut self, merge: Option<Named>) -> Result<u64, SaveError> {
        let mut pages = self.guest.saver.collect(&mut self.guest.domain)?;
        if let Some(named) = merge {
            // The listener has refused what the guest cannot have; one that went meanwhile is not there to be sent.
            let theirs = named.take(|pfn| {
                self.guest.saver.also(pfn);
            });
            log::debug!("{}: {theirs} pages of the secondary's", self.guest.name);
            pages = self.guest.saver.named();
        }
        Ok(pages)
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
