//! QEMU's words: u32 in the form that its releases speak, u64 in the earlier one. Big-endian.
//!
//! Sources: COLOMessage of QEMU's `qapi/migration.json`, the order of its numbers; the COLO-Frame patches, version 8.

use super::{Bytes, Parsed, WireError, bare, unknown};
use crate::colo::dialect::{Dialect, Message, Point};

/// Bytes of a message's number.
const fn word(dialect: Dialect) -> usize {
    match dialect {
        Dialect::FrameV8 => 8,
        Dialect::Qemu(_) | Dialect::Libxl => 4,
    }
}

fn big_endian(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

pub(super) fn parse(dialect: Dialect, held: &[u8], offset: u64) -> Result<Parsed, WireError> {
    let Some((number, rest)) = held.split_at_checked(word(dialect)) else {
        return Ok(Parsed::More(word(dialect).saturating_sub(held.len())));
    };
    let number = big_endian(number);
    match dialect.point(number) {
        None => Err(unknown(dialect, number, offset)),
        Some(Point::Size) => match rest.first_chunk::<8>() {
            Some(bytes) => Ok(Parsed::Whole(Message::Size { bytes: u64::from_be_bytes(*bytes) })),
            None => Ok(Parsed::More(8_usize.saturating_sub(rest.len()))),
        },
        Some(point) => bare(point).map(Parsed::Whole).ok_or_else(|| unknown(dialect, number, offset)),
    }
}

pub(super) fn encode(dialect: Dialect, message: Message) -> Option<Bytes> {
    let number = dialect.number(message.point())?.to_be_bytes();
    let mut out = Bytes::new();
    out.extend(number.into_iter().skip(number.len() - word(dialect)));
    if let Message::Size { bytes } = message {
        out.extend(bytes.to_be_bytes());
    }
    Some(out)
}
