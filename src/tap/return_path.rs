//! The return path: what a secondary says before COLO's messages begin.
//!
//! Where the primary has opened one (OPEN_RETURN_PATH), the secondary's direction begins with messages of this form, big-endian, and
//! COLO's messages follow after SHUT:
//!
//! | message | u16 type | u16 length | bytes |
//! |---|---|---|---|
//! | SHUT | 1 | 4 | u32: 0, or why the secondary could not load the image |
//! | PONG | 2 | 4 | u32: the number of the PING |
//! | REQ_PAGES_ID | 3 | 13 and more | postcopy |
//! | REQ_PAGES | 4 | 12 | postcopy |
//! | RECV_BITMAP | 5 | 1 and more | postcopy |
//! | RESUME_ACK | 6 | 4 | postcopy |
//! | SWITCHOVER_ACK | 7 | 0 | the secondary is ready for the last part of the image (capability `switchover-ack`) |
#![forbid(unsafe_code)]

use arrayvec::ArrayVec;
use thiserror::Error;

/// Bytes of the longest message that is taken: more than any has.
const MOST: usize = 4 + 512;

/// The kinds of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Shut,
    Pong,
    ReqPagesId,
    ReqPages,
    RecvBitmap,
    ResumeAck,
    SwitchoverAck,
}

/// A message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) kind: Kind,
    /// What SHUT and PONG carry.
    pub(super) value: Option<u32>,
    pub(super) bytes: u64,
}

/// What is wrong with the return path. Every `offset` counts bytes of the secondary's direction.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReturnPathError {
    /// COLO's messages where SHUT has to come first.
    #[error(
        "offset {offset}: the return path is open, and the secondary sends COLO's messages without SHUT: its primary takes that for an invalid message 0x0000; both sides need QEMU 11.1 or newer, or neither the capability return-path"
    )]
    NoShut {
        /// Of the message.
        offset: u64,
    },
    /// A type that QEMU does not define.
    #[error("offset {offset}: return path message of type {value:#x}, length {length}")]
    Type {
        /// Of the message.
        offset: u64,
        /// Its type.
        value: u16,
        /// Its length.
        length: u16,
    },
    /// A length that the type does not have.
    #[error("offset {offset}: {name} of {length} bytes")]
    Length {
        /// Of the message.
        offset: u64,
        /// Its name.
        name: &'static str,
        /// Its length.
        length: u16,
    },
    /// SHUT with an error.
    #[error("offset {offset}: SHUT {value:#x}: the secondary could not load the first image")]
    Failed {
        /// Of the message.
        offset: u64,
        /// What it says.
        value: u32,
    },
    /// A PONG that answers no PING.
    #[error("offset {offset}: PONG {value:#x}, the last PING was {expected:?}")]
    Pong {
        /// Of the message.
        offset: u64,
        /// What it says.
        value: u32,
        /// What the primary asked.
        expected: Option<u32>,
    },
}

impl Kind {
    const ALL: [Kind; 7] = [
        Kind::Shut,
        Kind::Pong,
        Kind::ReqPagesId,
        Kind::ReqPages,
        Kind::RecvBitmap,
        Kind::ResumeAck,
        Kind::SwitchoverAck,
    ];

    /// QEMU's name.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Kind::Shut => "SHUT",
            Kind::Pong => "PONG",
            Kind::ReqPagesId => "REQ_PAGES_ID",
            Kind::ReqPages => "REQ_PAGES",
            Kind::RecvBitmap => "RECV_BITMAP",
            Kind::ResumeAck => "RESUME_ACK",
            Kind::SwitchoverAck => "SWITCHOVER_ACK",
        }
    }

    const fn takes(self, length: u16) -> bool {
        match self {
            Kind::Shut | Kind::Pong | Kind::ResumeAck => length == 4,
            Kind::ReqPages => length == 12,
            Kind::ReqPagesId => length >= 13 && length as usize <= MOST - 4,
            Kind::RecvBitmap => length >= 1 && length as usize <= MOST - 4,
            Kind::SwitchoverAck => length == 0,
        }
    }
}

/// The bytes of SHUT without an error.
pub(super) const SHUT: [u8; 8] = [0, 1, 0, 4, 0, 0, 0, 0];

