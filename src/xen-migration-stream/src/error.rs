//! What can be wrong with a stream, as values.
//!
//! A [`StreamError`] says where (layer, item, absolute offset) and carries a [`Problem`] that says what. Problems are
//! sorted by what a receiver does with them, see [`Severity`].

use super::Layer;
use super::grammar::OrderError;
use super::handshake::Message;
use thiserror::Error;

/// How much a problem matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// Unusual, but within the specification.
    Remark,
    /// Against the specification, but in a place that a receiver must ignore (padding, reserved fields): a strict
    /// reader reports it, a lenient one passes it.
    Tolerated,
    /// A receiver must refuse the stream.
    Error,
}

/// A problem and its place.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{layer} {}offset {offset} ({offset:#x}): {problem}", ItemNumber(*.index))]
pub struct StreamError {
    /// The layer whose rule is broken.
    pub layer: Layer,
    /// The item's number in the stream (headers count, as in `dump`), when an item is concerned.
    pub index: Option<u64>,
    /// Offset of the item, or of the offending byte where one can be named, from the first byte of the stream.
    pub offset: u64,
    /// What is wrong.
    pub problem: Problem,
}

impl StreamError {
    /// Whether the stream merely ended too early.
    pub const fn is_truncation(&self) -> bool {
        matches!(self.problem, Problem::Frame(FrameError::Truncated { .. }))
    }

    /// Whether what follows in the stream can no longer be told apart into records.
    pub const fn is_fatal(&self) -> bool {
        matches!(self.problem, Problem::Frame(_))
    }
}

struct ItemNumber(Option<u64>);

impl std::fmt::Display for ItemNumber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(index) => write!(f, "record {index} at "),
            None => f.write_str("at "),
        }
    }
}

