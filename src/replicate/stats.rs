//! What replication costs, round by round and in sum.

use serde::Serialize;
use std::time::Duration;

/// One checkpoint of a primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RoundFigures {
    /// The checkpoint's number, from 1.
    pub number: u64,
    /// Pages that the guest had written since the round before.
    pub dirty_pages: u64,
    /// Bytes of stream since the checkpoint before; for the first one, the whole image.
    pub bytes: u64,
    /// How long the guest stood still: from the request to suspend to its resume.
    pub pause: Duration,
    /// How long it took to write the checkpoint to the stream.
    pub transmission: Duration,
    /// From the end of the transmission to the acknowledgement; zero where nothing is acknowledged.
    pub acknowledgement: Duration,
    /// The longest that a packet can have been held: from the guest's resume at the start of the epoch to the release of
    /// its packets. `None` where no output was released.
    pub output_delay: Option<Duration>,
}

/// Sums over all rounds.
#[derive(Debug, Clone, Default)]
pub struct Statistics {
    /// Checkpoints sent, or taken.
    pub checkpoints: u64,
    /// Checkpoints that the secondary refused.
    pub refused: u64,
    /// Times that a checkpoint took longer than the interval.
    pub stretched: u64,
    /// Bytes of stream.
    pub bytes: u64,
    /// Dirty pages.
    pub dirty_pages: u64,
    /// Pauses, in nanoseconds.
    pub pause: Histogram,
    /// Transmission times, in nanoseconds; on a secondary the times to apply.
    pub transmission: Histogram,
    /// Times from the end of the transmission to the acknowledgement, in nanoseconds.
    pub acknowledgement: Histogram,
    /// The longest that packets can have been held, in nanoseconds.
    pub output_delay: Histogram,
    /// Dirty pages per checkpoint.
    pub pages: Histogram,
    /// Bytes of stream per checkpoint.
    pub bytes_each: Histogram,
}

impl Statistics {
    /// Counts a round.
    pub fn add(&mut self, round: &RoundFigures) {
        self.checkpoints += 1;
        self.bytes = self.bytes.saturating_add(round.bytes);
        self.dirty_pages = self.dirty_pages.saturating_add(round.dirty_pages);
        self.pause.add_time(round.pause);
        self.transmission.add_time(round.transmission);
        self.acknowledgement.add_time(round.acknowledgement);
        if let Some(delay) = round.output_delay {
            self.output_delay.add_time(delay);
        }
        self.pages.add(round.dirty_pages);
        self.bytes_each.add(round.bytes);
    }

    /// Counts a checkpoint that a secondary has taken.
    pub fn arrived(&mut self, pages: u64, bytes: u64) {
        self.checkpoints += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        self.dirty_pages = self.dirty_pages.saturating_add(pages);
        self.pages.add(pages);
        self.bytes_each.add(bytes);
    }

    /// Counts that it is applied.
    pub fn applied(&mut self, took: Duration) {
        self.transmission.add_time(took);
    }
}

/// Parts that each power of two is cut into: values are kept to one part in so many.
const PARTS: usize = 32;
const PART_BITS: u32 = PARTS.trailing_zeros();
const BUCKETS: usize = (64 - PART_BITS as usize + 1) * PARTS;

/// A histogram of numbers, each kept to about 3 %. Constant size, whatever the number of values.
#[derive(Debug, Clone)]
pub struct Histogram {
    buckets: Box<[u64; BUCKETS]>,
    count: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { buckets: Box::new([0; BUCKETS]), count: 0, max: 0 }
    }
}

/// A histogram in three numbers, of whatever unit its values have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Half of the values are at most this.
    pub p50: u64,
    /// 99 of 100 values are at most this.
    pub p99: u64,
    /// The largest value.
    pub max: u64,
}

impl Histogram {
    /// Counts a value.
    pub fn add(&mut self, value: u64) {
        if let Some(bucket) = self.buckets.get_mut(bucket(value)) {
            *bucket += 1;
        }
        self.count += 1;
        self.max = self.max.max(value);
    }

    /// Counts a time, in nanoseconds.
    pub fn add_time(&mut self, time: Duration) {
        self.add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// How many values there are.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// The largest value, 0 without any.
    pub const fn max(&self) -> u64 {
        self.max
    }

    /// A value that `permille` of 1,000 values do not exceed; 0 without any. Never over the maximum.
    pub fn quantile(&self, permille: u32) -> u64 {
        let rank = u128::from(self.count) * u128::from(permille.min(1000));
        let rank = u64::try_from(rank.div_ceil(1000)).unwrap_or(u64::MAX).max(1);
        let mut seen = 0;
        for (index, &count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return upper_bound(index).min(self.max);
            }
        }
        self.max
    }

    /// Median, 99 % and maximum.
    pub fn summary(&self) -> Summary {
        Summary { p50: self.quantile(500), p99: self.quantile(990), max: self.max }
    }
}

/// Small values have a bucket each; above, each power of two has [`PARTS`] of them.
fn bucket(value: u64) -> usize {
    let shift = (u64::BITS - value.leading_zeros()).saturating_sub(PART_BITS + 1);
    // The top PART_BITS + 1 bits of the value; the highest of them is set unless the value is small.
    shift as usize * PARTS + (value >> shift) as usize
}

/// The largest value that falls into a bucket.
fn upper_bound(index: usize) -> u64 {
    if index < 2 * PARTS {
        return index as u64;
    }
    let shift = index / PARTS - 1;
    let first = (index - shift * PARTS) as u64;
    first.checked_shl(shift as u32).map_or(u64::MAX, |low| low | ((1u64 << shift) - 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn small_values_are_exact() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.summary(), Summary { p50: 0, p99: 0, max: 0 });
        (1..=50).for_each(|value| histogram.add(value));
        assert_eq!(histogram.summary(), Summary { p50: 25, p99: 50, max: 50 });
        assert_eq!(histogram.quantile(1), 1);
        assert_eq!(histogram.count(), 50);
    }

    #[test]
    fn the_largest_number_has_a_bucket() {
        let mut histogram = Histogram::default();
        histogram.add(u64::MAX);
        histogram.add_time(Duration::MAX);
        assert_eq!(histogram.summary(), Summary { p50: u64::MAX, p99: u64::MAX, max: u64::MAX });
        assert!(bucket(u64::MAX) < BUCKETS);
    }

    proptest! {
        #[test]
        fn buckets_ascend_and_are_narrow(value: u64, shift in 0u32..64) {
            let value = value >> shift;
            let bound = upper_bound(bucket(value));
            prop_assert!(bound >= value);
            prop_assert!(bound - value <= value / PARTS as u64);
            prop_assert_eq!(bucket(bound), bucket(value));
            if let Some(next) = bound.checked_add(1) {
                prop_assert_eq!(bucket(next), bucket(value) + 1);
            }
        }
    }
}
