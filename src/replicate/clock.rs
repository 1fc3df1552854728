//! The machines' time: nanoseconds since a driver started.

use crate::remus::Time;
use std::time::{Duration, Instant};

/// A clock with an origin of its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock(Instant);

impl Clock {
    pub(super) fn start() -> Self {
        Clock(Instant::now())
    }

    pub(super) fn now(self) -> Time {
        Time::default().after(self.0.elapsed())
    }

    /// How long it is until `at`; nothing when that has passed.
    pub(super) fn until(self, at: Time) -> Duration {
        at.since(self.now())
    }
}
