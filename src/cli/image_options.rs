//! Options of the commands that take images out of streams.

use super::stream_options::TakenFor;
use crate::inspect::seekable::Seekable;
use clap::Args;
use std::io;
use std::path::{Path, PathBuf};
use xen_domain_image::{Image, ImageError, Options};

/// Which image of which stream.
#[derive(Debug, Args)]
pub struct ImageArgs {
    /// The stream: a file, or - for standard input; what is packed or piped is unpacked into a temporary file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The image at the end of this checkpoint, counted from 1; the last whole one otherwise
    #[arg(long, value_name = "N")]
    pub checkpoint: Option<u64>,
    #[command(flatten)]
    taken: TakenFor,
}

impl ImageArgs {
    /// Opens it; with `strict` not one that a receiver refuses.
    pub fn open(&self, strict: bool) -> io::Result<Image> {
        self.image(&self.stream()?, strict)
    }

    /// The stream, and what is around it.
    pub fn stream(&self) -> io::Result<Seekable> {
        open(&self.file)
    }

    /// The image out of the stream, which [`ImageArgs::stream`] has opened.
    pub fn image(&self, stream: &Seekable, strict: bool) -> io::Result<Image> {
        image(&self.file, stream, &self.taken, Options { checkpoint: self.checkpoint, strict, ..Options::default() })
    }

    /// The error with the file's name.
    pub fn trouble(&self, error: ImageError) -> io::Error {
        trouble(&self.file, error)
    }
}

/// Opens a stream.
pub fn open(path: &Path) -> io::Result<Seekable> {
    Seekable::open(path).map_err(|error| named(path, error))
}

/// An image of a stream that is open.
pub fn image(path: &Path, stream: &Seekable, taken: &TakenFor, options: Options) -> io::Result<Image> {
    let start = taken.start().or(stream.start);
    let options = Options { start, mode: taken.mode(), base: stream.base, ..options };
    let file = stream.file.try_clone().map_err(|error| named(path, error))?;
    Image::open(file, &options).map_err(|error| trouble(path, error))
}

/// The error with the file's name.
pub fn trouble(path: &Path, error: ImageError) -> io::Error {
    match error {
        ImageError::Io(error) => named(path, error),
        error => named(path, io::Error::new(io::ErrorKind::InvalidData, error)),
    }
}

/// The system's error with the file's name.
pub fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
