//! Counts what a stream's memory is made of.

use super::container::Container;
use super::foreign::Foreign;
use super::input::Input;
use super::meter::{Figures, Meter, Step};
use super::progress::Progress;
use super::versions::MAX_PFNS;
use super::walk::{Flow, walk};
use crate::stream::Severity;
use crate::stream::check::Checker;
use crate::stream::framer::Options;
use crate::stream::libxc::{self, PAGE_SIZE};
use crate::stream::reader::ReadError;
use serde::{Serialize, Serializer};
use std::io::{self, Write};

/// Rounds that are listed one by one.
pub const MAX_ROUNDS: usize = 100_000;

fn is_zero_count(count: &u64) -> bool {
    *count == 0
}

/// Iterations of a round that are listed one by one; the last one holds those that follow, too.
pub const MAX_ITERATIONS: usize = 64;

/// Iterations that are listed in all; rounds behind those have none.
pub const MAX_LISTED: usize = 100_000;

/// Pages of one round.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Round {
    /// The round; 0 is the first image.
    pub round: u64,
    /// All of it.
    #[serde(flatten)]
    pub figures: Figures,
    /// The passes over memory in it, where there is more than one: those of a live save. At most [`MAX_ITERATIONS`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub iterations: Vec<Figures>,
}

/// Figures of a whole stream.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Stats {
    /// `plain`, `remus`, `colo` or `back`; `unknown` when not even the start could be recognised.
    pub mode: &'static str,
    /// Bytes up to the end of the last item.
    pub bytes: u64,
    /// Whole checkpoints.
    pub checkpoints: u64,
    /// Entries of PAGE_DATA records by page type.
    pub types: Types,
    /// Sums over all rounds.
    pub total: Figures,
    /// Different pfns with contents.
    pub distinct_pages: u64,
    /// Pfns whose contents were sent more than once.
    pub sent_more_than_once: u64,
    /// The share of pages sent again that differ from the version sent before, 0 to 1; `None` when none was sent again.
    pub changed_share: Option<f64>,
    /// The share of bytes that LZ4 saves of the pages that are not all zero, 0 to 1, by a sample; `None` without any.
    pub compressible_share: Option<f64>,
    /// Pages of which nobody knows whether they were sent before: there were more others than are kept.
    #[serde(skip_serializing_if = "is_zero_count")]
    pub untracked: u64,
    /// Each of the first [`MAX_ROUNDS`] rounds for itself.
    pub rounds: Vec<Round>,
    /// Further rounds, which only the sums know.
    #[serde(skip_serializing_if = "is_zero_count")]
    pub rounds_left_out: u64,
    /// The first thing for which a receiver must refuse the stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// Why the stream could not be read to a proper end.
    pub stopped: Option<String>,
    /// What the stream is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<Container>,
    /// What stands where the stream could not be followed, if that can be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub foreign: Option<Foreign>,
    /// Whether the figures cover the stream: it has a proper end, or is a checkpointed one that just stops.
    pub followed: bool,
}

/// Entries by page type.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Types([u64; 16]);

impl Types {
    /// The types that occur, by the specification's names, with the number of entries.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.0.iter().enumerate().filter(|(_, count)| **count > 0);
        counts.filter_map(|(wire, count)| Some((libxc::PageType::from_wire(wire as u8)?.name(), *count)))
    }
}

impl Serialize for Types {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

/// Counts a stream's pages. Memory: that of [`super::versions::Versions`], 100 bytes for each of the first [`MAX_ROUNDS`] rounds, and
/// as much for each iteration of those that have several, [`MAX_LISTED`] in all.
///
/// # Errors
/// The input cannot be read. A stream that cannot be followed to its end gives the figures up to there.
pub fn stats(input: Input, options: Options, progress: &mut Progress) -> io::Result<Stats> {
    let mut checker = Checker::new(options.mode);
    let (mut meter, mut count) = (Meter::default(), Count::default());
    let walked = walk(input, Options { skip_contents: false, ..options }, progress, &mut |item| {
        let Count { refused, types, rounds } = &mut count;
        let parsed = checker.item(item, &mut |error| {
            if refused.is_none() && error.is_refused() {
                *refused = Some(error.to_string());
            }
        });
        meter.item(item, parsed.as_ref(), &mut |step| rounds.end(step), &mut |sent| {
            if let Some(count) = types.0.get_mut(usize::from(sent.page_type)) {
                *count += 1;
            }
        });
        Flow::Next
    });
    count.rounds.end(meter.finish());
    count.rounds.close();
    let Count { refused, types, rounds } = count;
    let mut stats = Stats { refused, types, total: rounds.total, rounds: rounds.list, ..Stats::default() };
    stats.rounds_left_out = rounds.left_out;
    match walked.end {
        Ok(()) => stats.followed = true,
        Err(ReadError::Io { error, .. }) => return Err(error),
        Err(ReadError::Stream(error)) => {
            let error = walked.framer.judge_end(error);
            stats.followed = error.problem.severity() == Severity::Remark;
            stats.stopped = Some(error.to_string());
        }
    }
    stats.container = walked.container;
    stats.foreign = walked.foreign;
    stats.mode = walked.framer.mode_name();
    stats.bytes = walked.framer.offset();
    stats.checkpoints = walked.framer.checkpoints();
    stats.distinct_pages = meter.distinct();
    stats.sent_more_than_once = meter.often();
    stats.untracked = meter.untracked();
    let Figures { again, changed, .. } = stats.total;
    stats.changed_share = (again > 0).then(|| changed as f64 / again as f64);
    stats.compressible_share = stats.total.compressible();
    Ok(stats)
}

#[derive(Default)]
struct Count {
    refused: Option<String>,
    types: Types,
    rounds: Rounds,
}

/// Rounds, out of steps.
#[derive(Default)]
struct Rounds {
    list: Vec<Round>,
    left_out: u64,
    total: Figures,
    /// Iterations in the list.
    listed: usize,
    /// The round under way.
    round: Option<Round>,
}

impl Rounds {
    fn end(&mut self, step: Step) {
        self.total.add(&step.figures);
        if self.round.as_ref().is_some_and(|round| round.round != step.round) {
            self.close();
        }
        let round = self.round.get_or_insert(Round { round: step.round, ..Round::default() });
        round.figures.add(&step.figures);
        match round.iterations.last_mut() {
            Some(last) if step.iteration as usize >= MAX_ITERATIONS => last.add(&step.figures),
            _ => round.iterations.push(step.figures),
        }
    }

