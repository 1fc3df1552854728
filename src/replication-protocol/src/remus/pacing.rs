//! Adaptive intervals: from the figures of the last round to the next interval, as a pure function.
//!
//! The cost of a round has a fixed part (suspend, state, resume) and a part that grows with the pages dirtied since the
//! last. A longer interval spreads the first over more running time and delays output by its own length.

use core::time::Duration;

/// What is to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The share of time that the guest is paused, in thousandths (1 to 999).
    PausedShare(u32),
    /// How long output waits: from a packet's leaving the guest to its release, at the most.
    OutputDelay(Duration),
}

/// How the interval may move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pacing {
    /// What is to be kept.
    pub target: Target,
    /// The shortest interval; at least 1 ms.
    pub shortest: Duration,
    /// The longest interval; when it is below the shortest, the shortest stands.
    pub longest: Duration,
}

/// Figures of one round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures {
    /// How long the guest was suspended.
    pub paused: Duration,
    /// From the resume to the acknowledgement.
    pub flight: Duration,
}

impl Pacing {
    /// The next interval, from the one in use and what the last round took.
    ///
    /// It goes half of the way to the interval that would have met the target, so that one odd round does not throw it
    /// about, and at most doubles or halves. The result is within the bounds whatever the figures.
    pub fn next(&self, interval: Duration, last: Figures) -> Duration {
        let shortest = self.shortest.max(Duration::from_millis(1));
        let longest = self.longest.max(shortest);
        let wanted = match self.target {
            // paused / interval == share
            Target::PausedShare(share) => scale(last.paused, 1000, share.clamp(1, 999)),
            // A packet sent just after a resume waits for the rest of the interval, the pause, and the flight.
            Target::OutputDelay(delay) => delay.saturating_sub(last.flight).saturating_sub(last.paused),
        };
        // A round does not start before the last is acknowledged: below this, the interval is not what is kept.
        let floor = last.paused.saturating_add(last.flight).clamp(shortest, longest);
        let now = interval.clamp(shortest, longest);
        let halfway = (now / 2).saturating_add(wanted / 2);
        halfway.clamp(now / 2, now.saturating_mul(2)).clamp(floor, longest)
    }
}

fn scale(value: Duration, up: u32, down: u32) -> Duration {
    value.checked_mul(up).map_or(Duration::MAX, |v| v / down)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn settle(pacing: Pacing, mut interval: Duration, round: impl Fn(Duration) -> Figures) -> Duration {
        for _ in 0..60 {
            interval = pacing.next(interval, round(interval));
        }
        interval
    }

    #[test]
    fn a_fixed_pause_settles_at_the_share() {
        let pacing = Pacing { target: Target::PausedShare(50), shortest: ms(1), longest: ms(10_000) };
        for from in [1, 100, 9_000] {
            let settled = settle(pacing, ms(from), |_| Figures { paused: ms(5), flight: ms(10) });
            assert!(settled.abs_diff(ms(100)) < ms(1), "{settled:?}");
        }
    }

    #[test]
    fn a_pause_that_grows_with_the_interval_settles_too() {
        let pacing = Pacing { target: Target::PausedShare(100), shortest: ms(1), longest: ms(10_000) };
        // 2 ms and 5 % of the interval: 10 % is met at 40 ms.
        let settled = settle(pacing, ms(500), |i| Figures { paused: ms(2) + i / 20, flight: ms(1) });
        assert!(settled.abs_diff(ms(40)) < ms(1), "{settled:?}");
    }

    #[test]
    fn the_output_delay_is_kept_while_the_link_allows() {
        let pacing = Pacing { target: Target::OutputDelay(ms(50)), shortest: ms(5), longest: ms(1_000) };
        let settled = settle(pacing, ms(200), |_| Figures { paused: ms(2), flight: ms(8) });
        assert!(settled.abs_diff(ms(40)) < ms(1), "{settled:?}");
        // The flight alone is longer than the target: as fast as the link can go, no faster.
        let slow = settle(pacing, ms(200), |_| Figures { paused: ms(2), flight: ms(80) });
        assert_eq!(slow, ms(82));
    }

    #[test]
    fn one_odd_round_at_most_doubles_it() {
        let pacing = Pacing { target: Target::PausedShare(10), shortest: ms(1), longest: ms(60_000) };
        assert_eq!(pacing.next(ms(100), Figures { paused: ms(90), flight: ms(1) }), ms(200));
        assert_eq!(pacing.next(ms(100), Figures::default()), ms(50));
    }

    proptest! {
        #[test]
        fn always_within_the_bounds(
            share in any::<u32>(), delay in any::<u64>(), short in any::<u64>(), long in any::<u64>(),
            interval in any::<u64>(), paused in any::<u64>(), flight in any::<u64>(), by_share in any::<bool>(),
        ) {
            let target = match by_share {
                true => Target::PausedShare(share),
                false => Target::OutputDelay(Duration::from_nanos(delay)),
            };
            let pacing = Pacing { target, shortest: Duration::from_nanos(short), longest: Duration::from_nanos(long) };
            let last = Figures { paused: Duration::from_nanos(paused), flight: Duration::from_nanos(flight) };
            let next = pacing.next(Duration::from_nanos(interval), last);
            let shortest = pacing.shortest.max(ms(1));
            prop_assert!(next >= shortest && next <= pacing.longest.max(shortest));
        }
    }
}
