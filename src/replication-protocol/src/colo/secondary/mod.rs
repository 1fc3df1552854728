//! The secondary: follows, step by step, and knows when it may go active.
//!
//! ```text
//!  Image --> Load --> [Resume] --> Run --New--> [Suspend] --> [Announce --> [Memory] --> [Size]] --> State --+
//!             ^                                                                                              |
//!             +----------------------------------------------------------------------------------------------+
//!
//!  any of these --fault--> Ended
//!               --primary lost--> Lost, Claiming, Fencing, Activating, Active
//!                                          +--held--> Ended, the replica kept: claim::Denied
//! ```
//! Steps in brackets: Resume and Suspend in lock-step mode; Announce of QEMU's dialects, Size of the later, Memory of its live
//! layout. From the primary's loss on this is [`crate::claim::TakeOver`]'s to decide.
//!
//! In lock-step mode the guest runs in Run, and goes on running when the primary is lost there. A survivor goes on
//! from where its guest is: what the primary let out is what both guests had sent, or part of a state that was loaded.

use alloc::vec::Vec;
mod event;
mod round;
mod takeover;

pub use event::{Action, Code, Command, End, Event, Notice};

use super::config::Config;
use super::dialect::{Message, Point, Side};
use super::fault::{Fault, Guest, Misfit, Step, Wrong};
use crate::claim::{Stage, TakeOver, Terms};
use crate::protocol::secondary as common;
use crate::protocol::{Generation, Level, Liveness, Notice as Told, Progress, Silence, Time, Timer};
use core::time::Duration;

/// Where a secondary is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// In the protocol, at this step.
    Session(Step),
    /// The primary is not there, and nothing is being done: a retry or the operator must come.
    Lost,
    /// The witness has been asked and has not answered.
    Claiming,
    /// The fencing command runs.
    Fencing,
    /// May be active; the guest is about to run freely.
    Activating,
    /// The guest runs here, its output free.
    Active,
    /// No part any more.
    Ended(End),
}

/// The machine, for one session. A clone behaves as the original; equal machines behave the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Secondary {
    config: Config,
    /// Who may be active.
    claim: TakeOver,
    /// While the primary is followed.
    step: Step,
    ended: Option<End>,
    guest: Guest,
    link: bool,
    /// Newest checkpoint loaded, 0 for none.
    loaded: u64,
    /// The checkpoint under way, or the last one.
    checkpoint: u64,
    /// [`Message::New`] has come while the guest was being resumed.
    requested: bool,
    /// What the primary said last.
    last: Option<Point>,
    /// When the primary was heard last; of use where it sends signs of life.
    liveness: Liveness,
    /// What has come of the streams.
    progress: Progress,
}

impl Secondary {
    /// At the start of a connection; the first image comes first. `generation` is the session's.
    pub fn new(config: Config, generation: Generation) -> Self {
        Secondary {
            config,
            claim: TakeOver::new(Terms { rule: config.rule, fence: config.fence, retry: config.retry }, generation),
            step: Step::Image,
            ended: None,
            guest: Guest::Absent,
            link: true,
            loaded: 0,
            checkpoint: 1,
            requested: false,
            last: None,
            liveness: Liveness::default(),
            progress: Progress::default(),
        }
    }

    /// Where it is.
    pub const fn phase(&self) -> Phase {
        match (self.ended, self.claim.stage()) {
            (Some(end), _) => Phase::Ended(end),
            (None, Stage::Following) => Phase::Session(self.step),
            (None, Stage::Waiting) => Phase::Lost,
            (None, Stage::Claiming) => Phase::Claiming,
            (None, Stage::Fencing) => Phase::Fencing,
            (None, Stage::Activating) => Phase::Activating,
            (None, Stage::Active) => Phase::Active,
            (None, Stage::Denied) => Phase::Ended(End::Denied),
        }
    }

    /// What its guest does, as far as is known.
    pub const fn guest(&self) -> Guest {
        self.guest
    }

    /// How far a take-over is.
    pub const fn stage(&self) -> Stage {
        self.claim.stage()
    }

    /// The newest generation it holds, or that of the session.
    pub const fn generation(&self) -> Generation {
        self.claim.generation()
    }

    /// The newest checkpoint begun, and the newest loaded; 0 for none.
    pub const fn checkpoints(&self) -> (u64, u64) {
        (self.checkpoint, self.loaded)
    }

    /// The settings in use.
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// What the primary may say next; `None` while it is this side's turn, or the state's.
    pub const fn expected(&self) -> Option<Point> {
        let Phase::Session(step) = self.phase() else { return None };
        match step {
            Step::Run => Some(Point::New),
            // The primary has been told that the state is loaded, and waits for nothing else.
            Step::Resume if !self.config.dialect.confirms_resume() && !self.requested => Some(Point::New),
            Step::Announce => Some(Point::Send),
            Step::Size => Some(Point::Size),
            _ => None,
        }
    }

