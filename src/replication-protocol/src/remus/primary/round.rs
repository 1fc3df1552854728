//! One checkpoint after another: suspend, copy, resume, transmit, acknowledge, release.

use super::event::{Action, Cause, Code};
use super::{Phase, Primary};
use crate::protocol::primary as common;
use crate::protocol::{Guest, Level, Time, Timer};
use crate::remus::types::{Image, RefuseReason};
use crate::remus::wire::Control;
use alloc::vec::Vec;

/// Where the checkpoint under way is. One is under way at a time, so memory in use is bounded by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Round {
    /// None is.
    Idle,
    /// A whole image is on its way while the guest runs.
    Image,
    Suspending,
    Copying,
    /// Being transmitted, or waiting for its acknowledgement.
    InFlight {
        sent: bool,
        acknowledged: bool,
    },
}

impl Round {
    /// Bytes are on their way, or their acknowledgement.
    pub(super) const fn is_under_way(self) -> bool {
        matches!(self, Round::Image | Round::InFlight { acknowledged: false, .. })
    }
}

impl Primary {
    /// Starts the next round if it is time.
    pub(super) fn progress(&mut self, now: Time, out: &mut Vec<Action>) {
        if self.phase() != Phase::Protected || self.round != Round::Idle || !self.domain.may_release() {
            return;
        }
        if self.domain.guest() == Guest::Suspended && self.switching {
            // Only the acknowledgement of a switch-over's checkpoint leaves the guest so.
            return self.delegate(now, out);
        }
        if self.domain.guest() != Guest::Running || !self.due {
            return;
        }
        // A refused image is sent again at once; the rest of the interval does not matter then.
        self.due = false;
        self.refused = false;
        // Saturating: the last number there is would be refused as out of order, not taken for a new one.
        self.checkpoint = self.checkpoint.saturating_add(1);
        self.began = now;
        self.set(Timer::Round, self.config.interval, now, out);
        if self.whole {
            self.stream = self.stream.saturating_add(1);
            self.round = Round::Image;
            self.set(Timer::Answer, self.config.answer, now, out);
            out.push(Action::BeginStream { stream: self.stream, checkpoint: self.checkpoint });
        } else {
            self.suspend(out);
        }
    }

    fn suspend(&mut self, out: &mut Vec<Action>) {
        self.round = Round::Suspending;
        self.domain.suspend(out);
    }

    pub(super) fn image_ready(&mut self, now: Time, checkpoint: u64, out: &mut Vec<Action>) {
        if self.round != Round::Image || checkpoint != self.checkpoint {
            return;
        }
        if self.refused || self.phase() != Phase::Protected {
            // A Leaving primary starts nothing; should it come back, the image begins anew.
            return self.round_over(now, out);
        }
        self.suspend(out);
    }

    pub(super) fn guest_suspended(&mut self, out: &mut Vec<Action>) {
        if !self.domain.suspended() {
            return;
        }
        if self.round != Round::Suspending {
            // The session ended meanwhile.
            return self.resume(out);
        }
        self.domain.hold(out);
        self.round = Round::Copying;
        out.push(Action::CopyState { checkpoint: self.checkpoint });
    }

    pub(super) fn state_copied(&mut self, now: Time, checkpoint: u64, out: &mut Vec<Action>) {
        if self.round != Round::Copying || checkpoint != self.checkpoint {
            return;
        }
        if !self.link || self.refused {
            self.whole = true;
            self.round = Round::Idle;
            self.due = true;
            self.resume(out);
            return self.progress(now, out);
        }
        if !self.switching {
            self.resume(out);
        }
        self.transmitted = true;
        self.round = Round::InFlight { sent: false, acknowledged: false };
        let image = if self.whole { Image::Whole } else { Image::Delta };
        out.push(Action::Transmit { checkpoint, image });
        self.set(Timer::Answer, self.config.answer, now, out);
    }

    pub(super) fn resume(&mut self, out: &mut Vec<Action>) {
        self.domain.resume(self.checkpoint, out);
    }

