//! What two of our own ends tell each other before the image.
//!
//! The receiver speaks first and says what it is; the sender answers with the session. Both are JSON, at most [`MOST`] bytes, and what one
//! does not know of the other's it passes over.
#![forbid(unsafe_code)]

use crate::colo::Mode;
use crate::remus::{Generation, Rule};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Bytes of a hello at most.
pub const MOST: usize = 4096;
/// What this program speaks.
pub const VERSION: u32 = 1;

/// One side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`].
    pub version: u32,
    /// `witness`, `manual` or `primary-wins`.
    pub rule: String,
    /// Milliseconds of silence after which it takes the other for lost.
    pub timeout_ms: u64,
    /// Milliseconds between two of its signs of life.
    pub heartbeat_ms: u64,
    /// Takes lists of dirty pages in several records: one that is as long as can be is followed by another.
    pub lists: bool,
    /// The domain's name; an earlier version's peer does not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// The primary's: the session.
    pub session: Option<Agreement>,
}

/// What every version says.
#[derive(Deserialize)]
struct Spoken {
    version: u32,
}

/// What the primary says of the session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agreement {
    /// The secondary's guest stands still between checkpoints.
    pub periodic: bool,
    /// The generation.
    pub generation: u64,
    /// The longest time between two checkpoints, in milliseconds.
    pub period_ms: u64,
}

/// Why two sides do not suit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unsuited {
    /// No hello at all.
    #[error("what came is no hello: {0}")]
    Bytes(String),
    /// Another protocol.
    #[error(
        "the other side speaks version {0}, this one {VERSION}: install the same version of xen-replicate on both hosts"
    )]
    Version(u32),
    /// Who may be active must be clear to both.
    #[error("rule {theirs} there, {ours} here")]
    Rule {
        /// The other's.
        theirs: String,
        /// Ours.
        ours: Rule,
    },
    /// One would take the other for lost.
    #[error(
        "a time-out of {timeout_ms} ms on one side is not longer than three heartbeats of {heartbeat_ms} ms on the other"
    )]
    Timeout {
        /// Of the one.
        timeout_ms: u64,
        /// Of the other.
        heartbeat_ms: u64,
    },
    /// The two sides are two domains'.
    #[error("domain {theirs:?} there, {ours:?} here")]
    Domain {
        /// The other's.
        theirs: String,
        /// Ours.
        ours: String,
    },
    /// The sender says nothing of the session.
    #[error("no session is named")]
    Session,
}

impl Hello {
    /// Its bytes.
    pub fn emit(&self) -> Vec<u8> {
        // Plain numbers and words: it cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads the other's, and holds it against ours.
    ///
    /// # Errors
    /// [`Unsuited`].
    pub fn suits(&self, bytes: &[u8], rule: Rule) -> Result<Hello, Unsuited> {
        let bytes = bytes.get(..MOST.min(bytes.len())).unwrap_or_default();
        let unreadable = |error: serde_json::Error| Unsuited::Bytes(error.to_string());
        // First, for all else may be said otherwise in another version.
        let Spoken { version } = serde_json::from_slice(bytes).map_err(unreadable)?;
        if version != VERSION {
            return Err(Unsuited::Version(version));
        }
        let theirs: Hello = serde_json::from_slice(bytes).map_err(unreadable)?;
        if let (Some(ours), Some(theirs)) = (&self.domain, &theirs.domain)
            && ours != theirs
        {
            return Err(Unsuited::Domain { theirs: theirs.clone(), ours: ours.clone() });
        }
        if theirs.rule != rule.name() {
            return Err(Unsuited::Rule { theirs: theirs.rule, ours: rule });
        }
        for (one, other) in [(self, &theirs), (&theirs, self)] {
            let (timeout_ms, heartbeat_ms) = (one.timeout_ms, other.heartbeat_ms);
            if timeout_ms <= heartbeat_ms.saturating_mul(3) {
                return Err(Unsuited::Timeout { timeout_ms, heartbeat_ms });
            }
        }
        Ok(theirs)
    }
}

impl Agreement {
    /// Of a primary.
    pub fn new(mode: Mode, generation: Generation, period: Duration) -> Self {
        let period_ms = u64::try_from(period.as_millis()).unwrap_or(u64::MAX);
        Agreement { periodic: mode == Mode::Periodic, generation: generation.0, period_ms }
    }

    /// The secondary's mode.
    pub const fn mode(&self) -> Mode {
        if self.periodic { Mode::Periodic } else { Mode::LockStep }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello {
            version: VERSION,
            rule: "witness".into(),
            timeout_ms: 1000,
            heartbeat_ms: 100,
            lists: true,
            domain: Some("web".into()),
            session: Some(Agreement::new(Mode::Periodic, Generation(3), Duration::from_secs(5))),
        }
    }

    #[test]
    fn equal_sides_suit_and_others_say_why() {
        let ours = hello();
        let told = ours.suits(&ours.emit(), Rule::Witness).unwrap();
        assert_eq!((told.session.as_ref().map(Agreement::mode), &told), (Some(Mode::Periodic), &ours));
        let refused = |theirs: Hello| ours.suits(&theirs.emit(), Rule::Witness).unwrap_err().to_string();
        assert!(refused(Hello { version: 2, ..hello() }).contains("version 2"));
        let other = br#"{"version":9,"rule":["another","form"]}"#;
        assert_eq!(ours.suits(other, Rule::Witness), Err(Unsuited::Version(9)));
        let named = |domain: Option<&str>| Hello { domain: domain.map(Into::into), ..hello() };
        assert_eq!(refused(named(Some("db"))), "domain \"db\" there, \"web\" here");
        assert!(ours.suits(&named(None).emit(), Rule::Witness).is_ok());
        assert_eq!(refused(Hello { rule: "manual".into(), ..hello() }), "rule manual there, witness here");
        assert!(refused(Hello { timeout_ms: 300, ..hello() }).contains("300 ms"));
        assert!(refused(Hello { heartbeat_ms: 400, ..hello() }).contains("400 ms"));
        assert!(ours.suits(b"{", Rule::Witness).unwrap_err().to_string().contains("no hello"));
    }
}
