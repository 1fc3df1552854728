//! Options of the commands that take one image out of a stream.

use super::stream_options::{ModeArg, StartArg, StreamArgs};
use crate::inspect::seekable::Seekable;
use clap::Args;
use std::fs::{File, OpenOptions};
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
    /// What the stream is for, when it is not to be recognised
    #[arg(long, value_enum, value_name = "MODE")]
    pub mode: Option<ModeArg>,
    /// The layer of the first octet, when it is not to be recognised
    #[arg(long, value_enum, value_name = "LAYER")]
    pub start: Option<StartArg>,
}

impl ImageArgs {
    /// Opens it; one that a receiver refuses only where that does not matter.
    pub fn open(&self, strict: bool) -> io::Result<Image> {
        let Seekable { file, base, start } = Seekable::open(&self.file).map_err(|error| self.named(error))?;
        let stream = StreamArgs { file: self.file.clone(), mode: self.mode, start: self.start };
        let options =
            Options { start: stream.start().or(start), mode: stream.mode(), checkpoint: self.checkpoint, base, strict };
        Image::open(file, &options).map_err(|error| self.trouble(error))
    }

    /// The error with the file's name.
    pub fn trouble(&self, error: ImageError) -> io::Error {
        match error {
            ImageError::Io(error) => self.named(error),
            error => self.named(io::Error::new(io::ErrorKind::InvalidData, error)),
        }
    }

    fn named(&self, error: io::Error) -> io::Error {
        io::Error::new(error.kind(), format!("{}: {error}", self.file.display()))
    }
}

/// Makes the file that is written to, which must not be there: nothing is overwritten without a word.
pub fn create(path: &Path, overwrite: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).read(true);
    if overwrite {
        options.create(true).truncate(true)
    } else {
        options.create_new(true)
    };
    options.open(path).map_err(|error| {
        let way_out = if error.kind() == io::ErrorKind::AlreadyExists { " (--overwrite replaces it)" } else { "" };
        io::Error::new(error.kind(), format!("{}: {error}{way_out}", path.display()))
    })
}
