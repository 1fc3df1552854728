//! Both directions of a session between two of our own ends: lanes, one frame after another.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | the bytes `XRCO` |
//! | 4 | 1 | lane |
//! | 5 | 3 | zero |
//! | 8 | 4 | bytes that follow, at most [`MAX_PAYLOAD`] (little-endian) |
//! | 12 | 4 | the low half of their xxh3 |
//! | 16 | - | payload |
//!
//! | lane | forward | backward |
//! |---|---|---|
//! | 1 hello | the session ([`super::hello`]) | what this end can do; the first frame |
//! | 2 refuse | why there is no session, for people | the same |
//! | 3 stream | libxl's stream | libxl's back channel |
//! | 4 packet | u64 epoch, a packet that has come for the guest | u64 epoch, a packet that the guest has sent |
//! | 5 beat | nothing: this side lives | the same |
//!
//! What is in lane 3 is to the byte what libxl's two ends say to each other. To such a peer these bytes go without any frame.
#![forbid(unsafe_code)]

use std::io::{self, Read};
use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64;

/// The first bytes of each frame.
pub const MAGIC: [u8; 4] = *b"XRCO";
/// Bytes of a frame's header.
pub const HEADER_LEN: usize = 16;
/// Bytes of a payload at most.
pub const MAX_PAYLOAD: usize = 256 << 10;

/// What a frame belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Lane {
    /// What the session is to be.
    Hello = 1,
    /// There is none.
    Refuse = 2,
    /// libxl's bytes.
    Stream = 3,
    /// A packet of the guest's network.
    Packet = 4,
    /// A sign of life.
    Beat = 5,
    /// The primary goes on alone: the last frame.
    Goodbye = 6,
}

impl Lane {
    const fn from_wire(value: u8) -> Option<Lane> {
        Some(match value {
            1 => Lane::Hello,
            2 => Lane::Refuse,
            3 => Lane::Stream,
            4 => Lane::Packet,
            5 => Lane::Beat,
            6 => Lane::Goodbye,
            _ => return None,
        })
    }
}

/// Why frames cannot be read any further.
#[derive(Debug, Error)]
pub enum FrameError {
    /// The connection's.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// No frame begins here.
    #[error("frame at offset {offset}: begins with {found:02x?}")]
    Magic {
        /// Of the frame.
        offset: u64,
        /// Its first bytes.
        found: [u8; 4],
    },
    /// No such lane.
    #[error("frame at offset {offset}: lane {lane} is none")]
    Lane {
        /// Of the frame.
        offset: u64,
        /// What it says.
        lane: u8,
    },
    /// Too long.
    #[error("frame at offset {offset}: {length} bytes, at most {MAX_PAYLOAD} are allowed")]
    Length {
        /// Of the frame.
        offset: u64,
        /// What it says.
        length: u32,
    },
    /// Other bytes than were sent.
    #[error("frame at offset {offset}: checksum {found:#010x}, {expected:#010x} in its header")]
    Sum {
        /// Of the frame.
        offset: u64,
        /// What the header says.
        expected: u32,
        /// What the bytes have.
        found: u32,
    },
}

const fn low(sum: u64) -> u32 {
    (sum & 0xffff_ffff) as u32
}

/// The header of a frame with this payload, which must not be longer than [`MAX_PAYLOAD`].
pub fn header(lane: Lane, payload: &[u8]) -> [u8; HEADER_LEN] {
    let mut out = [0; HEADER_LEN];
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    out[..4].copy_from_slice(&MAGIC);
    out[4] = lane as u8;
    out[8..12].copy_from_slice(&length.to_le_bytes());
    out[12..].copy_from_slice(&low(xxh3_64(payload)).to_le_bytes());
    out
}

/// Frames out of a connection, or bytes without frames.
#[derive(Debug)]
pub struct Frames<R> {
    source: R,
    /// Frames are expected; otherwise all is the stream's.
    framed: bool,
    offset: u64,
    payload: Vec<u8>,
}

impl<R: Read> Frames<R> {
    /// Of a connection at its start.
    pub const fn new(source: R, framed: bool) -> Self {
        Frames { source, framed, offset: 0, payload: Vec::new() }
    }

