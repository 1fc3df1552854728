//! The figures of rounds, put together from what the threads report.
#![forbid(unsafe_code)]

use super::OnRound;
use crate::replicate::stats::{Histogram, RoundFigures, Statistics};
use crate::replicate::status::{LockStep, Summary};
use std::time::{Duration, Instant};

/// The rounds in figures.
pub(super) struct Rounds {
    statistics: Statistics,
    on_round: Option<OnRound>,
    round: RoundFigures,
    /// When the round was begun, and when its state was sent.
    begun: Option<Instant>,
    sent: Option<Instant>,
    last: Option<Instant>,
    latency: Histogram,
    counts: LockStep,
    /// A difference has been found since the last checkpoint.
    differs: bool,
}

impl Rounds {
    pub(super) fn new(on_round: Option<OnRound>) -> Self {
        Rounds {
            statistics: Statistics::default(),
            on_round,
            round: RoundFigures::default(),
            begun: None,
            sent: None,
            last: None,
            latency: Histogram::default(),
            counts: LockStep::default(),
            differs: false,
        }
    }

    pub(super) const fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// When the newest checkpoint was loaded.
    pub(super) const fn last(&self) -> Option<Instant> {
        self.last
    }

    /// What lock-step adds to the status.
    pub(super) fn lock_step(&self, periodic: bool) -> LockStep {
        LockStep { periodic, latency: Summary::from_nanos(self.latency.summary()), ..self.counts }
    }

    pub(super) const fn agreed(&mut self) {
        self.counts.agreed += 1;
    }

    pub(super) const fn differ(&mut self) {
        self.differs = true;
    }

    pub(super) const fn waited(&mut self, packets: u64) {
        self.counts.waited = self.counts.waited.saturating_add(packets);
    }

    /// NEW is said.
    pub(super) fn begin(&mut self) {
        self.begun = Some(Instant::now());
        let count =
            if std::mem::take(&mut self.differs) { &mut self.counts.by_difference } else { &mut self.counts.by_period };
        *count += 1;
    }

    pub(super) fn collected(&mut self, number: u64, dirty_pages: u64) {
        self.round = RoundFigures { number, dirty_pages, ..RoundFigures::default() };
    }

    pub(super) fn sent(&mut self, bytes: u64, took: Duration) {
        (self.round.bytes, self.round.transmission) = (bytes, took);
        self.sent = Some(Instant::now());
    }

    /// The secondary has loaded it, and the guest runs again.
    pub(super) fn resumed(&mut self, pause: Duration, loaded: bool) {
        self.round.pause = pause;
        if !loaded {
            return;
        }
        self.last = Some(Instant::now());
        if let Some(begun) = self.begun.take() {
            self.latency.add_time(begun.elapsed());
        }
        self.statistics.add(&self.round);
        if let Some(tell) = &mut self.on_round {
            tell(&self.round);
        }
    }

    pub(super) fn loaded(&mut self) {
        if let Some(sent) = self.sent.take() {
            self.round.acknowledgement = sent.elapsed();
        }
    }
}
