//! The primary: has its guest followed, says which output may leave, and knows when it may go on alone.
//!
//! ```text
//!  Idle [--> Claiming --granted] --> Image --> Collect --> [Receipt] --> Load --> [Resume] --> Run --due--> Suspend --> [Dirty] --+
//!                        ^                                                                               |
//!                        +-------------------------------------------------------------------------------+
//!
//!  any of these --peer lost, or a fault--> Leaving --granted--> Alone
//!                                            |  ^ unreachable: again
//!                                            +--held--> Ended
//! ```
//! Steps in brackets are of some dialects only: Receipt of QEMU's, Resume (lock-step mode) and Dirty of libxl's.
//!
//! The guest runs in Idle, Image, Resume, Run, Suspend, Dirty and Alone. In Leaving it goes on with what it does: a guest that stands
//! still for a checkpoint waits for the decision, for the secondary may hold another checkpoint than it would go on from.

use alloc::vec::Vec;
mod event;
mod leave;
mod output;
mod round;

pub use event::{Action, Cause, Code, Command, Event, Notice};

use super::config::{Config, Mode};
use super::dialect::{Message, Point, Side};
use super::fault::{Fault, Guest, Misfit, Step, Wrong};
use crate::protocol::primary as common;
use crate::protocol::{
    Generation, Level, Liveness, Notice as Told, OutputCall, Progress, Refused, RunState, Silence, Time, Timer,
};
use core::time::Duration;

/// Where a primary is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Not connected yet. Output is free.
    Idle,
    /// The secondary takes part: wants a generation for the session. Output is free.
    Claiming,
    /// In the protocol, at this step.
    Session(Step),
    /// Wants to go on alone and may not yet.
    Leaving {
        /// Why.
        cause: Cause,
        /// The witness has been asked and has not answered.
        asked: bool,
    },
    /// Active and unprotected. Output is free.
    Alone,
    /// The guest stands still for good: the other side may be active.
    Ended,
    /// The guest is suspended and could not be resumed. Its output is held and the connection closed.
    Suspended,
}

/// When the next checkpoint may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Pace {
    /// The guest does not run in the session.
    Off,
    /// It must not come yet.
    Gap,
    /// It may.
    Open,
}

/// The machine, for one session. A clone behaves as the original; equal machines behave the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Primary {
    config: Config,
    phase: Phase,
    guest: Guest,
    /// The session's, and after it the newest that this side holds or knows of.
    generation: Generation,
    link: bool,
    /// Output is held.
    held: bool,
    /// Newest checkpoint begun, from 1.
    checkpoint: u64,
    /// Newest checkpoint that the secondary has loaded: the epoch that both guests are in.
    loaded: u64,
    /// A checkpoint could be whole on the other side.
    transmitted: bool,
    /// The state is written.
    sent: bool,
    /// The secondary has said that it has loaded it, which may be heard before the writer's own word.
    confirmed: bool,
    /// So it has that its guest runs again.
    resumed: bool,
    /// A checkpoint is wanted.
    due: bool,
    pace: Pace,
    /// What the secondary said last.
    last: Option<Point>,
    /// When the secondary was heard last; of use where it sends signs of life.
    liveness: Liveness,
    /// What the link has taken of the streams.
    progress: Progress,
    /// The output buffer has failed: nothing is released until it is free.
    unsound: bool,
    /// What is asked of the output buffer again.
    again: Option<OutputCall>,
}

impl Primary {
    /// For a guest that runs unprotected, its output free. `generation` is the newest that this side holds or knows of. A session of
    /// [`Event::Greeted`] takes the next as its own; one of [`Event::Connected`] has this one.
    pub fn new(config: Config, generation: Generation) -> Self {
        Primary {
            config,
            phase: Phase::Idle,
            guest: Guest::Running,
            generation,
            link: false,
            held: false,
            checkpoint: 0,
            loaded: 0,
            transmitted: false,
            sent: false,
            confirmed: false,
            resumed: false,
            due: false,
            pace: Pace::Off,
            last: None,
            liveness: Liveness::default(),
            progress: Progress::default(),
            unsound: false,
            again: None,
        }
    }

