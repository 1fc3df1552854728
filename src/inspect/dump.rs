//! Prints a stream, one line an item.

use super::body;
use super::container::Container;
use super::filter::Filter;
use super::foreign::Foreign;
use super::input::Input;
use super::progress::Progress;
use super::summary::summary;
use super::text;
use super::walk::{Flow, walk};
use crate::stream::Layer;
use crate::stream::check::{Checker, Parsed};
use crate::stream::error::{Severity, StreamError};
use crate::stream::framer::{Item, Options as FramerOptions, What, record_name};
use crate::stream::reader::ReadError;
use crate::stream::{libxc, libxl};
use serde::Serialize;
use std::io::{self, Write};

/// A terminal's bold, dim, cyan, yellow and red, which are readable on light and on dark.
const HEADING: &str = "1";
const ASIDE: &str = "2";
const NAME: &str = "36";
const REMARK: &str = "33";
const ERROR: &str = "31";

/// How to print.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// One JSON object a line, with everything.
    pub json: bool,
    /// Bodies decoded, below each line.
    pub verbose: bool,
    /// Text in a terminal's colours.
    pub color: bool,
}

/// How a dump ended.
#[derive(Debug)]
pub struct Dumped {
    /// Whether an item was found that a receiver must refuse.
    pub refused: bool,
    /// Why the stream could not be followed to a proper end; a remark where a checkpointed stream just stops.
    pub stopped: Option<StreamError>,
    /// What the stream is in.
    pub container: Option<Container>,
    /// What stands where the stream could not be followed, if that can be told.
    pub foreign: Option<Foreign>,
}

/// Prints every item of a stream.
///
/// # Errors
/// The input cannot be read, or the output not written.
pub fn dump(
    input: Input,
    framing: FramerOptions,
    options: Options,
    progress: &mut Progress,
    out: &mut dyn Write,
) -> io::Result<Dumped> {
    dump_some(input, framing, options, Filter::default(), progress, out)
}

/// Prints the items of a stream that are wanted. All are checked.
///
/// # Errors
/// As [`dump`].
pub fn dump_some(
    input: Input,
    framing: FramerOptions,
    options: Options,
    filter: Filter,
    progress: &mut Progress,
    out: &mut dyn Write,
) -> io::Result<Dumped> {
    let framing = FramerOptions { skip_contents: true, ..framing };
    let mut dumper = Dumper { filter, ..Dumper::new(framing, options) };
    let mut written = dumper.heading(out);
    let walked = walk(input, framing, progress, &mut |item| {
        if written.is_ok() {
            written = dumper.item(item, out);
        }
        if written.is_ok() { Flow::Next } else { Flow::Stop }
    });
    written?;
    let stopped = match walked.end {
        Ok(()) => None,
        Err(ReadError::Io { error, .. }) => return Err(error),
        Err(ReadError::Stream(error)) => Some(walked.framer.judge_end(error)),
    };
    Ok(Dumped { refused: dumper.refused, stopped, container: walked.container, foreign: walked.foreign })
}

/// Prints items as they come.
#[derive(Debug)]
pub struct Dumper {
    options: Options,
    checker: Checker,
    context: body::Context,
    filter: Filter,
    refused: bool,
}

impl Dumper {
    /// A printer before the first item.
    pub fn new(framing: FramerOptions, options: Options) -> Self {
        let context = body::Context::default();
        Dumper { options, checker: Checker::new(framing.mode), context, filter: Filter::default(), refused: false }
    }

    /// Writes the heading of the columns.
    ///
    /// # Errors
    /// The writer's.
    pub fn heading(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.options.json {
            return Ok(());
        }
        let heading = format!(
            "{:>6} {:>12} {:<5} {:>5} {:<26} {:>10}  summary",
            "index", "offset", "layer", "round", "type", "length"
        );
        writeln!(out, "{}", self.painted(HEADING, heading))
    }

