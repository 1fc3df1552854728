//! Keeps a copy of a stream as it is read.

use crate::replicate::link::Record;
use std::fs::File;
use std::io::{self, Read};

/// A source whose bytes also go into a file. Trouble with the file ends the recording, not the reading ([`Record`]).
#[derive(Debug)]
pub struct Recorder<R> {
    source: R,
    record: Option<Record>,
}

impl<R: Read> Recorder<R> {
    /// Copies what is read from `source` into a file; without one nothing is copied.
    pub fn new(source: R, record: Option<(Record, File)>) -> Self {
        let record = record.map(|(mut record, file)| {
            record.begin_in(file);
            record
        });
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
    use crate::replicate::link::Records;
    use std::path::Path;

    fn record(path: &Path) -> (Records, Option<(Record, File)>) {
        let mut records = Records::new(path.into());
        let record = records.next_session();
        (records, Some((record, File::create(path).unwrap())))
    }

    #[test]
    fn the_copy_is_what_was_read() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("copy");
        let (records, record) = record(&path);
        let mut recorder = Recorder::new(&b"every byte"[..], record);
        let mut read = [0; 5];
        recorder.read_exact(&mut read).unwrap();
        assert_eq!(&read, b"every");
        drop((recorder, records));
        assert_eq!(std::fs::read(path).unwrap(), b"every");
    }

    #[test]
    fn a_full_disk_ends_the_recording_and_not_the_reading() {
        let (mut records, record) = record(Path::new("/dev/full"));
        let failed = record.as_ref().unwrap().0.failed();
        let mut recorder = Recorder::new(&[7; 100][..], record);
        let mut read = Vec::new();
        assert_eq!(recorder.read_to_end(&mut read).unwrap(), 100);
        records.finish();
        assert!(failed.get().unwrap().contains("No space left"));
    }
}
