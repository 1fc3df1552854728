//! The driver of [`crate::remus::Secondary`]: from a connection to a survivor, or to nothing.
//!
//! Two threads besides the caller's, which owns the machine: the copy's (`copy.rs`), which reads and applies, and the
//! [`Outbox`]'s. A checkpoint is acknowledged when it is whole, checked and in memory of our own; it is applied while the
//! acknowledgement travels. A new stream is restored into a domain of its own, so that the copy before it stands until the
//! new one is whole.

mod copy;
mod words;

use super::clock::Clock;
use super::failpoint::{Failpoints, Step};
use super::fence::{Fence, FenceContext};
use super::link::{Forward, Outbox, Record, first_octets};
use super::operator::{Ask, Handle, Notices};
use super::stats::Statistics;
use super::witness::WitnessThread;
use crate::control::status::secondary_phase;
use crate::control::{Reply, Request, Status};
use crate::hypervisor::{self, DeviceModel, RestoreDomain};
use crate::libxl::restore::Options;
use crate::remus::primary::Answer;
use crate::remus::secondary::{Action, Command, Event, Phase};
use crate::remus::wire::{Capabilities, Control, Direction, Encoder, MAGIC, Peer, recognise_primary};
use crate::remus::{Config, Generation, Level, RefuseReason, Secondary, Timer, Timers};
use crate::transport::{Cancel, Link, LinkReader, LinkWriter, Probe};
use crate::witness::Witness;
use copy::{Keeper, Order, Said};
use std::io::{self, IoSlice};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

pub use crate::remus::secondary::End;

/// Makes the empty domains that images are restored into.
pub trait Target: Send + 'static {
    /// A domain of the backend.
    type Domain: RestoreDomain + DeviceModel + Send + 'static;

    /// An empty, paused domain by the configuration that the stream's preamble carries, if it has one.
    ///
    /// # Errors
    /// The hypervisor's: no memory, a configuration that does not suit. The image is refused then.
    fn create(&mut self, config: Option<&[u8]>) -> hypervisor::Result<Self::Domain>;
}

/// How to be a secondary.
pub struct Settings {
    /// The domain's name, for people and for the fencing command.
    pub domain: String,
    /// The machine's settings.
    pub config: Config,
    /// How to restore, and how much a buffered checkpoint may take.
    pub restore: Options,
    /// The command that makes sure of the primary's death. [`Config::fence`] says whether there is one.
    pub fence: Option<Fence>,
    /// Who may be active alone, with [`crate::remus::Rule::Witness`].
    pub witness: Option<Box<dyn Witness>>,
    /// Where to keep the streams as they arrive.
    pub record: Option<Record>,
    /// Told of each checkpoint that is whole and acknowledged, with its number.
    pub on_checkpoint: Option<Box<dyn FnMut(u64) + Send>>,
    /// Where tests let this process die.
    pub failpoints: Failpoints,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings").field("domain", &self.domain).field("config", &self.config).finish_non_exhaustive()
    }
}

/// A domain that may run: nobody else is active.
#[derive(Debug)]
pub struct Survivor<D> {
    /// Complete and paused.
    pub domain: D,
    /// The checkpoint it is at.
    pub checkpoint: u64,
    /// The generation it is active in.
    pub generation: Generation,
    /// When the primary counted as lost, or the switch-over was asked for.
    pub lost: Instant,
}

/// How it ended.
#[derive(Debug)]
pub enum Outcome<D> {
    /// This side goes on with the guest.
    Survivor(Survivor<D>),
    /// This side has no part any more.
    Ended(End),
}

/// Why a secondary could not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// A thread, a file descriptor.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Somebody else is at the other end.
    #[error("the other side is {0}")]
    Peer(&'static str),
    /// The copy could not be made fit to run. The generation is taken: nobody else goes active by itself.
    #[error("the copy cannot run: {0}; this side holds {1}, start the guest elsewhere by force")]
    Unfit(String, Generation),
}

enum Message<D> {
    Said(Said<D>),
    Peer(io::Result<Option<Peer>>),
    Witness(Answer),
    Fenced(bool),
    WriteFailed(io::Error),
    Ask(Ask),
}

