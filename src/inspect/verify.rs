//! Holds a stream against every rule.

use super::container::Container;
use super::deep::Deep;
use super::foreign::Foreign;
use super::input::Input;
use super::progress::Progress;
use super::session_stats::ConnectionStats;
use super::walk::{Flow, walk};
use crate::stream::check::{Checker, Parsed};
use crate::stream::error::{Problem, Severity, StreamError};
use crate::stream::framer::{Framer, Item, Options as FramerOptions, What};
use crate::stream::reader::ReadError;
use crate::stream::{Layer, Limits, Mode, Start};
use serde::Serialize;
use std::io;

/// Most findings that a report holds. A hostile stream has one in every 8 bytes.
pub const MAX_FINDINGS: usize = 10_000;

/// What to verify and how strictly.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// The outermost layer, when it is not to be recognised.
    pub start: Option<Start>,
    /// What the stream is for, when it is not to be recognised.
    pub mode: Option<Mode>,
    /// Pass what a receiver must ignore: padding and reserved fields that are not zero, bytes behind the end.
    pub lenient: bool,
    /// Go on behind an error as far as framing allows.
    pub all: bool,
    /// Ask for a proper end also of a checkpointed stream.
    pub complete: bool,
    /// Read page contents too: see [`Deep`].
    pub deep: bool,
    /// Bounds.
    pub limits: Limits,
}

/// Something found in a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// `error` or `remark`.
    pub severity: &'static str,
    /// `xl`, `libxl`, `libxc` or `back`.
    pub layer: &'static str,
    /// The item's number, as in `dump`.
    pub record: Option<u64>,
    /// Offset from the start of the stream.
    pub offset: u64,
    /// What it is.
    pub message: String,
}

impl Finding {
    /// Whether it makes the stream not valid.
    pub fn is_error(&self) -> bool {
        self.severity == "error"
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.severity, self.layer)?;
        if let Some(record) = self.record {
            write!(f, " record {record}")?;
        }
        write!(f, " at offset {} ({:#x}): {}", self.offset, self.offset, self.message)
    }
}

/// The verdict over a stream.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// No errors.
    pub valid: bool,
    /// `plain`, `remus`, `colo` or `back`; `unknown` when not even the start could be recognised.
    pub mode: &'static str,
    /// The outermost layer; `None` when nothing could be recognised.
    pub start: Option<&'static str>,
    /// Records; headers, preamble and handshake do not count.
    pub records: u64,
    /// Whole checkpoints.
    pub checkpoints: u64,
    /// Bytes up to the end of the last item.
    pub bytes: u64,
    /// What the stream is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<Container>,
    /// What was found, in stream order: the first [`MAX_FINDINGS`], and the first error in any case.
    pub findings: Vec<Finding>,
    /// Findings beyond those.
    pub left_out: u64,
    /// What came on which connection of a COLO session that has more than one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub connections: Vec<ConnectionStats>,
    /// What stands where the stream could not be followed, if that can be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub foreign: Option<Foreign>,
    /// What pages hold, when it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deep: Option<Deep>,
}

/// Verifies a stream.
///
/// # Errors
/// The input cannot be read. What is wrong with its bytes is in the report.
pub fn verify(input: Input, options: &Options, progress: &mut Progress) -> io::Result<Report> {
    verify_with(input, options, false, progress, &mut |_, _| {})
}

/// The same, and shows every item that is verified; with `contents` the pages' contents too.
///
/// # Errors
/// As [`verify`].
pub(super) fn verify_with(
    input: Input,
    options: &Options,
    contents: bool,
    progress: &mut Progress,
    observe: &mut dyn FnMut(&Item<'_>, Option<&Parsed<'_>>),
) -> io::Result<Report> {
    let framing = FramerOptions {
        start: options.start,
        mode: options.mode,
        limits: options.limits,
        skip_contents: !(options.deep || contents),
    };
    let mut judge =
        Judge { options, checker: Checker::new(options.mode), findings: Vec::new(), left_out: 0, refused: false };
    let mut deep = options.deep.then(Deep::default);
    let mut records = 0;
    let walked = walk(input, framing, progress, &mut |item| {
        records += u64::from(matches!(item.what, What::Record(_)));
        judge.item(item, &mut deep, observe);
        if judge.refused && !options.all { Flow::Stop } else { Flow::Next }
    });
    let framer = walked.framer;
    match walked.end {
        Ok(()) => judge.proper_end(&framer),
        Err(ReadError::Io { error, .. }) => return Err(error),
        Err(ReadError::Stream(error)) if options.complete => judge.add(error),
        Err(ReadError::Stream(error)) => judge.add(framer.judge_end(error)),
    }
    Ok(Report {
        valid: !judge.refused,
        mode: framer.mode_name(),
        start: framer.start().map(Start::name),
        records,
        checkpoints: framer.checkpoints(),
        bytes: framer.offset(),
        container: walked.container,
        findings: judge.findings,
        left_out: judge.left_out,
        connections: Vec::new(),
        foreign: walked.foreign,
        deep,
    })
}

struct Judge<'o> {
    options: &'o Options,
    checker: Checker,
    findings: Vec<Finding>,
    left_out: u64,
    refused: bool,
}

impl Judge<'_> {
    fn item(
        &mut self,
        item: &Item<'_>,
        deep: &mut Option<Deep>,
        observe: &mut dyn FnMut(&Item<'_>, Option<&Parsed<'_>>),
    ) {
        let mut errors = Vec::new();
        let parsed = self.checker.item(item, &mut |error| errors.push(error));
        observe(item, parsed.as_ref());
        for error in errors {
            self.add(error);
        }
        if let Some(deep) = deep {
            deep.item(item, parsed.as_ref(), &mut |pfn, error| {
                let message = || format!("PAGE_DATA: the page table at pfn {pfn:#x}: {error}: a restorer refuses it");
                self.say("error", item.layer, Some(item.index), item.offset, message);
            });
        }
    }

    /// A stream that was taken for a checkpointed one should have a checkpoint.
    fn proper_end(&mut self, framer: &Framer) {
        if let Some(mode @ (Mode::Remus | Mode::Colo)) = self.options.mode
            && framer.checkpoints() == 0
        {
            let layer = framer.start().map_or(Layer::Xl, Start::layer);
            let problem = Problem::NoCheckpoint { mode: mode.name() };
            self.add(StreamError { layer, index: Some(framer.items()), offset: framer.offset(), problem });
        }
    }

    fn add(&mut self, error: StreamError) {
        let severity = match error.problem.severity() {
            Severity::Error => "error",
            Severity::Tolerated if !self.options.lenient => "error",
            Severity::Tolerated | Severity::Remark => "remark",
        };
        self.say(severity, error.layer, error.index, error.offset, || error.problem.to_string());
    }

    fn say(
        &mut self,
        severity: &'static str,
        layer: Layer,
        record: Option<u64>,
        offset: u64,
        message: impl FnOnce() -> String,
    ) {
        // Without --all the first error is the last finding.
        if self.refused && !self.options.all {
            return;
        }
        let is_error = severity == "error";
        let decides = is_error && !self.refused;
        self.refused |= is_error;
        if self.findings.len() >= MAX_FINDINGS && !decides {
            self.left_out += 1;
            return;
        }
        self.findings.push(Finding { severity, layer: layer.name(), record, offset, message: message() });
    }
}
