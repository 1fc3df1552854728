//! Bad streams into a restore helper: ours, and beside it Debian's with the same ones, each within so much address space.
//!
//! `tests/golden/bad_streams.txt` has what became of every one. Of ours this is held against what must be, too: everything that is
//! not the end of the stream behind a checkpoint is refused with one line that names the place, and never a failover.

use crate::common::build::{hvm_params, pages, pv_libxc, record, vcpu};
use crate::common::golden;
use crate::helper::{Ended, Helper, PLAIN, REMUS};
use crate::home::{Home, Program, assert_restored, fifo, guest};
use crate::message::Message;
use crate::plain::we_save;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::thread;
use std::time::Duration;
use xen_replicate::hypervisor::Domain;
use xen_replicate::hypervisor::sim::{SimConfig, SimDomain};
use xen_replicate::libxc::Saver;
use xen_replicate::stream::framer::{Options, What, record_name};
use xen_replicate::stream::handover::LibxcWriter;
use xen_replicate::stream::reader::SliceReader;
use xen_replicate::stream::{Mode, Start};

use Program::{Debians, Ours};

/// Address space of a helper, in bytes.
const ROOM: u64 = 1 << 30;
/// What ours may take of it for any stream that is not a checkpoint without end, in KiB. A good one takes about 10 MiB.
const SMALL_KIB: u64 = 32 << 10;
/// One more than the highest pfn of a stream's 40 bits, and the one that costs the stock helper most.
const FAR: u64 = (1 << 34) - 1;

/// What ours must do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Must {
    /// Complete with an error whose line has this in it.
    Refuse(&'static str),
    /// Pass it over: what the stream says besides is restored.
    Take,
    /// The primary is dead: checkpoint 1 is the domain.
    FailOver,
    /// Not go over: a bit flipped where no rule of the stream can tell.
    Either,
}
use Must::{Either, FailOver, Refuse, Take};

struct Case {
    name: String,
    stream: Vec<u8>,
    kind: u32,
    must: Must,
}

/// What became of a helper.
#[derive(Debug)]
pub struct Seen {
    pub what: String,
    /// The line that says why; the last but the one that says it is over.
    pub said: String,
    pub errno: i32,
    pub peak_kib: u64,
}

pub fn judge(program: Program, config: &SimConfig, kind: u32, path: &Path, room: u64) -> (Seen, Home) {
    let home = Home::empty(config).with(program);
    let mut checkpoints = 0;
    let helper = Helper::restore_within(&home, path, kind, room);
    let Ended { result, messages, peak_kib } = helper.try_run(Duration::from_secs(100), |message, _| match message {
        Message::Checkpoint => {
            checkpoints += 1;
            Some(1)
        }
        _ => None,
    });
    let mut said = messages.iter().filter_map(|message| match message {
        Message::Log { text } => Some(text.trim_end()),
        _ => None,
    });
    let why = |text: &&str| {
        !text.starts_with("complete") && !text.contains("Restore failed") && !text.starts_with("Restoring")
    };
    let (what, errno) = match result {
        Err(error) => (format!("gone: {error}"), 0),
        Ok((end, _)) if end.retval != 0 => ("refused".into(), end.errno),
        Ok(_) if checkpoints > 0 => (format!("failover to checkpoint {checkpoints}"), 0),
        Ok(_) => ("restored".into(), 0),
    };
    let said = if what == "refused" { said.rfind(why).unwrap_or_default().into() } else { String::new() };
    (Seen { what, said, errno, peak_kib }, home)
}

/// A stream of libxc alone with so many checkpoints, and the guest as it is at the last.
fn remus(config: &SimConfig, checkpoints: u32) -> (Vec<u8>, SimDomain) {
    let mut domain = guest(config, 50);
    let mut stream = Vec::new();
    let mut saver = Saver::new(&mut domain, Default::default()).unwrap();
    let mut out = LibxcWriter::start(&mut stream, Mode::Remus, 3, saver.header()).unwrap();
    saver.static_data(&domain, &mut out).unwrap();
    saver.start_log(&mut domain).unwrap();
    saver.everything();
    for number in 0..checkpoints {
        if number > 0 {
            domain.resume().unwrap();
        }
        domain.run(5).unwrap();
        domain.suspend().unwrap();
        if number > 0 {
            saver.collect(&mut domain).unwrap();
        }
        saver.send_pages(&domain, &mut out).unwrap();
        saver.send_state(&domain, &mut out).unwrap();
        out.checkpoint().unwrap();
    }
    drop(out);
    (stream, domain)
}

