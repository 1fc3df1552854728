//! Streams with one fault each: what is found, word for word, and that every way in finds the same.
//!
//! `tests/golden/bad_input.txt` holds the findings of a strict `verify --all` for each case. Every error names layer,
//! record, offset and the offending value.

mod common;

use common::build::*;
use common::{by_pull, by_push, by_slice, golden};
use std::io::Cursor;
use std::path::Path;
use xen_replicate::inspect::Input;
use xen_replicate::inspect::progress::Progress;
use xen_replicate::inspect::verify::{Options, Report, verify};
use xen_replicate::stream::{Mode, Start, framer};

const STRICT: Options = Options {
    start: None,
    mode: None,
    lenient: false,
    all: true,
    complete: false,
    deep: false,
    limits: framer::Limits { libxc_body: 128 << 20, libxl_body: 128 << 20, xl_optional_data: 16 << 20 },
};

fn judge(stream: &[u8], options: &Options) -> Report {
    let input = Input::Compressed(Box::new(Cursor::new(stream.to_vec())));
    verify(input, options, &mut Progress::none()).unwrap()
}

/// What a strict verify is expected to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// An error, strict or lenient.
    Refused,
    /// An error in a strict verify, passed by a lenient one.
    Tolerated,
    /// No error.
    Valid,
}
use Verdict::{Refused, Tolerated, Valid};

struct Case {
    name: String,
    stream: Vec<u8>,
    options: Options,
    verdict: Verdict,
}

fn case(name: impl Into<String>, verdict: Verdict, stream: Vec<u8>) -> Case {
    Case { name: name.into(), stream, options: STRICT, verdict }
}

fn as_mode(mode: Mode, case: Case) -> Case {
    Case { options: Options { mode: Some(mode), ..case.options }, ..case }
}

fn with(stream: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut out = stream.to_vec();
    out[at..at + bytes.len()].copy_from_slice(bytes);
    out
}

/// A libxc HVM stream with these records in the place of its pages and state.
fn hvm_with(records: &[Vec<u8>]) -> Vec<u8> {
    [libxc_headers(3, 2), hvm_static(), records.concat(), hvm_state(), record(0, &[])].concat()
}

fn pv_with(records: &[Vec<u8>]) -> Vec<u8> {
    [pv_head(), record(7, &[0; PAGE]), records.concat(), record(4, &vcpu(0, 5168)), record(0, &[])].concat()
}

/// A record header alone, which claims a body that is not there.
fn claim(type_id: u32, length: u32) -> Vec<u8> {
    [type_id.to_le_bytes(), length.to_le_bytes()].concat()
}

/// A checkpointed libxl stream whose second round begins with these records.
fn second_round(records: &[Vec<u8>]) -> Vec<u8> {
    let (head, _) = hvm_remus(1);
    [head, records.concat(), hvm_state(), record(14, &[]), libxl_checkpoint()].concat()
}

fn framing() -> Vec<Case> {
    let libxc = hvm_libxc();
    let libxl_start = [libxl_header(), record(1, &[])].concat();
    let mut cases = vec![
        case("no bytes at all", Refused, vec![]),
        case("not a stream", Refused, b"Hello, world".to_vec()),
        case("legacy stream of a 64-bit toolstack", Refused, vec![0, 0, 4, 0, 0, 0, 0, 0, 1]),
        Case {
            options: Options { start: Some(Start::Libxc), ..STRICT },
            ..case("libxc marker wrong", Refused, with(&libxc, 7, &[0xfe]))
        },
        case("libxc id wrong", Refused, with(&libxc, 8, b"XENG")),
        case("libxc version 1", Refused, with(&libxc, 15, &[1])),
        case("libxc version 4", Refused, with(&libxc, 15, &[4])),
        case("libxc big-endian", Refused, with(&libxc, 17, &[1])),
        case("libxc reserved option", Tolerated, with(&libxc, 16, &[0x80])),
        case("libxc reserved bytes", Tolerated, with(&libxc, 20, &[1, 2])),
        case("domain type 3", Refused, with(&libxc, 24, &[3])),
        case("page_shift 16", Refused, with(&libxc, 28, &[16])),
        case("domain header reserved", Tolerated, with(&libxc, 30, &[1])),
        case("legacy converter", Valid, with(&libxc, 32, &[0, 0, 0, 0])),
        case("libxl version 1", Refused, with(&libxl_start, 11, &[1])),
        Case {
            options: Options { start: Some(Start::Libxl), ..STRICT },
            ..case("libxl ident wrong", Refused, with(&libxl_start, 7, b"T"))
        },
        case("libxl big-endian", Refused, with(&libxl_start, 15, &[1])),
        case(
            "libxl reserved option",
            Tolerated,
            [with(&libxl_start, 12, &[1]), libxc.clone(), record(0, &[])].concat(),
        ),
        case("libxc inside libxl with a wrong marker", Refused, [libxl_start, with(&libxc, 3, &[0])].concat()),
    ];
    for length in [(128 << 20) + 1, 1 << 31, u32::MAX - 8, u32::MAX - 7, u32::MAX - 6, u32::MAX - 1, u32::MAX] {
        cases.push(case(
            format!("libxc body_length {length:#x}"),
            Refused,
            [libxc_headers(3, 2), claim(9, length)].concat(),
        ));
    }
    cases.push(case("libxl body_length 0xffffffff", Refused, [libxl_header(), claim(3, u32::MAX)].concat()));
    cases.push(case("libxc body_length at the limit", Refused, [libxc_headers(3, 2), claim(9, 128 << 20)].concat()));
    cases
}

