//! What is wrong with a multifd channel, or with what came on which of them.
#![forbid(unsafe_code)]

use super::MOST_CHANNELS;
use thiserror::Error;

/// Why the channels of a session are not understood. Every `offset` counts bytes of the channel's connection.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ChannelError {
    /// A packet, or the beginning of a channel, without its magic.
    #[error("offset {offset}: magic {value:#x}, expected 0x11223344 (multifd)")]
    Magic {
        /// Of the magic.
        offset: u64,
        /// What stands there.
        value: u32,
    },
    /// Another version than 1.
    #[error("offset {offset}: multifd version {value}, expected 1")]
    Version {
        /// Of the version.
        offset: u64,
        /// What stands there.
        value: u32,
    },
    /// Flags that nobody has defined, or that do not go together.
    #[error("offset {offset}: packet flags {value:#x}")]
    Flags {
        /// Of the packet.
        offset: u64,
        /// The flags.
        value: u32,
    },
    /// A way of packing, or a use of channels, that this tap does not follow.
    #[error(
        "offset {offset}: {what} on a multifd channel is not followed; use none, zlib or zstd as multifd-compression"
    )]
    Method {
        /// Of the packet.
        offset: u64,
        /// Which.
        what: &'static str,
    },
    /// Another way of packing than that of the packets before.
    #[error("offset {offset}: packed with {got}, the packets before with {before}")]
    Mixed {
        /// Of the packet.
        offset: u64,
        /// This one's.
        got: &'static str,
        /// Theirs.
        before: &'static str,
    },
    /// A number of a packet's header over its bound.
    #[error("offset {offset}: {what} {value:#x}, at most {most:#x}")]
    Bound {
        /// Of the packet.
        offset: u64,
        /// Which number.
        what: &'static str,
        /// What it says.
        value: u64,
        /// The bound.
        most: u64,
    },
    /// A size that does not fit the pages.
    #[error("offset {offset}: next_packet_size {size:#x} for {pages} pages with contents")]
    Size {
        /// Of the packet.
        offset: u64,
        /// What it says.
        size: u64,
        /// How many pages with contents.
        pages: u64,
    },
    /// A page of a block that no list has named, or beyond its end.
    #[error("offset {offset}: page at {address:#x} of RAM block {block:?}, which has {length:#x} bytes")]
    Page {
        /// Of the packet.
        offset: u64,
        /// Where the page is in the block.
        address: u64,
        /// The block's name.
        block: String,
        /// Bytes of the block; 0 when it is not known.
        length: u64,
    },
    /// A packet's number that is not greater than the one before on the same channel.
    #[error("offset {offset}: packet number {number}, after {before} on the same channel")]
    Number {
        /// Of the packet.
        offset: u64,
        /// Its number.
        number: u64,
        /// The one before.
        before: u64,
    },
    /// A channel that there is already.
    #[error("channel {id} is there twice: connections {first} and {second}")]
    Twice {
        /// The channel.
        id: u8,
        /// The connection that came first.
        first: u16,
        /// The one that came second.
        second: u16,
    },
    /// A channel that came when its secondary had the image already.
    #[error("channel {id} is late: the secondary has taken the first image without it")]
    Late {
        /// The channel.
        id: u8,
    },
    /// A channel of another guest.
    #[error("channel {id} is of another session: UUID {got}, the session's is {expected}")]
    Foreign {
        /// The channel.
        id: u8,
        /// Its UUID.
        got: String,
        /// The session's.
        expected: String,
    },
    /// The primary uses channels, and none, or not all of them, are there.
    #[error("the primary flushes its multifd channels, and channel {id} is missing (there are {there})")]
    Missing {
        /// The first one that is not there.
        id: u8,
        /// How many are.
        there: usize,
    },
    /// A channel that has not had as many SYNCs as the main connection has flush marks.
    #[error("channel {id} has had {syncs} SYNCs, the main connection {flushes} flush marks")]
    Sync {
        /// The channel.
        id: u8,
        /// Its SYNCs.
        syncs: u64,
        /// The marks.
        flushes: u64,
    },
    /// Numbers of packets that are missing, or there twice, over all channels.
    #[error(
        "{packets} packets came on all channels, their numbers go up to {last}: packets or a whole channel are missing, or some are there twice"
    )]
    Numbers {
        /// How many packets.
        packets: u64,
        /// The greatest number.
        last: u64,
    },
    /// More connections than a session can have.
    #[error("connection {connection}: a session has a main connection and at most {MOST_CHANNELS} channels")]
    Many {
        /// Its number in order of arrival.
        connection: u16,
    },
    /// A secondary's bytes on a channel.
    #[error("{bytes} bytes from the secondary on a multifd channel, where it never sends any")]
    Answer {
        /// How many.
        bytes: u64,
    },
    /// A second connection that begins like no channel.
    #[error(
        "connection {connection} begins with {head:02x?}: neither a multifd channel nor, the main one being there, anything else"
    )]
    Strange {
        /// Its number in order of arrival.
        connection: u16,
        /// Its first bytes.
        head: Vec<u8>,
    },
}
