//! An epoch's writes in a file of their own, until they are applied or dropped.
//!
//! | bytes | what |
//! |---|---|
//! | 8, 8 | [`MAGIC`], the version |
//! | 8, 8 | whose disk's writes they are; the number of the mark that they follow |
//! | 8 | check: XXH3-64 over what is before it |
//! | ... | records |
//!
//! A record is `u32 kind, u32 0, u64 offset, u64 length, u64 check` and, of a write (1), its bytes; zeroes (2) have none; the end (3) has
//! the number of records in place of the offset and its mark behind it. A check is over the record without it, with the check before as
//! seed: so each vouches for its place, and an epoch with an end is whole. All numbers are little-endian.
#![forbid(unsafe_code)]

use super::error::{Error, Result, io};
use super::image::Image;
use super::wire::{MAX_DATA, Point};
use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::Xxh3;

const MAGIC: [u8; 8] = *b"XREPOCH\n";
const VERSION: u64 = 1;
const HEAD: usize = 40;
const RECORD: usize = 32;
const WRITE: u32 = 1;
const ZERO: u32 = 2;
const END: u32 = 3;

/// Something that becomes of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op<'a> {
    /// These bytes, at most [`MAX_DATA`], are there.
    Write { offset: u64, bytes: &'a [u8] },
    /// Zeroes are there.
    Zero { offset: u64, length: u64 },
}

impl Op<'_> {
    /// Has it become so.
    pub(super) fn apply(&self, image: &Image) -> Result<()> {
        match *self {
            Op::Write { offset, bytes } => image.write(offset, bytes),
            Op::Zero { offset, length } => image.zero(offset, length, true),
        }
    }

    /// Bytes that its record takes.
    pub(super) const fn bytes(&self) -> u64 {
        match self {
            Op::Write { bytes, .. } => (RECORD + bytes.len()) as u64,
            Op::Zero { .. } => RECORD as u64,
        }
    }
}

fn sum(seed: u64, parts: &[&[u8]]) -> u64 {
    let mut sum = Xxh3::with_seed(seed);
    parts.iter().for_each(|part| sum.update(part));
    sum.digest()
}

/// An epoch that is being written.
#[derive(Debug)]
pub(super) struct Writer {
    file: BufWriter<File>,
    path: PathBuf,
    previous: u64,
    check: u64,
    records: u64,
    bytes: u64,
}

impl Writer {
    /// A new one, of the disk of `run`, behind the mark with the number `previous`.
    pub(super) fn create(path: &Path, run: u64, previous: u64) -> Result<Self> {
        let named = |error| io(path.display())(error);
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(path).map_err(named)?;
        let mut file = BufWriter::with_capacity(256 << 10, file);
        let head = head(run, previous);
        let check = sum(0, &[&head]);
        file.write_all(&head).and_then(|()| file.write_all(&check.to_le_bytes())).map_err(named)?;
        Ok(Writer { file, path: path.to_owned(), previous, check, records: 0, bytes: HEAD as u64 })
    }

    /// Bytes so far.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn add(&mut self, op: Op<'_>) -> Result<()> {
        match op {
            Op::Write { offset, bytes } => self.record(WRITE, offset, bytes.len() as u64, bytes),
            Op::Zero { offset, length } => self.record(ZERO, offset, length, &[]),
        }
    }

    /// Ends it with its mark, and returns when it would outlive the host.
    pub(super) fn close(mut self, point: Point) -> Result<Closed> {
        let records = self.records;
        self.record(END, records, Point::LEN as u64, &point.bytes())?;
        let named = |error| io(self.path.display())(error);
        self.file.flush().map_err(named)?;
        self.file.get_ref().sync_data().map_err(named)?;
        Ok(Closed { path: self.path, previous: self.previous, point, bytes: self.bytes })
    }

    fn record(&mut self, kind: u32, offset: u64, length: u64, payload: &[u8]) -> Result<()> {
        let mut head = Vec::with_capacity(RECORD);
        head.extend(u64::from(kind).to_le_bytes());
        head.extend(offset.to_le_bytes());
        head.extend(length.to_le_bytes());
        self.check = sum(self.check, &[&head, payload]);
        head.extend(self.check.to_le_bytes());
        let file = &mut self.file;
        file.write_all(&head).and_then(|()| file.write_all(payload)).map_err(io(self.path.display()))?;
        self.records += 1;
        self.bytes += (RECORD + payload.len()) as u64;
        Ok(())
    }
}

fn head(run: u64, previous: u64) -> Vec<u8> {
    let mut head = MAGIC.to_vec();
    [VERSION, run, previous].iter().for_each(|word| head.extend(word.to_le_bytes()));
    head
}

/// An epoch that is whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Closed {
    pub path: PathBuf,
    /// The number of the mark that it follows.
    pub previous: u64,
    pub point: Point,
    /// What it takes on the file system.
    pub bytes: u64,
}

/// What was found in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    Closed(Closed),
    /// It ends, or is damaged, at this offset.
    Torn(u64),
}

