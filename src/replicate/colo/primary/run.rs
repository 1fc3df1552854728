//! COLO's part of a primary: the comparison, what its machine's actions mean here, and what its threads report.
#![forbid(unsafe_code)]

use super::connect::{self, Connected};
use super::guest::{Done, Job};
use super::listen::{Heard, listen};
use super::round::Rounds;
use super::{Ending, words};
use crate::colo::compare::{Found, Guest as From, Packet};
use crate::colo::fault::Guest;
use crate::colo::primary::{Action, Command, Event, Phase};
use crate::colo::{Compare, Message as Say, Mode, Primary, Step as Place};
use crate::hypervisor::{ComparedCard, Sent};
use crate::protocol::{Generation, Level, OutputCall, Refused, Session, Time, Timer};
use crate::remus::wire::Capabilities;
use crate::replicate::colo::Times;
use crate::replicate::colo::frame::{self, Lane};
use crate::replicate::colo::hello::{Agreement, Hello};
use crate::replicate::colo::lists::{Back, Lists, Named};
use crate::replicate::colo::pipe::Pipe;
use crate::replicate::engine::primary::{self as engine, Message};
use crate::replicate::failpoint::Step;
use crate::replicate::operator::{self, millis_since};
use crate::replicate::stats::Statistics;
use crate::replicate::status::{self, Framing, Output, Status};
use crate::transport::{Address, Cancel, Probe, is_cancelled};
use std::io;
use std::thread;
use std::time::{Duration, Instant};

/// What the threads report.
pub(super) enum Report {
    Done(Done),
    Heard(Heard),
    Sent(Sent),
    Connected(io::Result<Box<Connected>>),
    WriteFailed(io::Error),
}

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

pub(super) struct Colo {
    pub machine: Primary,
    pub compare: Compare,
    /// The secondary's packets come.
    pub compares: bool,
    pub named: Named,
    pub lists: Lists,
    pub link: Option<Attached>,
    /// What is said of this side, but for the session.
    pub ours: Hello,
    pub times: Times,
    pub bare: bool,
    /// The peer has frames.
    pub framed: bool,
    pub figures: Rounds,
    /// There was no session.
    pub unreached: Option<()>,
}

type Run = engine::Run<Colo>;

impl engine::Protocol for Colo {
    type Report = Report;
    type Job = Job;
    type Event = Event;
    type Action = Action;
    type Output = dyn ComparedCard;

