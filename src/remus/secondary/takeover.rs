//! Going active: who must agree, and in which order.

use super::event::{Action, Code, Command, End};
use super::{Phase, Secondary};
use crate::remus::refused::Refused;
use crate::remus::types::{Level, RefuseReason, Rule, Time, Timer, Verdict};
use crate::remus::wire::{Control, Farewell};

impl Secondary {
    /// A frame of the session has come: the primary lives.
    pub(super) fn heard(&mut self, now: Time, out: &mut Vec<Action>) {
        self.liveness.heard(now);
        if self.phase == Phase::Lost && self.link {
            self.phase = Phase::Passive;
            out.push(Action::CancelTimer(Timer::Retry));
            self.notice(Level::Info, Code::BackAgain, out);
        }
        // Claiming and Fencing go their way: what they have asked for may be done already.
        if self.phase == Phase::Passive {
            self.set(Timer::Peer, self.config.timeout, now, out);
        }
    }

    /// The primary is silent, or the connection is gone.
    pub(super) fn lost(&mut self, out: &mut Vec<Action>) {
        match self.phase {
            Phase::Greeting => self.end(End::Empty, out),
            // A retry or the operator is waited for already; with the link gone, nothing else can come.
            Phase::Passive | Phase::Lost => {
                if self.newest.is_none() {
                    return self.end(End::Empty, out);
                }
                if self.phase == Phase::Passive {
                    self.notice(Level::Critical, Code::PrimaryLost, out);
                }
                self.phase = Phase::Lost;
                match self.config.rule {
                    Rule::Witness => self.take_over(out),
                    // Behind damage, the primary's farewell may be what could not be read: nobody is shot for that.
                    Rule::PrimaryWins if self.config.fence && !self.garbled => self.take_over(out),
                    Rule::PrimaryWins | Rule::Manual => self.notice(Level::Critical, Code::OperatorNeeded, out),
                }
            }
            _ => {}
        }
    }

    /// The next step towards being active that is allowed without further word.
    pub(super) fn take_over(&mut self, out: &mut Vec<Action>) {
        if self.newest.is_none() {
            return;
        }
        if self.config.rule == Rule::Witness && !self.granted {
            self.phase = Phase::Claiming;
            out.push(Action::AskWitness { generation: self.generation.next() });
        } else if self.config.fence && !self.delegated {
            self.phase = Phase::Fencing;
            let generation = if self.granted { self.generation } else { self.generation.next() };
            out.push(Action::RunFence { generation });
        } else {
            self.go(out);
        }
    }

    pub(super) fn answered(&mut self, now: Time, verdict: Verdict, out: &mut Vec<Action>) {
        match verdict {
            Verdict::Granted => {
                self.generation = self.generation.next();
                self.granted = true;
                self.take_over(out);
            }
            Verdict::Held { newest } => {
                self.generation = self.generation.max(newest);
                self.end(End::Denied, out);
            }
            Verdict::Unreachable => {
                self.notice(Level::Critical, Code::WitnessUnreachable, out);
                self.phase = Phase::Lost;
                self.set(Timer::Retry, self.config.retry, now, out);
            }
        }
    }

    pub(super) fn fenced(&mut self, now: Time, success: bool, out: &mut Vec<Action>) {
        if success {
            return self.go(out);
        }
        self.notice(Level::Critical, Code::FenceFailed, out);
        if self.dismissed {
            return self.end(End::Dismissed, out);
        }
        self.phase = Phase::Lost;
        self.set(Timer::Retry, self.config.retry, now, out);
    }

    /// Everybody has agreed.
    pub(super) fn go(&mut self, out: &mut Vec<Action>) {
        let Some(checkpoint) = self.newest else { return };
        self.phase = Phase::Activating;
        if !self.granted {
            self.generation = self.generation.next();
            self.granted = true;
        }
        self.notice(Level::Critical, Code::Activating, out);
        // Before the guest starts: the sooner a living primary knows, the better.
        self.send(Control::Active { generation: self.generation, checkpoint }, out);
        if let Some(staged) = self.staged.take() {
            out.push(Action::DropCheckpoint { checkpoint: staged, reason: None });
        }
        if let Some(partial) = self.expected.take() {
            out.push(Action::DropCheckpoint { checkpoint: partial, reason: None });
        }
        self.start = true;
        if self.applying.is_none() {
            self.activate(out);
        }
    }