    /// Where it is.
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// What its guest does, as far as is known.
    pub const fn guest(&self) -> Guest {
        self.guest
    }

    /// The newest generation it holds or knows of.
    pub const fn generation(&self) -> Generation {
        self.generation
    }

    /// The newest checkpoint begun, and the newest that the secondary has loaded; 0 for none.
    pub const fn checkpoints(&self) -> (u64, u64) {
        (self.checkpoint, self.loaded)
    }

    /// Whether output is held.
    pub const fn is_held(&self) -> bool {
        self.held
    }

    /// The settings in use.
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// What the secondary says next; `None` while it is this side's turn.
    pub const fn expected(&self) -> Option<Point> {
        let Phase::Session(step) = self.phase else { return None };
        match step {
            Step::Receipt => Some(Point::Received),
            Step::Load if self.confirmed && (self.resumed || !self.hears_resume()) => None,
            Step::Load if self.confirmed => Some(Point::Resumed),
            Step::Load => Some(self.config.dialect.loaded(self.checkpoint <= 1).point()),
            Step::Resume => Some(Point::Resumed),
            Step::Suspend => Some(Point::Suspended),
            Step::Dirty => Some(Point::DirtyList),
            _ => None,
        }
    }

    /// Whether the secondary says that its guest runs again.
    const fn hears_resume(&self) -> bool {
        self.config.dialect.confirms_resume() && matches!(self.config.mode, Mode::LockStep)
    }

    /// Takes one event and adds what is to be done to `actions`, which the driver carries out in order.
    pub fn handle(&mut self, now: Time, event: Event, actions: &mut Vec<Action>) {
        let out = actions;
        match event {
            Event::Connected => {
                if self.phase == Phase::Idle {
                    self.link = true;
                    self.begin(out);
                }
            }
            Event::Greeted => {
                if self.phase == Phase::Idle {
                    self.link = true;
                    self.claim(out);
                }
            }
            Event::ImageReady => {
                if self.phase == Phase::Session(Step::Image) {
                    self.suspend(out);
                }
            }
            Event::Beats => {
                self.liveness.heard(now);
                self.set(Timer::Peer, self.config.timeout, now, out);
            }
            Event::Collected { checkpoint, bytes } => self.collected(now, checkpoint, bytes, out),
            Event::CollectFailed => self.failed(out),
            Event::StateSent { checkpoint } => {
                if let Phase::Session(Step::Receipt | Step::Load) = self.phase
                    && checkpoint == self.checkpoint
                {
                    self.sent = true;
                    self.loaded(now, out);
                }
            }
            Event::Message(message) => self.message(now, message, out),
            Event::Garbled(error) => self.fault(Wrong::Wire(error), out),
            Event::LinkLost => self.link_lost(out),
            Event::Agreed { epoch, packet } => {
                // Older epochs have left already.
                if matches!(self.phase, Phase::Session(_))
                    && self.config.mode == Mode::LockStep
                    && epoch == self.loaded
                    && epoch > 0
                    && !self.unsound
                {
                    out.push(Action::Release { epoch, packet });
                }
            }
            Event::Differ { epoch } => {
                if matches!(self.phase, Phase::Session(Step::Resume | Step::Run)) && epoch == self.loaded {
                    self.due = true;
                    self.progress(now, out);
                }
            }
            Event::Common(event) => self.common(now, event, out),
        }
    }