    /// The next frame; `None` at an end that is not inside of one.
    ///
    /// # Errors
    /// [`FrameError`]. An end inside of a frame is [`io::ErrorKind::UnexpectedEof`].
    pub fn read_frame(&mut self) -> Result<Option<(Lane, &[u8])>, FrameError> {
        if !self.framed {
            return self.bytes();
        }
        let mut head = [0; HEADER_LEN];
        if !self.fill(&mut head)? {
            return Ok(None);
        }
        let [m0, m1, m2, m3, lane, _, _, _, l0, l1, l2, l3, s0, s1, s2, s3] = head;
        let (offset, found) = (self.offset, [m0, m1, m2, m3]);
        let (length, expected) = (u32::from_le_bytes([l0, l1, l2, l3]), u32::from_le_bytes([s0, s1, s2, s3]));
        if found != MAGIC {
            return Err(FrameError::Magic { offset, found });
        }
        let lane = Lane::from_wire(lane).ok_or(FrameError::Lane { offset, lane })?;
        let bytes = usize::try_from(length).ok().filter(|&bytes| bytes <= MAX_PAYLOAD);
        self.payload.resize(bytes.ok_or(FrameError::Length { offset, length })?, 0);
        self.source.read_exact(&mut self.payload)?;
        let found = low(xxh3_64(&self.payload));
        if found != expected {
            return Err(FrameError::Sum { offset, expected, found });
        }
        self.offset = offset.saturating_add((HEADER_LEN + self.payload.len()) as u64);
        Ok(Some((lane, &self.payload)))
    }

    /// Takes everything that follows for bytes without frames: it cannot be told apart any more.
    pub const fn give_up(&mut self) {
        self.framed = false;
    }

    /// What is read from.
    pub const fn source(&self) -> &R {
        &self.source
    }

    /// Goes on with another source, which begins where this one stands.
    pub fn map_source<S>(self, change: impl FnOnce(R) -> S) -> Frames<S> {
        let Frames { source, framed, offset, payload } = self;
        Frames { source: change(source), framed, offset, payload }
    }

    fn bytes(&mut self) -> Result<Option<(Lane, &[u8])>, FrameError> {
        self.payload.resize(MAX_PAYLOAD, 0);
        loop {
            match self.source.read(&mut self.payload) {
                Ok(0) => return Ok(None),
                Ok(got) => {
                    self.offset = self.offset.saturating_add(got as u64);
                    return Ok(Some((Lane::Stream, self.payload.get(..got).unwrap_or_default())));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// False at an end before the first byte.
    fn fill(&mut self, head: &mut [u8]) -> io::Result<bool> {
        let mut got = 0;
        while let Some(rest) = head.get_mut(got..).filter(|rest| !rest.is_empty()) {
            match self.source.read(rest) {
                Ok(0) if got == 0 => return Ok(false),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(more) => got += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

/// The epoch and the bytes of a packet frame; `None` when it is too short for one.
pub fn packet(payload: &[u8]) -> Option<(u64, &[u8])> {
    let (epoch, bytes) = payload.split_first_chunk()?;
    Some((u64::from_le_bytes(*epoch), bytes))
}

/// The payload of a packet frame.
pub fn packet_payload(epoch: u64, bytes: &[u8]) -> Vec<u8> {
    [&epoch.to_le_bytes(), bytes].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(lane: Lane, payload: &[u8]) -> Vec<u8> {
        [&header(lane, payload)[..], payload].concat()
    }

    fn error(bytes: &[u8]) -> String {
        Frames::new(bytes, true).read_frame().map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn frames_arrive_as_they_were_sent() {
        let bytes = [frame(Lane::Beat, b""), frame(Lane::Packet, &packet_payload(7, b"ping"))].concat();
        let mut frames = Frames::new(&bytes[..], true);
        assert_eq!(frames.read_frame().unwrap(), Some((Lane::Beat, &b""[..])));
        let (lane, payload) = frames.read_frame().unwrap().unwrap();
        assert_eq!((lane, packet(payload)), (Lane::Packet, Some((7, &b"ping"[..]))));
        assert!(frames.read_frame().unwrap().is_none());
        let mut bare = Frames::new(&b"all of it"[..], false);
        assert_eq!(bare.read_frame().unwrap(), Some((Lane::Stream, &b"all of it"[..])));
        assert!(bare.read_frame().unwrap().is_none());
    }

    #[test]
    fn every_byte_that_is_wrong_is_told() {
        let sound = frame(Lane::Stream, b"bytes");
        let with = |at: usize, byte: u8| {
            let mut bytes = sound.clone();
            bytes[at] = byte;
            error(&bytes)
        };
        assert_eq!(with(0, 0), "frame at offset 0: begins with [00, 52, 43, 4f]");
        assert_eq!(with(4, 9), "frame at offset 0: lane 9 is none");
        assert!(with(11, 0xff).contains("bytes, at most 262144 are allowed"));
        assert!(with(12, sound[12] ^ 1).contains("checksum") && with(20, 0).contains("checksum"));
        for end in 1..sound.len() {
            let ended = Frames::new(&sound[..end], true).read_frame().map(|_| ()).unwrap_err();
            assert!(matches!(&ended, FrameError::Io(e) if e.kind() == io::ErrorKind::UnexpectedEof), "{end}: {ended}");
        }
        assert_eq!(packet(b"1234567"), None);
    }
}
