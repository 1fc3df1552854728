//! The system calls of a save and a restore and nothing else: what no helper can be faster than here.

use crate::Result;
use crate::helper::Program;
use crate::home::Homes;
use memmap2::{Advice, MmapMut, MmapOptions};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::time::{Duration, Instant};
use xen_replicate::hypervisor::PAGE_SIZE;
use xen_replicate::stream::libxc::BATCH;

/// Bytes of a mapping: as many pages as ours maps at a time.
const WINDOW: usize = 4 * BATCH * PAGE_SIZE;

/// Bytes of a record in front of the contents of its pages: they are why contents begin anywhere in a page of the file.
const HEAD: i64 = 8 + 8 + 8 * BATCH as i64;

/// Maps memory window by window, fills each from the stream, and unmaps it.
pub fn restore(homes: &Homes) -> Result<Duration> {
    let mut stream = File::open(homes.stream(Program::Debians.file()))?;
    let memory = File::options().read(true).write(true).open(homes.empty.path("memory"))?;
    windows(&memory, |window| {
        // Entered at once, as the stand-in does.
        window.advise(Advice::PopulateRead)?;
        for pages in window.chunks_mut(BATCH * PAGE_SIZE) {
            stream.seek(SeekFrom::Current(HEAD))?;
            stream.read_exact(pages)?;
        }
        Ok(())
    })
}

/// Maps memory window by window, writes each over a stream, and unmaps it.
pub fn save(homes: &Homes) -> Result<Duration> {
    let mut stream = File::options().write(true).open(homes.stream(Program::Ours.file()))?;
    let memory = File::options().read(true).write(true).open(homes.still.path("memory"))?;
    windows(&memory, |window| {
        for pages in window.chunks(BATCH * PAGE_SIZE) {
            stream.seek(SeekFrom::Current(HEAD))?;
            stream.write_all(pages)?;
        }
        Ok(())
    })
}

fn windows(memory: &File, mut act: impl FnMut(&mut MmapMut) -> std::io::Result<()>) -> Result<Duration> {
    let bytes = usize::try_from(memory.metadata()?.len())?;
    let start = Instant::now();
    for first in (0..bytes).step_by(WINDOW) {
        let length = WINDOW.min(bytes - first);
        // SAFETY: the file is in a folder of this program's own, and nobody else uses it meanwhile.
        let mut window = unsafe { MmapOptions::new().offset(first as u64).len(length).map_mut(memory)? };
        act(&mut window)?;
    }
    Ok(start.elapsed())
}
