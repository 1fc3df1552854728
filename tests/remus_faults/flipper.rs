//! Flips one bit of a direction's bytes: in a frame of a chosen type, or in a record of a chosen kind that DATA carries.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use xen_replicate::remus::wire::{HEADER_LEN, MAGIC};
use xen_replicate::stream::framer::{Options, What};
use xen_replicate::stream::reader::PushReader;
use xen_replicate::stream::{Layer, libxc, libxl};

/// Types of frames, as `docs/remus.md` has them.
pub mod frame {
    pub const HELLO: u8 = 1;
    pub const DATA: u8 = 2;
    pub const STREAM: u8 = 3;
    pub const CHECKPOINT: u8 = 4;
    pub const HEARTBEAT: u8 = 5;
    pub const SWITCH_OVER: u8 = 6;
    pub const GOODBYE: u8 = 7;
    pub const ACK: u8 = 8;
    pub const ACTIVE: u8 = 10;
}

/// Where the bit is.
#[derive(Debug, Clone, Copy)]
pub enum Bit {
    /// In this byte of a frame of this type, counted from its header's first.
    Frame(u8, usize),
    /// In the middle of an item of the stream, by its name.
    Record(&'static str),
}

/// One direction of one connection.
#[derive(Debug)]
pub struct Flipper {
    bit: Bit,
    /// How many more are left as they are.
    spare: u64,
    flipped: Arc<AtomicBool>,
    began: bool,
    held: Vec<u8>,
    stream: PushReader,
    /// Bytes of the stream before the frame.
    offset: u64,
}

impl Flipper {
    /// Leaves `spare` of them as they are, and flips the bit in the next. The flag is set then.
    pub fn new(bit: Bit, spare: u64) -> (Flipper, Arc<AtomicBool>) {
        let flipped = Arc::new(AtomicBool::new(false));
        let stream = PushReader::new(Options::default());
        let shared = Arc::clone(&flipped);
        (Flipper { bit, spare, flipped, began: false, held: Vec::new(), stream, offset: 0 }, shared)
    }

    /// What is to be passed on, now that these have come; none at all for the end.
    pub fn pass(&mut self, bytes: &[u8]) -> Vec<u8> {
        if bytes.is_empty() {
            return std::mem::take(&mut self.held);
        }
        self.held.extend_from_slice(bytes);
        let mut out = Vec::new();
        while let Some(size) = self.whole() {
            let rest = self.held.split_off(size);
            let mut part = std::mem::replace(&mut self.held, rest);
            if self.began {
                self.meddle(&mut part);
            }
            self.began = true;
            out.extend(part);
        }
        out
    }

    /// Bytes of what stands in front, if all of them have come.
    fn whole(&self) -> Option<usize> {
        if !self.began {
            return (self.held.len() >= MAGIC.len()).then_some(MAGIC.len());
        }
        let length = self.held.get(4..8)?;
        let size = HEADER_LEN + u32::from_le_bytes(length.try_into().unwrap()) as usize;
        (self.held.len() >= size).then_some(size)
    }

    fn meddle(&mut self, part: &mut [u8]) {
        let kind = part[0];
        if kind == frame::STREAM {
            self.stream = PushReader::new(Options::default());
            self.offset = 0;
        }
        let at = match self.bit {
            Bit::Frame(wanted, at) => (wanted == kind).then_some(at.min(part.len() - 1)),
            Bit::Record(wanted) if kind == frame::DATA => {
                self.find(wanted, &part[HEADER_LEN..]).map(|at| HEADER_LEN + at)
            }
            Bit::Record(_) => None,
        };
        let Some(at) = at.filter(|_| !self.flipped.load(Ordering::SeqCst)) else { return };
        if self.spare > 0 {
            self.spare -= 1;
            return;
        }
        part[at] ^= 0x10;
        self.flipped.store(true, Ordering::SeqCst);
    }

    /// The place in this payload of an item that ends in it: its middle, if that is here, too.
    fn find(&mut self, wanted: &str, payload: &[u8]) -> Option<usize> {
        let begin = self.offset;
        self.offset += payload.len() as u64;
        self.stream.push(payload);
        let mut found = None;
        while let Some(item) = self.stream.next_item().expect("what a primary sends is sound") {
            let name = match item.what {
                What::XlPreamble(_) => "xl's preamble",
                What::LibxlHeader(_) => "libxl's header",
                What::ImageHeader(_) => "image header",
                What::DomainHeader(_) => "domain header",
                What::Handshake(..) => "handshake",
                What::Record(record) if item.layer == Layer::Libxc => {
                    libxc::type_name(record.header.type_id).unwrap_or("unknown")
                }
                What::Record(record) => libxl::type_name(record.header.type_id).unwrap_or("unknown"),
                _ => "unknown",
            };
            if name == wanted {
                let middle = item.offset + item.size / 2;
                let last = item.offset + item.size - 1;
                found = Some((if middle >= begin { middle } else { last } - begin) as usize);
            }
        }
        found
    }
}
