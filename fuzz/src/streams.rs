//! A stream against the three ways in and what stands on them. Each function panics on what must not be.

use super::Steered;
use std::io::{self, Cursor, Read};
use xen_replicate::inspect::progress::Progress;
use xen_replicate::inspect::{self, Input};
use xen_replicate::stream::StreamError;
use xen_replicate::stream::check::Checker;
use xen_replicate::stream::framer::Item;
use xen_replicate::stream::reader::{PullReader, PushReader, ReadError, SliceReader};
use xen_replicate::stream::writer::RecordWriter;

/// Any bytes as a slice under the checker: no panic, items without a gap, and the same items without page contents.
pub fn slice(input: &Steered<'_>) {
    let mut checker = Checker::new(input.mode());
    let mut reader = SliceReader::new(input.stream, input.framing(false));
    let mut without = SliceReader::new(input.stream, input.framing(true));
    let (mut offset, mut index) = (0, 0);
    loop {
        let item = reader.next_item();
        let elided = without.next_item();
        let item = match item {
            Ok(Some(item)) => item,
            end => {
                assert_eq!(elided, end, "without contents");
                break;
            }
        };
        assert_eq!((item.offset, item.index), (offset, index));
        offset += item.size;
        index += 1;
        assert!(offset <= input.stream.len() as u64);
        let mut errors = Vec::new();
        checker.item(&item, &mut |error| errors.push(error));
        for error in errors {
            assert_eq!((error.index, error.layer), (Some(item.index), item.layer));
            assert!(!error.to_string().is_empty());
        }
        let Ok(Some(elided)) = elided else { panic!("{item:?} but {elided:?} without contents") };
        assert_eq!((item.index, item.offset, item.size), (elided.index, elided.offset, elided.size));
    }
    assert_eq!(reader.framer().offset(), offset);
    assert_eq!(reader.next_item(), Ok(None));
}

/// The same items and the same error for bytes pushed in any split as for the slice.
pub fn push_split(input: &Steered<'_>) {
    for skip_contents in [false, true] {
        let mut slice = SliceReader::new(input.stream, input.framing(skip_contents));
        let mut reader = PushReader::new(input.framing(skip_contents));
        let mut rest = input.stream;
        let mut pieces = input.pieces();
        let mut error = None;
        while !rest.is_empty() && error.is_none() {
            let (now, later) = rest.split_at(pieces.next().unwrap_or(1).min(rest.len()));
            rest = later;
            reader.push(now);
            loop {
                match reader.next_item() {
                    Ok(Some(item)) => same_item(&mut slice, &item),
                    Ok(None) => break,
                    Err(found) => {
                        error = Some(found);
                        break;
                    }
                }
            }
        }
        same_end(&mut slice, error.map_or_else(|| reader.finish(), Err));
        assert_eq!(reader.framer().offset(), slice.framer().offset());
    }
}

/// The same items and the same error when pulled from a source that gives few bytes a call, and not one byte taken
/// from behind an item.
pub fn pull_exact(input: &Steered<'_>) {
    for skip_contents in [false, true] {
        let mut slice = SliceReader::new(input.stream, input.framing(skip_contents));
        let source = Meter { rest: input.stream, given: 0, pieces: input.pieces(), interrupted: false };
        let mut reader = PullReader::new(source, input.framing(skip_contents));
        let end = loop {
            match reader.next_item() {
                Ok(Some(item)) => {
                    let end = item.offset + item.size;
                    same_item(&mut slice, &item);
                    assert_eq!(reader.get_ref().given, end, "bytes taken from behind the item");
                }
                Ok(None) => break Ok(()),
                Err(ReadError::Stream(error)) => break Err(error),
                Err(ReadError::Io { error, .. }) => panic!("{error}"),
            }
        };
        same_end(&mut slice, end);
    }
}

fn same_item(slice: &mut SliceReader<'_>, item: &Item<'_>) {
    match slice.next_item() {
        Ok(Some(expected)) => assert_eq!(*item, expected),
        other => panic!("{item:?}, but as a slice {other:?}"),
    }
}

fn same_end(slice: &mut SliceReader<'_>, end: Result<(), StreamError>) {
    match slice.next_item() {
        Ok(Some(item)) => panic!("{end:?}, but as a slice {item:?}"),
        other => assert_eq!(end, other.map(drop)),
    }
}

/// A source that gives few bytes a call, fails with EINTR now and then, and counts.
struct Meter<'a, P> {
    rest: &'a [u8],
    given: u64,
    pieces: P,
    interrupted: bool,
}

impl<P: Iterator<Item = usize>> Read for Meter<'_, P> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let piece = self.pieces.next().unwrap_or(1);
        self.interrupted = piece == 0xff && !self.interrupted;
        if self.interrupted {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let bytes = out.len().min(piece).min(self.rest.len());
        let (now, later) = self.rest.split_at(bytes);
        out[..bytes].copy_from_slice(now);
        self.rest = later;
        self.given += bytes as u64;
        Ok(bytes)
    }
}

