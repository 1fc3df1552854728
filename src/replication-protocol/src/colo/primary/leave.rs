//! Going on alone: when it is allowed, and what it takes.

use super::event::{Action, Cause, Code};
use super::{Pace, Phase, Primary};
use crate::colo::fault::{Guest, Step};
use crate::protocol::primary as common;
use crate::remus::primary::Answer;
use crate::remus::{Generation, Level, Rule, Time, Timer, Verdict};
use alloc::vec::Vec;

impl Primary {
    /// A generation that no earlier session had, so that no secondary of such a one can be granted anything any more.
    pub(super) fn claim(&mut self, out: &mut Vec<Action>) {
        let generation = self.generation.next();
        match self.config.rule {
            Rule::Witness => {
                self.phase = Phase::Claiming;
                out.push(common::Action::AskWitness { generation }.into());
            }
            Rule::Manual | Rule::PrimaryWins => self.claimed(generation, out),
        }
    }

    fn claimed(&mut self, generation: Generation, out: &mut Vec<Action>) {
        self.generation = generation;
        out.push(Action::Begin { generation });
        self.begin(out);
    }

    pub(super) fn begin(&mut self, out: &mut Vec<Action>) {
        self.phase = Phase::Session(Step::Image);
        self.checkpoint = 1;
        out.push(Action::SendImage);
    }

    /// The session did not come about. Nothing was transmitted, so nobody else can be active.
    pub(super) fn no_session(&mut self, out: &mut Vec<Action>) {
        self.close(out);
        self.phase = Phase::Alone;
        self.tell(Level::Critical, common::Code::Unprotected, out);
    }

    /// The session is over. Output stays held until it is decided who may be active, and the connection open: its end is
    /// what makes a secondary ask for the same generation.
    pub(super) fn leave(&mut self, cause: Cause, out: &mut Vec<Action>) {
        self.notice(Level::Critical, Code::Leaving(cause), out);
        out.push(Action::Abandon);
        out.push(common::Action::CancelTimer(Timer::Answer).into());
        out.push(common::Action::CancelTimer(Timer::Round).into());
        self.pace = Pace::Off;
        self.due = false;
        if !self.transmitted {
            // No secondary has anything to go active with.
            return self.go_alone(self.generation, out);
        }
        match self.config.rule {
            Rule::Witness => {
                self.phase = Phase::Leaving { cause, asked: true };
                out.push(common::Action::AskWitness { generation: self.generation.next() }.into());
            }
            Rule::Manual | Rule::PrimaryWins => self.go_alone(self.generation.next(), out),
        }
    }

    pub(super) fn link_lost(&mut self, out: &mut Vec<Action>) {
        if core::mem::take(&mut self.link) {
            // One direction may be whole.
            out.push(Action::CloseLink);
            match self.phase {
                Phase::Session(_) => self.leave(Cause::LinkLost, out),
                Phase::Claiming => self.no_session(out),
                _ => {}
            }
        }
    }

    /// Something could not be done here; the guest is whole.
    pub(super) fn failed(&mut self, out: &mut Vec<Action>) {
        if let Phase::Session(_) = self.phase {
            self.leave(Cause::LocalFailure, out);
        }
    }

    pub(super) fn witness(&mut self, now: Time, answer: Answer, out: &mut Vec<Action>) {
        if answer.generation != self.generation.next() {
            return;
        }
        let asked = match &mut self.phase {
            Phase::Leaving { asked, .. } => asked,
            Phase::Claiming => return self.answered_at_start(answer, out),
            // The answer was on its way when the secondary left.
            Phase::Alone if answer.verdict == Verdict::Granted => {
                self.generation = answer.generation;
                return;
            }
            _ => return,
        };
        match answer.verdict {
            Verdict::Granted => self.go_alone(self.generation.next(), out),
            Verdict::Held { newest } => {
                self.generation = self.generation.max(newest);
                self.end(out);
            }
            Verdict::Unreachable => {
                *asked = false;
                self.tell(Level::Critical, common::Code::WitnessUnreachable, out);
                self.set(Timer::Retry, self.config.retry, now, out);
            }
        }
    }

    fn answered_at_start(&mut self, answer: Answer, out: &mut Vec<Action>) {
        match answer.verdict {
            Verdict::Granted => self.claimed(answer.generation, out),
            Verdict::Held { newest } => {
                self.generation = self.generation.max(newest);
                self.end(out);
            }
            Verdict::Unreachable => {
                self.tell(Level::Critical, common::Code::WitnessUnreachable, out);
                self.no_session(out);
            }
        }
    }

    pub(super) fn retry(&mut self, out: &mut Vec<Action>) {
        if let Phase::Leaving { asked: asked @ false, .. } = &mut self.phase {
            *asked = true;
            out.push(common::Action::AskWitness { generation: self.generation.next() }.into());
        }
    }

    /// Nobody else is active nor will be: the guest runs, its output is free.
    pub(super) fn go_alone(&mut self, generation: Generation, out: &mut Vec<Action>) {
        self.generation = generation;
        if self.link {
            out.push(Action::Dismiss);
        }
        self.close(out);
        self.phase = Phase::Alone;
        self.pace = Pace::Off;
        if core::mem::take(&mut self.held) {
            self.unsound = false;
            out.push(common::Action::FreeOutput.into());
        }
        if self.guest == Guest::Paused {
            self.guest = Guest::Suspended;
        }
        self.resume(out);
        self.tell(Level::Critical, common::Code::Unprotected, out);
    }

    /// The other side is active, or will be: nothing of this copy gets out any more.
    fn end(&mut self, out: &mut Vec<Action>) {
        self.phase = Phase::Ended;
        self.guest = Guest::Paused;
        self.held = true;
        out.push(common::Action::PauseGuest.into());
        out.push(common::Action::DiscardOutput.into());
        self.close(out);
        self.tell(Level::Critical, common::Code::Fenced, out);
    }

    /// The guest is suspended and stays so. Its output stays as it is; the connection's end lets a secondary take over.
    pub(super) fn resume_failed(&mut self, out: &mut Vec<Action>) {
        self.guest = Guest::Suspended;
        self.tell(Level::Critical, common::Code::ResumeFailed, out);
        if self.phase != Phase::Ended {
            self.close(out);
            self.phase = Phase::Suspended;
        }
    }

    fn close(&mut self, out: &mut Vec<Action>) {
        if core::mem::take(&mut self.link) {
            out.push(Action::CloseLink);
        }
        for timer in [Timer::Round, Timer::Answer, Timer::Retry, Timer::Peer, Timer::Output] {
            out.push(common::Action::CancelTimer(timer).into());
        }
    }
}
