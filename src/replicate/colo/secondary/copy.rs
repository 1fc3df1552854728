//! The secondary's copy, on a thread of its own: reads the stream, loads what is whole, runs and suspends the guest.
#![forbid(unsafe_code)]

use super::LockstepTarget;
use crate::colo::wire::{Decoder, WireError, encode};
use crate::colo::{Dialect, Message};
use crate::hypervisor::types::CleanMode;
use crate::hypervisor::{self, ComparedCard, DeviceModel, DirtyBitmap, Domain, LogDirty};
use crate::libxc::RestoreError;
use crate::libxl::restore::{ApplyError, Options, Restorer};
use crate::replicate::colo::inlet::{Inlet, Next};
use crate::replicate::colo::lists::{ListError, Lists};
use crate::replicate::colo::pipe::Pipe;
use crate::replicate::failpoint::{Failpoints, Step};
use crate::replicate::primary::Observer;
use crate::stream::handover::LibxlReader;
use crate::stream::libxl::types::CHECKPOINT_STATE;
use crate::stream::record::{HEADER_LEN, RecordHeader};
use std::cell::RefCell;
use std::io::{self, Read};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// What to do, in order. Any of them calls off what is being received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Send(Message),
    /// Send the list of the pages that the guest has written.
    List,
    Receive {
        checkpoint: u64,
    },
    /// Nothing of what is being received is wanted.
    Drop,
    Load {
        checkpoint: u64,
    },
    Suspend,
    Resume {
        epoch: u64,
    },
    /// Let the guest run, its output free, and give it away.
    Activate,
    /// Suspend the guest where it runs, and keep it.
    Hold,
    Quit,
}

/// What the thread has to say.
#[derive(Debug)]
pub(super) enum Said<G> {
    Message(Message),
    Garbled(WireError),
    /// The stream has ended.
    Ended,
    Received {
        checkpoint: u64,
        pages: u64,
        bytes: u64,
    },
    Damaged(String),
    Loaded {
        checkpoint: u64,
        took: Duration,
    },
    Suspended,
    Resumed,
    /// There is no sound copy any more.
    Failed(String),
    /// The back channel cannot be written to.
    WriteFailed(io::Error),
    /// The guest, which runs: the last word.
    Survivor(Box<G>),
    /// It could not be made to: the last word.
    Unfit(String),
    /// The guest is kept and does not run, with so many bytes of memory; nothing when there is none.
    Held(Option<u64>),
}

/// A guest and its card.
pub(super) struct Housed<D> {
    pub domain: D,
    pub card: Box<dyn ComparedCard>,
}

impl<D> std::fmt::Debug for Housed<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Housed")
    }
}

/// The stream's bytes, for readers that come and go: what was read ahead, then what comes.
#[derive(Debug, Clone)]
struct Bytes(Rc<RefCell<Ahead>>);

#[derive(Debug)]
struct Ahead {
    inlet: Inlet<Order>,
    again: Vec<u8>,
    failpoints: Failpoints,
    /// Passed behind the next bytes.
    step: Option<Step>,
}

impl Read for Bytes {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut ahead = self.0.borrow_mut();
        if !ahead.again.is_empty() {
            let got = ahead.again.len().min(out.len());
            crate::copying::copy(&ahead.again, out);
            ahead.again.drain(..got);
            return Ok(got);
        }
        let got = ahead.inlet.read(out)?;
        if got > 0
            && let Some(step) = ahead.step.take()
        {
            ahead.failpoints.pass(step);
        }
        Ok(got)
    }
}

/// How the thread is to work.
pub(super) struct Work<T, O> {
    pub target: T,
    pub options: Options,
    pub pipe: Pipe,
    pub lists: Lists,
    /// Its packets go to the primary.
    pub on_sent: Option<hypervisor::OnSent>,
    pub observer: O,
    pub failpoints: Failpoints,
    /// Shared with who hands the guest packets that come from the primary.
    pub card: super::SharedCard,
}

