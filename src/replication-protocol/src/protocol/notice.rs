//! What an operator is told.

/// How loud a notice is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Level {
    /// Worth a line in the log.
    Info,
    /// Protection is worse than asked for.
    Warning,
    /// The domain is not protected, not running, or in need of the operator.
    Critical,
}

/// A notice to the operator; the driver has the text of each code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Notice<C> {
    /// How loud.
    pub level: Level,
    /// What.
    pub code: C,
}
