//! The stream that is measured: a HVM domain as `xl save` writes it, its pages full of noise.

use std::fs::File;
use std::io::{self, BufWriter};
use std::path::Path;
use tempfile::NamedTempFile;
use xen_replicate::decode::hvm_context::HvmContextBuilder;
use xen_replicate::stream::libxc::{
    DomainHeader, DomainType, ImageHeader, PAGE_SIZE, PageEntry, PageType, types as xc,
};
use xen_replicate::stream::libxl::{self, types as xl};
use xen_replicate::stream::writer::RecordWriter;

/// Pages in a record, as many as real senders put there.
pub const BATCH: usize = 1024;

/// A stream in a file, in the page cache.
pub struct Image {
    file: NamedTempFile,
    /// Bytes of the file.
    pub bytes: u64,
    /// PAGE_DATA records.
    pub records: u64,
}

impl Image {
    /// Writes a stream with `mib` MiB of memory.
    pub fn generate(mib: u64) -> io::Result<Image> {
        let file = NamedTempFile::with_prefix("xen-replicate-bench-")?;
        let mut writer = RecordWriter::new(BufWriter::new(file.as_file()));
        let mut head = Vec::new();
        xen_replicate::stream::xl::emit(r#"{"c_info": {"type": "pvh", "name": "bench"}}"#, &mut head)?;
        head.extend(libxl::Header { options: 0 }.emit());
        writer.raw(&head)?;
        writer.record(xl::LIBXC_CONTEXT, &[])?;
        writer.raw(&ImageHeader::new(3).emit())?;
        writer.raw(&DomainHeader::new(DomainType::Hvm, 4, 17).emit())?;
        writer.record(xc::X86_CPUID_POLICY, &[&[0; 24 * 40]])?;
        writer.record(xc::X86_MSR_POLICY, &[&[0; 16]])?;
        writer.record(xc::STATIC_DATA_END, &[])?;
        let records = (mib << 20).div_ceil((BATCH * PAGE_SIZE) as u64);
        let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
        let mut memory = vec![0; BATCH * PAGE_SIZE];
        for record in 0..records {
            noise.fill(&mut memory);
            writer.page_data(entries(record * BATCH as u64), [&memory[..]])?;
        }
        writer.record(xc::X86_TSC_INFO, &[&[0; 24]])?;
        writer.record(xc::HVM_PARAMS, &[&1u32.to_le_bytes(), &[0; 4], &[0; 16]])?;
        writer.record(xc::HVM_CONTEXT, &[&context()])?;
        writer.record(xc::END, &[])?;
        writer.record(xl::END, &[])?;
        writer.flush()?;
        let bytes = writer.written();
        drop(writer);
        // What is still to be written to the disk would be written while something is measured.
        file.as_file().sync_all()?;
        // Into the page cache, should writing not have left it there.
        io::copy(&mut File::open(file.path())?, &mut io::sink())?;
        Ok(Image { file, bytes, records })
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// The file, at its start.
    pub fn open(&self) -> io::Result<File> {
        File::open(self.path())
    }
}

/// A full record's entries from `first` on.
pub fn entries(first: u64) -> impl ExactSizeIterator<Item = PageEntry> + Clone {
    (0..BATCH).map(move |page| PageEntry { page_type: PageType::NOTAB, pfn: first + page as u64 })
}

/// A HVM context with a header alone.
pub fn context() -> Vec<u8> {
    let mut header = [0; 24];
    header[..4].copy_from_slice(&0x5438_1286u32.to_le_bytes());
    header[4] = 1;
    let mut context = HvmContextBuilder::new();
    context.push(1, 0, &header).expect("24 bytes fit");
    context.finish()
}

/// Bytes that no compressor and no hash sees a pattern in.
pub struct Noise(pub u64);

impl Noise {
    /// Fills memory whose length is a multiple of 8.
    pub fn fill(&mut self, memory: &mut [u8]) {
        for word in memory.as_chunks_mut::<8>().0 {
            // xorshift64
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            *word = self.0.to_le_bytes();
        }
    }
}
