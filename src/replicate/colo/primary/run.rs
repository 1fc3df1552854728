//! The primary while it runs: the machine, its timers, the comparison, and what the machine's actions mean here.
#![forbid(unsafe_code)]

use super::connect::{self, Connected};
use super::guest::{Done, Job};
use super::listen::{Heard, listen};
use super::words::{self, Words};
use super::{Ending, Message, SharedCard, Trouble};
use crate::colo::compare::{Found, Guest as From, Packet};
use crate::colo::fault::Guest;
use crate::colo::primary::{Action, Command, Event, Phase};
use crate::colo::{Compare, Message as Say, Mode, Primary, Step as Place};
use crate::control::{Reply, Request, Status};
use crate::hypervisor::{self, ComparedCard, Result};
use crate::remus::wire::Capabilities;
use crate::remus::{Level, OutputCall, Refused, Session, Timer, Timers};
use crate::replicate::clock::Clock;
use crate::replicate::colo::frame::{self, Lane};
use crate::replicate::colo::hello::{Agreement, Hello, VERSION};
use crate::replicate::colo::lists::{Back, Lists, Named};
use crate::replicate::colo::pipe::Pipe;
use crate::replicate::colo::{Times, millis};
use crate::replicate::failpoint::{Failpoints, Step};
use crate::replicate::operator::Ask;
use crate::replicate::witness::{Said, WitnessThread};
use crate::transport::{Address, Cancel, Probe, is_cancelled};
use std::io;
use std::sync::PoisonError;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

/// The connection there is.
pub(super) struct Attached {
    cancel: Cancel,
    reading: Cancel,
    /// Once the peer is known.
    pipe: Option<Pipe>,
    probe: Option<Probe>,
    /// Until when it must be.
    deadline: Instant,
}

pub(super) struct Run {
    pub clock: Clock,
    pub machine: Primary,
    pub timers: Timers,
    pub compare: Compare,
    /// The secondary's packets come.
    pub compares: bool,
    pub named: Named,
    pub lists: Lists,
    pub jobs: Sender<Job>,
    pub post: Sender<Message>,
    pub card: SharedCard,
    pub link: Option<Attached>,
    /// What is said of this side, but for the session.
    pub ours: Option<Hello>,
    pub times: Times,
    pub bare: bool,
    pub witness: Option<WitnessThread>,
    pub failpoints: Failpoints,
    pub figures: words::Rounds,
    pub words: Words,
    pub once: bool,
    /// There was no session.
    pub unreached: Option<()>,
    pub terminated: u32,
    /// When to insist on ending.
    pub insist_at: Instant,
    /// What an action could not do, for the machine to hear of once all actions of its event are carried out.
    pub failed: Vec<Event>,
    /// Why the guest could not be resumed.
    pub stuck: Option<hypervisor::Error>,
}

impl Run {
    pub(super) fn serve(&mut self, inbox: &Receiver<Message>) -> std::result::Result<Ending, Trouble> {
        loop {
            self.insist();
            if let Some(error) = self.stuck.take_if(|_| self.machine.phase() == Phase::Suspended) {
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
                Ok(message) => self.take(message)?,
                Err(RecvTimeoutError::Timeout) => self.expire(),
                // This value holds a sender.
                Err(RecvTimeoutError::Disconnected) => return Ok(Ending::Abandoned),
            }
        }
    }

    fn ending(&self) -> Option<Ending> {
        let runs = self.machine.guest() == Guest::Running;
        match self.machine.phase() {
            Phase::Ended if self.once || self.terminated > 0 => Some(Ending::Fenced),
            Phase::Alone if runs && self.terminated > 0 => Some(Ending::Stopped),
            Phase::Alone if runs => Some(Ending::Unprotected),
            Phase::Idle if self.terminated > 0 => Some(Ending::Stopped),
            Phase::Idle if self.unreached.is_some() => Some(Ending::Unprotected),
            _ if self.terminated > 1 => Some(Ending::Abandoned),
            _ => None,
        }
    }

    fn wait(&self) -> Option<Duration> {
        let timer = self.timers.next().into_iter().chain(self.overdue_at()).min().map(|at| self.clock.until(at));
        let insist = self.may_unprotect().then_some(self.insist_at);
        let moments = insist.into_iter().chain(self.connecting());
        timer.into_iter().chain(moments.map(|at| at.saturating_duration_since(Instant::now()))).min()
    }

