//! What is different between two images: by record and decoded field, and by page.

use super::body::{Context, decoded};
use crate::host_info::HostInfo;
use crate::stream::check::Parsed;
use crate::stream::framer::{Item as Framed, What, record_name};
use crate::stream::record::{Frame, HEADER_LEN, RecordHeader};
use crate::stream::{Layer, libxc, libxl, xl};
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::{BTreeSet, HashMap};
use std::io::{self, Write};
use xen_domain_image::compare::{self, Difference};
use xen_domain_image::{Image, ImageError, Item, RecordKey};

/// What is different.
#[derive(Debug, Default, Serialize)]
pub struct Diff {
    /// Whether nothing is.
    pub same: bool,
    /// Of headers and records.
    pub records: Vec<RecordDiff>,
    /// Of memory.
    pub pages: PagesDiff,
}

/// A record that is not the same in both.
#[derive(Debug, Serialize)]
pub struct RecordDiff {
    /// `libxl`, `libxc` or `xl`.
    pub layer: &'static str,
    /// Its name, and whose it is where there are several.
    pub record: String,
    /// Which of the images has it, where one has not: `first` or `second`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub only: Option<&'static str>,
    /// Decoded fields. None where the difference is in what is not decoded.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<FieldDiff>,
}

/// A field that is not the same.
#[derive(Debug, PartialEq, Serialize)]
pub struct FieldDiff {
    /// Where it stands in the record, as `entries[CPU 0].rip`.
    pub field: String,
    /// What the first image has there; null for nothing.
    pub first: Value,
    /// What the second has.
    pub second: Value,
}

/// Pages.
#[derive(Debug, Default, Serialize)]
pub struct PagesDiff {
    /// The same in both.
    pub same: u64,
    /// With other contents.
    pub contents: u64,
    /// Of another type.
    pub types: u64,
    /// That the second image's guest has no memory for.
    pub only_first: u64,
    /// That the first image's guest has no memory for.
    pub only_second: u64,
    /// All that are different, in the order of page frames.
    pub list: Vec<PageRun>,
}

/// Neighbouring page frames with the same difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PageRun {
    /// The first page frame.
    pub pfn: u64,
    /// How many.
    pub count: u64,
    /// What is different: `contents`, `type`, `only_first`, `only_second`.
    pub what: &'static str,
    /// The types, where they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub types: Option<[&'static str; 2]>,
}

/// Compares two images.
///
/// # Errors
/// The system's.
pub fn diff(first: &Image, second: &Image) -> Result<Diff, ImageError> {
    let records = records(first, second)?;
    let mut pages = PagesDiff::default();
    pages.same = compare::pages(first, second, &mut |pfn, difference| {
        pages.add(pfn, difference);
        Ok(())
    })?;
    Ok(Diff { same: records.is_empty() && pages.list.is_empty(), records, pages })
}

/// What is different between two hosts.
#[derive(Debug, Serialize)]
pub struct HostDiff {
    /// Whether nothing is.
    pub same: bool,
    /// By field of the files; features of CPU policies by name.
    pub fields: Vec<FieldDiff>,
}

/// Compares two hosts.
///
/// # Errors
/// Never in practice: their values have a JSON form.
pub fn diff_hosts(first: &HostInfo, second: &HostInfo) -> io::Result<HostDiff> {
    let mut fields = Vec::new();
    compare_values("", &serde_json::to_value(first)?, &serde_json::to_value(second)?, &mut fields);
    Ok(HostDiff { same: fields.is_empty(), fields })
}

impl HostDiff {
    /// Writes it as text.
    ///
    /// # Errors
    /// The writer's.
    pub fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        for field in &self.fields {
            writeln!(out, "{}: {} -> {}", field.field, shown(&field.first), shown(&field.second))?;
        }
        writeln!(out, "{}", if self.same { "the same" } else { "different" })
    }
}