    /// Takes one event and adds what is to be done to `actions`, which the driver carries out in order.
    pub fn handle(&mut self, now: Time, event: Event, actions: &mut Vec<Action>) {
        let out = actions;
        if self.ended.is_some() {
            return;
        }
        match event {
            Event::MemoryReceived { checkpoint } => {
                if self.phase() == Phase::Session(Step::Memory) && checkpoint == self.checkpoint {
                    self.go_to(Step::Size, now, out);
                }
            }
            Event::StateReceived { checkpoint } => self.state_received(checkpoint, out),
            Event::StateDamaged => {
                if let Phase::Session(Step::Image | Step::Memory | Step::State) = self.phase() {
                    self.fault(Wrong::State, out);
                }
            }
            Event::Loaded { checkpoint } => self.loaded(now, checkpoint, out),
            Event::CopyFailed => {
                if matches!(self.guest, Guest::Loading | Guest::Suspending | Guest::Resuming) {
                    self.end(End::CopyLost, out);
                }
            }
            Event::GuestSuspended => self.suspended(now, out),
            Event::GuestResumed => self.resumed(now, out),
            Event::Message(message) => self.message(now, message, out),
            Event::Garbled(error) => self.fault(Wrong::Wire(error), out),
            Event::Beats => {
                self.liveness.heard(now);
                self.set(Timer::Peer, self.config.timeout, now, out);
            }
            Event::Progress { bytes } => self.progress.observe(bytes),
            Event::Dismissed => {
                // A fencing command cannot be called back, and who has been granted the next generation is dismissed by nobody.
                if matches!(self.phase(), Phase::Session(_) | Phase::Claiming | Phase::Lost) && !self.claim.is_granted()
                {
                    self.end(End::Dismissed, out);
                }
            }
            Event::Common(event) => self.common(now, event, out),
        }
    }

    fn common(&mut self, now: Time, event: common::Event, out: &mut Vec<Action>) {
        let next = match event {
            common::Event::LinkLost if self.link => return self.lost(None, out),
            common::Event::LinkLost => return,
            common::Event::Heard { read, unread } => return self.liveness.observe(read, unread),
            common::Event::Timer(timer) => return self.timer(now, timer, out),
            common::Event::Witness(answer) => self.claim.answered(now, answer, out),
            common::Event::Fenced { success } => self.claim.fenced(now, success, out),
            common::Event::Activated => return self.claim.activated(out),
        };
        self.follow(next, out);
    }

    fn timer(&mut self, now: Time, timer: Timer, out: &mut Vec<Action>) {
        match (timer, self.phase()) {
            (Timer::Peer, Phase::Session(_)) => match self.liveness.silence(now, self.config.timeout) {
                Silence::NotYet(at) => out.push(common::Action::SetTimer { timer, at }.into()),
                Silence::Lost => self.lost(None, out),
            },
            // What is still being received is not overdue.
            (Timer::Answer, Phase::Session(Step::Image | Step::State)) if self.progress.moves() => {
                self.set(timer, self.config.answer, now, out);
            }
            (Timer::Answer, Phase::Session(step)) => {
                let wrong = match self.expected() {
                    // A request that came early is what the time-out was set for.
                    Some(_) if step == Step::Resume => return,
                    Some(expected) => Wrong::Overdue { dialect: self.config.dialect, expected },
                    None if matches!(step, Step::Image | Step::Memory | Step::State) => Wrong::StateOverdue,
                    None => return,
                };
                self.lost(Some(Fault { wrong, step, guest: self.guest }), out);
            }
            (Timer::Retry, _) => {
                let next = self.claim.retry(out);
                self.follow(next, out);
            }
            _ => {}
        }
    }

    /// The primary has said something that ends the session: it lives, and its guest runs on. Silence is no such thing.
    fn fault(&mut self, wrong: Wrong, out: &mut Vec<Action>) {
        if let Phase::Session(step) = self.phase() {
            self.end(End::Fault(Fault { wrong, step, guest: self.guest }), out);
        }
    }

    fn out_of_step(&mut self, message: Message, out: &mut Vec<Action>) {
        let dialect = self.config.dialect;
        let misfit = Misfit::of(dialect, Side::Secondary, message.point(), self.last);
        self.fault(Wrong::OutOfStep { dialect, message, misfit, expected: self.expected() }, out);
    }

    fn send(&self, message: Message, out: &mut Vec<Action>) {
        out.push(Action::Send(message));
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
