//! The start of a primary: whether the domain that is found here may run here.
//!
//! ```text
//!  Looking --nobody--> Decided(Runs)
//!     |  ^-----------------held (once)-----------+
//!     +--this very domain, or forced--> Acquiring --granted--> Decided(Runs)
//!     +--somebody else--> Decided(Superseded)    +--unreachable--> Decided(Unknown)
//!     +--cannot be told--> Decided(Unknown)
//! ```

use super::{Generation, Host, Named, Newest, Record, Verdict};
use alloc::boxed::Box;
use alloc::string::String;

/// What is known on this host before the witness is asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Facts {
    /// This host.
    pub host: Host,
    /// The domain's UUID.
    pub uuid: String,
    /// An earlier process has left a buffer that holds, or may hold, the domain's output.
    pub output_left: bool,
    /// There is a witness. Without one nobody is asked, and the rule in use decides.
    pub witness: bool,
    /// The newest generation, typed by the operator: whoever holds it, the domain shall run here.
    pub force: Option<Generation>,
}

/// What has happened.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Event {
    /// [`Action::Look`]: the newest generation; none when none was ever given.
    Newest(Option<Newest>),
    /// [`Action::Look`]: the witness cannot be read.
    Unreachable,
    /// [`Action::Acquire`]: what the witness says.
    Answer(Verdict),
}

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Action {
    /// Look up the newest generation: [`Event::Newest`] or [`Event::Unreachable`].
    Look,
    /// Take this generation: [`Event::Answer`].
    Acquire {
        /// The one after the newest.
        generation: Generation,
    },
    /// Nothing more: this is decided.
    Decided(Decision),
}

/// Whether the domain may run here.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Decision {
    /// It may. What was held of its output may leave.
    Runs {
        /// The newest generation: of this domain here, or 0.
        generation: Generation,
        /// Who had the one before, where this one was acquired for the start.
        before: Option<Newest>,
    },
    /// It may not: somebody else holds the newest generation. Nothing is released.
    Superseded {
        /// The newest.
        generation: Generation,
        /// Whose it is.
        record: Box<Record>,
        /// Who is in charge of it.
        who: InCharge,
    },
    /// Nobody can tell. Nothing is released.
    Unknown {
        /// The newest, where that much is known; the number that an operator forces by.
        newest: Option<Newest>,
        /// Why.
        why: Unknown,
    },
}

/// Who holds the newest generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InCharge {
    /// Another host.
    OtherHost,
    /// A process of this host, which lives.
    OtherProcess,
}

/// Why it cannot be known whether the domain may run here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unknown {
    /// The witness cannot be read, or not be asked for the next generation.
    Unreachable,
    /// The newest record is no record.
    Malformed,
    /// The newest record is an earlier version's and names a host called as this one is.
    OnlyNamed,
    /// The newest record names this host's identity under another name: a cloned identity, or a renamed host.
    SameIdentity,
    /// This host has no identity to compare.
    NoIdentity,
    /// On this host another domain of this name held it, or one whose UUID was not known.
    OtherDomain,
    /// Output is held since an earlier process, and no witness, or this one of nothing, knows who may let it out.
    Held,
    /// The number that was typed is not the newest's: none was ever given.
    NothingToForce,
    /// The witness denies the next generation, and names nobody else as its holder.
    Denied,
}

/// The machine. Equal machines behave the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Start {
    facts: Facts,
    phase: Phase,
    /// A generation was asked for and denied: somebody was faster.
    denied: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Phase {
    Looking,
    Acquiring(Newest),
    Decided(Decision),
}

impl Start {
    /// A start, and what is to be done first.
    pub fn new(facts: Facts) -> (Self, Action) {
        let mut start = Start { facts, phase: Phase::Looking, denied: false };
        if start.facts.witness {
            return (start, Action::Look);
        }
        let action =
            if start.facts.output_left { start.unknown(None, Unknown::Held) } else { start.runs(Generation(0), None) };
        (start, action)
    }