    fn common(&mut self, now: Time, event: common::Event, out: &mut Vec<Action>) {
        match event {
            common::Event::GuestSuspended => self.guest_suspended(out),
            common::Event::SuspendFailed { guest } => {
                if self.guest == Guest::Suspending {
                    // One that has acknowledged the request waits with the rest for the decision, and is resumed with it.
                    self.guest = if guest == RunState::Suspended { Guest::Suspended } else { Guest::Running };
                    self.failed(out);
                    if self.phase == Phase::Alone {
                        self.resume(out);
                    }
                }
            }
            common::Event::ResumeFailed => {
                if self.guest == Guest::Resuming {
                    self.resume_failed(out);
                }
            }
            common::Event::OutputFailed(call) => self.output_failed(now, call, out),
            common::Event::Heard { read, unread } => self.liveness.observe(read, unread),
            common::Event::Progress { bytes } => self.progress.observe(bytes),
            common::Event::GuestResumed => {
                if self.guest == Guest::Resuming {
                    self.guest = Guest::Running;
                }
                self.progress(now, out);
            }
            common::Event::Timer(timer) => self.timer(now, timer, out),
            common::Event::Witness(answer) => self.witness(now, answer, out),
        }
    }

    fn timer(&mut self, now: Time, timer: Timer, out: &mut Vec<Action>) {
        match timer {
            Timer::Round => match self.pace {
                Pace::Off => {}
                Pace::Gap => {
                    self.pace = Pace::Open;
                    let rest = self.config.period.saturating_sub(self.config.gap);
                    self.set(Timer::Round, rest, now, out);
                    self.progress(now, out);
                }
                Pace::Open => {
                    self.due = true;
                    self.progress(now, out);
                }
            },
            Timer::Answer => {
                if let Some(expected) = self.expected() {
                    // What is still being sent is not overdue.
                    if self.progress.moves() {
                        return self.set(timer, self.config.answer, now, out);
                    }
                    self.fault(Wrong::Overdue { dialect: self.config.dialect, expected }, out);
                }
            }
            Timer::Retry => self.retry(out),
            Timer::Peer => {
                if matches!(self.phase, Phase::Session(_) | Phase::Claiming) {
                    match self.liveness.silence(now, self.config.timeout) {
                        Silence::NotYet(at) => out.push(common::Action::SetTimer { timer, at }.into()),
                        Silence::Lost if self.phase == Phase::Claiming => self.no_session(out),
                        Silence::Lost => self.leave(Cause::PeerLost, out),
                    }
                }
            }
            Timer::Output => self.output_again(out),
            Timer::Heartbeat => {}
        }
    }

    /// Obeys the operator, or says why not.
    ///
    /// # Errors
    /// [`Refused`]: nothing has changed.
    pub fn command(&mut self, now: Time, command: Command, actions: &mut Vec<Action>) -> Result<(), Refused> {
        let out = actions;
        match (command, self.phase) {
            (Command::Checkpoint, Phase::Session(Step::Resume | Step::Run)) => {
                self.due = true;
                self.progress(now, out);
            }
            (Command::PeerLost | Command::Unprotect { force: false }, Phase::Claiming) => self.no_session(out),
            (Command::PeerLost, Phase::Session(_)) => self.leave(Cause::PeerLost, out),
            (Command::Unprotect { force: false }, Phase::Session(_)) => self.leave(Cause::Asked, out),
            (Command::Unprotect { force: true }, Phase::Session(_) | Phase::Leaving { .. } | Phase::Ended) => {
                self.tell(Level::Critical, common::Code::Forced, out);
                out.push(Action::Abandon);
                self.go_alone(self.generation.next(), out);
            }
            (Command::Unprotect { force: false }, Phase::Ended) => return Err(Refused::Superseded),
            (Command::Unprotect { .. }, Phase::Suspended) => return Err(Refused::Suspended),
            _ => return Err(Refused::Phase),
        }
        Ok(())
    }

    /// The peer has said something that ends the session. Behind the session's end nothing of it matters any more.
    fn fault(&mut self, wrong: Wrong, out: &mut Vec<Action>) {
        if let Phase::Session(step) = self.phase {
            self.leave(Cause::Fault(Fault { wrong, step, guest: self.guest }), out);
        }
    }

    fn out_of_step(&mut self, message: Message, out: &mut Vec<Action>) {
        let dialect = self.config.dialect;
        let misfit = Misfit::of(dialect, Side::Primary, message.point(), self.last);
        self.fault(Wrong::OutOfStep { dialect, message, misfit, expected: self.expected() }, out);
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
