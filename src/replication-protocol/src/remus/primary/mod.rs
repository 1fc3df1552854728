//! The primary: checkpoints the guest, holds its output until it is acknowledged, and knows when it may go on alone.
//!
//! ```text
//!  Alone --protect--> Connecting --> Greeting --HELLO--> Claiming --granted--> Protected --SWITCH_OVER--> Delegated
//!    ^                    |             |                  |                    |    ^                      |
//!    |<-----failed--------+<--failed----+<--unreachable----+                    v    | heard again          |
//!    |<------------------------------granted---------------------------------- Leaving <-----silent----------+
//!    |                                                                           |                           |
//!    +--force-- Ended <-------------------------held, or ACTIVE------------------+---------------------------+
//! ```
//!
//! The guest runs on in all states but Delegated and Ended, where it stands still. In Leaving its output stays held; what it
//! computes meanwhile is lost if the other side turns out to be active, and nobody has seen any of it.

use alloc::vec::Vec;
mod event;
mod leave;
mod round;

pub use crate::protocol::Answer;
pub use event::{Action, Cause, Code, Command, End, Event, Notice};

use super::config::Config;
use super::wire::{Capabilities, Control, Farewell, Hello};
use crate::claim::{AloneStage as Stage, Domain, GoAlone};
use crate::protocol::primary as common;
use crate::protocol::{Generation, Guest, Level, Liveness, Progress, Refused, Session, Silence, Time, Timer};
use core::time::Duration;
use round::Round;

/// Where a primary is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Active and unprotected. Output is free.
    Alone,
    /// Waits for the connection. As Alone otherwise, and so are the next two.
    Connecting,
    /// Waits for the secondary's HELLO.
    Greeting,
    /// The secondary takes part: wants a generation for the session.
    Claiming,
    /// Makes checkpoints. Output is free until the first, and held from then on.
    Protected,
    /// Has told the secondary to go active; the guest stands still.
    Delegated,
    /// Wants to go on alone and may not yet.
    Leaving {
        /// Why.
        cause: Cause,
        /// The witness has been asked and has not answered.
        asked: bool,
        /// The peer has given a sign of life since.
        heard: bool,
    },
    /// The guest stands still for good.
    Ended(End),
}

/// How far the meeting with a secondary is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Meeting {
    Connecting,
    Greeting,
}

/// The machine. A clone behaves as the original; equal machines behave the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Primary {
    config: Config,
    /// Who may be active. In a session, and after it, [`Self::delegated`] says the rest.
    claim: GoAlone<Cause>,
    /// While a secondary is met.
    meeting: Meeting,
    domain: Domain,
    round: Round,
    session: Session,
    /// Frames can be sent and received.
    link: bool,
    /// The peer has no framing: xl's behaviour.
    bare: bool,
    /// Streams begun in this session.
    stream: u32,
    /// Newest checkpoint begun, which is also the guest's epoch once it runs again. Goes on from session to session, so
    /// that what is late of an older one names no checkpoint of a newer.
    checkpoint: u64,
    acknowledged: u64,
    /// Something has been sent that could become a whole checkpoint.
    transmitted: bool,
    /// The next checkpoint must begin a new stream.
    whole: bool,
    /// The checkpoint in the round has been refused.
    refused: bool,
    /// Refusals in a row.
    refusals: u32,
    /// Whether the last 100 checkpoints were refused, one bit each, the newest the lowest.
    recent: u128,
    /// The interval is over.
    due: bool,
    /// When the checkpoint under way, or the last one, began.
    began: Time,
    /// The last interval was over before its checkpoint was acknowledged, and it has been said.
    stretched: bool,
    /// A switch-over has been asked for.
    switching: bool,
    /// SWITCH_OVER has been sent in this session.
    delegated: bool,
    /// When the secondary was heard last.
    liveness: Liveness,
    /// What the link has taken of the streams.
    progress: Progress,
}

impl Primary {
    /// For a guest that runs unprotected, its output free. `generation` is the newest that this side holds, or that the
    /// witness has ever given when the operator says that no other copy is active.
    pub fn new(config: Config, generation: Generation) -> Self {
        Primary {
            config,
            claim: GoAlone::new(config.rule, config.retry, generation, Stage::Alone),
            meeting: Meeting::Connecting,
            domain: Domain::default(),
            round: Round::Idle,
            session: Session::default(),
            link: false,
            bare: false,
            stream: 0,
            checkpoint: 0,
            acknowledged: 0,
            transmitted: false,
            whole: true,
            refused: false,
            refusals: 0,
            recent: 0,
            due: false,
            began: Time::default(),
            stretched: false,
            switching: false,
            delegated: false,
            liveness: Liveness::default(),
            progress: Progress::default(),
        }
    }

