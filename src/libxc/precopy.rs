//! When the rounds end in which a running guest's memory is sent, what becomes of one that writes faster than it is sent, and who watches.
#![forbid(unsafe_code)]

use crate::hypervisor::types::PAGE_SIZE;
use std::fmt;
use std::time::{Duration, Instant};

/// When the live rounds end. By default as Xen's own saver ends them (`simple_precopy_policy` of `tools/libs/guest/xg_sr_save.c`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// At most so many rounds, the first of which sends all. 0 counts as 1.
    pub rounds: u32,
    /// Fewer dirty pages than this are few enough for the guest to be suspended.
    pub few_pages: u64,
    /// So are those that can be sent within this time.
    pub downtime: Option<Duration>,
    /// The rounds may take this long in all. It is looked at behind each of them.
    pub time: Option<Duration>,
    /// Bytes of pages in a second while the guest runs; what is left when it is suspended goes as fast as it can.
    pub bandwidth: Option<u64>,
    /// What is done when rounds or time are up and the dirty pages are not few enough.
    pub otherwise: Otherwise,
}

/// What is done with a guest that writes faster than it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Otherwise {
    /// It is suspended, and the rest sent: it stands still for as long as that takes.
    #[default]
    Suspend,
    /// It is not saved, and runs on.
    Abort,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { rounds: 5, few_pages: 50, downtime: None, time: None, bandwidth: None, otherwise: Otherwise::Suspend }
    }
}

/// A round that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoundSent {
    /// Its number, from 0.
    pub round: u32,
    /// Pfns that it listed.
    pub pages: u64,
    /// How long it took.
    pub took: Duration,
    /// How much of that was waiting for the bandwidth's sake.
    pub held: Duration,
    /// How long all rounds have taken.
    pub total: Duration,
    /// Pages that the guest wrote meanwhile.
    pub dirty: u64,
}

impl RoundSent {
    /// Pages in a second that the stream takes, as this round has shown; `None` where it was too short to tell.
    pub fn pages_per_second(&self) -> Option<u64> {
        per_second(self.pages, self.took.saturating_sub(self.held))
    }

    /// Pages in a second that the guest writes.
    pub fn dirty_per_second(&self) -> Option<u64> {
        per_second(self.dirty, self.took)
    }

    /// How long the guest would stand still if it were suspended now: what is dirty, at the rate that this round has shown. A round
    /// too short to tell would have sent it in no time.
    pub fn downtime(&self) -> Duration {
        let sending = self.took.saturating_sub(self.held).as_nanos();
        let nanos = sending * u128::from(self.dirty) / u128::from(self.pages.max(1));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

fn per_second(count: u64, time: Duration) -> Option<u64> {
    let rate = (u128::from(count) * 1_000_000_000).checked_div(time.as_nanos())?;
    Some(u64::try_from(rate).unwrap_or(u64::MAX))
}

/// A line for the log.
impl fmt::Display for RoundSent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RoundSent { round, pages, took, dirty, .. } = self;
        write!(f, "round {round}: {pages} pages in {} ms", took.as_millis())?;
        if let Some(rate) = self.pages_per_second() {
            write!(f, " ({} MiB/s)", rate.saturating_mul(PAGE_SIZE as u64) >> 20)?;
        }
        write!(f, ", {dirty} dirty")?;
        if let Some(rate) = self.dirty_per_second() {
            write!(f, " ({rate} pages/s)")?;
        }
        write!(f, ", downtime estimate {} ms", self.downtime().as_millis())
    }
}

/// What to do behind a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// One more.
    Round,
    /// Few enough are dirty.
    Enough,
    /// This limit is reached, and too many are dirty.
    Limit(&'static str),
}

impl Limits {
    pub(super) fn next(&self, sent: &RoundSent) -> Next {
        let short = self.downtime.is_some_and(|downtime| sent.downtime() <= downtime);
        if sent.dirty < self.few_pages || short {
            Next::Enough
        } else if sent.round + 1 >= self.rounds {
            Next::Limit("rounds")
        } else if self.time.is_some_and(|time| sent.total >= time) {
            Next::Limit("time")
        } else {
            Next::Round
        }
    }

