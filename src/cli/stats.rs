//! `xen-replicate stats`.

use super::stream_options::StreamArgs;
use crate::inspect::progress::Progress;
use crate::inspect::stats::stats;
use clap::Args as ClapArgs;
use std::io::{self, BufWriter, Write};

/// Options of the command.
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(flatten)]
    stream: StreamArgs,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// Runs the command; false when the stream could not be followed to its end, or a receiver must refuse it.
pub fn run(args: &Args) -> io::Result<bool> {
    let input = args.stream.open()?;
    let mut progress = Progress::new(input.len());
    let stats = stats(input, args.stream.framing(), &mut progress).map_err(|error| args.stream.named(error))?;
    drop(progress);
    let mut out = BufWriter::new(io::stdout().lock());
    if args.json {
        serde_json::to_writer_pretty(&mut out, &stats)?;
        writeln!(out)?;
    } else {
        stats.write_text(&mut out)?;
    }
    out.flush()?;
    if let Some(stopped) = &stats.stopped {
        eprintln!("xen-replicate: {}: {stopped}", args.stream.file.display());
    }
    if let Some(refused) = &stats.refused {
        eprintln!("xen-replicate: {}: {refused}", args.stream.file.display());
    }
    Ok(stats.followed && stats.refused.is_none())
}
