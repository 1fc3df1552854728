//! Files mapped into memory, so that what nobody looks at is never read.
#![allow(unsafe_code)]

use memmap2::Mmap;
use std::fs::File;
use std::io;

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
