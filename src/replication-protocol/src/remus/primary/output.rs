//! The output buffer's failures: nothing leaves early, nothing is held for ever, and protection can come back after it.

use super::event::{Action, Cause};
use super::{Phase, Primary};
use crate::protocol::primary as common;
use crate::protocol::{Level, OutputCall, Time, Timer};
use alloc::vec::Vec;

impl Primary {
    /// What was asked of the output buffer has failed.
    pub(super) fn output_failed(&mut self, now: Time, call: OutputCall, out: &mut Vec<Action>) {
        self.tell(Level::Critical, common::Code::OutputFailed(call), out);
        match call {
            // What the guest sends could leave too early: no checkpoint, and no release, until output is free.
            OutputCall::Hold | OutputCall::Epoch => match &mut self.phase {
                Phase::Protected | Phase::Delegated => {
                    self.unsound = true;
                    self.leave(Cause::Output, out);
                }
                Phase::Leaving { cause, heard, .. } => {
                    self.unsound = true;
                    *cause = Cause::Output;
                    *heard = false;
                }
                // It is free, or being freed.
                _ => {}
            },
            // A later release lets out what this one has not.
            OutputCall::Release if self.phase == Phase::Protected => self.try_again(now, call, out),
            OutputCall::Release => {}
            OutputCall::Free if self.phase == Phase::Alone => {
                self.held = true;
                self.unsound = true;
                self.try_again(now, call, out);
            }
            OutputCall::Discard if matches!(self.phase, Phase::Ended(_)) => self.try_again(now, call, out),
            OutputCall::Free | OutputCall::Discard => {}
        }
    }

    fn try_again(&mut self, now: Time, call: OutputCall, out: &mut Vec<Action>) {
        self.again = Some(call);
        self.set(Timer::Output, self.config.retry, now, out);
    }

    /// The output buffer may work again.
    pub(super) fn output_again(&mut self, out: &mut Vec<Action>) {
        match (self.again.take(), self.phase) {
            (Some(OutputCall::Release), Phase::Protected) if !self.unsound && self.acknowledged > 0 => {
                out.push(Action::ReleaseOutput { up_to_epoch: self.acknowledged - 1 });
            }
            (Some(OutputCall::Free), Phase::Alone) => self.free(out),
            (Some(OutputCall::Discard), Phase::Ended(_)) => out.push(common::Action::DiscardOutput.into()),
            _ => {}
        }
    }

    /// Lets out everything, from now on as it is sent. A failure is reported later.
    pub(super) fn free(&mut self, out: &mut Vec<Action>) {
        self.held = false;
        self.unsound = false;
        out.push(common::Action::FreeOutput.into());
    }
}
