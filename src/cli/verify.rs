//! `xen-replicate verify`.

use super::output::print;
use super::stream_options::StreamArgs;
use super::target::{HELP, resolve};
use crate::inspect::Input;
use crate::inspect::fit::{Fit, Guest, judge};
use crate::inspect::progress::Progress;
use crate::inspect::recording::{self, OneWay, Source};
use crate::inspect::session_stats::ConnectionStats;
use crate::inspect::verify::{Options, Report, verify};
use crate::stream::Mode;
use crate::tap::recording::Reader;
use crate::tap::{Direction, Form};
use clap::Args as ClapArgs;
use std::io::{self, BufWriter, Read, Write};

/// Options of the command.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Exit codes: 0 valid, with --for: it fits, with remarks or without; 1 not valid, with --for: it does not fit; 2 wrong usage, the stream or the \
target could not be read or asked.

Examples:
  xen-replicate verify fixtures/inputs/E5-tsc-mode-7.bin
  xen-replicate verify --all --deep guest.save
  xen-replicate verify --for xen-4.17 guest.save
  xen-replicate verify --for ssh:host-b guest.save")]
pub struct Args {
    #[command(flatten)]
    stream: StreamArgs,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
    /// Pass what a receiver must ignore: padding and reserved fields that are not zero, bytes behind the end
    #[arg(long)]
    lenient: bool,
    /// Report every finding that framing allows to reach, not just up to the first error
    #[arg(long)]
    all: bool,
    /// Ask for a proper end also of a checkpointed stream
    #[arg(long)]
    complete: bool,
    /// Read page contents too: page tables of PV guests, zeros, a digest of memory at each checkpoint
    #[arg(long)]
    deep: bool,
    #[arg(long = "for", value_name = "TARGET", help = HELP, conflicts_with_all = ["deep", "complete"])]
    target: Option<String>,
}

/// Runs the command; true for a valid stream.
pub fn run(args: &Args) -> io::Result<bool> {
    let options = Options {
        start: args.stream.start(),
        mode: args.stream.mode(),
        lenient: args.lenient,
        all: args.all,
        complete: args.complete,
        deep: args.deep,
        ..Options::default()
    };
    if let Some(target) = &args.target {
        return fits(args, target, &options);
    }
    let reports = match recording::recognise(args.stream.open()?).map_err(|error| args.stream.named(error))? {
        Source::Stream(input) => vec![one(args, input, &options)?],
        Source::Primary(mut reader) => {
            vec![recording::verify_primary(&mut reader).map_err(|error| args.stream.named(error))?]
        }
        Source::Recording(reader) => recorded(args, args.stream.recording(reader)?, &options)?,
    };
    let mut out = BufWriter::new(io::stdout().lock());
    for report in &reports {
        if args.json {
            serde_json::to_writer_pretty(&mut out, report)?;
            writeln!(out)?;
        } else {
            text(report, &mut out)?;
        }
    }
    out.flush()?;
    Ok(reports.iter().all(|report| report.valid))
}

/// `--for`: true where the target takes it.
fn fits(args: &Args, target: &str, options: &Options) -> io::Result<bool> {
    let input = args.stream.open()?;
    let mut progress = Progress::new(input.len());
    let guest = Guest::read(input, options, &mut progress).map_err(|error| args.stream.named(error))?;
    let fit = judge(&guest, &resolve(target, &guest.disk_paths())?);
    print(&fit, args.json, Fit::write_text)?;
    Ok(fit.fits())
}

fn one(args: &Args, input: Input, options: &Options) -> io::Result<Report> {
    let mut progress = Progress::new(input.len());
    verify(input, options, &mut progress).map_err(|error| args.stream.named(error))
}

/// A recording: the session as a whole, and of libxl's each direction by itself too.
fn recorded(args: &Args, mut reader: Reader<Box<dyn Read + Send>>, options: &Options) -> io::Result<Vec<Report>> {
    let mut reports = vec![recording::verify(&mut reader).map_err(|error| args.stream.named(error))?];
    if reader.form() == Form::Libxl {
        for (direction, mode) in [(Direction::Forward, Mode::Colo), (Direction::Back, Mode::Back)] {
            let reader = args.stream.recording(args.stream.open()?.into_reader())?;
            let input = Input::Compressed(Box::new(OneWay::new(reader, direction)));
            reports.push(one(args, input, &Options { mode: Some(mode), start: None, ..*options })?);
        }
    }
    Ok(reports)
}

fn text(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    for finding in &report.findings {
        writeln!(out, "{finding}")?;
    }
    if report.left_out > 0 {
        writeln!(out, "{} more findings are left out", report.left_out)?;
    }
    if let Some(foreign) = &report.foreign {
        writeln!(out, "{foreign}")?;
    }
    if let Some(container) = &report.container {
        writeln!(out, "{container}")?;
    }
    if let Some(deep) = &report.deep {
        writeln!(out, "{deep}")?;
    }
    for line in &report.connections {
        let ConnectionStats { bytes, full, xbzrle, zero, packets, syncs, .. } = line;
        let name = line.name();
        let packets = if line.is_main { String::new() } else { format!("packets: {packets}, ") };
        let marks = if line.is_main { "flush marks" } else { "SYNCs" };
        let pages = full + xbzrle + zero;
        writeln!(out, "{name}: {bytes} bytes, {packets}pages: {pages} ({zero} zero), {marks}: {syncs}")?;
    }
    let verdict = if report.valid { "valid" } else { "NOT valid" };
    let start = report.start.filter(|&start| start != report.mode).map_or(String::new(), |start| format!(" {start}"));
    writeln!(
        out,
        "{verdict}: {}{start} stream, {} records, {} checkpoints, {} bytes",
        report.mode, report.records, report.checkpoints, report.bytes
    )
}
