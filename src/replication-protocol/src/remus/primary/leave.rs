//! Going on alone: when it is allowed, and what it takes.

use super::event::{Action, Cause, Code, End};
use super::round::Round;
use super::{Guest, Phase, Primary};
use crate::protocol::primary as common;
use crate::protocol::{Generation, Level, Rule, Time, Timer};
use crate::remus::wire::{Control, Farewell};
use alloc::vec::Vec;

impl Primary {
    /// Wants to be alone. Output stays held until it is decided who may be active.
    pub(super) fn leave(&mut self, cause: Cause, out: &mut Vec<Action>) {
        self.notice(Level::Critical, Code::Leaving(cause), out);
        if self.bare || !self.transmitted {
            // No secondary has anything to go active with; a bare one asks nobody.
            return self.go_alone(self.generation, cause.farewell(), out);
        }
        if !self.delegated {
            self.let_run(out);
        }
        match self.config.rule {
            Rule::Witness => {
                self.phase = Phase::Leaving { cause, asked: true, heard: false };
                out.push(common::Action::AskWitness { generation: self.generation.next() }.into());
            }
            // The secondary was told to go active, and perhaps it has.
            Rule::Manual | Rule::PrimaryWins if self.delegated => {
                self.phase = Phase::Leaving { cause, asked: false, heard: false };
                self.notice(Level::Critical, Code::OperatorNeeded, out);
            }
            Rule::Manual | Rule::PrimaryWins => self.go_alone(self.generation.next(), cause.farewell(), out),
        }
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
    pub(super) fn lost(&mut self, cause: Cause, out: &mut Vec<Action>) {
        if matches!(self.phase, Phase::Connecting | Phase::Greeting | Phase::Claiming) {
            return self.no_session(Code::NotConnected, out);
        }
        if !self.link {
            return;
        }
        self.close(out);
        match &mut self.phase {
            Phase::Protected | Phase::Delegated => self.leave(cause, out),
            Phase::Leaving { cause: old, asked, .. } => {
                // It cannot come back, and the timer for the next try has gone with the link.
                *old = cause;
                if !*asked && self.config.rule == Rule::Witness {
                    *asked = true;
                    out.push(common::Action::AskWitness { generation: self.generation.next() }.into());
                }
            }
            _ => {}
        }
    }

    /// Nothing more can be heard of the secondary, which is no sign of its death; and what it hears of us must not be one of
    /// ours. So the connection stays until it is decided who goes on.
    pub(super) fn garbled(&mut self, out: &mut Vec<Action>) {
        match &mut self.phase {
            Phase::Protected | Phase::Delegated => self.leave(Cause::Garbled, out),
            Phase::Leaving { cause, heard, .. } => {
                *cause = Cause::Garbled;
                *heard = false;
            }
            _ => self.lost(Cause::Garbled, out),
        }
    }

    /// A frame of the session has come.
    pub(super) fn sign_of_life(&mut self, now: Time, ack: bool, out: &mut Vec<Action>) {
        if let Phase::Leaving { cause, asked, heard } = &mut self.phase
            && cause.can_pass()
            && (ack || *cause != Cause::AckLate)
        {
            *heard = true;
            // What has been asked may be granted yet.
            if !*asked {
                self.back_again(now, out);
            }
        }
    }

    /// The witness has not given the next generation to anybody on our request.
    pub(super) fn unreachable(&mut self, now: Time, cause: Cause, out: &mut Vec<Action>) {
        self.tell(Level::Critical, common::Code::WitnessUnreachable, out);
        let Phase::Leaving { asked, heard, .. } = &mut self.phase else { return };
        *asked = false;
        // An operator's wish is not worth more than protection.
        if self.link && (*heard || cause == Cause::Asked) {
            return self.back_again(now, out);
        }
        self.set(Timer::Retry, self.config.retry, now, out);
    }

    fn back_again(&mut self, now: Time, out: &mut Vec<Action>) {
        self.notice(Level::Info, Code::BackAgain, out);
        out.push(common::Action::CancelTimer(Timer::Retry).into());
        self.phase = if self.delegated { Phase::Delegated } else { Phase::Protected };
        self.liveness.heard(now);
        self.set(Timer::Peer, self.config.timeout, now, out);
        if self.delegated || self.round.is_under_way() {
            self.set(Timer::Answer, self.config.answer, now, out);
        }
        self.progress(now, out);
    }

    /// Nobody else is active nor will be: the guest runs, its output is free.
    pub(super) fn go_alone(&mut self, generation: Generation, farewell: Farewell, out: &mut Vec<Action>) {
        self.generation = generation;
        if self.link && !self.bare {
            out.push(Action::SendFrame(Control::Goodbye { reason: farewell }));
        }
        self.close(out);
        self.phase = Phase::Alone;
        self.round = Round::Idle;
        self.switching = false;
        self.delegated = false;
        if self.guest == Guest::Paused {
            self.guest = Guest::Suspended;
        }
        if self.held {
            self.free(out);
        }
        self.resume(out);
        self.tell(Level::Critical, common::Code::Unprotected, out);
    }

    /// Somebody else is active, or will be: nothing of this copy gets out any more.
    pub(super) fn end(&mut self, end: End, out: &mut Vec<Action>) {
        self.phase = Phase::Ended(end);
        self.round = Round::Idle;
        self.guest = Guest::Paused;
        self.held = true;
        out.push(common::Action::PauseGuest.into());
        out.push(common::Action::DiscardOutput.into());
        self.close(out);
        match end {
            End::Fenced => self.tell(Level::Critical, common::Code::Fenced, out),
            End::SwitchedOver => self.notice(Level::Info, Code::SwitchedOver, out),
            End::Suspended => {}
        }
    }

    /// The guest is suspended and stays so. Its output stays as it is; the connection's end lets a secondary take over.
    pub(super) fn resume_failed(&mut self, out: &mut Vec<Action>) {
        self.tell(Level::Critical, common::Code::ResumeFailed, out);
        if let Phase::Ended(_) = self.phase {
            return;
        }
        self.round = Round::Idle;
        self.close(out);
        self.phase = Phase::Ended(End::Suspended);
    }

    pub(super) fn local_failure(&mut self, out: &mut Vec<Action>) {
        self.notice(Level::Critical, Code::LocalFailure, out);
        self.round = Round::Idle;
        self.whole = true;
        self.resume(out);
        if self.phase == Phase::Protected {
            self.leave(Cause::LocalFailure, out);
        }
    }

    pub(super) fn close(&mut self, out: &mut Vec<Action>) {
        if core::mem::take(&mut self.link) {
            out.push(Action::CloseLink { session: self.session });
        }
        for timer in Timer::ALL {
            out.push(common::Action::CancelTimer(timer).into());
        }
    }
}