fn preamble() -> Vec<Case> {
    let xl = hvm_xl();
    vec![
        case("xl empty config", Valid, [xl_preamble(b"\0"), xl[48 + 30..].to_vec()].concat()),
        Case {
            options: Options { start: Some(Start::Xl), ..STRICT },
            ..case("xl magic wrong", Refused, with(&xl, 0, b"x"))
        },
        case("xl magic wrong behind the eighth byte", Refused, with(&xl, 30, b"x")),
        case("xl byteorder", Refused, with(&xl, 32, &[1, 2, 3, 4])),
        case("xl unknown mandatory flag", Refused, with(&xl, 36, &[7])),
        case("xl without the stream-v2 flag", Refused, with(&xl, 36, &[1])),
        case("xl optional_data_len 0xffffffff", Refused, with(&xl, 44, &[0xff; 4])),
        case("xl config_len over the optional data", Refused, with(&xl, 48, &[0xff])),
        case("xl config_len under the optional data", Refused, with(&xl, 48, &[1])),
        case("xl config is not JSON", Refused, with(&xl, 52, b"!")),
    ]
}

fn page_data() -> Vec<Case> {
    let hvm = |body: &[u8]| hvm_with(&[record(1, body)]);
    let one = pages(&[0], 1);
    let mut overflow = one.clone();
    overflow[..4].copy_from_slice(&0x2000_0001u32.to_le_bytes());
    let mut cases = vec![
        case("PAGE_DATA of 7 bytes", Refused, hvm(&[1, 0, 0, 0, 0, 0, 0])),
        case("PAGE_DATA count 0", Refused, hvm(&pages(&[], 0))),
        case("PAGE_DATA count times 8 overflows 32 bits", Refused, hvm(&overflow)),
        case("PAGE_DATA count 0xffffffff", Refused, hvm(&with(&one, 0, &[0xff; 4]))),
        case("PAGE_DATA a page too few", Refused, hvm(&pages(&[0, 1], 1))),
        case("PAGE_DATA a page too many", Refused, hvm(&pages(&[0], 2))),
        case("PAGE_DATA half a page", Refused, hvm(&one[..16 + 2048])),
        case("PAGE_DATA contents for XTAB", Refused, hvm(&pages(&[0xf << 60], 1))),
        case("PAGE_DATA contents for BROKEN", Refused, hvm(&pages(&[0xd << 60], 1))),
        case("PAGE_DATA contents for XALLOC", Refused, hvm(&pages(&[0xe << 60], 1))),
        case("PAGE_DATA pfn of 52 bits", Refused, hvm(&pages(&[0x000f_ffff_ffff_ffff], 1))),
        case("PAGE_DATA smallest pfn over 40 bits", Refused, hvm(&pages(&[1 << 40], 1))),
        case("PAGE_DATA largest pfn of 40 bits", Valid, hvm(&pages(&[(1 << 40) - 1], 1))),
        case("PAGE_DATA reserved word", Tolerated, hvm(&with(&one, 4, &[1]))),
        case("PAGE_DATA reserved pfn bits", Tolerated, hvm(&pages(&[1 << 52, 0x80 << 52 | 1], 2))),
        case("PAGE_DATA page-table type in a HVM stream", Valid, hvm(&pages(&[1 << 60], 1))),
        case("PAGE_DATA same pfn twice", Valid, hvm(&pages(&[5, 5], 2))),
    ];
    for wire in 5..=8u64 {
        cases.push(case(format!("PAGE_DATA type {wire}"), Refused, hvm(&pages(&[0, wire << 60 | 7], 2))));
    }
    cases
}