/// The records of a stream of libxc, with their places.
fn records(stream: &[u8]) -> Vec<(&'static str, usize, usize)> {
    let mut reader = SliceReader::new(stream, Options { start: Some(Start::Libxc), ..Options::default() });
    let mut found = Vec::new();
    while let Ok(Some(item)) = reader.next_item() {
        if let What::Record(frame) = item.what {
            found.push((record_name(item.layer, frame.header.type_id), item.offset as usize, item.size as usize));
        }
    }
    found
}

/// Where a record of this name begins, and where it ends; the last of them behind `from`, at or before the next CHECKPOINT.
pub fn place(stream: &[u8], name: &str, from: usize) -> (usize, usize) {
    let later = records(stream).into_iter().filter(|&(_, offset, _)| offset >= from);
    let found = later.into_iter().find(|&(found, ..)| found == name);
    let (_, offset, size) = found.unwrap_or_else(|| panic!("no {name} behind {from}"));
    (offset, offset + size)
}

pub fn insert(stream: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    [&stream[..at], bytes, &stream[at..]].concat()
}

fn with(stream: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut out = stream.to_vec();
    out[at..at + bytes.len()].copy_from_slice(bytes);
    out
}

fn flip(stream: &[u8], at: usize, bit: u8) -> Vec<u8> {
    with(stream, at, &[stream[at] ^ bit])
}

pub fn without(stream: &[u8], (begin, end): (usize, usize)) -> Vec<u8> {
    [&stream[..begin], &stream[end..]].concat()
}

