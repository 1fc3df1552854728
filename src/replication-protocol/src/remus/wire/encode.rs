//! Values to bytes. Nothing is allocated, payloads of DATA are not touched.

use super::frame::{Control, DATA, Direction};
use super::{HEADER_LEN, MAX_CONTROL, MAX_DATA, MAX_DETAIL, VERSION};
use crate::protocol::Session;
use arrayvec::ArrayVec;
use byteorder::{ByteOrder, LittleEndian};
use xxhash_rust::xxh3::Xxh3;

/// Gives the bytes of one direction's frames, in the order in which they are to be written.
#[derive(Debug, Clone)]
pub struct Encoder {
    session: Session,
    direction: Direction,
    sequence: u32,
}

/// A frame that is not DATA, whole.
pub type ControlFrame = ArrayVec<u8, { HEADER_LEN + MAX_CONTROL }>;

impl Encoder {
    /// For a connection's frames of one direction. MAGIC is the caller's to write, before the first.
    pub const fn new(session: Session, direction: Direction) -> Self {
        Encoder { session, direction, sequence: 0 }
    }

    /// The header to write before `data` as it is. `None` when `data` is empty or longer than [`MAX_DATA`], or the direction
    /// has no DATA; nothing is to be written then.
    pub fn data(&mut self, data: &[u8]) -> Option<[u8; HEADER_LEN]> {
        self.data_of(data.len())
    }

    /// The same for a payload that lies in several places and has `bytes` in all.
    pub fn data_of(&mut self, bytes: usize) -> Option<[u8; HEADER_LEN]> {
        if bytes == 0 || bytes > MAX_DATA || self.direction == Direction::Backward {
            return None;
        }
        Some(self.header(DATA, bytes as u32, &[]))
    }

    /// A whole frame. `None` when it does not run in this direction.
    pub fn control(&mut self, control: Control) -> Option<ControlFrame> {
        self.with_detail(control, &[])
    }

    /// [`Control::Refuse`] with a text for people, cut at [`MAX_DETAIL`] bytes. Other frames go without it.
    pub fn with_detail(&mut self, control: Control, detail: &[u8]) -> Option<ControlFrame> {
        if !control.runs(self.direction) {
            return None;
        }
        let payload = payload(control, detail);
        let mut frame = ControlFrame::new();
        let header = self.header(control.type_id(), payload.len() as u32, &payload);
        frame.extend(header);
        frame.extend(payload);
        Some(frame)
    }

    fn header(&mut self, type_id: u8, length: u32, checked: &[u8]) -> [u8; HEADER_LEN] {
        let mut header = [0; HEADER_LEN];
        header[0] = type_id;
        LittleEndian::write_u32(&mut header[4..8], length);
        LittleEndian::write_u64(&mut header[8..16], self.session.0);
        LittleEndian::write_u32(&mut header[16..20], self.sequence);
        let check = check(&header, checked);
        LittleEndian::write_u32(&mut header[20..24], check);
        self.sequence = self.sequence.wrapping_add(1);
        header
    }
}

/// The check over the first 20 bytes of a header and the payload of any frame but DATA.
pub(super) fn check(header: &[u8; HEADER_LEN], payload: &[u8]) -> u32 {
    let mut hash = Xxh3::new();
    hash.update(&header[..20]);
    hash.update(payload);
    hash.digest() as u32
}

fn payload(control: Control, detail: &[u8]) -> ArrayVec<u8, MAX_CONTROL> {
    let mut out = ArrayVec::new();
    // Every payload below is far shorter than the array.
    match control {
        Control::Hello(hello) => {
            out.extend(VERSION.to_le_bytes());
            out.extend([hello.rule as u8, 0]);
            out.extend(hello.capabilities.bits().to_le_bytes());
            out.extend(hello.generation.0.to_le_bytes());
            out.extend(hello.heartbeat_ms.to_le_bytes());
            out.extend(hello.timeout_ms.to_le_bytes());
            out.extend(hello.domain.to_le_bytes());
        }
        Control::Stream { number, checkpoint } => {
            out.extend(number.to_le_bytes());
            out.extend([0; 4]);
            out.extend(checkpoint.to_le_bytes());
        }
        Control::Checkpoint(seal) => {
            out.extend(seal.number.to_le_bytes());
            out.extend(seal.bytes.to_le_bytes());
            out.extend(seal.checksum.to_le_bytes());
        }
        Control::Heartbeat { generation } | Control::Begin { generation } => out.extend(generation.0.to_le_bytes()),
        Control::SwitchOver { checkpoint, generation } | Control::Active { checkpoint, generation } => {
            out.extend(checkpoint.to_le_bytes());
            out.extend(generation.0.to_le_bytes());
        }
        Control::Goodbye { reason } => {
            out.extend((reason as u32).to_le_bytes());
            out.extend([0; 4]);
        }
        Control::Ack { checkpoint } => out.extend(checkpoint.to_le_bytes()),
        Control::Refuse { checkpoint, reason } => {
            out.extend(checkpoint.to_le_bytes());
            out.extend((reason as u32).to_le_bytes());
            out.extend([0; 4]);
            out.extend(detail.iter().take(MAX_DETAIL).copied());
        }
    }
    out
}
