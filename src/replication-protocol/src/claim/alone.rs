//! Going on alone: what a primary may do from the first meeting with a secondary to the run of its guest without one. The counterpart
//! of [`super::TakeOver`].
//!
//! ```text
//!  Alone --> Meeting --the secondary takes part--> Claiming --granted--> Session
//!    ^          |                                     |                   |  ^
//!    +<---------+<----------------unreachable---------+              left |  | heard again
//!    |                                                                    v  |
//!    +<--granted, or nobody else has anything to go on with------------- Leaving --held--> Ended
//! ```
//!
//! The machines of all protocols own one each. A protocol says what it has met, why it leaves, and what the other side has; what it does
//! next is what each step gives back ([`Next`]). No protocol asks a witness by itself.

use crate::protocol::primary::{Action, Code, set, tell};
use crate::protocol::{Answer, Generation, Level, Rule, Time, Timer, Verdict};
use alloc::vec::Vec;
use core::time::Duration;

/// Where it is. `C` is why a protocol's primary leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage<C> {
    /// Active and unprotected. Output is free, or is being freed.
    Alone,
    /// A secondary is being met. As Alone otherwise, and so is the next.
    Meeting,
    /// The secondary takes part: a generation for the session has been asked for.
    Claiming,
    /// In a session.
    Session,
    /// Wants to go on alone and may not yet.
    Leaving {
        /// Why.
        cause: C,
        /// The witness has been asked and has not answered.
        asked: bool,
        /// The peer has given a sign of life since.
        heard: bool,
    },
    /// Somebody else is active, or will be: the guest stands still for good.
    Ended,
    /// The guest is suspended and could not be resumed.
    Suspended,
}

/// What the secondary has that is being left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Other {
    /// Nothing that it could go active with.
    Nothing,
    /// A checkpoint, perhaps.
    Replica,
    /// The guest: it was told to go active, and perhaps it has.
    Guest,
}

/// What the protocol does after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use]
pub enum Next<C> {
    /// Nothing: an answer, a timer or the peer is waited for.
    Wait,
    /// Begins the session: this side holds its generation.
    Begin,
    /// Gives the session up before it has begun: the witness cannot be reached.
    NoSession,
    /// Goes on alone: nobody else is active nor will be.
    Alone(C),
    /// Goes on as before: the peer is heard, and nothing was decided.
    Back,
    /// The witness has given nothing and cannot be reached: goes on as before, or asks later ([`GoAlone::later`]).
    Undecided(C),
    /// Tells the operator, who alone can decide.
    Operator,
    /// Stops its guest for good: somebody else holds a newer generation.
    Ended,
}

/// The machine. Equal machines behave the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GoAlone<C> {
    rule: Rule,
    retry: Duration,
    stage: Stage<C>,
    /// The newest that this side holds, or knows of.
    generation: Generation,
}

impl<C: Copy> GoAlone<C> {
    /// Of a primary whose newest generation is this. `retry`: between two tries of the witness.
    pub const fn new(rule: Rule, retry: Duration, generation: Generation, stage: Stage<C>) -> Self {
        GoAlone { rule, retry, stage, generation }
    }

    /// Where it is.
    pub const fn stage(&self) -> Stage<C> {
        self.stage
    }

    /// The newest generation this side holds or knows of.
    pub const fn generation(&self) -> Generation {
        self.generation
    }

    /// A secondary is sought.
    pub const fn meet(&mut self) {
        self.stage = Stage::Meeting;
    }

    /// The secondary takes part: a generation that no earlier session had, so that no secondary of such a one can be granted anything
    /// any more.
    pub fn claim<A: From<Action>>(&mut self, out: &mut Vec<A>) -> Next<C> {
        if self.rule == Rule::Witness {
            self.stage = Stage::Claiming;
            self.ask(out);
            return Next::Wait;
        }
        self.generation = self.generation.next();
        self.begin()
    }

    /// A session in the generation there is, with a peer that knows of none.
    pub const fn begin(&mut self) -> Next<C> {
        self.stage = Stage::Session;
        Next::Begin
    }

    /// Alone in the generation there is: the session did not come about, or the secondary says that it has nothing any more.
    pub const fn stay(&mut self) {
        self.stage = Stage::Alone;
    }

    /// Alone on the operator's word that no other copy is or will be active. Nobody is asked.
    pub const fn force(&mut self) {
        self.generation = self.generation.next();
        self.stage = Stage::Alone;
    }

