//! Live figures: one line that changes on a terminal, else a line a second.

use super::child::Round;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::time::{Duration, Instant};

/// From one line to the next where lines stay.
const EVERY: Duration = Duration::from_secs(1);

/// Where the figures go.
pub(super) struct Screen {
    bar: Option<ProgressBar>,
    silent: bool,
    /// When the last line was written, and what had been sent by then.
    last: Instant,
    bytes: u64,
}

impl Screen {
    pub fn new(silent: bool) -> Self {
        let bar = (!silent && std::io::stdout().is_terminal() && std::io::stderr().is_terminal()).then(|| {
            let style =
                ProgressStyle::with_template("{spinner} {msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
            ProgressBar::new_spinner().with_style(style)
        });
        Screen { bar, silent, last: Instant::now(), bytes: 0 }
    }

    /// A line that stays. Once nobody reads the lines any more there are none: what the demonstration comes to is told by
    /// its exit code all the same.
    pub fn say(&mut self, text: &str) -> io::Result<()> {
        let written = match &self.bar {
            _ if self.silent => Ok(()),
            Some(bar) => bar.suspend(|| line(text)),
            None => line(text),
        };
        match written {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                self.silent = true;
                Ok(())
            }
            written => written,
        }
    }

    /// The figures of a round.
    pub fn round(&mut self, round: &Round) -> io::Result<()> {
        self.bytes += round.bytes;
        let since = self.last.elapsed();
        // On a terminal the line follows each round; the rate is taken over a second all the same.
        if self.silent || (since < EVERY && self.bar.is_none() && round.number != 1) {
            return Ok(());
        }
        let rate = self.bytes as f64 / since.as_secs_f64().max(0.001);
        let line = format!(
            "  checkpoint {:>5}   {:>6} dirty pages   pause {:>7.2} ms   {:>10}   {:>10}/s",
            round.number,
            round.dirty_pages,
            round.pause.as_secs_f64() * 1e3,
            HumanBytes(round.bytes).to_string(),
            HumanBytes(rate as u64).to_string(),
        );
        match &self.bar {
            Some(bar) => {
                bar.set_message(line);
                bar.tick();
            }
            None => self.say(&line)?,
        }
        if since >= EVERY || round.number == 1 {
            (self.last, self.bytes) = (Instant::now(), 0);
        }
        Ok(())
    }

    /// Ends the figures with a line that stays.
    pub fn done(&mut self, text: &str) -> io::Result<()> {
        if let Some(bar) = self.bar.take() {
            let last = bar.message();
            bar.finish_and_clear();
            self.say(&last)?;
        }
        self.say(text)
    }
}

fn line(text: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{text}")
}
