//! Checkpoints without end between two processes: they hold as many descriptors and threads, and as much memory, as at the start.

use crate::cases::Outcome;
use crate::side::{PATIENCE, Side, until};
use crate::world::{SECONDARY, Wanted, World};
use std::fs;
use std::time::{Duration, Instant};
use xen_replicate::control::status::Summary;

#[derive(Debug, Clone, Copy)]
struct Sample {
    descriptors: usize,
    threads: usize,
    /// Resident, in KiB.
    resident: u64,
}

fn sample(side: &Side) -> Sample {
    let proc = format!("/proc/{}", side.pid().as_raw_nonzero());
    let entries = |name: &str| fs::read_dir(format!("{proc}/{name}")).unwrap().count();
    let status = fs::read_to_string(format!("{proc}/status")).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    Sample {
        descriptors: entries("fd"),
        threads: entries("task"),
        resident: resident.trim().trim_end_matches(" kB").parse().unwrap(),
    }
}

/// The status takes a connection and a thread, which the process gives back a moment later: the least of a second is what stays.
fn settled(side: &Side) -> Sample {
    let mut least = sample(side);
    until(Duration::from_secs(1), || {
        let Sample { descriptors, threads, resident } = sample(side);
        least.descriptors = least.descriptors.min(descriptors);
        least.threads = least.threads.min(threads);
        least.resident = least.resident.min(resident);
        None::<()>
    });
    least
}

fn wait_for(side: &mut Side, checkpoint: u64, limit: Duration) {
    let end = Instant::now() + limit;
    let mut last = 0;
    while last < checkpoint {
        assert!(Instant::now() < end, "only {last} of {checkpoint} checkpoints after {limit:?}");
        let next = (last + 500).min(checkpoint);
        last = side.wait("further", |status| status.acknowledged >= next).acknowledged;
    }
}

fn flat(warm_up: u64, checkpoints: u64) -> Outcome {
    let (world, mut primary, mut secondary) = World::protected(Wanted { interval: 1, ..Wanted::default() }, 1);
    wait_for(&mut primary, warm_up, 3 * PATIENCE);
    let before = [settled(&primary), settled(&secondary)];
    let begun = Instant::now();
    wait_for(&mut primary, warm_up + checkpoints, 20 * PATIENCE);
    let took = begun.elapsed();
    let after = [settled(&primary), settled(&secondary)];
    for (name, before, after) in [("primary", before[0], after[0]), ("secondary", before[1], after[1])] {
        println!("soak: {name}: {before:?} -> {after:?}");
        assert_eq!((after.descriptors, after.threads), (before.descriptors, before.threads), "{name}");
        let grown = after.resident.saturating_sub(before.resident);
        assert!(grown < 4096.max(before.resident / 20), "{name} has grown by {grown} KiB");
    }
    let status = primary.status().unwrap();
    let Summary { p50, p99, max } = status.statistics.pause;
    println!(
        "soak: {} checkpoints in {:.1} s, {} refused; pause p50 {p50} us, p99 {p99} us, max {max} us",
        status.statistics.checkpoints,
        took.as_secs_f64(),
        status.statistics.refused
    );
    assert!(status.protected && status.statistics.refused == 0, "{status:#?}");
    primary.kill();
    world.survives(&primary, &mut secondary, SECONDARY, status.acknowledged);
    world.over("flat", Some(&mut secondary))
}

#[test]
fn flat_over_1000_checkpoints() {
    let outcome = flat(500, 1000);
    assert!(outcome.seen.acknowledged > 0);
}

#[test]
#[ignore = "long"]
fn flat_over_20000_checkpoints() {
    let Outcome { what, seen } = flat(2000, 20_000);
    println!(
        "soak: {what}; acknowledged {}, lost {}, contradicted {}",
        seen.acknowledged, seen.lost, seen.contradicted
    );
    assert!(seen.acknowledged > 1000);
}
