//! What an operator can set, with defaults and the rules that values must keep.

use super::dialect::Dialect;
use crate::protocol::{OutOfBounds, Rule};
use core::time::Duration;
use thiserror::Error;

/// What the secondary's guest does between checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// It runs, and what both guests send is compared. What they agree on is released at once.
    LockStep,
    /// It stands still. What the primary's guest sends is held until the next checkpoint is loaded. Stock libxl and QEMU do
    /// not have this mode.
    Periodic,
}

/// Settings of one side. The messages carry none of them: both sides must be given the same dialect, mode and rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Config {
    /// The wire form.
    pub dialect: Dialect,
    /// What the secondary's guest does.
    pub mode: Mode,
    /// The longest time between two checkpoints. 5 s, as in libxl. The secondary's must not be shorter.
    pub period: Duration,
    /// The shortest time that the guest runs between two checkpoints, so that constant divergence leaves it some. 10 ms.
    pub gap: Duration,
    /// How long the next message, or the next byte of a state, may take. 10 s.
    pub answer: Duration,
    /// Silence after which the peer counts as lost, where it sends signs of life. 1 s.
    pub timeout: Duration,
    /// Between two tries of the witness, of the fencing command or of the output buffer. 500 ms.
    pub retry: Duration,
    /// Largest vmstate-size taken, in bytes. 128 MiB.
    pub budget: u64,
    /// Who may be active alone.
    pub rule: Rule,
    /// Whether a fencing command is run before the secondary goes active.
    pub fence: bool,
}

impl Config {
    /// Sound settings for a dialect and a mode.
    pub const fn new(dialect: Dialect, mode: Mode) -> Self {
        Config {
            dialect,
            mode,
            period: Duration::from_secs(5),
            gap: Duration::from_millis(10),
            answer: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            retry: Duration::from_millis(500),
            budget: 128 << 20,
            rule: Rule::Manual,
            fence: false,
        }
    }

    /// Checks every value.
    ///
    /// # Errors
    /// The first setting that is outside its bounds.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let Config { period, gap, answer, retry, .. } = *self;
        OutOfBounds::check_all([("period", period), ("gap", gap), ("answer", answer), ("retry", retry)])?;
        if gap > period {
            return Err(ConfigError::Gap { gap, period });
        }
        Ok(())
    }
}

/// A setting that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// Outside its bounds.
    #[error(transparent)]
    Bounds(#[from] OutOfBounds),
    /// The shortest time between checkpoints is over the longest.
    #[error("a gap of {gap:?} is longer than the period of {period:?}")]
    Gap {
        /// The gap asked for.
        gap: Duration,
        /// The period asked for.
        period: Duration,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_sound_and_each_rule_is_checked() {
        let sound = Config::new(Dialect::Libxl, Mode::LockStep);
        assert_eq!(sound.validate(), Ok(()));
        let (gap, period) = (Duration::from_millis(5001), sound.period);
        assert_eq!(Config { gap, ..sound }.validate(), Err(ConfigError::Gap { gap, period }));
        let zero = Duration::ZERO;
        for bad in [
            Config { gap: zero, ..sound },
            Config { period: zero, ..sound },
            Config { answer: zero, ..sound },
            Config { retry: Duration::from_secs(3601), ..sound },
        ] {
            assert!(matches!(bad.validate(), Err(ConfigError::Bounds(_))), "{bad:?}");
        }
    }
}
