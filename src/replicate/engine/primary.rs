//! A primary's loop: from a guest that runs to one that is protected, and to whatever ends that.

use super::guest::Done;
use super::told::Told;
use super::words;
use crate::hypervisor::{self, OutputBuffer};
use crate::libxc::SaveError;
use crate::protocol::primary::{Action, Event};
use crate::protocol::{self, Generation, Level, OutputCall, Session, Time, Timer, Timers};
use crate::remus::wire::Capabilities;
use crate::replicate::capability::{Capability, Setting};
use crate::replicate::clock::Clock;
use crate::replicate::failpoint::{Failpoints, Step};
use crate::replicate::operator::{self, Answer, Ask, Command, Refused};
use crate::replicate::stats::{RoundFigures, Statistics};
use crate::replicate::status::{Role, Status};
use crate::replicate::witness::{Said, WitnessThread};
use crate::transport::Probe;
use crate::witness::Witness;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use super::ending::{Ended, Ending, Trouble};
pub(in crate::replicate) use super::guest::Job;

/// Told of rounds.
pub type OnRound = Box<dyn FnMut(&RoundFigures) + Send>;

/// The output buffer, which the loop's thread and the guest's share.
pub(in crate::replicate) type Shared<O> = Arc<Mutex<Box<O>>>;

/// A protocol's primary.
pub(in crate::replicate) trait Protocol: Sized {
    /// What its threads report.
    type Report: Send + 'static;
    /// What the guest's thread is to do besides what it does for everybody.
    type Job: Send + 'static;
    /// What its machine takes.
    type Event: From<Event>;
    /// What its machine gives.
    type Action: Copy;
    /// Where the guest's packets wait.
    type Output: OutputBuffer + ?Sized;

    /// Where its machine is, in a word.
    fn phase(&self) -> &'static str;
    /// The session, where the protocol names it.
    fn session(&self) -> Session;
    /// The newest generation it holds or knows of.
    fn generation(&self) -> Generation;
    /// What it offers, and what the session has.
    fn capabilities(&self) -> (Capabilities, Capabilities);
    /// What was counted.
    fn statistics(&self) -> &Statistics;
    /// How it is; what the loop knows is filled in.
    fn status(run: &Run<Self>, common: Status) -> Status;

    /// Whether it has ended and is nobody's any more.
    fn is_over(&self) -> bool;
    /// Whether it runs unprotected.
    fn is_alone(&self) -> bool;
    /// Whether it has ended with a guest that is suspended and cannot be resumed.
    fn is_suspended(&self) -> bool;
    /// Whether protection can be ended by asking for it.
    fn may_unprotect(&self) -> bool;
    /// How the loop ends now, if it does; whether it was told to is in [`Run::terminated`].
    fn ending(run: &Run<Self>) -> Option<Ending>;

    /// Feeds the machine.
    fn handle(&mut self, now: Time, event: Self::Event, actions: &mut Vec<Self::Action>);
    /// Asks the machine to end protection.
    fn unprotect(&mut self, now: Time, force: bool, actions: &mut Vec<Self::Action>) -> Result<(), protocol::Refused>;
    /// Obeys a command that not every primary has.
    ///
    /// # Errors
    /// Why not.
    fn command(run: &mut Run<Self>, command: Command) -> Result<(), Refused>;

    /// Takes what a thread has reported.
    fn take(run: &mut Run<Self>, report: Self::Report);
    /// Does what its machine wants.
    fn carry_out(run: &mut Run<Self>, action: Self::Action);
    /// Output is about to be free, or to be dropped.
    fn letting_go(_run: &mut Run<Self>) {}
    /// Whether the guest has ended by itself.
    fn is_gone(&self) -> bool {
        false
    }
    /// The guest runs again.
    fn resumed(run: &mut Run<Self>, at: Instant, pause: Duration);
    /// Something was asked of the domain and has failed.
    fn failed(_run: &mut Run<Self>, _error: &SaveError) {}
    /// What the link shows of its peer, and the bytes of streams that it has taken; none where there is no such thing.
    fn link(&self) -> (Option<&Probe>, Option<u64>);
    /// A deadline of the protocol's own.
    fn deadline(_run: &Run<Self>) -> Option<Instant> {
        None
    }
    /// It may have come.
    fn overdue(_run: &mut Run<Self>) {}
    /// A timer of the protocol's own is due: true when that is all.
    fn due(_run: &mut Run<Self>, _timer: Timer) -> bool {
        false
    }
    /// Closes the connection. Does not wait.
    fn close(run: &mut Run<Self>);
    /// The same at the end, when the guest's thread has its last job: until it is closed, for the process may end next.
    fn closed(_run: &mut Run<Self>) {}
}

