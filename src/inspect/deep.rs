//! What pages hold: page tables against the p2m, zeros, and a digest of memory at each checkpoint.

use crate::libxc::pv::table::{self, BadEntry};
use crate::stream::check::Parsed;
use crate::stream::framer::{Item, What};
use crate::stream::libxc::{DomainType, PageData, Record};
use serde::{Serialize, Serializer};
use std::collections::HashMap;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Checkpoints that are listed one by one.
const MAX_ROUNDS: usize = 100_000;

/// What was found in pages. Memory: 16 bytes and some for each different pfn, 24 for each of the first 100,000 checkpoints.
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
    /// A digest of all of them: equal for equal pfns with equal contents, in whatever order and how often they were sent.
    #[serde(serialize_with = "as_hex")]
    pub digest: u64,
}

fn as_hex<S: Serializer>(digest: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{digest:#018x}"))
}

#[derive(Debug, Clone, Default)]
struct State {
    is_pv: bool,
    nr_pfns: u64,
    /// The hash of each page, with its pfn as the seed.
    hashes: HashMap<u64, u64>,
    /// All of those together.
    digest: u64,
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
                let State { hashes, digest, .. } = &self.state;
                let memory = Memory { round: item.round, pfns: hashes.len() as u64, digest: *digest };
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
            let hash = xxh3_64_with_seed(contents, entry.pfn);
            let before = state.hashes.insert(entry.pfn, hash);
            state.digest ^= hash ^ before.unwrap_or(0);
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

impl std::fmt::Display for Deep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let share = if self.pages == 0 { 0.0 } else { self.zero as f64 * 100.0 / self.pages as f64 };
        write!(f, "pages: {} with contents, {} of them zero ({share:.1} %)", self.pages, self.zero)?;
        write!(f, ", {} page tables", self.tables)?;
        for Memory { round, pfns, digest } in &self.memory {
            write!(f, "\nmemory at the end of round {round}: {pfns} pfns, digest {digest:#018x}")?;
        }
        if self.left_out > 0 {
            write!(f, "\n{} more checkpoints", self.left_out)?;
        }
        Ok(())
    }
}