fn plain_cases(good: &[u8]) -> Vec<Case> {
    let of = |name: &str| place(good, name, 0);
    let static_end = of("STATIC_DATA_END").1;
    let (page, page_end) = of("PAGE_DATA");
    let context = of("HVM_CONTEXT").0;
    let end = of("END").0;
    let case = |name: &str, must, stream| Case { name: name.into(), stream, kind: PLAIN, must };
    let p2m = [&0u32.to_le_bytes()[..], &u32::MAX.to_le_bytes(), &9u64.to_le_bytes()].concat();
    let head = |bytes: &[u8]| insert(good, static_end, bytes);
    vec![
        case("a good stream", Take, good.to_vec()),
        case("no bytes at all", Refuse("offset 0"), vec![]),
        case("wrong marker", Refuse("marker"), with(good, 0, &[0])),
        case("wrong id", Refuse("id"), with(good, 8, b"XENG")),
        case("version 4", Refuse("version is 4"), with(good, 15, &[4])),
        case("big-endian", Refuse("big-endian"), with(good, 17, &[1])),
        case("domain type 3", Refuse("type is 0x3"), with(good, 24, &[3])),
        case("page_shift 16", Refuse("page_shift is 16"), with(good, 28, &[16])),
        case("a PV stream", Refuse("domain"), pv_libxc()),
        case("a page at pfn 2^34-1", Refuse("0x3ffffffff"), head(&record(1, &pages(&[FAR], 1)))),
        case("P2M_FRAMES of 16 bytes for 2^32 pfns", Refuse("X86_PV_P2M_FRAMES"), head(&record(3, &p2m))),
        case("a PV vCPU", Refuse("X86_PV_VCPU_BASIC"), insert(good, page_end, &record(4, &vcpu(0, 5168)))),
        case("unknown optional record", Take, head(&record(0x8000_007f, &[1, 2, 3]))),
        case("unknown mandatory record", Refuse("0x0000007f"), head(&record(0x7f, &[1, 2, 3]))),
        case("a record over 128 MiB", Refuse("over the limit"), with(good, context + 4, &0x0800_0001u32.to_le_bytes())),
        case("a record of 2^32-1 bytes", Refuse("over the limit"), with(good, context + 4, &[0xff; 4])),
        case("PAGE_DATA of no pages", Refuse("count is 0"), head(&record(1, &pages(&[], 0)))),
        case("PAGE_DATA of 2^32-1 pages", Refuse("count is 4294967295"), with(good, page + 8, &[0xff; 4])),
        case("PAGE_DATA a page short", Refuse("PAGE_DATA"), head(&record(1, &pages(&[1, 2], 1)))),
        case("PAGE_DATA of type 5", Refuse("page type 5"), head(&record(1, &pages(&[5 << 60 | 1], 1)))),
        case("a page outside the domain's memory", Refuse("offset"), head(&record(1, &pages(&[1 << 20], 1)))),
        case("STATIC_DATA_END twice", Refuse("twice"), head(&record(0x10, &[]))),
        case("no STATIC_DATA_END", Refuse("before STATIC_DATA_END"), without(good, of("STATIC_DATA_END"))),
        case("CHECKPOINT in a plain stream", Refuse("plain stream"), insert(good, end, &record(14, &[]))),
        case("DIRTY_PFN_LIST", Refuse("back channel"), insert(good, end, &record(15, &[0; 8]))),
        case(
            "HVM_PARAMS that name a page at 2^52",
            Refuse("offset"),
            insert(good, end, &record(10, &hvm_params(&[(1, 1 << 52)]))),
        ),
        case("HVM_CONTEXT of no bytes", Refuse("HVM_CONTEXT"), insert(good, context, &record(9, &[]))),
        case("HVM_PARAMS of no bytes", Refuse("HVM_PARAMS"), insert(good, context, &record(10, &[]))),
        case("no HVM_CONTEXT", Refuse("HVM_CONTEXT"), without(good, of("HVM_CONTEXT"))),
        case("HVM_CONTEXT of garbage", Refuse("HVM_CONTEXT"), insert(good, context, &record(9, &[0xa5; 64]))),
        case("END of the stream in a header", Refuse("ends"), good[..30].to_vec()),
        case("END of the stream in a record's header", Refuse("ends"), good[..context + 5].to_vec()),
        case("END of the stream in PAGE_DATA", Refuse("ends"), good[..page_end - 100].to_vec()),
        case("END of the stream in HVM_CONTEXT", Refuse("ends"), good[..context + 20].to_vec()),
        case("END of the stream between records", Refuse("ends"), good[..end].to_vec()),
    ]
}

