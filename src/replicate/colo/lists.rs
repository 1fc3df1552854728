//! The secondary's lists of dirty pages, out and in.
//!
//! One CHECKPOINT_DIRTY_PFN_LIST names 16 Mi pages at most. Between two of our own ends, a list that is as long as can be is followed by
//! another, which may be empty; with libxl as the peer, more pages than one list names are an error before anything is sent.
//!
//! Source: "CHECKPOINT_DIRTY_PFN_LIST" of the libxc specification.
#![forbid(unsafe_code)]

use crate::colo::wire::{Decoder, WireError, encode};
use crate::colo::{Dialect, Message};
use crate::hypervisor::DirtyBitmap;
use crate::stream::libxc::MAX_BODY;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Most pages that one list names: real receivers take no longer record.
pub const MOST: u64 = MAX_BODY as u64 / 8;
/// Bytes that are put together before they are sent.
const CHUNK: usize = 64 << 10;

/// How lists are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lists {
    /// Pages in one list at most, up to [`MOST`].
    pub most: u64,
    /// The other side takes several.
    pub several: bool,
}

/// Why a list cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// The other side takes one list.
    #[error("{pages} dirty pages, and a CHECKPOINT_DIRTY_PFN_LIST names {most} at most: the other side takes only one")]
    TooMany {
        /// How many there are.
        pages: u64,
        /// How many it names.
        most: u64,
    },
    /// The connection's.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Lists {
    /// Sends the pages of `dirty` by way of `send`.
    ///
    /// # Errors
    /// [`ListError`]; of too many pages nothing was sent.
    pub fn send(self, dirty: &DirtyBitmap, mut send: impl FnMut(&[u8]) -> io::Result<()>) -> Result<(), ListError> {
        let most = self.most.clamp(1, MOST);
        let mut left = dirty.count();
        if left > most && !self.several {
            return Err(ListError::TooMany { pages: left, most });
        }
        let (mut pfns, mut bytes) = (dirty.iter(), Vec::new());
        loop {
            let here = left.min(most);
            // At most MAX_BODY bytes.
            let length = u32::try_from(here * 8).unwrap_or(u32::MAX);
            bytes.extend(encode(Dialect::Libxl, Message::DirtyList { bytes: length }).unwrap_or_default());
            for pfn in pfns.by_ref().take(usize::try_from(here).unwrap_or(usize::MAX)) {
                bytes.extend(pfn.to_le_bytes());
                if bytes.len() >= CHUNK {
                    send(&bytes)?;
                    bytes.clear();
                }
            }
            left -= here;
            // A full one is followed by another.
            if here < most || !self.several {
                break;
            }
        }
        Ok(send(&bytes)?)
    }
}

/// The pages that the secondary has written, filled by who listens and emptied by who collects. Clones are the same.
#[derive(Debug, Clone)]
pub struct Named(Arc<Mutex<DirtyBitmap>>);

impl Named {
    /// For a guest with pfns below `nr_pfns`.
    pub fn new(nr_pfns: u64) -> Self {
        Named(Arc::new(Mutex::new(DirtyBitmap::new(nr_pfns))))
    }

    fn set(&self) -> MutexGuard<'_, DirtyBitmap> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes them all; `named` hears each. Gives their number.
    pub fn take(&self, mut named: impl FnMut(u64)) -> u64 {
        let mut set = self.set();
        set.iter().for_each(&mut named);
        let count = set.count();
        set.clear_all();
        count
    }
}

/// The back channel's bytes to messages, the lists' pages into [`Named`].
#[derive(Debug)]
pub struct Back {
    decoder: Decoder,
    named: Named,
    lists: Lists,
    /// Of the list that is being read.
    list: Option<List>,
    /// Bytes of the lists before it that it continues.
    before: u32,
}

#[derive(Debug)]
struct List {
    left: u32,
    full: bool,
    total: u32,
    /// A pfn of which a part is there.
    part: Vec<u8>,
}

impl Back {
    /// At the start of the channel.
    pub const fn new(named: Named, lists: Lists) -> Self {
        Back { decoder: Decoder::new(Dialect::Libxl, 0), named, lists, list: None, before: 0 }
    }

    /// Bytes that were sound.
    pub const fn offset(&self) -> u64 {
        self.decoder.offset()
    }

