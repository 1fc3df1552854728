//! The secondary: keeps the newest whole checkpoint, says so, and knows when it may go active.
//!
//! ```text
//!  Greeting --HELLO--> Passive --silent, EOF, SWITCH_OVER, fail-over--> Lost, Claiming, Fencing, Activating, Active
//!                         ^                                              | |
//!                         +-----------------heard again------------------+ +--held--> Ended, the replica kept: claim::Denied
//! ```
//! From Passive on this is [`crate::claim::TakeOver`]'s to decide.
//!
//! It acknowledges in every state before Activating: whichever checkpoint it goes on from is then the newest it has
//! acknowledged, and from Activating on it acknowledges nothing.

use alloc::vec::Vec;
mod event;
mod takeover;

pub use event::{Action, Code, Command, End, Event, Notice};

use super::config::Config;
use super::types::RefuseReason;
use super::wire::{Capabilities, Control, Farewell, Hello};
use crate::claim::{Stage, TakeOver, Terms};
use crate::protocol::secondary as common;
use crate::protocol::{Generation, Level, Liveness, Notice as Told, Session, Silence, Time, Timer};
use core::time::Duration;

/// Where a secondary is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Waits for the primary's HELLO.
    Greeting,
    /// Receives checkpoints.
    Passive,
    /// The primary is not there, and nothing is being done: a retry or the operator must come.
    Lost,
    /// The witness has been asked and has not answered.
    Claiming,
    /// The fencing command runs.
    Fencing,
    /// May be active; the guest is about to start.
    Activating,
    /// The guest runs here. A [`super::Primary`] takes over from here.
    Active,
    /// No part any more.
    Ended(End),
}

/// The machine. A clone behaves as the original; equal machines behave the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Secondary {
    config: Config,
    /// Who may be active. Its generation is, before [`Self::begun`], the newest that the primary knows of.
    claim: TakeOver,
    /// The primary's HELLO has come, and suits.
    greeted: bool,
    ended: Option<End>,
    /// The primary has acquired the session's generation.
    begun: bool,
    session: Session,
    link: bool,
    /// Newest checkpoint acknowledged.
    newest: Option<u64>,
    applying: Option<u64>,
    /// Whole and sound, to be applied and acknowledged next.
    staged: Option<u64>,
    /// The next whole checkpoint's number; `None` while a STREAM frame must come first.
    expected: Option<u64>,
    /// Nothing can be read of the primary any more, so its silence says nothing of it.
    garbled: bool,
    /// What both sides have.
    capabilities: Capabilities,
    /// Where to start the guest once it is applied.
    start: bool,
    /// When the primary was heard last.
    liveness: Liveness,
}

impl Secondary {
    /// At the start of a connection.
    pub fn new(config: Config) -> Self {
        Secondary {
            config,
            claim: TakeOver::new(
                Terms { rule: config.rule, fence: config.fence, retry: config.retry },
                Generation::default(),
            ),
            greeted: false,
            ended: None,
            begun: false,
            session: Session(0),
            link: true,
            newest: None,
            applying: None,
            staged: None,
            expected: None,
            garbled: false,
            capabilities: Capabilities::empty(),
            start: false,
            liveness: Liveness::default(),
        }
    }

    /// Where it is.
    pub const fn phase(&self) -> Phase {
        match (self.ended, self.claim.stage()) {
            (Some(end), _) => Phase::Ended(end),
            (None, Stage::Following) if self.greeted => Phase::Passive,
            (None, Stage::Following) => Phase::Greeting,
            (None, Stage::Waiting) => Phase::Lost,
            (None, Stage::Claiming) => Phase::Claiming,
            (None, Stage::Fencing) => Phase::Fencing,
            (None, Stage::Activating) => Phase::Activating,
            (None, Stage::Active) => Phase::Active,
            (None, Stage::Denied) => Phase::Ended(End::Denied),
        }
    }

    /// How far a take-over is.
    pub const fn stage(&self) -> Stage {
        self.claim.stage()
    }

    /// The newest generation it holds, or that of the session.
    pub const fn generation(&self) -> Generation {
        self.claim.generation()
    }

    /// The session.
    pub const fn session(&self) -> Session {
        self.session
    }

    /// The newest checkpoint acknowledged.
    pub const fn newest(&self) -> Option<u64> {
        self.newest
    }

