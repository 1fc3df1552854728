//! `xen-replicate dump`.

use super::screen::{Color, Screen};
use super::stream_options::StreamArgs;
use crate::inspect::Input;
use crate::inspect::dump::{Options, dump_some};
use crate::inspect::filter::{Filter, Span, TypeIs, number};
use crate::inspect::progress::Progress;
use crate::inspect::recording::{self, OneWay, Source};
use crate::stream::framer::Options as FramerOptions;
use crate::stream::{Layer, Mode, Severity};
use crate::tap::recording::Reader;
use crate::tap::{Direction, Form};
use clap::{Args as ClapArgs, ValueEnum};
use std::io::{self, IsTerminal, Read};

const EXAMPLES: &str = "\
On a terminal the output goes through PAGER (less without one; none where it is empty or cat), in colours unless NO_COLOR is set.

Examples:
  xen-replicate dump fixtures/xen/4.17.7stock-hvm64-live.xz
  xen-replicate dump -v --type HVM_PARAMS --type X86_TSC_INFO guest.save
  xen-replicate dump --round 3- fixtures/xen/4.17.5shadow-pv48-remus.xz
  xen-replicate dump --json --pfn 0x10-0x1f guest.save | jq .offset";

/// Options of the command.
#[derive(Debug, ClapArgs)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    stream: StreamArgs,
    /// Decode the bodies, below each line
    #[arg(short, long)]
    verbose: bool,
    /// One JSON object a line, with everything
    #[arg(long)]
    json: bool,
    /// When to colour
    #[arg(long, value_enum, value_name = "WHEN", default_value = "auto", conflicts_with = "json")]
    color: Color,
    /// Print to the terminal directly
    #[arg(long)]
    no_pager: bool,
    /// Only records of this type: PAGE_DATA, HVM_CONTEXT ... as dump names them, or a number
    #[arg(long = "type", value_name = "TYPE", help_heading = "What to print")]
    types: Vec<TypeIs>,
    /// Only what this layer wrote
    #[arg(long = "layer", value_enum, value_name = "LAYER", help_heading = "What to print")]
    layers: Vec<LayerArg>,
    /// Only these rounds: 3, 3-7 or 3-; 0 is the first image
    #[arg(long = "round", value_name = "ROUNDS", help_heading = "What to print")]
    rounds: Vec<Span>,
    /// Only from this offset on
    #[arg(long, value_name = "OFFSET", value_parser = number, help_heading = "What to print")]
    from: Option<u64>,
    /// Only up to this offset
    #[arg(long, value_name = "OFFSET", value_parser = number, help_heading = "What to print")]
    to: Option<u64>,
    /// Only records about these pages: 0x10, 0x10-0x1f or 0x10-
    #[arg(long = "pfn", value_name = "PFNS", help_heading = "What to print")]
    pfns: Vec<Span>,
}

/// A layer of the stream.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum LayerArg {
    /// The preamble and the handshake
    Xl,
    /// libxl's records
    Libxl,
    /// libxc's records
    Libxc,
    /// A back channel
    Back,
}

impl Args {
    fn filter(&self) -> Filter {
        let layer = |layer: &LayerArg| match layer {
            LayerArg::Xl => Layer::Xl,
            LayerArg::Libxl => Layer::Libxl,
            LayerArg::Libxc => Layer::Libxc,
            LayerArg::Back => Layer::Back,
        };
        Filter {
            types: self.types.clone(),
            layers: self.layers.iter().map(layer).collect(),
            rounds: self.rounds.clone(),
            from: self.from,
            to: self.to,
            pfns: self.pfns.clone(),
        }
    }
}

/// Runs the command; false when the stream has an error or cannot be followed to its end.
pub fn run(args: &Args) -> io::Result<bool> {
    match recording::recognise(args.stream.open()?).map_err(|error| args.stream.named(error))? {
        Source::Stream(input) => one(args, input, args.stream.framing()),
        Source::Primary(mut reader) => {
            let mut out = Screen::new(!args.no_pager);
            let good = recording::dump_primary(&mut reader, args.json, args.verbose, &mut out);
            out.close()?;
            good.map_err(|error| args.stream.named(error))
        }
        Source::Recording(reader) => recorded(args, args.stream.recording(reader)?),
    }
}

/// A recording: a session of QEMU's event by event, of libxl's one direction behind the other.
fn recorded(args: &Args, mut reader: Reader<Box<dyn Read + Send>>) -> io::Result<bool> {
    if reader.form() != Form::Libxl {
        let mut out = Screen::new(!args.no_pager);
        let good = recording::dump(&mut reader, args.json, args.verbose, &mut out);
        out.close()?;
        return good.map_err(|error| args.stream.named(error));
    }
    let mut good = true;
    for (direction, mode) in [(Direction::Forward, Mode::Colo), (Direction::Back, Mode::Back)] {
        let reader = args.stream.recording(args.stream.open()?.into_reader())?;
        let input = Input::Compressed(Box::new(OneWay::new(reader, direction)));
        good &= one(args, input, FramerOptions { mode: Some(mode), ..FramerOptions::default() })?;
    }
    Ok(good)
}

fn one(args: &Args, input: Input, framing: FramerOptions) -> io::Result<bool> {
    // A bar would fight with the lines for the terminal.
    let mut progress = if io::stdout().is_terminal() { Progress::none() } else { Progress::new(input.len()) };
    let mut out = Screen::new(!args.no_pager);
    let options = Options { json: args.json, verbose: args.verbose, color: !args.json && args.color.is_wanted() };
    let dumped = dump_some(input, framing, options, args.filter(), &mut progress, &mut out);
    drop(progress);
    out.close()?;
    let dumped = dumped.map_err(|error| args.stream.named(error))?;
    let file = args.stream.file.display();
    if let Some(container) = &dumped.container {
        eprintln!("xen-replicate: {file}: {container}");
    }
    if let Some(stopped) = &dumped.stopped {
        eprintln!("xen-replicate: {file}: {stopped}");
    }
    if let Some(foreign) = &dumped.foreign {
        eprintln!("xen-replicate: {file}: {foreign}");
    }
    let Some(stopped) = dumped.stopped else { return Ok(!dumped.refused) };
    Ok(!dumped.refused && stopped.problem.severity() == Severity::Remark)
}
