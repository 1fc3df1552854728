//! What is no stream, before it, inside it and behind it.

use crate::common::build::hvm_xl;
use crate::edit::{good_hvm, judged};
use std::io::Write;
use xen_replicate::inspect::Input;
use xen_replicate::inspect::foreign::Foreign;
use xen_replicate::inspect::progress::Progress;
use xen_replicate::inspect::verify::{Options, verify};
use xen_replicate::stream::What;
use xen_replicate::stream::reader::SliceReader;

/// What is found as a file that is mapped, which must be what is found as a pipe.
fn found(stream: &[u8]) -> Option<Foreign> {
    let piped = judged(stream).foreign;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(stream).unwrap();
    let options = Options { all: true, ..Options::default() };
    let mapped = verify(Input::open(file.path()).unwrap(), &options, &mut Progress::none()).unwrap();
    assert!(!mapped.valid, "{:?}", mapped.findings);
    match (&mapped.foreign, &piped) {
        // Of a pipe nobody knows what went before.
        (Some(Foreign::Zeros { .. }), Some(Foreign::Zeros { .. })) => {}
        (mapped, piped) => assert_eq!(mapped, piped),
    }
    mapped.foreign
}

const TEXTS: &[&str] = &[
    "oops: no",
    "Welcome to host b!\r\nLast login: Tue Nov  3 08:00:01 2026\r\n",
    "\u{1b}[1;31mSystem restart required\u{1b}[0m\n",
    "Größte Vorsicht: Wartung um 22 Uhr\n",
    "xc: info: Saving domain 7, type x86 HVM\nlibxl: warning: something\n",
    "END LibxlFm",
];

#[test]
fn any_text_at_every_place_between_two_items() {
    let good = good_hvm();
    let mut places = Vec::new();
    let mut reader = SliceReader::new(&good, Default::default());
    while let Some(item) = reader.next_item().unwrap() {
        // The domain header has no mark: text in its place is an error for its type.
        if !matches!(item.what, What::DomainHeader(_)) {
            places.push(item.offset as usize);
        }
    }
    assert!(places.len() > 12);
    for &place in &places {
        for text in TEXTS {
            let stream = [&good[..place], text.as_bytes(), &good[place..]].concat();
            let Some(Foreign::Text { offset, bytes, text: quoted, goes_on }) = found(&stream) else {
                panic!("{text:?} at {place}: {:?}", judged(&stream));
            };
            assert_eq!((offset, bytes), (place as u64, text.len() as u64), "{text:?}");
            assert_eq!((&quoted[..], goes_on), (*text, Some((place + text.len()) as u64)));
        }
    }
}

#[test]
fn long_text_is_quoted_in_part() {
    for length in [206, 4096, 60_000] {
        let text = "motd ".repeat(length / 5);
        let stream = [text.as_bytes(), &hvm_xl()].concat();
        let Some(Foreign::Text { bytes, text: quoted, goes_on, .. }) = found(&stream) else { panic!("{length}") };
        assert_eq!((bytes, goes_on), (text.len() as u64, Some(text.len() as u64)));
        assert!(quoted.ends_with('…') && quoted.chars().count() == 201);
    }
    // Nothing but text.
    let Some(Foreign::Text { goes_on: None, .. }) = found(b"ssh: connect to host b port 22: Connection refused\r\n")
    else {
        panic!()
    };
}

#[test]
fn the_tail_that_a_crash_left_unwritten_at_every_place() {
    let good = good_hvm();
    for lost in (0..good.len() - 64).step_by(97) {
        let mut stream = good.clone();
        stream[lost..].fill(0);
        stream.resize(stream.len().next_multiple_of(4096) + 4096, 0);
        let zeros = stream.iter().rev().take_while(|byte| **byte == 0).count() as u64;
        match found(&stream) {
            Some(Foreign::Zeros { offset, bytes, to_end: true }) => {
                assert_eq!((offset, bytes), (stream.len() as u64 - zeros, zeros), "lost from {lost} on");
            }
            // Headers and bodies that are cut in the middle are found wrong by themselves.
            other => panic!("lost from {lost} on: {other:?}: {:?}", judged(&stream).findings),
        }
    }
}

#[test]
fn a_whole_stream_is_none_of_these() {
    assert_eq!(judged(&good_hvm()).foreign, None);
    assert_eq!(judged(&hvm_xl()).foreign, None);
}
