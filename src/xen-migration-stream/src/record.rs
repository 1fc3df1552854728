//! The frame that libxl's and libxc's records share: type, body length, body, padding to a multiple of 8.
//!
//! Source: "Records" of the libxc specification, "Record Overview" of the libxl specification.

use super::error::BodyError;
use byteorder::{ByteOrder, LittleEndian};

/// Bytes of a record header.
pub const HEADER_LEN: usize = 8;
/// Records start on multiples of this, counted from the start of their layer's records.
pub const ALIGN: u64 = 8;
/// Set in a type that a receiver may skip when it does not know it.
pub const OPTIONAL: u32 = 1 << 31;

/// The first 8 bytes of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RecordHeader {
    /// The record's type; which table it belongs to depends on the layer.
    pub type_id: u32,
    /// Bytes of the body, without the padding.
    pub length: u32,
}

impl RecordHeader {
    /// A header for a body of `length` bytes.
    pub const fn new(type_id: u32, length: u32) -> Self {
        RecordHeader { type_id, length }
    }

    /// Parses a little-endian header from the front of `input`; `None` when there are fewer than [`HEADER_LEN`] bytes.
    pub fn parse(input: &[u8]) -> Option<Self> {
        let header = input.first_chunk::<HEADER_LEN>()?;
        Some(RecordHeader {
            type_id: LittleEndian::read_u32(&header[0..4]),
            length: LittleEndian::read_u32(&header[4..8]),
        })
    }

    /// The header's bytes.
    pub fn emit(self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        LittleEndian::write_u32(&mut out[0..4], self.type_id);
        LittleEndian::write_u32(&mut out[4..8], self.length);
        out
    }

    /// Whether a receiver that does not know the type may skip the record (bit 31).
    pub const fn is_optional(self) -> bool {
        self.type_id & OPTIONAL != 0
    }

    /// Bytes of zero that follow the body: 0 to 7.
    pub const fn padding(self) -> u64 {
        (self.length as u64).next_multiple_of(ALIGN) - self.length as u64
    }

    /// Bytes of the whole record: header, body and padding.
    pub const fn total(self) -> u64 {
        HEADER_LEN as u64 + (self.length as u64).next_multiple_of(ALIGN)
    }
}

/// A whole record as it stands in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The record header.
    pub header: RecordHeader,
    /// The body. Shorter than `header.length` when the reader was told to leave out page contents: then it ends behind
    /// the pfn array of a PAGE_DATA record.
    pub body: &'a [u8],
    /// The bytes between the body's end and the next record.
    pub padding: &'a [u8],
}

impl Frame<'_> {
    /// Whether the body lacks page contents that stood in the stream.
    pub const fn is_elided(&self) -> bool {
        self.body.len() < self.header.length as usize
    }

    /// Holds a record that only signals to having no body.
    pub(super) fn expect_empty(&self, record: &'static str) -> Result<(), BodyError> {
        match self.header.length {
            0 => Ok(()),
            length => Err(BodyError::Size { record, expected: 0, got: length.into() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_round_trip_and_sizes() {
        for (length, padding, total) in
            [(0, 0, 8), (1, 7, 16), (8, 0, 16), (9, 7, 24), (u32::MAX, 1, (1 << 32) + 8), (u32::MAX - 7, 0, (1 << 32))]
        {
            let header = RecordHeader::new(0x8000_0001, length);
            assert_eq!(RecordHeader::parse(&header.emit()), Some(header));
            assert_eq!((header.padding(), header.total()), (padding, total), "length {length:#x}");
            assert!(header.is_optional());
        }
    }
}
