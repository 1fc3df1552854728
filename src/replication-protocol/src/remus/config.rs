//! What an operator can set, with defaults and the rules that values must keep.

use super::wire::Capabilities;
use crate::protocol::{OutOfBounds, Rule};
use core::time::Duration;
use thiserror::Error;

/// Settings of one side. HELLO compares [`Config::rule`], which must be the same on both, and the heartbeat of each side
/// with the time-out of the other ([`Config::hears`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Config {
    /// From the start of one checkpoint to the start of the next. 200 ms, as in `xl remus`.
    pub interval: Duration,
    /// Between two heartbeats. 100 ms.
    pub heartbeat: Duration,
    /// Silence after which the peer counts as lost. 1 s. Longer than three heartbeats.
    pub timeout: Duration,
    /// From the last byte of a checkpoint to its acknowledgement, from our HELLO to the peer's, and from SWITCH_OVER to
    /// ACTIVE. 10 s. At least [`Config::timeout`].
    pub answer: Duration,
    /// Between two tries of the witness or of the fencing command. 500 ms.
    pub retry: Duration,
    /// How many checkpoints in a row may be refused, each followed by a whole image, before protection is given up. 3.
    pub refusals: u32,
    /// How many of 100 checkpoints that follow each other may be refused, however many were acknowledged between them, before protection
    /// is given up. 10.
    pub refusals_of_100: u32,
    /// Who may be active alone.
    pub rule: Rule,
    /// Whether a fencing command is run before the secondary goes active.
    pub fence: bool,
    /// Whether a peer without our framing is served with the bare stream, at the price named in
    /// [`super::wire::Capabilities::cost`].
    pub bare: bool,
    /// The sum of the domain's name ([`super::wire::name_sum`]), 0 where it is not to be compared.
    pub domain: u64,
    /// Whether output is not held, for measurements: the capability `mc-net-disable`.
    pub unheld: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            interval: Duration::from_millis(200),
            heartbeat: Duration::from_millis(100),
            timeout: Duration::from_secs(1),
            answer: Duration::from_secs(10),
            retry: Duration::from_millis(500),
            refusals: 3,
            refusals_of_100: 10,
            rule: Rule::Manual,
            fence: false,
            bare: false,
            unheld: false,
            domain: 0,
        }
    }
}

/// A setting that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// Outside its bounds.
    #[error(transparent)]
    Bounds(#[from] OutOfBounds),
    /// One lost heartbeat would already count as the peer's death.
    #[error("a time-out of {timeout:?} is not longer than three heartbeats of {heartbeat:?}")]
    Timeout {
        /// The time-out asked for.
        timeout: Duration,
        /// The heartbeat interval asked for.
        heartbeat: Duration,
    },
    /// Answers would be given up before silence is noticed.
    #[error("waiting {answer:?} for an answer is shorter than the time-out of {timeout:?}")]
    Answer {
        /// The wait asked for.
        answer: Duration,
        /// The time-out asked for.
        timeout: Duration,
    },
}

impl Config {
    /// Bounds of [`Config::interval`].
    pub const INTERVAL: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(60));

    /// Checks every value.
    ///
    /// # Errors
    /// The first setting that is outside its bounds.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let Config { heartbeat, timeout, answer, retry, .. } = *self;
        Self::interval_in_bounds(self.interval)?;
        OutOfBounds::check_all([("heartbeat", heartbeat), ("timeout", timeout), ("answer", answer), ("retry", retry)])?;
        if self.heartbeat >= self.timeout / 3 {
            return Err(ConfigError::Timeout { timeout: self.timeout, heartbeat: self.heartbeat });
        }
        if self.answer < self.timeout {
            return Err(ConfigError::Answer { answer: self.answer, timeout: self.timeout });
        }
        Ok(())
    }

    /// Whether a peer of that domain is another domain's, as far as both say.
    pub const fn is_of_another(&self, domain: u64) -> bool {
        domain != 0 && self.domain != 0 && domain != self.domain
    }

    /// Whether a peer that beats so often is heard: as of our own heartbeat, three must fit into the time-out.
    pub fn hears(&self, heartbeat_ms: u32) -> bool {
        Duration::from_millis(heartbeat_ms.into()) < self.timeout / 3
    }

    /// The capabilities that this side has to offer.
    pub fn offered(&self) -> Capabilities {
        if self.unheld { Capabilities::OFFERED | Capabilities::NET_DISABLE } else { Capabilities::OFFERED }
    }

    /// Checks an interval.
    ///
    /// # Errors
    /// [`ConfigError::Bounds`].
    pub fn interval_in_bounds(interval: Duration) -> Result<(), ConfigError> {
        Ok(OutOfBounds::check("interval", interval, Self::INTERVAL)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_defaults_are_sound_and_each_rule_is_checked() {
        let sound = Config::default();
        assert_eq!(sound.validate(), Ok(()));
        let bad = Config { heartbeat: ms(334), ..sound };
        assert_eq!(bad.validate(), Err(ConfigError::Timeout { timeout: ms(1000), heartbeat: ms(334) }));
        let bad = Config { answer: ms(999), ..sound };
        assert_eq!(bad.validate(), Err(ConfigError::Answer { answer: ms(999), timeout: ms(1000) }));
        for bad in [
            Config { interval: ms(0), ..sound },
            Config { interval: ms(60_001), ..sound },
            Config { retry: ms(0), ..sound },
            Config { heartbeat: Duration::ZERO, ..sound },
        ] {
            assert!(matches!(bad.validate(), Err(ConfigError::Bounds(_))), "{bad:?}");
        }
    }
}
