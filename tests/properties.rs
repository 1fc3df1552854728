//! Arbitrary valid streams: written by the library, they verify, come back the same, and do not care how they are cut.
//! Arbitrary damage: never a panic, and the same finding whatever the way in.

mod common;

use common::{by_pull, by_push, by_slice};
use proptest::collection::vec;
use proptest::prelude::*;
use std::io::Cursor;
use xen_replicate::inspect::dump::{self, dump};
use xen_replicate::inspect::progress::Progress;
use xen_replicate::inspect::verify::{self, Report, verify};
use xen_replicate::inspect::{Flow, Input, walk};
use xen_replicate::stream::Mode;
use xen_replicate::stream::framer::Options;
use xen_replicate::stream::handover::{Alone, LibxcWriter, LibxlWriter, WriteError};
use xen_replicate::stream::libxc::{
    self, DomainHeader, DomainType, HvmParam, PAGE_SIZE, PageEntry, PageType, TscInfo, emit_hvm_params,
};
use xen_replicate::stream::libxl::{self, EmulatorHeader, EmulatorId, emit_xenstore_data};
use xen_replicate::stream::record::{Frame, RecordHeader};
use xen_replicate::stream::writer::RecordWriter;

/// What stands in one round.
#[derive(Debug, Clone)]
struct Round {
    /// Records of pages: (type, pfn, filling).
    pages: Vec<Vec<(u8, u64, u8)>>,
    tsc: (u32, u32, u64, u32),
    params: Vec<(u64, u64)>,
    context: Vec<Vec<u8>>,
    /// Unknown records that may be skipped: (type, body).
    optional: Vec<(u32, Vec<u8>)>,
    xenstore: Vec<(String, String)>,
    emulator: Vec<u8>,
}

#[derive(Debug, Clone)]
struct Spec {
    config: Option<String>,
    version: u32,
    mode: Mode,
    cpuid: usize,
    rounds: Vec<Round>,
}

fn rounds() -> impl Strategy<Value = Round> {
    let page = (prop::sample::select(vec![0u8, 0, 0, 0, 0xd, 0xe, 0xf]), 0u64..1 << 40, any::<u8>());
    (
        vec(vec(page, 1..5), 1..4),
        (0u32..3, any::<u32>(), any::<u64>(), any::<u32>()),
        vec((40u64.., any::<u64>()), 1..4),
        vec(vec(any::<u8>(), 0..40), 0..4),
        vec((any::<u32>().prop_map(|t| t | 1 << 31), vec(any::<u8>(), 0..20)), 0..2),
        vec(("[a-z0-9/_@-]{1,9}".prop_filter("relative", |k| !k.starts_with('/')), "[ -~]{0,9}"), 0..3),
        vec(any::<u8>(), 0..30),
    )
        .prop_map(|(pages, tsc, params, context, optional, xenstore, emulator)| Round {
            pages,
            tsc,
            params,
            context,
            optional,
            xenstore,
            emulator,
        })
}

fn specs() -> impl Strategy<Value = Spec> {
    (
        proptest::option::of("[a-z]{0,20}"),
        2u32..=3,
        prop::sample::select(vec![Mode::Plain, Mode::Remus, Mode::Colo]),
        1usize..4,
        vec(rounds(), 1..4),
    )
        .prop_map(|(name, version, mode, cpuid, rounds)| Spec {
            config: name.map(|name| format!("{{\"c_info\": {{\"name\": \"{name}\"}}}}")),
            version,
            mode,
            cpuid,
            rounds,
        })
}

/// Parses a body into the record that the writer takes.
fn libxc_record(type_id: u32, body: &[u8]) -> libxc::Record<'_> {
    let header = RecordHeader::new(type_id, body.len() as u32);
    libxc::Record::parse(&Frame { header, body, padding: &[] }).unwrap()
}

fn libxl_record(type_id: u32, body: &[u8]) -> libxl::Record<'_> {
    let header = RecordHeader::new(type_id, body.len() as u32);
    libxl::Record::parse(&Frame { header, body, padding: &[] }).unwrap()
}

/// A HVM context with a good header and these entries of a type that nobody knows.
fn context(entries: &[Vec<u8>]) -> Vec<u8> {
    let entries: Vec<_> = entries.iter().enumerate().map(|(i, data)| (900, i as u16, &data[..])).collect();
    let header = &common::build::small_context()[8..32];
    let mut all = vec![(1, 0, header)];
    all.extend(entries);
    common::build::hvm_context(&all)
}

