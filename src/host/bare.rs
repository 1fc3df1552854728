//! `receive --bare`: the other half of a stock `xl remus`, with what that costs.

use super::operator::Desk;
use super::secondary::{Home, Job, live};
use super::sim::SimHome;
use crate::libxl::restore::Options;
use crate::remus::wire::Capabilities;
use crate::remus::{Generation, Level, Session};
use crate::replicate::bare::{Outcome, Recorder, receive_new, secondary::Observer};
use crate::replicate::fence::FenceContext;
use crate::replicate::secondary::{Copies, Replica, Survivor, Target};
use crate::stream::Start;
use crate::stream::handshake::Message;
use crate::transport::{Cancel, Link, LinkReader, LinkWriter};
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
pub fn receive(link: Link, cancel: Cancel, job: &Job<SimHome>, desk: &Desk) -> io::Result<bool> {
    let peer = link.peer().to_owned();
    let (reader, writer, options) = greet(link, job, desk)?;
    let mut watch = Watch { domain: job.protection.domain.clone(), lost: None };
    let mut target = job.home.target.clone();
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
    let lost = watch.lost.unwrap_or_else(Instant::now);
    if !fence_until_done(peer, job, desk) {
        return Ok(true);
    }
    live(Survivor { domain, checkpoint, generation: newest(job)?, lost }, job, desk)
}

/// The same for copies that are made fit to run only once this side may take over: of checkpointed streams alone.
///
/// # Errors
/// As [`receive`].
pub fn receive_checkpoints<H: Home>(link: Link, cancel: Cancel, job: &Job<H>, desk: &Desk) -> io::Result<bool> {
    let name = &job.protection.domain;
    let peer = link.peer().to_owned();
    let (reader, writer, options) = greet(link, job, desk)?;
    let mut watch = Watch { domain: name.clone(), lost: None };
    let mut copy = job.home.copies().image(reader, options).map_err(io::Error::other)?;
    let mut checkpoint = 1;
    watch.applied(checkpoint, 0, 0);
    let unsound = loop {
        let arrived = match copy.receive() {
            Ok(arrived) => arrived,
            Err(unsound) => break unsound,
        };
        copy.apply().map_err(io::Error::other)?;
        checkpoint += 1;
        watch.applied(checkpoint, usize::try_from(arrived.pages).unwrap_or(usize::MAX), arrived.octets);
    };
    drop((writer, cancel));
    if desk.is_terminated() {
        return Ok(true);
    }
    if !unsound.is_sender_gone() {
        return Err(io::Error::other(format!("refused behind checkpoint {checkpoint}: {unsound}")));
    }
    log::info!("{name}: {unsound}");
    watch.sender_gone(checkpoint);
    let lost = watch.lost.unwrap_or_else(Instant::now);
    if !fence_until_done(peer, job, desk) {
        return Ok(true);
    }
    let domain = copy.activate().map_err(io::Error::other)?;
    live(Survivor { domain, checkpoint, generation: newest(job)?, lost }, job, desk)
}

type Source = Recorder<BufReader<LinkReader>, File>;

/// Says what a bare peer costs, and lets it begin.
fn greet<H>(link: Link, job: &Job<H>, desk: &Desk) -> io::Result<(Source, LinkWriter, Options)> {
    let name = &job.protection.domain;
    for (level, cost) in Capabilities::BARE.cost() {
        let line = if level == Level::Critical { log::Level::Error } else { log::Level::Warn };
        log::log!(line, "{name}: a bare peer: {cost}");
    }
    let (reader, mut writer) = link.split();
    writer.write_all_vectored(&mut [IoSlice::new(Message::Banner.octets())])?;
    // Told to end: the copy is dropped.
    let reader = BufReader::with_capacity(1 << 18, reader.with_cancel(desk.waiting()));
    let record = job.record.as_deref().map(File::create).transpose()?;
    let mut options: Options = job.restore;
    options.stream.start = Some(Start::Xl);
    Ok((Recorder::new(reader, record), writer, options))
}

/// The sender had none of the witness' numbers; a secondary of this guest's gets the next one.
fn newest<H>(job: &Job<H>) -> io::Result<Generation> {
    job.protection.newest().map_err(io::Error::other)
}

/// A failed fencing command keeps this side passive. False when it is told to end meanwhile.
fn fence_until_done<H>(peer: String, job: &Job<H>, desk: &Desk) -> bool {
    let Some(fence) = &job.protection.fence else { return true };
    let domain = job.protection.domain.clone();
    let context = FenceContext { domain, peer, generation: Generation::default(), session: Session::default() };
    while let Err(error) = fence.run(&context) {
        log::error!("{}: fencing: {error}; this side stays passive", context.domain);
        if desk.is_terminated() {
            return false;
        }
        thread::sleep(job.protection.config.retry);
    }
    !desk.is_terminated()
}