    /// Takes an event and gives what is to be done next. What does not belong to the last action is no event: the same is to be done.
    pub fn handle(&mut self, event: Event) -> Action {
        match (event, self.phase.clone()) {
            (Event::Newest(newest), Phase::Looking) => self.looked(newest),
            (Event::Unreachable, Phase::Looking) => self.unknown(None, Unknown::Unreachable),
            (Event::Answer(Verdict::Granted), Phase::Acquiring(newest)) => {
                self.runs(newest.generation.next(), Some(newest))
            }
            (Event::Answer(Verdict::Held { .. }), Phase::Acquiring(_)) => {
                self.denied = true;
                self.phase = Phase::Looking;
                Action::Look
            }
            (Event::Answer(Verdict::Unreachable), Phase::Acquiring(newest)) => {
                self.unknown(Some(newest), Unknown::Unreachable)
            }
            (_, Phase::Looking) => Action::Look,
            (_, Phase::Acquiring(newest)) => Action::Acquire { generation: newest.generation.next() },
            (_, Phase::Decided(decision)) => Action::Decided(decision),
        }
    }

    fn looked(&mut self, newest: Option<Newest>) -> Action {
        let Some(newest) = newest else {
            return match (self.facts.force, self.facts.output_left) {
                (Some(_), _) => self.unknown(None, Unknown::NothingToForce),
                (None, true) => self.unknown(None, Unknown::Held),
                // A start that reaches nobody must take nothing: the session's generation is acquired when a secondary has greeted.
                (None, false) => self.runs(Generation(0), None),
            };
        };
        let forced = self.facts.force == Some(newest.generation) && !self.denied;
        match self.judge(&newest) {
            // Two processes at one domain are more than an operator means by a number.
            Ok(Some(InCharge::OtherProcess)) => self.superseded(newest, InCharge::OtherProcess),
            _ if forced => self.acquire(newest),
            Ok(Some(who)) => self.superseded(newest, who),
            Ok(None) if self.denied => self.unknown(Some(newest), Unknown::Denied),
            Ok(None) => self.acquire(newest),
            Err(why) => self.unknown(Some(newest), why),
        }
    }

    /// Who is in charge besides this very domain here, which is nobody.
    fn judge(&self, newest: &Newest) -> Result<Option<InCharge>, Unknown> {
        let Named::Holder { record, alive } = &newest.named else { return Err(Unknown::Malformed) };
        let ours = &self.facts.host;
        let Some(host) = &record.host else {
            let same = record.host_name() == ours.name;
            return if same { Err(Unknown::OnlyNamed) } else { Ok(Some(InCharge::OtherHost)) };
        };
        let known = !host.id.is_empty() && !ours.id.is_empty();
        if known && host.id != ours.id {
            return Ok(Some(InCharge::OtherHost));
        }
        if *alive {
            return Ok(Some(InCharge::OtherProcess));
        }
        if !known {
            return Err(Unknown::NoIdentity);
        }
        if host.name != ours.name {
            return Err(Unknown::SameIdentity);
        }
        if record.uuid.as_ref() == Some(&self.facts.uuid) { Ok(None) } else { Err(Unknown::OtherDomain) }
    }

    fn acquire(&mut self, newest: Newest) -> Action {
        let generation = newest.generation.next();
        self.phase = Phase::Acquiring(newest);
        Action::Acquire { generation }
    }

    fn runs(&mut self, generation: Generation, before: Option<Newest>) -> Action {
        self.decided(Decision::Runs { generation, before })
    }

    fn superseded(&mut self, newest: Newest, who: InCharge) -> Action {
        match newest {
            Newest { generation, named: Named::Holder { record, .. } } => {
                self.decided(Decision::Superseded { generation, record, who })
            }
            newest => self.unknown(Some(newest), Unknown::Malformed),
        }
    }

    fn unknown(&mut self, newest: Option<Newest>, why: Unknown) -> Action {
        self.decided(Decision::Unknown { newest, why })
    }

    fn decided(&mut self, decision: Decision) -> Action {
        self.phase = Phase::Decided(decision.clone());
        Action::Decided(decision)
    }
}

#[cfg(test)]
mod tests;
