//! `xen-replicate dump`.

use super::stream_options::StreamArgs;
use crate::inspect::dump::{Options, dump};
use crate::inspect::progress::Progress;
use crate::stream::Severity;
use clap::Args as ClapArgs;
use std::io::{self, BufWriter, IsTerminal, Write};

/// Options of the command.
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(flatten)]
    stream: StreamArgs,
    /// Decode the bodies, below each line
    #[arg(short, long)]
    verbose: bool,
    /// One JSON object a line, with everything
    #[arg(long)]
    json: bool,
}

/// Runs the command; false when the stream has an error or cannot be followed to its end.
pub fn run(args: &Args) -> io::Result<bool> {
    let input = args.stream.open()?;
    let stdout = io::stdout();
    // A bar would fight with the lines for the terminal.
    let mut progress = if stdout.is_terminal() { Progress::none() } else { Progress::new(input.len()) };
    let mut out = BufWriter::with_capacity(1 << 16, stdout.lock());
    let options = Options { json: args.json, verbose: args.verbose };
    let dumped = dump(input, args.stream.framing(), options, &mut progress, &mut out);
    drop(progress);
    out.flush()?;
    let dumped = dumped.map_err(|error| args.stream.named(error))?;
    let Some(stopped) = dumped.stopped else { return Ok(!dumped.refused) };
    eprintln!("xen-replicate: {}: {stopped}", args.stream.file.display());
    Ok(!dumped.refused && stopped.problem.severity() == Severity::Remark)
}