impl PagesDiff {
    fn add(&mut self, pfn: u64, difference: Difference) {
        let (count, what, types) = match difference {
            Difference::Contents => (&mut self.contents, "contents", None),
            Difference::Type(a, b) => (&mut self.types, "type", Some([a.name(), b.name()])),
            Difference::OnlyFirst => (&mut self.only_first, "only_first", None),
            Difference::OnlySecond => (&mut self.only_second, "only_second", None),
        };
        *count += 1;
        match self.list.last_mut() {
            Some(run) if run.pfn + run.count == pfn && run.what == what && run.types == types => run.count += 1,
            _ => self.list.push(PageRun { pfn, count: 1, what, types }),
        }
    }
}

/// The records of the first image, then those that only the second has.
fn records(first: &Image, second: &Image) -> Result<Vec<RecordDiff>, ImageError> {
    let mut found = Vec::new();
    let (mut of_first, mut of_second) = (Context::default(), Context::default());
    let others: HashMap<RecordKey, &Item> = second.items().iter().map(|item| (item.key, item)).collect();
    for item in second.items() {
        learn(second, item, &mut of_second)?;
    }
    for item in first.items() {
        learn(first, item, &mut of_first)?;
        let Some(other) = others.get(&item.key) else {
            found.push(RecordDiff::new(item.key, Some("first")));
            continue;
        };
        let (a, b) = (first.body(item)?, second.body(other)?);
        if a != b {
            let mut fields = Vec::new();
            let (a, b) = (value(first, item, &of_first)?, value(second, other, &of_second)?);
            compare_values("", &a, &b, &mut fields);
            found.push(RecordDiff { fields, ..RecordDiff::new(item.key, None) });
        }
    }
    let known: HashMap<RecordKey, ()> = first.items().iter().map(|item| (item.key, ())).collect();
    let more = second.items().iter().filter(|item| !known.contains_key(&item.key));
    found.extend(more.map(|item| RecordDiff::new(item.key, Some("second"))));
    Ok(found)
}

impl RecordDiff {
    fn new(key: RecordKey, only: Option<&'static str>) -> Self {
        let (layer, record) = match key {
            RecordKey::XlPreamble => (Layer::Xl, "preamble".to_owned()),
            RecordKey::LibxlHeader => (Layer::Libxl, "header".to_owned()),
            RecordKey::ImageHeader => (Layer::Libxc, "image header".to_owned()),
            RecordKey::DomainHeader => (Layer::Libxc, "domain header".to_owned()),
            RecordKey::Record { layer, type_id, id } => {
                let name = record_name(layer, type_id);
                let whose = match (layer, type_id) {
                    (Layer::Libxl, _) if id >> 32 > 0 => format!(" {}", id >> 32),
                    (Layer::Libxc, 0x04..=0x06 | libxc::types::X86_PV_VCPU_MSRS) => format!(" of vCPU {id}"),
                    _ => String::new(),
                };
                (layer, format!("{name}{whose}"))
            }
            _ => (Layer::Libxc, "unknown item".to_owned()),
        };
        RecordDiff { layer: layer.name(), record, only, fields: Vec::new() }
    }
}

/// Takes note of what tells how other records are decoded.
fn learn(image: &Image, item: &Item, context: &mut Context) -> Result<(), ImageError> {
    if matches!(item.key, RecordKey::Record { layer: Layer::Libxc, type_id: libxc::types::X86_PV_INFO, .. }) {
        with_item(image, item, &mut |framed, parsed| context.learn(framed, parsed))?;
    }
    Ok(())
}

fn value(image: &Image, item: &Item, context: &Context) -> Result<Value, ImageError> {
    let mut value = Value::Null;
    with_item(image, item, &mut |framed, parsed| {
        value = serde_json::to_value(decoded(framed, parsed, context)).unwrap_or_default();
    })?;
    Ok(value)
}

