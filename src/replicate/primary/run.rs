//! Remus's part of a primary: what its machine's actions mean here, and what its threads report.

use super::connect::{self, Connected};
use super::guest::{Done, Job};
use super::round::Rounds;
use super::{Ending, Resolve, words};
use crate::hypervisor::OutputBuffer;
use crate::libxc::SaveError;
use crate::protocol::{Generation, Level, OutputCall, Refused, Session, Time};
use crate::remus::pacing::Target;
use crate::remus::primary::{Action, Code, Command, End, Event, Phase};
use crate::remus::wire::{Capabilities, Control, Direction, Encoder, Peer, WireError};
use crate::remus::{Primary, RefuseReason};
use crate::replicate::engine::guest::has_ended;
use crate::replicate::engine::primary::{self as engine, Message};
use crate::replicate::failpoint::Step;
use crate::replicate::link::{Heard, Outbox, StopFlag, backward, silence};
use crate::replicate::operator::{self, millis_since};
use crate::replicate::secondary::OTHER_VERSION;
use crate::replicate::stats::Statistics;
use crate::replicate::status::{Framing, Guest, Output, Status, primary_phase};
use crate::transport::{Address, Cancel, Probe};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::thread;
use std::time::{Duration, Instant};

/// How the peer is called that takes everything and keeps nothing: [`crate::transport::Address::Null`].
const NOWHERE: &str = "null:";

/// What the threads report.
pub(super) enum Report {
    Done(Done),
    Heard(Session, Heard),
    Connected(Session, io::Result<Connected>),
    WriteFailed(Session, io::Error),
}

/// The connection there is.
pub(super) struct Attached {
    session: Session,
    cancel: Cancel,
    /// Once the peer is known.
    outbox: Option<Outbox>,
    probe: Option<Probe>,
}

pub(super) struct Remus {
    pub machine: Primary,
    pub stop: StopFlag,
    pub link: Option<Attached>,
    /// The connection closed last, which may have something to send yet.
    pub closing: Option<Outbox>,
    pub address: Option<Address>,
    pub resolve: Resolve,
    pub rounds: Rounds,
    /// The peer has no framing.
    pub bare: bool,
    /// Protection was asked for and has not ended since.
    pub protecting: bool,
    /// The guest has ended by itself.
    pub guest_gone: bool,
}

type Run = engine::Run<Remus>;

impl engine::Protocol for Remus {
    type Report = Report;
    type Job = Job;
    type Event = Event;
    type Action = Action;
    type Output = dyn OutputBuffer;

