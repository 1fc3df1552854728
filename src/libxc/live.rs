//! Sending a running guest's memory in rounds: the first sends all of it, each later one what was written during the one before, until
//! [`Limits`](super::precopy::Limits) end it.
#![forbid(unsafe_code)]

use super::SaveError;
use super::precopy::{Next, Otherwise, Precopy, RoundSent, Unwatched, Watch};
use super::save::Saver;
use crate::hypervisor::SaveDomain;
use crate::stream::handover::LibxcWriter;
use std::io::Write;
use std::time::Duration;

impl Saver {
    /// Sends the memory of a running guest: all of it, then in rounds what it wrote meanwhile, within the options' limits. The first
    /// round lists every pfn, holes as XTAB.
    ///
    /// # Errors
    /// The hypervisor's, or the stream's; [`SaveError::NotConverged`].
    pub fn precopy<D: SaveDomain, W: Write, Home>(
        &mut self,
        domain: &mut D,
        out: &mut LibxcWriter<W, Home>,
    ) -> Result<Precopy, SaveError> {
        self.precopy_watched(domain, out, &mut Unwatched::default())
    }

    /// The same, watched.
    ///
    /// # Errors
    /// As [`Saver::precopy`].
    pub fn precopy_watched<D: SaveDomain, W: Write, Home>(
        &mut self,
        domain: &mut D,
        out: &mut LibxcWriter<W, Home>,
        watch: &mut impl Watch,
    ) -> Result<Precopy, SaveError> {
        let limits = self.options.live;
        let mut sent = Precopy::default();
        self.everything();
        let begun = watch.now();
        loop {
            let round = sent.rounds;
            let (pages, took, held) = self.round(domain, out, round, watch)?;
            sent.pfns += pages;
            sent.rounds += 1;
            // What is dirty behind the last round stays in the log until the guest stands still.
            let last = sent.rounds >= limits.rounds;
            let dirty = if last { self.peek(domain)? } else { self.read_log(domain)? };
            let total = watch.now().saturating_sub(begun);
            let report = RoundSent { round, pages, took, held, total, dirty };
            watch.round(&report);
            match limits.next(&report) {
                Next::Round => continue,
                Next::Limit(limit) if limits.otherwise == Otherwise::Abort => {
                    return Err(SaveError::NotConverged { limit, sent: report });
                }
                Next::Enough | Next::Limit(_) if last => return Ok(sent),
                Next::Enough | Next::Limit(_) => {}
            }
            // What was read is gone from the log, so it has to be sent before the guest stops.
            let pfns = self.round(domain, out, sent.rounds, watch)?.0;
            sent.pfns += pfns;
            sent.rounds += u32::from(pfns > 0);
            return Ok(sent);
        }
    }

    /// Sends the pages named; gives their number, how long it took, and how much of that was waiting.
    fn round<D: SaveDomain, W: Write, Home>(
        &mut self,
        domain: &D,
        out: &mut LibxcWriter<W, Home>,
        round: u32,
        watch: &mut impl Watch,
    ) -> Result<(u64, Duration, Duration), SaveError> {
        let limits = self.options.live;
        let (begun, mut held) = (watch.now(), Duration::ZERO);
        let pages = self.send_pages_told(domain, out, &mut |done, total| {
            let early = limits.least_time(done).saturating_sub(watch.now().saturating_sub(begun));
            if !early.is_zero() {
                watch.wait(early);
                held += early;
            }
            watch.pages(round, done, total);
        })?;
        Ok((pages, watch.now().saturating_sub(begun), held))
    }
}
