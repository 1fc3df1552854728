//! Options that all commands on streams share.

use crate::inspect::Input;
use crate::stream::framer::Options;
use crate::stream::{Mode, Start};
use crate::tap::recording::Reader;
use clap::{Args, ValueEnum};
use std::io::{self, Read};
use std::path::PathBuf;

/// Which stream, and what it is taken for.
#[derive(Debug, Args)]
pub struct StreamArgs {
    /// The stream: a file, or - for standard input; gzip, xz, zstd, bzip2 and lz4 are unpacked, images of libvirt and XAPI opened
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    #[command(flatten)]
    taken: TakenFor,
}

/// What a stream is taken for.
#[derive(Debug, Args)]
pub struct TakenFor {
    /// What the stream is for, when it is not to be recognised
    #[arg(long, value_enum, value_name = "MODE")]
    mode: Option<ModeArg>,
    /// The layer of the first byte, when it is not to be recognised
    #[arg(long, value_enum, value_name = "LAYER")]
    start: Option<StartArg>,
}

/// What a stream is for.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum ModeArg {
    /// One image
    Plain,
    /// Periodic checkpoints
    Remus,
    /// Lock-step
    Colo,
    /// A back channel
    Back,
}

/// Where a stream starts.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum StartArg {
    /// With the preamble of xl
    Xl,
    /// With libxl's header
    Libxl,
    /// With libxc's image header
    Libxc,
    /// With a record of a back channel
    Back,
}

impl StreamArgs {
    /// Opens the stream.
    pub fn open(&self) -> io::Result<Input> {
        Input::open(&self.file).map_err(|error| self.named(error))
    }

    /// The error with the file's name.
    pub fn named(&self, error: io::Error) -> io::Error {
        io::Error::new(error.kind(), format!("{}: {error}", self.file.display()))
    }

    /// Opens a recording.
    pub fn recording(&self, reader: Box<dyn Read + Send>) -> io::Result<Reader<Box<dyn Read + Send>>> {
        Reader::new(reader).map_err(|error| io::Error::other(format!("{}: {error}", self.file.display())))
    }

    /// How to cut it into items.
    pub fn framing(&self) -> Options {
        Options { start: self.start(), mode: self.mode(), ..Options::default() }
    }

    /// The mode asked for.
    pub fn mode(&self) -> Option<Mode> {
        self.taken.mode()
    }

    /// The start asked for.
    pub fn start(&self) -> Option<Start> {
        self.taken.start()
    }
}

impl TakenFor {
    /// The mode asked for.
    pub fn mode(&self) -> Option<Mode> {
        Some(match self.mode? {
            ModeArg::Plain => Mode::Plain,
            ModeArg::Remus => Mode::Remus,
            ModeArg::Colo => Mode::Colo,
            ModeArg::Back => Mode::Back,
        })
    }

    /// The start asked for.
    pub fn start(&self) -> Option<Start> {
        Some(match self.start? {
            StartArg::Xl => Start::Xl,
            StartArg::Libxl => Start::Libxl,
            StartArg::Libxc => Start::Libxc,
            StartArg::Back => Start::Back,
        })
    }
}