    /// Takes bytes; `said` hears each message. Of several lists in a row it hears once, at the end of the last.
    ///
    /// # Errors
    /// What is wrong with a message or a pfn. Nothing can be read behind it.
    pub fn take(&mut self, mut bytes: &[u8], mut said: impl FnMut(Message)) -> Result<(), WireError> {
        while !bytes.is_empty() {
            if let Some(list) = &mut self.list {
                bytes = pfns(list, bytes, &self.named, &mut self.decoder)?;
                if list.left == 0 {
                    let total = list.total;
                    let more = list.full && self.lists.several;
                    self.list = None;
                    if more {
                        self.before = total;
                    } else {
                        said(Message::DirtyList { bytes: total });
                    }
                }
                continue;
            }
            let (taken, message) = self.decoder.take(bytes)?;
            bytes = bytes.get(taken..).unwrap_or_default();
            match message {
                Some(Message::DirtyList { bytes: length }) => {
                    let pages = u64::from(length) / 8;
                    if pages > self.lists.most.clamp(1, MOST) {
                        let type_id = crate::stream::libxc::types::CHECKPOINT_DIRTY_PFN_LIST;
                        return Err(WireError::Length { type_id, length, offset: self.decoder.offset() });
                    }
                    let full = pages == self.lists.most.clamp(1, MOST);
                    let total = std::mem::take(&mut self.before).saturating_add(length);
                    if length == 0 {
                        said(Message::DirtyList { bytes: total });
                    } else {
                        self.list = Some(List { left: length, full, total, part: Vec::new() });
                    }
                }
                Some(message) => said(message),
                None => {}
            }
        }
        Ok(())
    }
}

/// Takes pfns of a list; gives what is behind them.
fn pfns<'a>(list: &mut List, bytes: &'a [u8], named: &Named, decoder: &mut Decoder) -> Result<&'a [u8], WireError> {
    let left = usize::try_from(list.left).unwrap_or(usize::MAX);
    let (mut here, behind) = bytes.split_at(bytes.len().min(left));
    list.left -= u32::try_from(here.len()).unwrap_or(list.left);
    let mut set = named.set();
    while !here.is_empty() {
        let (part, rest) = here.split_at(here.len().min(8 - list.part.len()));
        list.part.extend_from_slice(part);
        decoder.skip(part.len() as u64);
        here = rest;
        if let Some(pfn) = list.part.first_chunk::<8>() {
            let pfn = u64::from_le_bytes(*pfn);
            list.part.clear();
            let nr_pfns = set.nr_pfns();
            if pfn >= nr_pfns {
                return Err(WireError::Pfn { pfn, nr_pfns, offset: decoder.offset() });
            }
            set.set(pfn);
        }
    }
    Ok(behind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn sent(pfns: &BTreeSet<u64>, lists: Lists) -> Result<Vec<u8>, ListError> {
        let mut dirty = DirtyBitmap::new(1000);
        pfns.iter().for_each(|&pfn| assert!(dirty.set(pfn)));
        let mut bytes = Vec::new();
        lists.send(&dirty, |part| {
            bytes.extend_from_slice(part);
            Ok(())
        })?;
        Ok(bytes)
    }

    fn heard(bytes: &[u8], lists: Lists, split: usize) -> Result<(Vec<Message>, Vec<u64>), WireError> {
        let named = Named::new(1000);
        let mut back = Back::new(named.clone(), lists);
        let (mut said, mut pfns) = (Vec::new(), Vec::new());
        for part in bytes.chunks(split) {
            back.take(part, |message| said.push(message))?;
        }
        named.take(|pfn| pfns.push(pfn));
        Ok((said, pfns))
    }

    #[test]
    fn more_than_a_list_names_takes_several_or_is_an_error() {
        let pfns: BTreeSet<u64> = (0..8).map(|pfn| pfn * 3).collect();
        let one = Lists { most: 4, several: false };
        let error = sent(&pfns, one).unwrap_err();
        assert!(matches!(error, ListError::TooMany { pages: 8, most: 4 }), "{error}");
        let several = Lists { several: true, ..one };
        let bytes = sent(&pfns, several).unwrap();
        // Two full ones and an empty one.
        assert_eq!(bytes.len(), 3 * 8 + 8 * 8);
        let (said, named) = heard(&bytes, several, 7).unwrap();
        assert_eq!((said.len(), named), (1, pfns.iter().copied().collect()));
        // Who takes one list only hears three.
        assert_eq!(heard(&bytes, one, 7).unwrap().0.len(), 3);
        assert!(matches!(
            heard(&bytes, Lists { most: 3, several: true }, 100),
            Err(WireError::Length { length: 32, .. })
        ));
    }

    #[test]
    fn a_page_that_the_guest_does_not_have_is_told() {
        let bytes = sent(&BTreeSet::from([3, 999]), Lists { most: MOST, several: true }).unwrap();
        let mut back = Back::new(Named::new(999), Lists { most: MOST, several: true });
        let error = back.take(&bytes, |_| {}).unwrap_err();
        assert_eq!(error, WireError::Pfn { pfn: 999, nr_pfns: 999, offset: 24 });
    }

    proptest! {
        #[test]
        fn lists_arrive_however_they_are_cut(
            pfns in proptest::collection::btree_set(0..1000u64, 0..60), most in 1u64..70, split in 1usize..200,
        ) {
            let lists = Lists { most, several: true };
            let bytes = sent(&pfns, lists).unwrap();
            let bytes = [&bytes[..], &encode(Dialect::Libxl, Message::Ready).unwrap()].concat();
            let (said, named) = heard(&bytes, lists, split).unwrap();
            prop_assert_eq!(said.len(), 2);
            prop_assert_eq!(said[1], Message::Ready);
            prop_assert_eq!(named, pfns.into_iter().collect::<Vec<_>>());
        }
    }
}
