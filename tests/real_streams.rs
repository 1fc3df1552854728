//! Streams that this project did not write: read in three ways, verified, printed, and written again byte for byte.
//!
//! `XEN_REPLICATE_STREAMS` may name a folder with more of them, whole ones from real hosts; all its streams are read
//! too.

mod common;

use common::{Numbers, by_pull, by_push, by_slice, compressed_fixtures, fixture, golden, read};
use std::path::{Path, PathBuf};
use xen_replicate::inspect::dump::{self, dump};
use xen_replicate::inspect::progress::Progress;
use xen_replicate::inspect::verify::{self, Report, verify};
use xen_replicate::inspect::{Flow, Input, walk};
use xen_replicate::stream::framer::Options;
use xen_replicate::stream::reader::ReadError;
use xen_replicate::stream::writer::RecordWriter;

fn all() -> Vec<PathBuf> {
    let mut paths: Vec<_> = compressed_fixtures().iter().map(|name| fixture(&format!("{name}.xz"))).collect();
    if let Some(folder) = std::env::var_os("XEN_REPLICATE_STREAMS") {
        let more = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let before = paths.len();
        paths.extend(more.filter(|path| path.extension().is_some_and(|end| end == "xz" || end == "zst")));
        assert!(paths.len() > before, "XEN_REPLICATE_STREAMS has no streams");
    }
    paths
}

fn judge(path: &Path) -> Report {
    let options = verify::Options { all: true, ..verify::Options::default() };
    verify(Input::open(path).unwrap(), &options, &mut Progress::none()).unwrap()
}

#[test]
fn all_are_valid() {
    for path in all() {
        let report = judge(&path);
        // The synthetic domain of the helper has registers that no hypervisor loads; all else of it is right.
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let made_up = name.ends_with(".xz") && (name.starts_with("hvm-") || name.starts_with("pv-"));
        let registers =
            |message: &str| made_up && message.starts_with("vCPU ") && message.ends_with("every Xen refuses it");
        let errors: Vec<_> = report.findings.iter().filter(|f| f.is_error() && !registers(&f.message)).collect();
        assert!(errors.is_empty(), "{}: {errors:?}", path.display());
        assert!(made_up || report.valid, "{}", path.display());
    }
}

#[test]
fn parse_and_emit_give_the_same_bytes() {
    for path in all() {
        let mut writer = RecordWriter::new(Vec::new());
        let walked = walk(Input::open(&path).unwrap(), Options::default(), &mut Progress::none(), &mut |item| {
            writer.item(item).unwrap();
            Flow::Next
        });
        let bytes = read(&path);
        let written = writer.into_inner();
        // A primary that was killed leaves the beginning of a record at the end, which is no item.
        let (whole, torn) = bytes.split_at(usize::try_from(walked.framer.offset()).unwrap());
        let cut = matches!(&walked.end, Err(ReadError::Stream(error)) if error.is_truncation());
        assert!(torn.is_empty() || cut, "{}: {} bytes, {:?}", path.display(), torn.len(), walked.end);
        assert!(whole == written, "{}: first difference at {:?}", path.display(), {
            whole.iter().zip(&written).position(|(a, b)| a != b)
        });
    }
}

#[test]
fn the_three_ways_in_agree() {
    for name in compressed_fixtures() {
        let stream = read(&fixture(&format!("{name}.xz")));
        for skip_contents in [true, false] {
            // Whole page contents through every way, once for a stream of a real host.
            if !skip_contents && name.starts_with("xen/") && !name.contains("twohost") {
                continue;
            }
            let options = Options { skip_contents, ..Options::default() };
            let expected = by_slice(&stream, options);
            assert!(expected.0.len() > 2, "{name}");
            let mut numbers = Numbers(7);
            assert!(expected == by_push(&stream, options, || 1 + numbers.below(100_000) as usize), "{name}: pushed");
            assert!(expected == by_pull(&stream, options, 70_001), "{name}: pulled");
        }
    }
}

/// The dump with each run of PAGE_DATA lines as one.
fn squashed_dump(path: &Path, options: dump::Options) -> String {
    let mut out = Vec::new();
    let input = Input::open(path).unwrap();
    let dumped = dump(input, Options::default(), options, &mut Progress::none(), &mut out).unwrap();
    let mut text = String::new();
    let mut run: Option<(usize, String)> = None;
    let mut in_pages = false;
    for line in String::from_utf8(out).unwrap().lines() {
        let words: Vec<_> = line.split_whitespace().take(5).collect();
        let is_item = words.len() == 5 && words[0].parse::<u64>().is_ok() && words[1].parse::<u64>().is_ok();
        in_pages = if is_item { words[4] == "PAGE_DATA" } else { in_pages };
        if in_pages {
            if is_item {
                run.get_or_insert((0, line.to_owned())).0 += 1;
            }
            continue;
        }
        if let Some((count, first)) = run.take() {
            text += &format!("{first}\n{:>6} {count} PAGE_DATA records in a row\n", "=");
        }
        text += line;
        text.push('\n');
    }
    if let Some(error) = dumped.stopped {
        text += &format!("{error}\n");
    }
    text
}

#[test]
fn dumps_are_golden() {
    for name in compressed_fixtures() {
        let path = fixture(&format!("{name}.xz"));
        golden(&fixture(&format!("{name}.dump")), &squashed_dump(&path, dump::Options::default()));
    }
}

#[test]
fn decoded_dumps_are_golden() {
    for name in [
        "helper/hvm-plain-libxl",
        "helper/pv-plain-libxc",
        "xen/4.17.7stock-hvm64-live",
        "xen/4.17.5shadow-pv48-twohost-live",
    ] {
        let options = dump::Options { verbose: true, ..dump::Options::default() };
        let path = fixture(&format!("{name}.xz"));
        golden(&fixture(&format!("{name}.decoded")), &squashed_dump(&path, options));
    }
}

#[test]
fn modes_and_checkpoints_are_recognised() {
    for (name, mode, start, checkpoints, records) in [
        ("helper/hvm-plain-libxc", "plain", "libxc", 0, 8),
        ("helper/hvm-remus-libxl", "remus", "libxl", 3, 29),
        ("helper/hvm-remus-libxc", "remus", "libxc", 4, 25),
        ("helper/hvm-colo-libxc-back", "back", "back", 0, 3),
        ("xen/4.17.5shadow-pv48-remus", "remus", "xl", 40, 340),
        ("xen/4.17.7stock-pvh40-remus", "remus", "xl", 12, 1098),
        ("xen/4.17.7stock-hvm64-live", "plain", "xl", 0, 1033),
    ] {
        let report = judge(&fixture(&format!("{name}.xz")));
        assert_eq!((report.mode, report.start), (mode, Some(start)), "{name}");
        assert_eq!((report.checkpoints, report.records), (checkpoints, records), "{name}");
    }
}

#[test]
fn the_handshake_is_a_remark() {
    let report = judge(&fixture("xen/4.17.7stock-hvm64-live.xz"));
    let last = report.findings.last().unwrap();
    assert_eq!((last.severity, last.layer), ("remark", "xl"));
    assert!(last.message.starts_with("xl migration handshake: 44 bytes"), "{last}");
    for (name, messages) in [("xen/4.17.7stock-hvm64-live.reply", 3), ("xen/4.17.7stock-pvh40-remus.reply", 1)] {
        let report = judge(&fixture(name));
        assert!(report.valid && report.mode == "back", "{name}");
        assert_eq!(report.findings.len(), messages, "{name}");
    }
}
