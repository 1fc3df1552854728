//! Counts what a stream's memory is made of.

use super::container::Container;
use super::foreign::Foreign;
use super::input::Input;
use super::progress::Progress;
use super::walk::{Flow, walk};
use crate::stream::Severity;
use crate::stream::check::{Checker, Parsed};
use crate::stream::framer::{Item, Options};
use crate::stream::libxc::{self, PAGE_SIZE};
use crate::stream::reader::ReadError;
use serde::{Serialize, Serializer};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io::{self, Write};
use xxhash_rust::xxh3::xxh3_64;

/// Rounds that are listed one by one.
pub const MAX_ROUNDS: usize = 100_000;

fn is_zero_count(count: &u64) -> bool {
    *count == 0
}

/// Pages of one round.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Round {
    /// The round; 0 is the first image.
    pub round: u64,
    /// Bytes of the stream that belong to it.
    pub bytes: u64,
    /// PAGE_DATA records.
    pub page_records: u64,
    /// Entries of PAGE_DATA records.
    pub entries: u64,
    /// Pages of contents.
    pub pages: u64,
    /// Pages of contents that are all zero.
    pub zero: u64,
    /// Pages whose pfn had contents in the stream before.
    pub again: u64,
    /// Of those, the pages whose contents differ from the version sent before.
    pub changed: u64,
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
    pub total: Round,
    /// Different pfns with contents.
    pub distinct_pages: u64,
    /// Pfns whose contents were sent more than once.
    pub sent_more_than_once: u64,
    /// The share of pages sent again that differ from the version sent before, 0 to 1; `None` when none was sent again.
    pub changed_share: Option<f64>,
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

/// Counts a stream's pages. Memory: 16 bytes and some for each different pfn, 64 for each of the first [`MAX_ROUNDS`] rounds.
///
/// # Errors
/// The input cannot be read. A stream that cannot be followed to its end gives the figures up to there.
pub fn stats(input: Input, options: Options, progress: &mut Progress) -> io::Result<Stats> {
    let checker = Checker::new(options.mode);
    let mut count = Count { stats: Stats::default(), round: Round::default(), seen: HashMap::new(), checker };
    let walked = walk(input, Options { skip_contents: false, ..options }, progress, &mut |item| {
        count.item(item);
        Flow::Next
    });
    count.end_round();
    let mut stats = count.stats;
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
    stats.distinct_pages = count.seen.len() as u64;
    stats.sent_more_than_once = count.seen.values().filter(|page| page.again).count() as u64;
    let Round { again, changed, .. } = stats.total;
    stats.changed_share = (again > 0).then(|| changed as f64 / again as f64);
    Ok(stats)
}

struct Page {
    hash: u64,
    again: bool,
}

struct Count {
    stats: Stats,
    /// The round under way.
    round: Round,
    seen: HashMap<u64, Page>,
    checker: Checker,
}

impl Count {
    fn item(&mut self, item: &Item<'_>) {
        while self.round.round < item.round {
            self.end_round();
        }
        self.round.bytes += item.size;
        let refused = &mut self.stats.refused;
        let parsed = self.checker.item(item, &mut |error| {
            if refused.is_none() && error.is_refused() {
                *refused = Some(error.to_string());
            }
        });
        let Some(Parsed::Libxc(libxc::Record::PageData(data))) = parsed else { return };
        let round = &mut self.round;
        round.page_records += 1;
        for (entry, contents) in data.pages() {
            round.entries += 1;
            self.stats.types.0[usize::from(entry.page_type.wire() & 0xf)] += 1;
            let Some(contents) = contents else { continue };
            round.pages += 1;
            round.zero += u64::from(is_zero(contents));
            let hash = xxh3_64(contents);
            match self.seen.entry(entry.pfn) {
                Entry::Vacant(vacant) => {
                    vacant.insert(Page { hash, again: false });
                }
                Entry::Occupied(mut page) => {
                    let page = page.get_mut();
                    round.again += 1;
                    round.changed += u64::from(page.hash != hash);
                    *page = Page { hash, again: true };
                }
            }
        }
    }
}

impl Count {
    fn end_round(&mut self) {
        let next = Round { round: self.round.round + 1, ..Round::default() };
        let round = std::mem::replace(&mut self.round, next);
        let total = &mut self.stats.total;
        total.bytes += round.bytes;
        total.page_records += round.page_records;
        total.entries += round.entries;
        total.pages += round.pages;
        total.zero += round.zero;
        total.again += round.again;
        total.changed += round.changed;
        if self.stats.rounds.len() < MAX_ROUNDS {
            self.stats.rounds.push(round);
        } else {
            self.stats.rounds_left_out += 1;
        }
    }
}

fn is_zero(page: &[u8]) -> bool {
    page.chunks(64).all(|line| line.iter().fold(0, |or, byte| or | byte) == 0)
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
        writeln!(out)?;
        writeln!(
            out,
            "{:>6} {:>14} {:>9} {:>10} {:>9} {:>9} {:>9}",
            "round", "bytes", "pages", "MiB", "zero", "again", "changed"
        )?;
        for round in &self.rounds {
            let mib = (round.pages * PAGE_SIZE as u64) as f64 / f64::from(1 << 20);
            writeln!(
                out,
                "{:>6} {:>14} {:>9} {mib:>10.2} {:>9} {:>9} {:>9}",
                round.round, round.bytes, round.pages, round.zero, round.again, round.changed
            )?;
        }
        if self.rounds_left_out > 0 {
            writeln!(out, "{:>6} more rounds", self.rounds_left_out)?;
        }
        Ok(())
    }
}

fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { String::new() } else { format!(" ({:.1} %)", part as f64 * 100.0 / whole as f64) }
}
