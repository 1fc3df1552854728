//! The primary while it runs: the machine, its timers, and what its actions mean here.

use super::connect::{self, Connected};
use super::guest::{Done, Job};
use super::round::Rounds;
use super::{Ending, Message, Resolve, SharedOutput, Trouble, words};
use crate::control::capability::{Capability, Setting};
use crate::control::status::primary_phase;
use crate::control::{Reply, Request, Status};
use crate::hypervisor::{self, OutputBuffer, ShutdownReason};
use crate::libxc::SaveError;
use crate::remus::primary::{Action, Command, End, Event, Phase};
use crate::remus::wire::{Capabilities, Control, Direction, Encoder, Peer, WireError};
use crate::remus::{Level, OutputCall, Primary, Refused, Session, Timer, Timers};
use crate::replicate::clock::Clock;
use crate::replicate::failpoint::{Failpoints, Step};
use crate::replicate::link::{Heard, Outbox, StopFlag, backward, silence};
use crate::replicate::operator::Ask;
use crate::replicate::secondary::OTHER_VERSION;
use crate::replicate::witness::{Said, WitnessThread};
use crate::transport::{Address, Cancel, Probe};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::sync::PoisonError;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

/// The connection there is.
pub(super) struct Attached {
    session: Session,
    cancel: Cancel,
    /// Once the peer is known.
    outbox: Option<Outbox>,
    probe: Option<Probe>,
}

pub(super) struct Run {
    pub(super) clock: Clock,
    pub(super) machine: Primary,
    pub(super) timers: Timers,
    pub(super) jobs: Sender<Job>,
    pub(super) post: Sender<Message>,
    pub(super) output: SharedOutput,
    pub(super) stop: StopFlag,
    pub(super) link: Option<Attached>,
    /// The connection closed last, which may have something to send yet.
    pub(super) closing: Option<Outbox>,
    pub(super) witness: Option<WitnessThread>,
    pub(super) address: Option<Address>,
    pub(super) resolve: Resolve,
    pub(super) failpoints: Failpoints,
    pub(super) rounds: Rounds,
    pub(super) words: words::Words,
    pub(super) once: bool,
    /// What an action could not do, for the machine to hear of once all actions of its event are carried out.
    pub(super) failed: Vec<Event>,
    /// Why the guest could not be resumed.
    pub(super) stuck: Option<hypervisor::Error>,
    /// Protection was asked for and has not ended since.
    pub(super) protecting: bool,
    pub(super) terminated: u32,
    /// When to insist on ending.
    pub(super) insist_at: Instant,
}

