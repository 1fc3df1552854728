//! A file read from front to back, in which contents are passed over.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

/// Bytes read at once: the entries of a batch, and little of the contents behind them.
const AHEAD: usize = 16 << 10;

/// See the module.
#[derive(Debug)]
pub struct Seeking<'a> {
    reader: BufReader<&'a File>,
    at: u64,
    length: u64,
}

impl<'a> Seeking<'a> {
    /// From this byte of the file on.
    ///
    /// # Errors
    /// The system's; also for what cannot seek.
    pub fn new(mut file: &'a File, base: u64) -> io::Result<Self> {
        let length = file.seek(SeekFrom::End(0))?.saturating_sub(base);
        file.seek(SeekFrom::Start(base))?;
        Ok(Seeking { reader: BufReader::with_capacity(AHEAD, file), at: 0, length })
    }

    /// Passes over bytes; gives how many there were.
    ///
    /// # Errors
    /// The system's.
    pub fn pass(&mut self, bytes: u64) -> io::Result<u64> {
        let there = bytes.min(self.length.saturating_sub(self.at));
        // A body is not longer than 32 bits say.
        self.reader.seek_relative(i64::try_from(there).unwrap_or(i64::MAX))?;
        self.at += there;
        Ok(there)
    }
}

impl Read for Seeking<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(out)?;
        self.at += read as u64;
        Ok(read)
    }
}
