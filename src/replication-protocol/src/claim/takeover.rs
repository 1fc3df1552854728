//! The take-over: what a secondary does from the loss of its primary to the guest's run here. Who must agree, and in which order.
//!
//! ```text
//!  Following --lost, fail-over--> Claiming --granted--> Fencing --success--> Activating --> Active
//!     ^  |                         |    |                 |
//!     |  +--the rule asks          |    +--held--> Denied | failure
//!     |     the operator--> Waiting <---------------------+
//!     +---heard again-----------+   unreachable
//! ```
//!
//! The machines of all protocols own one each. A protocol says when its primary is lost, and whether there is a replica; what it does
//! next is what each step gives back ([`Next`]). Claiming and Fencing go their way whatever is heard of the primary meanwhile: what they
//! have asked for may be done already.

use crate::protocol::secondary::{Action, Code};
use crate::protocol::{Answer, Generation, Level, Notice, Refused, Rule, Time, Timer, Verdict};
use alloc::vec::Vec;
use core::time::Duration;

/// Who must agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Terms {
    /// Who may be active alone.
    pub rule: Rule,
    /// Whether a fencing command is run before this side goes active.
    pub fence: bool,
    /// Between two tries of the witness or of the fencing command.
    pub retry: Duration,
}

/// Where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// The primary counts as alive.
    Following,
    /// It is lost, and nothing is being done: a retry or the operator must come.
    Waiting,
    /// The witness has been asked and has not answered.
    Claiming,
    /// The fencing command runs.
    Fencing,
    /// Everybody has agreed: the guest is about to run.
    Activating,
    /// The guest runs here.
    Active,
    /// The witness has given the next generation, or a newer one, to somebody else.
    Denied,
}

/// What the protocol does after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use]
pub enum Next {
    /// Nothing: an answer, a timer or the operator is waited for.
    Wait,
    /// Goes active: this is Activating from now on.
    Activate,
    /// Ends its session, the replica kept.
    Denied,
    /// Ends its session, the replica freed: the primary had said goodbye while the fencing command ran, which has failed.
    Dismissed,
}

/// The machine. Equal machines behave the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TakeOver {
    terms: Terms,
    stage: Stage,
    /// The session's until one is acquired.
    generation: Generation,
    /// The generation after the session's is ours.
    granted: bool,
    /// The primary has suspended its guest for us: nobody need be fenced.
    delegated: bool,
    /// The primary said goodbye while the fencing command ran.
    dismissed: bool,
}

impl TakeOver {
    /// Of a secondary in a session of this generation.
    pub const fn new(terms: Terms, generation: Generation) -> Self {
        TakeOver { terms, stage: Stage::Following, generation, granted: false, delegated: false, dismissed: false }
    }

    /// Where it is.
    pub const fn stage(&self) -> Stage {
        self.stage
    }

    /// The newest generation it holds, or that of the session.
    pub const fn generation(&self) -> Generation {
        self.generation
    }

    /// Whether the generation after the session's is ours.
    pub const fn is_granted(&self) -> bool {
        self.granted
    }

    /// The session's generation is known.
    pub const fn follow(&mut self, generation: Generation) {
        self.generation = generation;
    }

    /// The primary is heard. Gives whether it was lost.
    pub fn heard<A: From<Action>>(&mut self, out: &mut Vec<A>) -> bool {
        let was_lost = self.stage == Stage::Waiting;
        if was_lost {
            self.stage = Stage::Following;
            out.push(Action::CancelTimer(Timer::Retry).into());
        }
        was_lost
    }

    /// The primary is lost, and there is a replica. `fence`: whether it may be fenced without the operator's word.
    pub fn lost<A: From<Action>>(&mut self, fence: bool, out: &mut Vec<A>) -> Next {
        self.stage = Stage::Waiting;
        match self.terms.rule {
            Rule::Witness => self.advance(out),
            Rule::PrimaryWins if self.terms.fence && fence => self.advance(out),
            Rule::PrimaryWins | Rule::Manual => {
                notice(Code::OperatorNeeded, out);
                Next::Wait
            }
        }
    }

    /// The primary has suspended its guest, and hands it over.
    pub fn delegate<A: From<Action>>(&mut self, out: &mut Vec<A>) -> Next {
        self.delegated = true;
        match self.stage {
            Stage::Following | Stage::Waiting => self.advance(out),
            // On its way already.
            _ => Next::Wait,
        }
    }

