//! The secondary while it serves: the machine, its timers, and what its actions mean here.

use super::copy::{Order, Said};
use super::words::OTHER_VERSION;
use super::{End, Message, Outcome, Survivor, Trouble, words};
use crate::control::capability::{Capability, Setting};
use crate::control::status::secondary_phase;
use crate::control::{Reply, Request, Status};
use crate::remus::secondary::{Action, Command, Event, Phase};
use crate::remus::wire::{Capabilities, Control, Direction, Encoder, Peer, WireError};
use crate::remus::{Generation, Level, RefuseReason, Refused, Secondary, Session, Timer, Timers};
use crate::replicate::clock::Clock;
use crate::replicate::failpoint::{Failpoints, Step};
use crate::replicate::fence::{Fence, FenceContext};
use crate::replicate::held::Finished;
use crate::replicate::link::Outbox;
use crate::replicate::operator::Ask;
use crate::replicate::witness::{Said as WitnessSaid, WitnessThread};
use crate::transport::{Cancel, LinkWriter, Probe};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

pub(super) struct Run<D> {
    pub(super) clock: Clock,
    pub(super) machine: Secondary,
    pub(super) timers: Timers,
    pub(super) orders: Sender<Order>,
    pub(super) post: Sender<Message<D>>,
    /// Until the session is known.
    pub(super) writer: Option<LinkWriter>,
    pub(super) outbox: Option<Outbox>,
    pub(super) link: Cancel,
    pub(super) reading: Cancel,
    pub(super) probe: Probe,
    pub(super) witness: Option<WitnessThread>,
    pub(super) fence: Option<Fence>,
    pub(super) failpoints: Failpoints,
    pub(super) words: words::Words,
    /// Why the checkpoint is refused that is about to be, for the other side's people.
    pub(super) refusal: Option<String>,
    pub(super) on_checkpoint: Option<Box<dyn FnMut(u64) + Send>>,
    pub(super) lost: Instant,
    /// Told once, when the first checkpoint is applied.
    pub(super) on_replica: Option<Box<dyn FnOnce() + Send>>,
    /// The copy is kept, with so much memory; the inner none where there is none any more.
    pub(super) held: Option<Option<u64>>,
    /// Told to end; when to insist on it.
    pub(super) terminated: Option<Instant>,
    /// Told to end twice.
    pub(super) quit: bool,
    /// What the survivor is, once its domain comes.
    pub(super) activated: Option<(u64, Generation)>,
    /// Until when the primary must have said who it is.
    pub(super) greeting: Instant,
}