/// What is wrong, or worth a remark.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Problem {
    /// The stream cannot be cut into records from here on.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A record's body is not what its type asks for.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// A record stands where it may not.
    #[error(transparent)]
    Order(#[from] OrderError),
    /// A blob inside a record is not what it should be.
    #[cfg(feature = "decode")]
    #[error("{record}: {error}")]
    Content {
        /// The record's name.
        record: &'static str,
        /// What the decoder of the blob says.
        error: crate::decode::DecodeError,
    },
    /// What records carry does not go together, or a receiver or the hypervisor does not take it.
    #[cfg(feature = "decode")]
    #[error(transparent)]
    Contents(#[from] crate::contents::ContentProblem),
    /// Padding that is not zero.
    #[error("{record}: padding is not zero: byte {value:#04x}")]
    Padding {
        /// The record's name.
        record: &'static str,
        /// The first byte that is not zero.
        value: u8,
    },
    /// A reserved field or bit that is not zero.
    #[error("{record}: {field} is {value:#x}, must be zero")]
    Reserved {
        /// The record's or header's name.
        record: &'static str,
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// A type that this program does not know, of the sort that a receiver may skip.
    #[error("unknown optional record type {type_id:#010x}, {length} bytes, skipped")]
    UnknownOptional {
        /// The record's type.
        type_id: u32,
        /// Bytes of the body.
        length: u32,
    },
    /// A variable-sized record with no content, tolerated by the specification's erratum 1.
    #[error("{record}: zero content (erratum 1: written by Xen 4.6 to 4.8, ignored)")]
    ZeroContent {
        /// The record's name.
        record: &'static str,
    },
    /// A deprecated record.
    #[error("{record}: deprecated record")]
    Deprecated {
        /// The record's name.
        record: &'static str,
    },
    /// Bytes of the `xl migrate` handshake around the stream.
    #[error("xl migration handshake: {} bytes, {:?}", .0.wire_len(), .0.text())]
    Handshake(Message),
    /// A checkpointed stream that stops, as one does when its primary dies.
    #[error("the stream stops after checkpoint {checkpoint}; {torn} bytes of a torn one follow")]
    Stops {
        /// The number of the last whole checkpoint, counted from 1.
        checkpoint: u64,
        /// Bytes after its end.
        torn: u64,
    },
    /// A stream that was said to be checkpointed, and is not.
    #[error("no checkpoint in a stream that is taken for {mode}")]
    NoCheckpoint {
        /// What it is taken for.
        mode: &'static str,
    },
    /// The stream was made by the converter for streams of Xen 4.5 and earlier.
    #[error("converted from a legacy stream")]
    Converted,
    /// The stream holds no state for any vCPU.
    #[error("no {missing} record: the domain would have no vCPU state")]
    NoVcpuState {
        /// The record that would carry it.
        missing: &'static str,
    },
    /// A page-table type in the stream of a domain whose page tables Xen does not know.
    #[error("PAGE_DATA: pfn {pfn:#x} has type {page_type} in a stream of a HVM domain")]
    TableInHvm {
        /// The type.
        page_type: &'static str,
        /// The page.
        pfn: u64,
    },
    /// A record in an order that the text of the specification does not allow but that real savers write.
    #[error("{record} stands before {expected}: the specification asks for the reverse, Xen's own saver writes this")]
    UsualOrder {
        /// The record met.
        record: &'static str,
        /// The record that the specification wants before it.
        expected: &'static str,
    },
}

impl Problem {
    /// Whether a receiver can leave it to the hypervisor, which it has and `verify` has not.
    pub const fn is_hypervisors(&self) -> bool {
        match self {
            #[cfg(feature = "decode")]
            Problem::Contents(problem) => {
                matches!(problem.refused_by(), crate::contents::RefusedBy::Hypervisor)
            }
            _ => false,
        }
    }

    /// What a receiver makes of it.
    pub const fn severity(&self) -> Severity {
        match self {
            Problem::Frame(FrameError::BytesAfterEnd { .. }) => Severity::Tolerated,
            Problem::Frame(_) | Problem::Body(_) | Problem::Order(_) => Severity::Error,
            #[cfg(feature = "decode")]
            Problem::Content { .. } => Severity::Error,
            #[cfg(feature = "decode")]
            Problem::Contents(problem) => problem.severity(),
            Problem::Padding { .. } | Problem::Reserved { .. } => Severity::Tolerated,
            Problem::UnknownOptional { .. }
            | Problem::ZeroContent { .. }
            | Problem::Deprecated { .. }
            | Problem::Handshake(_)
            | Problem::Stops { .. }
            | Problem::Converted
            | Problem::NoVcpuState { .. }
            | Problem::NoCheckpoint { .. }
            | Problem::TableInHvm { .. }
            | Problem::UsualOrder { .. } => Severity::Remark,
        }
    }
}

/// Why a stream cannot be cut into records any further.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The stream ends inside an item, or where one must follow.
    #[error("{}", cut(what, *.needed, *.got))]
    Truncated {
        /// The item or the part of it.
        what: &'static str,
        /// Bytes that the item needs, as far as they could be known.
        needed: u64,
        /// Bytes that are there.
        got: u64,
    },
    /// Not a stream that this program knows.
    #[error("not a migration-v2 stream: it starts with {}", shown(.0))]
    UnknownStart([u8; 8]),
    /// What is around the stream is not what it should be. No reader of this crate says so: it is for who reads containers.
    #[error("{container}: {why}")]
    Container {
        /// What it is.
        container: &'static str,
        /// What is wrong with it, with the offending value.
        why: String,
    },
    /// The bytes of a legacy stream's start, which has a zero bit among the first 64.
    #[error("marker is {0:#018x}, not 0xffffffffffffffff: a stream of Xen 4.5 or earlier, or none at all")]
    Marker(u64),
    /// The xl magic is not there.
    #[error("xl magic is {0:02x?}, not \"Xen saved domain, xl format\"")]
    XlMagic([u8; 32]),
    /// The xl byte order word.
    #[error("xl byteorder is {0:#010x}, not 0x01020304: preambles of big-endian hosts are refused")]
    XlByteOrder(u32),
    /// Mandatory flags that are not known.
    #[error("xl mandatory_flags is {0:#x}: only bits 0 and 1 are known")]
    XlMandatoryFlags(u32),
    /// Not a v2 stream behind the preamble.
    #[error("xl mandatory_flags is {0:#x}: without bit 1 a legacy stream follows, which is not supported")]
    XlLegacy(u32),
    /// More optional data than this reader takes.
    #[error("xl optional_data_len is {length}, over the limit of {limit}")]
    XlOptionalLength {
        /// The length that the preamble claims.
        length: u32,
        /// The limit in force.
        limit: u32,
    },
    /// libxl's ident.
    #[error("libxl ident is {0:#018x}, not 0x4c6962786c466d74")]
    LibxlIdent(u64),
    /// libxl's version.
    #[error("libxl version is {0}, not 2")]
    LibxlVersion(u32),
    /// libxc's image id.
    #[error("libxc id is {0:#010x}, not 0x58454e46")]
    LibxcId(u32),
    /// libxc's version.
    #[error("libxc version is {0}, not 2 or 3")]
    LibxcVersion(u32),
    /// Big-endian records.
    #[error("options is {0:#x}: big-endian streams are refused, as Xen does")]
    BigEndian(u32),
    /// A record longer than any that this reader takes.
    #[error("record type {type_id:#010x}: body_length is {length} ({length:#x}), over the limit of {limit}")]
    BodyLength {
        /// The record's type.
        type_id: u32,
        /// The length that it claims.
        length: u32,
        /// The limit in force.
        limit: u32,
    },
    /// Something follows the last record.
    #[error("bytes follow the END record, beginning with {first:02x?}")]
    BytesAfterEnd {
        /// Up to 8 of them.
        first: Vec<u8>,
    },
}

/// Bytes as they are, and as text where they are some.
fn shown(bytes: &[u8; 8]) -> String {
    match bytes.iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace()) {
        true => format!("the text {:?}", String::from_utf8_lossy(bytes)),
        false => format!("{bytes:02x?}"),
    }
}