/// A stream in memory as the inspection room takes it.
fn memory(stream: &[u8]) -> Input {
    Input::Compressed(Box::new(Cursor::new(stream.to_vec())))
}

fn report(input: &Steered<'_>, all: bool, lenient: bool, complete: bool) -> inspect::Report {
    let options = inspect::verify::Options {
        start: input.start(),
        mode: input.mode(),
        limits: input.limits(),
        lenient,
        all,
        complete,
        deep: false,
    };
    inspect::verify(memory(input.stream), &options, &mut Progress::none()).unwrap()
}

/// The verdicts of all options fit together, and stats agrees on how far the stream goes.
pub fn verify(input: &Steered<'_>) {
    let all = report(input, true, input.lenient(), input.complete());
    assert_eq!(all.valid, !all.findings.iter().any(inspect::Finding::is_error));
    assert!(all.bytes <= input.stream.len() as u64);
    assert!(all.findings.is_sorted_by_key(|finding| finding.record));
    serde_json::to_string(&all).unwrap();

    // Without --all: the same up to the first error.
    let first = report(input, false, input.lenient(), input.complete());
    let until = all.findings.iter().position(inspect::Finding::is_error).map_or(all.findings.len(), |at| at + 1);
    assert_eq!(first.valid, all.valid);
    assert_eq!(first.findings, all.findings[..until]);

    // Lenience and a missing end can only turn errors into remarks.
    if report(input, true, false, true).valid {
        assert!(all.valid, "{:?}", all.findings);
    }
    let stats = inspect::stats(memory(input.stream), input.framing(false), &mut Progress::none()).unwrap();
    assert_eq!((stats.bytes, stats.checkpoints, stats.mode), (all.bytes, all.checkpoints, all.mode));
    assert!(stats.total.changed <= stats.total.again && stats.total.zero <= stats.total.pages);
    page(input, &stats);
}

/// A page has the figures of stats, and nothing of the stream in it is markup.
fn page(input: &Steered<'_>, stats: &inspect::Stats) {
    use inspect::report::{Of, report};
    let (start, mode, limits) = (input.start(), input.mode(), input.limits());
    let options = inspect::verify::Options { start, mode, limits, ..Default::default() };
    let made = match report(memory(input.stream), "<f>".into(), &options, &mut Progress::none()) {
        Ok(made) => made,
        Err(error) => return assert_eq!(error.kind(), io::ErrorKind::Unsupported),
    };
    if let Of::Stream(stream) = &made.of {
        assert_eq!((stream.total, stream.distinct_pages), (stats.total, stats.distinct_pages));
        let groups = &stream.timeline.groups;
        assert_eq!(groups.iter().map(|group| group.figures.pages).sum::<u64>(), stats.total.pages);
        let cells = stream.map.rows.iter().flat_map(|row| &row.cells);
        assert_eq!(cells.map(|(_, count)| u64::from(*count)).sum::<u64>(), stats.total.pages);
    }
    let mut out = Vec::new();
    made.write_page(&mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert_eq!((text.matches("<script").count(), text.matches("</script").count()), (2, 2));
}

/// Every output of dump: one JSON object an item, and no control character for the terminal.
pub fn dump(input: &Steered<'_>) {
    let mut items = None;
    for (json, verbose) in [(true, false), (false, true)] {
        let options = inspect::dump::Options { json, verbose, ..Default::default() };
        let mut out = Vec::new();
        let dumped =
            inspect::dump(memory(input.stream), input.framing(true), options, &mut Progress::none(), &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        if json {
            for (index, line) in text.lines().enumerate() {
                let value: serde_json::Value = serde_json::from_str(line).unwrap();
                assert_eq!(value["index"], index);
            }
            items = Some((dumped.refused, dumped.stopped));
        } else {
            let control = text.chars().find(|&c| c.is_control() && c != '\n');
            assert_eq!(control, None, "{text:?}");
            assert_eq!(items, Some((dumped.refused, dumped.stopped)));
        }
    }
}

/// A stream with nothing to remark on comes out of parse and emit as it was. Gives whether it was such a stream.
pub fn is_round_trip(input: &Steered<'_>) -> bool {
    let report = report(input, true, false, true);
    if !report.findings.is_empty() || report.bytes != input.stream.len() as u64 {
        return false;
    }
    let mut writer = RecordWriter::new(Vec::new());
    let mut reader = SliceReader::new(input.stream, input.framing(false));
    while let Some(item) = reader.next_item().unwrap() {
        writer.item(&item).unwrap();
    }
    assert_eq!(writer.written(), input.stream.len() as u64);
    assert!(writer.into_inner() == input.stream, "emitted bytes differ");
    true
}

/// [`is_round_trip`] as a target.
pub fn round_trip(input: &Steered<'_>) {
    is_round_trip(input);
}
