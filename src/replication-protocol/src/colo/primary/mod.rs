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
mod round;

pub use event::{Action, Cause, Code, Command, Event, Notice};

use super::config::{Config, Mode};
use super::dialect::{Message, Point, Side};
use super::fault::{Fault, Guest, Misfit, Step, Wrong};
use crate::claim::{AloneStage as Stage, Domain, GoAlone};
use crate::protocol::primary as common;
use crate::protocol::{Generation, Level, Liveness, Progress, Refused, Silence, Time, Timer};
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
    /// Who may be active.
    claim: GoAlone<Cause>,
    /// In a session.
    step: Step,
    domain: Domain,
    link: bool,
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
}

impl Primary {
    /// For a guest that runs unprotected, its output free. `generation` is the newest that this side holds or knows of. A session of
    /// [`Event::Greeted`] takes the next as its own; one of [`Event::Connected`] has this one.
    pub fn new(config: Config, generation: Generation) -> Self {
        Primary {
            config,
            claim: GoAlone::new(config.rule, config.retry, generation, Stage::Meeting),
            step: Step::Image,
            domain: Domain::default(),
            link: false,
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
        }
    }

    /// Where it is.
    pub const fn phase(&self) -> Phase {
        match self.claim.stage() {
            Stage::Meeting => Phase::Idle,
            Stage::Claiming => Phase::Claiming,
            Stage::Session => Phase::Session(self.step),
            Stage::Leaving { cause, asked, .. } => Phase::Leaving { cause, asked },
            Stage::Alone => Phase::Alone,
            Stage::Ended => Phase::Ended,
            Stage::Suspended => Phase::Suspended,
        }
    }

    /// What its guest does, as far as is known.
    pub const fn guest(&self) -> Guest {
        self.domain.guest()
    }

    /// The newest generation it holds or knows of.
    pub const fn generation(&self) -> Generation {
        self.claim.generation()
    }

    /// The newest checkpoint begun, and the newest that the secondary has loaded; 0 for none.
    pub const fn checkpoints(&self) -> (u64, u64) {
        (self.checkpoint, self.loaded)
    }

    /// Whether output is held.
    pub const fn is_held(&self) -> bool {
        self.domain.is_held()
    }

    /// The settings in use.
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// What the secondary says next; `None` while it is this side's turn.
    pub const fn expected(&self) -> Option<Point> {
        let Phase::Session(step) = self.phase() else { return None };
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
                if self.phase() == Phase::Idle {
                    self.link = true;
                    // The session's generation is known already, on both sides.
                    let _ = self.claim.begin();
                    self.begin(out);
                }
            }
            Event::Greeted => {
                if self.phase() == Phase::Idle {
                    self.link = true;
                    let next = self.claim.claim(out);
                    self.follow(now, next, out);
                }
            }
            Event::ImageReady => {
                if self.phase() == Phase::Session(Step::Image) {
                    self.suspend(out);
                }
            }
            Event::Beats => {
                self.liveness.heard(now);
                self.set(Timer::Peer, self.config.timeout, now, out);
            }
            Event::Collected { checkpoint, bytes } => self.collected(now, checkpoint, bytes, out),
            Event::CollectFailed => self.failed(now, out),
            Event::StateSent { checkpoint } => {
                if let Phase::Session(Step::Receipt | Step::Load) = self.phase()
                    && checkpoint == self.checkpoint
                {
                    self.sent = true;
                    self.loaded(now, out);
                }
            }
            Event::Message(message) => self.message(now, message, out),
            Event::Garbled(error) => self.fault(now, Wrong::Wire(error), out),
            Event::LinkLost => self.link_lost(now, out),
            Event::Agreed { epoch, packet } => {
                // Older epochs have left already.
                if matches!(self.phase(), Phase::Session(_))
                    && self.config.mode == Mode::LockStep
                    && epoch == self.loaded
                    && epoch > 0
                    && self.domain.may_release()
                {
                    out.push(Action::Release { epoch, packet });
                }
            }
            Event::Differ { epoch } => {
                if matches!(self.phase(), Phase::Session(Step::Resume | Step::Run)) && epoch == self.loaded {
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
                if self.domain.suspend_failed(guest) {
                    // One that is suspended all the same waits with the rest for the decision.
                    self.failed(now, out);
                    if self.phase() == Phase::Alone {
                        self.resume(out);
                    }
                }
            }
            common::Event::ResumeFailed => {
                if self.domain.resume_failed(out) && self.claim.stuck() {
                    self.close(out);
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
                    self.fault(now, Wrong::Overdue { dialect: self.config.dialect, expected }, out);
                }
            }
            Timer::Retry => self.claim.retry(out),
            Timer::Peer => {
                if matches!(self.phase(), Phase::Session(_) | Phase::Claiming) {
                    match self.liveness.silence(now, self.config.timeout) {
                        Silence::NotYet(at) => common::set(timer, at, out),
                        Silence::Lost if self.phase() == Phase::Claiming => self.no_session(out),
                        Silence::Lost => self.leave(now, Cause::PeerLost, out),
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
        match (command, self.phase()) {
            (Command::Checkpoint, Phase::Session(Step::Resume | Step::Run)) => {
                self.due = true;
                self.progress(now, out);
            }
            (Command::PeerLost | Command::Unprotect { force: false }, Phase::Claiming) => self.no_session(out),
            (Command::PeerLost, Phase::Session(_)) => self.leave(now, Cause::PeerLost, out),
            (Command::Unprotect { force: false }, Phase::Session(_)) => self.leave(now, Cause::Asked, out),
            (Command::Unprotect { force: true }, Phase::Session(_) | Phase::Leaving { .. } | Phase::Ended) => {
                common::tell(Level::Critical, common::Code::Forced, out);
                out.push(Action::Abandon);
                self.claim.force();
                self.go_alone(out);
            }
            (Command::Unprotect { force: false }, Phase::Ended) => return Err(Refused::Superseded),
            (Command::Unprotect { .. }, Phase::Suspended) => return Err(Refused::Suspended),
            _ => return Err(Refused::Phase),
        }
        Ok(())
    }

    /// The peer has said something that ends the session. Behind the session's end nothing of it matters any more.
    fn fault(&mut self, now: Time, wrong: Wrong, out: &mut Vec<Action>) {
        if let Phase::Session(step) = self.phase() {
            self.leave(now, Cause::Fault(Fault { wrong, step, guest: self.domain.guest() }), out);
        }
    }

    fn out_of_step(&mut self, now: Time, message: Message, out: &mut Vec<Action>) {
        let dialect = self.config.dialect;
        let misfit = Misfit::of(dialect, Side::Primary, message.point(), self.last);
        self.fault(now, Wrong::OutOfStep { dialect, message, misfit, expected: self.expected() }, out);
    }

    fn set(&self, timer: Timer, span: Duration, now: Time, out: &mut Vec<Action>) {
        common::set(timer, now.after(span), out);
    }

    fn notice(&self, level: Level, code: Code, out: &mut Vec<Action>) {
        out.push(Action::Notice(Notice { level, code }));
    }
}
