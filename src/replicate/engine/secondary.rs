//! A secondary's loop: from a connection to a survivor, to a replica that is kept, or to nothing.

use super::replica::Keeping;
use super::told::Told;
use super::words;
use crate::claim::Stage;
use crate::protocol::secondary::{Action, Event};
use crate::protocol::{self, Generation, Session, Time, Timer, Timers};
use crate::remus::wire::Capabilities;
use crate::replicate::capability::{Capability, Setting};
use crate::replicate::clock::Clock;
use crate::replicate::failpoint::{Failpoints, Step};
use crate::replicate::fence::{Fence, FenceContext};
use crate::replicate::held::{Facts, Finished, Held};
use crate::replicate::operator::{self, Answer, Ask, Command, Refused, millis_since};
use crate::replicate::stats::Statistics;
use crate::replicate::status::{Output, Role, Status};
use crate::replicate::witness::{Said, WitnessThread};
use crate::transport::{Cancel, Probe, is_cancelled};
use crate::witness::Witness;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

pub use super::outcome::{Outcome, Survivor, Trouble};
pub(in crate::replicate) use super::replica::{Last, Order, Orders};

/// How long what a primary sent last may take to be read, once nothing can be written to it: its end comes at once where it has closed.
const DRAIN: Duration = Duration::from_secs(1);

/// Where a secondary is, as far as its loop is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::replicate) enum Standing<E> {
    /// The primary has not said what the session is.
    Greeting,
    /// The take-over's.
    In(Stage),
    /// No part any more.
    Ended(E),
}

/// A protocol's secondary.
pub(in crate::replicate) trait Protocol: Sized + Send {
    /// What becomes of a replica.
    type Domain: Send + 'static;
    /// What its threads report.
    type Report: Send + 'static;
    /// What its machine takes.
    type Event: From<Event>;
    /// What its machine gives.
    type Action: Copy;
    /// Why it ends.
    type End: Copy + PartialEq;
    /// The way to its replica's thread.
    type Orders: Orders;

    /// The replica was lost.
    const LOST: Self::End;
    /// The operator asked for it.
    const STOPPED: Self::End;

    /// The way to the replica's thread.
    fn orders(&self) -> Self::Orders;
    /// Gives an order, in its place among those of the event under way.
    fn order(&mut self, order: Order) {
        self.orders().order(order);
    }
    /// Where it is.
    fn standing(&self) -> Standing<Self::End>;
    /// The same in a word.
    fn phase(&self) -> &'static str;
    /// The session, where the protocol names it.
    fn session(&self) -> Session;
    /// The newest generation it holds, or that of the session.
    fn generation(&self) -> Generation;
    /// The newest checkpoint that it could go on from.
    fn newest(&self) -> Option<u64>;
    /// What it offers, and what the session has.
    fn capabilities(&self) -> (Capabilities, Capabilities);
    /// How it is; what the loop knows is filled in.
    fn status(&self, common: Status) -> Status;

    /// Feeds the machine.
    fn handle(&mut self, now: Time, event: Self::Event, actions: &mut Vec<Self::Action>);
    /// Asks the machine to go active.
    fn fail_over(&mut self, now: Time, force: bool, actions: &mut Vec<Self::Action>) -> Result<(), protocol::Refused>;
    /// Asks the machine to end.
    fn stop(&mut self, now: Time, actions: &mut Vec<Self::Action>) -> Result<(), protocol::Refused>;

    /// Takes what a thread has reported.
    ///
    /// # Errors
    /// [`Trouble`]: there is no session to be had.
    fn take(run: &mut Run<Self>, report: Self::Report) -> Result<(), Trouble>;
    /// Does what its machine wants.
    fn carry_out(run: &mut Run<Self>, action: Self::Action);
    /// All actions of an event are carried out.
    fn carried_out(&mut self) {}
    /// The guest is about to be activated.
    fn activating(run: &mut Run<Self>);
    /// A timer of the protocol's own is due: true when that is all.
    fn due(_run: &mut Run<Self>, _timer: Timer) -> bool {
        false
    }
    /// Nobody has said what the session is, in time or before `another` primary came.
    fn unmet(run: &mut Run<Self>, another: bool);
    /// The witness does not know of the session's generation.
    fn witness_behind(run: &mut Run<Self>);
    /// Closes the connection, once what is to be said has been sent. Does not wait.
    fn close(run: &mut Run<Self>);
    /// The same at the end; `wait`: until it is closed, for the process may end next.
    fn closed(_run: &mut Run<Self>, _wait: bool) {}
}