fn remus_cases(good: &[u8]) -> Vec<Case> {
    let behind = place(good, "CHECKPOINT", 0).1;
    let of = |name: &str| place(good, name, behind);
    let case =
        |name: &str, must, stream| Case { name: format!("after checkpoint 1: {name}"), stream, kind: REMUS, must };
    let (page, page_end) = of("PAGE_DATA");
    let context = of("HVM_CONTEXT").0;
    let next = |bytes: &[u8]| insert(good, behind, bytes);
    let torn = |type_id: u32, length: u32| [&good[..behind], &type_id.to_le_bytes(), &length.to_le_bytes()].concat();
    vec![
        Case {
            name: "in a checkpointed stream: unknown optional record".into(),
            must: Take,
            kind: REMUS,
            stream: insert(good, place(good, "STATIC_DATA_END", 0).1, &record(0x8000_007f, &[])),
        },
        Case {
            name: "in a checkpointed stream: the end before checkpoint 1".into(),
            must: Refuse("ends"),
            kind: REMUS,
            stream: good[..behind - 8].to_vec(),
        },
        case("unknown optional record", Take, next(&record(0x8000_007f, &[1, 2, 3]))),
        case("unknown mandatory record", Refuse("0x0000007f"), next(&record(0x7f, &[]))),
        case("garbage", Refuse("record"), [&good[..behind], &[0xa5; 4096]].concat()),
        case("zeros", Refuse("HVM_CONTEXT"), [&good[..behind], &[0; 4096]].concat()),
        case("a page at pfn 2^34-1", Refuse("0x3ffffffff"), next(&record(1, &pages(&[FAR], 1)))),
        case("PAGE_DATA of 2^32-1 pages", Refuse("count is 4294967295"), with(good, page + 8, &[0xff; 4])),
        case("PAGE_DATA of type 5", Refuse("page type 5"), next(&record(1, &pages(&[5 << 60 | 1], 1)))),
        case("a record over 128 MiB", Refuse("over the limit"), with(good, context + 4, &0x0800_0001u32.to_le_bytes())),
        case("P2M_FRAMES", Refuse("X86_PV_P2M_FRAMES"), next(&record(3, &[0; 16]))),
        case("END at once", Refuse("HVM_CONTEXT"), next(&record(0, &[]))),
        case("END in the place of CHECKPOINT", Refuse("END"), with(good, of("CHECKPOINT").0, &[0])),
        case("VERIFY", Refuse("VERIFY"), next(&record(13, &[]))),
        case("a CPU policy", Refuse("X86_CPUID_POLICY"), next(&record(0x11, &[0; 24]))),
        case("no HVM_CONTEXT", Refuse("HVM_CONTEXT"), without(good, of("HVM_CONTEXT"))),
        case("HVM_CONTEXT of garbage", Refuse("HVM_CONTEXT"), insert(good, context, &record(9, &[0xa5; 64]))),
        case("CHECKPOINT with a body", Refuse("CHECKPOINT"), next(&record(14, &[1]))),
        case("unknown mandatory record, cut off", Refuse("0x0000007f"), torn(0x7f, 64)),
        case("CHECKPOINT with a body, cut off", Refuse("CHECKPOINT"), torn(14, 8)),
        case("END with a body, cut off", Refuse("END"), torn(0, 8)),
        case("X86_TSC_INFO of 4096 bytes, cut off", Refuse("X86_TSC_INFO"), torn(8, 4096)),
        case("X86_PV_INFO, cut off", Refuse("X86_PV_INFO"), torn(2, 8)),
        case("a byte too many, cut off", Refuse("record"), insert(&good[..behind + 40], behind, &[0])),
        case("the stream's end", FailOver, good[..behind].to_vec()),
        case("the stream's end in a record's header", FailOver, good[..behind + 3].to_vec()),
        case("the stream's end in PAGE_DATA", FailOver, good[..page_end - 100].to_vec()),
        case("the stream's end between records", FailOver, good[..context].to_vec()),
        case("the stream's end before CHECKPOINT", FailOver, good[..of("CHECKPOINT").0].to_vec()),
    ]
}

/// One bit of each kind of record's type, length, and body.
fn flips(good: &[u8], from: usize, kind: u32) -> Vec<Case> {
    let mut names: Vec<_> = records(good).into_iter().filter(|&(_, at, _)| at >= from).map(|(name, ..)| name).collect();
    names.sort_unstable();
    names.dedup();
    let which = if kind == REMUS { "after checkpoint 1: " } else { "" };
    let mut cases = Vec::new();
    for name in names {
        let (at, end) = place(good, name, from);
        let mut push = |what: &str, stream, must| {
            cases.push(Case { name: format!("{which}a bit of {name}'s {what}"), stream, kind, must });
        };
        push("type", flip(good, at, 0x40), Refuse("record"));
        push("length", flip(good, at + 4, 0x10), Refuse("offset"));
        if end - at > 8 {
            push("body", flip(good, at + 8, 1), Either);
        }
    }
    cases
}

