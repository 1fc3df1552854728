//! The records of a stream, as a table: all of them where there are few, else the first and the last of each kind.

use crate::inspect::dump::identity;
use crate::inspect::summary::{printable, summary};
use crate::stream::check::Parsed;
use crate::stream::framer::Item;
use crate::stream::libxc::Record;
use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};

/// Records of memory that are listed from the start, and as many from the end; and other records likewise.
pub const KEPT: usize = 2500;
/// Types that are counted each for itself. A hostile stream may have any.
const MAX_TYPES: usize = 200;
/// Characters of a summary.
const MAX_SUMMARY: usize = 240;

/// A line of the table.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    /// The item's number, as in `dump`.
    pub index: u64,
    /// Offset from the start of the stream.
    pub offset: u64,
    /// The layer that wrote it.
    pub layer: &'static str,
    /// Whole checkpoints before it.
    pub round: u64,
    /// Its type, as `dump` names it.
    #[serde(rename = "type")]
    pub name: String,
    /// Bytes of its body.
    pub length: u64,
    /// What is in it.
    pub summary: String,
}

/// The table.
#[derive(Debug, Default, Serialize)]
pub struct Records {
    /// All items of the stream.
    pub total: u64,
    /// How many of each type.
    pub types: BTreeMap<String, u64>,
    /// Items that are not listed.
    pub left_out: u64,
    /// Those that are, in the order of the stream.
    pub lines: Vec<Line>,
    #[serde(skip)]
    memory: Ends,
    #[serde(skip)]
    others: Ends,
}

/// The first and the last.
#[derive(Debug, Default)]
struct Ends {
    first: Vec<Line>,
    last: VecDeque<Line>,
}

impl Ends {
    /// True when one had to go.
    fn add(&mut self, line: Line) -> bool {
        if self.first.len() < KEPT {
            self.first.push(line);
            return false;
        }
        self.last.push_back(line);
        self.last.len() > KEPT && self.last.pop_front().is_some()
    }

    fn take(&mut self) -> impl Iterator<Item = Line> + use<> {
        std::mem::take(&mut self.first).into_iter().chain(std::mem::take(&mut self.last))
    }
}

impl Records {
    /// Takes the next item.
    pub fn add(&mut self, item: &Item<'_>, parsed: Option<&Parsed<'_>>) {
        self.total += 1;
        let (name, _, length) = identity(item);
        let known = self.types.len() < MAX_TYPES || self.types.contains_key(&name);
        *self.types.entry(if known { name.clone() } else { "others".into() }).or_default() += 1;
        let mut summary = printable(&summary(item, parsed));
        if let Some((end, _)) = summary.char_indices().nth(MAX_SUMMARY) {
            summary.truncate(end);
            summary.push('…');
        }
        let Item { index, offset, round, .. } = *item;
        let line = Line { index, offset, layer: item.layer.name(), round, name, length, summary };
        let ends = if matches!(parsed, Some(Parsed::Libxc(Record::PageData(_)))) {
            &mut self.memory
        } else {
            &mut self.others
        };
        self.left_out += u64::from(ends.add(line));
    }

    /// At the end of the stream.
    pub fn finish(&mut self) {
        self.lines = self.memory.take().chain(self.others.take()).collect();
        self.lines.sort_by_key(|line| line.index);
    }
}
