//! Streams taken apart and put together again with one thing changed.

use crate::common::build::{hvm_context, record};
use crate::common::{fixture, read};
use std::io::Cursor;
use xen_replicate::inspect::Input;
use xen_replicate::inspect::progress::Progress;
use xen_replicate::inspect::verify::{Options, Report, verify};
use xen_replicate::stream::reader::SliceReader;
use xen_replicate::stream::{Layer, What};

/// An input of `fixtures/inputs`.
pub fn input(name: &str) -> Vec<u8> {
    read(&fixture(&format!("inputs/{name}.bin")))
}

/// A HVM guest with QEMU of which nothing is wrong.
pub fn good_hvm() -> Vec<u8> {
    let stream = input("B4a-icelake-max-subleaf-2");
    assert_eq!(said(&stream), [""; 0], "the stream that the others are made from");
    stream
}

/// What becomes of a record.
pub enum Change {
    Keep,
    Drop,
    Body(Vec<u8>),
}

/// The stream with some records changed.
pub fn edit(stream: &[u8], mut change: impl FnMut(Layer, u32, &[u8]) -> Change) -> Vec<u8> {
    let mut out = Vec::new();
    let mut reader = SliceReader::new(stream, Default::default());
    while let Some(item) = reader.next_item().unwrap() {
        let raw = &stream[item.offset as usize..(item.offset + item.size) as usize];
        match &item.what {
            What::Record(frame) => match change(item.layer, frame.header.type_id, frame.body) {
                Change::Keep => out.extend_from_slice(raw),
                Change::Drop => {}
                Change::Body(body) => out.extend(record(frame.header.type_id, &body)),
            },
            _ => out.extend_from_slice(raw),
        }
    }
    out
}

/// The stream with the body of every record of one type of libxc's changed.
pub fn with_body(stream: &[u8], type_id: u32, change: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let mut seen = 0;
    let out = edit(stream, |layer, found, body| match (layer, found) {
        (Layer::Libxc, found) if found == type_id => {
            seen += 1;
            Change::Body(change(body))
        }
        _ => Change::Keep,
    });
    assert!(seen > 0, "no record of type {type_id}");
    out
}

/// The stream without the records of one type.
pub fn without(stream: &[u8], layer: Layer, type_id: u32) -> Vec<u8> {
    let out = edit(stream, |at, found, _| if (at, found) == (layer, type_id) { Change::Drop } else { Change::Keep });
    assert!(out.len() < stream.len(), "no record of type {type_id}");
    out
}

/// An entry of a HVM context.
pub type Entry = (u16, u16, Vec<u8>);

/// The entries of a HVM context, without END.
pub fn entries(blob: &[u8]) -> Vec<Entry> {
    let mut out = Vec::new();
    let mut rest = blob;
    loop {
        let typecode = u16::from_le_bytes([rest[0], rest[1]]);
        let instance = u16::from_le_bytes([rest[2], rest[3]]);
        let length = u32::from_le_bytes(rest[4..8].try_into().unwrap()) as usize;
        if typecode == 0 {
            return out;
        }
        out.push((typecode, instance, rest[8..8 + length].to_vec()));
        rest = &rest[8 + length..];
    }
}

/// The stream with the entries of its HVM context changed.
pub fn with_entries(stream: &[u8], change: impl Fn(&mut Vec<Entry>)) -> Vec<u8> {
    with_body(stream, 9, |blob| {
        let mut list = entries(blob);
        change(&mut list);
        let list: Vec<_> = list.iter().map(|(typecode, instance, data)| (*typecode, *instance, &data[..])).collect();
        hvm_context(&list)
    })
}

/// The stream with the data of its first entry of one type changed.
pub fn with_entry(stream: &[u8], typecode: u16, change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    with_entries(stream, |list| {
        let entry = list.iter_mut().find(|entry| entry.0 == typecode);
        change(&mut entry.unwrap_or_else(|| panic!("no entry of type {typecode}")).2);
    })
}

/// What `verify --all` makes of a stream.
pub fn judged(stream: &[u8]) -> Report {
    let options = Options { all: true, ..Options::default() };
    verify(Input::Compressed(Box::new(Cursor::new(stream.to_vec()))), &options, &mut Progress::none()).unwrap()
}

/// All of its findings, as `severity: message`, but those that every stream of a real host has.
pub fn said(stream: &[u8]) -> Vec<String> {
    let usual = ["xl migration handshake", "HVM_CONTEXT stands before HVM_PARAMS"];
    let findings = judged(stream).findings.into_iter();
    let findings = findings.filter(|finding| !usual.iter().any(|usual| finding.message.starts_with(usual)));
    findings.map(|finding| format!("{}: {}", finding.severity, finding.message)).collect()
}

/// One finding and no other, which begins and contains so.
#[track_caller]
pub fn only(stream: &[u8], start: &str, part: &str) {
    let said = said(stream);
    assert!(said.len() == 1 && said[0].starts_with(start) && said[0].contains(part), "{start:?} {part:?}: {said:?}");
}

/// A finding among others.
#[track_caller]
pub fn among(stream: &[u8], start: &str, part: &str) {
    let said = said(stream);
    assert!(said.iter().any(|it| it.starts_with(start) && it.contains(part)), "{start:?} {part:?}: {said:?}");
}
