//! The secondary while it serves: the machine, its timers, and what its actions mean here.
#![forbid(unsafe_code)]

use super::copy::{Housed, Order, Said};
use super::listen::Heard;
use super::{Message, Outcome, Survivor, Trouble, words};
use crate::colo::secondary::{Action, Command, End, Event, Phase};
use crate::colo::{Config, Secondary};
use crate::control::{Reply, Request};
use crate::remus::wire::Capabilities;
use crate::remus::{Generation, Level, Refused, Session, Timer, Timers};
use crate::replicate::clock::Clock;
use crate::replicate::colo::Times;
use crate::replicate::colo::frame::Lane;
use crate::replicate::colo::hello::{Hello, Unsuited};
use crate::replicate::colo::inlet::Inlet;
use crate::replicate::colo::pipe::Pipe;
use crate::replicate::failpoint::{Failpoints, Step};
use crate::replicate::fence::{Fence, FenceContext};
use crate::replicate::held::Finished;
use crate::replicate::operator::Ask;
use crate::replicate::secondary::NOTHING_DENIED;
use crate::replicate::witness::{Said as WitnessSaid, WitnessThread};
use crate::transport::{Cancel, Probe, is_cancelled};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

pub(super) struct Run<D> {
    pub clock: Clock,
    /// Once the session is known.
    pub machine: Option<Secondary>,
    pub config: Config,
    pub ours: Hello,
    pub timers: Timers,
    pub inlet: Inlet<Order>,
    /// Those of one event.
    pub orders: Vec<Order>,
    pub post: Sender<Message<D>>,
    pub pipe: Pipe,
    pub reading: Cancel,
    pub probe: Probe,
    pub times: Times,
    /// Bytes of the stream that have arrived.
    pub arrived: Arc<AtomicU64>,
    pub witness: Option<WitnessThread>,
    pub fence: Option<Fence>,
    pub failpoints: Failpoints,
    pub words: words::Words,
    pub on_checkpoint: Option<Box<dyn FnMut(u64) + Send>>,
    pub lost: Instant,
    /// What the survivor is, once its domain comes.
    pub activated: Option<(u64, Generation)>,
    pub unsuited: Option<String>,
    /// The copy is kept, with so much memory; the inner none where there is none any more.
    pub held: Option<Option<u64>>,
    /// Told to end; when to insist on it.
    pub terminated: Option<Instant>,
    pub quit: bool,
    /// Until when the primary must have said what the session is.
    pub greeting: Instant,
}