/// A secondary that has not begun.
pub struct Driver<T: Target> {
    inbox: Receiver<Message<T::Domain>>,
    post: Sender<Message<T::Domain>>,
}

impl<T: Target> std::fmt::Debug for Driver<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("secondary::Driver")
    }
}

impl<T: Target> Default for Driver<T> {
    fn default() -> Self {
        let (post, inbox) = channel();
        Driver { inbox, post }
    }
}

impl<T: Target> Driver<T> {
    /// A way for the operator to talk to it.
    pub fn handle(&self) -> Handle {
        let post = self.post.clone();
        Handle::new(move |ask| post.send(Message::Ask(ask)).is_ok())
    }

    /// Serves one connection. `cancel` is the link's.
    ///
    /// # Errors
    /// [`Trouble`]: no session came about, or the survivor is unfit.
    pub fn run(self, link: Link, cancel: Cancel, target: T, settings: Settings) -> Result<Outcome<T::Domain>, Trouble> {
        let Settings { domain, config, restore, fence, witness, record, on_checkpoint, failpoints } = settings;
        let peer = link.peer().to_owned();
        let (reader, mut writer) = link.split();
        // Reading ends before the last frame has been written.
        let reading = Cancel::new()?;
        let reader = reader.with_cancel(reading.clone());
        let probe = reader.probe();
        writer.write_all_vectored(&mut [IoSlice::new(&MAGIC)])?;
        let (orders, ordered) = channel();
        let post = self.post.clone();
        let points = failpoints.clone();
        let keeper = thread::Builder::new().name("copy".into()).spawn(move || {
            keep(reader, target, restore, record, points, ordered, &post);
        })?;
        let answer = self.post.clone();
        let described = witness.as_ref().map_or_else(|| "none".to_owned(), |witness| witness.describe());
        let has_fence = fence.is_some();
        let witness = witness
            .map(|witness| {
                WitnessThread::start(witness, move |a| {
                    let _ = answer.send(Message::Witness(a));
                })
            })
            .transpose()?;
        let mut run = Run {
            clock: Clock::start(),
            machine: Secondary::new(config),
            timers: Timers::default(),
            orders,
            post: self.post,
            writer: Some(writer),
            outbox: None,
            link: cancel,
            reading,
            probe,
            witness,
            fence,
            failpoints,
            words: words::Words {
                domain,
                peer,
                witness: described,
                fence: has_fence,
                notices: Notices::default(),
                statistics: Statistics::default(),
                last: None,
                begun: Instant::now(),
            },
            refusal: None,
            on_checkpoint,
            lost: Instant::now(),
            applying: false,
            terminated: false,
            quit: false,
            activated: None,
            greeting: Instant::now() + config.answer,
        };
        let outcome = run.serve(&self.inbox);
        run.shut();
        drop(run);
        if keeper.join().is_err() {
            log::error!("the copy's thread has panicked");
        }
        outcome
    }
}

/// The copy's thread: knows who is there, then keeps the copy.
fn keep<T: Target>(
    mut reader: LinkReader,
    target: T,
    restore: Options,
    record: Option<Record>,
    failpoints: Failpoints,
    orders: Receiver<Order>,
    post: &Sender<Message<T::Domain>>,
) {
    let mut first = Vec::new();
    let peer = first_octets(&mut reader, &mut first, recognise_primary);
    let framed = matches!(peer, Ok(Some(Peer::Framed)));
    // Whoever drives has gone: then nothing matters here.
    let _ = post.send(Message::Peer(peer));
    if framed {
        let frames = post.clone();
        let control = move |session, frame| {
            let _ = frames.send(Message::Said(Said::Frame(session, frame)));
        };
        let forward = Forward::new(reader, &first, record, failpoints.clone(), control);
        let say = |said| {
            let _ = post.send(Message::Said(said));
        };
        Keeper::new(forward, target, restore, failpoints, orders, say).run();
    }
}