fn write_round<H>(writer: &mut LibxcWriter<Vec<u8>, H>, round: &Round) -> Result<(), WriteError> {
    for record in &round.pages {
        let entries: Vec<_> = record
            .iter()
            .map(|&(wire, pfn, _)| PageEntry { page_type: PageType::from_wire(wire).unwrap(), pfn })
            .collect();
        let contents: Vec<_> = record
            .iter()
            .zip(&entries)
            .filter(|(_, entry)| entry.page_type.has_contents())
            .map(|((_, _, filling), _)| [*filling; PAGE_SIZE])
            .collect();
        writer.page_data(entries.iter().copied(), contents.iter().map(|page| &page[..]))?;
    }
    for (type_id, body) in &round.optional {
        writer.record(&libxc::Record::Optional { type_id: *type_id, body })?;
    }
    let (mode, khz, nsec, incarnation) = round.tsc;
    writer.record(&libxc::Record::X86TscInfo(TscInfo { mode, khz, nsec, incarnation, reserved: 0 }))?;
    let mut params = Vec::new();
    let list: Vec<_> = round.params.iter().map(|&(index, value)| HvmParam { index, value }).collect();
    emit_hvm_params(&list, &mut params);
    writer.record(&libxc_record(libxc::types::HVM_PARAMS, &params))?;
    writer.record(&libxc::Record::HvmContext(&context(&round.context)))
}

fn write_static<H>(writer: &mut LibxcWriter<Vec<u8>, H>, spec: &Spec) -> Result<(), WriteError> {
    if spec.version >= 3 {
        writer.record(&libxc_record(libxc::types::X86_CPUID_POLICY, &vec![1; 24 * spec.cpuid]))?;
        writer.record(&libxc_record(libxc::types::X86_MSR_POLICY, &vec![2; 16 * spec.cpuid]))?;
        writer.record(&libxc::Record::StaticDataEnd)?;
    }
    Ok(())
}

fn write_device(writer: &mut LibxlWriter<Vec<u8>>, round: &Round) -> Result<(), WriteError> {
    let header = EmulatorHeader { id: EmulatorId::QemuUpstream, index: 0 };
    let mut body = header.emit().to_vec();
    let pairs = round.xenstore.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    emit_xenstore_data(pairs, &mut body).unwrap();
    writer.record(&libxl_record(libxl::types::EMULATOR_XENSTORE_DATA, &body))?;
    writer.record(&libxl_record(libxl::types::EMULATOR_CONTEXT, &[&header.emit()[..], &round.emulator].concat()))
}

const DOMAIN: DomainHeader = DomainHeader::new(DomainType::Hvm, 4, 17);

/// The stream as libxl and libxc take turns at it.
fn write(spec: &Spec) -> Result<Vec<u8>, WriteError> {
    let libxl = LibxlWriter::start(Vec::new(), spec.mode, spec.config.as_deref())?;
    let mut libxc = libxl.libxc_context(spec.version, DOMAIN)?;
    write_static(&mut libxc, spec)?;
    if spec.mode == Mode::Plain {
        let round = &spec.rounds[0];
        write_round(&mut libxc, round)?;
        let mut libxl = libxc.end()?;
        write_device(&mut libxl, round)?;
        return libxl.end();
    }
    let mut rounds = spec.rounds.iter().peekable();
    loop {
        let round = rounds.next().unwrap();
        write_round(&mut libxc, round)?;
        let mut libxl = libxc.checkpoint()?;
        write_device(&mut libxl, round)?;
        let between = libxl.checkpoint_end()?;
        libxc = if spec.mode == Mode::Colo { between.out_of_sync()? } else { between.next_round() };
        if rounds.peek().is_none() {
            // One more image, so that the stream has a proper end to give the sink back at.
            write_round(&mut libxc, round)?;
            let mut libxl = libxc.end()?;
            write_device(&mut libxl, round)?;
            return libxl.end();
        }
    }
}

