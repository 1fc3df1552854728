//! Benchmarks of the save helper against Debian's own: `cargo bench --bench save_helper`.
//!
//! Both run on a simulated domain through the library of `tests/standin`, in turns; each figure is the ratio of the medians. The
//! domain, the streams, and what is restored into lie in `/dev/shm`, 5 GiB in all. `XEN_REPLICATE_BENCH_MIB` sets the domain's
//! size (1024), `XEN_REPLICATE_BENCH_ROUNDS` the number of samples (9). Words behind `--` pick subjects: `restore`, `save`,
//! `pipe`, `pinned`, `memory`, `remus`. `docs/performance.md` explains the figures.

mod bare;
mod helper;
mod home;
mod memory;
mod pinned;
mod plain;
mod remus;
#[path = "../stream/table.rs"]
mod table;

use helper::{Program, Time, Tools};
use home::Homes;
use pinned::on_one_cpu;
use std::error::Error;
use std::time::Duration;
use table::{Pair, Table, median};

/// What goes wrong is for people.
pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test --benches` runs everything once, for which a small domain is enough.
    let measuring = arguments.iter().any(|argument| argument == "--bench");
    let number = |name: &str, otherwise: u64| match std::env::var(name) {
        Ok(text) => text.parse().map_err(|_| format!("{name}: a number")),
        Err(_) => Ok(otherwise),
    };
    let mib = number("XEN_REPLICATE_BENCH_MIB", if measuring { 1024 } else { 64 })?;
    let rounds = number("XEN_REPLICATE_BENCH_ROUNDS", if measuring { 9 } else { 1 })?;
    let picked = |name: &str| {
        let mut words = arguments.iter().filter(|argument| !argument.starts_with('-')).peekable();
        words.peek().is_none() || words.any(|word| word == name)
    };

    let tools = Tools::set_up()?;
    let homes = Homes::new(mib)?;
    let mut table = Table::default();
    table.note(format!("a HVM domain of {mib} MiB in {}", homes.folder().display()));
    plain::same_streams(&tools, &homes)?;

    let kept = tools.with_kept_mappings();
    let mut pair = |name: &str, demand: &str, run: &dyn Fn(Program) -> Result<Time>| {
        measure(&mut table, rounds, name, demand, run)
    };
    if picked("restore") {
        pair("restore from a file in memory", "1.5", &|program| plain::restore_file(&tools, &homes, program))?;
        pair("restore from a file, mappings kept", "1.5", &|program| plain::restore_file(&kept, &homes, program))?;
    }
    if picked("restore") || picked("pipe") {
        pair("restore from a pipe", "1.5", &|program| plain::restore_pipe(&tools, &homes, program))?;
    }
    if picked("restore") || picked("pinned") {
        pair("restore from a pipe, both ends on one CPU", "1.5", &|program| {
            on_one_cpu(|| plain::restore_pipe(&tools, &homes, program))
        })?;
        pair("restore from a pipe on one CPU, mappings kept", "1.5", &|program| {
            on_one_cpu(|| plain::restore_pipe(&kept, &homes, program))
        })?;
    }
    if picked("save") {
        pair("save to a file in memory", "1.3", &|program| plain::save_file(&tools, &homes, program))?;
        pair("save to a file, mappings kept", "1.3", &|program| plain::save_file(&kept, &homes, program))?;
    }
    if picked("save") || picked("pipe") {
        pair("save to a pipe", "1", &|program| plain::save_pipe(&tools, &homes, program))?;
    }
    if picked("save") || picked("pinned") {
        pair("save to a pipe, both ends on one CPU", "1", &|program| {
            on_one_cpu(|| plain::save_pipe(&tools, &homes, program))
        })?;
    }
    if picked("save") {
        pair("save to /dev/null", "2", &|program| plain::save_null(&tools, &homes, program))?;
    }
    if picked("restore") {
        least(&mut table, rounds, "the bare system calls of a restore from a file", &|| bare::restore(&homes))?;
    }
    if picked("save") {
        least(&mut table, rounds, "the bare system calls of a save to a file", &|| bare::save(&homes))?;
    }
    if picked("memory") {
        memory::all(&tools, &homes, &mut table)?;
    }
    if picked("remus") {
        remus::all(&tools, &homes, rounds, &mut table)?;
    }
    table.print();
    Ok(())
}

/// Both in turns.
fn measure(
    table: &mut Table,
    rounds: u64,
    name: &str,
    demand: &str,
    run: &dyn Fn(Program) -> Result<Time>,
) -> Result<()> {
    let (mut wall, mut cpu) = (Pair::default(), Pair::default());
    // The first of each finds nothing in a cache, and does not count.
    run(Program::Debians)?;
    run(Program::Ours)?;
    for _ in 0..rounds {
        let (theirs, ours) = (run(Program::Debians)?, run(Program::Ours)?);
        wall.peer.push(theirs.wall);
        wall.ours.push(ours.wall);
        cpu.peer.push(theirs.cpu);
        cpu.ours.push(ours.cpu);
    }
    println!("{name}: {:.1?} / {:.1?}", wall.peer, wall.ours);
    table.pair(name, &wall, demand);
    table.pair("    the helper's processor time", &cpu, "");
    Ok(())
}

/// What nobody can be faster than.
fn least(table: &mut Table, rounds: u64, name: &str, run: &dyn Fn() -> Result<Duration>) -> Result<()> {
    run()?;
    let samples: Vec<Duration> = (0..rounds).map(|_| run()).collect::<Result<_>>()?;
    println!("{name}: {samples:.1?}");
    let figure = median(&samples).map_or_else(String::new, |median| format!("{median:.1?}"));
    table.figure(name, figure, "");
    Ok(())
}
