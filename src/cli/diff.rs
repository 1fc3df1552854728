//! `xen-replicate diff`.

use super::image_options::{image, open, trouble};
use super::output::print;
use super::stream_options::TakenFor;
use crate::inspect::diff::diff;
use crate::inspect::seekable::Seekable;
use clap::Args as ClapArgs;
use std::io;
use std::path::PathBuf;
use xen_domain_image::Options;

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
    #[command(flatten)]
    taken: TakenFor,
    /// List the pages that are different
    #[arg(long, conflicts_with = "json")]
    pages: bool,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// Runs the command; false when something is different.
pub fn run(args: &Args) -> io::Result<bool> {
    let stream = open(&args.first)?;
    let (path, other) = match &args.second {
        Some(path) => (path, open(path)?),
        None => (&args.first, Seekable { file: stream.file.try_clone()?, ..stream }),
    };
    let image = |path, stream, at: usize| {
        let checkpoint = args.checkpoints.as_ref().and_then(|both| both.get(at).copied());
        image(path, stream, &args.taken, Options { checkpoint, ..Options::default() })
    };
    let (first, second) = (image(&args.first, stream, 0)?, image(path, other, 1)?);
    let diff = diff(&first, &second).map_err(|error| trouble(&args.first, error))?;
    print(&diff, args.json, |diff, out| diff.write_text(args.pages, out))?;
    Ok(diff.same)
}