/// How a protocol's secondary ended.
type Over<P> = Outcome<<P as Protocol>::Domain, <P as Protocol>::End>;

/// What the loop is sent.
pub(in crate::replicate) enum Message<P: Protocol> {
    Report(P::Report),
    Last(Last<P::Domain>),
    Witness(Said),
    Fenced(bool),
    WriteFailed(io::Error),
    Ask(Ask),
}

impl<P: Protocol> From<Ask> for Message<P> {
    fn from(ask: Ask) -> Self {
        Message::Ask(ask)
    }
}

/// Where the loop's messages come in.
pub(in crate::replicate) type Mailbox<P> = super::mailbox::Mailbox<Message<P>>;

/// What a loop needs to know.
pub(in crate::replicate) struct Setup {
    /// The domain's name.
    pub domain: String,
    /// Where the primary was connected from.
    pub peer: String,
    /// Who may be active alone.
    pub witness: Option<Box<dyn Witness>>,
    /// The command that makes sure of the primary's death.
    pub fence: Option<Fence>,
    /// Between two tries of the witness.
    pub retry: Duration,
    /// How long the primary may take to say what the session is.
    pub answer: Duration,
    /// Silence after which the primary counts as lost.
    pub timeout: Duration,
    /// Calls off what is being read.
    pub reading: Cancel,
    /// What the link shows of its peer.
    pub probe: Probe,
    /// Where tests let this process die.
    pub failpoints: Failpoints,
    /// Told of each checkpoint that this side could go on from.
    pub on_checkpoint: Option<Box<dyn FnMut(u64) + Send>>,
}

/// The loop.
pub(in crate::replicate) struct Run<P: Protocol> {
    pub clock: Clock,
    pub protocol: P,
    pub timers: Timers,
    pub post: Sender<Message<P>>,
    pub reading: Cancel,
    probe: Probe,
    pub witness: Option<WitnessThread>,
    fence: Option<Fence>,
    pub failpoints: Failpoints,
    pub told: Told,
    pub statistics: Statistics,
    /// When the newest checkpoint came.
    last: Option<Instant>,
    on_checkpoint: Option<Box<dyn FnMut(u64) + Send>>,
    pub lost: Instant,
    timeout: Duration,
    /// Until when the primary must have said what the session is.
    greeting: Instant,
    /// What the survivor is, once its domain comes.
    activated: Option<(u64, Generation)>,
    /// The replica is kept, with so much memory; the inner none where there is none any more.
    held: Option<Option<u64>>,
    /// The session has ended otherwise than by its machine.
    pub over: Option<Over<P>>,
    /// Told to end; when to insist on it.
    terminated: Option<Instant>,
    /// Nothing can be written any more: until when what is still to be read is waited for.
    unread: Option<Instant>,
}

