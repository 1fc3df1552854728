//! `xen-replicate report`.

use super::output::OutputArgs;
use super::stream_options::StreamArgs;
use crate::inspect::progress::Progress;
use crate::inspect::report::{Report, report};
use crate::inspect::verify::Options;
use clap::Args as ClapArgs;
use std::io::{self, BufWriter, IsTerminal, Write};

const EXAMPLES: &str = "\
Examples:
  xen-replicate report guest.save -o guest.html
  xen-replicate report fixtures/xen/4.20stock-pvh32small-remus.xz -o r.html
  xen-replicate ctl web status --watch --json > web.log
  xen-replicate report web.log -o web.html";

/// Options of the command.
#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    stream: StreamArgs,
    #[command(flatten)]
    output: OutputArgs,
    /// What the page is made of as one JSON object, instead of the page
    #[arg(long)]
    json: bool,
}

/// Runs the command; false for a stream that is not valid, whose page is written all the same.
pub fn run(args: &Args) -> io::Result<bool> {
    let stdout = io::stdout();
    if args.output.output.is_none() && !args.json && stdout.is_terminal() {
        let text = "the page is for a browser: -o FILE, or standard output that is no terminal";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let input = args.stream.open()?;
    let options = Options { start: args.stream.start(), mode: args.stream.mode(), ..Options::default() };
    let mut progress = Progress::new(input.len());
    let file = args.stream.file.file_name().unwrap_or(args.stream.file.as_os_str()).to_string_lossy().into_owned();
    let report = report(input, file, &options, &mut progress).map_err(|error| args.stream.named(error))?;
    drop(progress);
    match &args.output.output {
        Some(path) => args.output.to_file(path, |file| write(&report, args.json, &mut BufWriter::new(file)))?,
        None => write(&report, args.json, &mut BufWriter::new(stdout.lock()))?,
    }
    Ok(report.is_good())
}

fn write(report: &Report, json: bool, out: &mut dyn Write) -> io::Result<()> {
    if json {
        serde_json::to_writer_pretty(&mut *out, report)?;
        writeln!(out)?;
    } else {
        report.write_page(out)?;
    }
    out.flush()
}
