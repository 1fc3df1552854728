//! What is wrong with a record's place.

use super::libxc::DomainType;
use super::libxl::control::ControlId;
use thiserror::Error;

/// A record in a place where it may not stand.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OrderError {
    /// A record of the other kind of domain.
    #[error("{record} in a stream of a {} domain", .domain.name())]
    DomainKind {
        /// The record.
        record: &'static str,
        /// The kind of the stream's domain.
        domain: DomainType,
    },
    /// A record that version 2 does not have.
    #[error("{record} in a stream of version 2")]
    NotInVersion2 {
        /// The record.
        record: &'static str,
    },
    /// Data before the end of the static data.
    #[error("{record} before STATIC_DATA_END")]
    BeforeStaticDataEnd {
        /// The record.
        record: &'static str,
    },
    /// Static data after its end.
    #[error("{record} behind the static data")]
    AfterStaticDataEnd {
        /// The record.
        record: &'static str,
    },
    /// A record that a stream has once.
    #[error("{record} twice")]
    Twice {
        /// The record.
        record: &'static str,
    },
    /// A record that depends on one that is not there.
    #[error("{record} without {needs} before it")]
    Missing {
        /// The record.
        record: &'static str,
        /// What it depends on.
        needs: &'static str,
    },
    /// A record behind one that must follow it.
    #[error("{record} behind {after}")]
    Behind {
        /// The record.
        record: &'static str,
        /// What it must precede.
        after: &'static str,
    },
    /// A record of the back channel in the forward one.
    #[error("{record} belongs into the back channel")]
    BackOnly {
        /// The record.
        record: &'static str,
    },
    /// A record of the forward channel in the back one.
    #[error("{record} in a back channel")]
    ForwardOnly {
        /// The record.
        record: &'static str,
    },
    /// A checkpoint in a stream that has none.
    #[error("CHECKPOINT in a plain stream")]
    CheckpointInPlain,
    /// A CHECKPOINT_END without a CHECKPOINT.
    #[error("CHECKPOINT_END outside a checkpoint")]
    CheckpointEndOutside,
    /// A record of libxl that may not stand between CHECKPOINT and CHECKPOINT_END.
    #[error("{record} inside a checkpoint")]
    InsideCheckpoint {
        /// The record.
        record: &'static str,
    },
    /// A sync point of COLO out of turn.
    #[error("CHECKPOINT_STATE {} out of turn: {expected} expected", .got.name())]
    Turn {
        /// The sync point.
        got: ControlId,
        /// What should come here.
        expected: &'static str,
    },
    /// A COLO stream that goes on without a sync point.
    #[error("{record} behind CHECKPOINT_END: a COLO stream goes on with CHECKPOINT_STATE NEW")]
    NewMissing {
        /// The record.
        record: &'static str,
    },
}