/// A domain at a checkpoint, what continues it, and where the stream stands.
struct Copy<D> {
    domain: D,
    restorer: Restorer,
    /// `None` once it cannot be read any further.
    reader: Option<LibxlReader<Bytes>>,
    dirty: DirtyBitmap,
    /// The guest has run since it was loaded.
    ran: bool,
}

/// Runs until an order ends it.
pub(super) fn run<T: LockstepTarget, O: Observer<T::Domain>>(
    mut work: Work<T, O>,
    inlet: &Inlet<Order>,
    mut say: impl FnMut(Said<Housed<T::Domain>>),
) {
    let ahead = Ahead { inlet: inlet.clone(), again: Vec::new(), failpoints: work.failpoints.clone(), step: None };
    let bytes = Bytes(Rc::new(RefCell::new(ahead)));
    let mut copy = None;
    bytes.0.borrow_mut().step = Some(Step::ImageArriving);
    match work.image(&bytes) {
        Ok(image) => {
            work.failpoints.pass(Step::Received);
            copy = Some(image);
            say(Said::Received { checkpoint: 1, pages: 0, bytes: 0 });
        }
        Err(error) => damaged(&error, &mut say),
    }
    let mut decoder = Some(Decoder::new(Dialect::Libxl, 0));
    let mut heard = Vec::new();
    loop {
        match inlet.next() {
            Next::Ended => say(Said::Ended),
            Next::Bytes => message(&bytes, &mut decoder, &mut heard, &mut say),
            Next::Order(Order::Quit) => break,
            Next::Order(Order::Activate) => {
                work.activate(copy.take(), &mut say);
                break;
            }
            Next::Order(Order::Hold) => {
                let held = copy.take().map(hold::<T>).transpose();
                say(Said::Held(
                    held.unwrap_or_else(|error| {
                        log::error!("suspending the copy: {error}");
                        None
                    })
                    .map(|(here, memory)| {
                        copy = Some(here);
                        memory
                    }),
                ));
            }
            Next::Order(order) => {
                let Some(here) = &mut copy else { continue };
                if let Err(text) = work.obey(order, here, &bytes, &mut say) {
                    copy = None;
                    say(Said::Failed(text));
                }
            }
        }
    }
    inlet.close();
}

impl<T: LockstepTarget, O: Observer<T::Domain>> Work<T, O> {
    /// The first image, into a domain of its own.
    fn image(&mut self, bytes: &Bytes) -> Result<Copy<T::Domain>, RestoreError> {
        let (reader, config) = Restorer::open(bytes.clone(), self.options)?;
        let mut domain = self
            .target
            .create(config.as_deref())
            .map_err(|error| RestoreError::Hypervisor { offset: reader.offset(), error })?;
        let mut restorer = Restorer::new(&domain, self.options)?;
        let reader = restorer.first_image_colo(reader, &mut domain)?;
        Ok(Copy { domain, restorer, reader: Some(reader), dirty: DirtyBitmap::default(), ran: false })
    }

    /// An error says that there is no sound copy any more.
    fn obey(
        &mut self,
        order: Order,
        copy: &mut Copy<T::Domain>,
        bytes: &Bytes,
        say: &mut impl FnMut(Said<Housed<T::Domain>>),
    ) -> Result<(), String> {
        match order {
            Order::Send(message) => {
                let sent = encode(Dialect::Libxl, message).map_or(Ok(()), |bytes| self.pipe.stream(&bytes));
                written(sent, say);
            }
            Order::List => match self.list(copy) {
                Ok(()) => {}
                Err(ListError::Io(error)) => written(Err(error), say),
                Err(error) => return Err(error.to_string()),
            },
            Order::Receive { checkpoint } => self.receive(checkpoint, copy, bytes, say),
            Order::Drop => copy.reader = None,
            Order::Load { checkpoint } => {
                let started = Instant::now();
                self.failpoints.pass(Step::Applying);
                self.load(checkpoint, copy)?;
                self.failpoints.pass(Step::Applied);
                let took = started.elapsed();
                self.observer.suspended(checkpoint, &copy.domain);
                say(Said::Loaded { checkpoint, took });
            }
            Order::Suspend => {
                copy.domain.suspend().map_err(|error| format!("suspending the copy: {error}"))?;
                say(Said::Suspended);
            }
            Order::Resume { epoch } => {
                self.resume(epoch, copy).map_err(|error| format!("resuming the copy: {error}"))?;
                say(Said::Resumed);
            }
            Order::Activate | Order::Hold | Order::Quit => {}
        }
        Ok(())
    }

