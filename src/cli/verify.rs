//! `xen-replicate verify`.

use super::stream_options::StreamArgs;
use crate::inspect::progress::Progress;
use crate::inspect::verify::{Options, Report, verify};
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
    /// Pass what a receiver must ignore: padding and reserved fields that are not zero, octets behind the end
    #[arg(long)]
    lenient: bool,
    /// Report every finding that framing allows to reach, not just up to the first error
    #[arg(long)]
    all: bool,
    /// Ask for a proper end also of a checkpointed stream
    #[arg(long)]
    complete: bool,
}

/// Runs the command; true for a valid stream.
pub fn run(args: &Args) -> io::Result<bool> {
    let options = Options {
        start: args.stream.start(),
        mode: args.stream.mode(),
        lenient: args.lenient,
        all: args.all,
        complete: args.complete,
        ..Options::default()
    };
    let input = args.stream.open()?;
    let mut progress = Progress::new(input.len());
    let report = verify(input, &options, &mut progress).map_err(|error| args.stream.named(error))?;
    drop(progress);
    let mut out = BufWriter::new(io::stdout().lock());
    if args.json {
        serde_json::to_writer_pretty(&mut out, &report)?;
        writeln!(out)?;
    } else {
        text(&report, &mut out)?;
    }
    out.flush()?;
    Ok(report.valid)
}

fn text(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    for finding in &report.findings {
        writeln!(out, "{finding}")?;
    }
    if report.left_out > 0 {
        writeln!(out, "{} more findings are left out", report.left_out)?;
    }
    let verdict = if report.valid { "valid" } else { "NOT valid" };
    let start = report.start.filter(|&start| start != report.mode).map_or(String::new(), |start| format!(" {start}"));
    writeln!(
        out,
        "{verdict}: {}{start} stream, {} records, {} checkpoints, {} octets",
        report.mode, report.records, report.checkpoints, report.octets
    )
}
