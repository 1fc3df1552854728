//! A packet's header.
#![forbid(unsafe_code)]

use super::error::ChannelError;
use crate::decode::qemu_stream::Walker;

/// What a channel and each of its packets begin with.
pub(super) const MAGIC: u32 = 0x1122_3344;
const VERSION: u32 = 1;
/// Bytes of a header in front of the offsets of its pages.
const FIXED: usize = 320;
/// Bytes of guest memory that a packet is made for.
const ROOM: u64 = 512 << 10;
/// Where the name of the block stands, and its bytes.
const NAME: std::ops::Range<usize> = 64..320;

const SYNC: u32 = 1;
const DEVICE_STATE: u32 = 0x40;
const METHODS: u32 = 0x3e;

/// How the contents of pages are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Plain,
    Zlib,
    Zstd,
}

impl Method {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Method::Plain => "none",
            Method::Zlib => "zlib",
            Method::Zstd => "zstd",
        }
    }
}

/// What a packet says of itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packet {
    pub(super) sync: bool,
    /// `None` where it carries no pages with contents.
    pub(super) method: Option<Method>,
    pub(super) number: u64,
    pub(super) full: u64,
    pub(super) zero: u64,
    /// Bytes that follow its header.
    pub(super) follows: u64,
}

/// Bytes of a header.
pub(super) fn header(page: u64) -> usize {
    FIXED + 8 * usize::try_from(ROOM / page.max(1)).unwrap_or(0)
}

fn word(held: &[u8], at: usize) -> u32 {
    held.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

fn long(held: &[u8], at: usize) -> u64 {
    held.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// Holds magic and version against what they have to be.
pub(super) fn begins(held: &[u8], offset: u64) -> Result<(), ChannelError> {
    match (word(held, 0), word(held, 4)) {
        (MAGIC, VERSION) => Ok(()),
        (MAGIC, value) => Err(ChannelError::Version { offset: offset.saturating_add(4), value }),
        (value, _) => Err(ChannelError::Magic { offset, value }),
    }
}

impl Packet {
    /// The header in `held`, which is whole and stands at `offset`. RAM blocks are those that the main connection has named.
    pub(super) fn parse(held: &[u8], offset: u64, main: &Walker) -> Result<Self, ChannelError> {
        begins(held, offset)?;
        let flags = word(held, 8);
        if flags & DEVICE_STATE != 0 {
            return Err(ChannelError::Method { offset, what: "device state (VFIO)" });
        }
        let method = match flags & METHODS {
            0 => Method::Plain,
            2 => Method::Zlib,
            4 => Method::Zstd,
            8 => return Err(ChannelError::Method { offset, what: "qpl" }),
            0x10 => return Err(ChannelError::Method { offset, what: "uadk" }),
            0x20 => return Err(ChannelError::Method { offset, what: "qatzip" }),
            _ => return Err(ChannelError::Flags { offset, value: flags }),
        };
        if flags & !(SYNC | METHODS) != 0 {
            return Err(ChannelError::Flags { offset, value: flags });
        }
        let page = main.page_size();
        let room = ROOM / page.max(1);
        let most = |what, value: u64, most| match value > most {
            true => Err(ChannelError::Bound { offset, what, value, most }),
            false => Ok(value),
        };
        let alloc = most("pages_alloc", word(held, 12).into(), room)?;
        let full = most("normal_pages", word(held, 16).into(), alloc)?;
        let zero = most("zero_pages", word(held, 32).into(), alloc - full)?;
        // What packing makes of pages that cannot be packed is a little more than they are.
        let size = most("next_packet_size", word(held, 20).into(), full * page * 2)?;
        let fits = match method {
            Method::Plain => size == full * page,
            Method::Zlib | Method::Zstd => (size > 0) == (full > 0),
        };
        if !fits {
            return Err(ChannelError::Size { offset, size, pages: full });
        }
        let pages = usize::try_from(full + zero).unwrap_or(0);
        pages_fit(held, pages, offset, main)?;
        let method = (full > 0 || method != Method::Plain).then_some(method);
        Ok(Packet { sync: flags & SYNC != 0, method, number: long(held, 24), full, zero, follows: size })
    }
}

fn pages_fit(held: &[u8], pages: usize, offset: u64, main: &Walker) -> Result<(), ChannelError> {
    let name = held.get(NAME).unwrap_or_default();
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    // A channel can be ahead of the list on the main connection.
    let Some(length) = main.block(name).filter(|_| pages > 0) else { return Ok(()) };
    let page = main.page_size();
    let length_in_pages = length.checked_next_multiple_of(page).unwrap_or(u64::MAX);
    for at in 0..pages {
        let address = long(held, FIXED + 8 * at);
        if !address.is_multiple_of(page) || address.saturating_add(page) > length_in_pages {
            let block = String::from_utf8_lossy(name).into_owned();
            return Err(ChannelError::Page { offset, address, block, length });
        }
    }
    Ok(())
}
