//! Keeps a copy of a stream as it is read.

use crate::replicate::link::Record;
use std::io::{self, Read};
use std::path::PathBuf;

/// A source whose bytes also go into a file. Trouble with the file ends the recording, not the reading ([`Record`]).
#[derive(Debug)]
pub struct Recorder<R> {
    source: R,
    record: Option<Record>,
}

impl<R: Read> Recorder<R> {
    /// Copies what is read from `source` into a file at `path`; without one nothing is copied.
    pub fn new(source: R, path: Option<PathBuf>) -> Self {
        let mut record = path.map(Record::new);
        if let Some(record) = &mut record {
            record.begin();
        }
        Recorder { source, record }
    }
}

impl<R: Read> Read for Recorder<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(bytes)?;
        if let (Some(record), Some(bytes)) = (&mut self.record, bytes.get(..read)) {
            record.keep(bytes);
        }
        Ok(read)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_is_what_was_read() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("copy");
        let mut recorder = Recorder::new(&b"every byte"[..], Some(path.clone()));
        let mut read = [0; 5];
        recorder.read_exact(&mut read).unwrap();
        assert_eq!(&read, b"every");
        drop(recorder);
        assert_eq!(std::fs::read(path).unwrap(), b"every");
    }

    #[test]
    fn a_full_disk_ends_the_recording_and_not_the_reading() {
        let mut recorder = Recorder::new(&[7; 100][..], Some("/dev/full".into()));
        let mut read = Vec::new();
        assert_eq!(recorder.read_to_end(&mut read).unwrap(), 100);
    }
}