#[test]
#[ignore = "long"]
fn what_becomes_of_bad_streams_with_ours_and_with_theirs() {
    let config = SimConfig::small(5);
    let mut original = guest(&config, 50);
    original.suspend().unwrap();
    let good = we_save(&mut original);
    let (protected, last) = remus(&config, 3);
    let behind = place(&protected, "CHECKPOINT", 0).1;
    let cases = [plain_cases(&good), flips(&good, 0, PLAIN), remus_cases(&protected), flips(&protected, behind, REMUS)];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stream");
    let (mut text, mut wrong) = (String::new(), Vec::new());
    for Case { name, stream, kind, must } in cases.into_iter().flatten() {
        fs::write(&path, &stream).unwrap();
        let (stock, _) = judge(Debians, &config, kind, &path, ROOM);
        let (ours, home) = judge(Ours, &config, kind, &path, ROOM);
        writeln!(text, "== {name}\nstock: {}\nours: {}", stock.what, ours.what).unwrap();
        if ours.what == "refused" {
            writeln!(text, "  {} (errno {})", ours.said, ours.errno).unwrap();
        }
        let good = match must {
            Refuse(part) => ours.what == "refused" && ours.said.contains(part) && ours.errno != 0,
            Take if kind == PLAIN => ours.what == "restored",
            Take => ours.what == "failover to checkpoint 3",
            FailOver => ours.what == "failover to checkpoint 1",
            Either => ours.what == "refused" || ours.what == "restored" || ours.what == "failover to checkpoint 3",
        };
        if !good {
            wrong.push(format!("{name}: {must:?}: {ours:?}"));
        }
        assert!(ours.peak_kib > 0 && ours.peak_kib < SMALL_KIB, "{name}: {ours:?}");
        // Whatever it is by then, it does not run: libxl's to destroy, or to unpause.
        let copy = home.after();
        assert!(copy.info().unwrap().paused, "{name}");
        if must == Take {
            assert_restored(if kind == PLAIN { &original } else { &last }, &copy);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    golden(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/bad_streams.txt"), &text);
}

#[test]
#[ignore = "long"]
fn a_page_far_out_costs_a_page_and_with_theirs_two_gib() {
    let config = SimConfig::small(5);
    let mut original = guest(&config, 50);
    original.suspend().unwrap();
    let good = we_save(&mut original);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stream");
    fs::write(&path, insert(&good, place(&good, "STATIC_DATA_END", 0).1, &record(1, &pages(&[FAR], 1)))).unwrap();
    let (stock, _) = judge(Debians, &config, PLAIN, &path, 8 << 30);
    let (ours, _) = judge(Ours, &config, PLAIN, &path, 8 << 30);
    println!("{stock:?}, {ours:?}");
    assert!(stock.what == "refused" && ours.what == "refused", "{stock:?}, {ours:?}");
    // A bit for every pfn below.
    assert!(stock.peak_kib > (FAR / 8) >> 10, "{stock:?}");
    assert!(ours.peak_kib < SMALL_KIB, "{ours:?}");
}

/// Pages behind a checkpoint until nobody reads any more; gives how many bytes.
fn flood(path: &Path, good: &[u8]) -> u64 {
    let behind = place(good, "CHECKPOINT", 0).1;
    let mut sink = File::options().write(true).open(path).unwrap();
    sink.write_all(&good[..behind]).unwrap();
    let entries: Vec<u64> = (0..128).collect();
    let more = record(1, &pages(&entries, entries.len()));
    let mut bytes = 0;
    while sink.write_all(&more).is_ok() {
        bytes += more.len() as u64;
        assert!(bytes < 8 << 30, "it reads without end");
    }
    bytes
}

#[test]
#[ignore = "long"]
fn a_checkpoint_of_more_pages_than_the_domain_may_have_is_refused() {
    let config = SimConfig::small(5);
    let (good, _) = remus(&config, 1);
    for program in [Debians, Ours] {
        let folder = tempfile::tempdir().unwrap();
        let path = fifo(folder.path(), "stream");
        let (seen, home, bytes) = thread::scope(|scope| {
            let flooding = scope.spawn(|| flood(&path, &good));
            let (seen, home) = judge(program, &config, REMUS, &path, ROOM);
            (seen, home, flooding.join().unwrap())
        });
        println!("{program:?}: {bytes} bytes, {seen:?}");
        if program == Ours {
            assert!(seen.what == "refused" && seen.said.contains("over the limit of 1"), "{seen:?}");
            assert_eq!(seen.errno, rustix::io::Errno::NOBUFS.raw_os_error());
            // What the pipe holds comes on top.
            assert!(bytes < 4 << 20 && seen.peak_kib < SMALL_KIB, "{bytes} bytes, {seen:?}");
            assert!(home.after().info().unwrap().paused);
        }
    }
}