    /// Writes one item.
    ///
    /// # Errors
    /// The writer's.
    pub fn item(&mut self, item: &Item<'_>, out: &mut dyn Write) -> io::Result<()> {
        let mut problems = Vec::new();
        let parsed = self.checker.item(item, &mut |error| problems.push(error));
        self.context.learn(item, parsed.as_ref());
        self.refused |= problems.iter().any(StreamError::is_refused);
        let (name, type_id, length) = identity(item);
        if !self.filter.takes(item, parsed.as_ref(), &name, type_id) {
            return Ok(());
        }
        if self.options.json {
            return self.json(item, parsed.as_ref(), &problems, out);
        }
        let summary = summary(item, parsed.as_ref());
        let name = self.painted(NAME, format!("{name:<26}"));
        let layer = self.painted(ASIDE, format!("{:<5}", item.layer.name()));
        let line =
            format!("{:>6} {:>12} {layer} {:>5} {name} {length:>10}  {summary}", item.index, item.offset, item.round);
        writeln!(out, "{}", line.trim_end())?;
        for problem in &problems {
            let paint = if severity(problem) == "remark" { REMARK } else { ERROR };
            let text = format!("{:>6} {}: {}", "!", severity(problem), problem.problem);
            writeln!(out, "{}", self.painted(paint, text))?;
        }
        if self.options.verbose {
            let body = body::decoded(item, parsed.as_ref(), &self.context).shown();
            if !body.is_null() {
                text::write(out, &body, 8)?;
            }
        }
        Ok(())
    }

    fn painted(&self, paint: &str, text: String) -> String {
        if self.options.color { format!("\x1b[{paint}m{text}\x1b[0m") } else { text }
    }

    fn json<'a>(
        &self,
        item: &Item<'a>,
        parsed: Option<&Parsed<'a>>,
        problems: &[StreamError],
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let (name, type_id, length) = identity(item);
        let problems = problems
            .iter()
            .map(|error| Problem { severity: severity(error), message: error.problem.to_string() })
            .collect();
        let line = Line {
            index: item.index,
            offset: item.offset,
            layer: item.layer.name(),
            name: &name,
            type_id,
            length,
            round: item.round,
            body: body::decoded(item, parsed, &self.context),
            problems,
        };
        serde_json::to_writer(&mut *out, &line)?;
        out.write_all(b"\n")
    }
}

/// A line of JSON.
#[derive(Serialize)]
struct Line<'a> {
    index: u64,
    offset: u64,
    layer: &'static str,
    #[serde(rename = "type")]
    name: &'a str,
    type_id: Option<u32>,
    length: u64,
    round: u64,
    body: body::Body<'a>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    problems: Vec<Problem>,
}

#[derive(Serialize)]
struct Problem {
    severity: &'static str,
    message: String,
}

const fn severity(error: &StreamError) -> &'static str {
    match error.problem.severity() {
        Severity::Remark => "remark",
        Severity::Tolerated => "tolerated",
        Severity::Error => "error",
    }
}

/// Name, type number and length of an item. Headers have no type number; their length is their size.
pub(super) fn identity(item: &Item<'_>) -> (String, Option<u32>, u64) {
    let name = match &item.what {
        What::XlPreamble(_) => "XL_PREAMBLE",
        What::LibxlHeader(_) => "LIBXL_HEADER",
        What::ImageHeader(_) => "LIBXC_IMAGE_HEADER",
        What::DomainHeader(_) => "LIBXC_DOMAIN_HEADER",
        What::Handshake(..) => "MIGRATION_HANDSHAKE",
        What::Record(frame) => {
            let type_id = frame.header.type_id;
            let known = match item.layer {
                Layer::Libxl => libxl::type_name(type_id).is_some(),
                Layer::Back => true,
                _ => libxc::type_name(type_id).is_some(),
            };
            let name = record_name(item.layer, type_id);
            let name = if known && !name.starts_with("a ") { name.to_owned() } else { format!("{type_id:#010x}") };
            return (name, Some(type_id), frame.header.length.into());
        }
        _ => "UNKNOWN",
    };
    (name.to_owned(), None, item.size)
}
