//! One checkpoint after another: the secondary stands still, then the guest, its state travels, both run again.

use super::event::Action;
use super::{Pace, Phase, Primary};
use crate::colo::dialect::{Layout, Message};
use crate::colo::fault::{Guest, Step};
use crate::protocol::primary as common;
use crate::remus::{Level, Time, Timer};
use alloc::vec::Vec;

impl Primary {
    /// What the secondary says, held against the one message that the step allows.
    pub(super) fn message(&mut self, now: Time, message: Message, out: &mut Vec<Action>) {
        self.liveness.heard(now);
        let Phase::Session(step) = self.phase() else { return };
        if self.expected() != Some(message.point()) {
            return self.out_of_step(now, message, out);
        }
        self.last = Some(message.point());
        match step {
            Step::Receipt => self.go_to(Step::Load, now, out),
            // It does not wait for our writer's word either.
            Step::Load if self.confirmed => self.resumed = true,
            Step::Load => {
                self.confirmed = true;
                self.loaded(now, out);
            }
            Step::Resume => self.run(now, out),
            Step::Suspend if self.config.dialect.lists_dirty() => self.go_to(Step::Dirty, now, out),
            // Behind Suspended or the list of dirty pages.
            _ => self.suspend(out),
        }
    }

    /// Waits for the next message.
    fn go_to(&mut self, step: Step, now: Time, out: &mut Vec<Action>) {
        self.step = step;
        self.set(Timer::Answer, self.config.answer, now, out);
    }

    /// Starts a checkpoint if one is wanted and may come.
    pub(super) fn progress(&mut self, now: Time, out: &mut Vec<Action>) {
        if self.phase() != Phase::Session(Step::Run) || self.domain.guest() != Guest::Running {
            return;
        }
        if self.pace == Pace::Off {
            // The gap is the guest's time: it counts from when the guest runs.
            self.pace = Pace::Gap;
            return self.set(Timer::Round, self.config.gap, now, out);
        }
        if !self.due || self.pace != Pace::Open {
            return;
        }
        self.due = false;
        self.pace = Pace::Off;
        common::cancel(Timer::Round, out);
        self.checkpoint = self.checkpoint.saturating_add(1);
        out.push(Action::Send(Message::New));
        self.go_to(Step::Suspend, now, out);
    }

    /// The secondary stands still, or has nothing yet: now this side's guest.
    pub(super) fn suspend(&mut self, out: &mut Vec<Action>) {
        self.step = Step::Collect;
        common::cancel(Timer::Answer, out);
        self.domain.suspend(out);
    }

    pub(super) fn guest_suspended(&mut self, out: &mut Vec<Action>) {
        if !self.domain.suspended() {
            return;
        }
        match self.phase() {
            Phase::Session(Step::Collect) => {
                self.domain.hold(out);
                let merge = self.config.dialect.lists_dirty() && self.checkpoint > 1;
                out.push(Action::Collect { checkpoint: self.checkpoint, merge });
            }
            Phase::Alone => self.resume(out),
            // It waits with the rest for the decision.
            _ => {}
        }
    }

    /// The state can be sent, with whatever messages the dialect has around it.
    pub(super) fn collected(&mut self, now: Time, checkpoint: u64, bytes: u64, out: &mut Vec<Action>) {
        if self.phase() != Phase::Session(Step::Collect)
            || self.domain.guest() != Guest::Suspended
            || checkpoint != self.checkpoint
        {
            return;
        }
        self.transmitted = true;
        self.sent = false;
        self.confirmed = false;
        self.resumed = false;
        let dialect = self.config.dialect;
        // The first image is a plain migration in every dialect.
        let announced = dialect.announces_state() && checkpoint > 1;
        if announced {
            out.push(Action::Send(Message::Send));
            if dialect.layout() == Some(Layout::Live) {
                out.push(Action::SendMemory { checkpoint });
            }
            if dialect.layout().is_some() {
                out.push(Action::Send(Message::Size { bytes }));
            }
        }
        out.push(Action::SendState { checkpoint });
        self.go_to(if announced { Step::Receipt } else { Step::Load }, now, out);
    }

    /// The secondary has loaded it, and nothing of it is being written any more: both can go on from it.
    pub(super) fn loaded(&mut self, now: Time, out: &mut Vec<Action>) {
        if !self.confirmed || !self.sent || self.phase() != Phase::Session(Step::Load) {
            return;
        }
        if self.loaded == 0 {
            common::tell(Level::Info, common::Code::Protected, out);
        }
        self.loaded = self.checkpoint;
        self.due = false;
        // What was sent before is part of the state that the secondary has now.
        if self.domain.may_release() {
            out.push(Action::ReleaseHeld { up_to_epoch: self.checkpoint.saturating_sub(1) });
        }
        self.resume(out);
        if self.hears_resume() && !self.resumed {
            self.go_to(Step::Resume, now, out);
        } else {
            self.run(now, out);
        }
    }

    fn run(&mut self, now: Time, out: &mut Vec<Action>) {
        self.step = Step::Run;
        common::cancel(Timer::Answer, out);
        self.progress(now, out);
    }

    pub(super) fn resume(&mut self, out: &mut Vec<Action>) {
        self.domain.resume(self.checkpoint, out);
    }
}
