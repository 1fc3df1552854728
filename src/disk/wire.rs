//! The wire between a disk's primary and its keeper.
//!
//! Each direction begins with [`MAGIC`] and is a row of frames, all numbers little-endian:
//!
//! | bytes | what |
//! |---|---|
//! | 1 | type |
//! | 3 | 0 |
//! | 4 | bytes of payload |
//! | 8 | number of the frame in its direction, from 0 |
//! | 8 | XXH3-64 (seed 0) over the 16 bytes before it and the payload |
//! | | payload |
//!
//! The check finds damage, it does not authenticate. The first frame of either direction is HELLO, the primary's comes first.
#![forbid(unsafe_code)]

use super::Mark;
use std::io::{self, Read};
use thiserror::Error;
use xxhash_rust::xxh3::Xxh3;

/// What a connection begins with, both ways.
pub(super) const MAGIC: [u8; 8] = *b"XRDISK\r\n";
/// The version of this protocol.
pub(super) const VERSION: u16 = 1;
/// Bytes of a frame's header.
pub(super) const HEADER_LEN: usize = 24;
/// Most bytes of the disk in one WRITE.
pub(super) const MAX_DATA: usize = 1 << 20;
/// Most bytes of a disk's name.
pub(super) const MAX_NAME: usize = 255;
/// Most bytes of a REFUSED's text.
pub(super) const MAX_TEXT: usize = 1024;

/// What a side says of itself and of its disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hello {
    /// Forward: what is kept of an earlier protection is void. Backward: the copy can be brought up to date by what was written since
    /// the last HELD.
    pub flag: bool,
    /// Bytes of the disk.
    pub size: u64,
    /// Forward: a number of its own for each time that all of the disk was sent. Backward: whose copy it is, 0 for nobody's.
    pub run: u64,
    /// The guest's device on both hosts.
    pub name: String,
}

/// A checkpoint in the row of a disk's writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Point {
    /// Number of the barrier, which grows.
    pub seq: u64,
    /// The engine's checkpoint.
    pub mark: Mark,
    /// How many disks of the domain are marked with it.
    pub disks: u32,
}

/// A frame of either direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frame {
    /// Type 1, both ways.
    Hello(Hello),
    /// Type 2, forward: these bytes are there from now on.
    Write { offset: u64, bytes: Vec<u8> },
    /// Type 3, forward: zeroes are there from now on.
    Zero { offset: u64, length: u64 },
    /// Type 4, forward: what the keeper has is void; all that is not zero follows. From here on it is the copy of this run.
    Reset { run: u64 },
    /// Type 5, forward: with what came before, the copy is complete.
    Synced,
    /// Type 6, forward: answer with HELD when what came before is safe.
    Barrier { seq: u64 },
    /// Type 7, forward: what comes next belongs to a later checkpoint. Answered with HELD when what came before is safe.
    Mark(Point),
    /// Type 8, forward: what is kept of an earlier protection is void.
    Begin,
    /// Type 9, forward: answer.
    Ping,
    /// Type 16, backward: all before this barrier, or mark, would outlive the host.
    Held { seq: u64 },
    /// Type 17, backward.
    Pong,
    /// Type 18, both ways: the sender ends the connection. For people.
    Refused { text: String },
}

/// What is wrong with a row of frames.
#[derive(Debug, Error)]
pub(super) enum WireError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it begins with {0:02x?}, not as a disk's does")]
    Magic([u8; 8]),
    #[error("frame {frame} ends early")]
    Truncated { frame: u64 },
    #[error("frame {frame}: type {type_id} with {length} bytes")]
    Length { frame: u64, type_id: u8, length: u32 },
    #[error("frame {frame}: its check is {got:#018x}, its bytes give {computed:#018x}")]
    Check { frame: u64, got: u64, computed: u64 },
    #[error("frame {frame} has the number {got}")]
    Sequence { frame: u64, got: u64 },
    #[error("frame {frame}: type {type_id} with a payload that is none")]
    Payload { frame: u64, type_id: u8 },
    #[error("it speaks version {0}, this is version {VERSION}")]
    Version(u16),
}