/// Reads an item again, as the framer gave it.
fn with_item(
    image: &Image,
    item: &Item,
    then: &mut dyn FnMut(&Framed<'_>, Option<&Parsed<'_>>),
) -> Result<(), ImageError> {
    let mut bytes = vec![0; item.size as usize];
    image.read(item.offset, &mut bytes)?;
    let (layer, what) = match item.key {
        RecordKey::XlPreamble => {
            let Ok(Some(header)) = xl::Header::parse(&bytes) else { return Ok(()) };
            let optional_data = bytes.get(xl::HEADER_LEN..).unwrap_or_default();
            (Layer::Xl, What::XlPreamble(xl::Preamble { header, optional_data }))
        }
        RecordKey::LibxlHeader => match libxl::Header::parse(&bytes) {
            Ok(Some(header)) => (Layer::Libxl, What::LibxlHeader(header)),
            _ => return Ok(()),
        },
        RecordKey::ImageHeader => match libxc::ImageHeader::parse(&bytes) {
            Ok(Some(header)) => (Layer::Libxc, What::ImageHeader(header)),
            _ => return Ok(()),
        },
        RecordKey::DomainHeader => (Layer::Libxc, What::DomainHeader(*image.domain())),
        RecordKey::Record { layer, .. } => {
            let Some(header) = RecordHeader::parse(&bytes) else { return Ok(()) };
            let behind = bytes.get(HEADER_LEN..).unwrap_or_default();
            let (body, padding) = behind.split_at(behind.len().min(header.length as usize));
            (layer, What::Record(Frame { header, body, padding }))
        }
        _ => return Ok(()),
    };
    let parsed = match &what {
        What::Record(frame) => Parsed::new(layer, frame).ok(),
        _ => None,
    };
    let framed = Framed { index: 0, offset: item.offset, size: item.size, layer, round: 0, what };
    then(&framed, parsed.as_ref());
    Ok(())
}

/// What tells one object of a list from another.
const NAMES: [&str; 9] = ["name", "instance", "leaf", "subleaf", "index", "msr", "section", "key", "pfn"];

/// The name of an object in a list: those of its fields that tell it from others.
fn name_of(object: &Map<String, Value>) -> Option<String> {
    let parts: Vec<_> = NAMES
        .iter()
        .filter_map(|name| match object.get(*name)? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        })
        .collect();
    (!parts.is_empty()).then(|| parts.join(" "))
}

/// A list's objects by their names, where each has one of its own.
fn by_name(list: &[Value]) -> Option<Vec<(String, &Value)>> {
    let named: Vec<_> = list.iter().map(|value| Some((name_of(value.as_object()?)?, value))).collect::<Option<_>>()?;
    let mut names: Vec<_> = named.iter().map(|(name, _)| name).collect();
    names.sort_unstable();
    names.dedup();
    (names.len() == list.len()).then_some(named)
}

/// A list of words, each there once: the names of bits that are set, as a rule.
fn words(list: &[Value]) -> Option<BTreeSet<&str>> {
    let words: BTreeSet<&str> = list.iter().map(Value::as_str).collect::<Option<_>>()?;
    (words.len() == list.len()).then_some(words)
}

pub(super) fn compare_values(path: &str, first: &Value, second: &Value, found: &mut Vec<FieldDiff>) {
    if first == second {
        return;
    }
    match (first, second) {
        (Value::Object(a), Value::Object(b)) => {
            let inner = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
            for (name, value) in a {
                compare_values(&inner(name), value, b.get(name).unwrap_or(&Value::Null), found);
            }
            for (name, value) in b.iter().filter(|(name, _)| !a.contains_key(*name)) {
                compare_values(&inner(name), &Value::Null, value, found);
            }
        }
        (Value::Array(a), Value::Array(b)) => {
            if let (Some(a), Some(b)) = (by_name(a), by_name(b)) {
                let of_second: HashMap<&str, &Value> = b.iter().map(|(name, value)| (name.as_str(), *value)).collect();
                let of_first: HashMap<&str, ()> = a.iter().map(|(name, _)| (name.as_str(), ())).collect();
                for (name, value) in &a {
                    let other = of_second.get(name.as_str()).copied().unwrap_or(&Value::Null);
                    compare_values(&format!("{path}[{name}]"), value, other, found);
                }
                for (name, value) in b.iter().filter(|(name, _)| !of_first.contains_key(name.as_str())) {
                    compare_values(&format!("{path}[{name}]"), &Value::Null, value, found);
                }
                return;
            }
            if let (Some(of_first), Some(of_second)) = (words(a), words(b))
                && of_first != of_second
            {
                for word in of_first.symmetric_difference(&of_second) {
                    let of = |set: &BTreeSet<&str>| if set.contains(word) { Value::from(*word) } else { Value::Null };
                    let field = format!("{path}[{word}]");
                    found.push(FieldDiff { field, first: of(&of_first), second: of(&of_second) });
                }
                return;
            }
            for at in 0..a.len().max(b.len()) {
                let of = |list: &[Value]| list.get(at).cloned().unwrap_or_default();
                compare_values(&format!("{path}[{at}]"), &of(a), &of(b), found);
            }
        }
        _ => found.push(FieldDiff { field: path.to_owned(), first: first.clone(), second: second.clone() }),
    }
}

