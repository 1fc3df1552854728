//! One multifd channel: a connection that carries pages beside the main one.
//!
//! Big-endian. A channel sends 64 bytes once: u32 magic, u32 version 1, the guest's UUID, u8 the channel's number, zeros. Then packets,
//! each a header and the contents of its pages:
//!
//! | bytes | field |
//! |---|---|
//! | 0 | u32 magic `11223344`, u32 version 1 |
//! | 8 | u32 flags: 1 SYNC; how it is packed: 0 none, 2 zlib, 4 zstd, 8 qpl, 0x10 uadk, 0x20 qatzip; 0x40 device state |
//! | 12 | u32 pages that there is room for, u32 pages with contents, u32 `next_packet_size`: bytes after the header |
//! | 24 | u64 number of the packet, over all channels |
//! | 32 | u32 pages of zeros, then 28 unused bytes |
//! | 64 | name of the RAM block, 256 bytes |
//! | 320 | u64 for each page that there is room for in 512 KiB: where it is in the block, those with contents first |
//!
//! # Contract
//! No input makes anything here panic. A channel holds at most one header; contents are counted and passed over, so neither a size nor a
//! ratio of packing costs memory.
#![forbid(unsafe_code)]

mod error;
mod packet;

pub use error::ChannelError;

use crate::decode::qemu_stream::{Ram, Walker};
use packet::{Method, Packet, begins, header};

/// Most channels of a session: QEMU counts them in 8 bits.
pub const MOST_CHANNELS: usize = 255;

/// Bytes that a channel sends once.
const HELLO: usize = 64;

/// What begins a channel's connection.
pub(super) const MAGIC: [u8; 4] = packet::MAGIC.to_be_bytes();

/// Something that was seen on a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seen {
    /// It has said which one it is.
    Hello,
    /// A SYNC, and what came since the one before.
    Sync(Batch),
}

/// Packets between two SYNCs, the second one counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) offset: u64,
    pub(super) bytes: u64,
    pub(super) sync: u64,
    pub(super) packets: u64,
    pub(super) ram: Ram,
    pub(super) method: Option<&'static str>,
}

/// Numbers of packets: enough to know whether all are there.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Numbers {
    pub(super) packets: u64,
    pub(super) last: u64,
    pub(super) sum: u128,
}

impl Numbers {
    pub(super) fn add(&mut self, other: Numbers) {
        self.packets = self.packets.saturating_add(other.packets);
        self.last = self.last.max(other.last);
        self.sum = self.sum.saturating_add(other.sum);
    }

    /// Whether they are 0, 1, 2 and so on, each once, where each channel's are known to grow.
    pub(super) fn complete(self) -> bool {
        let last = u128::from(self.last);
        self.packets == 0 || (self.last.checked_add(1) == Some(self.packets) && self.sum == last * (last + 1) / 2)
    }
}

/// Follows a channel.
#[derive(Debug, Clone)]
pub(super) struct Channel {
    held: Vec<u8>,
    skip: u64,
    offset: u64,
    hello: Option<(u8, [u8; 16])>,
    numbers: Numbers,
    syncs: u64,
    method: Option<Method>,
    /// Since the last SYNC.
    packets: u64,
    ram: Ram,
    began: u64,
}

impl Channel {
    pub(super) fn new() -> Self {
        Channel {
            held: Vec::new(),
            skip: 0,
            offset: 0,
            hello: None,
            numbers: Numbers::default(),
            syncs: 0,
            method: None,
            packets: 0,
            ram: Ram::default(),
            began: 0,
        }
    }

    pub(super) fn id(&self) -> Option<u8> {
        self.hello.map(|(id, _)| id)
    }

    pub(super) fn uuid(&self) -> Option<[u8; 16]> {
        self.hello.map(|(_, uuid)| uuid)
    }

    pub(super) const fn syncs(&self) -> u64 {
        self.syncs
    }

    pub(super) const fn numbers(&self) -> Numbers {
        self.numbers
    }

