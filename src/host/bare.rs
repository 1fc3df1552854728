//! `receive --bare`: the other half of a stock `xl remus`, with what that costs.

use super::operator::Desk;
use super::secondary::{Home, Job, live};
use super::sim_home::SimHome;
use crate::decode::xl_config::XlConfig;
use crate::libxl::restore::Options;
use crate::remus::wire::Capabilities;
use crate::remus::{Generation, Level, Session};
use crate::replicate::bare::{Outcome, Recorder, receive_new, secondary::Observer};
use crate::replicate::fence::FenceContext;
use crate::replicate::link::Records;
use crate::replicate::secondary::{Copies, Replica, Survivor, Target};
use crate::stream::handshake::Message;
use crate::stream::{Limits, Start, xl};
use crate::transport::{Cancel, Link, LinkReader, LinkWriter};
use std::fs::File;
use std::io::{self, BufReader, Chain, Cursor, ErrorKind, IoSlice, Read};
use std::thread;
use std::time::Instant;

/// Tells of checkpoints, and remembers when the sender was gone.
struct Watch {
    domain: String,
    lost: Option<Instant>,
}

impl Observer for Watch {
    fn applied(&mut self, number: u64, pages: usize, bytes: u64) {
        log::debug!("{}: checkpoint {number}: {pages} pages, {bytes} bytes", self.domain);
        if number == 1 {
            log::info!("{}: the first checkpoint is whole: this side could take over", self.domain);
        }
    }

    fn sender_gone(&mut self, number: u64) {
        log::error!("{}: the connection has ended behind checkpoint {number}: the primary counts as dead", self.domain);
        self.lost = Some(Instant::now());
    }
}

/// A stock `xl remus` at the other end of a connection, or who speaks as one does.
#[derive(Debug)]
pub struct Sender {
    peer: String,
    reader: LinkReader,
    writer: LinkWriter,
    greeted: bool,
    /// What it has said already: xl's preamble, or nothing yet.
    said: Vec<u8>,
}

impl Sender {
    /// Nothing is said or heard yet.
    pub fn new(link: Link) -> Self {
        let peer = link.peer().to_owned();
        let (reader, writer) = link.split();
        Sender { peer, reader, writer, greeted: false, said: Vec::new() }
    }

    /// Tells it to begin, and waits until it has said which domain it sends. What it says is kept for who reads the stream.
    ///
    /// # Errors
    /// The connection's; what comes is no preamble of xl's, or has no name.
    pub fn domain(&mut self) -> io::Result<String> {
        self.greet()?;
        let invalid = |text: String| io::Error::new(ErrorKind::InvalidData, text);
        let mut bytes = vec![0; xl::HEADER_LEN];
        self.reader.read_exact(&mut bytes)?;
        let header = xl::Header::parse(&bytes).map_err(|error| invalid(error.to_string()))?;
        let header = header.ok_or(ErrorKind::UnexpectedEof)?;
        let (length, limit) = (header.optional_data_len, Limits::default().xl_optional_data);
        if length > limit {
            return Err(invalid(format!(
                "xl's preamble has {length} bytes of optional data, over the limit of {limit}"
            )));
        }
        let read = (&mut self.reader).take(u64::from(length)).read_to_end(&mut bytes)?;
        if read as u64 != u64::from(length) {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let preamble = xl::Preamble { header, optional_data: bytes.get(xl::HEADER_LEN..).unwrap_or_default() };
        let config = preamble.config().map_err(|error| invalid(error.to_string()))?;
        let config = XlConfig::decode(config).map_err(|error| invalid(error.to_string()))?;
        self.said = bytes;
        config.name.ok_or_else(|| invalid("the domain's configuration has no name: give it by --domain".into()))
    }

    fn greet(&mut self) -> io::Result<()> {
        if !self.greeted {
            self.writer.write_all_vectored(&mut [IoSlice::new(Message::Banner.bytes())])?;
            self.greeted = true;
        }
        Ok(())
    }
}

/// Takes one bare stream. The end of the connection is the primary's death; a stream that must be refused is not.
///
/// Gives true when the survivor ended as it should.
///
/// # Errors
/// The stream is refused, or ends before a checkpoint is whole; what the survivor failed with.
pub fn receive(sender: Sender, cancel: Cancel, job: &Job<SimHome>, desk: &Desk) -> io::Result<bool> {
    let peer = sender.peer.clone();
    let (reader, writer, options, _records) = begin(sender, job, desk)?;
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
        // Its sender has ended the stream after a checkpoint, and the domain with it.
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
pub fn receive_checkpoints<H: Home>(sender: Sender, cancel: Cancel, job: &Job<H>, desk: &Desk) -> io::Result<bool> {
    let name = &job.protection.domain;
    let peer = sender.peer.clone();
    let (reader, writer, options, _records) = begin(sender, job, desk)?;
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
        watch.applied(checkpoint, usize::try_from(arrived.pages).unwrap_or(usize::MAX), arrived.bytes);
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

type Source = Recorder<Chain<Cursor<Vec<u8>>, BufReader<LinkReader>>>;

/// Says what a bare peer costs, and lets it begin. What records is to be kept for as long as the guest lives.
fn begin<H>(
    mut sender: Sender,
    job: &Job<H>,
    desk: &Desk,
) -> io::Result<(Source, LinkWriter, Options, Option<Records>)> {
    let name = &job.protection.domain;
    for (level, cost) in Capabilities::BARE.cost() {
        let line = if level == Level::Critical { log::Level::Error } else { log::Level::Warn };
        log::log!(line, "{name}: a bare peer: {cost}");
    }
    sender.greet()?;
    let Sender { reader, writer, said, .. } = sender;
    // Told to end: the copy is dropped.
    let reader = Cursor::new(said).chain(BufReader::with_capacity(1 << 18, reader.with_cancel(desk.waiting())));
    let file = job.record.as_deref().map(File::create).transpose()?;
    let mut records = job.record.clone().map(Records::new);
    let record = records.as_mut().map(Records::next_session).zip(file);
    let mut options: Options = job.restore;
    options.stream.start = Some(Start::Xl);
    Ok((Recorder::new(reader, record), writer, options, records))
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
