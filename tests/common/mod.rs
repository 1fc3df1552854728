//! What several test programs share.
#![allow(dead_code)]

pub mod build;

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use xen_replicate::inspect::Input;
use xen_replicate::stream::framer::{Item, Options, What};
use xen_replicate::stream::reader::{PullReader, PushReader, ReadError, SliceReader};
use xen_replicate::stream::{Layer, StreamError};

/// A path under `fixtures`.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// The compressed streams under `fixtures`, by their path without the ending.
pub fn compressed_fixtures() -> Vec<String> {
    let mut names = Vec::new();
    for folder in ["helper", "xen"] {
        for entry in std::fs::read_dir(fixture(folder)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if let Some(stem) = name.strip_suffix(".xz") {
                names.push(format!("{folder}/{stem}"));
            }
        }
    }
    names.sort();
    assert!(names.len() >= 15, "fixtures are missing: {names:?}");
    names
}

/// Reads a file, unpacked.
pub fn read(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    match Input::open(path).unwrap() {
        Input::Mapped(map) => bytes.extend_from_slice(&map),
        Input::Pipe(mut pipe) => {
            pipe.read_to_end(&mut bytes).unwrap();
        }
        Input::Compressed(mut source) => {
            source.read_to_end(&mut bytes).unwrap();
        }
    }
    bytes
}

/// An item that owns its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owned {
    pub index: u64,
    pub offset: u64,
    pub size: u64,
    pub layer: Layer,
    pub round: u64,
    pub head: String,
    pub body: Vec<u8>,
    pub padding: Vec<u8>,
}

impl From<&Item<'_>> for Owned {
    fn from(item: &Item<'_>) -> Self {
        let (head, body, padding) = match &item.what {
            What::Record(frame) => (format!("{:?}", frame.header), frame.body.to_vec(), frame.padding.to_vec()),
            What::XlPreamble(preamble) => {
                (format!("{:?}", preamble.header), preamble.optional_data.to_vec(), Vec::new())
            }
            other => (format!("{other:?}"), Vec::new(), Vec::new()),
        };
        let Item { index, offset, size, layer, round, .. } = *item;
        Owned { index, offset, size, layer, round, head, body, padding }
    }
}

/// Items up to the end, and the error when it was not a proper one.
pub type Outcome = (Vec<Owned>, Option<StreamError>);

/// Reads a stream as a slice.
pub fn by_slice(stream: &[u8], options: Options) -> Outcome {
    let mut reader = SliceReader::new(stream, options);
    let mut items = Vec::new();
    loop {
        match reader.next_item() {
            Ok(Some(item)) => items.push(Owned::from(&item)),
            Ok(None) => return (items, None),
            Err(error) => return (items, Some(error)),
        }
    }
}

/// Reads a stream pushed in pieces, whose lengths `piece` gives.
pub fn by_push(mut stream: &[u8], options: Options, mut piece: impl FnMut() -> usize) -> Outcome {
    let mut reader = PushReader::new(options);
    let mut items = Vec::new();
    while !stream.is_empty() {
        let (now, later) = stream.split_at(piece().clamp(1, stream.len()));
        stream = later;
        reader.push(now);
        loop {
            match reader.next_item() {
                Ok(Some(item)) => items.push(Owned::from(&item)),
                Ok(None) => break,
                Err(error) => return (items, Some(error)),
            }
        }
    }
    (items, reader.finish().err())
}

/// A source that gives few bytes at a time and counts them.
pub struct Meter<'a> {
    pub rest: &'a [u8],
    pub given: u64,
    pub most: usize,
}

impl Read for Meter<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let bytes = out.len().min(self.most).min(self.rest.len());
        let (now, later) = self.rest.split_at(bytes);
        out[..bytes].copy_from_slice(now);
        self.rest = later;
        self.given += bytes as u64;
        Ok(bytes)
    }
}

/// Pulls a stream, at most `most` bytes a call. Panics when a byte is taken from behind an item given.
pub fn by_pull(stream: &[u8], options: Options, most: usize) -> Outcome {
    let mut reader = PullReader::new(Meter { rest: stream, given: 0, most }, options);
    let mut items: Vec<Owned> = Vec::new();
    loop {
        match reader.next_item() {
            Ok(Some(item)) => items.push(Owned::from(&item)),
            Ok(None) => return (items, None),
            Err(ReadError::Stream(error)) => return (items, Some(error)),
            Err(ReadError::Io { error, .. }) => panic!("{error}"),
        }
        let end = items.last().map_or(0, |item| item.offset + item.size);
        assert_eq!(reader.get_ref().given, end, "bytes taken from behind {:?}", items.last());
    }
}

/// A small generator of numbers, always the same for the same seed.
pub struct Numbers(pub u64);

impl Numbers {
    pub fn below(&mut self, bound: u64) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) % bound.max(1)
    }
}

/// Compares text with a golden file; with `UPDATE_GOLDEN` in the environment writes it instead.
pub fn golden(path: &Path, actual: &str) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, actual).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(path).unwrap_or_default();
    if expected != actual {
        let line = expected.lines().zip(actual.lines()).position(|(a, b)| a != b);
        let line = line.unwrap_or_else(|| expected.lines().count().min(actual.lines().count()));
        panic!(
            "{} differs from line {} on:\n  golden: {:?}\n  actual: {:?}\n(UPDATE_GOLDEN=1 writes it anew)",
            path.display(),
            line + 1,
            expected.lines().nth(line),
            actual.lines().nth(line),
        );
    }
}
