//! What a machine knows of its own guest.

use core::fmt;

/// What a side's own guest is doing, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Guest {
    /// There is none: no image is whole (secondary).
    Absent,
    /// Its state is being replaced (secondary).
    Loading,
    /// It runs.
    Running,
    /// It was told to stand still.
    Suspending,
    /// It stands still for a checkpoint.
    Suspended,
    /// It was told to run.
    Resuming,
    /// It stands still for good (primary).
    Paused,
}

impl Guest {
    /// For logs.
    pub const fn name(self) -> &'static str {
        match self {
            Guest::Absent => "absent",
            Guest::Loading => "loading",
            Guest::Running => "running",
            Guest::Suspending => "suspending",
            Guest::Suspended => "suspended",
            Guest::Resuming => "resuming",
            Guest::Paused => "paused",
        }
    }
}

impl fmt::Display for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