fn order() -> Vec<Case> {
    let headers = |domain| libxc_headers(3, domain);
    let page = || record(1, &pages(&[0], 1));
    let (remus, ends) = hvm_remus(2);
    vec![
        case("unknown mandatory type", Refused, hvm_with(&[record(0x13, &[1, 2, 3])])),
        case("unknown optional type", Valid, hvm_with(&[page(), record(0x8000_0013, &[1, 2, 3])])),
        case("unknown mandatory type after a checkpoint", Refused, second_round(&[record(0x13, &[]), page()])),
        case("unknown optional type after a checkpoint", Valid, second_round(&[record(0x8000_0013, &[]), page()])),
        case("unknown mandatory libxl type", Refused, [libxl_header(), record(6, &[])].concat()),
        case("unknown optional libxl type", Refused, [libxl_header(), record(0x8000_0006, &[])].concat()),
        case("STATIC_DATA_END missing", Refused, [headers(2), page(), hvm_state(), record(0, &[])].concat()),
        case("STATIC_DATA_END twice", Refused, hvm_with(&[record(0x10, &[]), page()])),
        case("STATIC_DATA_END with a body", Refused, hvm_with(&[page(), record(0x10, &[0; 8])])),
        case("STATIC_DATA_END in version 2", Refused, with(&hvm_libxc(), 15, &[2])),
        case("policies behind STATIC_DATA_END", Refused, hvm_with(&[record(0x11, &[0; 24]), page()])),
        case("state before STATIC_DATA_END", Refused, [headers(2), hvm_state(), record(0x10, &[]), page()].concat()),
        case("END first", Refused, [headers(2), record(0, &[])].concat()),
        case("END with a body", Refused, [&hvm_libxc()[..hvm_libxc().len() - 8], &record(0, &[1])].concat()),
        case("no HVM_CONTEXT", Valid, [headers(2), hvm_static(), page(), record(0, &[])].concat()),
        case(
            "PV records in a HVM stream",
            Refused,
            hvm_with(&[page(), record(4, &vcpu(0, 5168)), record(7, &[0; PAGE])]),
        ),
        case(
            "HVM records in a PV stream",
            Refused,
            pv_with(&[record(9, &small_context()), record(10, &hvm_params(&[]))]),
        ),
        case("PV info missing", Refused, [headers(1), record(0x10, &[]), pv_head()[64..].to_vec()].concat()),
        case(
            "PV pages before the p2m",
            Refused,
            [headers(1), record(2, &[8, 4, 0, 0, 0, 0, 0, 0]), record(0x10, &[]), page()].concat(),
        ),
        case("PV pages behind the vCPUs", Refused, pv_with(&[record(4, &vcpu(0, 5168)), page()])),
        case("CHECKPOINT with a body", Refused, second_round(&[page(), record(14, &[1])])),
        as_mode(Mode::Plain, case("CHECKPOINT in a plain stream", Refused, hvm_with(&[page(), record(14, &[])]))),
        case("CHECKPOINT_END outside a checkpoint", Refused, [libxl_header(), record(4, &[])].concat()),
        case(
            "CHECKPOINT_END behind a plain image",
            Refused,
            [libxl_header(), record(1, &[]), hvm_libxc(), record(4, &[]), record(0, &[])].concat(),
        ),
        case("END inside a checkpoint", Refused, [&remus[..ends[0] - 8], &record(0, &[])].concat()),
        case("LIBXC_CONTEXT inside a checkpoint", Refused, [&remus[..ends[0] - 8], &record(1, &[])].concat()),
        case("emulator state before LIBXC_CONTEXT", Refused, [libxl_header(), record(3, &emulator(b"x"))].concat()),
        case("VERIFY behind a checkpoint", Refused, second_round(&[record(13, &[]), page()])),
        case("DIRTY_PFN_LIST in the forward channel", Refused, hvm_with(&[page(), record(15, &[0; 8])])),
        case("stream ends inside its first checkpoint", Refused, remus[..ends[0] - 1].to_vec()),
        case("stream ends inside its second checkpoint", Valid, remus[..ends[1] - 1].to_vec()),
        case("stream ends behind a checkpoint", Valid, remus.clone()),
        Case {
            options: Options { complete: true, ..STRICT },
            ..case("the same with --complete", Refused, remus.clone())
        },
        case("bytes behind the libxc END", Tolerated, [hvm_libxc(), vec![1, 2, 3]].concat()),
        case("bytes behind the libxl END", Tolerated, [hvm_xl(), vec![0; 4096]].concat()),
        case(
            "the handshake behind the libxl END",
            Valid,
            [hvm_xl(), b"domain is yours, you are cleared to unpause\0".to_vec()].concat(),
        ),
        case("half a handshake behind the libxl END", Tolerated, [hvm_xl(), b"domain is yours, you".to_vec()].concat()),
        case(
            "bytes behind the handshake",
            Tolerated,
            [hvm_xl(), b"domain is yours, you are cleared to unpause\0x".to_vec()].concat(),
        ),
    ]
}

