//! Records so small that the work on each is all there is.

use crate::image::context;
use crate::table::{Table, median};
use criterion::{Bencher, Criterion, Throughput};
use std::time::{Duration, Instant};
use xen_replicate::stream::check::Checker;
use xen_replicate::stream::framer::{Item, Options};
use xen_replicate::stream::libxc::{DomainHeader, DomainType, ImageHeader, PageEntry, PageType, types as xc};
use xen_replicate::stream::reader::{PullReader, PushReader, SliceReader};
use xen_replicate::stream::writer::RecordWriter;

/// Checkpoints of the stream.
const ROUNDS: u64 = 2000;

/// A bare libxc stream of a HVM domain with many checkpoints and no page contents; gives the number of items too.
fn stream() -> (Vec<u8>, u64) {
    let mut writer = RecordWriter::new(Vec::new());
    let mut write = || -> std::io::Result<()> {
        writer.raw(&ImageHeader::new(3).emit())?;
        writer.raw(&DomainHeader::new(DomainType::Hvm, 4, 17).emit())?;
        writer.record(xc::STATIC_DATA_END, &[])?;
        for round in 0..ROUNDS {
            let hole = PageEntry { page_type: PageType::XTAB, pfn: round };
            writer.page_data([hole].into_iter(), [])?;
            writer.record(xc::X86_TSC_INFO, &[&[0; 24]])?;
            writer.record(xc::HVM_PARAMS, &[&1u32.to_le_bytes(), &[0; 4], &[0; 16]])?;
            writer.record(xc::HVM_CONTEXT, &[&context()])?;
            writer.record(if round + 1 < ROUNDS { xc::CHECKPOINT } else { xc::END }, &[])?;
        }
        Ok(())
    };
    write().expect("memory takes everything");
    (writer.into_inner(), ROUNDS * 5 + 3)
}

/// The three ways in, and the rules on top of one.
pub fn all(criterion: &mut Criterion, table: &mut Table) {
    let (stream, items) = stream();
    let mut group = criterion.benchmark_group("small records");
    group.throughput(Throughput::Elements(items)).measurement_time(Duration::from_secs(2));
    let mut run = |name: &str, walk: &dyn Fn() -> u64| {
        let mut samples = Vec::new();
        group.bench_function(name, |bencher: &mut Bencher<'_>| {
            bencher.iter_custom(|iterations| {
                let since = Instant::now();
                for _ in 0..iterations {
                    assert_eq!(walk(), items);
                }
                let took = since.elapsed();
                samples.push(took / u32::try_from(iterations * items).unwrap_or(u32::MAX));
                took
            });
        });
        if let Some(median) = median(&samples) {
            table.figure(&format!("small records: {name}, each"), format!("{median:.1?}"), "");
        }
    };
    run("SliceReader", &|| slice(&stream, &mut |_| {}));
    run("SliceReader and Checker", &|| {
        let mut checker = Checker::new(None);
        // HVM_PARAMS before HVM_CONTEXT: nothing to report.
        slice(&stream, &mut |item| {
            checker.item(item, &mut |error| panic!("{error}"));
        })
    });
    run("PushReader, 64 KiB a push", &|| {
        let mut reader = PushReader::new(Options::default());
        let mut items = 0;
        for piece in stream.chunks(1 << 16) {
            reader.push(piece);
            while reader.next_item().expect("a whole stream").is_some() {
                items += 1;
            }
        }
        items
    });
    run("PullReader from memory", &|| {
        let mut reader = PullReader::new(&stream[..], Options::default());
        let mut items = 0;
        while reader.next_item().expect("a whole stream").is_some() {
            items += 1;
        }
        items
    });
    group.finish();
}

fn slice(stream: &[u8], visit: &mut dyn FnMut(&Item<'_>)) -> u64 {
    let mut reader = SliceReader::new(stream, Options::default());
    let mut items = 0;
    while let Some(item) = reader.next_item().expect("a whole stream") {
        visit(&item);
        items += 1;
    }
    items
}
