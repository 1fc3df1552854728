//! The scan of a dirty bitmap against a bare read of the same bytes.

use crate::figures::{line, median, ms, timed};
use std::hint::black_box;
use xen_replicate::hypervisor::DirtyBitmap;

pub fn all(measuring: bool) {
    // 1 TiB of guest, in pages.
    let nr_pfns: u64 = if measuring { 1 << 28 } else { 1 << 20 };
    let mut bitmap = DirtyBitmap::new(nr_pfns);
    for dirty in [0, 1_000, 100_000] {
        bitmap.clear_all();
        let stride = nr_pfns / (dirty + 1);
        for index in 0..dirty {
            bitmap.set(index * stride + index % 61);
        }
        let (mut scans, mut reads) = (Vec::new(), Vec::new());
        let mut batch = Vec::with_capacity(1024);
        for _ in 0..if measuring { 31 } else { 1 } {
            let (read, sum) = timed(|| bitmap.words().iter().fold(0u64, |sum, word| sum | word));
            black_box(sum);
            reads.push(read);
            let (scan, found) = timed(|| {
                let (mut found, mut from) = (0, Some(0));
                while let Some(start) = from {
                    from = bitmap.next_batch(start, 1024, &mut batch);
                    found += batch.len() as u64;
                }
                found
            });
            assert_eq!(found, dirty, "the scan finds what is set");
            scans.push(scan);
        }
        let (scan, read) = (median(&mut scans), median(&mut reads));
        let rate = nr_pfns as f64 / 8.0 / scan.as_secs_f64() / f64::from(1 << 30);
        let ratio = ms(scan) / ms(read);
        let figures = format!("{:.2} ms ({rate:.1} GiB/s), read {:.2} ms, ratio {ratio:.2}", ms(scan), ms(read));
        line(&format!("bitmap of 1 TiB, {dirty} dirty"), &figures, "memory speed", ratio <= 2.0);
    }
}
