//! Medians, and lines that say what was asked for.

use std::time::{Duration, Instant};

/// Half of the times are at most this.
pub fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// Takes a time.
pub fn timed<T>(act: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let value = act();
    (start.elapsed(), value)
}

/// Milliseconds.
pub fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// A line: what, the figures, and whether the bound holds.
pub fn line(what: &str, figures: &str, bound: &str, holds: bool) {
    println!("{what:34} {figures:60} asked: {bound:22} {}", if holds { "holds" } else { "MISSED" });
}
