//! Which image is asked for, and where the items of a stream stand.

use xen_migration_stream::{Layer, Mode, Start};

/// Which image of which stream.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// The outermost layer; recognised when not given.
    pub start: Option<Start>,
    /// What the stream is for; recognised when not given.
    pub mode: Option<Mode>,
    /// The image at the end of this checkpoint, counted from 1; the last whole one when not given. Where a stream ends with END, that is one
    /// image more.
    pub checkpoint: Option<u64>,
    /// Where in the file the stream begins: not at its first byte where it is in somebody's container.
    pub base: u64,
    /// Refuse a stream that a receiver refuses before the end of the image. Otherwise all that can be found is taken as it is: a guest's memory
    /// is worth looking at, too, when a register is wrong.
    pub strict: bool,
}

/// What an item is, and whose, where there are several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RecordKey {
    /// The preamble of xl.
    XlPreamble,
    /// libxl's header.
    LibxlHeader,
    /// libxc's image header.
    ImageHeader,
    /// libxc's domain header.
    DomainHeader,
    /// A record.
    Record {
        /// Its layer.
        layer: Layer,
        /// Its type.
        type_id: u32,
        /// The vCPU's number; of a device model its id, and its index above 32 bits; else 0.
        id: u64,
    },
}

/// Where an item stands in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// What it is.
    pub key: RecordKey,
    /// Its first byte.
    pub offset: u64,
    /// All of its bytes, padding included.
    pub size: u64,
    /// The first byte of a record's body; of a header, its own.
    pub body: u64,
    /// Bytes of the body.
    pub length: u64,
}
