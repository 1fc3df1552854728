//! Going active: who must agree, and in which order.
#![forbid(unsafe_code)]

use super::event::{Action, Code, Command, End};
use super::{Phase, Secondary};
use crate::colo::fault::{Fault, Guest, Step};
use crate::remus::{Level, Refused, Rule, Time, Timer, Verdict};

impl Secondary {
    /// The primary is silent, or the connection is gone. The dialects have no way back from that.
    pub(super) fn lost(&mut self, fault: Option<Fault>, out: &mut Vec<Action>) {
        self.unlink(out);
        let Phase::Session(_) = self.phase else { return };
        if !self.has_copy() {
            return self.end(End::Empty, out);
        }
        self.notice(Level::Critical, Code::PrimaryLost(fault), out);
        self.leave_session(out);
        self.phase = Phase::Lost;
        match self.config.rule {
            Rule::Witness => self.take_over(out),
            Rule::PrimaryWins if self.config.fence => self.take_over(out),
            Rule::PrimaryWins | Rule::Manual => self.notice(Level::Critical, Code::OperatorNeeded, out),
        }
    }

    /// One is loaded, or is being loaded.
    const fn has_copy(&self) -> bool {
        !matches!(self.guest, Guest::Absent)
    }

    /// What has come of the checkpoint under way is of no use any more; one that is being loaded is whole.
    fn leave_session(&mut self, out: &mut Vec<Action>) {
        self.requested = false;
        out.push(Action::CancelTimer(Timer::Answer));
        if let Phase::Session(Step::Memory | Step::Size | Step::State) = self.phase {
            out.push(Action::DropState { checkpoint: self.checkpoint });
        }
    }

    /// The next step towards being active that is allowed without further word.
    pub(super) fn take_over(&mut self, out: &mut Vec<Action>) {
        if self.config.rule == Rule::Witness && !self.granted {
            self.phase = Phase::Claiming;
            out.push(Action::AskWitness { generation: self.generation.next() });
        } else if self.config.fence {
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
        self.phase = Phase::Lost;
        self.set(Timer::Retry, self.config.retry, now, out);
    }

    /// Everybody has agreed.
    fn go(&mut self, out: &mut Vec<Action>) {
        self.phase = Phase::Activating;
        if !self.granted {
            self.generation = self.generation.next();
            self.granted = true;
        }
        self.notice(Level::Critical, Code::Activating, out);
        if matches!(self.guest, Guest::Running | Guest::Suspended) {
            self.activate(out);
        }
    }

    /// The guest is neither being loaded, nor on its way from running to standing still or back.
    pub(super) fn activate(&mut self, out: &mut Vec<Action>) {
        self.guest = Guest::Running;
        out.push(Action::ActivateGuest { checkpoint: self.loaded, generation: self.generation });
        self.close(out);
    }

    /// Obeys the operator, or says why not.
    ///
    /// # Errors
    /// [`Refused`]: nothing has changed.
    pub fn command(&mut self, _now: Time, command: Command, actions: &mut Vec<Action>) -> Result<(), Refused> {
        let out = actions;
        match (command, self.phase) {
            (Command::PeerLost, Phase::Session(_)) => self.lost(None, out),
            (Command::FailOver { .. }, Phase::Session(_) | Phase::Lost) if !self.has_copy() => {
                return Err(Refused::NoCheckpoint);
            }
            (Command::FailOver { force: false }, Phase::Session(_)) => {
                return Err(Refused::PrimaryAlive { heard: self.liveness.last() });
            }
            // The primary lives: the operator's word that it does not is not believed, and nobody's answer is spared.
            (Command::FailOver { force: true }, Phase::Session(_)) => {
                self.notice(Level::Critical, Code::Forced, out);
                self.unlink(out);
                self.leave_session(out);
                self.take_over(out);
            }
            (Command::FailOver { force: false }, Phase::Lost) => self.take_over(out),
            (Command::FailOver { force: true }, Phase::Lost | Phase::Claiming | Phase::Fencing) if self.has_copy() => {
                self.notice(Level::Critical, Code::Forced, out);
                self.leave_session(out);
                self.go(out);
            }
            (Command::Stop, Phase::Session(_) | Phase::Lost) => self.end(End::Stopped, out),
            _ => return Err(Refused::Phase),
        }
        Ok(())
    }

    pub(super) fn end(&mut self, end: End, out: &mut Vec<Action>) {
        self.phase = Phase::Ended(end);
        self.guest = Guest::Absent;
        out.push(if end == End::Denied { Action::KeepCopy } else { Action::DropCopy });
        self.close(out);
        let level = if matches!(end, End::Stopped | End::Dismissed) { Level::Info } else { Level::Critical };
        self.notice(level, Code::Ended(end), out);
    }

    fn unlink(&mut self, out: &mut Vec<Action>) {
        if std::mem::take(&mut self.link) {
            out.push(Action::CloseLink);
        }
    }

    fn close(&mut self, out: &mut Vec<Action>) {
        self.unlink(out);
        for timer in [Timer::Answer, Timer::Retry, Timer::Peer] {
            out.push(Action::CancelTimer(timer));
        }
    }
}