    pub(super) fn method(&self) -> Option<&'static str> {
        self.method.map(Method::name)
    }

    /// Inside of what it would end now.
    pub(super) fn inside(&self) -> Option<&'static str> {
        match () {
            () if self.hello.is_none() => Some("the beginning of a multifd channel"),
            () if self.skip > 0 || !self.held.is_empty() => Some("a packet"),
            () if self.packets > 0 => Some("packets without their SYNC"),
            () => None,
        }
    }

    /// Takes bytes up to the next thing that is seen, or all. Gives how many.
    pub(super) fn push(&mut self, input: &[u8], main: &Walker) -> Result<(usize, Option<Seen>), ChannelError> {
        let mut rest = input;
        while !rest.is_empty() {
            if self.skip > 0 {
                let bytes = usize::try_from(self.skip).unwrap_or(usize::MAX).min(rest.len());
                self.skip -= bytes as u64;
                self.offset = self.offset.saturating_add(bytes as u64);
                rest = rest.get(bytes..).unwrap_or_default();
                if self.skip == 0
                    && let Some(batch) = self.batch()
                {
                    return Ok((input.len() - rest.len(), Some(Seen::Sync(batch))));
                }
                continue;
            }
            let needed = if self.hello.is_none() { HELLO } else { header(main.page_size()) };
            let bytes = needed.saturating_sub(self.held.len()).min(rest.len());
            self.held.extend_from_slice(rest.get(..bytes).unwrap_or_default());
            self.offset = self.offset.saturating_add(bytes as u64);
            rest = rest.get(bytes..).unwrap_or_default();
            if self.held.len() < needed {
                // What is wrong from the first bytes on is not waited for.
                if self.held.len() >= 8 {
                    begins(&self.held, self.offset - self.held.len() as u64)?;
                }
                continue;
            }
            let held = std::mem::take(&mut self.held);
            let seen = self.step(&held, self.offset - held.len() as u64, main)?;
            if seen.is_some() {
                return Ok((input.len() - rest.len(), seen));
            }
        }
        Ok((input.len(), None))
    }

    fn step(&mut self, held: &[u8], offset: u64, main: &Walker) -> Result<Option<Seen>, ChannelError> {
        if self.hello.is_none() {
            begins(held, offset)?;
            let uuid = held.get(8..).and_then(|rest| rest.first_chunk()).copied().unwrap_or_default();
            self.hello = Some((held.get(24).copied().unwrap_or_default(), uuid));
            self.began = self.offset;
            return Ok(Some(Seen::Hello));
        }
        let packet = Packet::parse(held, offset, main)?;
        if self.numbers.packets > 0 && packet.number <= self.numbers.last {
            return Err(ChannelError::Number { offset, number: packet.number, before: self.numbers.last });
        }
        if let Some(method) = packet.method
            && let Some(before) = self.method.replace(method).filter(|before| *before != method)
        {
            return Err(ChannelError::Mixed { offset, got: method.name(), before: before.name() });
        }
        self.numbers.add(Numbers { packets: 1, last: packet.number, sum: packet.number.into() });
        self.packets += 1;
        self.ram.full += packet.full;
        self.ram.zero += packet.zero;
        self.skip = packet.follows;
        if packet.sync {
            self.syncs += 1;
            self.ram.sections = 1;
        }
        Ok(if self.skip == 0 { self.batch().map(Seen::Sync) } else { None })
    }

    /// What a SYNC that is whole closes.
    fn batch(&mut self) -> Option<Batch> {
        if self.ram.sections == 0 {
            return None;
        }
        let mut ram = std::mem::take(&mut self.ram);
        ram.sections = 0;
        let batch = Batch {
            offset: self.began,
            bytes: self.offset - self.began,
            sync: self.syncs,
            packets: std::mem::take(&mut self.packets),
            ram,
            method: self.method(),
        };
        self.began = self.offset;
        Some(batch)
    }
}
