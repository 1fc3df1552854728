//! A bar on standard error for work that takes over a second.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// How long work may take before a bar appears.
const PATIENCE: Duration = Duration::from_secs(1);

/// Shows how far the work is, once it has taken long enough, when standard error is a terminal.
pub struct Progress {
    bar: Option<ProgressBar>,
    since: Option<Instant>,
    total: Option<u64>,
}

impl Progress {
    /// A bar for work over `total` bytes, where that is known.
    pub fn new(total: Option<u64>) -> Self {
        let since = std::io::stderr().is_terminal().then(Instant::now);
        Progress { bar: None, since, total }
    }

    /// Never shows anything.
    pub const fn none() -> Self {
        Progress { bar: None, since: None, total: None }
    }

    /// Says that the work has reached this byte.
    pub fn at(&mut self, byte: u64) {
        let Some(since) = self.since else { return };
        if self.bar.is_none() && since.elapsed() > PATIENCE {
            // The rate is that of all the work so far.
            self.bar = Some(bar(self.total).with_elapsed(since.elapsed()));
        }
        if let Some(bar) = &self.bar {
            bar.set_position(byte);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar(total: Option<u64>) -> ProgressBar {
    let template = match total {
        Some(_) => "{bytes}/{total_bytes} {wide_bar} {bytes_per_sec} {eta}",
        None => "{spinner} {bytes} {bytes_per_sec}",
    };
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