    fn list(&self, copy: &mut Copy<T::Domain>) -> Result<(), ListError> {
        if copy.ran {
            let nr_pfns = copy.domain.info().map(|info| info.nr_pfns).map_err(io::Error::other)?;
            if copy.dirty.nr_pfns() != nr_pfns {
                copy.dirty.resize(nr_pfns);
            }
            copy.domain.clean_log_dirty(&mut copy.dirty, CleanMode::Final).map_err(io::Error::other)?;
        }
        self.lists.send(&copy.dirty, |bytes| self.pipe.stream(bytes))?;
        copy.dirty.clear_all();
        copy.ran = false;
        Ok(())
    }

    fn receive(
        &self,
        checkpoint: u64,
        copy: &mut Copy<T::Domain>,
        bytes: &Bytes,
        say: &mut impl FnMut(Said<Housed<T::Domain>>),
    ) {
        let Some(reader) = copy.reader.take() else { return };
        bytes.0.borrow_mut().step = Some(Step::Arriving);
        match sync_point(bytes) {
            Ok(None) => {}
            Ok(Some(Ok(message))) => return say(Said::Message(message)),
            Ok(Some(Err(error))) => return say(Said::Garbled(error)),
            // Called off, or at its end: that is told elsewhere.
            Err(_) => return,
        }
        match copy.restorer.receive_colo(reader, &copy.domain) {
            Ok(reader) => {
                copy.reader = Some(reader);
                let (pages, bytes) = (copy.restorer.round_pages() as u64, copy.restorer.round_bytes());
                self.failpoints.pass(Step::Received);
                say(Said::Received { checkpoint, pages, bytes });
            }
            Err(error) => damaged(&error, say),
        }
    }

    /// Replaces the guest's state by what was received, and makes it fit to run.
    fn load(&mut self, checkpoint: u64, copy: &mut Copy<T::Domain>) -> Result<(), String> {
        if checkpoint > 1 {
            copy.restorer.apply(&mut copy.domain).map_err(|error| match error {
                ApplyError::Refused(error) => format!("checkpoint {checkpoint} is refused: {error}"),
                torn => torn.to_string(),
            })?;
        }
        copy.restorer.complete(&mut copy.domain).map_err(|error| error.to_string())?;
        let mut card = super::lock(&self.card);
        let card = card.get_or_insert_with(|| self.target.card(&copy.domain));
        if let Some(told) = self.on_sent.take() {
            card.divert(told);
            let tracking = copy.domain.set_device_model_log_dirty(true).and_then(|()| copy.domain.enable_log_dirty());
            tracking.map_err(|error| format!("tracking the copy's writes: {error}"))?;
        }
        card.begin_inbound(checkpoint);
        Ok(())
    }

    fn resume(&self, epoch: u64, copy: &mut Copy<T::Domain>) -> hypervisor::Result<()> {
        if let Some(card) = &mut *super::lock(&self.card) {
            card.begin_epoch(epoch)?;
        }
        copy.ran = true;
        let_run(&mut copy.domain)
    }

    fn activate(&mut self, copy: Option<Copy<T::Domain>>, say: &mut impl FnMut(Said<Housed<T::Domain>>)) {
        let card = super::lock(&self.card).take();
        let (Some(Copy { mut domain, .. }), Some(mut card)) = (copy, card) else {
            return say(Said::Unfit("there is no copy".into()));
        };
        card.detach();
        // What it sent before is not what leaves now.
        let free = card.discard().and_then(|_| card.free());
        let tracked = domain.set_device_model_log_dirty(false).and_then(|()| domain.disable_log_dirty());
        if let Err(error) = tracked {
            log::warn!("ending the tracking of the copy's writes: {error}");
        }
        match free.and_then(|()| let_run(&mut domain)) {
            Ok(()) => say(Said::Survivor(Box::new(Housed { domain, card }))),
            Err(error) => say(Said::Unfit(error.to_string())),
        }
    }
}

