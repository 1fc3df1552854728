//! The stream changes hands: each owner takes its own bytes and not one more, and writes only in its own turn.

mod common;

use common::build::{self, hvm_libxc, hvm_remus, hvm_xl};
use common::{Meter, fixture, read};
use xen_replicate::stream::framer::Options;
use xen_replicate::stream::handover::{Alone, LibxcReader, LibxcWriter, LibxlReader, LibxlWriter, WriteError};
use xen_replicate::stream::libxc::{self, DomainHeader, DomainType, PageEntry, PageType, TscInfo};
use xen_replicate::stream::{Mode, Start, libxl};

const DOMAIN: DomainHeader = DomainHeader::new(DomainType::Hvm, 4, 17);

fn meter(stream: &[u8]) -> Meter<'_> {
    Meter { rest: stream, given: 0, most: usize::MAX }
}

/// Offsets at which the stream changes hands, by a reader that owns nothing else: the records' own offsets.
fn hand_over_offsets(stream: &[u8]) -> Vec<u64> {
    let (items, _) = common::by_slice(stream, Options::default());
    let hands = |item: &common::Owned| {
        let libxl = item.layer == xen_replicate::stream::Layer::Libxl;
        let type_id = item.head.strip_prefix("RecordHeader { type_id: ")?.split(',').next()?.parse::<u32>().ok()?;
        (if libxl { matches!(type_id, 0 | 1 | 4) } else { matches!(type_id, 0 | 14) })
            .then_some(item.offset + item.size)
    };
    items.iter().filter_map(hands).collect()
}

/// Reads a whole stream with readers that move; gives how many bytes the source had given at each hand-over.
fn read_by_turns(stream: &[u8], start: Start) -> Vec<u64> {
    let options = Options { start: Some(start), ..Options::default() };
    let (mut libxl, config) = LibxlReader::start(meter(stream), options).unwrap();
    assert_eq!(config.is_some(), start == Start::Xl);
    let mut offsets = Vec::new();
    let mut first = true;
    loop {
        while libxl.next_record().ok().flatten().is_some() {}
        offsets.push(libxl.offset());
        let mut libxc = match libxl.into_libxc() {
            Ok(libxc) => libxc,
            Err(libxl) => {
                assert_eq!(libxl.into_inner().given, *offsets.last().unwrap());
                return offsets;
            }
        };
        if std::mem::take(&mut first) {
            match libxc.headers() {
                Ok((_, domain)) => assert_eq!(domain, DOMAIN),
                // The source has no more than libxl's turn.
                Err(_) => return offsets,
            }
        }
        loop {
            match libxc.next_record() {
                Ok(Some(_)) => {}
                Ok(None) => break,
                // A checkpointed stream just stops.
                Err(_) => return offsets,
            }
        }
        offsets.push(libxc.offset());
        match libxc.into_libxl() {
            Ok(next) => libxl = next,
            Err(_) => panic!("libxc stopped reading, but it is still its turn"),
        }
    }
}

#[test]
fn not_one_byte_too_many_is_read() {
    for (stream, start) in [
        (hvm_xl(), Start::Xl),
        (hvm_remus(3).0, Start::Libxl),
        (read(&fixture("helper/hvm-plain-libxl.xz")), Start::Libxl),
        (read(&fixture("helper/hvm-remus-libxl.xz")), Start::Libxl),
        (read(&fixture("xen/4.17.7stock-pvh40-remus.xz")), Start::Xl),
    ] {
        let expected = hand_over_offsets(&stream);
        let mut got = read_by_turns(&stream, start);
        got.dedup();
        assert!(expected.len() >= 3);
        assert_eq!(got, expected);
        // The same, with the bytes of each turn in a source of their own: the next owner's are not there yet.
        for pair in expected.windows(2) {
            assert!(pair[0] < pair[1]);
        }
    }
}

#[test]
fn a_source_that_ends_with_a_turn_is_enough_for_the_turn() {
    let stream = hvm_remus(2).0;
    for end in hand_over_offsets(&stream) {
        // Whoever has the turn gets through it without a look at the next.
        let got = read_by_turns(&stream[..end as usize], Start::Libxl);
        assert_eq!(got.last(), Some(&end), "the source ends at {end}");
    }
}