/// What the loop is sent.
pub(in crate::replicate) enum Message<P: Protocol> {
    Done(Done),
    Report(P::Report),
    Witness(Said),
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
pub(in crate::replicate) struct Setup<P: Protocol> {
    /// The domain's name.
    pub domain: String,
    /// Who may be active alone.
    pub witness: Option<Box<dyn Witness>>,
    /// Between two tries of the witness.
    pub retry: Duration,
    /// Between two requests to end protection.
    pub timeout: Duration,
    /// Where the guest's packets wait.
    pub output: Shared<P::Output>,
    /// The way to the guest's thread.
    pub jobs: Sender<Job<P::Job>>,
    /// Whether to end when protection does, instead of waiting for the operator.
    pub once: bool,
    /// Where tests let this process die.
    pub failpoints: Failpoints,
}

/// The loop.
pub(in crate::replicate) struct Run<P: Protocol> {
    pub clock: Clock,
    pub protocol: P,
    pub timers: Timers,
    pub post: Sender<Message<P>>,
    jobs: Sender<Job<P::Job>>,
    output: Shared<P::Output>,
    witness: Option<WitnessThread>,
    pub failpoints: Failpoints,
    pub told: Told,
    pub once: bool,
    timeout: Duration,
    /// What an action could not do, for the machine to hear of once all actions of its event are carried out.
    failed: Vec<Event>,
    /// Why the guest could not be resumed.
    stuck: Option<hypervisor::Error>,
    /// How often it was told to end.
    pub terminated: u32,
    /// When to insist on ending.
    insist_at: Instant,
}

impl<P: Protocol + 'static> Run<P> {
    pub fn new(setup: Setup<P>, mailbox: &Mailbox<P>, protocol: P) -> io::Result<Self> {
        let Setup { domain, witness, retry, timeout, output, jobs, once, failpoints } = setup;
        let (witness, described) = WitnessThread::start_any(witness, retry, mailbox.post(Message::Witness))?;
        let told = Told::new(domain, Role::Primary, None, described);
        Ok(Run {
            clock: Clock::start(),
            protocol,
            timers: Timers::default(),
            post: mailbox.post.clone(),
            jobs,
            output,
            witness,
            failpoints,
            told,
            once,
            timeout,
            failed: Vec::new(),
            stuck: None,
            terminated: 0,
            insist_at: Instant::now(),
        })
    }

    /// Serves until the guest is gone from here, or this side is told to end. `guest` gives the domain back.
    pub fn run<D>(mut self, mailbox: Mailbox<P>, guest: JoinHandle<D>) -> Result<Ended<D>, Trouble> {
        let how = self.serve(&mailbox.inbox);
        P::close(&mut self);
        if let Ok(Ending::Stopped | Ending::Unprotected) = how {
            // The guest may be on its way into a checkpoint that nobody wants.
            self.order(Job::Leave);
        }
        self.order(Job::Quit);
        P::closed(&mut self);
        let (statistics, status, generation) =
            (self.protocol.statistics().clone(), self.status(), self.protocol.generation());
        drop(self);
        let domain = guest.join().map_err(|_| Trouble::Panicked)?;
        Ok(Ended { how: how?, domain, statistics, generation, status })
    }

    fn serve(&mut self, inbox: &Receiver<Message<P>>) -> Result<Ending, Trouble> {
        loop {
            self.insist();
            if let Some(error) = self.stuck.take_if(|_| self.protocol.is_suspended()) {
                return Err(Trouble::Resume(error));
            }
            if let Some(ending) = self.ending() {
                return Ok(ending);
            }
            let message = match self.wait() {
                None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(wait) => inbox.recv_timeout(wait),
            };
            match message {
                Ok(message) => self.take(message),
                Err(RecvTimeoutError::Timeout) => self.expire(),
                // This value holds a sender.
                Err(RecvTimeoutError::Disconnected) => return Ok(Ending::Abandoned),
            }
        }
    }

    fn ending(&self) -> Option<Ending> {
        P::ending(self).or_else(|| (self.terminated > 1).then_some(Ending::Abandoned))
    }

