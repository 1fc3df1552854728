//! libxc's share of COLO's back channel: after each suspension the secondary lists the pages that it has written, so
//! that the primary sends its own contents of them.
//!
//! libxl's records pass over the same descriptor at other times, so nothing is read beyond the one record.
//!
//! Source: "CHECKPOINT_DIRTY_PFN_LIST" of the libxc specification.
#![forbid(unsafe_code)]

use super::failure::Failure;
use super::supervised::{APPLIED, Applied};
use crate::hypervisor::DirtyBitmap;
use crate::stream::framer::{Options, record_name};
use crate::stream::libxc::{MAX_BODY, Record, types};
use crate::stream::reader::PullReader;
use crate::stream::writer::RecordWriter;
use crate::stream::{Layer, Mode, Start, What};
use std::io::{Read, Write};

/// Most pages that one list can name: real receivers take no longer record.
pub const MOST: u64 = MAX_BODY as u64 / 8;

/// The primary's end.
#[derive(Debug)]
pub struct BackReader<B>(PullReader<B>);

impl<B: Read> BackReader<B> {
    /// Over the channel.
    pub fn new(channel: B) -> Self {
        let options = Options { start: Some(Start::Back), mode: Some(Mode::Back), ..Options::default() };
        BackReader(PullReader::new(channel, options))
    }

    /// Reads one list and passes each pfn to `named`, which says whether the domain can have it.
    ///
    /// # Errors
    /// The channel's; another record; a pfn beyond `nr_pfns`.
    pub fn dirty_pfns(&mut self, nr_pfns: u64, mut named: impl FnMut(u64) -> bool) -> Result<u64, Failure> {
        let item = self.0.next_item().map_err(Failure::BackRead)?.ok_or(Failure::BackEnd)?;
        let What::Record(frame) = item.what else { return Err(Failure::BackRecord { found: "a banner" }) };
        let type_id = frame.header.type_id;
        if type_id != types::CHECKPOINT_DIRTY_PFN_LIST {
            return Err(Failure::BackRecord { found: record_name(Layer::Back, type_id) });
        }
        match Record::parse(&frame).map_err(|problem| Failure::BackRead(item.error(problem).into()))? {
            Record::CheckpointDirtyPfnList(list) => {
                for pfn in list.pfns() {
                    if pfn >= nr_pfns || !named(pfn) {
                        return Err(Failure::BackPfn { pfn, nr_pfns });
                    }
                }
                Ok(list.pfns().len() as u64)
            }
            _ => Err(Failure::BackRecord { found: record_name(Layer::Back, type_id) }),
        }
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

    #[test]
    fn another_record_and_the_end_are_told_apart() {
        let read = |octets: &[u8]| BackReader::new(octets).dirty_pfns(9, |_| true).unwrap_err().to_string();
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

    #[test]
    fn more_than_a_record_holds_is_an_error() {
        let error = BackWriter::new(Vec::new()).dirty_pfns(&DirtyBitmap::full(MOST + 1)).unwrap_err();
        assert!(matches!(error, Failure::BackTooMany { pages, most: MOST } if pages == MOST + 1), "{error}");
    }

    proptest! {
        #[test]
        fn lists_arrive_and_not_an_octet_more_is_read(
            a in proptest::collection::btree_set(0..500u64, 0..60), b in proptest::collection::btree_set(0..500u64, 0..60),
        ) {
            let octets = [&written(&[&a, &b], 500)[..], b"libxl's"].concat();
            let mut reader = BackReader::new(&octets[..]);
            for list in [&a, &b] {
                let mut found = BTreeSet::new();
                let count = reader.dirty_pfns(500, |pfn| found.insert(pfn)).unwrap();
                prop_assert_eq!(&found, list);
                prop_assert_eq!(count, list.len() as u64);
            }
            prop_assert_eq!(reader.0.into_inner(), b"libxl's");
        }
    }
}