fn sync_points() -> Vec<Case> {
    let (one_round, _) = hvm_remus(1);
    let colo = |records: &[Vec<u8>]| [one_round.clone(), records.concat()].concat();
    let round = || [record(1, &pages(&[1], 1)), hvm_state(), record(14, &[]), libxl_checkpoint()].concat();
    let mut cases = vec![
        case("a COLO stream", Valid, colo(&[state(0), round(), state(0)])),
        case("CHECKPOINT_STATE of 8 bytes", Valid, colo(&[record(5, &[0; 8]), round()])),
        case("CHECKPOINT_STATE padding", Tolerated, colo(&[record(5, &[0, 0, 0, 0, 1, 0, 0, 0]), round()])),
        case("CHECKPOINT_STATE unknown id", Refused, colo(&[state(4), round()])),
        case("CHECKPOINT_STATE in the wrong direction", Refused, colo(&[state(2), round()])),
        as_mode(Mode::Colo, case("CHECKPOINT_STATE missing", Refused, colo(&[round()]))),
        case(
            "CHECKPOINT_STATE outside a checkpoint",
            Refused,
            [libxl_header(), record(1, &[]), hvm_libxc(), state(0), record(0, &[])].concat(),
        ),
        case(
            "back channel in turn",
            Valid,
            [state(2), state(3), state(1), record(15, &[1, 0, 0, 0, 0, 0, 0, 0]), state(2)].concat(),
        ),
        case("back channel out of turn", Refused, [state(2), state(1)].concat()),
        case("back channel with NEW", Refused, [state(2), state(3), state(0)].concat()),
        case("back channel list in the wrong turn", Refused, [state(2), record(15, &[])].concat()),
        case("back channel list of 12 bytes", Refused, record(15, &[0; 12])),
        case("back channel list with a huge pfn", Refused, record(15, &[0xff; 8])),
        case("back channel with pages", Refused, [state(2), record(1, &pages(&[0], 1))].concat()),
        case("back channel cut", Refused, [state(2), state(3)[..9].to_vec()].concat()),
    ];
    for length in 0..4 {
        cases.push(case(format!("CHECKPOINT_STATE of {length} bytes"), Refused, colo(&[record(5, &[0; 4][..length])])));
    }
    cases
}

