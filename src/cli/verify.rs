//! `xen-replicate verify`.

use super::stream_options::StreamArgs;
use crate::inspect::Input;
use crate::inspect::progress::Progress;
use crate::inspect::recording::{self, OneWay, Source};
use crate::inspect::verify::{Options, Report, verify};
use crate::stream::Mode;
use crate::tap::recording::Reader;
use crate::tap::{Direction, Form};
use clap::Args as ClapArgs;
use std::io::{self, BufWriter, Read, Write};

/// Options of the command.
#[derive(Debug, ClapArgs)]
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
    let verdict = if report.valid { "valid" } else { "NOT valid" };
    let start = report.start.filter(|&start| start != report.mode).map_or(String::new(), |start| format!(" {start}"));
    writeln!(
        out,
        "{verdict}: {}{start} stream, {} records, {} checkpoints, {} bytes",
        report.mode, report.records, report.checkpoints, report.bytes
    )
}