    fn phase(&self) -> &'static str {
        primary_phase(self.machine.phase())
    }

    fn session(&self) -> Session {
        self.machine.session()
    }

    fn generation(&self) -> Generation {
        self.machine.generation()
    }

    fn capabilities(&self) -> (Capabilities, Capabilities) {
        let offered = self.machine.config().offered();
        let in_use = match self.machine.phase() {
            Phase::Protected | Phase::Delegated | Phase::Leaving { .. } if self.bare => Capabilities::BARE,
            Phase::Protected | Phase::Delegated | Phase::Leaving { .. } => offered,
            _ => Capabilities::empty(),
        };
        (offered, in_use)
    }

    fn statistics(&self) -> &Statistics {
        self.rounds.statistics()
    }

    fn status(run: &Run, common: Status) -> Status {
        let remus = &run.protocol;
        let (machine, rounds) = (&remus.machine, &remus.rounds);
        let (checkpoint, acknowledged) = machine.checkpoints();
        let (config, session) = (machine.config(), machine.session().0);
        Status {
            guest: match machine.phase() {
                Phase::Ended(End::Suspended) => Guest::Suspended,
                Phase::Ended(_) => Guest::Stopped,
                _ if machine.stands_still() => Guest::Suspended,
                _ => Guest::Running,
            },
            // What goes nowhere protects nobody.
            protected: machine.is_protected() && common.peer.as_deref() != Some(NOWHERE),
            framing: common.peer.as_ref().map(|_| if remus.bare { Framing::Bare } else { Framing::Framed }),
            rule: config.rule.name().into(),
            session: if session == 0 { String::new() } else { format!("{session:016x}") },
            interval_ms: u64::try_from(config.interval.as_millis()).unwrap_or(u64::MAX),
            output: if machine.is_held() { Output::Held } else { Output::Free },
            checkpoint,
            acknowledged,
            since_last_ms: rounds.last().map(millis_since),
            adaptive: rounds.pacing().map(|pacing| match pacing.target {
                Target::PausedShare(share) => format!("paused at most {}.{} %", share / 10, share % 10),
                Target::OutputDelay(delay) => format!("output delayed at most {} ms", delay.as_millis()),
            }),
            ..common
        }
    }

    fn is_over(&self) -> bool {
        matches!(self.machine.phase(), Phase::Ended(_))
    }

    fn is_alone(&self) -> bool {
        self.machine.phase() == Phase::Alone
    }

    fn is_suspended(&self) -> bool {
        self.machine.phase() == Phase::Ended(End::Suspended)
    }

    fn may_unprotect(&self) -> bool {
        matches!(self.machine.phase(), Phase::Connecting | Phase::Greeting | Phase::Claiming | Phase::Protected)
    }

    fn ending(run: &Run) -> Option<Ending> {
        let (told, once) = (run.terminated > 0, run.once);
        match run.protocol.machine.phase() {
            Phase::Ended(End::SwitchedOver) => Some(Ending::SwitchedOver),
            Phase::Ended(End::Fenced) if once || told => Some(Ending::Fenced),
            Phase::Alone if told => Some(Ending::Stopped),
            Phase::Alone if once && run.protocol.protecting => Some(Ending::Unprotected),
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
        match command {
            operator::Command::Protect { .. } if !engine::Protocol::is_alone(&run.protocol) => {
                Err(operator::Refused::Phase(engine::Protocol::phase(&run.protocol)))
            }
            operator::Command::Protect { host, rsh, remote } => {
                let address = (run.protocol.resolve)(&host, rsh.as_deref(), remote.as_deref());
                run.protect(address.map_err(operator::Refused::Host)?)
            }
            operator::Command::SetInterval(interval) => run.command(Command::SetInterval(interval)),
            operator::Command::SwitchOver => run.command(Command::SwitchOver),
            // The loop's.
            _ => Ok(()),
        }
    }

    fn take(run: &mut Run, report: Report) {
        match report {
            Report::Done(done) => run.done(done),
            Report::Heard(session, heard) => run.heard(session, heard),
            Report::Connected(session, connected) => run.connected(session, connected),
            Report::WriteFailed(session, error) => {
                log::warn!("{}: writing to the secondary: {error}", run.told.domain);
                run.feed(Event::LinkLost { session });
            }
        }
    }

    fn carry_out(run: &mut Run, action: Action) {
        match action {
            Action::BeginStream { stream, checkpoint } => {
                if let Some(outbox) = run.outbox() {
                    let session = run.protocol.machine.session();
                    run.job(Job::Begin { outbox, session, stream, checkpoint });
                }
            }
            Action::CopyState { checkpoint } => run.job(Job::Copy { checkpoint }),
            Action::Transmit { checkpoint, .. } => run.job(Job::Transmit { checkpoint }),
            Action::StopTransmit { checkpoint } => run.protocol.stop.stop(checkpoint),
            Action::ReleaseOutput { up_to_epoch } => {
                run.output(OutputCall::Release, |output| output.release(up_to_epoch));
                run.failpoints.pass(Step::Released);
                run.protocol.rounds.acknowledged(up_to_epoch + 1);
            }
            Action::Connect { session, .. } => run.connect(session),
            Action::CloseLink { session } => {
                if let Some(link) = run.protocol.link.take_if(|link| link.session == session) {
                    run.detach(&link);
                    run.order(engine::Job::Forget);
                }
            }
            Action::SendFrame(frame) => {
                if let Control::SwitchOver { .. } = frame {
                    run.failpoints.pass(Step::Delegated);
                }
                if let Some(outbox) = run.outbox() {
                    outbox.send(frame);
                }
            }
            Action::Notice(notice) => run.notice(notice.level, notice.code),
            Action::Common(action) => run.carry_out(action),
        }
    }

    fn resumed(run: &mut Run, at: Instant, pause: Duration) {
        run.protocol.rounds.resumed(run.protocol.machine.checkpoints().0, at, pause);
    }

    /// A guest that has ended by itself needs no protection any more, nor anybody who waits for an operator.
    fn failed(run: &mut Run, error: &SaveError) {
        if has_ended(error) {
            run.told.trouble("the guest has ended by itself: its protection ends too");
            run.protocol.guest_gone = true;
            run.once = true;
        }
    }

    fn link(&self) -> (Option<&Probe>, Option<u64>) {
        let Some(link) = &self.link else { return (None, None) };
        (link.probe.as_ref(), link.outbox.as_ref().map(Outbox::taken))
    }

    fn is_gone(&self) -> bool {
        self.guest_gone
    }

    fn close(run: &mut Run) {
        if let Some(link) = run.protocol.link.take() {
            run.detach(&link);
        }
    }

    fn closed(run: &mut Run) {
        if let Some(closing) = run.protocol.closing.take() {
            closing.closed();
        }
    }
}

