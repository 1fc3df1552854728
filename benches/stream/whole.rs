//! The tool on a whole stream, against `cat`.

use crate::image::{BATCH, Image};
use crate::process::{PROGRAM, peak_memory, time, time_pipe};
use crate::table::{Pair, Table};
use criterion::{Criterion, SamplingMode, Throughput};
use memmap2::Mmap;
use std::io;
use std::process::Command;
use std::time::{Duration, Instant};
use xen_replicate::inspect::progress::Progress;
use xen_replicate::inspect::{self, Input};
use xen_replicate::stream::framer::Options;
use xen_replicate::stream::libxc::PAGE_SIZE;
use xxhash_rust::xxh3::xxh3_64;

/// Measures `ours`, with one run of `peer` before the runs of each sample.
pub fn in_turns(
    criterion: &mut Criterion,
    name: &str,
    bytes: u64,
    time_for_all: Duration,
    mut peer: impl FnMut() -> Duration,
    mut ours: impl FnMut() -> Duration,
) -> Pair {
    let mut pair = Pair::default();
    let mut group = criterion.benchmark_group("stream");
    group.sampling_mode(SamplingMode::Flat).measurement_time(time_for_all).throughput(Throughput::Bytes(bytes));
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|iterations| {
            pair.peer.push(peer());
            let mut sum = Duration::ZERO;
            for _ in 0..iterations {
                let took = ours();
                pair.ours.push(took);
                sum += took;
            }
            sum
        });
    });
    group.finish();
    pair
}

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(arguments);
    command
}

fn cat(image: Option<&Image>) -> Command {
    let mut command = Command::new("cat");
    command.args(image.map(Image::path));
    command
}

/// `verify FILE`, the whole process, against `cat FILE | cat > /dev/null`.
pub fn mapped(criterion: &mut Criterion, table: &mut Table, image: &Image) {
    let peer = || time_pipe(&mut cat(Some(image)), &mut cat(None));
    let ours = || time(program(&["verify"]).arg(image.path()));
    let pair = in_turns(criterion, "verify mapped", image.bytes, Duration::from_millis(500), peer, ours);
    table.pair("verify FILE : cat FILE | cat", &pair, ">= 20");
}

/// `cat FILE | verify -` against `cat FILE | cat > /dev/null`.
pub fn piped(criterion: &mut Criterion, table: &mut Table, image: &Image) {
    let peer = || time_pipe(&mut cat(Some(image)), &mut cat(None));
    let ours = || time_pipe(&mut cat(Some(image)), &mut program(&["verify", "-"]));
    let pair = in_turns(criterion, "verify piped", image.bytes, Duration::from_secs(8), peer, ours);
    table.pair("cat FILE | verify - : cat FILE | cat", &pair, ">= 0.8");
}

/// What `verify -` holds in memory.
pub fn resident(table: &mut Table, image: &Image) -> io::Result<()> {
    let kib = peak_memory(&mut program(&["verify", "-"]), &mut image.open()?)?;
    let record = (BATCH * (PAGE_SIZE + 8) + 16) >> 10;
    let figure = format!("{:.1} MiB", kib as f64 / 1024.0);
    table.figure("verify -: most memory resident", figure, &format!("<= {} MiB", 16 + (record >> 10)));
    Ok(())
}

/// `stats`, which hashes every page, against hashing the same memory and nothing else.
pub fn stats(criterion: &mut Criterion, table: &mut Table, image: &Image) {
    // Both map the file anew each time, as a process does.
    let hash = |map: &Mmap| map.chunks_exact(PAGE_SIZE).fold(0, |or, page| or | xxh3_64(page));
    let timed = |work: &dyn Fn()| {
        let since = Instant::now();
        work();
        since.elapsed()
    };
    let peer = || {
        timed(&|| {
            let Ok(Input::Mapped(map)) = Input::open(image.path()) else { panic!("the stream cannot be mapped") };
            std::hint::black_box(hash(&map));
        })
    };
    let ours = || {
        timed(&|| {
            let input = Input::open(image.path()).expect("opened before");
            let stats = inspect::stats(input, Options::default(), &mut Progress::none()).expect("a file");
            assert_eq!(stats.total.pages, image.records * BATCH as u64);
        })
    };
    let pair = in_turns(criterion, "stats mapped", image.bytes, Duration::from_secs(5), peer, ours);
    table.pair("stats : xxh3 of each page of the same file", &pair, "");
}