    pub(super) fn checkpoint_sent(&mut self, now: Time, checkpoint: u64, out: &mut Vec<Action>) {
        let Round::InFlight { sent, acknowledged } = &mut self.round else { return };
        if checkpoint != self.checkpoint || *sent {
            return;
        }
        *sent = true;
        if self.bare {
            // xl's behaviour: written counts as received.
            return self.ack(now, checkpoint, out);
        }
        if *acknowledged || self.refused {
            return self.round_over(now, out);
        }
        self.set(Timer::Answer, self.config.answer, now, out);
    }

    pub(super) fn ack(&mut self, now: Time, checkpoint: u64, out: &mut Vec<Action>) {
        let Round::InFlight { sent, acknowledged } = &mut self.round else { return };
        if checkpoint != self.checkpoint || *acknowledged || self.refused {
            return;
        }
        // The writer's own word may come later than the reader's.
        *acknowledged = true;
        let sent = *sent;
        if self.acknowledged == 0 {
            common::tell(Level::Info, common::Code::Protected, out);
        }
        self.acknowledged = checkpoint;
        self.refusals = 0;
        self.remember(false);
        self.whole = false;
        if self.domain.may_release() {
            out.push(Action::ReleaseOutput { up_to_epoch: checkpoint - 1 });
        }
        common::cancel(Timer::Answer, out);
        if sent {
            self.round_over(now, out);
        }
    }

    pub(super) fn refuse(&mut self, now: Time, checkpoint: u64, reason: RefuseReason, out: &mut Vec<Action>) {
        if reason == RefuseReason::Framing && self.phase() == Phase::Protected {
            // It cannot read anything behind the damage, whichever checkpoint that was.
            self.notice(Level::Critical, Code::Refused(reason), out);
            return self.leave(now, Cause::Refused, out);
        }
        let under_way = match self.round {
            Round::Idle => false,
            Round::InFlight { acknowledged, .. } => !acknowledged,
            _ => true,
        };
        if checkpoint != self.checkpoint || !under_way || self.refused {
            return;
        }
        self.refused = true;
        self.whole = true;
        self.refusals = self.refusals.saturating_add(1);
        self.remember(true);
        self.notice(Level::Warning, Code::Refused(reason), out);
        // One too large to be copied is being written while the guest stands still.
        if matches!(self.round, Round::Image | Round::Copying | Round::InFlight { sent: false, .. }) {
            out.push(Action::StopTransmit { checkpoint });
        }
        let many = self.refusals > self.config.refusals || self.recent.count_ones() > self.config.refusals_of_100;
        if many && self.phase() == Phase::Protected {
            let cause = if reason == RefuseReason::Budget { Cause::OverBudget } else { Cause::Refused };
            self.leave(now, cause, out);
        }
        if matches!(self.round, Round::Image | Round::InFlight { sent: true, .. }) {
            self.round_over(now, out);
        }
    }

    /// A checkpoint was acknowledged, or refused.
    fn remember(&mut self, refused: bool) {
        const LAST_100: u128 = (1 << 100) - 1;
        self.recent = (self.recent << 1 | u128::from(refused)) & LAST_100;
    }

    /// The checkpoint is acknowledged or refused, and nothing of it is under way any more.
    pub(super) fn round_over(&mut self, now: Time, out: &mut Vec<Action>) {
        let acknowledged = matches!(self.round, Round::InFlight { acknowledged: true, .. });
        self.round = Round::Idle;
        common::cancel(Timer::Answer, out);
        if !acknowledged {
            self.due = true;
            self.resume(out);
        } else if !self.due {
            self.stretched = false;
        }
        self.progress(now, out);
    }

    /// The secondary has everything, and the guest stands still: the secondary may go active.
    fn delegate(&mut self, now: Time, out: &mut Vec<Action>) {
        self.delegated = true;
        let frame = Control::SwitchOver { checkpoint: self.checkpoint, generation: self.generation() };
        out.push(Action::SendFrame(frame));
        self.set(Timer::Answer, self.config.answer, now, out);
    }
}