impl Run {
    fn done(&mut self, done: Done) {
        match done {
            Done::Image { checkpoint } => self.feed(Event::ImageReady { checkpoint }),
            Done::CopyFailed { checkpoint, error } => {
                self.told.trouble(format!("copying checkpoint {checkpoint}: {error}"));
                <Remus as engine::Protocol>::failed(self, &error);
                self.feed(Event::CopyFailed { checkpoint });
            }
            Done::Copied { checkpoint, pages } => {
                self.failpoints.pass(Step::Copied);
                self.protocol.rounds.copied(checkpoint, pages);
                self.feed(Event::StateCopied { checkpoint });
            }
            Done::Sent { checkpoint, bytes, took } => {
                self.protocol.rounds.sent(checkpoint, bytes, took);
                self.feed(Event::CheckpointSent { checkpoint });
                self.pace();
            }
            Done::Stopped { checkpoint } => self.feed(Event::CheckpointSent { checkpoint }),
            Done::WriteFailed(session, error) => {
                log::warn!("{}: {error}", self.told.domain);
                self.feed(Event::LinkLost { session });
            }
        }
    }

    fn heard(&mut self, session: Session, heard: Heard) {
        match heard {
            Heard::Frame(session, frame, detail) => {
                match frame {
                    Control::Ack { .. } => self.failpoints.pass(Step::Acknowledged),
                    Control::Hello(_) => self.failpoints.pass(Step::Greeted),
                    Control::Refuse { checkpoint, reason } => {
                        self.protocol.rounds.refused();
                        self.refused(checkpoint, reason, &detail);
                    }
                    _ => {}
                }
                self.feed(Event::Frame { session, frame });
                self.pace();
            }
            Heard::Garbled(error) => {
                if session == self.protocol.machine.session() {
                    self.told.trouble(match &error {
                        WireError::Version { .. } => format!("{error}: {OTHER_VERSION}"),
                        error => format!("the back channel: {error}"),
                    });
                    self.feed(Event::Garbled);
                }
            }
            Heard::Ended(error) => {
                if let Some(error) = error {
                    log::warn!("{}: reading from the secondary: {error}", self.told.domain);
                }
                self.feed(Event::LinkLost { session });
            }
        }
    }

