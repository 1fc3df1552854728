//! What is made of images, against what copies or compares the same bytes: a table of ratios, each to a peer that ran in turns with it.
//!
//! `XEN_REPLICATE_BENCH_MIB` sets the size of the guest (1024), `XEN_REPLICATE_BENCH_ROUNDS` the samples (9), `TMPDIR` where the files lie:
//! five times the guest. A word behind `--` picks a subject.

mod process;
#[path = "../stream/image.rs"]
#[expect(dead_code, reason = "what the stream's benchmarks need besides")]
mod stream;
mod streams;
mod subjects;

use std::time::Duration;

/// Samples of two things in turns.
#[derive(Default)]
pub struct Pair {
    peer: Vec<process::Cost>,
    ours: Vec<process::Cost>,
}

fn median(costs: &[process::Cost], of: impl Fn(&process::Cost) -> Duration) -> Duration {
    let mut sorted: Vec<_> = costs.iter().map(of).collect();
    sorted.sort_unstable();
    sorted[sorted.len() / 2]
}

impl Pair {
    /// Runs both, `rounds` times, once each before anything counts.
    pub fn measure(
        rounds: usize,
        mut peer: impl FnMut() -> process::Cost,
        mut ours: impl FnMut() -> process::Cost,
    ) -> Pair {
        let mut pair = Pair::default();
        peer();
        ours();
        for round in 0..rounds {
            // Who goes first has the caches that the other has left.
            if round % 2 == 0 {
                pair.peer.push(peer());
                pair.ours.push(ours());
            } else {
                pair.ours.push(ours());
                pair.peer.push(peer());
            }
        }
        pair
    }

    /// Prints the ratios: over 1 is faster than the peer.
    pub fn print(&self, name: &str, asked: &str) {
        let clock = [&self.peer, &self.ours].map(|costs| median(costs, |cost| cost.clock));
        let cpu = [&self.peer, &self.ours].map(|costs| median(costs, |cost| cost.cpu));
        let ratio = |[peer, ours]: [Duration; 2]| peer.as_secs_f64() / ours.as_secs_f64().max(1e-6);
        let peak = self.ours.iter().map(|cost| cost.kib).max().unwrap_or(0);
        println!(
            "{name:<52} {:>6.2} {:>6.2} {asked:>6}  {:>8.1?} / {:<8.1?} {:>8.1} MiB",
            ratio(clock),
            ratio(cpu),
            clock[0],
            clock[1],
            peak as f64 / 1024.0
        );
    }
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name}: a number")))
}

fn main() -> std::io::Result<()> {
    // `cargo test --benches` runs this, too, with little of it.
    let measuring = std::env::args().any(|argument| argument == "--bench");
    let mib = number("XEN_REPLICATE_BENCH_MIB", if measuring { 1024 } else { 8 });
    let rounds = number("XEN_REPLICATE_BENCH_ROUNDS", if measuring { 9 } else { 1 }) as usize;
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    println!("a guest of {mib} MiB, {rounds} samples, in {}", std::env::temp_dir().display());
    println!("{:<52} {:>6} {:>6} {:>6}  medians, peer / ours, most memory", "", "clock", "CPU", "asked");
    for (name, subject) in subjects::ALL {
        if wanted.is_empty() || wanted.iter().any(|word| name.contains(word.as_str())) {
            subject(mib, rounds)?;
        }
    }
    Ok(())
}