    fn wait(&self) -> Option<Duration> {
        let timer = self.timers.next().map(|at| self.clock.until(at));
        let moments = self.may_unprotect().then_some(self.insist_at).into_iter().chain(P::deadline(self));
        timer.into_iter().chain(moments.map(|at| at.saturating_duration_since(Instant::now()))).min()
    }

    fn expire(&mut self) {
        P::overdue(self);
        while let Some(timer) = self.timers.expired(self.clock.now()) {
            self.report(timer);
            if !P::due(self, timer) {
                self.feed(Event::Timer(timer));
            }
        }
    }

    /// What the link shows, where the machine decides by it whether a deadline counts.
    fn report(&mut self, timer: Timer) {
        match (timer, self.protocol.link()) {
            (Timer::Peer, (Some(probe), _)) => {
                let (read, unread) = (self.clock.now().before(probe.silence()), probe.has_input());
                self.feed(Event::Heard { read, unread });
            }
            (Timer::Answer, (_, Some(bytes))) => self.feed(Event::Progress { bytes }),
            _ => {}
        }
    }

    fn take(&mut self, message: Message<P>) {
        match message {
            Message::Done(done) => self.guest(done),
            Message::Report(report) => P::take(self, report),
            Message::Witness(Said::Answer(answer)) => self.feed(Event::Witness(answer)),
            Message::Witness(Said::Looked(looked)) => {
                // One that is over is nobody's any more.
                let known = (!self.protocol.is_over()).then(|| self.protocol.generation());
                self.told.looked(looked, known);
            }
            // A primary compares nothing: what it acquires is what the secondary compares.
            Message::Witness(Said::Behind) => {}
            Message::Ask(Ask::Command(command, answer)) => {
                // Who asked may be gone.
                let _ = answer.send(self.asked(command));
            }
            // A secondary's.
            Message::Ask(Ask::Unmet) => {}
            Message::Ask(Ask::Terminate) => self.terminate(),
        }
    }

    fn guest(&mut self, done: Done) {
        match done {
            Done::Suspended => {
                self.failpoints.pass(Step::Suspended);
                self.feed(Event::GuestSuspended);
            }
            Done::SuspendFailed(error, guest) => {
                self.told.trouble(format!("suspending the guest: {error}"));
                P::failed(self, &error);
                self.feed(Event::SuspendFailed { guest });
            }
            Done::Resumed { at, pause } => {
                P::resumed(self, at, pause);
                self.feed(Event::GuestResumed);
            }
            Done::EpochFailed(error) => {
                self.told.trouble(format!("marking an epoch of output: {error}"));
                self.feed(Event::OutputFailed(OutputCall::Epoch));
            }
            Done::ResumeFailed(error) => {
                self.told.trouble(format!("resuming the guest: {error}"));
                self.stuck = Some(error);
                self.feed(Event::ResumeFailed);
            }
        }
    }

    pub fn feed(&mut self, event: impl Into<P::Event>) {
        let before = self.protocol.phase();
        let mut actions = Vec::new();
        self.protocol.handle(self.clock.now(), event.into(), &mut actions);
        self.carry_out_all(before, &actions);
    }

    pub fn obey(
        &mut self,
        command: impl FnOnce(&mut P, Time, &mut Vec<P::Action>) -> Result<(), protocol::Refused>,
    ) -> Result<(), Refused> {
        let before = self.protocol.phase();
        let mut actions = Vec::new();
        command(&mut self.protocol, self.clock.now(), &mut actions)
            .map_err(|refused| Refused::in_phase(refused, before))?;
        self.carry_out_all(before, &actions);
        Ok(())
    }

    fn carry_out_all(&mut self, before: &str, actions: &[P::Action]) {
        for action in actions {
            P::carry_out(self, *action);
        }
        let after = self.protocol.phase();
        if before != after {
            log::info!("{}: {before} -> {after}", self.told.domain);
            if self.protocol.is_alone() {
                self.told.peer = None;
            }
        }
        while let Some(failed) = self.failed.pop() {
            self.feed(failed);
        }
    }

    pub fn job(&self, job: P::Job) {
        self.order(Job::Own(job));
    }

    pub fn order(&self, job: Job<P::Job>) {
        // The thread ends after this value's last job.
        let _ = self.jobs.send(job);
    }

