//! Xen's migration-v2 stream: bytes to records and back. No clock, no threads, no policy.
//!
//! A migration-v2 stream is one row of bytes with up to three owners: `xl` writes a preamble, libxl a header and
//! records, and libxc its own headers and records in the middle. A second row, the back channel, runs from the
//! receiver to the sender. This crate knows the shape of all four.
//!
//! * [`record`] is the frame that libxl and libxc share.
//! * [`xl`], [`libxl`], [`libxc`] and [`handshake`] hold one file a record family, parse and emit side by side.
//! * [`framer`] walks a stream item by item without any I/O; [`reader`] puts the three ways in around it: a slice
//!   (a mapped file), bytes pushed in any split, and an exact pull from an [`std::io::Read`].
//! * [`grammar`] knows which record may follow which, per layer and mode.
//! * [`check`] holds one item against all rules at once; `contents` is what records carry, held against each other.
//! * [`writer`] emits records, page contents as iovecs; [`handover`] makes the change of owner a move of a value.
//! * `decode` gives the blobs inside records as typed values.
//!
//! # Read a saved domain
//! [`SliceReader`](reader::SliceReader) takes a file that is mapped or read, [`PullReader`](reader::PullReader) any
//! [`std::io::Read`]. [`Checker`](check::Checker) holds each item to the rules and gives its parsed body.
//!
//! ```
//! use xen_migration_stream::check::{Checker, Parsed};
//! use xen_migration_stream::framer::Options;
//! use xen_migration_stream::reader::PullReader;
//! use xen_migration_stream::libxc;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # use xen_migration_stream::{Mode, handover::LibxlWriter, libxc::{DomainHeader, DomainType, PageEntry, PageType, Record}};
//! # let path = std::env::temp_dir().join(format!("xen-migration-stream-{}.save", std::process::id()));
//! # let file = std::fs::File::create(&path)?;
//! # let libxl = LibxlWriter::start(file, Mode::Plain, Some("{}"))?;
//! # let mut libxc = libxl.libxc_context(3, DomainHeader::new(DomainType::Hvm, 4, 17))?;
//! # libxc.record(&Record::StaticDataEnd)?;
//! # let entries = [7, 8].map(|pfn| PageEntry { pfn, page_type: PageType::NOTAB });
//! # libxc.page_data(entries.iter().copied(), [&[1u8; 4096][..], &[2; 4096]])?;
//! # libxc.end()?.end()?;
//! let file = std::io::BufReader::new(std::fs::File::open(&path)?);
//! let mut reader = PullReader::new(file, Options::default());
//! let mut checker = Checker::new(None);
//! let mut pages = 0;
//! while let Some(item) = reader.next_item()? {
//!     if let Some(Parsed::Libxc(libxc::Record::PageData(data))) = checker.receive(&item)? {
//!         pages += data.entries().len();
//!     }
//! }
//! # std::fs::remove_file(&path)?;
//! assert_eq!(pages, 2);
//! # Ok(())
//! # }
//! ```
//!
//! # Filter and write again
//! [`RecordWriter::item`](writer::RecordWriter::item) writes an item as it was read: byte for byte, where the stream keeps to
//! the specification.
//!
//! ```
//! use xen_migration_stream::framer::Options;
//! use xen_migration_stream::reader::SliceReader;
//! use xen_migration_stream::writer::RecordWriter;
//! use xen_migration_stream::{Layer, What, libxc};
//!
//! /// The stream without libxc's TOOLSTACK records, which today's Xen ignores.
//! fn without_toolstack(stream: &[u8]) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
//!     let mut out = RecordWriter::new(Vec::new());
//!     for item in SliceReader::new(stream, Options::default()) {
//!         let item = item?;
//!         match item.what {
//!             What::Record(frame)
//!                 if item.layer == Layer::Libxc && frame.header.type_id == libxc::types::TOOLSTACK => {}
//!             _ => out.item(&item)?,
//!         }
//!     }
//!     Ok(out.into_inner())
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # use xen_migration_stream::{Mode, handover::LibxlWriter, libxc::{DomainHeader, DomainType, Record}};
//! # let make = |toolstack: bool| -> Result<Vec<u8>, Box<dyn std::error::Error>> {
//! #     let libxl = LibxlWriter::start(Vec::new(), Mode::Plain, Some("{}"))?;
//! #     let mut libxc = libxl.libxc_context(2, DomainHeader::new(DomainType::Hvm, 4, 8))?;
//! #     if toolstack { libxc.record(&Record::Toolstack(b"blob"))?; }
//! #     Ok(libxc.end()?.end()?)
//! # };
//! # let (stream, clean) = (make(true)?, make(false)?);
//! assert_eq!(without_toolstack(&stream)?, clean);
//! assert_eq!(without_toolstack(&clean)?, clean);
//! # Ok(())
//! # }
//! ```
//!
//! # Bytes that come in pieces
//! [`PushReader`](reader::PushReader) does no I/O: it fits behind a socket, an event loop or a test.
//!
//! ```
//! use xen_migration_stream::framer::Options;
//! use xen_migration_stream::reader::PushReader;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # use xen_migration_stream::{Mode, handover::LibxlWriter, libxc::{DomainHeader, DomainType}};
//! # let libxl = LibxlWriter::start(Vec::new(), Mode::Plain, None)?;
//! # let stream = libxl.libxc_context(2, DomainHeader::new(DomainType::Hvm, 4, 8))?.end()?.end()?;
//! let mut reader = PushReader::new(Options::default());
//! let mut items = Vec::new();
//! for piece in stream.chunks(7) {
//!     reader.push(piece);
//!     while let Some(item) = reader.next_item()? {
//!         items.push((item.offset, item.layer.name()));
//!     }
//! }
//! reader.finish()?;
//! assert_eq!(items[0], (0, "libxl"));
//! assert_eq!(items.len(), 6);
//! # Ok(())
//! # }
//! ```
//!
//! # Decode a HVM context
//! The body of libxc's HVM_CONTEXT record is a chain of entries, one for each device and vCPU.
//!
//! ```
//! # #[cfg(feature = "decode")]
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use xen_migration_stream::decode::hvm_context::HvmContext;
//! use xen_migration_stream::decode::hvm_entry::EntryBody;
//!
//! # use xen_migration_stream::decode::{hex::Hex, hvm_context::HvmContextBuilder};
//! # use xen_migration_stream::decode::hvm_entry::{HVM_FILE_MAGIC, Header, TscAdjust};
//! # let header = Header { magic: Hex(HVM_FILE_MAGIC), version: 1, changeset: Hex(u64::MAX), cpuid: Hex(0), gtsc_khz: 0 };
//! # let mut builder = HvmContextBuilder::new();
//! # builder.push_body(0, &EntryBody::Header(Box::new(header)))?;
//! # builder.push_body(1, &EntryBody::TscAdjust(Box::new(TscAdjust { tsc_adjust: Hex(5) })))?;
//! # let blob = builder.finish();
//! let context = HvmContext::parse(&blob)?;
//! for entry in &context.entries {
//!     if let Some(EntryBody::TscAdjust(msr)) = &entry.body {
//!         assert_eq!((entry.instance, msr.tsc_adjust.0), (1, 5));
//!     }
//! }
//! assert_eq!(context.entries.iter().filter_map(|entry| entry.name).collect::<Vec<_>>(), ["HEADER", "TSC_ADJUST", "END"]);
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "decode"))]
//! # fn main() {}
//! ```
//!
//! # Features
//! `decode`, on by default, is the module `decode` with its dependencies serde and serde_json.
//!
//! # Contract
//! No function here panics on any input. Nothing is allocated for a length that a stream merely claims: memory grows
//! with the bytes that have arrived and is bounded by [`framer::Limits`]. What is written follows the specification
//! to the bit; what is read is taken as widely as the specification allows, and what was tolerated can be asked for.
//!
//! Sources: Xen's `docs/specs/libxc-migration-stream.pandoc` (revision 3), `docs/specs/libxl-migration-stream.pandoc`
//! (revision 2), and `tools/xl/xl.h` for the preamble.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod check;
#[cfg(feature = "decode")]
pub mod contents;
#[cfg(feature = "decode")]
pub mod decode;
mod emit;
pub mod error;
pub mod framer;
pub mod grammar;
pub mod handover;
pub mod handshake;
pub mod libxc;
pub mod libxl;
pub mod reader;
pub mod record;
pub mod writer;
pub mod xl;