    /// Where it is.
    pub const fn phase(&self) -> Phase {
        match (self.claim.stage(), self.delegated) {
            (Stage::Alone, _) => Phase::Alone,
            (Stage::Meeting, _) => match self.meeting {
                Meeting::Connecting => Phase::Connecting,
                Meeting::Greeting => Phase::Greeting,
            },
            (Stage::Claiming, _) => Phase::Claiming,
            (Stage::Session, false) => Phase::Protected,
            (Stage::Session, true) => Phase::Delegated,
            (Stage::Leaving { cause, asked, heard }, _) => Phase::Leaving { cause, asked, heard },
            (Stage::Ended, false) => Phase::Ended(End::Fenced),
            (Stage::Ended, true) => Phase::Ended(End::SwitchedOver),
            (Stage::Suspended, _) => Phase::Ended(End::Suspended),
        }
    }

    /// The newest generation it holds or knows of.
    pub const fn generation(&self) -> Generation {
        self.claim.generation()
    }

    /// The session, the last one if there is none now.
    pub const fn session(&self) -> Session {
        self.session
    }

    /// The newest checkpoint begun, and the newest acknowledged in the session, 0 for none.
    pub const fn checkpoints(&self) -> (u64, u64) {
        (self.checkpoint, self.acknowledged)
    }

    /// Whether output is held.
    pub const fn is_held(&self) -> bool {
        self.domain.is_held()
    }

    /// Whether the guest stands still, be it for the moment of a checkpoint or for good.
    pub const fn stands_still(&self) -> bool {
        matches!(self.domain.guest(), Guest::Suspended | Guest::Paused)
    }

    /// The settings in use.
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Whether a secondary has acknowledged a checkpoint and nothing is known to be wrong with it.
    pub const fn is_protected(&self) -> bool {
        matches!(self.phase(), Phase::Protected) && self.acknowledged > 0
    }

    /// Takes one event and adds what is to be done to `actions`, which the driver carries out in order.
    pub fn handle(&mut self, now: Time, event: Event, actions: &mut Vec<Action>) {
        let out = actions;
        match event {
            Event::ImageReady { checkpoint } => self.image_ready(now, checkpoint, out),
            Event::StateCopied { checkpoint } => self.state_copied(now, checkpoint, out),
            Event::CopyFailed { checkpoint } => {
                if checkpoint == self.checkpoint && matches!(self.round, Round::Image | Round::Copying) {
                    self.local_failure(now, out);
                }
            }
            Event::CheckpointSent { checkpoint } => self.checkpoint_sent(now, checkpoint, out),
            Event::Connected => self.connected(now, out),
            Event::ConnectedBare => self.connected_bare(now, out),
            Event::Frame { session, frame } => {
                if self.link && !self.bare && session == self.session {
                    self.frame(now, frame, out);
                }
            }
            Event::Garbled => {
                if self.link {
                    self.notice(Level::Critical, Code::BackChannelDamaged, out);
                    self.garbled(now, out);
                }
            }
            Event::LinkLost { session } => {
                if session == self.session {
                    self.lost(now, Cause::LinkLost, out);
                }
            }
            Event::Common(event) => self.common(now, event, out),
        }
    }

    fn common(&mut self, now: Time, event: common::Event, out: &mut Vec<Action>) {
        match event {
            common::Event::GuestSuspended => self.guest_suspended(out),
            common::Event::SuspendFailed { guest } => {
                if self.domain.suspend_failed(guest) {
                    self.local_failure(now, out);
                }
            }
            common::Event::ResumeFailed => {
                if self.domain.resume_failed(out) {
                    self.stuck(out);
                }
            }
            common::Event::OutputFailed(call) => self.output_failed(now, call, out),
            common::Event::Heard { read, unread } => self.liveness.observe(read, unread),
            common::Event::Progress { bytes } => self.progress.observe(bytes),
            common::Event::GuestResumed => {
                self.domain.resumed();
                self.progress(now, out);
            }
            common::Event::Timer(timer) => self.timer(now, timer, out),
            common::Event::Witness(answer) => {
                let next = self.claim.answered(answer, out);
                self.follow(now, next, out);
            }
        }
    }

