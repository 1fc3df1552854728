//! One checkpoint after another: stand still, receive, load, run.

use super::event::Action;
use super::{Phase, Secondary};
use crate::colo::config::Mode;
use crate::colo::dialect::{Layout, Message};
use crate::colo::fault::{Guest, Step, Wrong};
use crate::protocol::secondary as common;
use crate::protocol::{Level, Time, Timer};
use alloc::vec::Vec;

impl Secondary {
    /// What the primary says, held against the one message that the step allows.
    pub(super) fn message(&mut self, now: Time, message: Message, out: &mut Vec<Action>) {
        self.liveness.heard(now);
        let Phase::Session(_) = self.phase() else { return };
        if self.expected() != Some(message.point()) {
            return self.out_of_step(message, out);
        }
        self.last = Some(message.point());
        match message {
            Message::Send => match self.config.dialect.layout() {
                Some(Layout::Live) => {
                    out.push(Action::ReceiveMemory { checkpoint: self.checkpoint });
                    self.go_to(Step::Memory, now, out);
                }
                Some(Layout::Whole) => self.go_to(Step::Size, now, out),
                None => self.receive(now, None, out),
            },
            Message::Size { bytes } if bytes > self.config.budget => {
                self.fault(Wrong::Size { bytes, budget: self.config.budget }, out);
            }
            Message::Size { bytes } => self.receive(now, Some(bytes), out),
            // New, for no other is expected in any other step.
            _ if self.guest == Guest::Resuming => self.requested = true,
            _ => self.suspend(now, out),
        }
    }

    /// Waits for the next message.
    pub(super) fn go_to(&mut self, step: Step, now: Time, out: &mut Vec<Action>) {
        self.step = step;
        self.set(Timer::Answer, self.config.answer, now, out);
    }

    fn receive(&mut self, now: Time, bytes: Option<u64>, out: &mut Vec<Action>) {
        out.push(Action::ReceiveState { checkpoint: self.checkpoint, bytes });
        self.go_to(Step::State, now, out);
    }

    /// Whole and in memory of our own: it will be loaded, whatever becomes of the primary.
    pub(super) fn state_received(&mut self, checkpoint: u64, out: &mut Vec<Action>) {
        if !matches!(self.phase(), Phase::Session(Step::Image | Step::State)) || checkpoint != self.checkpoint {
            return;
        }
        if self.config.dialect.announces_state() && checkpoint > 1 {
            self.send(Message::Received, out);
        }
        self.step = Step::Load;
        self.guest = Guest::Loading;
        out.push(common::Action::CancelTimer(Timer::Answer).into());
        out.push(Action::Load { checkpoint });
    }

    pub(super) fn loaded(&mut self, now: Time, checkpoint: u64, out: &mut Vec<Action>) {
        if self.guest != Guest::Loading || checkpoint != self.checkpoint {
            return;
        }
        self.guest = Guest::Suspended;
        let first = self.loaded == 0;
        self.loaded = checkpoint;
        match self.phase() {
            Phase::Session(_) => {}
            Phase::Activating => return self.activate(out),
            // It stands still until it is decided who may be active.
            _ => return,
        }
        if first {
            self.tell(Level::Info, common::Code::Ready, out);
        }
        // The primary's guest stands still until it hears this, so ours may be the first to run.
        self.send(self.config.dialect.loaded(first), out);
        match self.config.mode {
            Mode::LockStep => {
                self.step = Step::Resume;
                self.guest = Guest::Resuming;
                out.push(Action::Resume { epoch: checkpoint });
            }
            Mode::Periodic => self.run(now, out),
        }
    }

    pub(super) fn resumed(&mut self, now: Time, out: &mut Vec<Action>) {
        if self.guest != Guest::Resuming {
            return;
        }
        self.guest = Guest::Running;
        match self.phase() {
            Phase::Session(_) => {
                if self.config.dialect.confirms_resume() {
                    self.send(Message::Resumed, out);
                }
                self.run(now, out);
            }
            Phase::Activating => self.activate(out),
            _ => {}
        }
    }

    fn run(&mut self, now: Time, out: &mut Vec<Action>) {
        self.step = Step::Run;
        if core::mem::take(&mut self.requested) {
            return self.suspend(now, out);
        }
        self.set(Timer::Answer, self.config.period.saturating_add(self.config.answer), now, out);
    }

    fn suspend(&mut self, now: Time, out: &mut Vec<Action>) {
        self.checkpoint = self.checkpoint.saturating_add(1);
        self.step = Step::Suspend;
        out.push(common::Action::CancelTimer(Timer::Answer).into());
        if self.guest == Guest::Running {
            self.guest = Guest::Suspending;
            return out.push(Action::Suspend);
        }
        self.stands_still(now, out);
    }

    pub(super) fn suspended(&mut self, now: Time, out: &mut Vec<Action>) {
        if self.guest != Guest::Suspending {
            return;
        }
        self.guest = Guest::Suspended;
        match self.phase() {
            Phase::Session(_) => self.stands_still(now, out),
            Phase::Activating => self.activate(out),
            _ => {}
        }
    }

    fn stands_still(&mut self, now: Time, out: &mut Vec<Action>) {
        self.send(Message::Suspended, out);
        if self.config.dialect.lists_dirty() {
            out.push(Action::SendDirtyList);
        }
        if self.config.dialect.announces_state() {
            self.go_to(Step::Announce, now, out);
        } else {
            self.receive(now, None, out);
        }
    }
}