    fn overdue_at(&self) -> Option<crate::remus::Time> {
        let runs = matches!(self.machine.phase(), Phase::Session(Place::Run)) && self.compares;
        self.compare.overdue_at().filter(|_| runs)
    }

    /// Until when the peer must be known.
    fn connecting(&self) -> Option<Instant> {
        self.link.as_ref().filter(|link| link.pipe.is_none()).map(|link| link.deadline)
    }

    fn expire(&mut self) {
        if self.connecting().is_some_and(|deadline| deadline <= Instant::now())
            && let Some(link) = &mut self.link
        {
            link.cancel.cancel();
            link.deadline = Instant::now() + self.machine.config().answer;
        }
        let now = self.clock.now();
        if self.overdue_at().is_some_and(|at| at <= now) {
            let mut found = Vec::new();
            self.compare.overdue(now, &mut found);
            self.found(&found);
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

    fn beat(&mut self) {
        let Some(pipe) = self.pipe() else { return };
        pipe.post(Lane::Beat, Vec::new());
        self.timers.set(Timer::Heartbeat, self.clock.now().after(self.times.heartbeat));
    }

    /// What the link shows, where the machine decides by it whether a deadline counts.
    fn report(&mut self, timer: Timer) {
        let Some(link) = &self.link else { return };
        match (timer, &link.probe, &link.pipe) {
            (Timer::Peer, Some(probe), _) => {
                let (read, unread) = (self.clock.now().before(probe.silence()), probe.has_input());
                self.feed(Event::Heard { read, unread });
            }
            (Timer::Answer, _, Some(pipe)) => {
                let bytes = pipe.taken();
                self.feed(Event::Progress { bytes });
            }
            _ => {}
        }
    }

    fn take(&mut self, message: Message) -> std::result::Result<(), Trouble> {
        match message {
            Message::Done(done) => self.done(done)?,
            Message::Heard(heard) => self.heard(heard),
            Message::Sent(sent) => {
                self.packet(From::Ours, sent.epoch, sent.number, sent.bytes);
            }
            Message::Connected(connected) => self.connected(connected),
            Message::WriteFailed(error) => {
                if !is_cancelled(&error) {
                    log::warn!("{}: writing to the secondary: {error}", self.words.domain);
                }
                self.feed(Event::LinkLost);
            }
            Message::Witness(Said::Answer(answer)) => self.feed(Event::Witness(answer)),
            Message::Witness(Said::Looked(looked)) => {
                // One that is over is nobody's any more.
                let known = (!matches!(self.machine.phase(), Phase::Ended | Phase::Suspended))
                    .then(|| self.machine.generation());
                if let Some((level, text)) = self.words.alarm.looked(looked, known) {
                    self.words.notices.add(&self.words.domain, level, text);
                }
            }
            // A primary compares nothing: what it acquires is what the secondary compares.
            Message::Witness(Said::Behind) => {}
            Message::Ask(Ask::Request(request, answer)) => {
                let reply = self.request(request);
                // Who asked may be gone.
                let _ = answer.send(reply);
            }
            // A secondary's.
            Message::Ask(Ask::Unmet) => {}
            Message::Ask(Ask::Terminate) => self.terminate(),
        }
        Ok(())
    }

    fn done(&mut self, done: Done) -> std::result::Result<(), Trouble> {
        match done {
            Done::ImageReady => self.feed(Event::ImageReady),
            Done::Suspended => {
                self.failpoints.pass(Step::Suspended);
                self.feed(Event::GuestSuspended);
            }
            Done::SuspendFailed(error, guest) => {
                self.words.trouble(format!("suspending the guest: {error}"));
                self.feed(Event::SuspendFailed { guest });
            }
            Done::Collected { checkpoint, pages } => {
                self.figures.collected(checkpoint, pages);
                let bytes = pages.saturating_mul(crate::hypervisor::PAGE_SIZE as u64);
                self.feed(Event::Collected { checkpoint, bytes });
            }
            Done::Failed(error) => {
                self.words.trouble(format!("taking a checkpoint: {error}"));
                self.feed(Event::CollectFailed);
            }
            Done::Sent { checkpoint, bytes, took } => {
                self.figures.sent(bytes, took);
                self.feed(Event::StateSent { checkpoint });
            }
            Done::WriteFailed(error) => {
                log::warn!("{}: {error}", self.words.domain);
                self.feed(Event::LinkLost);
            }
            Done::Resumed { pause } => {
                let loaded = matches!(self.machine.phase(), Phase::Session(_));
                self.figures.resumed(pause, loaded);
                self.feed(Event::GuestResumed);
            }
            Done::EpochFailed(error) => {
                self.words.trouble(format!("marking an epoch of output: {error}"));
                self.feed(Event::OutputFailed(OutputCall::Epoch));
            }
            Done::ResumeFailed(error) => {
                self.words.trouble(format!("resuming the guest: {error}"));
                self.stuck = Some(error);
                self.feed(Event::ResumeFailed);
            }
        }
        Ok(())
    }

    fn heard(&mut self, heard: Heard) {
        match heard {
            Heard::Message(message) => {
                if matches!(message, Say::Ready) {
                    self.failpoints.pass(Step::Acknowledged);
                }
                self.feed(Event::Message(message));
            }
            Heard::Packet(epoch, bytes) => self.packet(From::Theirs, epoch, 0, bytes),
            Heard::Refused(text) => {
                let text = text.escape_debug().to_string();
                self.words.trouble(format!("the secondary refuses: {text}"));
            }
            Heard::Garbled(error, text) => {
                if let Some(text) = text {
                    self.words.trouble(text);
                }
                self.feed(Event::Garbled(error));
            }
            Heard::Ended(error) => {
                if let Some(error) = error {
                    log::warn!("{}: reading from the secondary: {error}", self.words.domain);
                }
                self.feed(Event::LinkLost);
            }
        }
    }

    /// A packet of either guest.
    fn packet(&mut self, from: From, epoch: u64, number: u64, bytes: Vec<u8>) {
        if !self.compares {
            return;
        }
        let connection = self.card(|card| card.connection(&bytes));
        let packet = Packet { connection, number, bytes };
        let mut found = Vec::new();
        self.compare.take(self.clock.now(), from, epoch, packet, &mut found);
        self.found(&found);
    }

    fn found(&mut self, found: &[Found]) {
        for found in found {
            match *found {
                Found::Agreed { epoch, packet } => self.feed(Event::Agreed { epoch, packet }),
                Found::Differ { epoch } => {
                    self.figures.differ();
                    self.feed(Event::Differ { epoch });
                }
            }
        }
    }

    fn connected(&mut self, connected: io::Result<Connected>) {
        let Some(link) = &mut self.link else { return };
        let connected = match connected {
            Ok(connected) => connected,
            Err(error) => {
                self.link = None;
                self.unreached = Some(());
                return self.words.trouble(format!("connecting: {error}"));
            }
        };
        let Connected { name, source, probe, writer, theirs } = connected;
        let framed = theirs.is_some();
        self.lists.several = theirs.is_some_and(|theirs| theirs.lists);
        let post = self.post.clone();
        let pipe = Pipe::start(writer, framed, link.cancel.clone(), move |error| {
            let _ = post.send(Message::WriteFailed(error));
        });
        let post = self.post.clone();
        let back = Back::new(self.named.clone(), self.lists);
        let reading = thread::Builder::new().name("colo-in".into()).spawn(move || {
            listen(source, back, |heard| {
                let _ = post.send(Message::Heard(heard));
            });
        });
        let pipe = match pipe.and_then(|pipe| reading.map(|_| pipe)) {
            Ok(pipe) => pipe,
            Err(error) => {
                self.link = None;
                self.unreached = Some(());
                return self.words.trouble(format!("starting a thread for the connection: {error}"));
            }
        };
        link.probe = Some(probe);
        link.pipe = Some(pipe.clone());
        self.words.peer = Some(name);
        self.words.framed = framed;
        self.compares = framed && self.machine.config().mode == Mode::LockStep;
        if self.compares {
            let post = self.post.clone();
            self.card(|card| {
                card.capture(Box::new(move |sent| {
                    let _ = post.send(Message::Sent(sent));
                }));
                card.mirror(Box::new(move |epoch, bytes| {
                    pipe.post(Lane::Packet, frame::packet_payload(epoch, bytes));
                }));
            });
        }
        if framed {
            self.beat();
        } else {
            let text = "the other side is libxl: nothing can be compared, all output waits for the next checkpoint";
            self.words.notices.add(&self.words.domain, Level::Warning, text.into());
        }
        self.feed(if framed { Event::Greeted } else { Event::Connected });
        if framed {
            self.feed(Event::Beats);
        }
    }

    fn feed(&mut self, event: Event) {
        let before = words::phase(&self.machine);
        let mut actions = Vec::new();
        self.machine.handle(self.clock.now(), event, &mut actions);
        self.carry_out_all(before, &actions);
        while let Some(failed) = self.failed.pop() {
            self.feed(failed);
        }
    }

    fn command(&mut self, command: Command) -> std::result::Result<(), Refused> {
        let before = words::phase(&self.machine);
        let mut actions = Vec::new();
        self.machine.command(self.clock.now(), command, &mut actions)?;
        self.carry_out_all(before, &actions);
        while let Some(failed) = self.failed.pop() {
            self.feed(failed);
        }
        Ok(())
    }

    fn carry_out_all(&mut self, before: &str, actions: &[Action]) {
        for action in actions {
            self.carry_out(*action);
        }
        let after = words::phase(&self.machine);
        if before != after {
            log::info!("{}: {before} -> {after}", self.words.domain);
            if self.machine.phase() == Phase::Alone {
                self.words.peer = None;
            }
        }
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::SendImage => {
                if let Some(pipe) = self.pipe() {
                    self.job(Job::Image(pipe));
                }
            }
            Action::Suspend => self.job(Job::Suspend),
            Action::HoldOutput => {
                self.output("holding output", OutputCall::Hold, |card| card.hold());
                self.failpoints.pass(Step::Held);
            }
            Action::Collect { checkpoint, merge } => {
                let merge = merge.then(|| self.named.clone());
                self.job(Job::Collect { checkpoint, merge });
            }
            // The only message of a primary in this dialect.
            Action::Send(_) => {
                self.figures.begin();
                self.job(Job::New);
            }
            // Of QEMU's dialects.
            Action::SendMemory { .. } => {}
            Action::SendState { checkpoint } => self.job(Job::State { checkpoint }),
            Action::Abandon => {
                if let Some(pipe) = self.pipe() {
                    pipe.stop();
                }
            }
            Action::Begin { generation } => {
                let config = *self.machine.config();
                let session = Some(Agreement::new(config.mode, generation, config.period));
                if let (Some(pipe), Some(ours)) = (self.pipe(), self.ours.clone())
                    && let Err(error) = pipe.first(Lane::Hello, &Hello { session, ..ours }.emit())
                {
                    let _ = self.post.send(Message::WriteFailed(error));
                }
            }
            Action::Dismiss => {
                if let Some(pipe) = self.pipe() {
                    pipe.post(Lane::Goodbye, Vec::new());
                }
            }
            Action::Resume { epoch } => self.job(Job::Resume { epoch }),
            Action::Release { packet, .. } => {
                if self.output("releasing a packet", OutputCall::Release, |card| card.release_one(packet)) == Some(true)
                {
                    self.figures.agreed();
                }
            }
            Action::ReleaseHeld { up_to_epoch } => {
                self.figures.loaded();
                if let Some(packets) =
                    self.output("releasing output", OutputCall::Release, |card| card.release(up_to_epoch))
                {
                    self.figures.waited(packets);
                }
                self.compare.begin(up_to_epoch.saturating_add(1));
                self.failpoints.pass(Step::Released);
            }
            Action::FreeOutput => {
                self.output("freeing output", OutputCall::Free, |card| {
                    card.detach();
                    card.free()
                });
            }
            Action::DiscardOutput => {
                self.output("discarding output", OutputCall::Discard, |card| {
                    card.detach();
                    card.discard()
                });
            }
            Action::PauseGuest => self.job(Job::Pause),
            Action::CloseLink => self.close(),
            Action::AskWitness { generation } => {
                self.failpoints.pass(Step::Claiming);
                match &self.witness {
                    Some(witness) => witness.ask(generation, Session::default()),
                    None => self.words.trouble("there is no witness to ask".into()),
                }
            }
            Action::SetTimer { timer, at } => self.timers.set(timer, at),
            Action::CancelTimer(timer) => self.timers.cancel(timer),
            Action::Notice(notice) => self.words.notice(notice),
        }
    }

    fn pipe(&self) -> Option<Pipe> {
        self.link.as_ref()?.pipe.clone()
    }

    fn job(&self, job: Job) {
        // The thread ends after this value's last job.
        let _ = self.jobs.send(job);
    }

    fn card<T>(&self, act: impl FnOnce(&mut dyn ComparedCard) -> T) -> T {
        act(&mut **self.card.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn output<T>(
        &mut self,
        doing: &str,
        call: OutputCall,
        act: impl FnOnce(&mut dyn ComparedCard) -> Result<T>,
    ) -> Option<T> {
        match self.card(act) {
            Ok(done) => Some(done),
            Err(error) => {
                self.words.trouble(format!("{doing}: {error}"));
                self.failed.push(Event::OutputFailed(call));
                None
            }
        }
    }

    pub(super) fn connect(&mut self, address: Address) {
        let config = *self.machine.config();
        let ours = Hello {
            version: VERSION,
            rule: config.rule.name().into(),
            timeout_ms: millis(self.times.timeout),
            heartbeat_ms: millis(self.times.heartbeat),
            lists: true,
            domain: Some(self.words.domain.clone()),
            session: None,
        };
        self.ours = Some(ours.clone());
        let started = Cancel::new().and_then(|cancel| {
            let (post, reading) = (self.post.clone(), Cancel::new()?);
            let cancels = (cancel.clone(), reading.clone());
            let deadline = Instant::now() + config.answer;
            self.link = Some(Attached { cancel, reading, pipe: None, probe: None, deadline });
            connect::start(address, ours, config.rule, self.bare, cancels, move |connected| {
                let _ = post.send(Message::Connected(connected));
            })
        });
        if let Err(error) = started {
            let _ = self.post.send(Message::Connected(Err(error)));
        }
    }

    fn request(&mut self, request: Request) -> Reply {
        let obeyed = match request {
            Request::Status | Request::Watch { .. } => return Reply::status(self.status()),
            Request::Capabilities => return Reply::capabilities(Capabilities::empty(), Capabilities::empty()),
            Request::SetCapability { .. } => {
                return Reply::error("COLO has none of the capabilities, which are Remus's");
            }
            Request::Unprotect { force } => self.command(Command::Unprotect { force }),
            Request::FailOver { .. } | Request::Drop => {
                return Reply::error("this side is the primary: ask the secondary");
            }
            Request::SetInterval { .. } => return Reply::error("COLO has a period, and it is set at the start"),
            Request::SwitchOver => return Reply::error("COLO has no switch-over: fail-over on the secondary"),
            Request::Protect { .. } => {
                return Reply::error(format!("cannot be done while {}", words::phase(&self.machine)));
            }
        };
        match obeyed {
            Err(Refused::Phase) => Reply::error(format!("cannot be done while {}", words::phase(&self.machine))),
            Err(refused) => Reply::error(refused.to_string()),
            Ok(()) => Reply::status(self.status()),
        }
    }

    pub(super) fn status(&self) -> Status {
        self.words.status(&self.machine, &self.figures)
    }

    /// Ends in a defined state: unprotected, the guest running. Where that has to be decided first, it is waited for.
    fn terminate(&mut self) {
        self.terminated += 1;
        self.insist_at = Instant::now();
        self.insist();
        if self.ending().is_none() {
            let text =
                "told to end: waiting until it is decided who may be active; once more ends at once, output held";
            self.words.notices.add(&self.words.domain, Level::Warning, text.into());
        }
    }

    const fn may_unprotect(&self) -> bool {
        self.terminated > 0 && matches!(self.machine.phase(), Phase::Session(_))
    }

    fn insist(&mut self) {
        if self.may_unprotect() && self.insist_at <= Instant::now() {
            self.insist_at = Instant::now() + self.times.timeout;
            // Asked for again until it can be decided.
            let _ = self.command(Command::Unprotect { force: false });
        }
    }

    fn close(&mut self) {
        if let Some(link) = self.link.take() {
            match &link.pipe {
                Some(pipe) => pipe.close(),
                None => link.cancel.cancel(),
            }
            link.reading.cancel();
            self.timers.cancel(Timer::Heartbeat);
            self.job(Job::Forget);
        }
    }

    /// Ends the connection and the guest's thread.
    pub(super) fn shut(&mut self) {
        self.close();
        self.job(Job::Quit);
    }
}