fn judge(stream: &[u8], options: &verify::Options) -> Report {
    let input = Input::Compressed(Box::new(Cursor::new(stream.to_vec())));
    verify(input, options, &mut Progress::none()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_verifies_and_comes_back(spec in specs()) {
        let stream = write(&spec).unwrap();
        let report = judge(&stream, &verify::Options { all: true, complete: true, ..verify::Options::default() });
        prop_assert!(report.valid, "{:?}", report.findings);
        let optional: usize = spec.rounds.iter().map(|round| round.optional.len()).sum();
        if spec.mode == Mode::Plain {
            let skipped = report.findings.iter().filter(|finding| finding.message.starts_with("unknown optional record"));
            prop_assert_eq!(skipped.count(), spec.rounds[0].optional.len());
        } else {
            prop_assert_eq!(report.checkpoints, spec.rounds.len() as u64);
            prop_assert!(report.findings.len() >= optional);
        }
        prop_assert_eq!(report.mode, spec.mode.name());

        let mut again = RecordWriter::new(Vec::new());
        let input = Input::Compressed(Box::new(Cursor::new(stream.clone())));
        walk(input, Options::default(), &mut Progress::none(), &mut |item| {
            again.item(item).unwrap();
            Flow::Next
        });
        prop_assert!(again.into_inner() == stream);
    }

    #[test]
    fn splits_do_not_matter(spec in specs(), splits in vec(1usize..9000, 1..20), skip_contents: bool) {
        let stream = write(&spec).unwrap();
        let options = Options { skip_contents, ..Options::default() };
        let expected = by_slice(&stream, options);
        prop_assert!(expected.1.is_none());
        let mut pieces = splits.iter().cycle();
        prop_assert!(expected == by_push(&stream, options, || *pieces.next().unwrap()));
        prop_assert!(expected == by_pull(&stream, options, splits[0]));
    }

    #[test]
    fn a_cut_is_found_where_it_is(spec in specs(), at: prop::sample::Index, skip_contents: bool) {
        let stream = write(&spec).unwrap();
        let stream = &stream[..at.index(stream.len())];
        let options = Options { skip_contents, ..Options::default() };
        let (items, error) = by_slice(stream, options);
        let error = error.unwrap();
        prop_assert!(error.is_truncation(), "{error:?} at {}", stream.len());
        prop_assert_eq!(error.offset, items.last().map_or(0, |item| item.offset + item.size));
        let expected = (items, Some(error));
        prop_assert!(expected == by_push(stream, options, || 77));
        prop_assert!(expected == by_pull(stream, options, 1000));
    }

    #[test]
    fn damage_never_panics_and_is_found_the_same_way(
        spec in specs(),
        hits in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        lenient: bool,
    ) {
        let mut stream = write(&spec).unwrap();
        for (at, value) in &hits {
            let at = at.index(stream.len());
            stream[at] ^= value;
        }
        for skip_contents in [false, true] {
            let options = Options { skip_contents, ..Options::default() };
            let expected = by_slice(&stream, options);
            prop_assert!(expected == by_push(&stream, options, || 501));
            prop_assert!(expected == by_pull(&stream, options, 3000));
        }
        let options = verify::Options { all: true, lenient, ..verify::Options::default() };
        let report = judge(&stream, &options);
        prop_assert_eq!(report.valid, !report.findings.iter().any(|finding| finding.is_error()));
        for json in [false, true] {
            let input = Input::Compressed(Box::new(Cursor::new(stream.clone())));
            let mut out = Vec::new();
            dump(input, Options::default(), dump::Options { json, verbose: true, ..dump::Options::default() }, &mut Progress::none(), &mut out).unwrap();
            prop_assert!(json || !out.is_empty());
        }
    }

    #[test]
    fn any_bytes_at_all(bytes in vec(any::<u8>(), 0..300), start in 0usize..4) {
        let heads: [&[u8]; 4] = [&[], b"LibxlFmt\0\0\0\x02\0\0\0\0", &common::build::libxc_headers(3, 2), &common::build::state(2)];
        let stream = [heads[start], &bytes[..]].concat();
        let expected = by_slice(&stream, Options::default());
        prop_assert!(expected == by_push(&stream, Options::default(), || 3));
        prop_assert!(expected == by_pull(&stream, Options::default(), 2));
    }

    #[test]
    fn bare_libxc_streams_too(spec in specs()) {
        let mut writer = LibxcWriter::<_, Alone>::start(Vec::new(), Mode::Remus, spec.version, DOMAIN).unwrap();
        write_static(&mut writer, &spec).unwrap();
        for round in &spec.rounds {
            write_round(&mut writer, round).unwrap();
            writer.checkpoint().unwrap();
        }
        write_round(&mut writer, &spec.rounds[0]).unwrap();
        let stream = writer.end().unwrap();
        let report = judge(&stream, &verify::Options::default());
        prop_assert!(report.valid, "{:?}", report.findings);
        prop_assert_eq!(report.checkpoints, spec.rounds.len() as u64);
        prop_assert_eq!(report.start, Some("libxc"));
    }
}