impl<D: Send + 'static> Run<D> {
    pub(super) fn serve(&mut self, inbox: &Receiver<Message<D>>) -> Result<Finished<Outcome<D>>, Trouble> {
        loop {
            self.insist();
            if let Some(text) = self.unsuited.take() {
                return Ok(Outcome::Unsuited(text).into());
            }
            match self.phase() {
                // The copy's thread may have a checkpoint to load first.
                Some(Phase::Ended(End::Denied)) if self.held.is_none() => {}
                Some(Phase::Ended(End::Denied)) => {
                    return Ok(self.held.flatten().map_or(Outcome::Ended(End::CopyLost).into(), Finished::Denied));
                }
                Some(Phase::Ended(end)) => return Ok(Outcome::Ended(end).into()),
                _ => {}
            }
            if self.quit {
                return Ok(Outcome::Ended(End::Stopped).into());
            }
            let message = match self.wait() {
                None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(wait) => inbox.recv_timeout(wait),
            };
            match message {
                Ok(message) => {
                    if let Some(outcome) = self.take(message)? {
                        return Ok(outcome.into());
                    }
                }
                Err(RecvTimeoutError::Timeout) => self.expire(),
                // This value holds a sender.
                Err(RecvTimeoutError::Disconnected) => return Ok(Outcome::Ended(End::Stopped).into()),
            }
        }
    }

    fn phase(&self) -> Option<Phase> {
        self.machine.as_ref().map(Secondary::phase)
    }

    fn wait(&self) -> Option<Duration> {
        let timer = self.timers.next().map(|at| self.clock.until(at));
        let greeting = Some(self.greeting).filter(|_| self.machine.is_none());
        let moments = greeting.into_iter().chain(self.terminated.filter(|_| self.may_stop()));
        timer.into_iter().chain(moments.map(|at| at.saturating_duration_since(Instant::now()))).min()
    }

    /// The session is known: from now on the image is waited for, and not for ever.
    pub(super) fn begin(&mut self, generation: Generation) {
        let config = Config { timeout: self.times.timeout, ..self.config };
        self.machine = Some(Secondary::new(config, generation));
        self.timers.set(Timer::Answer, self.clock.now().after(self.config.answer));
        if self.words.framed {
            self.feed(Event::Beats);
            self.beat();
        }
    }

    fn beat(&mut self) {
        self.pipe.post(Lane::Beat, Vec::new());
        self.timers.set(Timer::Heartbeat, self.clock.now().after(self.times.heartbeat));
    }

    fn expire(&mut self) {
        if self.machine.is_none() && Instant::now() >= self.greeting {
            self.unsuited = Some("the primary has not said what the session is".into());
            return;
        }
        while let Some(timer) = self.timers.expired(self.clock.now()) {
            match timer {
                Timer::Heartbeat => self.beat(),
                timer => {
                    self.report(timer);
                    self.feed(Event::Timer(timer));
                }
            }
        }
    }

    /// What the link shows, where the machine decides by it whether a deadline counts.
    fn report(&mut self, timer: Timer) {
        match timer {
            Timer::Peer => {
                let (read, unread) = (self.clock.now().before(self.probe.silence()), self.probe.has_input());
                self.feed(Event::Heard { read, unread });
            }
            Timer::Answer => self.feed(Event::Progress { bytes: self.arrived.load(Ordering::Relaxed) }),
            _ => {}
        }
    }

    fn take(&mut self, message: Message<D>) -> Result<Option<Outcome<D>>, Trouble> {
        match message {
            Message::Said(said) => return self.said(said),
            Message::Heard(Heard::Hello(bytes)) => self.hello(&bytes),
            Message::Heard(Heard::Refused(text)) => {
                if self.machine.is_none() {
                    self.unsuited = Some(format!("the primary refuses: {}", text.escape_debug()));
                }
            }
            Message::Heard(Heard::Garbled(error, text)) => {
                self.trouble(text);
                if self.machine.is_none() {
                    self.unsuited = Some(error.to_string());
                }
                self.feed(Event::Garbled(error));
            }
            Message::Heard(Heard::Goodbye) => self.feed(Event::Dismissed),
            Message::WriteFailed(error) => self.write_failed(&error),
            Message::Witness(WitnessSaid::Answer(answer)) => self.feed(Event::Witness(answer)),
            Message::Witness(WitnessSaid::Looked(looked)) => {
                // Before its first checkpoint this side may not have been told the session's.
                let known =
                    self.machine.as_ref().filter(|machine| machine.checkpoints().1 > 0).map(Secondary::generation);
                if let Some((level, text)) = self.words.alarm.looked(looked, known) {
                    self.words.notices.add(&self.words.domain, level, text);
                }
            }
            Message::Witness(WitnessSaid::Behind) => {
                let text = "the witness here does not know of this session's generation, so it is not the primary's: \
                            compare --witness on both, and whether the folder is mounted";
                self.trouble(text.into());
                self.refuse("another witness".into());
            }
            Message::Fenced(success) => self.feed(Event::Fenced { success }),
            Message::Ask(Ask::Request(request, answer)) => {
                let reply = self.request(request);
                // Who asked may be gone.
                let _ = answer.send(reply);
            }
            Message::Ask(Ask::Unmet) => {
                if self.machine.is_none() {
                    self.unsuited = Some("the primary has not said what the session is, and another one waits".into());
                }
            }
            Message::Ask(Ask::Terminate) => self.terminate(),
        }
        Ok(None)
    }

    fn hello(&mut self, bytes: &[u8]) {
        if self.machine.is_some() {
            return;
        }
        let agreed =
            self.ours.suits(bytes, self.config.rule).and_then(|theirs| theirs.session.ok_or(Unsuited::Session));
        match agreed {
            Ok(session) => {
                self.config.mode = session.mode();
                self.config.period = Duration::from_millis(session.period_ms);
                if let Err(error) = self.config.validate() {
                    return self.refuse(error.to_string());
                }
                let generation = Generation(session.generation);
                if let Some(witness) = &self.witness {
                    witness.compare(generation);
                }
                self.failpoints.pass(Step::Welcomed);
                self.begin(generation);
            }
            Err(unsuited) => self.refuse(unsuited.to_string()),
        }
    }

    fn refuse(&mut self, text: String) {
        self.pipe.post(Lane::Refuse, text.clone().into_bytes());
        self.unsuited = Some(format!("the two sides do not suit: {text}"));
    }

    fn write_failed(&mut self, error: &io::Error) {
        if !is_cancelled(error) {
            log::warn!("{}: writing to the primary: {error}", self.words.domain);
        }
        // What has been read already comes first, and so does the end that reading will find.
        self.reading.cancel();
    }

    fn trouble(&mut self, text: String) {
        self.words.notices.add(&self.words.domain, Level::Critical, text);
    }

    fn said(&mut self, said: Said<Housed<D>>) -> Result<Option<Outcome<D>>, Trouble> {
        match said {
            Said::Message(message) => self.feed(Event::Message(message)),
            Said::Garbled(error) => self.feed(Event::Garbled(error)),
            Said::Ended => {
                if self.machine.is_none() {
                    return Ok(Some(Outcome::Ended(End::Empty)));
                }
                self.feed(Event::LinkLost);
            }
            Said::Received { checkpoint, pages, bytes } => {
                self.words.statistics.arrived(pages, bytes);
                self.feed(Event::StateReceived { checkpoint });
            }
            Said::Damaged(text) => {
                self.trouble(format!("the stream: {text}"));
                self.feed(Event::StateDamaged);
            }
            Said::Loaded { checkpoint, took } => {
                self.words.statistics.applied(took);
                self.words.last = Some(Instant::now());
                if let Some(tell) = &mut self.on_checkpoint {
                    tell(checkpoint);
                }
                self.feed(Event::Loaded { checkpoint });
            }
            Said::Suspended => self.feed(Event::GuestSuspended),
            Said::Resumed => self.feed(Event::GuestResumed),
            Said::Failed(text) => {
                self.trouble(text);
                self.feed(Event::CopyFailed);
                if matches!(self.phase(), Some(Phase::Session(_) | Phase::Lost)) {
                    // The machine knows of no such failure between two steps.
                    return Ok(Some(Outcome::Ended(End::CopyLost)));
                }
            }
            Said::WriteFailed(error) => self.write_failed(&error),
            Said::Survivor(housed) => {
                self.failpoints.pass(Step::Activated);
                self.feed(Event::Activated);
                let Some((checkpoint, generation)) = self.activated else { return Ok(None) };
                let Housed { domain, card } = *housed;
                drop(card);
                return Ok(Some(Outcome::Survivor(Survivor { domain, checkpoint, generation, lost: self.lost })));
            }
            Said::Held(memory) => self.held = Some(memory),
            Said::Unfit(text) => {
                let generation = self.machine.as_ref().map_or(Generation::default(), Secondary::generation);
                return Err(Trouble::Unfit(text, generation));
            }
        }
        Ok(None)
    }

    fn feed(&mut self, event: Event) {
        let Some(machine) = &mut self.machine else { return };
        let before = machine.phase();
        let mut actions = Vec::new();
        machine.handle(self.clock.now(), event, &mut actions);
        self.carry_out_all(before, &actions);
    }

    fn obey(&mut self, command: Command) -> Result<(), Refused> {
        let Some(machine) = &mut self.machine else { return Err(Refused::Phase) };
        let before = machine.phase();
        let mut actions = Vec::new();
        machine.command(self.clock.now(), command, &mut actions)?;
        self.carry_out_all(before, &actions);
        Ok(())
    }

    fn carry_out_all(&mut self, before: Phase, actions: &[Action]) {
        let after = self.phase().unwrap_or(before);
        if matches!(before, Phase::Session(_)) && !matches!(after, Phase::Session(_)) {
            self.lost = Instant::now();
        }
        let (was, is) = (words::phase_of(before), words::phase_of(after));
        for action in actions {
            self.carry_out(*action);
        }
        self.inlet.order(self.orders.drain(..));
        if was != is {
            log::info!("{}: {was} -> {is}", self.words.domain);
        }
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Send(message) => self.orders.push(Order::Send(message)),
            Action::SendDirtyList => self.orders.push(Order::List),
            // Of QEMU's dialects.
            Action::ReceiveMemory { .. } => {}
            Action::ReceiveState { checkpoint, .. } => self.orders.push(Order::Receive { checkpoint }),
            Action::DropState { .. } => self.orders.push(Order::Drop),
            Action::Load { checkpoint } => self.orders.push(Order::Load { checkpoint }),
            Action::Suspend => self.orders.push(Order::Suspend),
            Action::Resume { epoch } => self.orders.push(Order::Resume { epoch }),
            Action::DropCopy => self.orders.push(Order::Quit),
            Action::KeepCopy => self.orders.push(Order::Hold),
            Action::RunFence { generation } => self.run_fence(generation),
            Action::ActivateGuest { checkpoint, generation } => {
                self.failpoints.pass(Step::Activating);
                self.activated = Some((checkpoint, generation));
                self.orders.push(Order::Activate);
            }
            Action::CloseLink => self.close(),
            Action::AskWitness { generation } => {
                self.failpoints.pass(Step::Asking);
                match &self.witness {
                    Some(witness) => witness.ask(generation, Session::default()),
                    None => self.trouble("there is no witness to ask".into()),
                }
            }
            Action::SetTimer { timer, at } => self.timers.set(timer, at),
            Action::CancelTimer(timer) => self.timers.cancel(timer),
            Action::Notice(notice) => self.words.notice(notice),
        }
    }

    fn close(&mut self) {
        self.pipe.close();
        self.reading.cancel();
        self.timers.cancel(Timer::Heartbeat);
    }

    /// Ends both directions, and unless the copy is kept its thread.
    pub(super) fn shut(&mut self, keep: bool) {
        self.close();
        if !keep {
            self.inlet.order([Order::Quit]);
        }
    }

    fn run_fence(&mut self, generation: Generation) {
        self.failpoints.pass(Step::Fencing);
        let post = self.post.clone();
        let Some(fence) = self.fence.clone() else {
            self.trouble("there is no fencing command".into());
            let _ = post.send(Message::Fenced(false));
            return;
        };
        let context = FenceContext {
            domain: self.words.domain.clone(),
            peer: self.words.peer.clone(),
            generation,
            session: Session::default(),
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
            self.trouble(format!("starting the fencing command: {error}"));
            let _ = post.send(Message::Fenced(false));
        }
    }

    fn request(&mut self, request: Request) -> Reply {
        let status = |run: &Self| Reply::status(run.words.status(run.machine.as_ref(), &run.config));
        match request {
            Request::Status | Request::Watch { .. } => status(self),
            Request::Capabilities => Reply::capabilities(Capabilities::empty(), Capabilities::empty()),
            Request::SetCapability { .. } => Reply::error("COLO has none of the capabilities, which are Remus's"),
            Request::FailOver { generation: Some(_), .. } | Request::Drop => Reply::error(NOTHING_DENIED),
            Request::FailOver { force, generation: None } => match self.obey(Command::FailOver { force }) {
                Err(Refused::Phase) => {
                    Reply::error(format!("cannot be done while {}", words::phase(self.machine.as_ref())))
                }
                Err(refused) => Reply::error(refused.to_string()),
                Ok(()) => status(self),
            },
            Request::SetInterval { .. } | Request::SwitchOver | Request::Protect { .. } | Request::Unprotect { .. } => {
                Reply::error("this side is the secondary: ask the primary")
            }
        }
    }

    fn terminate(&mut self) {
        let ended = matches!(self.phase(), Some(Phase::Ended(_)));
        if self.machine.is_none() || (self.terminated.replace(Instant::now()).is_some() && !ended) {
            self.quit = true;
        }
    }

    fn may_stop(&self) -> bool {
        matches!(self.phase(), Some(Phase::Session(_) | Phase::Lost))
    }

    /// What is asked for while something is being decided has no effect, so it is asked for again.
    fn insist(&mut self) {
        if self.may_stop() && self.terminated.is_some_and(|at| at <= Instant::now()) {
            self.terminated = Some(Instant::now() + self.times.timeout);
            // Asked for again until it can be done.
            let _ = self.obey(Command::Stop);
        }
    }
}