    /// Wants to be alone. Output stays held until it is decided who may be active.
    pub fn leave<A: From<Action>>(&mut self, cause: C, other: Other, out: &mut Vec<A>) -> Next<C> {
        match (other, self.rule) {
            (Other::Nothing, _) => self.stay(),
            (_, Rule::Witness) => {
                self.stage = Stage::Leaving { cause, asked: true, heard: false };
                self.ask(out);
                return Next::Wait;
            }
            (Other::Guest, Rule::Manual | Rule::PrimaryWins) => {
                self.stage = Stage::Leaving { cause, asked: false, heard: false };
                return Next::Operator;
            }
            (Other::Replica, Rule::Manual | Rule::PrimaryWins) => self.force(),
        }
        Next::Alone(cause)
    }

    /// While it leaves: there is another reason by now.
    pub const fn instead(&mut self, because: C) {
        if let Stage::Leaving { cause, .. } = &mut self.stage {
            *cause = because;
        }
    }

    /// While it leaves: what was heard does not count any more.
    pub const fn unhear(&mut self) {
        if let Stage::Leaving { heard, .. } = &mut self.stage {
            *heard = false;
        }
    }

    /// While it leaves: the peer is heard, which makes the reason void.
    pub const fn heard(&mut self) -> Next<C> {
        let Stage::Leaving { asked, heard, .. } = &mut self.stage else { return Next::Wait };
        *heard = true;
        // What has been asked may be granted yet.
        if *asked { Next::Wait } else { Next::Back }
    }

    /// Goes on as before it left.
    pub const fn back(&mut self) {
        self.stage = Stage::Session;
    }

    /// Asks the witness, where it is left and nothing is asked: [`Timer::Retry`] is due, or there is no other way any more.
    pub fn retry<A: From<Action>>(&mut self, out: &mut Vec<A>) {
        if let Stage::Leaving { asked: asked @ false, .. } = &mut self.stage
            && self.rule == Rule::Witness
        {
            *asked = true;
            self.ask(out);
        }
    }

    /// After [`Next::Undecided`]: asks again later.
    pub fn later<A: From<Action>>(&self, now: Time, out: &mut Vec<A>) {
        set(Timer::Retry, now.after(self.retry), out);
    }

    /// The witness has answered.
    pub fn answered<A: From<Action>>(&mut self, answer: Answer, out: &mut Vec<A>) -> Next<C> {
        if answer.generation != self.generation.next() || matches!(self.stage, Stage::Ended | Stage::Suspended) {
            return Next::Wait;
        }
        match (answer.verdict, &mut self.stage) {
            (Verdict::Granted, Stage::Claiming) => {
                self.generation = answer.generation;
                self.begin()
            }
            (Verdict::Granted, Stage::Leaving { cause, .. }) => {
                let cause = *cause;
                self.force();
                Next::Alone(cause)
            }
            (Verdict::Granted, stage) => {
                // The answer was on its way when the secondary left.
                if let Stage::Alone = stage {
                    self.generation = answer.generation;
                }
                Next::Wait
            }
            (Verdict::Held { newest }, _) => self.superseded(newest),
            (Verdict::Unreachable, Stage::Claiming) => Next::NoSession,
            // The witness has not given the next generation to anybody on our request.
            (Verdict::Unreachable, Stage::Leaving { cause, asked, .. }) => {
                *asked = false;
                tell(Level::Critical, Code::WitnessUnreachable, out);
                Next::Undecided(*cause)
            }
            (Verdict::Unreachable, _) => Next::Wait,
        }
    }

    /// Somebody else is active in that generation, or will be in a newer.
    pub fn superseded(&mut self, newest: Generation) -> Next<C> {
        self.generation = self.generation.max(newest);
        self.stage = Stage::Ended;
        Next::Ended
    }

    /// The guest could not be resumed. Gives whether that ends what there is: a guest that stands still for good need not be.
    pub const fn stuck(&mut self) -> bool {
        if let Stage::Ended = self.stage {
            return false;
        }
        self.stage = Stage::Suspended;
        true
    }

    fn ask<A: From<Action>>(&self, out: &mut Vec<A>) {
        out.push(Action::AskWitness { generation: self.generation.next() }.into());
    }
}

#[cfg(test)]
mod tests;