impl Frame {
    const fn type_id(&self) -> u8 {
        match self {
            Frame::Hello(_) => 1,
            Frame::Write { .. } => 2,
            Frame::Zero { .. } => 3,
            Frame::Reset { .. } => 4,
            Frame::Synced => 5,
            Frame::Barrier { .. } => 6,
            Frame::Mark(_) => 7,
            Frame::Begin => 8,
            Frame::Ping => 9,
            Frame::Held { .. } => 16,
            Frame::Pong => 17,
            Frame::Refused { .. } => 18,
        }
    }

    /// Bytes that it takes in a queue.
    pub(super) fn weight(&self) -> usize {
        match self {
            Frame::Write { bytes, .. } => HEADER_LEN + 8 + bytes.len(),
            _ => HEADER_LEN + 32,
        }
    }

    /// The frame as `number`, in two parts that follow each other.
    pub(super) fn emit(&self, number: u64) -> (Vec<u8>, &[u8]) {
        let mut head = vec![self.type_id(), 0, 0, 0];
        let mut fixed = Vec::new();
        let mut rest: &[u8] = &[];
        match self {
            Frame::Hello(hello) => {
                fixed.extend(VERSION.to_le_bytes());
                fixed.extend(u16::from(hello.flag).to_le_bytes());
                fixed.extend(hello.size.to_le_bytes());
                fixed.extend(hello.run.to_le_bytes());
                rest = clipped(&hello.name, MAX_NAME);
            }
            Frame::Write { offset, bytes } => {
                fixed.extend(offset.to_le_bytes());
                rest = bytes;
            }
            Frame::Zero { offset, length } => {
                fixed.extend(offset.to_le_bytes());
                fixed.extend(length.to_le_bytes());
            }
            Frame::Barrier { seq: word } | Frame::Held { seq: word } | Frame::Reset { run: word } => {
                fixed.extend(word.to_le_bytes())
            }
            Frame::Mark(point) => fixed.extend(point.bytes()),
            Frame::Refused { text } => rest = clipped(text, MAX_TEXT),
            Frame::Synced | Frame::Begin | Frame::Ping | Frame::Pong => {}
        }
        let length = u32::try_from(fixed.len() + rest.len()).unwrap_or(u32::MAX);
        head.extend(length.to_le_bytes());
        head.extend(number.to_le_bytes());
        let mut sum = Xxh3::new();
        [&head[..], &fixed, rest].iter().for_each(|part| sum.update(part));
        head.extend(sum.digest().to_le_bytes());
        head.append(&mut fixed);
        (head, rest)
    }