    fn close(&mut self) {
        let Some(mut round) = self.round.take() else { return };
        if self.list.len() >= MAX_ROUNDS {
            self.left_out += 1;
            return;
        }
        let iterations = round.iterations.len();
        if iterations == 1 || self.listed + iterations > MAX_LISTED {
            round.iterations = Vec::new();
        }
        round.iterations.shrink_to_fit();
        self.listed += round.iterations.len();
        self.list.push(round);
    }
}

impl Stats {
    /// Writes the figures as text.
    ///
    /// # Errors
    /// The writer's.
    pub fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        let total = &self.total;
        writeln!(out, "mode         {}", self.mode)?;
        writeln!(out, "bytes        {}", self.bytes)?;
        writeln!(out, "checkpoints  {}", self.checkpoints)?;
        write!(out, "entries      {}", total.entries)?;
        let types: Vec<_> = self.types.iter().map(|(name, count)| format!("{name} {count}")).collect();
        writeln!(out, "{}{}", if types.is_empty() { "" } else { ": " }, types.join(", "))?;
        let zero = percent(total.zero, total.pages);
        writeln!(out, "pages        {} with contents, {} of them zero{zero}", total.pages, total.zero)?;
        writeln!(out, "distinct     {} pfns, {} sent more than once", self.distinct_pages, self.sent_more_than_once)?;
        let changed = percent(total.changed, total.again);
        writeln!(out, "sent again   {} pages, {} differ from the version before{changed}", total.again, total.changed)?;
        if let Some(share) = self.compressible_share {
            let (saves, sampled) = (share * 100.0, total.sampled);
            writeln!(
                out,
                "compressible {saves:.1} % of the bytes that are not in zero pages, by {sampled} pages and LZ4"
            )?;
        }
        if self.untracked > 0 {
            writeln!(out, "not tracked  {} pages beyond {MAX_PFNS} different ones", self.untracked)?;
        }
        writeln!(out)?;
        writeln!(
            out,
            "{:>6} {:>14} {:>9} {:>10} {:>9} {:>9} {:>9} {:>9} {:>6}",
            "round", "bytes", "pages", "MiB", "zero", "again", "changed", "unchanged", "lz4"
        )?;
        for round in &self.rounds {
            line(out, &round.round.to_string(), &round.figures)?;
            for (iteration, figures) in round.iterations.iter().enumerate() {
                line(out, &format!(".{iteration}"), figures)?;
            }
        }
        if self.rounds_left_out > 0 {
            writeln!(out, "{:>6} more rounds", self.rounds_left_out)?;
        }
        Ok(())
    }
}

/// One of the table: the name of what it is of, and its figures.
fn line(out: &mut dyn Write, name: &str, figures: &Figures) -> io::Result<()> {
    let Figures { bytes, pages, zero, again, changed, unchanged, .. } = figures;
    let mib = (pages * PAGE_SIZE as u64) as f64 / f64::from(1 << 20);
    let saves = figures.compressible().map_or("-".into(), |share| format!("{:.0} %", share * 100.0));
    writeln!(
        out,
        "{name:>6} {bytes:>14} {pages:>9} {mib:>10.2} {zero:>9} {again:>9} {changed:>9} {unchanged:>9} {saves:>6}"
    )
}

fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { String::new() } else { format!(" ({:.1} %)", part as f64 * 100.0 / whole as f64) }
}
