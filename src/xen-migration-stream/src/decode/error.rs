//! The one error type of the deep decoders.

use serde::{Serialize, Serializer};
use thiserror::Error;

/// Why an opaque blob could not be decoded.
///
/// Every `offset` counts bytes from the start of the blob handed to the decoder; callers that know
/// where the blob lies in a stream add that position themselves. `what` names the structure or
/// field in the terms of Xen's public headers. As JSON an error is its message.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Fewer bytes than the structure has.
    #[error("{what} at offset {offset}: needs {needed} bytes, has {got}")]
    TooShort {
        /// Structure or field.
        what: &'static str,
        /// Where it starts.
        offset: usize,
        /// Bytes it needs.
        needed: usize,
        /// Bytes that are there.
        got: usize,
    },
    /// The length lies between two real layouts and fits none of them.
    #[error("{what} at offset {offset}: length {length} is no known layout ({accepted})")]
    BadLength {
        /// Structure.
        what: &'static str,
        /// Where it starts.
        offset: usize,
        /// Length found.
        length: usize,
        /// The lengths that real producers write.
        accepted: &'static str,
    },
    /// An array whose length is not a whole number of elements.
    #[error("{what} at offset {offset}: {length} bytes are no whole number of {unit}-byte elements")]
    NotMultiple {
        /// Array.
        what: &'static str,
        /// Where the array starts.
        offset: usize,
        /// Its length in bytes.
        length: usize,
        /// Bytes of one element.
        unit: usize,
    },
    /// A counted array that promises more elements than there are bytes for.
    #[error("{what} at offset {offset}: count {count} needs {needed} bytes, has {got}")]
    CountTooLarge {
        /// Array.
        what: &'static str,
        /// Where its elements start.
        offset: usize,
        /// Count found.
        count: u64,
        /// Bytes that many elements need (saturating).
        needed: u64,
        /// Bytes that are there.
        got: usize,
    },
    /// A field with a value that the format does not allow.
    #[error("{what} at offset {offset}: value {value:#x}, expected {expected}")]
    BadValue {
        /// Field.
        what: &'static str,
        /// Where it is.
        offset: usize,
        /// Value found.
        value: u64,
        /// What the format allows.
        expected: &'static str,
    },
    /// The bytes left at the end of a HVM context are too few for an entry's descriptor.
    #[error("HVM context at offset {offset}: {remaining} bytes left, an entry descriptor needs 8")]
    ChainTorn {
        /// Where the descriptor would start.
        offset: usize,
        /// Bytes left.
        remaining: usize,
    },
    /// An entry of a HVM context says it is longer than what is left.
    #[error(
        "HVM context entry at offset {offset} (type {typecode}, instance {instance}): length {length} runs past the end, {remaining} bytes left"
    )]
    EntryPastEnd {
        /// Where the entry's descriptor starts.
        offset: usize,
        /// Type code of the entry.
        typecode: u16,
        /// Instance of the entry.
        instance: u16,
        /// Length of its data as said by the descriptor.
        length: u32,
        /// Bytes left behind the descriptor.
        remaining: usize,
    },
    /// The first entry of a HVM context is not HEADER.
    #[error("HVM context entry at offset {offset}: first entry has type {typecode}, expected HEADER (1)")]
    HeaderNotFirst {
        /// Where the entry's descriptor starts.
        offset: usize,
        /// Type code found.
        typecode: u16,
    },
    /// A second HEADER inside a HVM context.
    #[error("HVM context entry at offset {offset}: HEADER again")]
    HeaderAgain {
        /// Where the entry's descriptor starts.
        offset: usize,
    },
    /// A HVM context that stops without an END entry.
    #[error("HVM context at offset {offset}: no END entry")]
    MissingEnd {
        /// Length of the blob.
        offset: usize,
    },
    /// An END entry that carries data.
    #[error("HVM context entry at offset {offset}: END has length {length}, expected 0")]
    EndWithLength {
        /// Where the entry's descriptor starts.
        offset: usize,
        /// Length found.
        length: u32,
    },
    /// Bytes behind the END entry.
    #[error("HVM context at offset {offset}: {count} bytes after END")]
    AfterEnd {
        /// First byte behind END.
        offset: usize,
        /// How many there are.
        count: usize,
    },
    /// More data than the 32-bit length of an entry can say; only when emitting.
    #[error("HVM context entry of type {typecode}: {length} bytes do not fit a 32-bit length")]
    EntryTooLong {
        /// Type code of the entry.
        typecode: u16,
        /// Length of its data.
        length: usize,
    },
    /// Text that is not UTF-8.
    #[error("{what} at offset {offset}: not UTF-8")]
    NotText {
        /// Field.
        what: &'static str,
        /// First byte that is not UTF-8.
        offset: usize,
    },
    /// Text that is not JSON.
    #[error("{what}: not JSON: {message}")]
    NotJson {
        /// Field.
        what: &'static str,
        /// The JSON parser's complaint, with line and column.
        message: String,
    },
}

impl DecodeError {
    /// The same error with its offset counted from a blob that starts `by` bytes earlier.
    pub fn shifted(mut self, by: usize) -> Self {
        match &mut self {
            DecodeError::TooShort { offset, .. }
            | DecodeError::NotMultiple { offset, .. }
            | DecodeError::CountTooLarge { offset, .. }
            | DecodeError::BadValue { offset, .. }
            | DecodeError::ChainTorn { offset, .. }
            | DecodeError::EntryPastEnd { offset, .. }
            | DecodeError::HeaderNotFirst { offset, .. }
            | DecodeError::HeaderAgain { offset }
            | DecodeError::MissingEnd { offset }
            | DecodeError::EndWithLength { offset, .. }
            | DecodeError::AfterEnd { offset, .. }
            | DecodeError::BadLength { offset, .. }
            | DecodeError::NotText { offset, .. } => *offset = offset.saturating_add(by),
            DecodeError::EntryTooLong { .. } | DecodeError::NotJson { .. } => {}
        }
        self
    }
}

impl Serialize for DecodeError {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_offset_and_value_and_shift() {
        let error = DecodeError::EntryPastEnd { offset: 16, typecode: 2, instance: 1, length: 1032, remaining: 10 };
        assert_eq!(
            error.clone().shifted(100).to_string(),
            "HVM context entry at offset 116 (type 2, instance 1): length 1032 runs past the end, 10 bytes left"
        );
        assert_eq!(serde_json::to_value(&error).unwrap(), error.to_string());
        let far = DecodeError::MissingEnd { offset: 1 }.shifted(usize::MAX);
        assert_eq!(far, DecodeError::MissingEnd { offset: usize::MAX });
    }
}
