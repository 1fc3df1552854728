//! The file of a recorded session.
//!
//! Little-endian. A header of 16 bytes: `XRTAPREC`, u32 version 2, u32 dialect (0 QEMU, 1 COLO-Frame v8, 2 libxl). Then
//! entries, each with a header of 24 bytes and its bytes behind it:
//!
//! | field | meaning |
//! |---|---|
//! | u16 kind | 0 forward: from the primary; 1 back: from the secondary; 2 and 3: the end of that direction, without bytes |
//! | u16 connection | in order of arrival, from 0; a multifd session has several, at most 256 |
//! | u32 length | bytes that follow, at most 1 MiB |
//! | u64 time | nanoseconds since the session began |
//! | u64 sum | XXH3-64 over the 16 bytes in front of it and the bytes behind it |
//!
//! Version 1 is the same, with connection 0 alone. Entries stand in the order in which the tap read them, before it passed them on: so an answer stands behind what it
//! answers. Each is written by one call, so that a file that was cut, or whose last entry is damaged, is good up to there;
//! the sum tells. Written is to the system, not to the disk: a tap that is killed loses nothing that it passed on, a host that
//! loses its power may.
#![forbid(unsafe_code)]

use crate::colo::dialect::{Dialect, Layout};
use std::io::{self, IoSlice, Read, Write};
use std::time::Duration;
use thiserror::Error;
use xxhash_rust::xxh3::Xxh3;

/// What a recording begins with.
pub const MAGIC: [u8; 8] = *b"XRTAPREC";
/// Most bytes of an entry.
pub const MOST: usize = 1 << 20;

const VERSION: u32 = 2;
/// The greatest number of a connection.
pub const MOST_CONNECTION: u16 = 255;
const HEADER: usize = 24;

/// The wire form that was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// QEMU's COLOMessage, u32.
    Qemu,
    /// COLO-Frame v8, u64.
    FrameV8,
    /// libxl's records.
    Libxl,
}

impl Form {
    const ALL: [Form; 3] = [Form::Qemu, Form::FrameV8, Form::Libxl];

    /// Its dialect among those of [`crate::colo`] that stand in a migration stream of QEMU's; `None` for libxl's records.
    pub const fn dialect(self) -> Option<Dialect> {
        match self {
            Form::Qemu => Some(Dialect::Qemu(Layout::Live)),
            Form::FrameV8 => Some(Dialect::FrameV8),
            Form::Libxl => None,
        }
    }

    const fn number(self) -> u32 {
        match self {
            Form::Qemu => 0,
            Form::FrameV8 => 1,
            Form::Libxl => 2,
        }
    }
}

/// Who sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// The primary.
    Forward,
    /// The secondary.
    Back,
}

/// What an entry holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Of which connection, in order of arrival.
    pub connection: u16,
    /// Which direction.
    pub direction: Direction,
    /// Whether it is the direction's end, and holds no bytes.
    pub end: bool,
    /// Since the session began.
    pub at: Duration,
}

/// Why a recording stops being one.
#[derive(Debug, Error)]
pub enum ReadError {
    /// No recording, or one of another version.
    #[error("no recording of version 1 or 2: it begins with {0:02x?}")]
    Header([u8; 16]),
    /// The file was cut.
    #[error("cut at offset {offset}, inside of an entry")]
    Cut {
        /// Of the entry.
        offset: u64,
    },
    /// An entry that nobody wrote like that.
    #[error("entry at offset {offset}: {what} {value:#x}")]
    Entry {
        /// Of the entry.
        offset: u64,
        /// Which field.
        what: &'static str,
        /// What stands there.
        value: u64,
    },
    /// The system's.
    #[error(transparent)]
    Io(#[from] io::Error),
}

fn sum(header: &[u8], bytes: &[u8]) -> u64 {
    let mut sum = Xxh3::new();
    sum.update(header);
    sum.update(bytes);
    sum.digest()
}

/// Writes a recording.
#[derive(Debug)]
pub struct Recorder<W> {
    out: W,
}

impl<W: Write> Recorder<W> {
    /// Begins one.
    ///
    /// # Errors
    /// The writer's.
    pub fn new(mut out: W, form: Form) -> io::Result<Self> {
        out.write_all(&[MAGIC.as_slice(), &VERSION.to_le_bytes(), &form.number().to_le_bytes()].concat())?;
        Ok(Recorder { out })
    }

    /// Writes an entry; more than one where there are more than [`MOST`] bytes.
    ///
    /// # Errors
    /// The writer's.
    pub fn write(&mut self, entry: Entry, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return self.one(entry, bytes);
        }
        bytes.chunks(MOST).try_for_each(|part| self.one(entry, part))
    }

    /// What it was written to.
    pub fn into_inner(self) -> W {
        self.out
    }

