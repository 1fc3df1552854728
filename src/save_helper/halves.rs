//! A stream that is a regular file, read by two threads at a time.
//!
//! Most of a restore from a file is the kernel's copy out of the page cache, and that is as fast as one CPU. Reads at a place of
//! their own do not wait for each other, so a long read is done in two halves. Writes are not: Linux has the file's lock held
//! for the whole of each.
//!
//! The descriptor is shared with libxl, which goes on where this program leaves off: its offset is moved behind every read, as if
//! there had been one.
#![forbid(unsafe_code)]

use rustix::fs::{FileType, SeekFrom, fstat, seek};
use rustix::io::{Errno, pread};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::thread;

/// A read that is shorter is done in one: what a second thread costs is a part of what it saves.
const WORTH_IT: usize = 1 << 20;

/// A source that is read in halves where it can be.
#[derive(Debug)]
pub struct Halves {
    file: File,
    regular: bool,
}

impl Halves {
    /// Around an open stream. One that is no regular file is read as it is, and so is everything where there is one CPU.
    pub fn new(file: File) -> Self {
        let several = thread::available_parallelism().is_ok_and(|cpus| cpus.get() > 1);
        let regular = several && fstat(&file).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_file());
        Halves { file, regular }
    }

    /// A half that is cut short is the end of what was read, whatever the other one has.
    fn read_both(&self, place: &mut [u8]) -> io::Result<usize> {
        let start = seek(&self.file, SeekFrom::Current(0))?;
        let middle = place.len() / 2;
        let (first, second) = place.split_at_mut(middle);
        let (first, second) = thread::scope(|scope| {
            let behind = start.saturating_add(middle as u64);
            let other = thread::Builder::new().spawn_scoped(scope, move || fill(self.file.as_fd(), second, behind));
            let first = fill(self.file.as_fd(), first, start);
            // Without a thread, or when it has failed, the second half is for the next read, which has the error if there is one.
            let second = other.ok().and_then(|other| other.join().ok()).and_then(Result::ok);
            (first, second.unwrap_or(0))
        });
        let read = first.map(|first| if first == middle { first + second } else { first })?;
        seek(&self.file, SeekFrom::Start(start.saturating_add(read as u64)))?;
        Ok(read)
    }
}

/// Reads from `offset` on until `place` is full or the file ends; an error only where there is nothing to tell otherwise.
fn fill(file: BorrowedFd<'_>, place: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = place.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match pread(file, rest, offset.saturating_add(filled as u64)) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(Errno::INTR) => {}
            Err(error) if filled == 0 => return Err(error.into()),
            Err(_) => break,
        }
    }
    Ok(filled)
}

impl Read for Halves {
    fn read(&mut self, place: &mut [u8]) -> io::Result<usize> {
        if self.regular && place.len() >= WORTH_IT { self.read_both(place) } else { self.file.read(place) }
    }
}

impl AsFd for Halves {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, Write};

    /// A file of `octets` that tell their place, and a second descriptor that shares its offset.
    fn file(octets: usize) -> (Vec<u8>, File, File) {
        let content: Vec<u8> = (0..octets).map(|place| (place ^ (place >> 8) ^ (place >> 16)) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&content).unwrap();
        file.rewind().unwrap();
        let libxls = file.try_clone().unwrap();
        (content, file, libxls)
    }

    #[test]
    fn a_long_read_is_what_one_read_would_be() {
        let (content, file, mut libxls) = file(3 * WORTH_IT + 1001);
        let mut halves = Halves { file, regular: true };
        let mut place = vec![0; WORTH_IT + 13];
        assert_eq!(halves.read(&mut place[..7]).unwrap(), 7);
        assert_eq!(halves.read(&mut place).unwrap(), place.len());
        assert_eq!(place, content[7..7 + place.len()]);
        let at = 7 + place.len();
        assert_eq!(libxls.stream_position().unwrap(), at as u64);
        // libxl reads its part, and what comes next is behind that.
        libxls.read_exact(&mut place[..100]).unwrap();
        let mut rest = vec![0; content.len()];
        let read = halves.read(&mut rest).unwrap();
        assert_eq!(rest[..read], content[at + 100..]);
        assert_eq!(halves.read(&mut rest).unwrap(), 0);
        assert_eq!(libxls.stream_position().unwrap(), content.len() as u64);
    }

    #[test]
    fn an_end_in_either_half_is_where_it_is() {
        for octets in [0, 1, WORTH_IT / 2 - 1, WORTH_IT / 2, WORTH_IT / 2 + 1, WORTH_IT - 1] {
            let (content, file, mut libxls) = file(octets);
            let mut halves = Halves { file, regular: true };
            let mut place = vec![0; WORTH_IT];
            assert_eq!(halves.read(&mut place).unwrap(), octets);
            assert_eq!(place[..octets], content);
            assert_eq!(libxls.stream_position().unwrap(), octets as u64);
        }
    }

    #[test]
    fn a_pipe_and_a_failure_are_as_ever() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        drop(write);
        let mut halves = Halves::new(read.into());
        assert!(!halves.regular);
        assert_eq!(halves.read(&mut vec![0; WORTH_IT]).unwrap(), 0);
        let unreadable = File::create(tempfile::NamedTempFile::new().unwrap().path()).unwrap();
        let mut halves = Halves { file: unreadable, regular: true };
        let error = halves.read(&mut vec![0; WORTH_IT]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::BADF.raw_os_error()));
    }
}
