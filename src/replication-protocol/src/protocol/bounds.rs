//! What a time that an operator sets must keep.

use core::time::Duration;
use thiserror::Error;

/// A time outside of its bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{name} of {value:?} is outside {low:?} to {high:?}")]
pub struct OutOfBounds {
    /// The setting.
    pub name: &'static str,
    /// What was asked for.
    pub value: Duration,
    /// The least.
    pub low: Duration,
    /// The most.
    pub high: Duration,
}

impl OutOfBounds {
    /// Checks a time.
    ///
    /// # Errors
    /// It is outside.
    pub fn check(name: &'static str, value: Duration, (low, high): (Duration, Duration)) -> Result<(), OutOfBounds> {
        if value < low || value > high { Err(OutOfBounds { name, value, low, high }) } else { Ok(()) }
    }

    /// Checks times that may be a millisecond to an hour.
    ///
    /// # Errors
    /// The first that is outside.
    pub fn check_all<const N: usize>(times: [(&'static str, Duration); N]) -> Result<(), OutOfBounds> {
        const ANY: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(3600));
        times.into_iter().try_for_each(|(name, value)| OutOfBounds::check(name, value, ANY))
    }
}
