//! `xen-replicate info`.

use super::output::print;
use super::stream_options::StreamArgs;
use crate::inspect::info::info;
use crate::inspect::progress::Progress;
use crate::inspect::recording::{self, Source};
use crate::inspect::verify::Options;
use clap::Args as ClapArgs;
use std::io;

const EXAMPLES: &str = "\
Examples:
  xen-replicate info fixtures/xen/4.17.7stock-hvm64-live.xz
  xen-replicate info --json guest.save | jq .fits";

/// Options of the command.
#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    stream: StreamArgs,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// Runs the command; true for a valid stream.
pub fn run(args: &Args) -> io::Result<bool> {
    let input = match recording::recognise(args.stream.open()?).map_err(|error| args.stream.named(error))? {
        Source::Stream(input) => input,
        Source::Primary(_) | Source::Recording(_) => {
            let text = format!("{}: a session of COLO: stats and verify tell of it", args.stream.file.display());
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
    };
    let options = Options { start: args.stream.start(), mode: args.stream.mode(), ..Options::default() };
    let mut progress = Progress::new(input.len());
    let info = info(input, &options, &mut progress).map_err(|error| args.stream.named(error))?;
    drop(progress);
    print(&info, args.json, |info, out| info.write_text(out))?;
    Ok(info.valid)
}