    fn timer(&mut self, now: Time, timer: Timer, out: &mut Vec<Action>) {
        match timer {
            Timer::Heartbeat => {
                if self.link && !self.bare && self.phase() != Phase::Greeting {
                    out.push(Action::SendFrame(Control::Heartbeat { generation: self.generation() }));
                    self.set(Timer::Heartbeat, self.config.heartbeat, now, out);
                }
            }
            Timer::Peer => self.peer_silent(now, out),
            Timer::Answer => match self.phase() {
                Phase::Connecting | Phase::Greeting => self.no_session(Code::NoAnswer, out),
                // What is still being sent is not overdue.
                Phase::Protected if self.round.is_under_way() && self.progress.moves() => {
                    self.set(Timer::Answer, self.config.answer, now, out);
                }
                Phase::Protected if self.round.is_under_way() => self.leave(now, Cause::AckLate, out),
                Phase::Delegated => self.leave(now, Cause::NotTakenOver, out),
                _ => {}
            },
            Timer::Round => {
                self.due = true;
                // A whole image takes as long as it takes.
                if self.phase() == Phase::Protected && self.round != Round::Idle && !self.whole && !self.stretched {
                    self.stretched = true;
                    self.notice(Level::Warning, Code::IntervalStretched, out);
                }
                self.progress(now, out);
            }
            Timer::Retry => self.claim.retry(out),
            Timer::Output => self.output_again(out),
        }
    }

    fn peer_silent(&mut self, now: Time, out: &mut Vec<Action>) {
        if self.bare || !matches!(self.phase(), Phase::Claiming | Phase::Protected | Phase::Delegated) {
            return;
        }
        match self.liveness.silence(now, self.config.timeout) {
            Silence::NotYet(at) => common::set(Timer::Peer, at, out),
            Silence::Lost if self.phase() == Phase::Claiming => self.no_session(Code::NoAnswer, out),
            Silence::Lost => self.leave(now, Cause::Silent, out),
        }
    }

    /// Obeys the operator, or says why not.
    ///
    /// # Errors
    /// [`Refused`]: nothing has changed.
    pub fn command(&mut self, now: Time, command: Command, actions: &mut Vec<Action>) -> Result<(), Refused> {
        let out = actions;
        match (command, self.phase()) {
            (Command::SetInterval(interval), _) => {
                Config::interval_in_bounds(interval).map_err(|_| Refused::Interval)?;
                self.config.interval = interval;
                // A timer that runs for the old interval may be far away.
                if self.phase() == Phase::Protected && !self.due {
                    self.set(Timer::Round, interval, self.began, out);
                }
            }
            (Command::Protect { .. }, Phase::Alone) if self.domain.is_failing() => return Err(Refused::Output),
            (Command::Protect { session }, Phase::Alone) if self.domain.guest() != Guest::Paused => {
                self.session = session;
                self.connect(now, out);
            }
            (Command::SwitchOver, Phase::Protected) if self.bare => return Err(Refused::Bare),
            (Command::SwitchOver, Phase::Protected) if self.acknowledged == 0 => return Err(Refused::NoCheckpoint),
            (Command::SwitchOver, Phase::Protected) => {
                self.switching = true;
                self.due = true;
                self.progress(now, out);
            }
            (Command::Unprotect { force: false }, Phase::Connecting | Phase::Greeting | Phase::Claiming) => {
                self.alone_again(out);
                common::tell(Level::Critical, common::Code::Unprotected, out);
            }
            (Command::Unprotect { force: false }, Phase::Protected) => self.leave(now, Cause::Asked, out),
            (
                Command::Unprotect { force: true },
                Phase::Protected | Phase::Delegated | Phase::Leaving { .. } | Phase::Ended(_),
            ) => {
                common::tell(Level::Critical, common::Code::Forced, out);
                self.claim.force();
                self.go_alone(Farewell::Asked, out);
            }
            (Command::Unprotect { force: false }, Phase::Ended(End::Suspended)) => return Err(Refused::Suspended),
            (Command::Unprotect { force: false }, Phase::Ended(_)) => return Err(Refused::Superseded),
            _ => return Err(Refused::Phase),
        }
        Ok(())
    }

    /// Asks for the connection. Nothing is claimed before a secondary has said that it takes part: a start that reaches nobody
    /// takes nothing from a session that others may have.
    fn connect(&mut self, now: Time, out: &mut Vec<Action>) {
        self.claim.meet();
        self.meeting = Meeting::Connecting;
        self.stream = 0;
        self.acknowledged = 0;
        self.refusals = 0;
        self.recent = 0;
        self.transmitted = false;
        self.whole = true;
        self.refused = false;
        self.switching = false;
        self.delegated = false;
        self.stretched = false;
        self.bare = false;
        self.progress.restart();
        out.push(Action::Connect { session: self.session, generation: self.generation() });
        self.set(Timer::Answer, self.config.answer, now, out);
    }

    fn connected(&mut self, now: Time, out: &mut Vec<Action>) {
        if self.phase() != Phase::Connecting {
            return;
        }
        self.meeting = Meeting::Greeting;
        self.link = true;
        out.push(Action::SendFrame(Control::Hello(self.hello())));
        self.set(Timer::Answer, self.config.answer, now, out);
    }