fn bodies() -> Vec<Case> {
    let page = || record(1, &pages(&[0], 1));
    let hvm = |record: Vec<u8>| hvm_with(&[page(), record]);
    let libxl =
        |record: Vec<u8>| [libxl_header(), self::record(1, &[]), hvm_libxc(), record, self::record(0, &[])].concat();
    let mut padded = hvm_libxc();
    let tail = record(8, &tsc_info()).len();
    let context = padded.len() - 8 - record(9, &small_context()).len();
    // The end of the chain claims 16 bytes that are not there.
    padded[context + 8 + 32 + 4] = 16;
    let mut long_entry = small_context();
    long_entry[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    let p2m = |start: u32, end: u32, frames: usize| {
        let mut body = [start.to_le_bytes(), end.to_le_bytes()].concat();
        body.resize(8 + frames * 8, 1);
        record(3, &body)
    };
    let mut cases = vec![
        case("padding not zero in libxc", Tolerated, hvm([record(0x8000_0000, &[1])[..15].to_vec(), vec![9]].concat())),
        case(
            "padding not zero in libxl",
            Tolerated,
            libxl([record(3, &emulator(b"abc"))[..23].to_vec(), vec![7]].concat()),
        ),
        case("TSC_INFO of 20 bytes", Refused, hvm(record(8, &tsc_info()[..20]))),
        case("TSC_INFO reserved", Tolerated, hvm(record(8, &with(&tsc_info(), 20, &[1])))),
        case("HVM_CONTEXT empty", Refused, hvm(record(9, &[]))),
        case("HVM_CONTEXT whose END runs past the record", Refused, padded),
        case("HVM_CONTEXT entry of 2^32-1 bytes", Refused, hvm(record(9, &long_entry))),
        case("HVM_CONTEXT cut inside a descriptor", Refused, hvm(record(9, &small_context()[..36]))),
        case("HVM_CONTEXT without END", Refused, hvm(record(9, &small_context()[..32]))),
        case("HVM_PARAMS count too large", Refused, hvm(record(10, &with(&hvm_params(&[(1, 2)]), 0, &[2])))),
        case("HVM_PARAMS count 0xffffffff", Refused, hvm(record(10, &with(&hvm_params(&[(1, 2)]), 0, &[0xff; 4])))),
        case("HVM_PARAMS bytes left over", Refused, hvm(record(10, &[hvm_params(&[(1, 2)]), vec![0]].concat()))),
        case("HVM_PARAMS without content", Valid, hvm(record(10, &hvm_params(&[])))),
        case("TOOLSTACK", Valid, hvm(record(11, b"blob"))),
        case(
            "CPUID policy of 25 bytes",
            Refused,
            [libxc_headers(3, 2), record(0x11, &[0; 25]), record(0x10, &[])].concat(),
        ),
        case("MSR policy empty", Refused, [libxc_headers(3, 2), record(0x12, &[]), record(0x10, &[])].concat()),
        case(
            "PV_INFO width 8 with 3 levels",
            Refused,
            [libxc_headers(3, 1), record(2, &[8, 3, 0, 0, 0, 0, 0, 0])].concat(),
        ),
        case("PV_INFO of 7 bytes", Refused, [libxc_headers(3, 1), record(2, &[8, 4, 0, 0, 0, 0, 0])].concat()),
        case("PV_INFO reserved", Tolerated, with(&pv_libxc(), 52, &[1])),
        case("P2M_FRAMES of 16 bytes for 2^32 pfns", Refused, pv_with(&[p2m(0, u32::MAX, 1)])),
        case("P2M_FRAMES backwards", Refused, pv_with(&[p2m(2, 1, 1)])),
        case("P2M_FRAMES of another width", Refused, pv_with(&[p2m(0, 1023, 1)])),
        case("P2M_FRAMES cut", Refused, pv_with(&[record(3, &[0; 12])])),
        case("SHARED_INFO of 4095 bytes", Refused, pv_with(&[record(7, &[0; 4095])])),
        case("VCPU_BASIC of 4 bytes", Refused, pv_with(&[record(4, &[0; 4])])),
        case("VCPU_BASIC of a 32-bit guest in a 64-bit stream", Refused, pv_with(&[record(4, &vcpu(0, 2800))])),
        case("VCPU_XSAVE of 8 bytes", Refused, pv_with(&[record(6, &vcpu(0, 8))])),
        case("VCPU_MSRS of 17 bytes", Refused, pv_with(&[record(12, &vcpu(0, 17))])),
        case("VCPU_EXTENDED without content", Valid, pv_with(&[record(5, &vcpu(0, 0))])),
        case("VCPU reserved", Tolerated, pv_with(&[record(5, &with(&vcpu(0, 64), 4, &[1]))])),
        case(
            "LIBXC_CONTEXT with a body",
            Refused,
            [libxl_header(), record(1, &[0; 8]), hvm_libxc(), record(0, &[])].concat(),
        ),
        case("EMULATOR_CONTEXT of 7 bytes", Refused, libxl(record(3, &[2, 0, 0, 0, 0, 0, 0]))),
        case("EMULATOR_CONTEXT of emulator 3", Refused, libxl(record(3, &[3, 0, 0, 0, 0, 0, 0, 0]))),
        case("EMULATOR_XENSTORE_DATA of 4 bytes", Refused, libxl(record(2, &[2, 0, 0, 0]))),
        case("xenstore data unterminated", Refused, libxl(record(2, &emulator(b"key\0value")))),
        case("xenstore data of odd count", Refused, libxl(record(2, &emulator(b"key\0value\0other\0")))),
        case("xenstore data with an absolute key", Refused, libxl(record(2, &emulator(b"/key\0value\0")))),
        case("xenstore data with an empty key", Refused, libxl(record(2, &emulator(b"\0value\0")))),
    ];
    assert!(tail > 0);
    cases.push(case("CHECKPOINT_END with a body", Refused, {
        let (remus, ends) = hvm_remus(1);
        [&remus[..ends[0] - 8], &record(4, &[1])].concat()
    }));
    cases
}

fn cases() -> Vec<Case> {
    [framing(), preamble(), page_data(), order(), sync_points(), bodies()].into_iter().flatten().collect()
}

#[test]
fn every_fault_is_named_word_for_word() {
    let mut text = String::new();
    for Case { name, stream, options, verdict } in cases() {
        let report = judge(&stream, &options);
        text += &format!("== {name}\n");
        for finding in &report.findings {
            text += &format!("{finding}\n");
        }
        let lenient = judge(&stream, &Options { lenient: true, ..options });
        let got = match (report.valid, lenient.valid) {
            (false, false) => Refused,
            (false, true) => Tolerated,
            (true, _) => Valid,
        };
        assert_eq!(got, verdict, "{name}: {:#?}", report.findings);
        if verdict != Valid {
            assert!(report.findings.iter().any(|finding| finding.is_error()), "{name}");
        }
    }
    golden(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/bad_input.txt"), &text);
}

#[test]
fn without_all_the_first_error_is_the_last_finding() {
    for Case { name, stream, options, .. } in cases() {
        let all = judge(&stream, &options);
        let first = judge(&stream, &Options { all: false, ..options });
        assert_eq!(all.valid, first.valid, "{name}");
        assert!(first.findings.iter().rev().skip(1).all(|finding| !finding.is_error()), "{name}");
        assert_eq!(all.findings[..first.findings.len()], first.findings[..], "{name}");
    }
}

#[test]
fn every_way_in_finds_the_same() {
    for Case { name, stream, options, .. } in cases() {
        for skip_contents in [false, true] {
            let framing =
                framer::Options { start: options.start, mode: options.mode, limits: options.limits, skip_contents };
            let expected = by_slice(&stream, framing);
            assert!(expected == by_push(&stream, framing, || 1), "{name}: byte by byte");
            assert!(expected == by_push(&stream, framing, || usize::MAX), "{name}: at once");
            assert!(expected == by_pull(&stream, framing, 5), "{name}: pulled");
        }
    }
}

#[test]
fn whole_small_streams_have_no_findings() {
    for (name, stream) in [("HVM", hvm_libxc()), ("xl", hvm_xl()), ("PV", pv_libxc())] {
        let report = judge(&stream, &STRICT);
        assert!(report.findings.is_empty(), "{name}: {:?}", report.findings);
    }
}

#[test]
fn truncation_at_every_byte() {
    for (name, stream) in [("HVM", hvm_libxc()), ("xl", hvm_xl()), ("PV", pv_libxc())] {
        for cut in 0..stream.len() {
            let framing = framer::Options::default();
            let (items, error) = by_slice(&stream[..cut], framing);
            let error = error.unwrap_or_else(|| panic!("{name} cut at {cut} passes"));
            assert!(error.is_truncation(), "{name} cut at {cut}: {error}");
            // The error stands at the item that was cut.
            let end = items.last().map_or(0, |item| item.offset + item.size);
            assert_eq!(error.offset, end, "{name} cut at {cut}: {error}");
            assert_eq!(error.index, Some(items.len() as u64), "{name} cut at {cut}: {error}");
            // One way of pushing and one of pulling each, at changing sizes, keeps this fast.
            if cut % 7 == 0 {
                let same = (items, Some(error));
                assert!(same == by_push(&stream[..cut], framing, || 1 + cut % 13), "{name} cut at {cut}: pushed");
                assert!(same == by_pull(&stream[..cut], framing, 1 + cut % 11), "{name} cut at {cut}: pulled");
            }
        }
    }
}

#[test]
fn a_checkpointed_stream_may_stop_at_any_byte_behind_its_first_checkpoint() {
    let (stream, ends) = hvm_remus(3);
    for cut in 0..=stream.len() {
        let whole = ends.iter().filter(|&&end| end <= cut).count();
        let report = judge(&stream[..cut], &STRICT);
        assert_eq!(report.valid, whole > 0, "cut at {cut}");
        assert_eq!(report.checkpoints, whole as u64, "cut at {cut}");
        let last = &report.findings.last().unwrap_or_else(|| panic!("nothing said of a cut at {cut}")).message;
        if whole > 0 {
            let torn = cut - ends[whole - 1];
            let expected = format!("the stream stops after checkpoint {whole}; {torn} bytes of a torn one follow");
            assert_eq!(*last, expected, "cut at {cut}");
            assert!(!judge(&stream[..cut], &Options { complete: true, ..STRICT }).valid, "cut at {cut}");
        }
    }
}
