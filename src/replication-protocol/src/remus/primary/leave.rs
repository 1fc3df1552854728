//! Going on alone: what it takes of a session. When it is allowed is [`GoAlone`](crate::claim::GoAlone)'s to decide.

use super::event::{Action, Cause, Code};
use super::round::Round;
use super::{Phase, Primary};
use crate::claim::{AloneNext as Next, Other};
use crate::protocol::primary as common;
use crate::protocol::{Level, OutputCall, Time, Timer};
use crate::remus::wire::{Control, Farewell};
use alloc::vec::Vec;

impl Primary {
    /// Wants to be alone. Output stays held until it is decided who may be active.
    pub(super) fn leave(&mut self, now: Time, cause: Cause, out: &mut Vec<Action>) {
        self.notice(Level::Critical, Code::Leaving(cause), out);
        // A bare one asks nobody.
        let nothing = self.bare || !self.transmitted;
        if !nothing && !self.delegated {
            self.let_run(out);
        }
        let other = match self.delegated {
            _ if nothing => Other::Nothing,
            true => Other::Guest,
            false => Other::Replica,
        };
        let next = self.claim.leave(cause, other, out);
        self.follow(now, next, out);
    }

    pub(super) fn follow(&mut self, now: Time, next: Next<Cause>, out: &mut Vec<Action>) {
        match next {
            Next::Wait => {}
            Next::Begin => self.begin(now, out),
            Next::NoSession => {
                self.alone_again(out);
                common::tell(Level::Critical, common::Code::WitnessUnreachable, out);
            }
            Next::Alone(cause) => self.go_alone(cause.farewell(), out),
            Next::Back => self.back_again(now, out),
            // An operator's wish is not worth more than protection.
            Next::Undecided(cause) if self.link && (self.is_heard() || cause == Cause::Asked) => {
                self.back_again(now, out);
            }
            Next::Undecided(_) => self.claim.later(now, out),
            Next::Operator => self.notice(Level::Critical, Code::OperatorNeeded, out),
            Next::Ended => self.end(out),
        }
    }

    const fn is_heard(&self) -> bool {
        matches!(self.phase(), Phase::Leaving { heard: true, .. })
    }

    /// The guest need not stand still for what may never be decided: a switch-over is called off, and so is a checkpoint
    /// that is being copied, for one that is too large for it is written while the guest waits.
    fn let_run(&mut self, out: &mut Vec<Action>) {
        self.switching = false;
        match self.round {
            Round::Copying => {
                self.refused = true;
                self.whole = true;
                out.push(Action::StopTransmit { checkpoint: self.checkpoint });
            }
            Round::Idle | Round::InFlight { .. } => self.resume(out),
            Round::Image | Round::Suspending => {}
        }
    }

    /// The connection is of no use any more.
    pub(super) fn lost(&mut self, now: Time, cause: Cause, out: &mut Vec<Action>) {
        if matches!(self.phase(), Phase::Connecting | Phase::Greeting | Phase::Claiming) {
            return self.no_session(Code::NotConnected, out);
        }
        if !self.link {
            return;
        }
        self.close(out);
        if let Phase::Protected | Phase::Delegated = self.phase() {
            return self.leave(now, cause, out);
        }
        // It cannot come back, and the timer for the next try has gone with the link.
        self.claim.instead(cause);
        self.claim.retry(out);
    }

    /// Nothing more can be heard of the secondary, which is no sign of its death; and what it hears of us must not be one of
    /// ours. So the connection stays until it is decided who goes on.
    pub(super) fn garbled(&mut self, now: Time, out: &mut Vec<Action>) {
        match self.phase() {
            Phase::Protected | Phase::Delegated => self.leave(now, Cause::Garbled, out),
            Phase::Leaving { .. } => {
                self.claim.instead(Cause::Garbled);
                self.claim.unhear();
            }
            _ => self.lost(now, Cause::Garbled, out),
        }
    }

    /// A frame of the session has come.
    pub(super) fn sign_of_life(&mut self, now: Time, ack: bool, out: &mut Vec<Action>) {
        if let Phase::Leaving { cause, .. } = self.phase()
            && cause.can_pass()
            && (ack || cause != Cause::AckLate)
        {
            let next = self.claim.heard();
            self.follow(now, next, out);
        }
    }

    fn back_again(&mut self, now: Time, out: &mut Vec<Action>) {
        self.notice(Level::Info, Code::BackAgain, out);
        common::cancel(Timer::Retry, out);
        self.claim.back();
        self.liveness.heard(now);
        self.set(Timer::Peer, self.config.timeout, now, out);
        if self.delegated || self.round.is_under_way() {
            self.set(Timer::Answer, self.config.answer, now, out);
        }
        self.progress(now, out);
    }

    /// Nobody else is active nor will be.
    pub(super) fn go_alone(&mut self, farewell: Farewell, out: &mut Vec<Action>) {
        if self.link && !self.bare {
            out.push(Action::SendFrame(Control::Goodbye { reason: farewell }));
        }
        self.close(out);
        self.round = Round::Idle;
        self.switching = false;
        self.delegated = false;
        self.domain.let_go(self.checkpoint, out);
    }

    /// Somebody else is active, or will be.
    fn end(&mut self, out: &mut Vec<Action>) {
        self.round = Round::Idle;
        self.domain.stop(out);
        self.close(out);
        if self.delegated {
            self.notice(Level::Info, Code::SwitchedOver, out);
        } else {
            common::tell(Level::Critical, common::Code::Fenced, out);
        }
    }

    /// The guest is suspended and stays so. Its output stays as it is; the connection's end lets a secondary take over.
    pub(super) fn stuck(&mut self, out: &mut Vec<Action>) {
        if self.claim.stuck() {
            self.round = Round::Idle;
            self.close(out);
        }
    }

    pub(super) fn local_failure(&mut self, now: Time, out: &mut Vec<Action>) {
        self.notice(Level::Critical, Code::LocalFailure, out);
        self.round = Round::Idle;
        self.whole = true;
        self.resume(out);
        if self.phase() == Phase::Protected {
            self.leave(now, Cause::LocalFailure, out);
        }
    }

    /// What was asked of the output buffer has failed.
    pub(super) fn output_failed(&mut self, now: Time, call: OutputCall, out: &mut Vec<Action>) {
        let at = now.after(self.config.retry);
        if !self.domain.output_failed(call, &self.claim.stage(), at, out) {
            return;
        }
        match self.phase() {
            Phase::Protected | Phase::Delegated => self.leave(now, Cause::Output, out),
            _ => {
                self.claim.instead(Cause::Output);
                self.claim.unhear();
            }
        }
    }

    /// The output buffer may work again.
    pub(super) fn output_again(&mut self, out: &mut Vec<Action>) {
        if self.domain.output_again(&self.claim.stage(), out) && self.acknowledged > 0 {
            out.push(Action::ReleaseOutput { up_to_epoch: self.acknowledged - 1 });
        }
    }

    pub(super) fn close(&mut self, out: &mut Vec<Action>) {
        if core::mem::take(&mut self.link) {
            out.push(Action::CloseLink { session: self.session });
        }
        for timer in Timer::ALL {
            common::cancel(timer, out);
        }
    }
}
