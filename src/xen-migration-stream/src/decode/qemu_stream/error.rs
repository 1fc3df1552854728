//! What is wrong with a migration stream.
#![forbid(unsafe_code)]

use thiserror::Error;

/// Why a stream cannot be followed. Every `offset` counts bytes of the stream's direction from its start.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum WalkError {
    /// The first bytes are not `QEVM`.
    #[error("offset {offset}: magic {value:#x}, expected 0x5145564d (QEVM)")]
    Magic {
        /// Of the magic.
        offset: u64,
        /// What stands there.
        value: u32,
    },
    /// Not version 3.
    #[error("offset {offset}: stream version {value}, expected 3")]
    Version {
        /// Of the version.
        offset: u64,
        /// What stands there.
        value: u32,
    },
    /// A byte that begins no unit.
    #[error("offset {offset}: {value:#x} begins no unit")]
    Unit {
        /// Of the byte.
        offset: u64,
        /// Its value.
        value: u8,
    },
    /// A section that is sent bit by bit and is not RAM: nobody but its device knows where it ends.
    #[error("offset {offset}: section {name:?} is sent in parts and is not \"ram\"")]
    Parts {
        /// Of the section.
        offset: u64,
        /// Its name.
        name: String,
    },
    /// A version of the RAM section other than 4.
    #[error("offset {offset}: RAM section of version {value}, expected 4")]
    RamVersion {
        /// Of the section.
        offset: u64,
        /// The version.
        value: u32,
    },
    /// A section number that nobody has started.
    #[error("offset {offset}: section id {id} was never started")]
    SectionId {
        /// Of the section.
        offset: u64,
        /// The number.
        id: u32,
    },
    /// A footer that is missing, or names another section.
    #[error("offset {offset}: no footer of section {id}, but {value:#x}")]
    Footer {
        /// Where it should be.
        offset: u64,
        /// The section.
        id: u32,
        /// What stands there: the mark, or another number.
        value: u32,
    },
    /// Flags of a page that do not go together, or that this decoder does not know.
    #[error("offset {offset}: page flags {flags:#x}")]
    Flags {
        /// Of the page's header.
        offset: u64,
        /// The flags.
        flags: u64,
    },
    /// A page of a block that no list has named, or behind its end.
    #[error("offset {offset}: page at {address:#x} of RAM block {block:?}, which has {length:#x} bytes")]
    Page {
        /// Of the page's header.
        offset: u64,
        /// Where the page is in the block.
        address: u64,
        /// The block's name; empty when none was ever named.
        block: String,
        /// Bytes of the block; 0 when it is not known.
        length: u64,
    },
    /// A list of RAM blocks whose lengths do not add up.
    #[error("offset {offset}: RAM block of {length:#x} bytes, {left:#x} of the sum are left")]
    BlockLength {
        /// Of the block in the list.
        offset: u64,
        /// Its length.
        length: u64,
        /// What the sum leaves for it.
        left: u64,
    },
    /// More RAM blocks than anybody has.
    #[error("offset {offset}: more than {most} RAM blocks")]
    Blocks {
        /// Of the block in the list.
        offset: u64,
        /// The bound.
        most: usize,
    },
    /// A packed page longer than packing can make it, or packed in an unknown way.
    #[error("offset {offset}: packed page: {value:#x}, at most {most:#x}")]
    Packed {
        /// Of the page's header.
        offset: u64,
        /// Its length or encoding.
        value: u64,
        /// The bound.
        most: u64,
    },
    /// A text or number of the configuration section out of bounds.
    #[error("offset {offset}: configuration: {what} {value:#x}")]
    Configuration {
        /// Of the unit.
        offset: u64,
        /// Which.
        what: &'static str,
        /// What stands there.
        value: u64,
    },
    /// A device's section where only RAM may be.
    #[error("offset {offset}: section {id} of a device among live RAM")]
    Device {
        /// Of the section.
        offset: u64,
        /// Its number.
        id: u32,
    },
    /// More bytes of device state than this decoder holds.
    #[error("offset {offset}: more than {most} bytes of device state")]
    TooMuch {
        /// Where the device state begins.
        offset: u64,
        /// The bound.
        most: usize,
    },
    /// Device state that does not end with its description.
    #[error("offset {offset}: {bytes} bytes of device state do not end with a description: {why}")]
    Description {
        /// Where the device state begins.
        offset: u64,
        /// Bytes of it.
        bytes: usize,
        /// What is in the way.
        why: &'static str,
    },
    /// The stream stopped in front of its device state.
    #[error("offset {offset}: the image stops in front of its device state")]
    NoDevices {
        /// Where it stopped.
        offset: u64,
    },
}
