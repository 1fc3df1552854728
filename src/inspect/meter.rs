//! Counts a stream's pages, step by step: a step is one pass of the sender over the guest's memory.
//!
//! A live save sends all memory, then what was written meanwhile, and so on, and each pass goes from low page frames to high
//! ones (`send_dirty_pages` in Xen's `xg_sr_save.c`). So a record whose first page frame is not above the last one of the record
//! before begins another pass. A checkpoint begins one as well.

use super::versions::{Before, Versions};
use crate::stream::check::Parsed;
use crate::stream::framer::{Item, What};
use crate::stream::libxc::{self, PAGE_SIZE, PageData, Record};
use serde::Serialize;
use xxhash_rust::xxh3::xxh3_64;

/// Of the pages of a step that are not all zero, the first and each that follows by so many is compressed on trial.
pub const SAMPLE: u64 = 16;

/// Pages of a step, a round, or a stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Figures {
    /// Bytes of the stream that belong to it.
    pub bytes: u64,
    /// PAGE_DATA records.
    pub page_records: u64,
    /// Entries of PAGE_DATA records.
    pub entries: u64,
    /// Pages of contents.
    pub pages: u64,
    /// Pages of contents that are all zero.
    pub zero: u64,
    /// Pages whose pfn had contents in the stream before.
    pub again: u64,
    /// Of those, the pages whose contents differ from the version sent before.
    pub changed: u64,
    /// Of those, the pages whose contents are the version sent before.
    pub unchanged: u64,
    /// Pages that were compressed on trial: one in [`SAMPLE`] of those that are not all zero.
    pub sampled: u64,
    /// Bytes that those took, by LZ4; none counts as more than a page.
    pub compressed: u64,
}

impl Figures {
    /// Adds another's figures.
    pub const fn add(&mut self, other: &Figures) {
        self.bytes += other.bytes;
        self.page_records += other.page_records;
        self.entries += other.entries;
        self.pages += other.pages;
        self.zero += other.zero;
        self.again += other.again;
        self.changed += other.changed;
        self.unchanged += other.unchanged;
        self.sampled += other.sampled;
        self.compressed += other.compressed;
    }

    /// The share of the sampled pages' bytes that LZ4 saves, 0 to 1; `None` where none was sampled.
    pub fn compressible(&self) -> Option<f64> {
        let raw = self.sampled * PAGE_SIZE as u64;
        (raw > 0).then(|| 1.0 - self.compressed as f64 / raw as f64)
    }
}

/// A pass of the sender.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Step {
    /// Whole checkpoints before it.
    pub round: u64,
    /// Its number within the round, from 0.
    pub iteration: u64,
    /// What it sent.
    pub figures: Figures,
}

/// What is sent of a page.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    /// Its frame.
    pub pfn: u64,
    /// Its type, as [`libxc::PageType::wire`].
    pub page_type: u8,
    /// What it was before; `None` where it has no contents.
    pub before: Option<Before>,
}

/// Counts. Memory: that of [`Versions`].
#[derive(Debug, Default)]
pub struct Meter {
    step: Step,
    /// The highest page frame of the record before.
    last: Option<u64>,
    versions: Versions,
    often: u64,
    untracked: u64,
    room: Vec<u8>,
}

impl Meter {
    /// Takes the next item: `ended` is called with each step that is over, before `sent` with each entry of this one.
    pub fn item(
        &mut self,
        item: &Item<'_>,
        parsed: Option<&Parsed<'_>>,
        ended: &mut dyn FnMut(Step),
        sent: &mut dyn FnMut(Sent),
    ) {
        while self.step.round < item.round {
            let next = Step { round: self.step.round + 1, ..Step::default() };
            ended(std::mem::replace(&mut self.step, next));
            self.last = None;
        }
        let pages = match parsed {
            Some(Parsed::Libxc(Record::PageData(data))) => Some(data),
            _ => None,
        };
        let first = pages.and_then(|data| data.entries().next());
        let verifies = matches!(&item.what, What::Record(frame) if frame.header.type_id == libxc::types::VERIFY)
            && item.layer == crate::stream::Layer::Libxc;
        let passes = first.is_some_and(|first| self.last.is_some_and(|last| first.pfn <= last));
        if passes || (verifies && self.last.is_some()) {
            let Step { round, iteration, .. } = self.step;
            let next = Step { round, iteration: iteration + 1, ..Step::default() };
            ended(std::mem::replace(&mut self.step, next));
            self.last = None;
        }
        self.step.figures.bytes += item.size;
        if let Some(data) = pages {
            self.pages(data, sent);
        }
    }

    fn pages(&mut self, data: &PageData<'_>, sent: &mut dyn FnMut(Sent)) {
        let figures = &mut self.step.figures;
        figures.page_records += 1;
        for (entry, contents) in data.pages() {
            figures.entries += 1;
            self.last = self.last.max(Some(entry.pfn));
            let (pfn, page_type) = (entry.pfn, entry.page_type.wire() & 0xf);
            let Some(contents) = contents else {
                sent(Sent { pfn, page_type, before: None });
                continue;
            };
            figures.pages += 1;
            if is_zero(contents) {
                figures.zero += 1;
            } else if (figures.pages - figures.zero - 1).is_multiple_of(SAMPLE) {
                figures.sampled += 1;
                figures.compressed += compressed(contents, &mut self.room);
            }
            let before = self.versions.put(pfn, xxh3_64(contents));
            match before {
                Before::New => {}
                Before::Unknown => self.untracked += 1,
                Before::Sent { same, often } => {
                    figures.again += 1;
                    figures.changed += u64::from(!same);
                    figures.unchanged += u64::from(same);
                    self.often += u64::from(!often);
                }
            }
            sent(Sent { pfn, page_type, before: Some(before) });
        }
    }

    /// The step under way, at the end of the stream.
    pub fn finish(&mut self) -> Step {
        std::mem::take(&mut self.step)
    }

    /// Different pfns with contents.
    pub const fn distinct(&self) -> u64 {
        self.versions.distinct()
    }

    /// Pfns whose contents were sent more than once.
    pub const fn often(&self) -> u64 {
        self.often
    }

    /// Pages of which nobody knows whether they were sent before: there were too many others.
    pub const fn untracked(&self) -> u64 {
        self.untracked
    }
}

fn is_zero(page: &[u8]) -> bool {
    page.chunks(64).all(|line| line.iter().fold(0, |or, byte| or | byte) == 0)
}

/// Bytes that LZ4 makes of a page, and no more than the page has.
fn compressed(page: &[u8], room: &mut Vec<u8>) -> u64 {
    room.resize(lz4_flex::block::get_maximum_output_size(page.len()), 0);
    let took = lz4_flex::block::compress_into(page, room).unwrap_or(page.len());
    took.min(page.len()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lz4_saves_is_the_share() {
        let mut room = Vec::new();
        let text = b"the same words again and again ".repeat(133);
        let took = compressed(&text[..4096], &mut room);
        assert!(took < 200, "{took}");
        let mut seed = 1_u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 56) as u8
        })
        .take(4096)
        .collect();
        assert_eq!(compressed(&noise, &mut room), 4096);
        let figures = Figures { sampled: 2, compressed: 4096, ..Figures::default() };
        assert_eq!((figures.compressible(), Figures::default().compressible()), (Some(0.5), None));
    }
}
