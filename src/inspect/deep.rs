//! What pages hold: page tables against the p2m, zeros, and a digest of memory at each checkpoint.

use crate::libxc::pv::table::{self, BadEntry};
use crate::stream::check::Parsed;
use crate::stream::framer::{Item, What};
use crate::stream::libxc::{DomainType, PageData, Record};
use serde::{Serialize, Serializer};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Checkpoints that are listed one by one.
const MAX_ROUNDS: usize = 100_000;
/// Page frames whose contents are known at one time: of 28 GiB of memory, in 142 MiB.
const MAX_PFNS: usize = 7 << 20;

/// What was found in pages. Memory: 17 bytes and some for each different pfn, of 7,340,032 at most, and 32 for each of the first 100,000
/// checkpoints.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Deep {
    /// Pages with contents, each as often as it was sent.
    pub pages: u64,
    /// Of those, all zero.
    pub zero: u64,
    /// Page tables of a PV guest among them.
    pub tables: u64,
    /// Memory at the end of the first image and at each checkpoint.
    pub memory: Vec<Memory>,
    /// Checkpoints beyond those.
    pub left_out: u64,
    #[serde(skip)]
    state: State,
}

/// Memory at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Whole checkpoints before it.
    pub round: u64,
    /// Pfns that had contents until then.
    pub pfns: u64,
    /// A digest of all of them: equal for equal pfns with equal contents, in whatever order and how often they were sent. `None` where there
    /// were more than are kept.
    #[serde(serialize_with = "as_hex")]
    pub digest: Option<u64>,
}

fn as_hex<S: Serializer>(digest: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
    match digest {
        Some(digest) => serializer.collect_str(&format_args!("{digest:#018x}")),
        None => serializer.serialize_none(),
    }
}

#[derive(Debug, Clone)]
struct State {
    is_pv: bool,
    nr_pfns: u64,
    /// [`MAX_PFNS`].
    most: usize,
    /// There were more.
    is_over: bool,
    /// The hash of each page, with its pfn as the seed.
    hashes: HashMap<u64, u64>,
    /// All of those together.
    digest: u64,
}

impl Default for State {
    fn default() -> Self {
        let hashes = HashMap::new();
        State { is_pv: false, nr_pfns: 0, most: MAX_PFNS, is_over: false, hashes, digest: 0 }
    }
}

impl Deep {
    /// Takes the next item; gives what is wrong with the page tables in it.
    pub(super) fn item(&mut self, item: &Item<'_>, parsed: Option<&Parsed<'_>>, report: &mut dyn FnMut(u64, BadEntry)) {
        match (&item.what, parsed) {
            (What::ImageHeader(_), _) => self.state = State::default(),
            (What::DomainHeader(header), _) => self.state.is_pv = header.domain_type() == Some(DomainType::Pv),
            (_, Some(Parsed::Libxc(Record::X86PvP2mFrames(frames)))) => {
                self.state.nr_pfns = self.state.nr_pfns.max(u64::from(frames.end) + 1);
            }
            (_, Some(Parsed::Libxc(Record::PageData(pages)))) => self.pages(pages, report),
            (_, Some(Parsed::Libxc(Record::End | Record::Checkpoint))) => {
                let State { hashes, digest, is_over, .. } = &self.state;
                let digest = (!is_over).then_some(*digest);
                let memory = Memory { round: item.round, pfns: hashes.len() as u64, digest };
                if self.memory.len() < MAX_ROUNDS {
                    self.memory.push(memory);
                } else {
                    self.left_out += 1;
                }
            }
            _ => {}
        }
    }

    fn pages(&mut self, pages: &PageData<'_>, report: &mut dyn FnMut(u64, BadEntry)) {
        let state = &mut self.state;
        for (entry, contents) in pages.pages() {
            let Some(contents) = contents else { continue };
            self.pages += 1;
            self.zero += u64::from(contents.iter().all(|byte| *byte == 0));
            state.put(entry.pfn, xxh3_64_with_seed(contents, entry.pfn));
            // Without frames the p2m is what is missing.
            if let Some(level) = entry.page_type.table_level().filter(|_| state.is_pv && state.nr_pfns > 0) {
                self.tables += 1;
                if let Err(error) = table::check(contents, level, state.nr_pfns) {
                    report(entry.pfn, error);
                }
            }
        }
    }
}

impl State {
    fn put(&mut self, pfn: u64, hash: u64) {
        let is_full = self.hashes.len() >= self.most;
        let before = match self.hashes.entry(pfn) {
            Entry::Occupied(mut known) => known.insert(hash),
            Entry::Vacant(_) if is_full => {
                self.is_over = true;
                return;
            }
            Entry::Vacant(place) => {
                place.insert(hash);
                0
            }
        };
        self.digest ^= hash ^ before;
    }
}

impl std::fmt::Display for Deep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let share = if self.pages == 0 { 0.0 } else { self.zero as f64 * 100.0 / self.pages as f64 };
        write!(f, "pages: {} with contents, {} of them zero ({share:.1} %)", self.pages, self.zero)?;
        write!(f, ", {} page tables", self.tables)?;
        for Memory { round, pfns, digest } in &self.memory {
            match digest {
                Some(digest) => write!(f, "\nmemory at the end of round {round}: {pfns} pfns, digest {digest:#018x}")?,
                None => write!(f, "\nmemory at the end of round {round}: over {pfns} pfns, no digest")?,
            }
        }
        if self.left_out > 0 {
            write!(f, "\n{} more checkpoints", self.left_out)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_beyond_the_bound_are_not_kept_and_there_is_no_digest_then() {
        let mut state = State { most: 2, ..State::default() };
        state.put(1, 7);
        state.put(9, 5);
        state.put(1, 6);
        assert_eq!((state.digest, state.is_over, state.hashes.len()), (6 ^ 5, false, 2));
        state.put(3, 1);
        assert_eq!((state.is_over, state.hashes.len()), (true, 2));
    }
}
