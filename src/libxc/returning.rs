//! Pages that go before a taking of the log and come back behind it, while the guest runs.
//!
//! What a log taken from a running guest names is looked at, and sent or copied, some time later. A page that the guest gave back
//! before the taking and has again when it is looked at is sent as it is by then; a hypervisor that tracks the writes to a page that has
//! come only from the next taking on ([`super::added`]) does not tell of what is written until then, and the page was never seen to be
//! without contents. So what was sent by such a log is sent once more, by the next one or when the guest stands still, where there is a
//! sign that memory comes and goes:
//!
//! * the domain's number of pages is not what it was, asked before and behind each taking and when the guest is suspended;
//! * a page of the log is not there when it is looked at, though it was written to in the interval: it has gone in it;
//! * the look at the suspended guest found pages that have come or gone, or pages of its log that are not there.
//!
//! Pages that go while others come leave the number as it is, but a balloon clears what it gives back: that is in the next log, and not
//! there when that is looked at, or has come back meanwhile and counts. What no sign tells of is a page that goes and comes back within
//! the three hypercalls of a taking; and, between the look at all pages and the log's beginning, one that goes as another comes.
//!
//! Without a sign it costs two hypercalls a taking, and one for each 1,024 pages of the suspended guest's log. With one, the pages of each
//! log taken while the guest runs go twice, and those of the last one while it is suspended.
#![forbid(unsafe_code)]

use crate::hypervisor::DirtyBitmap;
use crate::hypervisor::types::Pfn;

#[derive(Debug)]
pub(super) struct Returning {
    /// Pages of logs that were taken while the guest ran, sent once since.
    once: DirtyBitmap,
    /// The domain's number of pages when it was asked last.
    populated: u64,
    /// Whether there was a sign since the guest stood still last.
    sign: bool,
}

impl Returning {
    /// Of a domain with so many pages, before all of them are looked at.
    pub(super) fn new(nr_pfns: u64, populated: u64) -> Self {
        Returning { once: DirtyBitmap::new(nr_pfns), populated, sign: false }
    }

    /// The log has begun, behind a look at all pages, and all are sent: as by a log that names them all.
    pub(super) fn begun(&mut self, populated: u64) {
        self.counted(populated);
        if self.sign {
            self.once.set_all();
        }
    }

    /// The domain has so many pages.
    pub(super) fn counted(&mut self, populated: u64) {
        self.sign |= std::mem::replace(&mut self.populated, populated) != populated;
    }

    /// This page was looked at and is not there.
    pub(super) fn absent(&mut self, pfn: Pfn) {
        self.sign |= self.once.contains(pfn);
    }

    /// `log` was taken while the guest runs: what is to be sent again is added to it.
    pub(super) fn taken(&mut self, log: &mut DirtyBitmap) {
        if self.once.nr_pfns() < log.nr_pfns() {
            self.once.resize(log.nr_pfns());
        }
        if self.sign {
            let again = std::mem::replace(&mut self.once, log.clone());
            add(&again, log);
        } else {
            add(log, &mut self.once);
        }
    }

    /// Whether there are pages that a sign would have sent again.
    pub(super) fn is_waiting(&self) -> bool {
        !self.sign && !self.once.is_empty()
    }

    /// `log` was taken while the guest stands still, and it has so many pages; `found`: its look found a sign. What is
    /// to be sent again is added.
    pub(super) fn suspended(&mut self, populated: u64, found: bool, log: &mut DirtyBitmap) {
        self.counted(populated);
        if self.sign || found {
            add(&self.once, log);
        }
        self.once.clear_all();
        self.sign = false;
    }
}

/// Adds the pfns of a set to another one.
fn add(from: &DirtyBitmap, to: &mut DirtyBitmap) {
    for pfn in from.iter() {
        to.set(pfn);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(pfns: &[Pfn]) -> DirtyBitmap {
        let mut set = DirtyBitmap::new(64);
        pfns.iter().for_each(|&pfn| {
            set.set(pfn);
        });
        set
    }

    /// Takes a log of these; gives what is sent by it.
    fn taken(returning: &mut Returning, pfns: &[Pfn]) -> Vec<Pfn> {
        let mut log = set(pfns);
        returning.taken(&mut log);
        log.iter().collect()
    }

    fn suspended(returning: &mut Returning, populated: u64, found: bool) -> Vec<Pfn> {
        let mut log = set(&[9]);
        returning.suspended(populated, found, &mut log);
        log.iter().collect()
    }

    #[test]
    fn nothing_goes_twice_without_a_sign() {
        let mut returning = Returning::new(64, 10);
        returning.begun(10);
        assert_eq!(taken(&mut returning, &[1, 2]), [1, 2]);
        returning.counted(10);
        returning.absent(3);
        assert_eq!(taken(&mut returning, &[4]), [4]);
        assert_eq!(suspended(&mut returning, 10, false), [9]);
    }

    #[test]
    fn what_was_sent_goes_again_behind_any_sign() {
        let begin = || {
            let mut returning = Returning::new(64, 10);
            assert_eq!(taken(&mut returning, &[1]), [1]);
            assert_eq!(taken(&mut returning, &[2]), [2]);
            returning
        };
        let mut returning = begin();
        returning.counted(11);
        assert_eq!(taken(&mut returning, &[3]), [1, 2, 3]);
        // One sign counts until the guest stands still, and each page goes twice.
        assert_eq!(taken(&mut returning, &[4]), [3, 4]);
        assert_eq!(suspended(&mut returning, 11, false), [4, 9]);
        assert_eq!(taken(&mut returning, &[5]), [5]);
        assert_eq!(suspended(&mut returning, 11, false), [9]);

        let mut returning = begin();
        returning.absent(2);
        assert_eq!(taken(&mut returning, &[3]), [1, 2, 3]);
        assert_eq!(suspended(&mut begin(), 11, false), [1, 2, 9]);
        assert_eq!(suspended(&mut begin(), 10, true), [1, 2, 9]);
    }

    #[test]
    fn all_of_it_goes_again_where_pages_went_or_came_while_the_log_was_begun() {
        let mut returning = Returning::new(64, 10);
        returning.begun(9);
        assert_eq!(taken(&mut returning, &[1]).len(), 64);
        assert_eq!(taken(&mut returning, &[2]), [1, 2]);
    }
}
