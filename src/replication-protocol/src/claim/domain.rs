//! The domain of a primary: its guest and what it sends. Nothing leaves early, nothing is held for ever, and no guest stands still for
//! what will not come.

use super::alone::Stage;
use crate::protocol::primary::{Action, Code, set, tell};
use crate::protocol::{Guest, Level, OutputCall, RunState, Time, Timer};
use alloc::vec::Vec;

/// What is known of it. Equal ones behave the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Domain {
    guest: Guest,
    held: bool,
    /// The output buffer has failed: nothing is released, no checkpoint is taken, until output is free.
    unsound: bool,
    /// What is asked of the output buffer again.
    again: Option<OutputCall>,
}

impl Default for Domain {
    /// A guest that runs, its output free.
    fn default() -> Self {
        Domain { guest: Guest::Running, held: false, unsound: false, again: None }
    }
}

impl Domain {
    /// What the guest does.
    pub const fn guest(&self) -> Guest {
        self.guest
    }

    /// Whether output is held.
    pub const fn is_held(&self) -> bool {
        self.held
    }

    /// Whether what is held may leave when it is acknowledged. Not once the output buffer has failed to hold or to mark it.
    pub const fn may_release(&self) -> bool {
        !self.unsound
    }

    /// Whether the output buffer has failed and is being tried again.
    pub const fn is_failing(&self) -> bool {
        self.again.is_some()
    }

    /// Suspends the guest.
    pub fn suspend<A: From<Action>>(&mut self, out: &mut Vec<A>) {
        self.guest = Guest::Suspending;
        out.push(Action::Suspend.into());
    }

    /// The guest is suspended. Gives whether that was asked for.
    pub fn suspended(&mut self) -> bool {
        let asked = self.guest == Guest::Suspending;
        if asked {
            self.guest = Guest::Suspended;
        }
        asked
    }

    /// Suspending has failed. Gives whether it was asked for. One that has acknowledged the request runs on only if it is resumed.
    pub fn suspend_failed(&mut self, guest: RunState) -> bool {
        let asked = self.guest == Guest::Suspending;
        if asked {
            self.guest = if guest == RunState::Suspended { Guest::Suspended } else { Guest::Running };
        }
        asked
    }

    /// Lets a suspended guest run on from this checkpoint.
    pub fn resume<A: From<Action>>(&mut self, epoch: u64, out: &mut Vec<A>) {
        if self.guest == Guest::Suspended {
            self.guest = Guest::Resuming;
            out.push(Action::Resume { epoch }.into());
        }
    }

    /// The guest runs again.
    pub fn resumed(&mut self) {
        if self.guest == Guest::Resuming {
            self.guest = Guest::Running;
        }
    }

    /// Resuming has failed. Gives whether it was asked for.
    pub fn resume_failed<A: From<Action>>(&mut self, out: &mut Vec<A>) -> bool {
        let asked = self.guest == Guest::Resuming;
        if asked {
            self.guest = Guest::Suspended;
            tell(Level::Critical, Code::ResumeFailed, out);
        }
        asked
    }

    /// Holds output from here on; the guest is suspended.
    pub fn hold<A: From<Action>>(&mut self, out: &mut Vec<A>) {
        if !self.held {
            self.held = true;
            out.push(Action::HoldOutput.into());
        }
    }

    /// Nobody else is active nor will be: the guest runs, its output is free.
    pub fn let_go<A: From<Action>>(&mut self, epoch: u64, out: &mut Vec<A>) {
        if self.guest == Guest::Paused {
            self.guest = Guest::Suspended;
        }
        if self.held {
            self.free(out);
        }
        self.resume(epoch, out);
        tell(Level::Critical, Code::Unprotected, out);
    }

    /// Somebody else is active, or will be: the guest stands still, and nothing of it gets out any more.
    pub fn stop<A: From<Action>>(&mut self, out: &mut Vec<A>) {
        self.guest = Guest::Paused;
        self.held = true;
        out.push(Action::PauseGuest.into());
        out.push(Action::DiscardOutput.into());
    }

    /// What was asked of the output buffer has failed; `at`: when to try again. Gives whether what the guest sends could leave too
    /// early: no checkpoint may come, nothing may be released, until output is free.
    pub fn output_failed<C, A: From<Action>>(
        &mut self,
        call: OutputCall,
        stage: &Stage<C>,
        at: Time,
        out: &mut Vec<A>,
    ) -> bool {
        tell(Level::Critical, Code::OutputFailed(call), out);
        match (call, stage) {
            (OutputCall::Hold | OutputCall::Epoch, Stage::Session | Stage::Leaving { .. }) => {
                self.unsound = true;
                return true;
            }
            // A later release lets out what this one has not.
            (OutputCall::Release, Stage::Session) | (OutputCall::Discard, Stage::Ended) => {}
            (OutputCall::Free, Stage::Alone) => (self.held, self.unsound) = (true, true),
            // It is free, or being freed.
            _ => return false,
        }
        self.again = Some(call);
        set(Timer::Output, at, out);
        false
    }

    /// The output buffer may work again. Gives whether what is acknowledged is to be released once more.
    pub fn output_again<C, A: From<Action>>(&mut self, stage: &Stage<C>, out: &mut Vec<A>) -> bool {
        match (self.again.take(), stage) {
            (Some(OutputCall::Release), Stage::Session) => return !self.unsound,
            (Some(OutputCall::Free), Stage::Alone) => self.free(out),
            (Some(OutputCall::Discard), Stage::Ended) => out.push(Action::DiscardOutput.into()),
            _ => {}
        }
        false
    }

    /// Lets out everything, from now on as it is sent. A failure is reported later.
    fn free<A: From<Action>>(&mut self, out: &mut Vec<A>) {
        self.held = false;
        self.unsound = false;
        // Whatever has failed before, this is what counts now.
        self.again = None;
        out.push(Action::FreeOutput.into());
    }
}
