//! Benchmarks of the Remus engine: `cargo bench --bench remus`.
//!
//! What is promised is a ratio to a peer, or a physical limit, measured in the same run; each is printed beside what was
//! asked for. `docs/performance.md` explains the figures. A word picks a subject: `pause`, `rate`, `size`, `bitmap`,
//! `lockstep`.

mod bitmap;
mod figures;
mod lockstep;
mod pause;
mod rate;
mod size;

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test --benches` runs everything once: a figure each, of no meaning.
    let measuring = arguments.iter().any(|argument| argument == "--bench");
    let picked = |name: &str| {
        let mut words = arguments.iter().filter(|argument| !argument.starts_with('-')).peekable();
        words.peek().is_none() || words.any(|word| word == name)
    };
    if picked("pause") {
        pause::all(measuring)?;
    }
    if picked("size") {
        size::all(measuring)?;
    }
    if picked("bitmap") {
        bitmap::all(measuring);
    }
    if picked("lockstep") {
        lockstep::all(measuring)?;
    }
    if picked("rate") {
        rate::all(measuring)?;
    }
    Ok(())
}
