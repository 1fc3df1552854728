//! `xen-replicate diff`.

use super::stream_options::{ModeArg, StartArg, StreamArgs};
use crate::inspect::diff::diff;
use crate::inspect::seekable::Seekable;
use clap::Args as ClapArgs;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use xen_domain_image::{Image, ImageError, Options};

/// Options of the command.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The first stream: a file, or - for standard input; what is packed or piped is unpacked into a temporary file
    #[arg(value_name = "FIRST")]
    first: PathBuf,
    /// The second; with --checkpoints the first again otherwise
    #[arg(value_name = "SECOND", required_unless_present = "checkpoints")]
    second: Option<PathBuf>,
    /// The images at the end of these checkpoints, counted from 1: of the first stream, of the second; the last whole ones otherwise
    #[arg(long, num_args = 2, value_names = ["N", "M"])]
    checkpoints: Option<Vec<u64>>,
    /// What the streams are for, when it is not to be recognised
    #[arg(long, value_enum, value_name = "MODE")]
    mode: Option<ModeArg>,
    /// The layer of the first octet, when it is not to be recognised
    #[arg(long, value_enum, value_name = "LAYER")]
    start: Option<StartArg>,
    /// List the pages that are different
    #[arg(long, conflicts_with = "json")]
    pages: bool,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// Runs the command; false when something is different.
pub fn run(args: &Args) -> io::Result<bool> {
    let checkpoint = |at: usize| args.checkpoints.as_ref().and_then(|both| both.get(at).copied());
    let stream = open(&args.first)?;
    let (path, other) = match &args.second {
        Some(path) => (path, open(path)?),
        None => (&args.first, Seekable { file: stream.file.try_clone()?, ..stream }),
    };
    let first = image(args, &args.first, stream, checkpoint(0))?;
    let second = image(args, path, other, checkpoint(1))?;
    let diff = diff(&first, &second).map_err(|error| named(&args.first, io::Error::other(error)))?;
    let mut out = BufWriter::new(io::stdout().lock());
    if args.json {
        serde_json::to_writer_pretty(&mut out, &diff)?;
        writeln!(out)?;
    } else {
        diff.write_text(args.pages, &mut out)?;
    }
    out.flush()?;
    Ok(diff.same)
}

fn open(path: &Path) -> io::Result<Seekable> {
    Seekable::open(path).map_err(|error| named(path, error))
}

fn image(args: &Args, path: &Path, opened: Seekable, checkpoint: Option<u64>) -> io::Result<Image> {
    let stream = StreamArgs { file: path.to_owned(), mode: args.mode, start: args.start };
    let start = stream.start().or(opened.start);
    let options = Options { start, mode: stream.mode(), checkpoint, base: opened.base, strict: false };
    Image::open(opened.file, &options).map_err(|error| match error {
        ImageError::Io(error) => named(path, error),
        error => named(path, io::Error::new(io::ErrorKind::InvalidData, error)),
    })
}

fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
