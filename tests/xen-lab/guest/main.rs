//! The lab's guest: init and the only process. It counts, rewrites a part of its memory at each step, sums up all of it, and says so on
//! its console:
//!
//! ```text
//! LAB shape pages=2048 step=64
//! LAB count=17 sum=0123456789abcdef up=4.250
//! ```
//!
//! With `disk=1` it also writes to its first disk at each step, and looks whether that is the disk that it knows (`disk.rs`); the line then
//! ends with the number of blocks that were, or a line says which was not. With `net_own` and `net_to`, each line also leaves as a datagram, and it answers whoever connects (`net.rs`); with `suspend_channel=1` it
//! offers a suspend event channel (`channel.rs`). With `balloon=1` it watches how much memory it has: when it has given some back and taken it
//! again, it fills what is free, and says from then on whether that is what it wrote (`balloon.rs`).
//!
//! The sum is over what the memory holds, not over what it should hold: `work.rs` says what that is. Parameters are words of the kernel's
//! command line, which the kernel puts into init's environment.

mod balloon;
mod channel;
mod disk;
mod driver;
mod net;
mod work;

use std::io::Write;
use std::time::{Duration, Instant};
use work::{PAGE, Shape, WORDS, add, word};

fn parameter(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn fill(page: &mut [u64], number: usize, count: u64) {
    for (index, place) in page.iter_mut().enumerate() {
        *place = word(number, count, index);
    }
}

fn main() {
    let pages = (parameter("region_kb", 8192) * 1024 / PAGE).max(1);
    let shape = Shape { pages, step: (parameter("dirty_kb", 256) * 1024 / PAGE).clamp(1, pages) };
    let pause = Duration::from_millis(parameter("tick_ms", 200) as u64);
    let mut region = vec![0u64; pages * WORDS];
    for (number, page) in region.chunks_mut(WORDS).enumerate() {
        fill(page, number, 0);
    }
    let address = |name: &str| std::env::var(name).ok()?.parse().ok();
    let outside = match (address("net_own"), address("net_to")) {
        (Some(own), Some(to)) => net::Outside::open(own, to).ok(),
        _ => None,
    };
    let start = Instant::now();
    let offered = if parameter("suspend_channel", 0) > 0 { Some(channel::offer()) } else { None };
    let mut disk = if parameter("disk", 0) > 0 { Some(disk::Disk::open()) } else { None };
    let mut balloon = if parameter("balloon", 0) > 0 { Some(balloon::Balloon::new()) } else { None };
    let mut console = std::io::stdout();
    // Nobody is there to tell when the console fails.
    let _ = writeln!(console, "LAB shape pages={} step={}", shape.pages, shape.step);
    if let Some(Err(error)) = offered {
        let _ = writeln!(console, "LAB no suspend event channel: {error}");
    }
    if let Some(Err(error)) = &disk {
        let _ = writeln!(console, "LAB no disk: {error}");
    }
    for count in 1u64.. {
        for nth in 0..shape.step {
            let number = shape.written(count, nth);
            fill(&mut region[number * WORDS..][..WORDS], number, count);
        }
        // The compiler must not sum up what it knows it has written.
        let sum = std::hint::black_box(&region).iter().copied().fold(0, add);
        let mut found = String::new();
        if let Some(Ok(disk)) = &mut disk {
            if let Err(error) = disk.step(count) {
                disk.wrong.get_or_insert(format!("error at {count}: {error}"));
            }
            found = format!(" disk={}", disk.right);
            if let Some(wrong) = &disk.wrong {
                let _ = writeln!(console, "LAB disk WRONG: {wrong}");
            }
        }
        if let Some(found) = balloon.as_mut().and_then(balloon::Balloon::step) {
            let _ = writeln!(console, "{found}");
        }
        let line = format!("LAB count={count} sum={sum:016x} up={:.3}{found}\n", start.elapsed().as_secs_f64());
        let _ = console.write_all(line.as_bytes());
        if let Some(outside) = &outside {
            outside.tell(count, &line);
        }
        std::thread::sleep(pause);
    }
}
