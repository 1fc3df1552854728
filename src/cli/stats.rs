//! `xen-replicate stats`.

use super::output::print;
use super::stream_options::StreamArgs;
use crate::inspect::progress::Progress;
use crate::inspect::recording::{self, Source};
use crate::inspect::session_stats::SessionStats;
use crate::inspect::stats::stats;
use clap::Args as ClapArgs;
use std::io;

const EXAMPLES: &str = "\
Of a live save each pass over memory has a line below its round: .0 sent all of it, .1 what was written meanwhile, and so on. lz4 is what LZ4 would save of the pages that are not zero, by a sample of one in 16.

Examples:
  xen-replicate stats fixtures/helper/hvm-live-libxc.xz
  xen-replicate stats --json guest.save | jq .compressible_share";

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

/// A session of COLO.
fn session(args: &Args, stats: io::Result<SessionStats>) -> io::Result<bool> {
    let stats = stats.map_err(|error| args.stream.named(error))?;
    print(&stats, args.json, |stats, out| write!(out, "{stats}"))?;
    Ok(stats.errors == 0)
}

/// Runs the command; false when the stream could not be followed to its end, or a receiver must refuse it.
pub fn run(args: &Args) -> io::Result<bool> {
    let input = match recording::recognise(args.stream.open()?).map_err(|error| args.stream.named(error))? {
        Source::Stream(input) => input,
        Source::Primary(mut reader) => {
            return session(args, SessionStats::of(&mut |visit| recording::primary_events(&mut reader, visit)));
        }
        Source::Recording(reader) => {
            let mut reader = args.stream.recording(reader)?;
            return session(args, SessionStats::of(&mut |visit| recording::events(&mut reader, visit)));
        }
    };
    let mut progress = Progress::new(input.len());
    let stats = stats(input, args.stream.framing(), &mut progress).map_err(|error| args.stream.named(error))?;
    drop(progress);
    print(&stats, args.json, |stats, out| stats.write_text(out))?;
    if let Some(container) = &stats.container {
        eprintln!("xen-replicate: {}: {container}", args.stream.file.display());
    }
    if let Some(foreign) = &stats.foreign {
        eprintln!("xen-replicate: {}: {foreign}", args.stream.file.display());
    }
    if let Some(stopped) = &stats.stopped {
        eprintln!("xen-replicate: {}: {stopped}", args.stream.file.display());
    }
    if let Some(refused) = &stats.refused {
        eprintln!("xen-replicate: {}: {refused}", args.stream.file.display());
    }
    Ok(stats.followed && stats.refused.is_none())
}