impl<D: Send + 'static> Run<D> {
    pub(super) fn serve(&mut self, inbox: &Receiver<Message<D>>) -> Result<Finished<Outcome<D>>, Trouble> {
        loop {
            self.insist();
            match self.machine.phase() {
                // The copy's thread may have a checkpoint to apply first.
                Phase::Ended(End::Denied) if self.held.is_none() => {}
                Phase::Ended(End::Denied) => {
                    return Ok(self.held.flatten().map_or(Outcome::Ended(End::CopyLost).into(), Finished::Denied));
                }
                Phase::Ended(end) => return Ok(Outcome::Ended(end).into()),
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

    fn wait(&self) -> Option<Duration> {
        let timer = self.timers.next().map(|at| self.clock.until(at));
        let greeting = Some(self.greeting).filter(|_| self.machine.phase() == Phase::Greeting);
        let insist = self.terminated.filter(|_| self.may_stop());
        let moments = greeting.into_iter().chain(insist);
        timer.into_iter().chain(moments.map(|at| at.saturating_duration_since(Instant::now()))).min()
    }

    fn expire(&mut self) {
        if self.machine.phase() == Phase::Greeting && Instant::now() >= self.greeting {
            return self.feed(Event::LinkLost);
        }
        while let Some(timer) = self.timers.expired(self.clock.now()) {
            if timer == Timer::Peer {
                let (read, unread) = (self.clock.now().before(self.probe.silence()), self.probe.has_input());
                self.feed(Event::Heard { read, unread });
            }
            self.feed(Event::Timer(timer));
        }
    }

    /// Ends both directions, and unless the copy is kept its thread. `wait`: until what is to be said has been sent, for the process may
    /// end next.
    pub(super) fn shut(&mut self, wait: bool, keep: bool) {
        if let Some(outbox) = self.outbox.take() {
            outbox.close();
            if wait {
                outbox.closed();
            }
        } else {
            self.link.cancel();
        }
        if !keep {
            let _ = self.orders.send(Order::Quit);
        }
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
            Message::Witness(WitnessSaid::Answer(answer)) => self.feed(Event::Witness(answer)),
            Message::Witness(WitnessSaid::Looked(looked)) => {
                // Before its first checkpoint this side may not have been told the session's.
                let known = self.machine.newest().map(|_| self.machine.generation());
                if let Some((level, text)) = self.words.alarm.looked(looked, known) {
                    self.words.notices.add(&self.words.domain, level, text);
                }
            }
            Message::Witness(WitnessSaid::Behind) => self.feed(Event::WitnessBehind),
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
            Message::Ask(Ask::Unmet) => {
                if self.machine.phase() == Phase::Greeting {
                    self.feed(Event::LinkLost);
                }
            }
            Message::Ask(Ask::Terminate) => self.terminate(),
        }
        Ok(None)
    }

    fn said(&mut self, said: Said<D>) -> Result<Option<Outcome<D>>, Trouble> {
        match said {
            Said::Frame(session, frame) => {
                if let Control::Hello(_) = frame {
                    self.speak(session)?;
                }
                if let Control::SwitchOver { .. } = frame {
                    self.lost = Instant::now();
                }
                self.feed(Event::Frame { session, frame });
                if matches!(frame, Control::Hello(_)) {
                    self.failpoints.pass(Step::Welcomed);
                }
                if let Control::Begin { .. } = frame
                    && let (Some(witness), Phase::Passive) = (&self.witness, self.machine.phase())
                {
                    witness.compare(self.machine.generation());
                }
            }
            Said::Checkpoint { session, number, verdict, text, figures } => {
                self.refusal = (!text.is_empty()).then_some(text);
                let before = self.machine.newest();
                self.feed(Event::Checkpoint { session, number, verdict });
                let taken = self.machine.newest() == Some(number) && before != Some(number);
                if taken {
                    self.words.last = Some(Instant::now());
                    if let Some(tell) = &mut self.on_checkpoint {
                        tell(number);
                    }
                    self.words.statistics.arrived(figures.pages, figures.bytes);
                }
                let _ = self.orders.send(if taken { Order::Apply } else { Order::Drop });
            }
            Said::Damaged { reason, text } => {
                self.refusal = Some(text);
                self.feed(Event::Damaged { reason });
            }
            Said::Garbled(error @ WireError::Version { .. }) if self.machine.phase() == Phase::Greeting => {
                let text = format!("{error}: {OTHER_VERSION}");
                self.words.notices.add(&self.words.domain, Level::Critical, text);
                self.speak(Session::default())?;
                self.feed(Event::OtherVersion);
            }
            Said::Garbled(error) => {
                self.refusal = Some(error.to_string());
                self.feed(Event::Garbled);
            }
            Said::Ended => {
                self.feed(Event::LinkLost);
            }
            Said::Applied { number, took } => {
                self.words.statistics.applied(took);
                if let Some(tell) = self.on_replica.take() {
                    tell();
                }
                self.feed(Event::Applied { checkpoint: number });
            }
            Said::ApplyFailed { number, text } => {
                log::error!("{}: checkpoint {number} could not be applied: {text}", self.words.domain);
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
            Said::Held(memory) => self.held = Some(memory),
        }
        Ok(None)
    }

    /// Opens the back channel, once.
    fn speak(&mut self, session: Session) -> Result<(), Trouble> {
        if let Some(writer) = self.writer.take_if(|_| self.outbox.is_none()) {
            let post = self.post.clone();
            let encoder = Encoder::new(session, Direction::Backward);
            let farewell = self.machine.config().timeout;
            self.outbox = Some(Outbox::start(writer, Some(encoder), self.link.clone(), farewell, move |error| {
                let _ = post.send(Message::WriteFailed(error));
            })?);
        }
        Ok(())
    }

    fn feed(&mut self, event: Event) {
        let before = self.machine.phase();
        let mut actions = Vec::new();
        self.machine.handle(self.clock.now(), event, &mut actions);
        self.carry_out_all(before, &actions);
    }

    fn obey(&mut self, command: Command) -> Result<(), Refused> {
        let before = self.machine.phase();
        let mut actions = Vec::new();
        self.machine.command(self.clock.now(), command, &mut actions)?;
        self.carry_out_all(before, &actions);
        Ok(())
    }

    fn carry_out_all(&mut self, before: Phase, actions: &[Action]) {
        let after = self.machine.phase();
        if before == Phase::Passive && after != Phase::Passive {
            self.lost = Instant::now();
        }
        for action in actions {
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
            Action::KeepCopy => {
                let _ = self.orders.send(Order::Hold);
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
                    Some(witness) => witness.ask(generation, self.machine.session()),
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
            Request::Capabilities => Reply::capabilities(Capabilities::OFFERED, self.machine.capabilities()),
            Request::FailOver { generation: Some(_), .. } => Reply::error(words::NOTHING_DENIED),
            Request::FailOver { force, generation: None } => self.command(Command::FailOver { force }),
            Request::SetCapability { name, on } => {
                let (offered, used) = (Capabilities::OFFERED, self.machine.capabilities());
                match Capability::set(&name, on, offered, used) {
                    Setting::Already => Reply::status(self.status()),
                    Setting::Unprotect => Reply::error("this side is the secondary: ask the primary"),
                    Setting::Fixed(text) | Setting::Unknown(text) => Reply::error(text),
                }
            }
            Request::Drop => Reply::error(words::NOTHING_DENIED),
            Request::SetInterval { .. } | Request::SwitchOver | Request::Protect { .. } | Request::Unprotect { .. } => {
                Reply::error("this side is the secondary: ask the primary")
            }
        }
    }

    fn command(&mut self, command: Command) -> Reply {
        match self.obey(command) {
            Err(Refused::Phase) => {
                Reply::error(format!("cannot be done while {}", secondary_phase(self.machine.phase())))
            }
            Err(refused) => Reply::error(refused.to_string()),
            Ok(()) => Reply::status(self.status()),
        }
    }

    fn status(&self) -> Status {
        self.words.status(&self.machine)
    }

    fn terminate(&mut self) {
        if self.terminated.replace(Instant::now()).is_some() && !matches!(self.machine.phase(), Phase::Ended(_)) {
            let text = "told to end twice: ending, what was decided stands".to_owned();
            self.words.notices.add(&self.words.domain, Level::Critical, text);
            self.quit = true;
        }
    }

    const fn may_stop(&self) -> bool {
        matches!(self.machine.phase(), Phase::Greeting | Phase::Passive | Phase::Lost)
    }

    /// What is asked for while something is being decided has no effect, so it is asked for again.
    fn insist(&mut self) {
        if self.may_stop() && self.terminated.is_some_and(|at| at <= Instant::now()) {
            self.terminated = Some(Instant::now() + self.machine.config().timeout);
            // Asked for again until it can be done.
            let _ = self.obey(Command::Stop);
        }
    }
}

/// The reason in words, with what is known of it.
pub(super) fn refusal(reason: RefuseReason, detail: Option<&str>) -> String {
    match detail {
        Some(detail) => format!("{reason}: {detail}"),
        None => reason.to_string(),
    }
}
