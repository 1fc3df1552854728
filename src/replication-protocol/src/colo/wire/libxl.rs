//! libxl's records, and the one of libxc on its back channel.
//!
//! Sources: "CHECKPOINT_STATE" of the libxl specification, "CHECKPOINT_DIRTY_PFN_LIST" of the libxc specification. libxl
//! writes a body of 4 bytes where its specification draws 8; with the padding of the one, both take as many.

use super::{Bytes, Parsed, WireError, bare, unknown};
use crate::colo::dialect::{Dialect, Message};
use crate::stream::libxc::types::CHECKPOINT_DIRTY_PFN_LIST;
use crate::stream::libxl::types::CHECKPOINT_STATE;
use crate::stream::record::{HEADER_LEN, RecordHeader};

/// Bytes of a CHECKPOINT_STATE record with its padding.
const LEN: usize = 16;
/// Bytes up to the end of its control id.
const ID_END: usize = HEADER_LEN + 4;

pub(super) fn parse(held: &[u8], offset: u64) -> Result<Parsed, WireError> {
    let Some(RecordHeader { type_id, length }) = RecordHeader::parse(held) else {
        return Ok(Parsed::More(HEADER_LEN.saturating_sub(held.len())));
    };
    match (type_id, length) {
        (CHECKPOINT_STATE, 4 | 8) => {}
        (CHECKPOINT_DIRTY_PFN_LIST, _) if length.is_multiple_of(8) => {
            return Ok(Parsed::Whole(Message::DirtyList { bytes: length }));
        }
        (CHECKPOINT_STATE | CHECKPOINT_DIRTY_PFN_LIST, _) => return Err(WireError::Length { type_id, length, offset }),
        _ => return Err(WireError::Record { type_id, offset }),
    }
    let Some(id) = held.get(HEADER_LEN..).and_then(<[u8]>::first_chunk) else {
        return Ok(Parsed::More(LEN.saturating_sub(held.len())));
    };
    let number = u64::from(u32::from_le_bytes(*id));
    let message = Dialect::Libxl.point(number).and_then(bare);
    let message = message.ok_or_else(|| unknown(Dialect::Libxl, number, offset))?;
    match LEN.saturating_sub(held.len()) {
        0 => Ok(Parsed::Whole(message)),
        more => Ok(Parsed::More(more)),
    }
}

pub(super) fn encode(message: Message) -> Option<Bytes> {
    let mut out = Bytes::new();
    if let Message::DirtyList { bytes } = message {
        out.extend(RecordHeader::new(CHECKPOINT_DIRTY_PFN_LIST, bytes).emit());
        return Some(out);
    }
    let number = Dialect::Libxl.number(message.point()).and_then(|number| u32::try_from(number).ok())?;
    out.extend(RecordHeader::new(CHECKPOINT_STATE, 4).emit());
    out.extend(number.to_le_bytes());
    out.extend([0; LEN - ID_END]);
    Some(out)
}
