//! The guest's state as the stream leaves it, decoded, and what each checkpoint changed of it.

use crate::inspect::body::{Context, decoded};
use crate::inspect::diff::{FieldDiff, compare_values};
use crate::inspect::dump::identity;
use crate::stream::check::Parsed;
use crate::stream::framer::{Item, What};
use crate::stream::libxc::Record;
use crate::stream::libxl;
use serde::Serialize;
use serde_json::Value;
use std::collections::{HashMap, VecDeque};
use std::io::{self, Write};
use xxhash_rust::xxh3::xxh3_64;

/// The longest record that is decoded here. `dump -v` decodes longer ones.
pub const MAX_RECORD: usize = 128 << 10;
/// Bytes of what is kept decoded, as JSON, together: a few bytes of a record may become many.
pub const MAX_STATE: usize = 8 << 20;
/// Records that are kept.
const MAX_RECORDS: usize = 1024;
/// Checkpoints whose changes are listed from the start, and as many from the end.
pub const KEPT: usize = 64;
/// Fields that are listed of a checkpoint.
pub const MAX_FIELDS: usize = 200;
/// Characters of a field's name or of a value in it.
const MAX_TEXT: usize = 160;

/// A record of the last state.
#[derive(Debug, Serialize)]
pub struct Decoded {
    /// The layer.
    pub layer: &'static str,
    /// Its type, and whose it is where there are several.
    pub record: String,
    /// The round that it is of.
    pub round: u64,
    /// Bytes of it.
    pub bytes: u64,
    /// Its fields; null where it was too long to be decoded here.
    pub value: Value,
    /// Bytes of those as JSON.
    #[serde(skip)]
    weight: usize,
}

/// What changed from one checkpoint to the next.
#[derive(Debug, Default, Serialize)]
pub struct Changes {
    /// The round; what is told is against the round before.
    pub round: u64,
    /// Records that are other than before.
    pub records: u64,
    /// Fields that are.
    pub count: u64,
    /// The first of them.
    pub fields: Vec<Change>,
}

/// A field that changed.
#[derive(Debug, Serialize)]
pub struct Change {
    /// The record.
    pub record: String,
    /// The field within; empty for the whole record.
    pub field: String,
    /// What it was.
    pub before: String,
    /// What it is.
    pub after: String,
}

/// State and changes.
#[derive(Debug, Default, Serialize)]
pub struct State {
    /// The last state, in the order in which its records first came.
    pub records: Vec<Decoded>,
    /// Records that were not kept, for there were too many.
    pub left_out: u64,
    /// The first [`KEPT`] and the last [`KEPT`] rounds that changed something.
    pub changes: Vec<Changes>,
    /// Rounds between those.
    pub changes_left_out: u64,
    #[serde(skip)]
    known: HashMap<String, (usize, u64)>,
    /// The weight of all records.
    #[serde(skip)]
    bytes: usize,
    #[serde(skip)]
    current: Changes,
    #[serde(skip)]
    last: VecDeque<Changes>,
    #[serde(skip)]
    context: Context,
}

impl State {
    /// Takes the next item.
    pub fn item(&mut self, item: &Item<'_>, parsed: Option<&Parsed<'_>>) {
        self.context.learn(item, parsed);
        if item.round != self.current.round {
            self.close();
            self.current.round = item.round;
        }
        let Some((name, hash, length)) = identify(item, parsed) else { return };
        let seen = self.known.get(&name).copied();
        if seen.is_some_and(|(_, known)| known == hash) {
            return;
        }
        if seen.is_none() && self.records.len() >= MAX_RECORDS {
            self.left_out += 1;
            return;
        }
        let old = seen.and_then(|(at, _)| self.records.get_mut(at));
        let (old_value, old_weight) = old.map_or((Value::Null, 0), |old| (std::mem::take(&mut old.value), old.weight));
        self.bytes -= old_weight;
        let mut value = Value::Null;
        if length <= MAX_RECORD {
            value = decoded(item, parsed, &self.context).shown();
        }
        let mut weight = weight(&value);
        if self.bytes.saturating_add(weight) > MAX_STATE {
            (value, weight) = (Value::Null, 0);
        }
        self.bytes += weight;
        if seen.is_some() {
            self.current.compare(&name, &old_value, &value);
        }
        let layer = item.layer.name();
        let record = Decoded { layer, record: name.clone(), round: item.round, bytes: length as u64, value, weight };
        let at = seen.map_or(self.records.len(), |(at, _)| at);
        match self.records.get_mut(at) {
            Some(place) => *place = record,
            None => self.records.push(record),
        }
        self.known.insert(name, (at, hash));
    }

    fn close(&mut self) {
        let changes = std::mem::take(&mut self.current);
        if changes.records == 0 {
            return;
        }
        if self.changes.len() < KEPT {
            self.changes.push(changes);
            return;
        }
        self.last.push_back(changes);
        if self.last.len() > KEPT {
            self.last.pop_front();
            self.changes_left_out += 1;
        }
    }

    /// At the end of the stream.
    pub fn finish(&mut self) {
        self.close();
        self.changes.extend(std::mem::take(&mut self.last));
    }
}

impl Changes {
    fn compare(&mut self, name: &str, before: &Value, after: &Value) {
        self.records += 1;
        let mut found: Vec<FieldDiff> = Vec::new();
        if !before.is_null() && !after.is_null() {
            compare_values("", before, after, &mut found);
        }
        self.count += found.len().max(1) as u64;
        let change = |field: String, before: String, after: String| {
            let [field, before, after] = [field, before, after].map(cut);
            Change { record: name.to_owned(), field, before, after }
        };
        let room = MAX_FIELDS.saturating_sub(self.fields.len());
        if found.is_empty() && room > 0 {
            self.fields.push(change(String::new(), String::new(), "other bytes".into()));
        }
        self.fields.extend(found.into_iter().take(room).map(|it| change(it.field, text(&it.first), text(&it.second))));
    }
}

/// Bytes of a value as JSON; none of no value.
fn weight(value: &Value) -> usize {
    struct Count(usize);

    impl Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    let mut count = Count(0);
    match value {
        Value::Null => 0,
        value => serde_json::to_writer(&mut count, value).map_or(usize::MAX, |()| count.0),
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn cut(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(MAX_TEXT) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// Name, hash and length of what has a state; not of memory, nor of what has no body.
fn identify(item: &Item<'_>, parsed: Option<&Parsed<'_>>) -> Option<(String, u64, usize)> {
    let (mut name, _, length) = identity(item);
    let body: &[u8] = match &item.what {
        What::Record(frame) => frame.body,
        What::XlPreamble(preamble) => preamble.optional_data,
        _ => return None,
    };
    match parsed {
        Some(Parsed::Libxc(Record::PageData(_) | Record::X86PvP2mFrames(_) | Record::CheckpointDirtyPfnList(_))) => {
            return None;
        }
        Some(Parsed::Libxc(Record::X86PvVcpu(vcpu))) => {
            name += &format!(" of vCPU {}", vcpu.vcpu_id);
        }
        Some(Parsed::Libxl(libxl::Record::EmulatorContext(context))) if context.header.index > 0 => {
            name += &format!(" {}", context.header.index);
        }
        Some(Parsed::Libxl(libxl::Record::EmulatorXenstoreData(data))) if data.header.index > 0 => {
            name += &format!(" {}", data.header.index);
        }
        _ => {}
    }
    (!body.is_empty()).then(|| (name, xxh3_64(body), length.try_into().unwrap_or(usize::MAX)))
}