    /// What both sides have, as far as is known.
    pub const fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    /// The settings in use.
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Takes one event and adds what is to be done to `actions`, which the driver carries out in order.
    pub fn handle(&mut self, now: Time, event: Event, actions: &mut Vec<Action>) {
        let out = actions;
        if self.ended.is_some() {
            return;
        }
        match event {
            Event::Frame { session, frame } => self.frame(now, session, frame, out),
            Event::Checkpoint { session, number, verdict } => {
                if self.takes(session) {
                    self.received(number, verdict, out);
                    self.heard(now, out);
                }
            }
            Event::Damaged { reason } => {
                if let Some(number) = self.expected
                    && self.link
                    && self.receives()
                {
                    self.refuse(number, reason, out);
                }
            }
            Event::Applied { checkpoint } => self.applied(checkpoint, out),
            Event::ApplyFailed { checkpoint } => {
                if self.applying == Some(checkpoint) {
                    self.copy_lost(checkpoint, out);
                }
            }
            Event::Garbled => self.garbled(out),
            Event::OtherVersion => {
                if self.phase() == Phase::Greeting {
                    // It sees by our own HELLO which version this is.
                    out.push(Action::SendFrame(Control::Hello(self.hello(Generation(0)))));
                    self.unsuited(out);
                }
            }
            Event::WitnessBehind => {
                self.notice(Level::Critical, Code::WitnessBehind, out);
                // With the primary lost this may be the only copy there is. The witness gives nothing as long as it is so.
                if self.phase() == Phase::Passive && !self.claim.is_granted() {
                    self.unsuited(out);
                }
            }
            Event::Common(event) => self.common(now, event, out),
        }
    }

    fn common(&mut self, now: Time, event: common::Event, out: &mut Vec<Action>) {
        let next = match event {
            common::Event::LinkLost => {
                if core::mem::take(&mut self.link) {
                    // One direction may be whole: without this, the primary would learn of it by its time-out only.
                    out.push(common::Action::CloseLink.into());
                    self.lost(out);
                }
                return;
            }
            common::Event::Heard { read, unread } => return self.liveness.observe(read, unread),
            common::Event::Timer(timer) => return self.timer(now, timer, out),
            common::Event::Witness(answer) => self.claim.answered(now, answer, out),
            common::Event::Fenced { success } => self.claim.fenced(now, success, out),
            common::Event::Activated => return self.claim.activated(out),
        };
        self.follow(next, out);
    }

    /// Whether checkpoints are still taken.
    const fn receives(&self) -> bool {
        matches!(self.phase(), Phase::Passive | Phase::Lost | Phase::Claiming | Phase::Fencing)
    }

    fn takes(&self, session: Session) -> bool {
        self.link && session == self.session && self.receives()
    }

    fn frame(&mut self, now: Time, session: Session, frame: Control, out: &mut Vec<Action>) {
        if self.phase() == Phase::Greeting {
            if let Control::Hello(hello) = frame {
                self.greeted(now, session, hello, out);
            }
            return;
        }
        if !self.takes(session) {
            return;
        }
        match frame {
            Control::Begin { generation } if !self.begun && generation > self.claim.generation() => {
                self.claim.follow(generation);
                self.begun = true;
            }
            // Without a generation of the session's there is nothing to go active with.
            Control::Stream { .. } if !self.begun => {}
            Control::Stream { checkpoint, .. } => {
                if let Some(old) = self.expected.replace(checkpoint) {
                    out.push(Action::DropCheckpoint { checkpoint: old, reason: None });
                }
            }
            Control::SwitchOver { checkpoint, generation } => {
                if self.newest == Some(checkpoint) && generation == self.claim.generation() && !self.claim.is_granted()
                {
                    let next = self.claim.delegate(out);
                    return self.follow(next, out);
                }
                self.notice(Level::Critical, Code::BadSwitchOver, out);
            }
            Control::Goodbye { .. } => return self.goodbye(out),
            _ => {}
        }
        self.heard(now, out);
    }

    fn greeted(&mut self, now: Time, session: Session, hello: Hello, out: &mut Vec<Action>) {
        self.session = session;
        self.claim.follow(hello.generation);
        self.capabilities = (Capabilities::OFFERED | Capabilities::NET_DISABLE) & hello.capabilities;
        out.push(Action::SendFrame(Control::Hello(self.hello(hello.generation))));
        if self.config.is_of_another(hello.domain) {
            self.notice(Level::Critical, Code::OtherDomain, out);
            return self.unsuited(out);
        }
        let suits = hello.capabilities.contains(Capabilities::REQUIRED)
            && hello.rule == self.config.rule
            && self.config.hears(hello.heartbeat_ms);
        if !suits {
            return self.unsuited(out);
        }
        if self.capabilities.contains(Capabilities::NET_DISABLE) {
            self.notice(Level::Critical, Code::Unheld, out);
        }
        self.greeted = true;
        self.liveness.heard(now);
        self.set(Timer::Heartbeat, self.config.heartbeat, now, out);
        self.set(Timer::Peer, self.config.timeout, now, out);
    }