    fn phase(&self) -> &'static str {
        words::phase(&self.machine)
    }

    fn session(&self) -> Session {
        Session::default()
    }

    fn generation(&self) -> Generation {
        self.machine.generation()
    }

    fn capabilities(&self) -> (Capabilities, Capabilities) {
        (Capabilities::empty(), Capabilities::empty())
    }

    fn statistics(&self) -> &Statistics {
        self.figures.statistics()
    }

    fn status(run: &Run, common: Status) -> Status {
        let colo = &run.protocol;
        let (machine, rounds) = (&colo.machine, &colo.figures);
        let (checkpoint, loaded) = machine.checkpoints();
        let config = machine.config();
        Status {
            guest: match machine.guest() {
                Guest::Running | Guest::Suspending => status::Guest::Running,
                Guest::Paused | Guest::Absent => status::Guest::Stopped,
                _ => status::Guest::Suspended,
            },
            protected: matches!(machine.phase(), Phase::Session(_)) && loaded > 0,
            framing: common.peer.as_ref().map(|_| if colo.framed { Framing::Framed } else { Framing::Bare }),
            rule: config.rule.name().into(),
            interval_ms: u64::try_from(config.period.as_millis()).unwrap_or(u64::MAX),
            output: if machine.is_held() { Output::Held } else { Output::Free },
            checkpoint,
            acknowledged: loaded,
            since_last_ms: rounds.last().map(millis_since),
            lock_step: Some(rounds.lock_step(config.mode == Mode::Periodic)),
            ..common
        }
    }

    fn is_over(&self) -> bool {
        matches!(self.machine.phase(), Phase::Ended | Phase::Suspended)
    }

    fn is_alone(&self) -> bool {
        self.machine.phase() == Phase::Alone
    }

    fn is_suspended(&self) -> bool {
        self.machine.phase() == Phase::Suspended
    }

    fn may_unprotect(&self) -> bool {
        matches!(self.machine.phase(), Phase::Session(_))
    }

    fn ending(run: &Run) -> Option<Ending> {
        let (told, runs) = (run.terminated > 0, run.protocol.machine.guest() == Guest::Running);
        match run.protocol.machine.phase() {
            Phase::Ended if run.once || told => Some(Ending::Fenced),
            Phase::Alone if runs && told => Some(Ending::Stopped),
            Phase::Alone if runs => Some(Ending::Unprotected),
            Phase::Idle if told => Some(Ending::Stopped),
            Phase::Idle if run.protocol.unreached.is_some() => Some(Ending::Unprotected),
            _ => None,
        }
    }

    fn handle(&mut self, now: Time, event: Event, actions: &mut Vec<Action>) {
        self.machine.handle(now, event, actions);
    }

    fn unprotect(&mut self, now: Time, force: bool, actions: &mut Vec<Action>) -> Result<(), Refused> {
        self.machine.command(now, Command::Unprotect { force }, actions)
    }

    fn command(run: &mut Run, command: operator::Command) -> Result<(), operator::Refused> {
        Err(match command {
            operator::Command::SetInterval(_) => operator::Refused::Colo("has a period, and it is set at the start"),
            operator::Command::SwitchOver => operator::Refused::Colo("has no switch-over: fail-over on the secondary"),
            _ => operator::Refused::Phase(words::phase(&run.protocol.machine)),
        })
    }

    fn take(run: &mut Run, report: Report) {
        match report {
            Report::Done(done) => run.done(done),
            Report::Heard(heard) => run.heard(heard),
            Report::Sent(sent) => run.packet(From::Ours, sent.epoch, sent.number, sent.bytes),
            Report::Connected(connected) => run.connected(connected),
            Report::WriteFailed(error) => {
                if !is_cancelled(&error) {
                    log::warn!("{}: writing to the secondary: {error}", run.told.domain);
                }
                run.feed(Event::LinkLost);
            }
        }
    }

    fn carry_out(run: &mut Run, action: Action) {
        match action {
            Action::SendImage => {
                if let Some(pipe) = run.pipe() {
                    run.job(Job::Image(pipe));
                }
            }
            Action::Collect { checkpoint, merge } => {
                let merge = merge.then(|| run.protocol.named.clone());
                run.job(Job::Collect { checkpoint, merge });
            }
            // The only message of a primary in this dialect.
            Action::Send(_) => {
                run.protocol.figures.begin();
                run.job(Job::New);
            }
            // Of QEMU's dialects.
            Action::SendMemory { .. } => {}
            Action::SendState { checkpoint } => run.job(Job::State { checkpoint }),
            Action::Abandon => {
                if let Some(pipe) = run.pipe() {
                    pipe.stop();
                }
            }
            Action::Begin { generation } => run.say_session(generation),
            Action::Dismiss => {
                if let Some(pipe) = run.pipe() {
                    pipe.post(Lane::Goodbye, Vec::new());
                }
            }
            Action::Release { packet, .. } => {
                if run.output(OutputCall::Release, |card| card.release_one(packet)) == Some(true) {
                    run.protocol.figures.agreed();
                }
            }
            Action::ReleaseHeld { up_to_epoch } => {
                run.protocol.figures.loaded();
                if let Some(packets) = run.output(OutputCall::Release, |card| card.release(up_to_epoch)) {
                    run.protocol.figures.waited(packets);
                }
                run.protocol.compare.begin(up_to_epoch.saturating_add(1));
                run.failpoints.pass(Step::Released);
            }
            Action::CloseLink => engine::Protocol::close(run),
            Action::Notice(notice) => run.told.notice(notice.level, words::text(notice.code)),
            Action::Common(action) => run.carry_out(action),
        }
    }

    fn resumed(run: &mut Run, _at: Instant, pause: Duration) {
        let loaded = matches!(run.protocol.machine.phase(), Phase::Session(_));
        run.protocol.figures.resumed(pause, loaded);
    }

    fn link(&self) -> (Option<&Probe>, Option<u64>) {
        let Some(link) = &self.link else { return (None, None) };
        (link.probe.as_ref(), link.pipe.as_ref().map(Pipe::taken))
    }

    fn deadline(run: &Run) -> Option<Instant> {
        let overdue = run.overdue_at().map(|at| Instant::now() + run.clock.until(at));
        overdue.into_iter().chain(run.connecting()).min()
    }

    fn overdue(run: &mut Run) {
        if run.connecting().is_some_and(|deadline| deadline <= Instant::now())
            && let Some(link) = &mut run.protocol.link
        {
            link.cancel.cancel();
            link.deadline = Instant::now() + run.protocol.machine.config().answer;
        }
        let now = run.clock.now();
        if run.overdue_at().is_some_and(|at| at <= now) {
            let mut found = Vec::new();
            run.protocol.compare.overdue(now, &mut found);
            run.found(&found);
        }
    }

    fn due(run: &mut Run, timer: Timer) -> bool {
        if timer == Timer::Heartbeat {
            run.beat();
        }
        timer == Timer::Heartbeat
    }

    fn letting_go(run: &mut Run) {
        run.with_output(|card| card.detach());
    }

    fn close(run: &mut Run) {
        if let Some(link) = run.protocol.link.take() {
            match &link.pipe {
                Some(pipe) => pipe.close(),
                None => link.cancel.cancel(),
            }
            link.reading.cancel();
            run.timers.cancel(Timer::Heartbeat);
            run.order(engine::Job::Forget);
        }
    }
}

