//! Placeholder until the decode room is merged.
/// Error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("decode")]
pub struct DecodeError;
