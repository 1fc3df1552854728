//! libxc's share of COLO's back channel: after each suspension the secondary lists the pages that it has written, so
//! that the primary sends its own contents of them.
//!
//! libxl's records pass over the same descriptor at other times, so nothing is read beyond the one record.
//!
//! # Two framings
//!
//! From Xen 4.18 on the stock secondary writes Xen's `struct xc_sr_record` in the place of a record's header (commit efe8de1f91,
//! `send_checkpoint_dirty_pfn_list` in `tools/libs/guest/xg_sr_restore.c`): eight zero bytes too many, which are a pointer, and are not
//! in the record's length. So the record ends before the last pfn, and in the place of the first is 0. A list is in ascending order
//! and has no pfn twice, so what begins with another pfn than 0 is of the specification's framing, and what begins with 0 twice is of
//! the other one. What begins with 0 once, or is empty, shows only in what follows: the other eight bytes, which were written with
//! the rest; or nothing, for the secondary says no more until it has had the checkpoint. That is waited for, once: a peer has one
//! framing.
//!
//! This project's secondary writes the specification's.
//!
//! Source: "CHECKPOINT_DIRTY_PFN_LIST" of the libxc specification.
#![forbid(unsafe_code)]

use super::failure::Failure;
use super::supervised::{APPLIED, Applied};
use crate::hypervisor::DirtyBitmap;
use crate::stream::framer::{Options, record_name};
use crate::stream::libxc::{MAX_BODY, Record, types};
use crate::stream::reader::{PullReader, ReadError};
use crate::stream::writer::RecordWriter;
use crate::stream::{Layer, Mode, Start, What};
use std::io::{self, Read, Write};
use std::time::Duration;

/// Most pages that one list can name: real receivers take no longer record.
pub const MOST: u64 = MAX_BODY as u64 / 8;

/// How long the end of a list in Xen's framing may come behind what is before it, which was written with it.
const TOGETHER: Duration = Duration::from_secs(3);

/// A channel that can be asked whether there is more.
pub trait BackChannel: Read {
    /// Whether a read would not wait, or would not after this time. An end is something to read, too.
    ///
    /// # Errors
    /// The channel's.
    fn has_more_within(&mut self, time: Duration) -> io::Result<bool>;
}

impl BackChannel for &[u8] {
    fn has_more_within(&mut self, _: Duration) -> io::Result<bool> {
        Ok(!self.is_empty())
    }
}

/// How the peer frames its lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    /// Not yet known.
    Unknown,
    /// A record's header and the list.
    Specified,
    /// Eight zero bytes between the two.
    Longer,
}

/// The primary's end.
#[derive(Debug)]
pub struct BackReader<B> {
    source: PullReader<B>,
    framing: Framing,
    list: Vec<u64>,
}

impl<B: BackChannel> BackReader<B> {
    /// Over the channel.
    pub fn new(channel: B) -> Self {
        let options = Options { start: Some(Start::Back), mode: Some(Mode::Back), ..Options::default() };
        BackReader { source: PullReader::new(channel, options), framing: Framing::Unknown, list: Vec::new() }
    }

    /// Reads one list and passes each pfn to `named`, which says whether the domain can have it.
    ///
    /// # Errors
    /// The channel's; another record; a pfn beyond `nr_pfns`.
    pub fn dirty_pfns(&mut self, nr_pfns: u64, mut named: impl FnMut(u64) -> bool) -> Result<u64, Failure> {
        self.read_record()?;
        if self.is_longer()? {
            self.read_last()?;
        }
        for &pfn in &self.list {
            if pfn >= nr_pfns || !named(pfn) {
                return Err(Failure::BackPfn { pfn, nr_pfns });
            }
        }
        Ok(self.list.len() as u64)
    }

    /// Reads as much as the record's length says.
    fn read_record(&mut self) -> Result<(), Failure> {
        let item = self.source.next_item().map_err(Failure::BackRead)?.ok_or(Failure::BackEnd)?;
        let What::Record(frame) = item.what else { return Err(Failure::BackRecord { found: "a banner" }) };
        let type_id = frame.header.type_id;
        if type_id != types::CHECKPOINT_DIRTY_PFN_LIST {
            return Err(Failure::BackRecord { found: record_name(Layer::Back, type_id) });
        }
        match Record::parse(&frame).map_err(|problem| Failure::BackRead(item.error(problem).into()))? {
            Record::CheckpointDirtyPfnList(list) => {
                self.list.clear();
                self.list.extend(list.pfns());
                Ok(())
            }
            _ => Err(Failure::BackRecord { found: record_name(Layer::Back, type_id) }),
        }
    }