/// The bytes of PONG.
pub(super) fn pong(value: u32) -> [u8; 8] {
    let [a, b, c, d] = value.to_be_bytes();
    [0, 2, 0, 4, a, b, c, d]
}

/// Bytes to messages.
#[derive(Debug, Clone, Default)]
pub(super) struct Decoder {
    held: ArrayVec<u8, MOST>,
}

impl Decoder {
    /// Bytes of a message that is not whole.
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    /// What is held of a message that was refused.
    pub(super) fn take_held(&mut self) -> ArrayVec<u8, MOST> {
        std::mem::take(&mut self.held)
    }

    /// Takes bytes from the front of `input` until a message is whole; gives how many, and the message. `offset` is where `input`
    /// stands in the direction.
    pub(super) fn take(&mut self, input: &[u8], offset: u64) -> Result<(usize, Option<Message>), ReturnPathError> {
        let offset = offset.saturating_sub(self.held.len() as u64);
        for (used, byte) in (1..).zip(input) {
            // A message is refused before there is no room.
            let _ = self.held.try_push(*byte);
            let [high, low, long, short, body @ ..] = self.held.as_slice() else { continue };
            let (value, length) = (u16::from_be_bytes([*high, *low]), u16::from_be_bytes([*long, *short]));
            let kind = value.checked_sub(1).and_then(|at| Kind::ALL.get(usize::from(at))).copied();
            let Some(kind) = kind else {
                return Err(match (value, length) {
                    (0, 0) => ReturnPathError::NoShut { offset },
                    _ => ReturnPathError::Type { offset, value, length },
                });
            };
            if !kind.takes(length) {
                return Err(ReturnPathError::Length { offset, name: kind.name(), length });
            }
            if body.len() == usize::from(length) {
                let value = body.first_chunk().map(|word| u32::from_be_bytes(*word));
                let value = value.filter(|_| matches!(kind, Kind::Shut | Kind::Pong));
                let bytes = self.held.len() as u64;
                self.held.clear();
                return Ok((used, Some(Message { kind, value, bytes })));
            }
        }
        Ok((input.len(), None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bytes: &[u8]) -> (Vec<Message>, Option<ReturnPathError>) {
        let (mut decoder, mut out, mut at) = (Decoder::default(), Vec::new(), 0);
        while at < bytes.len() {
            match decoder.take(&bytes[at..], at as u64) {
                Ok((used, message)) => {
                    at += used;
                    out.extend(message);
                }
                Err(error) => return (out, Some(error)),
            }
        }
        (out, None)
    }

    #[test]
    fn messages_are_taken_whole_and_byte_by_byte() {
        let bytes = [pong(1).as_slice(), &[0, 7, 0, 0], &SHUT].concat();
        let (messages, error) = all(&bytes);
        assert_eq!(error, None);
        let found: Vec<_> = messages.iter().map(|m| (m.kind.name(), m.value, m.bytes)).collect();
        assert_eq!(found, [("PONG", Some(1), 8), ("SWITCHOVER_ACK", None, 4), ("SHUT", Some(0), 8)]);
        let mut decoder = Decoder::default();
        let single = bytes.iter().zip(0..).filter_map(|(byte, at)| decoder.take(&[*byte], at).unwrap().1);
        assert_eq!(single.collect::<Vec<_>>(), messages);
    }

    #[test]
    fn what_is_no_message_is_refused_as_soon_as_its_head_is_there() {
        let cases: [(&[u8], &str); 6] = [
            (&[0, 0, 0, 0], "COLO's messages without SHUT"),
            (&[0, 8, 0, 0], "type 0x8"),
            (&[0, 1, 0, 5], "SHUT of 5 bytes"),
            (&[0, 2, 0xff, 0xff], "PONG of 65535 bytes"),
            (&[0, 5, 2, 1], "RECV_BITMAP of 513 bytes"),
            (&[0, 7, 0, 1], "SWITCHOVER_ACK of 1 bytes"),
        ];
        for (bytes, expected) in cases {
            let error = all(bytes).1.unwrap().to_string();
            assert!(error.starts_with("offset 0:") && error.contains(expected), "{error}");
        }
    }
}