    fn parse(type_id: u8, payload: Vec<u8>) -> Result<Option<Self>, WireError> {
        let mut words = Words(&payload);
        let frame = match type_id {
            1 => {
                let hello = (|| {
                    let version = words.u16()?;
                    let flag = words.u16()? & 1 != 0;
                    let (size, run) = (words.u64()?, words.u64()?);
                    let name = String::from_utf8(words.0.to_vec()).ok()?;
                    Some((version, Hello { flag, size, run, name }))
                })();
                match hello {
                    Some((VERSION, hello)) => Some(Frame::Hello(hello)),
                    Some((version, _)) => return Err(WireError::Version(version)),
                    None => None,
                }
            }
            2 => {
                let mut bytes = payload;
                let offset = bytes.get(..8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
                if offset.is_some() {
                    bytes.drain(..8);
                }
                offset.filter(|_| !bytes.is_empty()).map(|offset| Frame::Write { offset, bytes })
            }
            3 => words.u64().zip(words.u64()).map(|(offset, length)| Frame::Zero { offset, length }),
            4 => words.u64().map(|run| Frame::Reset { run }),
            5 => Some(Frame::Synced),
            6 => words.u64().map(|seq| Frame::Barrier { seq }),
            7 => Point::parse(&payload).map(Frame::Mark),
            8 => Some(Frame::Begin),
            9 => Some(Frame::Ping),
            16 => words.u64().map(|seq| Frame::Held { seq }),
            17 => Some(Frame::Pong),
            18 => Some(Frame::Refused { text: String::from_utf8_lossy(&payload).into_owned() }),
            _ => None,
        };
        Ok(frame)
    }
}

/// Least and most bytes of payload.
const fn bounds(type_id: u8) -> Option<(usize, usize)> {
    match type_id {
        1 => Some((20, 20 + MAX_NAME)),
        2 => Some((9, 8 + MAX_DATA)),
        3 => Some((16, 16)),
        4 | 6 | 16 => Some((8, 8)),
        7 => Some((Point::LEN, Point::LEN)),
        5 | 8 | 9 | 17 => Some((0, 0)),
        18 => Some((0, MAX_TEXT)),
        _ => None,
    }
}

/// At most so many bytes of a text, whole characters.
fn clipped(text: &str, most: usize) -> &[u8] {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.as_bytes().get(..end).unwrap_or_default()
}

struct Words<'a>(&'a [u8]);

impl Words<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }
}

impl Point {
    /// Bytes on the wire and in a journal.
    pub(super) const LEN: usize = 32;

    pub(super) fn bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let words = [self.seq, self.mark.session, self.mark.checkpoint, self.disks.into()];
        for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let mut words = Words(bytes);
        let (seq, session, checkpoint) = (words.u64()?, words.u64()?, words.u64()?);
        let disks = u32::try_from(words.u64()?).ok()?;
        words.0.is_empty().then_some(Point { seq, mark: Mark { session, checkpoint }, disks })
    }
}

/// Reads [`MAGIC`].
pub(super) fn read_magic(source: &mut impl Read) -> Result<(), WireError> {
    let mut magic = [0; 8];
    source.read_exact(&mut magic)?;
    if magic == MAGIC { Ok(()) } else { Err(WireError::Magic(magic)) }
}