    fn connected(&mut self, session: Session, connected: io::Result<Connected>) {
        let ours = self.protocol.link.as_mut().filter(|link| link.session == session);
        let (link, connected) = match (ours, connected) {
            (Some(link), Ok(connected)) => (link, connected),
            // Given up meanwhile.
            (None, _) => return,
            (Some(_), Err(error)) => {
                self.told.trouble(format!("connecting: {error}"));
                self.feed(Event::LinkLost { session });
                return;
            }
        };
        let Connected { peer, name, reader, first, writer, cancel } = connected;
        let framed = peer == Peer::Framed;
        let encoder = framed.then(|| Encoder::new(session, Direction::Forward));
        let post = self.post.clone();
        let farewell = self.protocol.machine.config().timeout;
        let probe = reader.probe();
        let outbox = Outbox::start(writer, encoder, cancel, farewell, move |error| {
            let _ = post.send(Message::Report(Report::WriteFailed(session, error)));
        });
        let post = self.post.clone();
        let reading = thread::Builder::new().name("frames-in".into()).spawn(move || {
            let hear = |heard| {
                let _ = post.send(Message::Report(Report::Heard(session, heard)));
            };
            if framed { backward(reader, &first, hear) } else { silence(reader, hear) }
        });
        match outbox.and_then(|outbox| reading.map(|_| outbox)) {
            Ok(outbox) => link.outbox = Some(outbox),
            Err(error) => {
                self.told.trouble(format!("starting a thread for the connection: {error}"));
                self.feed(Event::LinkLost { session });
                return;
            }
        }
        link.probe = Some(probe);
        self.told.peer = Some(name);
        self.protocol.bare = !framed;
        self.feed(if framed { Event::Connected } else { Event::ConnectedBare });
    }

    fn notice(&mut self, level: Level, code: Code) {
        if code == Code::IntervalStretched {
            self.protocol.rounds.stretched();
        }
        self.told.notice(level, words::text(code));
        if code == Code::Bare {
            for (level, cost) in Capabilities::BARE.cost() {
                self.told.notice(level, cost);
            }
        }
    }

    /// What the secondary says of its refusal.
    fn refused(&mut self, checkpoint: u64, reason: RefuseReason, detail: &[u8]) {
        if !detail.is_empty() {
            let detail = String::from_utf8_lossy(detail);
            let text = format!("the secondary on checkpoint {checkpoint}: {reason}: {}", detail.escape_debug());
            self.told.notice(Level::Warning, text);
        }
    }

    fn outbox(&self) -> Option<Outbox> {
        self.protocol.link.as_ref()?.outbox.clone()
    }

    fn command(&mut self, command: Command) -> Result<(), operator::Refused> {
        self.obey(|protocol, now, actions| protocol.machine.command(now, command, actions))
    }

    fn connect(&mut self, session: Session) {
        let Some(address) = self.protocol.address.clone() else { return };
        let started = Cancel::new().and_then(|cancel| {
            let post = self.post.clone();
            self.protocol.link = Some(Attached { session, cancel: cancel.clone(), outbox: None, probe: None });
            connect::start(address, session, cancel, move |session, connected| {
                let _ = post.send(Message::Report(Report::Connected(session, connected)));
            })
        });
        if let Err(error) = started {
            let _ = self.post.send(Message::Report(Report::Connected(session, Err(error))));
        }
    }

    pub(super) fn protect(&mut self, address: Address) -> Result<(), operator::Refused> {
        self.protocol.protecting = true;
        self.protocol.address = Some(address);
        let session = Session(RandomState::new().build_hasher().finish() | 1);
        self.command(Command::Protect { session })
    }

    /// Lets the interval follow the figures of the round that has just ended, once for each.
    fn pace(&mut self) {
        let interval = self.protocol.machine.config().interval;
        if let Some(interval) = self.protocol.rounds.next_interval(interval) {
            // Pacing keeps its own bounds.
            let _ = self.command(Command::SetInterval(interval));
        }
    }

    fn detach(&mut self, link: &Attached) {
        match &link.outbox {
            Some(outbox) => {
                outbox.close();
                self.protocol.closing = Some(outbox.clone());
            }
            None => link.cancel.cancel(),
        }
    }
}