    fn one(&mut self, entry: Entry, bytes: &[u8]) -> io::Result<()> {
        let kind = u32::from(entry.direction == Direction::Back) + if entry.end { 2 } else { 0 };
        let kind = kind | u32::from(entry.connection) << 16;
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let nanos = u64::try_from(entry.at.as_nanos()).unwrap_or(u64::MAX);
        let mut header = [kind.to_le_bytes(), length.to_le_bytes()].concat();
        header.extend(nanos.to_le_bytes());
        header.extend(sum(&header, bytes).to_le_bytes());
        let mut parts: &mut [IoSlice<'_>] = &mut [IoSlice::new(&header), IoSlice::new(bytes)];
        while !parts.is_empty() {
            match self.out.write_vectored(parts) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => IoSlice::advance_slices(&mut parts, written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Reads a recording. Holds one entry.
#[derive(Debug)]
pub struct Reader<R> {
    source: R,
    form: Form,
    /// The greatest number of a connection in this version.
    most: u16,
    offset: u64,
    bytes: Vec<u8>,
}

impl<R: Read> Reader<R> {
    /// Opens one.
    ///
    /// # Errors
    /// [`ReadError::Header`], [`ReadError::Io`].
    pub fn new(mut source: R) -> Result<Self, ReadError> {
        let mut header = [0; 16];
        let got = fill(&mut source, &mut header)?;
        let word = |at: usize| header.get(at..).and_then(|rest| rest.first_chunk()).map(|w| u32::from_le_bytes(*w));
        let form = Form::ALL.into_iter().find(|form| Some(form.number()) == word(12));
        match form {
            Some(form) if got == 16 && header.starts_with(&MAGIC) && matches!(word(8), Some(1 | VERSION)) => {
                let most = if word(8) == Some(1) { 0 } else { MOST_CONNECTION };
                Ok(Reader { source, form, most, offset: 16, bytes: Vec::new() })
            }
            _ => Err(ReadError::Header(header)),
        }
    }

    /// Which wire form was recorded.
    pub const fn form(&self) -> Form {
        self.form
    }

    /// The next entry and its bytes; `None` at the end.
    ///
    /// # Errors
    /// [`ReadError`]. What was given before is good.
    pub fn next_entry(&mut self) -> Result<Option<(Entry, &[u8])>, ReadError> {
        let offset = self.offset;
        let mut header = [0; HEADER];
        match fill(&mut self.source, &mut header)? {
            0 => return Ok(None),
            HEADER => {}
            _ => return Err(ReadError::Cut { offset }),
        }
        let (kind, rest) = header.split_first_chunk().unwrap_or((&[0; 4], &[]));
        let (length, rest) = rest.split_first_chunk().unwrap_or((&[0; 4], &[]));
        let (nanos, rest) = rest.split_first_chunk().unwrap_or((&[0; 8], &[]));
        let (kind, length) = (u32::from_le_bytes(*kind), u32::from_le_bytes(*length) as usize);
        let wrong = |what, value| Err(ReadError::Entry { offset, what, value });
        let connection = u16::try_from(kind >> 16).unwrap_or(u16::MAX);
        if kind & 0xffff > 3 || connection > self.most {
            return wrong("kind", kind.into());
        }
        let kind = kind & 0xffff;
        if length > MOST || (kind > 1 && length > 0) {
            return wrong("length", length as u64);
        }
        self.bytes.resize(length, 0);
        if fill(&mut self.source, &mut self.bytes)? < length {
            return Err(ReadError::Cut { offset });
        }
        let found = rest.first_chunk().map_or(0, |sum| u64::from_le_bytes(*sum));
        if found != sum(header.get(..16).unwrap_or_default(), &self.bytes) {
            return wrong("wrong sum", found);
        }
        self.offset += (HEADER + length) as u64;
        let direction = if kind & 1 == 0 { Direction::Forward } else { Direction::Back };
        let at = Duration::from_nanos(u64::from_le_bytes(*nanos));
        Ok(Some((Entry { connection, direction, end: kind > 1, at }, &self.bytes)))
    }
}

/// Reads until `out` is full or the end comes; gives how many bytes.
fn fill(source: &mut impl Read, out: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while let Some(rest) = out.get_mut(got..).filter(|rest| !rest.is_empty()) {
        match source.read(rest) {
            Ok(0) => break,
            Ok(bytes) => got += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(file: &[u8]) -> (Vec<(Entry, Vec<u8>)>, Option<ReadError>) {
        let mut reader = Reader::new(file).unwrap();
        let mut out = Vec::new();
        loop {
            match reader.next_entry() {
                Ok(Some((entry, bytes))) => out.push((entry, bytes.to_vec())),
                Ok(None) => return (out, None),
                Err(error) => return (out, Some(error)),
            }
        }
    }

    fn file() -> Vec<u8> {
        let mut recorder = Recorder::new(Vec::new(), Form::Qemu).unwrap();
        let entry = |direction, end, ms| Entry { connection: 0, direction, end, at: Duration::from_millis(ms) };
        recorder.write(entry(Direction::Forward, false, 1), b"abc").unwrap();
        recorder.write(entry(Direction::Back, false, 2), b"d").unwrap();
        recorder.write(entry(Direction::Forward, true, 3), b"").unwrap();
        recorder.out
    }

    #[test]
    fn a_file_cut_anywhere_is_good_up_to_there() {
        let file = file();
        let (whole, end) = entries(&file);
        assert!(end.is_none());
        assert_eq!(whole.len(), 3);
        assert_eq!((whole[0].0.at, whole[0].1.as_slice()), (Duration::from_millis(1), b"abc".as_slice()));
        assert_eq!((whole[2].0.direction, whole[2].0.end), (Direction::Forward, true));
        let ends = [16, 43, 68, 92];
        for length in 16..file.len() {
            let (found, end) = entries(&file[..length]);
            let expected = ends.iter().filter(|end| **end <= length).count() - 1;
            assert_eq!(found, whole[..expected], "{length}");
            assert_eq!(end.is_none(), ends.contains(&length), "{length}");
        }
        assert!(matches!(Reader::new(&file[..15]), Err(ReadError::Header(_))));
    }

    #[test]
    fn every_byte_counts() {
        let file = file();
        for at in 0..file.len() {
            let mut changed = file.clone();
            changed[at] ^= 4;
            match Reader::new(changed.as_slice()) {
                Err(_) => assert!(at < 16),
                Ok(_) => assert!(entries(&changed).1.is_some(), "{at}"),
            }
        }
    }
}