#[test]
fn two_processes_share_one_pipe() {
    // The child is a program that knows nothing of streams: it must find exactly the bytes of the next owner.
    let (remus, ends) = hvm_remus(1);
    let stream = [&remus[..], b"the rest belongs to the child\n"].concat();
    let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    std::io::Write::write_all(&mut theirs, &stream).unwrap();
    drop(theirs);
    let options = Options { start: Some(Start::Libxl), ..Options::default() };
    let (mut libxl, _) = LibxlReader::start(ours, options).unwrap();
    while libxl.next_record().unwrap().is_some() {}
    let mut libxc = libxl.into_libxc().unwrap();
    libxc.headers().unwrap();
    while libxc.next_record().unwrap().is_some() {}
    let Ok(mut libxl) = libxc.into_libxl() else { panic!("libxl's turn") };
    while libxl.next_record().unwrap().is_some() {}
    assert_eq!(libxl.offset(), ends[0] as u64);
    let socket: std::os::fd::OwnedFd = libxl.into_inner().into();
    let output = std::process::Command::new("cat").stdin(socket).output().unwrap();
    assert_eq!(output.stdout, b"the rest belongs to the child\n");
}

#[test]
fn the_bare_reader_keeps_its_place_over_checkpoints() {
    let stream = read(&fixture("helper/hvm-remus-libxc.xz"));
    let mut reader =
        LibxcReader::<_, Alone>::start(meter(&stream), Options { mode: Some(Mode::Remus), ..Options::default() });
    reader.headers().unwrap();
    let mut checkpoints = Vec::new();
    while let Ok(Some((item, record))) = reader.next_record() {
        if record == libxc::Record::Checkpoint {
            checkpoints.push(item.offset + item.size);
        }
    }
    assert_eq!(checkpoints.len(), 4);
    assert_eq!(*checkpoints.last().unwrap(), stream.len() as u64);
}

#[test]
fn what_must_be_refused_is_refused_by_the_readers() {
    let mut stream = hvm_libxc();
    stream.splice(40..40, build::record(0x13, &[])); // an unknown mandatory record among the static ones
    let mut reader = LibxcReader::<_, Alone>::start(meter(&stream), Options::default());
    reader.headers().unwrap();
    let error = loop {
        match reader.next_record() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("passed"),
            Err(error) => break error.to_string(),
        }
    };
    assert!(error.contains("unknown mandatory record type 0x00000013"), "{error}");
}

#[test]
fn writers_refuse_what_the_grammar_forbids_before_a_byte_is_written() {
    let mut writer = LibxcWriter::<_, Alone>::start(Vec::new(), Mode::Plain, 3, DOMAIN).unwrap();
    let before = writer.written();
    let tsc = libxc::Record::X86TscInfo(TscInfo { mode: 0, khz: 0, nsec: 0, incarnation: 0, reserved: 0 });
    let error = writer.record(&tsc).unwrap_err();
    assert_eq!(error.to_string(), "not written at offset 40: X86_TSC_INFO before STATIC_DATA_END");
    assert_eq!(writer.written(), before);
    assert!(matches!(writer.record(&libxc::Record::End), Err(WriteError::HandsOver("END"))));

    let libxl = LibxlWriter::start(Vec::new(), Mode::Plain, None).unwrap();
    assert!(matches!(libxl.end(), Err(WriteError::Order { .. })), "END without LIBXC_CONTEXT");
    let libxl = LibxlWriter::start(Vec::new(), Mode::Plain, None).unwrap();
    assert!(matches!(libxl.checkpoint_end(), Err(WriteError::Order { .. })), "CHECKPOINT_END in a plain stream");
    let mut libxl = LibxlWriter::start(Vec::new(), Mode::Plain, None).unwrap();
    assert!(matches!(libxl.record(&libxl::Record::LibxcContext), Err(WriteError::HandsOver("LIBXC_CONTEXT"))));
}

#[test]
fn writing_by_turns_gives_the_stream_that_the_specification_asks_for() {
    let libxl = LibxlWriter::start(Vec::new(), Mode::Plain, None).unwrap();
    let mut libxc = libxl.libxc_context(2, DOMAIN).unwrap();
    let entries = [PageEntry { page_type: PageType::NOTAB, pfn: 0 }, PageEntry { page_type: PageType::XTAB, pfn: 1 }];
    libxc.page_data(entries.iter().copied(), [&[1; 4096][..]]).unwrap();
    let stream = libxc.end().unwrap().end().unwrap();
    let expected = [
        build::libxl_header(),
        build::record(1, &[]),
        build::libxc_headers(2, 2),
        build::record(1, &build::pages(&[0, 0xf << 60 | 1], 1)),
        build::record(0, &[]),
        build::record(0, &[]),
    ];
    assert_eq!(stream, expected.concat());
}
