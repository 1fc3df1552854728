//! Why a machine does not obey a command.

use super::Time;

/// Why a command is not obeyed. Nothing has changed then, and no action was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refused {
    /// Not in this phase.
    #[error("that cannot be done in this phase")]
    Phase,
    /// An interval outside of [`crate::remus::Config::INTERVAL`].
    #[error("the interval must be 1 ms to 60 s")]
    Interval,
    /// There is no checkpoint to go on from.
    #[error("there is no whole checkpoint yet")]
    NoCheckpoint,
    /// The primary is heard: the last time was then. A forced command is obeyed.
    #[error(
        "the primary is alive: `switch-over` on the primary moves the guest without loss, --force fails over all the same"
    )]
    PrimaryAlive {
        /// When the last byte of it was read, as far as this machine knows.
        heard: Time,
    },
    /// The peer has no framing: it takes checkpoints, and can be told nothing.
    #[error("the peer takes checkpoints without acknowledging them and cannot be asked to go active")]
    Bare,
    /// The guest does not run: it is suspended and cannot be resumed.
    #[error("the guest is suspended: see the notices for why it could not be resumed")]
    Suspended,
    /// The output buffer has failed and is not free yet.
    #[error("the output buffer has failed; freeing it is being retried, see the notices for why")]
    Output,
    /// The domain is superseded: another host holds a newer generation.
    #[error("another host holds a newer generation: the domain here is stale")]
    Superseded,
}
