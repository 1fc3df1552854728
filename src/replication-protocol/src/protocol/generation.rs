//! The number that only one side can hold.

use core::fmt;

/// The fencing number. The witness gives each number to one side at most, and who wants to be active alone must hold the
/// newest. Every session has a generation that no earlier session had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Generation(pub u64);

impl Generation {
    /// The one after this. Saturates: after 2^64 fail-overs nobody can take another.
    pub const fn next(self) -> Generation {
        Generation(self.0.saturating_add(1))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "generation {}", self.0)
    }
}

/// What the witness says to "take this generation".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It is the asker's, now or since an earlier request of the asker.
    Granted,
    /// It, or a newer one, is somebody else's. `newest` is the newest given.
    Held {
        /// The newest generation the witness has given.
        newest: Generation,
    },
    /// The request has had no effect and never will have one. A driver that does not know whether its request took effect
    /// must not report this: it asks again until it knows.
    Unreachable,
}

/// An answer of the witness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Answer {
    /// What was asked for.
    pub generation: Generation,
    /// What it said.
    pub verdict: Verdict,
}