fn cut(what: &str, needed: u64, got: u64) -> String {
    match got {
        0 => format!("the stream ends where {what} must follow"),
        _ => format!("the stream ends inside {what}: {needed} bytes expected, {got} there"),
    }
}

/// Why a record's body is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BodyError {
    /// A body of another size than the type has.
    #[error("{record}: body_length is {got}, not {expected}")]
    Size {
        /// The record's name.
        record: &'static str,
        /// The size that the type asks for.
        expected: u64,
        /// The size that is there.
        got: u64,
    },
    /// A body too short for its fixed part.
    #[error("{record}: body_length is {got}, at least {least} needed")]
    TooShort {
        /// The record's name.
        record: &'static str,
        /// The least size.
        least: u64,
        /// The size that is there.
        got: u64,
    },
    /// A body that is not a whole number of entries.
    #[error("{record}: body_length is {got}, not a multiple of {unit}")]
    NotMultiple {
        /// The record's name.
        record: &'static str,
        /// Bytes of one entry.
        unit: u64,
        /// The size that is there.
        got: u64,
    },
    /// A record without content where there must be some.
    #[error("{record}: no content")]
    Empty {
        /// The record's name.
        record: &'static str,
    },
    /// A PAGE_DATA record without pages.
    #[error("PAGE_DATA: count is 0")]
    NoPages,
    /// More entries than the body has room for, also where the product would overflow 32 bits.
    #[error("{record}: count is {count}, the body of {length} bytes has room for {room}")]
    Count {
        /// The record's name.
        record: &'static str,
        /// The count that it claims.
        count: u32,
        /// Bytes of the body.
        length: u64,
        /// The most entries that would fit.
        room: u64,
    },
    /// A mandatory type that is not known.
    #[error("unknown mandatory record type {type_id:#010x}, {length} bytes")]
    UnknownMandatory {
        /// The record's type.
        type_id: u32,
        /// Bytes of the body.
        length: u32,
    },
    /// A page type that does not exist.
    #[error("PAGE_DATA: entry {entry} is {value:#018x}: page type {} does not exist", .value >> 60)]
    PageType {
        /// Index into the pfn array.
        entry: u32,
        /// The whole 64-bit entry.
        value: u64,
    },
    /// Page contents that do not match the entries.
    #[error("PAGE_DATA: body_length is {got}, but {count} entries, {pages} of them with contents, need {expected}")]
    PageDataSize {
        /// Entries in the record.
        count: u32,
        /// Entries whose type carries contents.
        pages: u64,
        /// The size that follows from them.
        expected: u64,
        /// The size that is there.
        got: u64,
    },
    /// A pfn that no x86 domain can have.
    #[error("{record}: entry {entry}: pfn {pfn:#x} is over the limit of {limit:#x}")]
    Pfn {
        /// The record's name.
        record: &'static str,
        /// Index into the array.
        entry: u64,
        /// The pfn.
        pfn: u64,
        /// The largest pfn accepted.
        limit: u64,
    },
    /// A domain type other than x86 PV and x86 HVM.
    #[error("domain header: type is {0:#x}, not 1 (x86 PV) or 2 (x86 HVM)")]
    DomainType(u32),
    /// A page size other than 4 KiB.
    #[error("domain header: page_shift is {0}, not 12")]
    PageShift(u16),
    /// An impossible pair of width and levels.
    #[error("X86_PV_INFO: guest_width {width} with pt_levels {levels}: only 8 with 4 and 4 with 3 exist")]
    PvInfo {
        /// Guest width in bytes.
        width: u8,
        /// Page-table levels.
        levels: u8,
    },
    /// A range that runs backwards.
    #[error("X86_PV_P2M_FRAMES: p2m_start_pfn {start:#x} is over p2m_end_pfn {end:#x}")]
    P2mRange {
        /// First pfn.
        start: u32,
        /// Last pfn.
        end: u32,
    },
    /// A number of frames that matches neither guest width.
    #[error(
        "X86_PV_P2M_FRAMES: {got} frames for pfns {start:#x} to {end:#x}, not {frames64} (64-bit) or {frames32} (32-bit)"
    )]
    P2mFrames {
        /// First pfn.
        start: u32,
        /// Last pfn.
        end: u32,
        /// Frames in the record.
        got: u64,
        /// Frames of 512 entries that the range touches.
        frames64: u64,
        /// Frames of 1024 entries that the range touches.
        frames32: u64,
    },
    /// A number of frames that the guest's width does not allow.
    #[error("X86_PV_P2M_FRAMES: {got} frames, a guest of width {width} has {expected} for this range")]
    P2mWidth {
        /// Frames in the record.
        got: u64,
        /// Frames that the range touches.
        expected: u64,
        /// Bytes of a guest word.
        width: u8,
    },
    /// An emulator that does not exist.
    #[error("{record}: emulator_id is {id}, not 0 (unknown), 1 (qemu-traditional) or 2 (qemu-upstream)")]
    EmulatorId {
        /// The record's name.
        record: &'static str,
        /// The id.
        id: u32,
    },
    /// The bytes behind the last NUL.
    #[error("EMULATOR_XENSTORE_DATA: not terminated: {bytes} bytes at offset {at} of the data lack their NUL")]
    XenstoreUnterminated {
        /// Offset in the data.
        at: u64,
        /// Bytes behind the last NUL.
        bytes: u64,
    },
    /// A key without a value.
    #[error("EMULATOR_XENSTORE_DATA: key {key:?} has no value: the number of strings is odd")]
    XenstoreOdd {
        /// The key.
        key: String,
    },
    /// A key that is not relative, or empty, or has a byte that xenstore does not allow.
    #[error("EMULATOR_XENSTORE_DATA: key {key:?} is {why}")]
    XenstoreKey {
        /// The key.
        key: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A control id that does not exist.
    #[error("CHECKPOINT_STATE: control_id is {0}, not 0 to 3")]
    ControlId(u32),
    /// The configuration does not fill the optional data.
    #[error("xl preamble: config_len is {config_len}, the optional data has {available} bytes for it")]
    ConfigLength {
        /// The length that is claimed.
        config_len: u32,
        /// Bytes behind the length field.
        available: u64,
    },
}
