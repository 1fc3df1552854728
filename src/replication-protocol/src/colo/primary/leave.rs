//! Going on alone: what it takes of a session. When it is allowed is [`GoAlone`](crate::claim::GoAlone)'s to decide.

use super::event::{Action, Cause, Code};
use super::{Pace, Phase, Primary};
use crate::claim::{AloneNext as Next, Other};
use crate::colo::fault::Step;
use crate::protocol::primary as common;
use crate::protocol::{Level, OutputCall, Time, Timer};
use alloc::vec::Vec;

impl Primary {
    pub(super) fn follow(&mut self, now: Time, next: Next<Cause>, out: &mut Vec<Action>) {
        match next {
            // Nobody is handed a guest, and who is left is not gone back to.
            Next::Wait | Next::Operator | Next::Back => {}
            Next::Begin => {
                out.push(Action::Begin { generation: self.generation() });
                self.begin(out);
            }
            Next::NoSession => {
                common::tell(Level::Critical, common::Code::WitnessUnreachable, out);
                self.no_session(out);
            }
            Next::Alone(_) => self.go_alone(out),
            Next::Undecided(_) => self.claim.later(now, out),
            Next::Ended => self.end(out),
        }
    }

    pub(super) fn begin(&mut self, out: &mut Vec<Action>) {
        self.checkpoint = 1;
        out.push(Action::SendImage);
    }

    /// The session did not come about. Nothing was transmitted, so nobody else can be active.
    pub(super) fn no_session(&mut self, out: &mut Vec<Action>) {
        self.close(out);
        self.claim.stay();
        common::tell(Level::Critical, common::Code::Unprotected, out);
    }

    /// The session is over. Output stays held until it is decided who may be active, and the connection open: its end is
    /// what makes a secondary ask for the same generation.
    pub(super) fn leave(&mut self, now: Time, cause: Cause, out: &mut Vec<Action>) {
        self.notice(Level::Critical, Code::Leaving(cause), out);
        out.push(Action::Abandon);
        common::cancel(Timer::Answer, out);
        common::cancel(Timer::Round, out);
        self.step = Step::Image;
        self.pace = Pace::Off;
        self.due = false;
        let other = if self.transmitted { Other::Replica } else { Other::Nothing };
        let next = self.claim.leave(cause, other, out);
        self.follow(now, next, out);
    }

    pub(super) fn link_lost(&mut self, now: Time, out: &mut Vec<Action>) {
        if core::mem::take(&mut self.link) {
            // One direction may be whole.
            out.push(Action::CloseLink);
            match self.phase() {
                Phase::Session(_) => self.leave(now, Cause::LinkLost, out),
                Phase::Claiming => self.no_session(out),
                _ => {}
            }
        }
    }

    /// Something could not be done here; the guest is whole.
    pub(super) fn failed(&mut self, now: Time, out: &mut Vec<Action>) {
        if let Phase::Session(_) = self.phase() {
            self.leave(now, Cause::LocalFailure, out);
        }
    }

    /// Nobody else is active nor will be.
    pub(super) fn go_alone(&mut self, out: &mut Vec<Action>) {
        if self.link {
            out.push(Action::Dismiss);
        }
        self.close(out);
        self.step = Step::Image;
        self.pace = Pace::Off;
        self.domain.let_go(self.checkpoint, out);
    }

    /// The other side is active, or will be.
    fn end(&mut self, out: &mut Vec<Action>) {
        self.domain.stop(out);
        self.close(out);
        common::tell(Level::Critical, common::Code::Fenced, out);
    }

    /// What was asked of the output buffer has failed.
    pub(super) fn output_failed(&mut self, now: Time, call: OutputCall, out: &mut Vec<Action>) {
        let at = now.after(self.config.retry);
        if self.domain.output_failed(call, &self.claim.stage(), at, out)
            && let Phase::Session(_) = self.phase()
        {
            self.leave(now, Cause::Output, out);
        }
    }

    /// The output buffer may work again.
    pub(super) fn output_again(&mut self, out: &mut Vec<Action>) {
        if self.domain.output_again(&self.claim.stage(), out) && self.loaded > 0 {
            out.push(Action::ReleaseHeld { up_to_epoch: self.loaded - 1 });
        }
    }

    pub(super) fn close(&mut self, out: &mut Vec<Action>) {
        if core::mem::take(&mut self.link) {
            out.push(Action::CloseLink);
        }
        for timer in Timer::ALL {
            common::cancel(timer, out);
        }
    }
}
