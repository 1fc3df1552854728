//! Benchmarks of the stream library and the inspection tool: `cargo bench --bench stream`.
//!
//! What the project promises is a ratio to something measured in the same run, so each such benchmark runs its peer and
//! itself in turns; the table at the end gives the ratios of the medians. `XEN_REPLICATE_BENCH_MIB` sets the size of the
//! stream (1024 by default), `TMPDIR` where it lies. `docs/performance.md` explains the figures.

mod emit;
mod image;
mod process;
mod small;
mod table;
mod whole;

use criterion::Criterion;
use std::time::Duration;
use table::Table;

fn main() -> std::io::Result<()> {
    // `cargo test --benches` runs everything once, for which a small stream is enough.
    let measuring = std::env::args().any(|arg| arg == "--bench");
    let mib = match std::env::var("XEN_REPLICATE_BENCH_MIB") {
        Ok(text) => text.parse().expect("XEN_REPLICATE_BENCH_MIB: a number of MiB"),
        Err(_) if measuring => 1024,
        Err(_) => 16,
    };
    let mut criterion =
        Criterion::default().sample_size(11).warm_up_time(Duration::from_millis(500)).configure_from_args();
    let mut table = Table::default();
    let image = image::Image::generate(mib)?;
    table.note(format!("stream: {} bytes, {} records, in {}", image.bytes, image.records, image.path().display()));
    table.note(process::placement());

    whole::mapped(&mut criterion, &mut table, &image);
    whole::piped(&mut criterion, &mut table, &image);
    whole::resident(&mut table, &image)?;
    whole::stats(&mut criterion, &mut table, &image);
    emit::all(&mut criterion, &mut table)?;
    small::all(&mut criterion, &mut table);

    criterion.final_summary();
    table.print();
    Ok(())
}