    fn connected_bare(&mut self, now: Time, out: &mut Vec<Action>) {
        if self.phase() != Phase::Connecting {
            return;
        }
        if !self.config.bare {
            return self.no_session(Code::BareRefused, out);
        }
        self.link = true;
        self.bare = true;
        self.notice(Level::Critical, Code::Bare, out);
        self.claim(now, out);
    }

    fn hello(&self) -> Hello {
        let ms = |span: Duration| u32::try_from(span.as_millis()).unwrap_or(u32::MAX);
        Hello {
            capabilities: self.config.offered(),
            rule: self.config.rule,
            generation: self.generation(),
            heartbeat_ms: ms(self.config.heartbeat),
            timeout_ms: ms(self.config.timeout),
            domain: self.config.domain,
        }
    }

    fn greeted(&mut self, now: Time, hello: Hello, out: &mut Vec<Action>) {
        if self.config.is_of_another(hello.domain) {
            out.push(Action::SendFrame(Control::Goodbye { reason: Farewell::Unsuited }));
            return self.no_session(Code::OtherDomain, out);
        }
        let suits = hello.capabilities.contains(Capabilities::REQUIRED)
            && hello.rule == self.config.rule
            && hello.generation == self.generation()
            && self.config.hears(hello.heartbeat_ms);
        if !suits {
            out.push(Action::SendFrame(Control::Goodbye { reason: Farewell::Unsuited }));
            return self.no_session(Code::Unsuited, out);
        }
        self.liveness.heard(now);
        self.set(Timer::Heartbeat, self.config.heartbeat, now, out);
        self.set(Timer::Peer, self.config.timeout, now, out);
        self.claim(now, out);
    }

    /// The secondary takes part: the session's generation is acquired.
    fn claim(&mut self, now: Time, out: &mut Vec<Action>) {
        common::cancel(Timer::Answer, out);
        let next = self.claim.claim(out);
        self.follow(now, next, out);
    }

    /// Takes the session's generation into use. First round of a session.
    fn begin(&mut self, now: Time, out: &mut Vec<Action>) {
        if !self.bare {
            out.push(Action::SendFrame(Control::Begin { generation: self.generation() }));
        }
        self.due = true;
        self.progress(now, out);
    }

    /// The session did not come about. Nothing was transmitted, so nobody else can be active.
    fn no_session(&mut self, code: Code, out: &mut Vec<Action>) {
        self.alone_again(out);
        self.notice(Level::Critical, code, out);
    }

    fn alone_again(&mut self, out: &mut Vec<Action>) {
        if self.link && !self.bare && self.phase() == Phase::Claiming {
            out.push(Action::SendFrame(Control::Goodbye { reason: Farewell::Alone }));
        }
        if !self.link {
            // A connection may be on its way.
            out.push(Action::CloseLink { session: self.session });
        }
        self.close(out);
        self.meeting = Meeting::Connecting;
        self.claim.stay();
    }

    fn frame(&mut self, now: Time, frame: Control, out: &mut Vec<Action>) {
        self.liveness.heard(now);
        match frame {
            Control::Hello(hello) if self.phase() == Phase::Greeting => return self.greeted(now, hello, out),
            Control::Active { generation, .. } if generation > self.generation() => {
                let next = self.claim.superseded(generation);
                return self.follow(now, next, out);
            }
            // It has no copy any more, or never had one: nobody needs to be asked.
            Control::Goodbye { .. } if matches!(self.phase(), Phase::Greeting | Phase::Claiming) => {
                return self.no_session(Code::SecondaryLeft, out);
            }
            Control::Goodbye { .. } => {
                self.notice(Level::Critical, Code::SecondaryLeft, out);
                self.claim.stay();
                return self.go_alone(Farewell::Alone, out);
            }
            _ => {}
        }
        if !matches!(self.phase(), Phase::Claiming | Phase::Protected | Phase::Delegated | Phase::Leaving { .. }) {
            return;
        }
        self.set(Timer::Peer, self.config.timeout, now, out);
        match frame {
            Control::Ack { checkpoint } => self.ack(now, checkpoint, out),
            Control::Refuse { checkpoint, reason } => self.refuse(now, checkpoint, reason, out),
            _ => {}
        }
        self.sign_of_life(now, matches!(frame, Control::Ack { .. }), out);
    }

    fn set(&self, timer: Timer, span: Duration, now: Time, out: &mut Vec<Action>) {
        common::set(timer, now.after(span), out);
    }

    fn notice(&self, level: Level, code: Code, out: &mut Vec<Action>) {
        out.push(Action::Notice(Notice { level, code }));
    }
}

#[cfg(test)]
mod tests;