    /// What every primary's machine may want.
    pub fn carry_out(&mut self, action: Action) {
        match action {
            Action::Suspend => self.order(Job::Suspend),
            Action::Resume { epoch } => self.order(Job::Resume { epoch }),
            Action::HoldOutput => {
                self.output(OutputCall::Hold, |output| output.hold());
                self.failpoints.pass(Step::Held);
            }
            Action::FreeOutput => {
                P::letting_go(self);
                self.output(OutputCall::Free, |output| output.free());
            }
            Action::DiscardOutput => {
                P::letting_go(self);
                self.output(OutputCall::Discard, |output| output.discard());
            }
            Action::PauseGuest => self.order(Job::Pause),
            Action::AskWitness { generation } => {
                self.failpoints.pass(Step::Claiming);
                match &self.witness {
                    Some(witness) => witness.ask(generation, self.protocol.session()),
                    None => self.told.trouble("there is no witness to ask"),
                }
            }
            Action::SetTimer { timer, at } => self.timers.set(timer, at),
            Action::CancelTimer(timer) => self.timers.cancel(timer),
            Action::Notice(notice) => {
                let text = words::primary(notice.code, self.protocol.is_gone());
                self.told.notice(notice.level, text);
            }
        }
    }

    /// Does something with the output buffer; what fails the machine hears of later.
    pub fn output<T>(
        &mut self,
        call: OutputCall,
        act: impl FnOnce(&mut P::Output) -> hypervisor::Result<T>,
    ) -> Option<T> {
        let acted = act(&mut **self.output.lock().unwrap_or_else(PoisonError::into_inner));
        acted
            .inspect_err(|error| {
                let doing = match call {
                    OutputCall::Hold => "holding output",
                    OutputCall::Epoch => "marking an epoch of output",
                    OutputCall::Release => "releasing output",
                    OutputCall::Free => "freeing output",
                    OutputCall::Discard => "discarding output",
                };
                self.told.trouble(format!("{doing}: {error}"));
                self.failed.push(Event::OutputFailed(call));
            })
            .ok()
    }

    /// Does something with the output buffer that cannot fail.
    pub fn with_output<T>(&self, act: impl FnOnce(&mut P::Output) -> T) -> T {
        act(&mut **self.output.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn asked(&mut self, command: Command) -> Result<Answer, Refused> {
        let (offered, in_use) = self.protocol.capabilities();
        match command {
            Command::Status => {}
            Command::Capabilities => return Ok(Answer::Capabilities { offered, in_use }),
            Command::SetCapability { .. } if offered.is_empty() => return Err(operator::NO_CAPABILITIES),
            Command::SetCapability { name, on } => match Capability::set(&name, on, offered, in_use) {
                Setting::Already => {}
                Setting::Unprotect => self.unprotect(false)?,
                Setting::Fixed(text) | Setting::Unknown(text) => return Err(Refused::Capability(text)),
            },
            Command::Unprotect { force } => self.unprotect(force)?,
            Command::FailOver { .. } | Command::Drop => return Err(Refused::Primary),
            command => P::command(self, command)?,
        }
        Ok(self.status().into())
    }

    fn unprotect(&mut self, force: bool) -> Result<(), Refused> {
        self.obey(|protocol, now, actions| protocol.unprotect(now, force, actions))
    }

    fn status(&self) -> Status {
        let common = Status {
            phase: self.protocol.phase().into(),
            generation: self.protocol.generation().0,
            ..self.told.status(self.protocol.statistics())
        };
        P::status(self, common)
    }

    /// Ends in a defined state: unprotected, the guest running. Where that has to be decided first, it is waited for.
    fn terminate(&mut self) {
        self.terminated += 1;
        self.insist_at = Instant::now();
        self.insist();
        if self.ending().is_none() {
            self.told.notice(
                Level::Warning,
                "told to end: waiting until it is decided who may be active; once more ends at once, output held",
            );
        }
    }

    fn may_unprotect(&self) -> bool {
        self.terminated > 0 && self.protocol.may_unprotect()
    }

    /// Protection that is kept because nobody could be asked ends as soon as somebody can.
    fn insist(&mut self) {
        if self.may_unprotect() && self.insist_at <= Instant::now() {
            self.insist_at = Instant::now() + self.timeout;
            // Asked for again until it can be decided.
            let _ = self.unprotect(false);
        }
    }
}
