//! A recorded Remus stream, its pages full of noise.

use super::stream::{BATCH, Noise, entries};
use std::io::{self, BufWriter};
use tempfile::NamedTempFile;
use xen_replicate::decode::hvm_context::HvmContextBuilder;
use xen_replicate::stream::libxc::{
    DomainHeader, DomainType, ImageHeader, PAGE_SIZE, PageEntry, PageType, types as xc,
};
use xen_replicate::stream::writer::RecordWriter;

/// A guest's first image and so many checkpoints behind it, each with 1,000 pages in rows of 8, all over its memory.
pub fn remus(mib: u64, checkpoints: u64) -> io::Result<NamedTempFile> {
    const DIRTY: u64 = 1000;
    const ROW: u64 = 8;
    let guest = (mib << 20) / PAGE_SIZE as u64;
    let file = NamedTempFile::with_prefix("xen-replicate-bench-")?;
    let mut writer = RecordWriter::new(BufWriter::new(file.as_file()));
    writer.raw(&ImageHeader::new(3).emit())?;
    writer.raw(&DomainHeader::new(DomainType::Hvm, 4, 17).emit())?;
    writer.record(xc::STATIC_DATA_END, &[])?;
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    let mut memory = vec![0; BATCH * PAGE_SIZE];
    for first in (0..guest).step_by(BATCH) {
        noise.fill(&mut memory);
        writer.page_data(entries(first), [&memory[..]])?;
    }
    for checkpoint in 0..=checkpoints {
        if checkpoint > 0 {
            let mut rows: Vec<u64> =
                (0..DIRTY / ROW).map(|row| (checkpoint * 7919 + row * 523) % (guest / ROW) * ROW).collect();
            rows.sort_unstable();
            rows.dedup();
            let pfns: Vec<u64> = rows.iter().flat_map(|row| *row..row + ROW).collect();
            let contents = &mut memory[..pfns.len() * PAGE_SIZE];
            noise.fill(contents);
            let entries = pfns.iter().map(|&pfn| PageEntry { page_type: PageType::NOTAB, pfn });
            writer.page_data(entries, [&*contents])?;
        }
        writer.record(xc::X86_TSC_INFO, &[&[0; 24]])?;
        writer.record(xc::HVM_PARAMS, &[&[0; 8]])?;
        writer.record(xc::HVM_CONTEXT, &[&context()])?;
        writer.record(xc::CHECKPOINT, &[])?;
    }
    writer.flush()?;
    drop(writer);
    Ok(file)
}

/// A HVM context with a header and one vCPU.
fn context() -> Vec<u8> {
    let mut header = [0; 24];
    header[..4].copy_from_slice(&0x5438_1286u32.to_le_bytes());
    header[4] = 1;
    let mut context = HvmContextBuilder::new();
    context.push(1, 0, &header).expect("24 bytes fit");
    context.push(2, 0, &[0; 1032]).expect("1032 bytes fit");
    context.finish()
}
