//! The thin framing around the migration-v2 stream: what v2 lacks travels beside it.
//!
//! One pair of pipes carries two rows of bytes. Each begins with [`MAGIC`], then come frames: a header of
//! [`HEADER_LEN`] bytes and a payload. The payloads of the DATA frames between two STREAM frames, put together, are a bare
//! migration-v2 stream, byte for byte, as Xen's tools read it; everything else is beside it. All numbers are
//! little-endian. `docs/remus.md` has the same tables with the rules of the dialogue.
//!
//! | offset | size | header field |
//! |---|---|---|
//! | 0 | 1 | type; bit 7: a receiver that does not know it may skip the frame |
//! | 1 | 3 | zero; ignored when received |
//! | 4 | 4 | length of the payload: at most [`MAX_DATA`] for DATA, [`MAX_CONTROL`] for all others |
//! | 8 | 8 | session |
//! | 16 | 4 | sequence number of the frame in its direction, from 0, modulo 2^32 |
//! | 20 | 4 | check: the low half of XXH3-64 over the 20 bytes before, and the payload unless the frame is DATA |
//!
//! A DATA payload is covered by the checksum of its checkpoint. Damage to a header or to any other frame is found by the
//! check at once; a lost or repeated frame by the sequence number. Behind such damage nothing can be trusted, and
//! [`Decoder`] gives nothing more.
//!
//! # Contract
//! No input makes anything here panic. At most one frame is buffered, and never more than has arrived.

mod decode;
mod digest;
mod encode;
mod frame;
mod greeting;

pub use decode::{Decoder, FrameBuffer, Step, WireError};
pub use digest::{Digest, Seal};
pub use encode::Encoder;
pub use frame::{Body, Control, Direction, Farewell, Frame, Hello, name_sum};
pub use greeting::{Capabilities, Peer, recognise_primary, recognise_secondary};

/// The first bytes of either direction. None of a bare stream's beginnings nor xl's banner shares even the first.
pub const MAGIC: [u8; 8] = *b"\x89XRemus\n";
/// Version of this protocol. Peers with another are refused.
pub const VERSION: u16 = 2;
/// Bytes of a frame's header.
pub const HEADER_LEN: usize = 24;
/// Most bytes of stream in one DATA frame, so that a heartbeat never waits for long behind a long record.
pub const MAX_DATA: usize = 256 << 10;
/// Most bytes of payload in any other frame.
pub const MAX_CONTROL: usize = 512;
/// Most bytes of text in a REFUSE frame. Longer text is cut.
pub const MAX_DETAIL: usize = 256;
