//! Files mapped into memory, so that what nobody looks at is never read.
#![allow(unsafe_code)]

use memmap2::{Mmap, UncheckedAdvice};
use std::fs::File;
use std::io;
use std::ops::Range;

/// Maps the whole of a regular file for reading.
///
/// # Errors
/// The system's, also for files that cannot be mapped.
pub fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: the mapping is private to this process and only read. A file that another process shortens meanwhile makes
    // the kernel end this one with SIGBUS, which is the price that every tool on mapped files pays; one that another
    // process writes to can change between two looks, and no decision here relies on looking twice.
    unsafe { Mmap::map(file) }
}

/// Lets go of what is in memory of a part of a mapping: who looks there again has it from the page cache, or from the disk.
pub fn let_go(map: &Mmap, part: Range<usize>) {
    // SAFETY: the mapping is a shared one of a file, and only read, so there is nothing in its pages that the file has not. Should the system not
    // do it, memory stays in use, and that is all.
    let _ = unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, part.start, part.len()) };
}
