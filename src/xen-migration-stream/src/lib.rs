//! The formats: octets to records and back. No clock, no threads, no policy.
//!
//! A migration-v2 stream is one row of octets with up to three owners: `xl` writes a preamble, libxl a header and
//! records, and libxc its own headers and records in the middle. A second row, the back channel, runs from the
//! receiver to the sender. This room knows the shape of all four.
//!
//! * [`record`] is the frame that libxl and libxc share.
//! * [`xl`], [`libxl`], [`libxc`] and [`handshake`] hold one file a record family, parse and emit side by side.
//! * [`framer`] walks a stream item by item without any I/O; [`reader`] puts the three ways in around it: a slice
//!   (a mapped file), octets pushed in any split, and an exact pull from an [`std::io::Read`].
//! * [`grammar`] knows which record may follow which, per layer and mode.
//! * [`check`] holds one item against all rules at once.
//! * [`writer`] emits records, page contents as iovecs; [`handover`] makes the change of owner a move of a value.
//!
//! # Contract
//! No function here panics on any input. Nothing is allocated for a length that a stream merely claims: memory grows
//! with the octets that have arrived and is bounded by [`framer::Limits`]. What is written follows the specification
//! to the bit; what is read is taken as widely as the specification allows, and what was tolerated can be asked for.
//!
//! Sources: Xen's `docs/specs/libxc-migration-stream.pandoc` (revision 3), `docs/specs/libxl-migration-stream.pandoc`
//! (revision 2), and `tools/xl/xl.h` for the preamble.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod check;
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

/// The outermost layer of a stream: where its first octet belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