impl<P: Protocol + 'static> Run<P> {
    pub fn new(setup: Setup, mailbox: &Mailbox<P>, protocol: P) -> io::Result<Self> {
        let Setup { domain, peer, witness, fence, retry, answer, timeout, reading, probe, failpoints, on_checkpoint } =
            setup;
        let (witness, described) = WitnessThread::start_any(witness, retry, mailbox.post(Message::Witness))?;
        let told = Told::new(domain, Role::Secondary, Some(peer), described);
        Ok(Run {
            clock: Clock::start(),
            protocol,
            timers: Timers::default(),
            post: mailbox.post.clone(),
            reading,
            probe,
            witness,
            fence,
            failpoints,
            told,
            statistics: Statistics::default(),
            last: None,
            on_checkpoint,
            lost: Instant::now(),
            timeout,
            greeting: Instant::now() + answer,
            activated: None,
            held: None,
            over: None,
            terminated: None,
            unread: None,
        })
    }

    /// Serves until it is decided what becomes of the replica, which `thread` has.
    pub fn run(mut self, mailbox: Mailbox<P>, thread: JoinHandle<()>) -> Result<Over<P>, Trouble> {
        let finished = self.serve(&mailbox.inbox);
        let (ended, denied) = match &finished {
            Ok(Finished::Over(outcome)) => (!matches!(outcome, Outcome::Survivor(_)), None),
            Ok(Finished::Denied(memory)) => (true, Some(*memory)),
            Err(_) => (false, None),
        };
        P::close(&mut self);
        P::closed(&mut self, ended);
        self.reading.cancel();
        let keeping = Keeping(self.protocol.orders());
        if let Some(memory) = denied {
            let facts = Facts {
                checkpoint: self.protocol.newest().unwrap_or_default(),
                session: self.protocol.session(),
                newest: self.protocol.generation(),
                memory,
                peer: self.told.peer.clone().unwrap_or_default(),
                since: Instant::now(),
                date: SystemTime::now(),
            };
            let activate = Box::new(move || activate(&keeping, &mailbox.inbox));
            return Ok(Outcome::Denied(Held::new(facts, activate, thread)));
        }
        drop(keeping);
        drop(self);
        if thread.join().is_err() {
            log::error!("the copy's thread has panicked");
        }
        match finished? {
            Finished::Over(outcome) => Ok(outcome),
            // Seen to above.
            Finished::Denied(_) => Ok(Outcome::Ended(P::LOST)),
        }
    }

    fn serve(&mut self, inbox: &Receiver<Message<P>>) -> Result<Finished<Over<P>>, Trouble> {
        loop {
            self.insist();
            if let Some(outcome) = self.over.take() {
                return Ok(outcome.into());
            }
            match (self.protocol.standing(), self.held) {
                // The replica's thread may have a checkpoint to load first.
                (Standing::In(Stage::Denied), None) => {}
                (Standing::In(Stage::Denied), Some(Some(memory))) => return Ok(Finished::Denied(memory)),
                (Standing::In(Stage::Denied), Some(None)) => return Ok(Outcome::Ended(P::LOST).into()),
                (Standing::Ended(end), _) => return Ok(Outcome::Ended(end).into()),
                _ => {}
            }
            let message = match self.wait() {
                None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(wait) => inbox.recv_timeout(wait),
            };
            match message {
                Ok(message) => self.take(message)?,
                Err(RecvTimeoutError::Timeout) => self.expire(),
                // This value holds a sender.
                Err(RecvTimeoutError::Disconnected) => return Ok(Outcome::Ended(P::STOPPED).into()),
            }
        }
    }

    pub fn is_greeting(&self) -> bool {
        self.protocol.standing() == Standing::Greeting
    }

    fn wait(&self) -> Option<Duration> {
        let timer = self.timers.next().map(|at| self.clock.until(at));
        let greeting = Some(self.greeting).filter(|_| self.is_greeting());
        let moments = greeting.into_iter().chain(self.terminated.filter(|_| self.may_stop())).chain(self.unread);
        timer.into_iter().chain(moments.map(|at| at.saturating_duration_since(Instant::now()))).min()
    }

    fn expire(&mut self) {
        if self.unread.take_if(|at| *at <= Instant::now()).is_some() {
            self.reading.cancel();
        }
        if self.is_greeting() && Instant::now() >= self.greeting {
            return P::unmet(self, false);
        }
        while let Some(timer) = self.timers.expired(self.clock.now()) {
            if timer == Timer::Peer {
                // What the link shows, where the machine decides by it whether a deadline counts.
                let (read, unread) = (self.clock.now().before(self.probe.silence()), self.probe.has_input());
                self.feed(Event::Heard { read, unread });
            }
            if !P::due(self, timer) {
                self.feed(Event::Timer(timer));
            }
        }
    }

    fn take(&mut self, message: Message<P>) -> Result<(), Trouble> {
        match message {
            Message::Report(report) => P::take(self, report)?,
            Message::Last(last) => self.last(last)?,
            Message::Witness(Said::Answer(answer)) => self.feed(Event::Witness(answer)),
            Message::Witness(Said::Looked(looked)) => {
                // Before its first checkpoint this side may not have been told the session's.
                let known = self.protocol.newest().map(|_| self.protocol.generation());
                self.told.looked(looked, known);
            }
            Message::Witness(Said::Behind) => P::witness_behind(self),
            Message::Fenced(success) => self.feed(Event::Fenced { success }),
            Message::WriteFailed(error) => self.write_failed(&error),
            Message::Ask(Ask::Command(command, answer)) => {
                // Who asked may be gone.
                let _ = answer.send(self.asked(command));
            }
            Message::Ask(Ask::Unmet) => {
                if self.is_greeting() {
                    P::unmet(self, true);
                }
            }
            Message::Ask(Ask::Terminate) => self.terminate(),
        }
        Ok(())
    }

    pub fn write_failed(&mut self, error: &io::Error) {
        if !is_cancelled(error) {
            log::warn!("{}: writing to the primary: {error}", self.told.domain);
        }
        // A primary that has closed its end may have said goodbye before, and that is still to be read, as is the end.
        self.unread.get_or_insert(Instant::now() + DRAIN);
    }

    fn last(&mut self, last: Last<P::Domain>) -> Result<(), Trouble> {
        match last {
            Last::Survivor(domain) => {
                self.failpoints.pass(Step::Activated);
                self.feed(Event::Activated);
                if let Some((checkpoint, generation)) = self.activated {
                    let survivor = Survivor { domain: *domain, checkpoint, generation, lost: self.lost };
                    self.over = Some(Outcome::Survivor(survivor));
                }
                Ok(())
            }
            Last::Unfit(text) => Err(Trouble::Unfit(text, self.protocol.generation())),
            Last::Held(memory) => {
                self.held = Some(memory);
                Ok(())
            }
        }
    }

    /// A checkpoint is whole here: this side could go on from it.
    pub fn whole(&mut self, checkpoint: u64) {
        self.last = Some(Instant::now());
        if let Some(tell) = &mut self.on_checkpoint {
            tell(checkpoint);
        }
    }

    pub fn feed(&mut self, event: impl Into<P::Event>) {
        let before = (self.protocol.standing(), self.protocol.phase());
        let mut actions = Vec::new();
        self.protocol.handle(self.clock.now(), event.into(), &mut actions);
        self.carry_out_all(before, &actions);
    }

    fn obey(
        &mut self,
        command: impl FnOnce(&mut P, Time, &mut Vec<P::Action>) -> Result<(), protocol::Refused>,
    ) -> Result<(), protocol::Refused> {
        let before = (self.protocol.standing(), self.protocol.phase());
        let mut actions = Vec::new();
        command(&mut self.protocol, self.clock.now(), &mut actions)?;
        self.carry_out_all(before, &actions);
        Ok(())
    }

    fn carry_out_all(&mut self, before: (Standing<P::End>, &'static str), actions: &[P::Action]) {
        let (standing, after) = (self.protocol.standing(), self.protocol.phase());
        let following = Standing::In(Stage::Following);
        if before.0 == following && standing != following {
            self.lost = Instant::now();
        }
        for action in actions {
            P::carry_out(self, *action);
        }
        self.protocol.carried_out();
        if before.1 != after {
            log::info!("{}: {} -> {after}", self.told.domain, before.1);
        }
    }

    /// What every secondary's machine may want.
    pub fn carry_out(&mut self, action: Action) {
        match action {
            Action::DropReplica => self.protocol.order(Order::Quit),
            Action::KeepReplica => self.protocol.order(Order::Hold),
            Action::RunFence { generation } => self.run_fence(generation),
            Action::ActivateGuest { checkpoint, generation } => {
                P::activating(self);
                self.activated = Some((checkpoint, generation));
                self.protocol.order(Order::Activate);
            }
            Action::CloseLink => P::close(self),
            Action::AskWitness { generation } => {
                self.failpoints.pass(Step::Asking);
                match &self.witness {
                    Some(witness) => witness.ask(generation, self.protocol.session()),
                    None => self.told.trouble("there is no witness to ask"),
                }
            }
            Action::SetTimer { timer, at } => self.timers.set(timer, at),
            Action::CancelTimer(timer) => self.timers.cancel(timer),
            Action::Notice(notice) => self.told.notice(notice.level, words::secondary(notice.code)),
        }
    }

    fn run_fence(&mut self, generation: Generation) {
        self.failpoints.pass(Step::Fencing);
        let post = self.post.clone();
        let Some(fence) = self.fence.clone() else {
            self.told.trouble("there is no fencing command");
            let _ = post.send(Message::Fenced(false));
            return;
        };
        let context = FenceContext {
            domain: self.told.domain.clone(),
            peer: self.told.peer.clone().unwrap_or_default(),
            generation,
            session: self.protocol.session(),
        };
        let answer = post.clone();
        let started = fence.start(context, move |success| {
            let _ = answer.send(Message::Fenced(success));
        });
        if let Err(error) = started {
            self.told.trouble(format!("starting the fencing command: {error}"));
            let _ = post.send(Message::Fenced(false));
        }
    }

    fn status(&self) -> Status {
        self.protocol.status(Status {
            output: Output::Held,
            since_last_ms: self.last.map(millis_since),
            fence: self.fence.is_some(),
            ..self.told.status(&self.statistics)
        })
    }

    fn asked(&mut self, command: Command) -> Result<Answer, Refused> {
        let (offered, in_use) = self.protocol.capabilities();
        let obeyed = match command {
            Command::Status => Ok(()),
            Command::Capabilities => return Ok(Answer::Capabilities { offered, in_use }),
            Command::FailOver { generation: Some(_), .. } | Command::Drop => return Err(Refused::NothingDenied),
            Command::FailOver { force, generation: None } => {
                self.obey(|protocol, now, actions| protocol.fail_over(now, force, actions))
            }
            Command::SetCapability { .. } if offered.is_empty() => return Err(operator::NO_CAPABILITIES),
            Command::SetCapability { name, on } => match Capability::set(&name, on, offered, in_use) {
                Setting::Already => Ok(()),
                Setting::Unprotect => return Err(Refused::Secondary),
                Setting::Fixed(text) | Setting::Unknown(text) => return Err(Refused::Capability(text)),
            },
            _ => return Err(Refused::Secondary),
        };
        let phase = self.protocol.phase();
        obeyed.map(|()| self.status().into()).map_err(|refused| Refused::in_phase(refused, phase))
    }

    fn terminate(&mut self) {
        let ended = matches!(self.protocol.standing(), Standing::Ended(_) | Standing::In(Stage::Denied));
        if self.terminated.replace(Instant::now()).is_some() && !ended {
            self.told.trouble("told to end twice: ending, what was decided stands");
            self.over = Some(Outcome::Ended(P::STOPPED));
        }
    }

    fn may_stop(&self) -> bool {
        matches!(self.protocol.standing(), Standing::Greeting | Standing::In(Stage::Following | Stage::Waiting))
    }

    /// What is asked for while something is being decided has no effect, so it is asked for again.
    fn insist(&mut self) {
        if self.may_stop() && self.terminated.is_some_and(|at| at <= Instant::now()) {
            self.terminated = Some(Instant::now() + self.timeout);
            // Asked for again until it can be done.
            let _ = self.obey(P::stop);
        }
    }
}

/// Has the replica's thread give its domain away.
fn activate<P: Protocol>(keeping: &Keeping<P::Orders>, inbox: &Receiver<Message<P>>) -> Result<P::Domain, String> {
    keeping.0.order(Order::Activate);
    loop {
        match inbox.recv().map_err(|_| "the copy's thread has ended".to_owned())? {
            Message::Last(Last::Survivor(domain)) => return Ok(*domain),
            Message::Last(Last::Unfit(text)) => return Err(text),
            _ => {}
        }
    }
}