    /// Whether the list goes on behind the record.
    fn is_longer(&mut self) -> Result<bool, Failure> {
        if self.framing == Framing::Unknown {
            self.framing = match self.list[..] {
                [first, ..] if first != 0 => Framing::Specified,
                [_, 0, ..] => Framing::Longer,
                _ => {
                    let offset = self.source.framer().offset();
                    let more = self.source.get_mut().has_more_within(TOGETHER);
                    match more.map_err(|error| Failure::BackRead(ReadError::Io { offset, error }))? {
                        true => Framing::Longer,
                        false => Framing::Specified,
                    }
                }
            };
            if self.framing == Framing::Longer {
                log::debug!(
                    "the secondary's lists of dirty pages have eight bytes more than their records: Xen 4.18 or later"
                );
            }
        }
        Ok(self.framing == Framing::Longer)
    }

    /// Reads what is missing of a list whose first eight bytes are none of it.
    fn read_last(&mut self) -> Result<(), Failure> {
        let mut last = [0; 8];
        let offset = self.source.framer().offset();
        let read = self.source.get_mut().read_exact(&mut last);
        read.map_err(|error| Failure::BackRead(ReadError::Io { offset, error }))?;
        let last = u64::from_le_bytes(last);
        // In front of the list stand eight zero bytes; of an empty one they are all that follows the header.
        let front = self.list.first().copied().unwrap_or(last);
        if front != 0 {
            return Err(Failure::BackFraming { found: front });
        }
        if !self.list.is_empty() {
            self.list.rotate_left(1);
            self.list.pop();
            self.list.push(last);
        }
        Ok(())
    }
}

/// The secondary's end.
#[derive(Debug)]
pub struct BackWriter<B> {
    out: RecordWriter<B>,
    list: Vec<u8>,
}

impl<B: Write> BackWriter<B> {
    /// Over the channel.
    pub fn new(channel: B) -> Self {
        BackWriter { out: RecordWriter::new(channel), list: Vec::new() }
    }

    /// Writes the list of the pages in `dirty`.
    ///
    /// # Errors
    /// The channel's; [`Failure::BackTooMany`].
    pub fn dirty_pfns(&mut self, dirty: &DirtyBitmap) -> Result<(), Failure> {
        let pages = dirty.count();
        if pages > MOST {
            return Err(Failure::BackTooMany { pages, most: MOST });
        }
        self.list.clear();
        self.list.extend(dirty.iter().flat_map(u64::to_le_bytes));
        let sent = self.out.record(types::CHECKPOINT_DIRTY_PFN_LIST, &[&self.list]).and_then(|()| self.out.flush());
        sent.map_err(Failure::BackWrite)
    }