/// Has a copy stand still, and says how much memory it takes.
fn hold<T: LockstepTarget>(mut copy: Copy<T::Domain>) -> hypervisor::Result<(Copy<T::Domain>, u64)> {
    let info = copy.domain.info()?;
    if !info.paused && !info.is_suspended() {
        copy.domain.suspend()?;
    }
    copy.reader = None;
    Ok((copy, info.memory()))
}

/// A copy that has never run is paused; one that stands at a checkpoint is suspended.
fn let_run(domain: &mut impl Domain) -> hypervisor::Result<()> {
    let info = domain.info()?;
    if info.is_suspended() {
        domain.resume()?;
    }
    if info.paused { domain.unpause() } else { Ok(()) }
}

fn damaged<G>(error: &RestoreError, say: &mut impl FnMut(Said<G>)) {
    // The end of the stream is told by itself, and so is why it was called off.
    if !error.is_sender_gone() && !error.to_string().contains(&aborted().to_string()) {
        say(Said::Damaged(error.to_string()));
    }
}

fn aborted() -> io::Error {
    io::ErrorKind::ConnectionAborted.into()
}

fn written<G>(written: io::Result<()>, say: &mut impl FnMut(Said<G>)) {
    if let Err(error) = written {
        say(Said::WriteFailed(error));
    }
}

/// Reads a message, as far as it is there: whatever comes outside of a state is one. NEW is put back for who reads the state.
fn message<G>(bytes: &Bytes, decoder: &mut Option<Decoder>, heard: &mut Vec<u8>, say: &mut impl FnMut(Said<G>)) {
    let mut room = [0; 16];
    let wanted = decoder.as_ref().map_or(room.len(), Decoder::wanted);
    let room = room.get_mut(..wanted).unwrap_or_default();
    let got = bytes.0.borrow_mut().inlet.read(room);
    let Ok(got) = got else { return };
    let room = room.get(..got).unwrap_or_default();
    // Behind what is no message nothing can be told apart.
    let Some(sound) = decoder else { return };
    heard.extend_from_slice(room);
    match sound.take(room) {
        Ok((_, None)) => {}
        Ok((_, Some(message))) => {
            if message == Message::New {
                bytes.0.borrow_mut().again.append(heard);
            }
            heard.clear();
            say(Said::Message(message));
        }
        Err(error) => {
            *decoder = None;
            say(Said::Garbled(error));
        }
    }
}

/// Looks whether a message stands where a state should begin; what was read of a state is put back. The
/// outer error is the source's, the inner the message's.
fn sync_point(bytes: &Bytes) -> io::Result<Option<Result<Message, WireError>>> {
    let mut ahead = bytes.0.borrow_mut();
    let mut head = [0; HEADER_LEN];
    ahead.inlet.read_exact(&mut head)?;
    if let Some(step) = ahead.step.take() {
        ahead.failpoints.pass(step);
    }
    // In libxc's part the number is that of a PV record, which no state begins with.
    let found = RecordHeader::parse(&head).map(|header| (header.type_id, header.length));
    if !matches!(found, Some((CHECKPOINT_STATE, 4 | 8))) {
        ahead.again.extend_from_slice(&head);
        return Ok(None);
    }
    let mut decoder = Decoder::new(Dialect::Libxl, 0);
    let mut part = head.to_vec();
    loop {
        match decoder.take(&part) {
            Ok((_, Some(message))) => return Ok(Some(Ok(message))),
            Ok((_, None)) => {
                part.resize(decoder.wanted().min(crate::colo::wire::MOST), 0);
                ahead.inlet.read_exact(&mut part)?;
            }
            Err(error) => return Ok(Some(Err(error))),
        }
    }
}
