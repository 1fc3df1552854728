//! `receive --bare`: the other half of a stock `xl remus`, with what that costs.

use super::operator::Desk;
use super::secondary::{Job, live};
use crate::libxl::restore::Options;
use crate::remus::wire::Capabilities;
use crate::remus::{Generation, Level, Session};
use crate::replicate::bare::{Outcome, Recorder, receive_new, secondary::Observer};
use crate::replicate::fence::{Fence, FenceContext};
use crate::replicate::secondary::{Survivor, Target};
use crate::stream::Start;
use crate::stream::handshake::Message;
use crate::transport::{Cancel, Link};
use std::fs::File;
use std::io::{self, BufReader, IoSlice};
use std::thread;
use std::time::Instant;

/// Tells of checkpoints, and remembers when the sender was gone.
struct Watch {
    domain: String,
    lost: Option<Instant>,
}

impl Observer for Watch {
    fn applied(&mut self, number: u64, pages: usize, octets: u64) {
        log::debug!("{}: checkpoint {number}: {pages} pages, {octets} octets", self.domain);
        if number == 1 {
            log::info!("{}: the first checkpoint is whole: this side could take over", self.domain);
        }
    }

    fn sender_gone(&mut self, number: u64) {
        log::error!("{}: the connection has ended behind checkpoint {number}: the primary counts as dead", self.domain);
        self.lost = Some(Instant::now());
    }
}

/// Takes one bare stream. The end of the connection is the primary's death; a stream that must be refused is not.
///
/// Gives true when the survivor ended as it should.
///
/// # Errors
/// The stream is refused, or ends before a checkpoint is whole; what the survivor failed with.
pub fn receive(link: Link, cancel: Cancel, job: &Job, desk: &Desk) -> io::Result<bool> {
    let name = &job.protection.domain;
    for (level, cost) in Capabilities::BARE.cost() {
        let line = if level == Level::Critical { log::Level::Error } else { log::Level::Warn };
        log::log!(line, "{name}: a bare peer: {cost}");
    }
    let peer = link.peer().to_owned();
    let (reader, mut writer) = link.split();
    writer.write_all_vectored(&mut [IoSlice::new(Message::Banner.octets())])?;
    // Told to end: the copy is dropped.
    let waiting = desk.waiting();
    let reader = BufReader::with_capacity(1 << 18, reader.with_cancel(waiting));
    let record = job.record.as_deref().map(File::create).transpose()?;
    let reader = Recorder::new(reader, record);
    let mut options: Options = job.restore;
    options.stream.start = Some(Start::Xl);
    let mut watch = Watch { domain: name.clone(), lost: None };
    let mut target = job.target.clone();
    let outcome = receive_new(reader, |config| target.create(config), options, &mut watch);
    drop((writer, cancel));
    if desk.is_terminated() {
        return Ok(true);
    }
    let (outcome, domain) = outcome.map_err(io::Error::other)?;
    let checkpoint = match outcome {
        Outcome::FailOver { checkpoint, .. } => checkpoint,
        // A plain migration: the domain was handed over whole.
        Outcome::HandedOver => 0,
    };
    if let Some(fence) = &job.protection.fence {
        fence_until_done(fence, name, peer, job, desk);
        if desk.is_terminated() {
            return Ok(true);
        }
    }
    let lost = watch.lost.unwrap_or_else(Instant::now);
    // The sender had none of the witness' numbers; a secondary of this guest's gets the next one.
    let generation = job.protection.newest().map_err(io::Error::other)?;
    live(Survivor { domain, checkpoint, generation, lost }, job, desk)
}

/// A failed fencing command keeps this side passive.
fn fence_until_done(fence: &Fence, name: &str, peer: String, job: &Job, desk: &Desk) {
    let context =
        FenceContext { domain: name.into(), peer, generation: Generation::default(), session: Session::default() };
    while let Err(error) = fence.run(&context) {
        log::error!("{name}: fencing: {error}; this side stays passive");
        if desk.is_terminated() {
            return;
        }
        thread::sleep(job.protection.config.retry);
    }
}
