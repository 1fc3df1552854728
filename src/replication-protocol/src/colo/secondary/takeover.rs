//! The session's part in a take-over: when the primary counts as lost, and what becomes of the checkpoint under way then.

use super::event::{Action, Code, Command, End};
use super::{Phase, Secondary};
use crate::claim::Next;
use crate::colo::fault::{Fault, Guest, Step};
use crate::protocol::secondary as common;
use crate::protocol::{Level, Refused, Time, Timer};
use alloc::vec::Vec;

impl Secondary {
    /// The primary is silent, or the connection is gone. The dialects have no way back from that.
    pub(super) fn lost(&mut self, fault: Option<Fault>, out: &mut Vec<Action>) {
        self.unlink(out);
        let Phase::Session(_) = self.phase() else { return };
        if !self.has_replica() {
            return self.end(End::Empty, out);
        }
        self.notice(Level::Critical, Code::PrimaryLost(fault), out);
        self.leave_session(out);
        let next = self.claim.lost(true, out);
        self.follow(next, out);
    }

    /// One is loaded, or is being loaded.
    const fn has_replica(&self) -> bool {
        !matches!(self.guest, Guest::Absent)
    }

    /// What has come of the checkpoint under way is of no use any more; one that is being loaded is whole.
    fn leave_session(&mut self, out: &mut Vec<Action>) {
        self.requested = false;
        out.push(common::Action::CancelTimer(Timer::Answer).into());
        if let Step::Memory | Step::Size | Step::State = core::mem::replace(&mut self.step, Step::Image) {
            out.push(Action::DropState { checkpoint: self.checkpoint });
        }
    }

    pub(super) fn follow(&mut self, next: Next, out: &mut Vec<Action>) {
        match next {
            Next::Wait => {}
            // A guest that is being loaded, suspended or resumed is activated after that.
            Next::Activate if matches!(self.guest, Guest::Running | Guest::Suspended) => self.activate(out),
            Next::Activate => {}
            Next::Denied => self.end(End::Denied, out),
            Next::Dismissed => self.end(End::Dismissed, out),
        }
    }

    /// The guest is neither being loaded, nor on its way from running to suspended or back.
    pub(super) fn activate(&mut self, out: &mut Vec<Action>) {
        self.guest = Guest::Running;
        let generation = self.claim.generation();
        out.push(common::Action::ActivateGuest { checkpoint: self.loaded, generation }.into());
        self.close(out);
    }

    /// Obeys the operator, or says why not.
    ///
    /// # Errors
    /// [`Refused`]: nothing has changed.
    pub fn command(&mut self, _now: Time, command: Command, actions: &mut Vec<Action>) -> Result<(), Refused> {
        let out = actions;
        match (command, self.phase()) {
            (Command::PeerLost, Phase::Session(_)) => self.lost(None, out),
            (Command::FailOver { .. }, Phase::Session(_) | Phase::Lost) if !self.has_replica() => {
                return Err(Refused::NoCheckpoint);
            }
            (Command::FailOver { force }, phase) if self.ended.is_none() => {
                let next = self.claim.fail_over(force, self.liveness.last(), out)?;
                if let Phase::Session(_) = phase {
                    // The connection stays until it is decided: its end is what makes a primary ask for the same generation.
                    self.leave_session(out);
                }
                self.follow(next, out);
            }
            (Command::Stop, Phase::Session(_) | Phase::Lost) => self.end(End::Stopped, out),
            _ => return Err(Refused::Phase),
        }
        Ok(())
    }

    pub(super) fn end(&mut self, end: End, out: &mut Vec<Action>) {
        self.ended = Some(end);
        self.step = Step::Image;
        self.claim.end();
        self.guest = Guest::Absent;
        let denied = end == End::Denied;
        out.push(if denied { common::Action::KeepReplica } else { common::Action::DropReplica }.into());
        self.close(out);
        let level = if matches!(end, End::Stopped | End::Dismissed) { Level::Info } else { Level::Critical };
        self.notice(level, Code::Ended(end), out);
    }

    fn unlink(&mut self, out: &mut Vec<Action>) {
        if core::mem::take(&mut self.link) {
            out.push(common::Action::CloseLink.into());
        }
    }

    fn close(&mut self, out: &mut Vec<Action>) {
        self.unlink(out);
        for timer in [Timer::Answer, Timer::Retry, Timer::Peer] {
            out.push(common::Action::CancelTimer(timer).into());
        }
    }
}
