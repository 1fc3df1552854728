//! The sync points on the wire, in the three dialects.
//!
//! | dialect | a message is | bytes |
//! |---|---|---|
//! | libxl | a record: u32 type 5, u32 length 4 or 8, u32 control id, 4 bytes ignored; little-endian | 16 |
//! | libxl, CHECKPOINT_DIRTY_PFN_LIST | a record of libxc: u32 type 0x0F, u32 length, then u64 pfns | 8 and the pfns |
//! | QEMU | u32 big-endian; vmstate-size is followed by a u64 big-endian | 4, or 12 |
//! | COLO-Frame v8 | u64 big-endian | 8 |
//!
//! Messages stand between bytes of a state that other code reads, from the same descriptor. So a [`Decoder`] never asks for
//! a byte beyond the message, and says how many it may be given ([`Decoder::wanted`]).
//!
//! # Contract
//! No input makes anything here panic. Nothing is allocated: at most [`MOST`] bytes are held. Sizes in messages are passed on
//! as they came; [`super::Secondary`] refuses a vmstate-size that is over its budget.

mod libxl;
mod qemu;

use super::dialect::{Dialect, Message};
use arrayvec::ArrayVec;
use thiserror::Error;

/// Bytes of the longest message, the pfns of a dirty list apart.
pub const MOST: usize = 16;

/// The bytes of a message.
pub type Bytes = ArrayVec<u8, MOST>;

/// What is wrong with a message. `offset` counts the bytes that the decoder was given before the message began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Error)]
pub enum WireError {
    /// A number that the dialect does not define.
    #[error("message at offset {offset}: number {number:#x} is outside {first:#x} to {last:#x}")]
    Number {
        /// The number.
        number: u64,
        /// Of the message.
        offset: u64,
        /// The least that the dialect defines.
        first: u64,
        /// The greatest.
        last: u64,
    },
    /// A record that is no sync point (libxl).
    #[error("record at offset {offset}: type {type_id:#x} is no sync point")]
    Record {
        /// The type.
        type_id: u32,
        /// Of the record.
        offset: u64,
    },
    /// A record of a sync point with a length that it cannot have (libxl): 4 or 8 for CHECKPOINT_STATE, a multiple of 8 for
    /// CHECKPOINT_DIRTY_PFN_LIST.
    #[error("record at offset {offset}: type {type_id:#x} with a body of {length} bytes")]
    Length {
        /// The type.
        type_id: u32,
        /// The length in its header.
        length: u32,
        /// Of the record.
        offset: u64,
    },
    /// A page that the guest does not have, in a list of dirty pages (libxl).
    #[error("CHECKPOINT_DIRTY_PFN_LIST at offset {offset} names pfn {pfn:#x}, the guest has {nr_pfns:#x}")]
    Pfn {
        /// The page.
        pfn: u64,
        /// One more than the highest that there can be.
        nr_pfns: u64,
        /// Of what follows the entry.
        offset: u64,
    },
    /// What is around the messages is damaged: nothing behind it can be read.
    #[error("the framing is damaged behind offset {offset}")]
    Framing {
        /// Bytes of the direction that were sound.
        offset: u64,
    },
    /// The end came inside of a message.
    #[error("the end came after {got} bytes of the message at offset {offset}, {missing} at least were to come")]
    Truncated {
        /// Of the message.
        offset: u64,
        /// Bytes of it that are there.
        got: usize,
        /// Bytes that are not, as far as these tell.
        missing: usize,
    },
}

/// What the bytes of a message, from its first on, amount to.
enum Parsed {
    /// So many more are needed, as far as these tell.
    More(usize),
    /// A message, with the last of them.
    Whole(Message),
}

/// Bytes to messages of one direction.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Decoder {
    dialect: Dialect,
    held: Bytes,
    /// Where the message in `held` began.
    offset: u64,
}

impl Decoder {
    /// At the start of a message. `offset` is what error messages count from: where the direction stands.
    pub const fn new(dialect: Dialect, offset: u64) -> Self {
        Decoder { dialect, held: Bytes::new_const(), offset }
    }

    /// How many bytes may be read next: at least one, and none beyond the message.
    pub fn wanted(&self) -> usize {
        match self.parsed() {
            Ok(Parsed::More(more)) => more,
            // Neither is kept in `held`.
            Ok(Parsed::Whole(_)) | Err(_) => 1,
        }
    }

    /// Where the next message begins, or the one of which a part is held.
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Skips bytes between messages that other code has read: memory and device state, pfns, records.
    pub fn skip(&mut self, bytes: u64) {
        self.offset = self.offset.saturating_add(bytes);
    }

    /// Takes bytes from the front of `input` until a message is whole or nothing is left. Gives how many it took, and the
    /// message. What is behind the message is not touched.
    ///
    /// # Errors
    /// The first thing wrong with the message, as soon as it shows. The decoder stays in front of that message.
    pub fn take(&mut self, input: &[u8]) -> Result<(usize, Option<Message>), WireError> {
        for (taken, &byte) in (1..).zip(input) {
            // A message is whole at MOST bytes at the latest, so there is room.
            if self.held.try_push(byte).is_err() {
                self.held.clear();
            }
            match self.parsed() {
                Ok(Parsed::More(_)) => {}
                Ok(Parsed::Whole(message)) => {
                    self.offset = self.offset.saturating_add(self.held.len() as u64);
                    self.held.clear();
                    return Ok((taken, Some(message)));
                }
                Err(error) => {
                    self.held.clear();
                    return Err(error);
                }
            }
        }
        Ok((input.len(), None))
    }

    /// Says whether the direction may end here.
    ///
    /// # Errors
    /// [`WireError::Truncated`] inside of a message. The peer is gone then; it has not said anything wrong.
    pub fn end(&self) -> Result<(), WireError> {
        if self.held.is_empty() {
            return Ok(());
        }
        Err(WireError::Truncated { offset: self.offset, got: self.held.len(), missing: self.wanted() })
    }

    fn parsed(&self) -> Result<Parsed, WireError> {
        match self.dialect {
            Dialect::Libxl => libxl::parse(&self.held, self.offset),
            Dialect::Qemu(_) | Dialect::FrameV8 => qemu::parse(self.dialect, &self.held, self.offset),
        }
    }
}

/// The bytes of a message; `None` when the dialect does not have it.
pub fn encode(dialect: Dialect, message: Message) -> Option<Bytes> {
    match dialect {
        Dialect::Libxl => libxl::encode(message),
        Dialect::Qemu(_) | Dialect::FrameV8 => qemu::encode(dialect, message),
    }
}

/// The error for a number that the dialect does not define.
fn unknown(dialect: Dialect, number: u64, offset: u64) -> WireError {
    let (first, last) = dialect.numbers();
    WireError::Number { number, offset, first, last }
}

/// The message of a point that carries nothing besides.
const fn bare(point: super::dialect::Point) -> Option<Message> {
    use super::dialect::Point;
    Some(match point {
        Point::Ready => Message::Ready,
        Point::New => Message::New,
        Point::Suspended => Message::Suspended,
        Point::Send => Message::Send,
        Point::Received => Message::Received,
        Point::Loaded => Message::Loaded,
        Point::Resumed => Message::Resumed,
        Point::DirtyList | Point::Size => return None,
    })
}