    fn hello(&self, generation: Generation) -> Hello {
        let ms = |span: Duration| u32::try_from(span.as_millis()).unwrap_or(u32::MAX);
        Hello {
            capabilities: self.capabilities,
            rule: self.config.rule,
            generation,
            heartbeat_ms: ms(self.config.heartbeat),
            timeout_ms: ms(self.config.timeout),
            domain: self.config.domain,
        }
    }

    fn unsuited(&mut self, out: &mut Vec<Action>) {
        self.send(Control::Goodbye { reason: Farewell::Unsuited }, out);
        self.end(End::Unsuited, out);
    }

    fn received(&mut self, number: u64, verdict: Result<(), RefuseReason>, out: &mut Vec<Action>) {
        let Some(expected) = self.expected else {
            // The rest of a stream that was refused already.
            out.push(Action::DropCheckpoint { checkpoint: number, reason: None });
            return;
        };
        let verdict = if number == expected { verdict } else { Err(RefuseReason::Order) };
        match verdict {
            Err(reason) => self.refuse(number, reason, out),
            Ok(()) => {
                self.expected = number.checked_add(1);
                // One is being applied and one waits, at the most: the primary sends none before this is acknowledged.
                if self.applying.is_none() { self.apply(number, out) } else { self.staged = Some(number) }
            }
        }
    }

    /// It is whole and in memory of our own: from here on this side can go on from it without the primary.
    fn apply(&mut self, number: u64, out: &mut Vec<Action>) {
        if self.newest.is_none() {
            self.tell(Level::Info, common::Code::Ready, out);
        }
        self.applying = Some(number);
        self.newest = Some(number);
        out.push(Action::ApplyCheckpoint { checkpoint: number });
        self.send(Control::Ack { checkpoint: number }, out);
    }

    fn applied(&mut self, checkpoint: u64, out: &mut Vec<Action>) {
        if self.applying != Some(checkpoint) {
            return;
        }
        self.applying = None;
        if self.start {
            return self.activate(out);
        }
        if let Some(number) = self.staged.take() {
            self.apply(number, out);
        }
    }

    fn refuse(&mut self, number: u64, reason: RefuseReason, out: &mut Vec<Action>) {
        self.expected = None;
        out.push(Action::DropCheckpoint { checkpoint: number, reason: Some(reason) });
        self.send(Control::Refuse { checkpoint: number, reason }, out);
        self.notice(Level::Warning, Code::Refused(reason), out);
    }

    /// Nothing more can be read, which is no sign of the primary's death: say so, and wait for it to end the connection or
    /// for the time-out.
    fn garbled(&mut self, out: &mut Vec<Action>) {
        if !self.link || !self.receives() {
            return;
        }
        self.notice(Level::Critical, Code::LinkDamaged, out);
        self.garbled = true;
        let number = self.expected.or(self.newest).unwrap_or_default();
        self.refuse(number, RefuseReason::Framing, out);
    }

    fn timer(&mut self, now: Time, timer: Timer, out: &mut Vec<Action>) {
        match timer {
            Timer::Heartbeat => {
                if self.link && self.receives() {
                    self.send(Control::Heartbeat { generation: self.claim.generation() }, out);
                    self.set(Timer::Heartbeat, self.config.heartbeat, now, out);
                }
            }
            Timer::Peer => {
                if self.phase() == Phase::Passive {
                    match self.liveness.silence(now, self.config.timeout) {
                        Silence::NotYet(at) => out.push(common::Action::SetTimer { timer, at }.into()),
                        Silence::Lost => self.lost(out),
                    }
                }
            }
            Timer::Retry => {
                let next = self.claim.retry(out);
                self.follow(next, out);
            }
            Timer::Round | Timer::Answer | Timer::Output => {}
        }
    }

    fn send(&self, frame: Control, out: &mut Vec<Action>) {
        if self.link {
            out.push(Action::SendFrame(frame));
        }
    }

    fn set(&self, timer: Timer, span: Duration, now: Time, out: &mut Vec<Action>) {
        out.push(common::Action::SetTimer { timer, at: now.after(span) }.into());
    }

    fn tell(&self, level: Level, code: common::Code, out: &mut Vec<Action>) {
        out.push(common::Action::Notice(Told { level, code }).into());
    }

    fn notice(&self, level: Level, code: Code, out: &mut Vec<Action>) {
        out.push(Action::Notice(Notice { level, code }));
    }
}