/// Longest value of a field that text shows.
const SHOWN: usize = 60;

fn shown(value: &Value) -> String {
    let text = match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        value => value.to_string(),
    };
    match text.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}...", text.get(..at).unwrap_or_default()),
        None => text,
    }
}

impl Diff {
    /// Writes it as text; with the list of pages where that is asked for.
    ///
    /// # Errors
    /// The writer's.
    pub fn write_text(&self, list: bool, out: &mut dyn Write) -> io::Result<()> {
        for record in &self.records {
            write!(out, "{} {}", record.layer, record.record)?;
            match record.only {
                Some(only) => writeln!(out, ": only in the {only}")?,
                None if record.fields.is_empty() => writeln!(out, ": different in what is not decoded")?,
                None => writeln!(out)?,
            }
            for field in &record.fields {
                writeln!(out, "    {}: {} -> {}", field.field, shown(&field.first), shown(&field.second))?;
            }
        }
        let pages = &self.pages;
        let different = pages.contents + pages.types + pages.only_first + pages.only_second;
        write!(out, "pages: {} the same, {different} different", pages.same)?;
        let parts = [
            (pages.contents, "with other contents"),
            (pages.types, "of another type"),
            (pages.only_first, "only in the first"),
            (pages.only_second, "only in the second"),
        ];
        let named: Vec<_> =
            parts.iter().filter(|part| part.0 > 0).map(|(count, what)| format!("{count} {what}")).collect();
        writeln!(out, "{}{}", if named.is_empty() { "" } else { ": " }, named.join(", "))?;
        for run in pages.list.iter().filter(|_| list) {
            let last = run.pfn + run.count - 1;
            let frames = if run.count == 1 { format!("{:#x}", run.pfn) } else { format!("{:#x}-{last:#x}", run.pfn) };
            match run.types {
                Some([a, b]) => writeln!(out, "    {frames}: {a} -> {b}")?,
                None => writeln!(out, "    {frames}: {}", run.what.replace('_', " "))?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_are_found_by_name_and_by_place() {
        let first = json!({"entries": [{"name": "CPU", "instance": 0, "rip": "0x1"}, {"name": "CPU", "instance": 1, "rip": "0x2"}],
            "bits": [1, 2, 3], "set": ["avx", "fpu", "sse"], "gone": true});
        let second = json!({"entries": [{"name": "CPU", "instance": 1, "rip": "0x3"}, {"name": "PIT", "instance": 0}],
            "bits": [1, 5], "set": ["fpu", "pku", "sse"], "new": "x"});
        let mut found = Vec::new();
        compare_values("", &first, &second, &mut found);
        let lines: Vec<_> = found
            .iter()
            .map(|field| format!("{}: {} -> {}", field.field, shown(&field.first), shown(&field.second)))
            .collect();
        assert_eq!(
            lines,
            [
                "entries[CPU 0]: {\"name\":\"CPU\",\"instance\":0,\"rip\":\"0x1\"} -> -",
                "entries[CPU 1].rip: 0x2 -> 0x3",
                "entries[PIT 0]: - -> {\"name\":\"PIT\",\"instance\":0}",
                "bits[1]: 2 -> 5",
                "bits[2]: 3 -> -",
                "set[avx]: avx -> -",
                "set[pku]: - -> pku",
                "gone: true -> -",
                "new: - -> x",
            ]
        );
    }

    #[test]
    fn long_values_are_cut_between_characters() {
        assert_eq!(shown(&json!("ä".repeat(70))), format!("{}...", "ä".repeat(60)));
    }
}
