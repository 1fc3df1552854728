//! `xen-replicate diff`.

use super::image_options::{image, open, trouble};
use super::output::print;
use super::stream_options::TakenFor;
use super::target::host_info;
use crate::inspect::diff::{HostDiff, diff, diff_hosts};
use clap::Args as ClapArgs;
use std::io;
use std::path::PathBuf;
use xen_domain_image::Options;

/// Options of the command.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The first stream, or file of host-info: a file, or - for standard input; what is packed or piped is unpacked into a temporary file
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
    if let Some(other) = args.second.as_ref().filter(|_| args.checkpoints.is_none()) {
        match (host_info(&args.first)?, host_info(other)?) {
            (Some(first), Some(second)) => {
                let diff = diff_hosts(&first, &second)?;
                print(&diff, args.json, HostDiff::write_text)?;
                return Ok(diff.same);
            }
            (None, None) => {}
            (first, _) => {
                let (host, stream) = if first.is_some() { (&args.first, other) } else { (other, &args.first) };
                let text = format!(
                    "{} is a host-info file and {} is not: verify --for says whether one fits the other",
                    host.display(),
                    stream.display()
                );
                return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
            }
        }
    }
    let stream = open(&args.first)?;
    let second = args.second.as_ref().map(|path| Ok::<_, io::Error>((path, open(path)?))).transpose()?;
    let (path, other) = second.as_ref().map_or((&args.first, &stream), |(path, stream)| (*path, stream));
    let image = |path, stream, at: usize| {
        let checkpoint = args.checkpoints.as_ref().and_then(|both| both.get(at).copied());
        image(path, stream, &args.taken, Options { checkpoint, ..Options::default() })
    };
    let (first, second) = (image(&args.first, &stream, 0)?, image(path, other, 1)?);
    let diff = diff(&first, &second).map_err(|error| trouble(&args.first, error))?;
    print(&diff, args.json, |diff, out| diff.write_text(args.pages, out))?;
    Ok(diff.same)
}