/// Reads an epoch and hands on each of its operations, as far as they are sound.
///
/// # Errors
/// The system's, or those of `each`.
pub(super) fn replay(
    path: &Path,
    run: u64,
    previous: u64,
    mut each: impl FnMut(Op<'_>) -> Result<()>,
) -> Result<Found> {
    let named = |error| io(path.display())(error);
    let mut file = BufReader::with_capacity(256 << 10, File::open(path).map_err(named)?);
    let mut bytes = Vec::new();
    let mut take = |file: &mut BufReader<File>, most: usize| {
        bytes.clear();
        file.by_ref().take(most as u64).read_to_end(&mut bytes)?;
        std::io::Result::Ok((bytes.len() == most).then(|| bytes.clone()))
    };
    let expected = head(run, previous);
    let mut check = sum(0, &[&expected]);
    let whole = [&expected[..], &check.to_le_bytes()].concat();
    if take(&mut file, HEAD).map_err(named)?.as_ref() != Some(&whole) {
        return Ok(Found::Torn(0));
    }
    let mut at = HEAD as u64;
    let mut records = 0;
    loop {
        let torn = Ok(Found::Torn(at));
        let Some(head) = take(&mut file, RECORD).map_err(named)? else { return torn };
        let words: Vec<u64> =
            head.chunks_exact(8).filter_map(|word| word.try_into().ok()).map(u64::from_le_bytes).collect();
        let [kind, offset, length, got] = words[..] else { return torn };
        let kind = u32::try_from(kind).unwrap_or_default();
        let most = match (kind, usize::try_from(length)) {
            (WRITE, Ok(length @ 1..=MAX_DATA)) => length,
            (ZERO, _) => 0,
            (END, Ok(Point::LEN)) => Point::LEN,
            _ => return torn,
        };
        let Some(payload) = take(&mut file, most).map_err(named)? else { return torn };
        check = sum(check, &[head.get(..24).unwrap_or_default(), &payload]);
        if check != got {
            return torn;
        }
        at += (RECORD + most) as u64;
        match kind {
            WRITE => each(Op::Write { offset, bytes: &payload })?,
            ZERO => each(Op::Zero { offset, length })?,
            _ => {
                let rest = take(&mut file, 1).map_err(named)?;
                return match Point::parse(&payload) {
                    Some(point) if offset == records && rest.is_none() => {
                        Ok(Found::Closed(Closed { path: path.to_owned(), previous, point, bytes: at }))
                    }
                    _ => torn,
                };
            }
        }
        records += 1;
    }
}

/// Applies an epoch that was whole.
///
/// # Errors
/// The system's; it is whole no longer.
pub(super) fn apply(closed: &Closed, run: u64, image: &Image) -> Result<()> {
    match replay(&closed.path, run, closed.previous, |op| op.apply(image))? {
        Found::Closed(found) if found == *closed => Ok(()),
        Found::Closed(found) => Err(damaged(closed, found.bytes)),
        Found::Torn(offset) => Err(damaged(closed, offset)),
    }
}

fn damaged(closed: &Closed, offset: u64) -> Error {
    Error::Damaged { path: closed.path.display().to_string(), offset }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Mark;
    use proptest::prelude::*;

    /// A write at an offset, or zeroes.
    type Each = (u64, Option<Vec<u8>>);

    const POINT: Point = Point { seq: 8, mark: Mark { session: 5, checkpoint: 3 }, disks: 1 };

    fn ops() -> impl Strategy<Value = Vec<Each>> {
        prop::collection::vec((any::<u64>(), prop::option::of(prop::collection::vec(any::<u8>(), 1..300))), 0..8)
    }

    fn op((offset, bytes): &Each) -> Op<'_> {
        match bytes {
            Some(bytes) => Op::Write { offset: *offset, bytes },
            None => Op::Zero { offset: *offset, length: offset ^ 7 },
        }
    }

    fn written(path: &Path, ops: &[Each]) -> Closed {
        let mut writer = Writer::create(path, 9, 7).unwrap();
        for each in ops {
            writer.add(op(each)).unwrap();
        }
        writer.close(POINT).unwrap()
    }

    fn read(path: &Path) -> (Found, Vec<Each>) {
        let mut seen = Vec::new();
        let found = replay(path, 9, 7, |op| {
            seen.push(match op {
                Op::Write { offset, bytes } => (offset, Some(bytes.to_vec())),
                Op::Zero { offset, .. } => (offset, None),
            });
            Ok(())
        });
        (found.unwrap(), seen)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_what_is_cut_or_flipped_is_not_whole(
            ops in ops(), at: prop::sample::Index, bit in 0..8u8
        ) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("epoch");
            let closed = written(&path, &ops);
            let bytes = std::fs::read(&path).unwrap();
            prop_assert_eq!(closed.bytes, bytes.len() as u64);
            prop_assert_eq!(read(&path), (Found::Closed(closed.clone()), ops.clone()));
            let at = at.index(bytes.len());
            std::fs::write(&path, &bytes[..at]).unwrap();
            let (found, seen) = read(&path);
            prop_assert!(matches!(found, Found::Torn(offset) if offset <= at as u64), "{:?}", found);
            prop_assert!(ops.starts_with(&seen));
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            std::fs::write(&path, &flipped).unwrap();
            let (found, seen) = read(&path);
            prop_assert!(matches!(found, Found::Torn(_)) && ops.starts_with(&seen));
            std::fs::write(&path, [&bytes[..], &[0]].concat()).unwrap();
            prop_assert!(matches!(read(&path).0, Found::Torn(_)));
        }
    }

    #[test]
    fn an_epoch_of_another_disk_or_place_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("epoch");
        written(&path, &[(1, None)]);
        for (run, previous) in [(8, 7), (9, 8)] {
            assert_eq!(replay(&path, run, previous, |_| panic!("an operation")).unwrap(), Found::Torn(0));
        }
    }
}
