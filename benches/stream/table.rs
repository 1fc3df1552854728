//! The table of ratios at the end.

use std::time::Duration;

/// Samples of two things measured in turns.
#[derive(Default)]
pub struct Pair {
    /// What the figure is compared with.
    pub peer: Vec<Duration>,
    /// What is measured.
    pub ours: Vec<Duration>,
}

impl Pair {
    /// How many times the peer's speed: the ratio of the medians.
    pub fn ratio(&self) -> Option<f64> {
        Some(median(&self.peer)?.as_secs_f64() / median(&self.ours)?.as_secs_f64())
    }
}

/// The middle sample.
pub fn median(samples: &[Duration]) -> Option<Duration> {
    let mut sorted = samples.to_vec();
    sorted.sort();
    sorted.get(sorted.len() / 2).copied()
}

/// Lines for the end of the run.
#[derive(Default)]
pub struct Table {
    notes: Vec<String>,
    rows: Vec<[String; 5]>,
}

impl Table {
    /// A line above the table.
    pub fn note(&mut self, line: String) {
        self.notes.push(line);
    }

    /// A row for two things measured in turns. Nothing when the benchmark was filtered out.
    pub fn pair(&mut self, name: &str, pair: &Pair, demand: &str) {
        let (Some(ratio), Some(peer), Some(ours)) = (pair.ratio(), median(&pair.peer), median(&pair.ours)) else {
            return;
        };
        let samples = pair.peer.len().min(pair.ours.len());
        let times = format!("{peer:.2?} / {ours:.2?}");
        self.rows.push([name.into(), format!("{ratio:.2}"), demand.into(), times, samples.to_string()]);
    }

    /// A row for a single figure.
    pub fn figure(&mut self, name: &str, figure: String, demand: &str) {
        self.rows.push([name.into(), figure, demand.into(), String::new(), String::new()]);
    }

    /// Writes everything to standard output.
    pub fn print(&self) {
        println!();
        for note in &self.notes {
            println!("{note}");
        }
        let line = |[name, ratio, demand, times, samples]: [&str; 5]| {
            println!("{name:<58} {ratio:>12} {demand:>9}  {times:<24} {samples:>7}");
        };
        line(["", "ratio", "demanded", "median peer / ours", "samples"]);
        for row in &self.rows {
            line(row.each_ref().map(String::as_str));
        }
    }
}