    /// Tells a supervisor of a checkpoint that the domain is at.
    ///
    /// # Errors
    /// The channel's.
    pub fn applied(&mut self, applied: Applied) -> Result<(), Failure> {
        let sent = self.out.record(APPLIED, &[&applied.body()]).and_then(|()| self.out.flush());
        sent.map_err(Failure::BackWrite)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn written(lists: &[&BTreeSet<u64>], nr_pfns: u64) -> Vec<u8> {
        let mut writer = BackWriter::new(Vec::new());
        for list in lists {
            let mut dirty = DirtyBitmap::new(nr_pfns);
            assert!(list.iter().all(|&pfn| dirty.set(pfn)));
            writer.dirty_pfns(&dirty).unwrap();
        }
        writer.out.into_inner()
    }

    use crate::stream::RecordHeader;

    #[test]
    fn another_record_and_the_end_are_told_apart() {
        let read = |bytes: &[u8]| BackReader::new(bytes).dirty_pfns(9, |_| true).unwrap_err().to_string();
        assert_eq!(read(b""), "back channel: its end where CHECKPOINT_DIRTY_PFN_LIST is due");
        assert_eq!(
            read(b"\x05\0\0\0\x04\0\0\0\x01\0\0\0\0\0\0\0"),
            "back channel: CHECKPOINT_STATE where CHECKPOINT_DIRTY_PFN_LIST is due"
        );
        let truncated = BackReader::new(&b"\x0f\0\0\0\x08\0\0\0\x01"[..]).dirty_pfns(9, |_| true).unwrap_err();
        assert!(matches!(&truncated, Failure::BackRead(_)) && truncated.errno() == 61, "{truncated}");
        let odd = BackReader::new(&b"\x0f\0\0\0\x04\0\0\0\x01\0\0\0\0\0\0\0"[..]).dirty_pfns(9, |_| true).unwrap_err();
        assert!(matches!(&odd, Failure::BackRead(_)) && odd.errno() == 74, "{odd}");
        let beyond = written(&[&BTreeSet::from([3, 9])], 10);
        let beyond = BackReader::new(&beyond[..]).dirty_pfns(9, |_| true).unwrap_err();
        assert!(matches!(beyond, Failure::BackPfn { pfn: 9, nr_pfns: 9 }), "{beyond}");
    }

    /// The list as a stock secondary of Xen 4.18 and later writes it.
    fn longer(list: &BTreeSet<u64>) -> Vec<u8> {
        let mut bytes = RecordHeader::new(types::CHECKPOINT_DIRTY_PFN_LIST, 8 * list.len() as u32).emit().to_vec();
        bytes.extend([0; 8]);
        bytes.extend(list.iter().flat_map(|pfn| pfn.to_le_bytes()));
        bytes
    }

    #[test]
    fn our_secondary_writes_what_the_specification_says() {
        let bytes = written(&[&BTreeSet::from([0, 7]), &BTreeSet::new()], 8);
        let list = [&[15, 0, 0, 0, 16, 0, 0, 0][..], &[0; 8], &[7, 0, 0, 0, 0, 0, 0, 0]].concat();
        assert_eq!(bytes, [&list[..], &[15, 0, 0, 0, 0, 0, 0, 0]].concat());
    }

    /// A channel that says nothing between two lists, as a secondary does.
    #[derive(Debug)]
    struct InTurns(Vec<Vec<u8>>);

    impl Read for InTurns {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let Some(first) = self.0.first_mut() else { return Ok(0) };
            let read = (&first[..]).read(buffer)?;
            first.drain(..read);
            Ok(read)
        }
    }

    impl BackChannel for InTurns {
        fn has_more_within(&mut self, _: Duration) -> io::Result<bool> {
            Ok(self.0.first().is_some_and(|turn| !turn.is_empty()))
        }
    }

    proptest! {
        #[test]
        fn lists_of_either_framing_arrive_whole(
            lists in proptest::collection::vec(proptest::collection::btree_set(0..12u64, 0..6), 1..5), stock: bool,
        ) {
            let frame = |list: &BTreeSet<u64>| if stock { longer(list) } else { written(&[list], 12) };
            let mut reader = BackReader::new(InTurns(lists.iter().map(frame).collect()));
            for list in &lists {
                let mut found = BTreeSet::new();
                let count = reader.dirty_pfns(12, |pfn| found.insert(pfn)).unwrap();
                prop_assert_eq!(&found, list);
                prop_assert_eq!(count, list.len() as u64);
                let turn = reader.source.get_mut().0.remove(0);
                prop_assert!(turn.is_empty(), "bytes are left");
            }
        }
    }

    #[test]
    fn a_list_in_another_framing_than_the_one_before_is_an_error() {
        let (first, second) = (BTreeSet::from([0, 5]), BTreeSet::from([3, 4]));
        let bytes = [longer(&first), written(&[&second, &second], 9)].concat();
        let mut reader = BackReader::new(&bytes[..]);
        assert_eq!(reader.dirty_pfns(9, |_| true).unwrap(), 2);
        let error = reader.dirty_pfns(9, |_| true).unwrap_err();
        assert!(matches!(error, Failure::BackFraming { found: 3 }), "{error}");
    }

    #[test]
    fn more_than_a_record_holds_is_an_error() {
        let error = BackWriter::new(Vec::new()).dirty_pfns(&DirtyBitmap::full(MOST + 1)).unwrap_err();
        assert!(matches!(error, Failure::BackTooMany { pages, most: MOST } if pages == MOST + 1), "{error}");
    }

    proptest! {
        #[test]
        fn lists_arrive_and_not_a_byte_more_is_read(
            a in proptest::collection::btree_set(1..500u64, 1..60), b in proptest::collection::btree_set(0..500u64, 0..60),
        ) {
            let bytes = [&written(&[&a, &b], 500)[..], b"libxl's"].concat();
            let mut reader = BackReader::new(&bytes[..]);
            for list in [&a, &b] {
                let mut found = BTreeSet::new();
                let count = reader.dirty_pfns(500, |pfn| found.insert(pfn)).unwrap();
                prop_assert_eq!(&found, list);
                prop_assert_eq!(count, list.len() as u64);
            }
            prop_assert_eq!(reader.source.into_inner(), b"libxl's");
        }
    }
}
