//! The figures of rounds, put together from what the threads report in whatever order.

use super::OnRound;
use crate::remus::pacing::{Figures, Pacing};
use crate::replicate::stats::{RoundFigures, Statistics};
use std::time::{Duration, Instant};

/// Counts rounds, and paces them.
pub(super) struct Rounds {
    pacing: Option<Pacing>,
    tell: Option<OnRound>,
    statistics: Statistics,
    /// The round under way.
    round: RoundFigures,
    /// When its last byte was written.
    sent: Option<Instant>,
    acknowledged: Option<Instant>,
    /// When the guest was resumed behind the checkpoint of the round, and behind the one before.
    resumed: Option<(u64, Instant)>,
    before: Option<(u64, Instant)>,
    /// A round that has ended and was not looked at.
    ended: Option<Figures>,
    last: Option<Instant>,
}

impl Rounds {
    pub(super) fn new(pacing: Option<Pacing>, tell: Option<OnRound>) -> Self {
        Rounds {
            pacing,
            tell,
            statistics: Statistics::default(),
            round: RoundFigures::default(),
            sent: None,
            acknowledged: None,
            resumed: None,
            before: None,
            ended: None,
            last: None,
        }
    }

    pub(super) const fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    pub(super) const fn pacing(&self) -> Option<&Pacing> {
        self.pacing.as_ref()
    }

    /// When the newest checkpoint was acknowledged.
    pub(super) const fn last(&self) -> Option<Instant> {
        self.last
    }

    pub(super) const fn stretched(&mut self) {
        self.statistics.stretched += 1;
    }

    pub(super) const fn refused(&mut self) {
        self.statistics.refused += 1;
    }

    pub(super) fn copied(&mut self, number: u64, pages: u64) {
        self.round = RoundFigures { number, dirty_pages: pages, ..RoundFigures::default() };
        self.sent = None;
        self.acknowledged = None;
    }

    pub(super) fn resumed(&mut self, number: u64, at: Instant, pause: Duration) {
        self.before = self.resumed.replace((number, at));
        if self.round.number == number {
            self.round.pause = pause;
        }
    }

    pub(super) fn sent(&mut self, number: u64, bytes: u64, took: Duration) {
        if self.round.number == number {
            self.round.bytes = bytes;
            self.round.transmission = took;
            self.sent = Some(Instant::now());
            self.end();
        }
    }

    /// The secondary has the checkpoint, and the packets of the epoch before it are released.
    pub(super) fn acknowledged(&mut self, number: u64) {
        if self.round.number == number {
            let now = Instant::now();
            self.acknowledged = Some(now);
            let epoch = [self.before, self.resumed].into_iter().flatten().find(|epoch| epoch.0 + 1 == number);
            self.round.output_delay = epoch.map(|(_, at)| now - at);
            self.end();
        }
    }

    fn end(&mut self) {
        let (Some(sent), Some(acknowledged)) = (self.sent, self.acknowledged) else { return };
        self.round.acknowledgement = acknowledged.saturating_duration_since(sent);
        self.statistics.add(&self.round);
        if let Some(tell) = &mut self.tell {
            tell(&self.round);
        }
        self.last = Some(acknowledged);
        let flight = self.resumed.map_or(Duration::ZERO, |(_, at)| acknowledged.saturating_duration_since(at));
        self.ended = Some(Figures { paused: self.round.pause, flight });
        self.sent = None;
        self.acknowledged = None;
    }

    /// The interval to go on with, once for each round that has ended.
    pub(super) fn next_interval(&mut self, interval: Duration) -> Option<Duration> {
        let ended = self.ended.take()?;
        let next = self.pacing.as_ref()?.next(interval, ended);
        (next != interval).then_some(next)
    }
}