    /// How long so many pages must take at least.
    pub(super) fn least_time(&self, pages: u64) -> Duration {
        let bytes = u128::from(pages) * PAGE_SIZE as u128 * 1_000_000_000;
        let nanos = self.bandwidth.and_then(|bandwidth| bytes.checked_div(bandwidth.into())).unwrap_or(0);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// What was sent while the guest ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Precopy {
    /// Rounds.
    pub rounds: u32,
    /// Pfns listed in them, holes included.
    pub pfns: u64,
}

/// Who watches the rounds, and has the time.
pub trait Watch {
    /// Of round `round`, `done` of `total` pages are sent.
    fn pages(&mut self, round: u32, done: u64, total: u64) {
        let _ = (round, done, total);
    }

    /// A round is over.
    fn round(&mut self, sent: &RoundSent) {
        let _ = sent;
    }

    /// The time since some moment.
    fn now(&mut self) -> Duration;

    /// Waits; less where the work is called off.
    fn wait(&mut self, time: Duration);
}

/// Nobody, by the system's clock.
#[derive(Debug, Clone, Copy)]
pub struct Unwatched(Instant);

impl Default for Unwatched {
    fn default() -> Self {
        Unwatched(Instant::now())
    }
}

impl Watch for Unwatched {
    fn now(&mut self) -> Duration {
        self.0.elapsed()
    }

    fn wait(&mut self, time: Duration) {
        std::thread::sleep(time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(round: u32, dirty: u64, total: u64) -> RoundSent {
        let (took, held) = (Duration::from_secs(2), Duration::from_secs(1));
        RoundSent { round, pages: 1000, took, held, total: Duration::from_secs(total), dirty }
    }

    #[test]
    fn the_defaults_are_xens() {
        let limits = Limits::default();
        let cases = [
            (0, 49, Next::Enough),
            (0, 50, Next::Round),
            (3, 50, Next::Round),
            (4, 50, Next::Limit("rounds")),
            (4, 49, Next::Enough),
        ];
        for (round, dirty, next) in cases {
            assert_eq!(limits.next(&sent(round, dirty, 1_000_000)), next, "round {round}, {dirty} dirty");
        }
        assert_eq!(limits.least_time(u64::MAX), Duration::ZERO);
    }

    #[test]
    fn each_limit_ends_the_rounds() {
        // 1000 pages in a second, without what was held back.
        let downtime = Limits { downtime: Some(Duration::from_millis(100)), ..Limits::default() };
        assert_eq!(sent(0, 100, 0).downtime(), Duration::from_millis(100));
        assert_eq!(downtime.next(&sent(0, 100, 0)), Next::Enough);
        assert_eq!(downtime.next(&sent(0, 101, 0)), Next::Round);
        let time = Limits { time: Some(Duration::from_secs(10)), rounds: 100, ..Limits::default() };
        assert_eq!(time.next(&sent(7, 100, 9)), Next::Round);
        assert_eq!(time.next(&sent(7, 100, 10)), Next::Limit("time"));
        let bandwidth = Limits { bandwidth: Some(1 << 20), ..Limits::default() };
        assert_eq!(bandwidth.least_time(512), Duration::from_secs(2));
    }

    #[test]
    fn a_line_of_the_log_has_it_all() {
        let text = sent(2, 500, 9).to_string();
        assert_eq!(text, "round 2: 1000 pages in 2000 ms (3 MiB/s), 500 dirty (250 pages/s), downtime estimate 500 ms");
        let nothing = RoundSent { took: Duration::ZERO, held: Duration::ZERO, ..sent(0, 3, 0) };
        assert_eq!(nothing.to_string(), "round 0: 1000 pages in 0 ms, 3 dirty, downtime estimate 0 ms");
    }
}