impl Run {
    pub(super) fn serve(&mut self, inbox: &Receiver<Message>) -> Result<Ending, Trouble> {
        loop {
            self.insist();
            if let Some(error) = self.stuck.take_if(|_| self.machine.phase() == Phase::Ended(End::Suspended)) {
                return Err(Trouble::Resume(error));
            }
            if let Some(ending) = self.ending() {
                return Ok(ending);
            }
            let insist = self.may_unprotect().then(|| self.insist_at.saturating_duration_since(Instant::now()));
            let timer = self.timers.next().map(|at| self.clock.until(at));
            let message = match timer.into_iter().chain(insist).min() {
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
        match self.machine.phase() {
            Phase::Ended(End::SwitchedOver) => Some(Ending::SwitchedOver),
            Phase::Ended(End::Fenced) if self.once || self.terminated > 0 => Some(Ending::Fenced),
            Phase::Alone if self.terminated > 0 => Some(Ending::Stopped),
            Phase::Alone if self.once && self.protecting => Some(Ending::Unprotected),
            _ if self.terminated > 1 => Some(Ending::Abandoned),
            _ => None,
        }
    }

    fn expire(&mut self) {
        while let Some(timer) = self.timers.expired(self.clock.now()) {
            self.report(timer);
            self.feed(Event::Timer(timer));
        }
    }

    /// What the link shows, where the machine decides by it whether a deadline counts.
    fn report(&mut self, timer: Timer) {
        let Some(link) = &self.link else { return };
        match (timer, &link.probe, &link.outbox) {
            (Timer::Peer, Some(probe), _) => {
                let (read, unread) = (self.clock.now().before(probe.silence()), probe.has_input());
                self.feed(Event::Heard { read, unread });
            }
            (Timer::Answer, _, Some(outbox)) => {
                let bytes = outbox.taken();
                self.feed(Event::Progress { bytes });
            }
            _ => {}
        }
    }

    fn take(&mut self, message: Message) -> Result<(), Trouble> {
        match message {
            Message::Done(done) => self.done(done)?,
            Message::Heard(session, heard) => self.heard(session, heard),
            Message::Connected(session, connected) => self.connected(session, connected),
            Message::WriteFailed(session, error) => {
                log::warn!("{}: writing to the secondary: {error}", self.words.domain);
                self.feed(Event::LinkLost { session });
            }
            Message::Witness(Said::Answer(answer)) => self.feed(Event::Witness(answer)),
            Message::Witness(Said::Looked(looked)) => {
                // One that is over is nobody's any more.
                let known = (!matches!(self.machine.phase(), Phase::Ended(_))).then(|| self.machine.generation());
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

    fn done(&mut self, done: Done) -> Result<(), Trouble> {
        match done {
            Done::Suspended => {
                self.failpoints.pass(Step::Suspended);
                self.feed(Event::GuestSuspended);
            }
            Done::SuspendFailed(error, guest) => {
                self.words.trouble(format!("suspending the guest: {error}"));
                self.ends_with_guest(&error);
                self.feed(Event::SuspendFailed { guest });
            }
            Done::Image { checkpoint } => self.feed(Event::ImageReady { checkpoint }),
            Done::CopyFailed { checkpoint, error } => {
                self.words.trouble(format!("copying checkpoint {checkpoint}: {error}"));
                self.ends_with_guest(&error);
                self.feed(Event::CopyFailed { checkpoint });
            }
            Done::Copied { checkpoint, pages } => {
                self.failpoints.pass(Step::Copied);
                self.rounds.copied(checkpoint, pages);
                self.feed(Event::StateCopied { checkpoint });
            }
            Done::Resumed { at, pause } => {
                self.rounds.resumed(self.machine.checkpoints().0, at, pause);
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
            Done::Sent { checkpoint, bytes, took } => {
                self.rounds.sent(checkpoint, bytes, took);
                self.feed(Event::CheckpointSent { checkpoint });
                self.pace();
            }
            Done::Stopped { checkpoint } => self.feed(Event::CheckpointSent { checkpoint }),
            Done::WriteFailed(session, error) => {
                log::warn!("{}: {error}", self.words.domain);
                self.feed(Event::LinkLost { session });
            }
        }
        Ok(())
    }

    fn heard(&mut self, session: Session, heard: Heard) {
        match heard {
            Heard::Frame(session, frame, detail) => {
                match frame {
                    Control::Ack { .. } => self.failpoints.pass(Step::Acknowledged),
                    Control::Hello(_) => self.failpoints.pass(Step::Greeted),
                    Control::Refuse { checkpoint, reason } => {
                        self.rounds.refused();
                        self.words.refused(checkpoint, reason, &detail);
                    }
                    _ => {}
                }
                self.feed(Event::Frame { session, frame });
                self.pace();
            }
            Heard::Garbled(error) => {
                if session == self.machine.session() {
                    self.words.trouble(match &error {
                        WireError::Version { .. } => format!("{error}: {OTHER_VERSION}"),
                        error => format!("the back channel: {error}"),
                    });
                    self.feed(Event::Garbled);
                }
            }
            Heard::Ended(error) => {
                if let Some(error) = error {
                    log::warn!("{}: reading from the secondary: {error}", self.words.domain);
                }
                self.feed(Event::LinkLost { session });
            }
        }
    }

    fn connected(&mut self, session: Session, connected: io::Result<Connected>) {
        let ours = self.link.as_mut().filter(|link| link.session == session);
        let (link, connected) = match (ours, connected) {
            (Some(link), Ok(connected)) => (link, connected),
            // Given up meanwhile.
            (None, _) => return,
            (Some(_), Err(error)) => {
                self.words.trouble(format!("connecting: {error}"));
                self.feed(Event::LinkLost { session });
                return;
            }
        };
        let Connected { peer, name, reader, first, writer, cancel } = connected;
        let framed = peer == Peer::Framed;
        let encoder = framed.then(|| Encoder::new(session, Direction::Forward));
        let post = self.post.clone();
        let farewell = self.machine.config().timeout;
        let probe = reader.probe();
        let outbox = Outbox::start(writer, encoder, cancel, farewell, move |error| {
            let _ = post.send(Message::WriteFailed(session, error));
        });
        let post = self.post.clone();
        let reading = thread::Builder::new().name("frames-in".into()).spawn(move || {
            let hear = |heard| {
                let _ = post.send(Message::Heard(session, heard));
            };
            if framed { backward(reader, &first, hear) } else { silence(reader, hear) }
        });
        match outbox.and_then(|outbox| reading.map(|_| outbox)) {
            Ok(outbox) => link.outbox = Some(outbox),
            Err(error) => {
                self.words.trouble(format!("starting a thread for the connection: {error}"));
                self.feed(Event::LinkLost { session });
                return;
            }
        }
        link.probe = Some(probe);
        self.words.peer = Some(name);
        self.words.bare = !framed;
        self.feed(if framed { Event::Connected } else { Event::ConnectedBare });
    }

    /// A guest that has ended by itself needs no protection any more, nor anybody who waits for an operator.
    fn ends_with_guest(&mut self, error: &SaveError) {
        if let SaveError::Hypervisor(
            hypervisor::Error::NoSuchDomain { .. }
            | hypervisor::Error::SuspendNotAcknowledged {
                shutdown:
                    Some(
                        ShutdownReason::Poweroff
                        | ShutdownReason::Reboot
                        | ShutdownReason::Crash
                        | ShutdownReason::Watchdog,
                    ),
                ..
            },
        ) = error
        {
            self.words.trouble("the guest has ended by itself: its protection ends too".into());
            self.words.guest_gone = true;
            self.once = true;
        }
    }

    fn feed(&mut self, event: Event) {
        let before = self.machine.phase();
        let mut actions = Vec::new();
        self.machine.handle(self.clock.now(), event, &mut actions);
        self.carry_out_all(before, &actions);
        while let Some(failed) = self.failed.pop() {
            self.feed(failed);
        }
    }

    fn command(&mut self, command: Command) -> Result<(), Refused> {
        let before = self.machine.phase();
        let mut actions = Vec::new();
        self.machine.command(self.clock.now(), command, &mut actions)?;
        self.carry_out_all(before, &actions);
        while let Some(failed) = self.failed.pop() {
            self.feed(failed);
        }
        Ok(())
    }

    fn carry_out_all(&mut self, before: Phase, actions: &[Action]) {
        for action in actions {
            self.carry_out(*action);
        }
        let after = self.machine.phase();
        if primary_phase(before) != primary_phase(after) {
            log::info!("{}: {} -> {}", self.words.domain, primary_phase(before), primary_phase(after));
            if after == Phase::Alone {
                self.words.peer = None;
            }
        }
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Suspend => self.job(Job::Suspend),
            Action::BeginStream { stream, checkpoint } => {
                if let Some(outbox) = self.outbox() {
                    let session = self.machine.session();
                    self.job(Job::Begin { outbox, session, stream, checkpoint });
                }
            }
            Action::CopyState { checkpoint } => self.job(Job::Copy { checkpoint }),
            Action::Resume { epoch } => self.job(Job::Resume { epoch }),
            Action::Transmit { checkpoint, .. } => self.job(Job::Transmit { checkpoint }),
            Action::StopTransmit { checkpoint } => self.stop.stop(checkpoint),
            Action::HoldOutput => {
                self.output("holding output", OutputCall::Hold, |output| output.hold());
                self.failpoints.pass(Step::Held);
            }
            Action::ReleaseOutput { up_to_epoch } => {
                self.output("releasing output", OutputCall::Release, |output| output.release(up_to_epoch).map(drop));
                self.failpoints.pass(Step::Released);
                self.rounds.acknowledged(up_to_epoch + 1);
            }
            Action::FreeOutput => {
                self.output("freeing output", OutputCall::Free, |output| output.free());
            }
            Action::DiscardOutput => {
                self.output("discarding output", OutputCall::Discard, |output| output.discard().map(drop));
            }
            Action::PauseGuest => self.job(Job::Pause),
            Action::Connect { session, .. } => self.connect(session),
            Action::CloseLink { session } => {
                if let Some(link) = self.link.take_if(|link| link.session == session) {
                    self.detach(&link);
                    self.job(Job::Forget);
                }
            }
            Action::SendFrame(frame) => {
                if let Control::SwitchOver { .. } = frame {
                    self.failpoints.pass(Step::Delegated);
                }
                if let Some(outbox) = self.outbox() {
                    outbox.send(frame);
                }
            }
            Action::AskWitness { generation } => {
                self.failpoints.pass(Step::Claiming);
                match &self.witness {
                    Some(witness) => witness.ask(generation, self.machine.session()),
                    None => self.words.trouble("there is no witness to ask".into()),
                }
            }
            Action::SetTimer { timer, at } => self.timers.set(timer, at),
            Action::CancelTimer(timer) => self.timers.cancel(timer),
            Action::Notice(notice) => {
                if notice.code == crate::remus::primary::Code::IntervalStretched {
                    self.rounds.stretched();
                }
                self.words.notice(notice);
            }
        }
    }

    fn outbox(&self) -> Option<Outbox> {
        self.link.as_ref()?.outbox.clone()
    }

    fn job(&self, job: Job) {
        // The thread ends after this value's last job.
        let _ = self.jobs.send(job);
    }

    fn output(
        &mut self,
        doing: &str,
        call: OutputCall,
        act: impl FnOnce(&mut dyn OutputBuffer) -> crate::hypervisor::Result<()>,
    ) {
        let acted = act(&mut **self.output.lock().unwrap_or_else(PoisonError::into_inner));
        if let Err(error) = acted {
            self.words.trouble(format!("{doing}: {error}"));
            self.failed.push(Event::OutputFailed(call));
        }
    }

    fn connect(&mut self, session: Session) {
        let Some(address) = self.address.clone() else { return };
        let started = Cancel::new().and_then(|cancel| {
            let post = self.post.clone();
            self.link = Some(Attached { session, cancel: cancel.clone(), outbox: None, probe: None });
            connect::start(address, session, cancel, move |session, connected| {
                let _ = post.send(Message::Connected(session, connected));
            })
        });
        if let Err(error) = started {
            let _ = self.post.send(Message::Connected(session, Err(error)));
        }
    }

    pub(super) fn protect(&mut self, address: Address) -> Result<(), Refused> {
        self.protecting = true;
        self.address = Some(address);
        let session = Session(RandomState::new().build_hasher().finish() | 1);
        self.command(Command::Protect { session })
    }

    /// Lets the interval follow the figures of the round that has just ended, once for each.
    fn pace(&mut self) {
        if let Some(interval) = self.rounds.next_interval(self.machine.config().interval) {
            // Pacing keeps its own bounds.
            let _ = self.command(Command::SetInterval(interval));
        }
    }

    fn request(&mut self, request: Request) -> Reply {
        let obeyed = match request {
            Request::Status | Request::Watch { .. } => return Reply::status(self.status()),
            Request::Capabilities => return Reply::capabilities(self.machine.config().offered(), self.in_use()),
            Request::SetCapability { name, on } => {
                match Capability::set(&name, on, self.machine.config().offered(), self.in_use()) {
                    Setting::Already => return Reply::status(self.status()),
                    Setting::Unprotect => self.command(Command::Unprotect { force: false }),
                    Setting::Fixed(text) | Setting::Unknown(text) => return Reply::error(text),
                }
            }
            Request::Protect { host, rsh, remote } => {
                if self.machine.phase() != Phase::Alone {
                    return Reply::error(format!("cannot be done while {}", primary_phase(self.machine.phase())));
                }
                match (self.resolve)(&host, rsh.as_deref(), remote.as_deref()) {
                    Ok(address) => self.protect(address),
                    Err(error) => return Reply::error(&error),
                }
            }
            Request::SetInterval { ms } => self.command(Command::SetInterval(Duration::from_millis(ms))),
            Request::SwitchOver => self.command(Command::SwitchOver),
            Request::Unprotect { force } => self.command(Command::Unprotect { force }),
            Request::FailOver { .. } | Request::Drop => {
                return Reply::error("this side is the primary: ask the secondary");
            }
        };
        match obeyed {
            Err(Refused::Phase) => {
                Reply::error(format!("cannot be done while {}", primary_phase(self.machine.phase())))
            }
            Err(refused) => Reply::error(refused.to_string()),
            Ok(()) => Reply::status(self.status()),
        }
    }

    fn in_use(&self) -> Capabilities {
        match self.machine.phase() {
            Phase::Protected | Phase::Delegated | Phase::Leaving { .. } if self.words.bare => Capabilities::BARE,
            Phase::Protected | Phase::Delegated | Phase::Leaving { .. } => self.machine.config().offered(),
            _ => Capabilities::empty(),
        }
    }

    pub(super) fn status(&self) -> Status {
        self.words.status(&self.machine, &self.rounds)
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
        self.terminated > 0
            && matches!(self.machine.phase(), Phase::Connecting | Phase::Greeting | Phase::Claiming | Phase::Protected)
    }

    /// Protection that is kept because nobody could be asked ends as soon as somebody can.
    fn insist(&mut self) {
        if self.may_unprotect() && self.insist_at <= Instant::now() {
            self.insist_at = Instant::now() + self.machine.config().timeout;
            // Asked for again until it can be decided.
            let _ = self.command(Command::Unprotect { force: false });
        }
    }

    /// Ends the guest's thread, and the connection once what is to be said has been sent, for the process may end next. A guest
    /// that stays may be on its way into a checkpoint that nobody wants.
    pub(super) fn shut(&mut self, stays: bool) {
        if let Some(link) = self.link.take() {
            self.detach(&link);
        }
        if stays {
            self.job(Job::Leave);
        }
        self.job(Job::Quit);
        if let Some(closing) = self.closing.take() {
            closing.closed();
        }
    }

    fn detach(&mut self, link: &Attached) {
        match &link.outbox {
            Some(outbox) => {
                outbox.close();
                self.closing = Some(outbox.clone());
            }
            None => link.cancel.cancel(),
        }
    }
}