pub use error::{BodyError, FrameError, Problem, Severity, StreamError};
pub use framer::{Framer, Item, Limits, What};
pub use record::{Frame, RecordHeader};

use std::fmt;

/// Who wrote an item, and whose rules it follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Layer {
    /// The preamble of `xl`, and the fixed messages of `xl migrate` after the stream.
    Xl,
    /// libxl's header and records.
    Libxl,
    /// libxc's headers and records.
    Libxc,
    /// The receiver's answers: records of libxl and libxc without any header.
    Back,
}

impl Layer {
    /// The name used in messages and in JSON: `xl`, `libxl`, `libxc` or `back`.
    pub const fn name(self) -> &'static str {
        match self {
            Layer::Xl => "xl",
            Layer::Libxl => "libxl",
            Layer::Libxc => "libxc",
            Layer::Back => "back",
        }
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a stream is for. It decides who reads after a hand-over and how a stream may end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Mode {
    /// One image: `xl save`, `xl migrate`.
    Plain,
    /// Periodic checkpoints. libxc's bare COLO stream looks the same and is reported as this.
    Remus,
    /// Lock-step: a CHECKPOINT_STATE record of libxl stands between two checkpoints.
    Colo,
    /// A back channel.
    Back,
}

impl Mode {
    /// `plain`, `remus`, `colo` or `back`.
    pub const fn name(self) -> &'static str {
        match self {
            Mode::Plain => "plain",
            Mode::Remus => "remus",
            Mode::Colo => "colo",
            Mode::Back => "back",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The outermost layer of a stream: where its first byte belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Start {
    /// An `xl save` file or the input of `xl migrate-receive`, preamble included.
    Xl,
    /// A libxl stream.
    Libxl,
    /// A bare libxc stream, as `libxl-save-helper` reads and writes it.
    Libxc,
    /// A back channel, with or without the banner of `xl migrate-receive`.
    Back,
}

impl Start {
    /// The layer that the stream starts with.
    pub const fn layer(self) -> Layer {
        match self {
            Start::Xl => Layer::Xl,
            Start::Libxl => Layer::Libxl,
            Start::Libxc => Layer::Libxc,
            Start::Back => Layer::Back,
        }
    }

    /// `xl`, `libxl`, `libxc` or `back`.
    pub const fn name(self) -> &'static str {
        match self {
            Start::Xl => "xl",
            Start::Libxl => "libxl",
            Start::Libxc => "libxc",
            Start::Back => "back",
        }
    }
}

/// The README's example, held to compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
