//! Emission of PAGE_DATA against writing the same memory and nothing else.

use crate::image::{BATCH, Noise, entries};
use crate::process::{End, pin};
use crate::table::Table;
use crate::whole::in_turns;
use criterion::Criterion;
use rustix::fs::{MemfdFlags, memfd_create};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};
use xen_replicate::stream::libxc::PAGE_SIZE;
use xen_replicate::stream::writer::RecordWriter;

/// Records written for one measurement.
const RECORDS: u64 = 32;
const RECORD: usize = BATCH * PAGE_SIZE;

/// Into nothing, into a pipe, and into memory that a file holds.
pub fn all(criterion: &mut Criterion, table: &mut Table) -> io::Result<()> {
    let mut memory = vec![0; RECORD];
    Noise(7).fill(&mut memory);

    let mut null = OpenOptions::new().write(true).open("/dev/null")?;
    let mut per_record = Vec::new();
    let mut group = criterion.benchmark_group("emit");
    group.bench_function("a record of 1024 scattered pages to /dev/null", |bencher| {
        let mut writer = RecordWriter::new(&mut null);
        bencher.iter_custom(|iterations| {
            let since = Instant::now();
            for record in 0..iterations {
                writer.page_data(entries(record), memory.chunks(PAGE_SIZE)).expect("/dev/null takes everything");
            }
            let took = since.elapsed();
            per_record.push(took / u32::try_from(iterations).unwrap_or(u32::MAX));
            took
        });
    });
    group.finish();
    if let Some(median) = crate::table::median(&per_record) {
        table.figure("emit: CPU time of a record of 1024 pages", format!("{median:.1?}"), "");
    }

    let (read, write) = io::pipe()?;
    let drain = std::thread::spawn(move || {
        pin(End::Front);
        let mut read = File::from(OwnedFd::from(read));
        let mut chunk = vec![0; 1 << 17];
        while read.read(&mut chunk).is_ok_and(|bytes| bytes > 0) {}
    });
    compare(criterion, table, "a pipe", File::from(OwnedFd::from(write)), &memory);
    drain.join().expect("the reader of the pipe");

    let file = File::from(memfd_create("xen-replicate-bench", MemfdFlags::CLOEXEC)?);
    compare(criterion, table, "a file in memory", file, &memory);
    Ok(())
}

fn compare(criterion: &mut Criterion, table: &mut Table, name: &str, sink: File, memory: &[u8]) {
    let timed = |work: &mut dyn FnMut(&File) -> io::Result<()>| {
        // From its start, so that the file's memory is there from the second time on; a pipe has none.
        let _ = (&sink).rewind();
        let since = Instant::now();
        work(&sink).expect("the sink takes everything");
        since.elapsed()
    };
    let peer = || timed(&mut |mut sink| (0..RECORDS).try_for_each(|_| sink.write_all(memory)));
    let ours = || {
        timed(&mut |sink| {
            let mut writer = RecordWriter::new(sink);
            (0..RECORDS).try_for_each(|record| writer.page_data(entries(record), memory.chunks(PAGE_SIZE)))
        })
    };
    let bytes = RECORDS * memory.len() as u64;
    let name = format!("emit to {name}");
    let pair = in_turns(criterion, &name, bytes, Duration::from_secs(2), peer, ours);
    table.pair(&format!("{name} : write of the same memory"), &pair, "");
}