    /// The primary says goodbye. A fencing command cannot be called back, and may leave nobody else.
    pub fn goodbye(&mut self) -> Next {
        if self.stage == Stage::Fencing {
            self.dismissed = true;
            return Next::Wait;
        }
        Next::Dismissed
    }

    /// The session has ended without this side going active: nothing is waited for any more.
    pub fn end(&mut self) {
        if self.stage != Stage::Denied {
            self.stage = Stage::Following;
        }
    }

    /// [`Timer::Retry`] is due.
    pub fn retry<A: From<Action>>(&mut self, out: &mut Vec<A>) -> Next {
        if self.stage == Stage::Waiting { self.advance(out) } else { Next::Wait }
    }

    /// The operator wants this side to go active. `heard`: the primary's last sign of life.
    ///
    /// # Errors
    /// [`Refused`]: nothing has changed.
    pub fn fail_over<A: From<Action>>(&mut self, force: bool, heard: Time, out: &mut Vec<A>) -> Result<Next, Refused> {
        match self.stage {
            // The primary lives: the operator's word that it does not is not believed, and nobody's answer is spared.
            Stage::Following if force => {
                notice(Code::Forced, out);
                Ok(self.advance(out))
            }
            Stage::Following => Err(Refused::PrimaryAlive { heard }),
            Stage::Waiting | Stage::Claiming | Stage::Fencing if force => {
                notice(Code::Forced, out);
                Ok(self.agreed(out))
            }
            Stage::Waiting => Ok(self.advance(out)),
            _ => Err(Refused::Phase),
        }
    }

    /// The witness has answered.
    pub fn answered<A: From<Action>>(&mut self, now: Time, answer: Answer, out: &mut Vec<A>) -> Next {
        if self.stage != Stage::Claiming || answer.generation != self.generation.next() {
            return Next::Wait;
        }
        match answer.verdict {
            Verdict::Granted => {
                self.take();
                self.advance(out)
            }
            Verdict::Held { newest } => {
                self.generation = self.generation.max(newest);
                self.stage = Stage::Denied;
                Next::Denied
            }
            Verdict::Unreachable => self.again(Code::WitnessUnreachable, now, out),
        }
    }

    /// The fencing command has ended.
    pub fn fenced<A: From<Action>>(&mut self, now: Time, success: bool, out: &mut Vec<A>) -> Next {
        if self.stage != Stage::Fencing {
            return Next::Wait;
        }
        if success {
            return self.agreed(out);
        }
        let next = self.again(Code::FenceFailed, now, out);
        if self.dismissed { Next::Dismissed } else { next }
    }

    /// The guest runs here.
    pub fn activated<A: From<Action>>(&mut self, out: &mut Vec<A>) {
        if self.stage == Stage::Activating {
            self.stage = Stage::Active;
            notice(Code::Active, out);
        }
    }

    /// The next step towards being active that is allowed without further word.
    fn advance<A: From<Action>>(&mut self, out: &mut Vec<A>) -> Next {
        if self.terms.rule == Rule::Witness && !self.granted {
            self.stage = Stage::Claiming;
            out.push(Action::AskWitness { generation: self.generation.next() }.into());
        } else if self.terms.fence && !self.delegated {
            self.stage = Stage::Fencing;
            let generation = if self.granted { self.generation } else { self.generation.next() };
            out.push(Action::RunFence { generation }.into());
        } else {
            return self.agreed(out);
        }
        Next::Wait
    }

    fn agreed<A: From<Action>>(&mut self, out: &mut Vec<A>) -> Next {
        self.stage = Stage::Activating;
        if !self.granted {
            self.take();
        }
        notice(Code::Activating, out);
        Next::Activate
    }

    const fn take(&mut self) {
        self.generation = self.generation.next();
        self.granted = true;
    }

    fn again<A: From<Action>>(&mut self, code: Code, now: Time, out: &mut Vec<A>) -> Next {
        notice(code, out);
        self.stage = Stage::Waiting;
        out.push(Action::SetTimer { timer: Timer::Retry, at: now.after(self.terms.retry) }.into());
        Next::Wait
    }
}

fn notice<A: From<Action>>(code: Code, out: &mut Vec<A>) {
    out.push(Action::Notice(Notice { level: Level::Critical, code }).into());
}

#[cfg(test)]
mod tests;