/// Reads frame `number`. `None`: the row ends where it may.
pub(super) fn read(source: &mut impl Read, number: u64) -> Result<Option<Frame>, WireError> {
    let mut header = Vec::with_capacity(HEADER_LEN);
    source.by_ref().take(HEADER_LEN as u64).read_to_end(&mut header)?;
    if header.is_empty() {
        return Ok(None);
    }
    let (Some(type_id), Some(head)) = (header.first().copied(), header.get(..16)) else {
        return Err(WireError::Truncated { frame: number });
    };
    let mut words = Words(header.get(4..).unwrap_or_default());
    let fields = (|| Some((u32::from_le_bytes(words.take()?), words.u64()?, words.u64()?)))();
    let Some((length, got_number, got)) = fields else { return Err(WireError::Truncated { frame: number }) };
    // No more is read, nor allocated, than a frame of the type may have.
    let most = match (bounds(type_id), usize::try_from(length)) {
        (Some((least, most)), Ok(bytes)) if (least..=most).contains(&bytes) => bytes,
        _ => return Err(WireError::Length { frame: number, type_id, length }),
    };
    let mut payload = Vec::new();
    source.by_ref().take(most as u64).read_to_end(&mut payload)?;
    if payload.len() != most {
        return Err(WireError::Truncated { frame: number });
    }
    let mut sum = Xxh3::new();
    sum.update(head);
    sum.update(&payload);
    let computed = sum.digest();
    if computed != got {
        return Err(WireError::Check { frame: number, got, computed });
    }
    if got_number != number {
        return Err(WireError::Sequence { frame: number, got: got_number });
    }
    Frame::parse(type_id, payload)?.map(Some).ok_or(WireError::Payload { frame: number, type_id })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn row(frames: &[Frame]) -> Vec<u8> {
        let mut row = Vec::new();
        for (number, frame) in frames.iter().enumerate() {
            let (head, rest) = frame.emit(number as u64);
            row.extend([&head[..], rest].concat());
        }
        row
    }

    fn frame() -> impl Strategy<Value = Frame> {
        let point = (any::<u64>(), any::<u64>(), any::<u64>(), any::<u32>())
            .prop_map(|(seq, session, checkpoint, disks)| Point { seq, mark: Mark { session, checkpoint }, disks });
        prop_oneof![
            (any::<bool>(), any::<u64>(), any::<u64>(), "[a-z/é]{0,60}")
                .prop_map(|(flag, size, run, name)| Frame::Hello(Hello { flag, size, run, name })),
            (any::<u64>(), prop::collection::vec(any::<u8>(), 1..600))
                .prop_map(|(offset, bytes)| Frame::Write { offset, bytes }),
            (any::<u64>(), any::<u64>()).prop_map(|(offset, length)| Frame::Zero { offset, length }),
            any::<u64>().prop_map(|seq| Frame::Barrier { seq }),
            any::<u64>().prop_map(|seq| Frame::Held { seq }),
            point.prop_map(Frame::Mark),
            ".{0,40}".prop_map(|text| Frame::Refused { text }),
            any::<u64>().prop_map(|run| Frame::Reset { run }),
            Just(Frame::Synced),
            Just(Frame::Begin),
            Just(Frame::Ping),
            Just(Frame::Pong),
        ]
    }

    proptest! {
        #[test]
        fn what_is_emitted_is_read(frames in prop::collection::vec(frame(), 0..6)) {
            let row = row(&frames);
            let mut source = &row[..];
            for (number, frame) in frames.iter().enumerate() {
                let read = read(&mut source, number as u64).unwrap();
                prop_assert_eq!(read.as_ref(), Some(frame));
            }
            prop_assert!(read(&mut source, 9).unwrap().is_none());
        }

        #[test]
        fn a_frame_that_is_cut_or_flipped_is_an_error(frame in frame(), at: prop::sample::Index, bit in 0..8u8) {
            let mut bytes = row(&[frame]);
            let at = at.index(bytes.len());
            let cut = &bytes[..at];
            prop_assert_eq!(read(&mut &*cut, 0).is_err(), at > 0);
            bytes[at] ^= 1 << bit;
            prop_assert!(read(&mut &bytes[..], 0).is_err());
        }

        #[test]
        fn garbage_is_no_frame(bytes in prop::collection::vec(any::<u8>(), 1..200)) {
            prop_assert!(read(&mut &bytes[..], 0).is_err());
        }
    }

    #[test]
    fn frames_are_bounded_counted_and_of_this_version() {
        let mut long = row(&[Frame::Ping]);
        long[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(read(&mut &long[..], 0), Err(WireError::Length { type_id: 9, length: u32::MAX, .. })));
        let twice = row(&[Frame::Ping]);
        assert!(matches!(read(&mut &twice[..], 1), Err(WireError::Sequence { frame: 1, got: 0 })));
        let unknown = row(&[Frame::Ping]);
        assert!(matches!(
            read(&mut &[&[77], &unknown[1..]].concat()[..], 0),
            Err(WireError::Length { type_id: 77, .. })
        ));
        let hello = Frame::Hello(Hello { flag: false, size: 1, run: 2, name: "x".into() });
        let (mut head, rest) = hello.emit(0);
        head[HEADER_LEN] = 9;
        let mut sum = Xxh3::new();
        [&head[..16], &head[HEADER_LEN..], rest].iter().for_each(|part| sum.update(part));
        head[16..24].copy_from_slice(&sum.digest().to_le_bytes());
        assert!(matches!(read(&mut &[&head[..], rest].concat()[..], 0), Err(WireError::Version(9))));
        assert!(matches!(read_magic(&mut &b"NBDMAGIC"[..]), Err(WireError::Magic(_))));
        assert!(read_magic(&mut &MAGIC[..]).is_ok());
    }
}