    pub(super) fn activate(&mut self, out: &mut Vec<Action>) {
        let Some(checkpoint) = self.newest else { return };
        self.start = false;
        out.push(Action::ActivateGuest { checkpoint, generation: self.generation });
        self.close(out);
    }

    pub(super) fn delegate(&mut self, out: &mut Vec<Action>) {
        match self.phase {
            Phase::Passive | Phase::Lost => {
                self.delegated = true;
                self.take_over(out);
            }
            // On its way already.
            _ => self.delegated = true,
        }
    }

    pub(super) fn goodbye(&mut self, out: &mut Vec<Action>) {
        match self.phase {
            Phase::Fencing => {
                // The command cannot be called back, and may leave nobody else.
                self.dismissed = true;
                self.link = false;
                out.push(Action::CloseLink);
            }
            _ => self.end(End::Dismissed, out),
        }
    }

    pub(super) fn copy_lost(&mut self, checkpoint: u64, out: &mut Vec<Action>) {
        self.send(Control::Refuse { checkpoint, reason: RefuseReason::Apply }, out);
        // With a generation asked for or taken, the primary must not hear that nobody holds the next.
        if !self.granted && self.phase != Phase::Claiming {
            self.send(Control::Goodbye { reason: Farewell::CopyLost }, out);
        }
        self.end(End::CopyLost, out);
    }

    /// Obeys the operator, or says why not.
    ///
    /// # Errors
    /// [`Refused`]: nothing has changed.
    pub fn command(&mut self, _now: Time, command: Command, actions: &mut Vec<Action>) -> Result<(), Refused> {
        let out = actions;
        match (command, self.phase) {
            (Command::FailOver { .. }, _) if self.receives() && self.newest.is_none() => {
                return Err(Refused::NoCheckpoint);
            }
            (Command::FailOver { force: false }, Phase::Passive) => {
                return Err(Refused::PrimaryAlive { heard: self.liveness.last() });
            }
            // The primary lives: the operator's word that it does not is not believed, and nobody's answer is spared.
            (Command::FailOver { force: true }, Phase::Passive) => {
                self.notice(Level::Critical, Code::Forced, out);
                self.take_over(out);
            }
            (Command::FailOver { force: false }, Phase::Lost) => self.take_over(out),
            (Command::FailOver { force: true }, _) if self.receives() => {
                self.notice(Level::Critical, Code::Forced, out);
                self.go(out);
            }
            (Command::Stop, Phase::Greeting) => self.end(End::Stopped, out),
            (Command::Stop, Phase::Passive | Phase::Lost) => {
                if !self.granted {
                    self.send(Control::Goodbye { reason: Farewell::Stopping }, out);
                }
                self.end(End::Stopped, out);
            }
            _ => return Err(Refused::Phase),
        }
        Ok(())
    }

    pub(super) fn end(&mut self, end: End, out: &mut Vec<Action>) {
        self.phase = Phase::Ended(end);
        if end == End::Denied {
            let unfinished = self.staged.take().into_iter().chain(self.expected.take());
            out.extend(unfinished.map(|checkpoint| Action::DropCheckpoint { checkpoint, reason: None }));
            out.push(Action::KeepCopy);
        } else {
            out.push(Action::DropCopy);
        }
        self.close(out);
        let level = match end {
            End::Dismissed | End::Stopped => Level::Info,
            _ => Level::Critical,
        };
        self.notice(level, Code::Ended(end), out);
    }

    fn close(&mut self, out: &mut Vec<Action>) {
        if std::mem::take(&mut self.link) {
            out.push(Action::CloseLink);
        }
        for timer in Timer::ALL {
            out.push(Action::CancelTimer(timer));
        }
    }
}