impl Run {
    fn overdue_at(&self) -> Option<Time> {
        let colo = &self.protocol;
        let runs = matches!(colo.machine.phase(), Phase::Session(Place::Run)) && colo.compares;
        colo.compare.overdue_at().filter(|_| runs)
    }

    /// Until when the peer must be known.
    fn connecting(&self) -> Option<Instant> {
        self.protocol.link.as_ref().filter(|link| link.pipe.is_none()).map(|link| link.deadline)
    }

    fn beat(&mut self) {
        let Some(pipe) = self.pipe() else { return };
        pipe.post(Lane::Beat, Vec::new());
        self.timers.set(Timer::Heartbeat, self.clock.now().after(self.protocol.times.heartbeat));
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::ImageReady => self.feed(Event::ImageReady),
            Done::Collected { checkpoint, pages } => {
                self.protocol.figures.collected(checkpoint, pages);
                let bytes = pages.saturating_mul(crate::hypervisor::PAGE_SIZE as u64);
                self.feed(Event::Collected { checkpoint, bytes });
            }
            Done::Failed(error) => {
                self.told.trouble(format!("taking a checkpoint: {error}"));
                self.feed(Event::CollectFailed);
            }
            Done::Sent { checkpoint, bytes, took } => {
                self.protocol.figures.sent(bytes, took);
                self.feed(Event::StateSent { checkpoint });
            }
            Done::WriteFailed(error) => {
                log::warn!("{}: {error}", self.told.domain);
                self.feed(Event::LinkLost);
            }
        }
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
                self.told.trouble(format!("the secondary refuses: {text}"));
            }
            Heard::Garbled(error, text) => {
                if let Some(text) = text {
                    self.told.trouble(text);
                }
                self.feed(Event::Garbled(error));
            }
            Heard::Ended(error) => {
                if let Some(error) = error {
                    log::warn!("{}: reading from the secondary: {error}", self.told.domain);
                }
                self.feed(Event::LinkLost);
            }
        }
    }

    /// A packet of either guest.
    fn packet(&mut self, from: From, epoch: u64, number: u64, bytes: Vec<u8>) {
        if !self.protocol.compares {
            return;
        }
        let connection = self.with_output(|card| card.connection(&bytes));
        let packet = Packet { connection, number, bytes };
        let mut found = Vec::new();
        self.protocol.compare.take(self.clock.now(), from, epoch, packet, &mut found);
        self.found(&found);
    }

    fn found(&mut self, found: &[Found]) {
        for found in found {
            match *found {
                Found::Agreed { epoch, packet } => self.feed(Event::Agreed { epoch, packet }),
                Found::Differ { epoch } => {
                    self.protocol.figures.differ();
                    self.feed(Event::Differ { epoch });
                }
            }
        }
    }

    fn connected(&mut self, connected: io::Result<Box<Connected>>) {
        let Some(link) = &mut self.protocol.link else { return };
        let connected = match connected {
            Ok(connected) => connected,
            Err(error) => {
                self.protocol.link = None;
                self.protocol.unreached = Some(());
                return self.told.trouble(format!("connecting: {error}"));
            }
        };
        let Connected { name, source, probe, writer, theirs } = *connected;
        let framed = theirs.is_some();
        self.protocol.lists.several = theirs.is_some_and(|theirs| theirs.lists);
        let post = self.post.clone();
        let pipe = Pipe::start(writer, framed, link.cancel.clone(), move |error| {
            let _ = post.send(Message::Report(Report::WriteFailed(error)));
        });
        let post = self.post.clone();
        let back = Back::new(self.protocol.named.clone(), self.protocol.lists);
        let reading = thread::Builder::new().name("colo-in".into()).spawn(move || {
            listen(source, back, |heard| {
                let _ = post.send(Message::Report(Report::Heard(heard)));
            });
        });
        let pipe = match pipe.and_then(|pipe| reading.map(|_| pipe)) {
            Ok(pipe) => pipe,
            Err(error) => {
                self.protocol.link = None;
                self.protocol.unreached = Some(());
                return self.told.trouble(format!("starting a thread for the connection: {error}"));
            }
        };
        link.probe = Some(probe);
        link.pipe = Some(pipe.clone());
        self.told.peer = Some(name);
        self.protocol.framed = framed;
        self.protocol.compares = framed && self.protocol.machine.config().mode == Mode::LockStep;
        if self.protocol.compares {
            let post = self.post.clone();
            self.with_output(|card| {
                card.capture(Box::new(move |sent| {
                    let _ = post.send(Message::Report(Report::Sent(sent)));
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
            self.told.notice(Level::Warning, text);
        }
        self.feed(if framed { Event::Greeted } else { Event::Connected });
        if framed {
            self.feed(Event::Beats);
        }
    }

    fn pipe(&self) -> Option<Pipe> {
        self.protocol.link.as_ref()?.pipe.clone()
    }

    fn say_session(&self, generation: Generation) {
        let config = self.protocol.machine.config();
        let session = Some(Agreement::new(config.mode, generation, config.period));
        let hello = Hello { session, ..self.protocol.ours.clone() };
        if let Some(pipe) = self.pipe()
            && let Err(error) = pipe.first(Lane::Hello, hello.emit())
        {
            let _ = self.post.send(Message::Report(Report::WriteFailed(error)));
        }
    }

    pub(super) fn connect(&mut self, address: Address) {
        let config = *self.protocol.machine.config();
        let (ours, bare) = (self.protocol.ours.clone(), self.protocol.bare);
        let started = Cancel::new().and_then(|cancel| {
            let (post, reading) = (self.post.clone(), Cancel::new()?);
            let cancels = (cancel.clone(), reading.clone());
            let deadline = Instant::now() + config.answer;
            self.protocol.link = Some(Attached { cancel, reading, pipe: None, probe: None, deadline });
            connect::start(address, ours, config.rule, bare, cancels, move |connected| {
                let _ = post.send(Message::Report(Report::Connected(connected.map(Box::new))));
            })
        });
        if let Err(error) = started {
            let _ = self.post.send(Message::Report(Report::Connected(Err(error))));
        }
    }
}