struct Run<D> {
    clock: Clock,
    machine: Secondary,
    timers: Timers,
    orders: Sender<Order>,
    post: Sender<Message<D>>,
    /// Until the session is known.
    writer: Option<LinkWriter>,
    outbox: Option<Outbox>,
    link: Cancel,
    reading: Cancel,
    probe: Probe,
    witness: Option<WitnessThread>,
    fence: Option<Fence>,
    failpoints: Failpoints,
    words: words::Words,
    /// Why the checkpoint is refused that is about to be, for the other side's people.
    refusal: Option<String>,
    on_checkpoint: Option<Box<dyn FnMut(u64) + Send>>,
    lost: Instant,
    /// The copy's thread is busy and does not read.
    applying: bool,
    terminated: bool,
    /// Told to end twice.
    quit: bool,
    /// What the survivor is, once its domain comes.
    activated: Option<(u64, Generation)>,
    /// Until when the primary must have said who it is.
    greeting: Instant,
}

/// How long a time-out is put off while there is something of the peer's to read.
const PUT_OFF: Duration = Duration::from_millis(10);

impl<D: Send + 'static> Run<D> {
    fn serve(&mut self, inbox: &Receiver<Message<D>>) -> Result<Outcome<D>, Trouble> {
        loop {
            let message = match self.wait() {
                None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(wait) => inbox.recv_timeout(wait),
            };
            match message {
                Ok(message) => {
                    if let Some(outcome) = self.take(message)? {
                        return Ok(outcome);
                    }
                }
                Err(RecvTimeoutError::Timeout) => self.expire(),
                // This value holds a sender.
                Err(RecvTimeoutError::Disconnected) => return Ok(Outcome::Ended(End::Stopped)),
            }
            if let Phase::Ended(end) = self.machine.phase() {
                return Ok(Outcome::Ended(end));
            }
            if self.quit {
                return Ok(Outcome::Ended(End::Stopped));
            }
        }
    }

    fn wait(&self) -> Option<Duration> {
        let timer = self.timers.next().map(|at| self.clock.until(at));
        let greeting =
            (self.machine.phase() == Phase::Greeting).then(|| self.greeting.saturating_duration_since(Instant::now()));
        timer.into_iter().chain(greeting).min()
    }

    fn expire(&mut self) {
        if self.machine.phase() == Phase::Greeting && Instant::now() >= self.greeting {
            return self.feed(Event::LinkLost);
        }
        while let Some(timer) = self.timers.expired(self.clock.now()) {
            if timer == Timer::Peer
                && let Some(wait) = self.still_heard()
            {
                self.timers.set(timer, self.clock.now().after(wait));
                return;
            }
            self.feed(Event::Timer(timer));
        }
    }

    /// What has arrived is the primary's sign of life, whoever has not read it yet, and if it is a part of a frame: on a slow
    /// link, one frame may take longer than the time-out. Gives how long it is one, at the least.
    fn still_heard(&self) -> Option<Duration> {
        if self.applying || self.probe.has_input() {
            return Some(PUT_OFF);
        }
        self.machine.config().timeout.checked_sub(self.probe.silence()).filter(|left| !left.is_zero())
    }

    /// Ends both directions and the copy's thread.
    fn shut(&mut self) {
        if let Some(outbox) = self.outbox.take() {
            outbox.close();
        } else {
            self.link.cancel();
        }
        let _ = self.orders.send(Order::Quit);
        self.reading.cancel();
    }

    fn take(&mut self, message: Message<D>) -> Result<Option<Outcome<D>>, Trouble> {
        match message {
            Message::Peer(peer) => match peer {
                Ok(Some(Peer::Framed)) => {}
                Ok(Some(Peer::Bare)) => return Err(Trouble::Peer("Xen's own tool: receive --bare takes its stream")),
                Ok(Some(Peer::Unknown)) => return Err(Trouble::Peer("no xen-replicate")),
                Ok(None) => return Ok(Some(Outcome::Ended(End::Empty))),
                Err(error) if crate::transport::is_cancelled(&error) => {
                    return Ok(Some(Outcome::Ended(End::Empty)));
                }
                Err(error) => return Err(error.into()),
            },
            Message::Said(said) => return self.said(said),
            Message::Witness(answer) => self.feed(Event::Witness(answer)),
            Message::Fenced(success) => self.feed(Event::Fenced { success }),
            Message::WriteFailed(error) => {
                log::warn!("{}: writing to the primary: {error}", self.words.domain);
                // What has been read already comes first, and so does the end that reading will find.
                self.reading.cancel();
            }
            Message::Ask(Ask::Request(request, answer)) => {
                let reply = self.request(request);
                // Who asked may be gone.
                let _ = answer.send(reply);
            }
            Message::Ask(Ask::Terminate) => self.terminate(),
        }
        Ok(None)
    }

    fn said(&mut self, said: Said<D>) -> Result<Option<Outcome<D>>, Trouble> {
        match said {
            Said::Frame(session, frame) => {
                if let (Control::Hello(_), Some(writer)) = (frame, self.writer.take_if(|_| self.outbox.is_none())) {
                    let post = self.post.clone();
                    let encoder = Encoder::new(session, Direction::Backward);
                    self.outbox = Some(Outbox::start(writer, Some(encoder), self.link.clone(), move |error| {
                        let _ = post.send(Message::WriteFailed(error));
                    })?);
                }
                if let Control::SwitchOver { .. } = frame {
                    self.lost = Instant::now();
                }
                self.feed(Event::Frame { session, frame });
                if matches!(frame, Control::Hello(_)) {
                    self.failpoints.pass(Step::Welcomed);
                }
            }
            Said::Checkpoint { session, number, verdict, text, figures } => {
                self.refusal = (!text.is_empty()).then_some(text);
                let before = self.machine.newest();
                self.feed(Event::Checkpoint { session, number, verdict });
                let taken = self.machine.newest() == Some(number) && before != Some(number);
                self.applying = taken;
                if taken {
                    self.words.last = Some(Instant::now());
                    if let Some(tell) = &mut self.on_checkpoint {
                        tell(number);
                    }
                    self.words.statistics.arrived(figures.pages, figures.octets);
                }
                let _ = self.orders.send(if taken { Order::Apply } else { Order::Drop });
            }
            Said::Damaged { reason, text } => {
                self.refusal = Some(text);
                self.feed(Event::Damaged { reason });
            }
            Said::Garbled(error) => {
                self.refusal = Some(error.to_string());
                self.feed(Event::Garbled);
            }
            Said::Ended => {
                self.applying = false;
                self.feed(Event::LinkLost);
            }
            Said::Applied { number, took } => {
                self.applying = false;
                self.words.statistics.applied(took);
                self.feed(Event::Applied { checkpoint: number });
            }
            Said::ApplyFailed { number, text } => {
                self.applying = false;
                self.refusal = Some(text);
                self.feed(Event::ApplyFailed { checkpoint: number });
            }
            Said::Survivor(domain) => {
                self.failpoints.pass(Step::Activated);
                self.feed(Event::Activated);
                let Some((checkpoint, generation)) = self.activated else { return Ok(None) };
                let survivor = Survivor { domain: *domain, checkpoint, generation, lost: self.lost };
                return Ok(Some(Outcome::Survivor(survivor)));
            }
            Said::Unfit(text) => return Err(Trouble::Unfit(text, self.machine.generation())),
        }
        Ok(None)
    }

    fn feed(&mut self, event: Event) {
        let mut actions = Vec::new();
        self.feed_into(event, &mut actions);
    }

    /// Gives what was done, for who has to tell the operator.
    fn feed_into(&mut self, event: Event, actions: &mut Vec<Action>) {
        let before = self.machine.phase();
        self.machine.handle(self.clock.now(), event, actions);
        let after = self.machine.phase();
        if before == Phase::Passive && after != Phase::Passive {
            self.lost = Instant::now();
        }
        for action in &*actions {
            self.carry_out(*action);
        }
        if before != after {
            log::info!("{}: {} -> {}", self.words.domain, secondary_phase(before), secondary_phase(after));
        }
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            // The copy's thread waits for the order that follows the event.
            Action::ApplyCheckpoint { .. } => {}
            Action::DropCheckpoint { checkpoint, reason } => {
                if let Some(reason) = reason {
                    self.words.refused(checkpoint, reason, self.refusal.as_deref());
                }
            }
            Action::DropCopy => {
                let _ = self.orders.send(Order::Quit);
            }
            Action::RunFence { generation } => self.run_fence(generation),
            Action::ActivateGuest { checkpoint, generation } => {
                self.activated = Some((checkpoint, generation));
                let _ = self.orders.send(Order::Activate);
                self.reading.cancel();
            }
            Action::CloseLink => {
                self.reading.cancel();
                match &self.outbox {
                    Some(outbox) => outbox.close(),
                    None => self.link.cancel(),
                }
            }
            Action::SendFrame(frame) => {
                if let Control::Active { .. } = frame {
                    self.failpoints.pass(Step::Activating);
                }
                if let Some(outbox) = &self.outbox {
                    let detail = match frame {
                        Control::Refuse { .. } => self.refusal.take().unwrap_or_default(),
                        _ => String::new(),
                    };
                    outbox.send_with(frame, detail.into_bytes());
                }
            }
            Action::AskWitness { generation } => {
                self.failpoints.pass(Step::Asking);
                match &self.witness {
                    Some(witness) => witness.ask(generation),
                    None => log::error!("{}: there is no witness to ask", self.words.domain),
                }
            }
            Action::SetTimer { timer, at } => self.timers.set(timer, at),
            Action::CancelTimer(timer) => self.timers.cancel(timer),
            Action::Notice(notice) => self.words.notice(notice),
        }
    }

    fn run_fence(&mut self, generation: Generation) {
        self.failpoints.pass(Step::Fencing);
        let post = self.post.clone();
        let Some(fence) = self.fence.clone() else {
            log::error!("{}: there is no fencing command", self.words.domain);
            let _ = post.send(Message::Fenced(false));
            return;
        };
        let context = FenceContext {
            domain: self.words.domain.clone(),
            peer: self.words.peer.clone(),
            generation,
            session: self.machine.session(),
        };
        let spawned = thread::Builder::new().name("fence".into()).spawn({
            let post = post.clone();
            move || {
                let fenced = fence.run(&context);
                if let Err(error) = &fenced {
                    log::error!("{}: fencing: {error}", context.domain);
                }
                let _ = post.send(Message::Fenced(fenced.is_ok()));
            }
        });
        if let Err(error) = spawned {
            log::error!("{}: starting the fencing command: {error}", self.words.domain);
            let _ = post.send(Message::Fenced(false));
        }
    }

    fn request(&mut self, request: Request) -> Reply {
        match request {
            Request::Status | Request::Watch { .. } => Reply::status(self.status()),
            Request::Capabilities => Reply::capabilities(Capabilities::OFFERED, Capabilities::OFFERED),
            Request::FailOver { force } => self.command(Command::FailOver { force }),
            Request::SetInterval { .. } | Request::SwitchOver | Request::Protect { .. } | Request::Unprotect { .. } => {
                Reply::error("this side is the secondary: ask the primary")
            }
        }
    }

    fn command(&mut self, command: Command) -> Reply {
        let mut actions = Vec::new();
        self.feed_into(Event::Command(command), &mut actions);
        match actions.iter().any(words::is_not_now) {
            true => Reply::error(format!("cannot be done while {}", secondary_phase(self.machine.phase()))),
            false => Reply::status(self.status()),
        }
    }

    fn status(&self) -> Status {
        self.words.status(&self.machine)
    }

    fn terminate(&mut self) {
        let again = std::mem::replace(&mut self.terminated, true);
        self.feed(Event::Command(Command::Stop));
        if again && !matches!(self.machine.phase(), Phase::Ended(_)) {
            let text = "told to end twice: ending, what was decided stands".to_owned();
            self.words.notices.add(&self.words.domain, Level::Critical, text);
            self.quit = true;
        }
    }
}

/// The reason in words, with what is known of it.
fn refusal(reason: RefuseReason, detail: Option<&str>) -> String {
    match detail {
        Some(detail) => format!("{reason}: {detail}"),
        None => reason.to_string(),
    }
}
