//! The session's part in a take-over: when the primary counts as lost, and what becomes of the checkpoints then.

use super::event::{Action, Code, Command, End};
use super::{Phase, Secondary};
use crate::claim::{Next, Stage};
use crate::protocol::secondary as common;
use crate::protocol::{Level, Refused, Time, Timer};
use crate::remus::types::RefuseReason;
use crate::remus::wire::{Control, Farewell};
use alloc::vec::Vec;

impl Secondary {
    /// A frame of the session has come: the primary lives.
    pub(super) fn heard(&mut self, now: Time, out: &mut Vec<Action>) {
        self.liveness.heard(now);
        if self.link && self.claim.heard(out) {
            self.notice(Level::Info, Code::BackAgain, out);
        }
        if self.phase() == Phase::Passive {
            self.set(Timer::Peer, self.config.timeout, now, out);
        }
    }

    /// The primary is silent, or the connection is gone.
    pub(super) fn lost(&mut self, out: &mut Vec<Action>) {
        match self.phase() {
            Phase::Greeting => self.end(End::Empty, out),
            Phase::Passive | Phase::Lost if self.newest.is_none() => self.end(End::Empty, out),
            // A retry or the operator is waited for already; with the link gone, nothing else can come.
            phase @ (Phase::Passive | Phase::Lost) => {
                if phase == Phase::Passive {
                    self.notice(Level::Critical, Code::PrimaryLost, out);
                }
                // After damage, the primary's goodbye may be what could not be read: nobody is fenced for that.
                let next = self.claim.lost(!self.garbled, out);
                self.follow(next, out);
            }
            _ => {}
        }
    }

    pub(super) fn follow(&mut self, next: Next, out: &mut Vec<Action>) {
        match next {
            Next::Wait => {}
            Next::Activate => self.go(out),
            Next::Denied => self.end(End::Denied, out),
            Next::Dismissed => self.end(End::Dismissed, out),
        }
    }

    /// Everybody has agreed.
    fn go(&mut self, out: &mut Vec<Action>) {
        let Some(checkpoint) = self.newest else { return };
        // Before the guest starts: the sooner a living primary knows, the better.
        self.send(Control::Active { generation: self.claim.generation(), checkpoint }, out);
        self.drop_unfinished(out);
        self.start = true;
        if self.applying.is_none() {
            self.activate(out);
        }
    }

    fn drop_unfinished(&mut self, out: &mut Vec<Action>) {
        let unfinished = self.staged.take().into_iter().chain(self.expected.take());
        out.extend(unfinished.map(|checkpoint| Action::DropCheckpoint { checkpoint, reason: None }));
    }

    pub(super) fn activate(&mut self, out: &mut Vec<Action>) {
        let Some(checkpoint) = self.newest else { return };
        self.start = false;
        out.push(common::Action::ActivateGuest { checkpoint, generation: self.claim.generation() }.into());
        self.close(out);
    }

    pub(super) fn goodbye(&mut self, out: &mut Vec<Action>) {
        let next = self.claim.goodbye();
        if next == Next::Wait {
            self.link = false;
            out.push(common::Action::CloseLink.into());
        }
        self.follow(next, out);
    }

    pub(super) fn copy_lost(&mut self, checkpoint: u64, out: &mut Vec<Action>) {
        self.send(Control::Refuse { checkpoint, reason: RefuseReason::Apply }, out);
        // With a generation asked for or taken, the primary must not hear that nobody holds the next.
        if !self.claim.is_granted() && self.claim.stage() != Stage::Claiming {
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
        match (command, self.phase()) {
            (Command::FailOver { .. }, _) if self.receives() && self.newest.is_none() => {
                return Err(Refused::NoCheckpoint);
            }
            (Command::FailOver { force }, _) if self.receives() => {
                let next = self.claim.fail_over(force, self.liveness.last(), out)?;
                self.follow(next, out);
            }
            (Command::Stop, Phase::Greeting) => self.end(End::Stopped, out),
            (Command::Stop, Phase::Passive | Phase::Lost) => {
                if !self.claim.is_granted() {
                    self.send(Control::Goodbye { reason: Farewell::Stopping }, out);
                }
                self.end(End::Stopped, out);
            }
            _ => return Err(Refused::Phase),
        }
        Ok(())
    }

    pub(super) fn end(&mut self, end: End, out: &mut Vec<Action>) {
        self.ended = Some(end);
        self.greeted = false;
        self.claim.end();
        if end == End::Denied {
            self.drop_unfinished(out);
            out.push(common::Action::KeepReplica.into());
        } else {
            out.push(common::Action::DropReplica.into());
        }
        self.close(out);
        let level = match end {
            End::Dismissed | End::Stopped => Level::Info,
            _ => Level::Critical,
        };
        self.notice(level, Code::Ended(end), out);
    }

    fn close(&mut self, out: &mut Vec<Action>) {
        if core::mem::take(&mut self.link) {
            out.push(common::Action::CloseLink.into());
        }
        for timer in Timer::ALL {
            out.push(common::Action::CancelTimer(timer).into());
        }
    }
}
