//! The output buffer's failures: nothing leaves early, and nothing is held for ever.

use super::event::{Action, Cause};
use super::{Phase, Primary};
use crate::protocol::primary as common;
use crate::remus::{Level, OutputCall, Time, Timer};
use alloc::vec::Vec;

impl Primary {
    /// What was asked of the output buffer has failed.
    pub(super) fn output_failed(&mut self, now: Time, call: OutputCall, out: &mut Vec<Action>) {
        self.tell(Level::Critical, common::Code::OutputFailed(call), out);
        match (call, self.phase) {
            // What the guest sends could leave too early: nothing is released until output is free.
            (OutputCall::Hold | OutputCall::Epoch, Phase::Session(_)) => {
                self.unsound = true;
                self.leave(Cause::Output, out);
            }
            (OutputCall::Hold | OutputCall::Epoch, Phase::Leaving { .. }) => self.unsound = true,
            (OutputCall::Release, Phase::Session(_))
            | (OutputCall::Free, Phase::Alone)
            | (OutputCall::Discard, Phase::Ended) => {
                self.held |= call == OutputCall::Free;
                self.again = Some(call);
                self.set(Timer::Output, self.config.retry, now, out);
            }
            _ => {}
        }
    }

    /// The output buffer may work again.
    pub(super) fn output_again(&mut self, out: &mut Vec<Action>) {
        match (self.again.take(), self.phase) {
            (Some(OutputCall::Release), Phase::Session(_)) if !self.unsound && self.loaded > 0 => {
                out.push(Action::ReleaseHeld { up_to_epoch: self.loaded - 1 });
            }
            (Some(OutputCall::Free), Phase::Alone) => {
                self.held = false;
                out.push(common::Action::FreeOutput.into());
            }
            (Some(OutputCall::Discard), Phase::Ended) => out.push(common::Action::DiscardOutput.into()),
            _ => {}
        }
    }
}
