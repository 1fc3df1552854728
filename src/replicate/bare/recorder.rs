//! Keeps a copy of a stream as it is read.

use std::io::{self, Read, Write};

/// A source whose bytes also go into a file. Trouble with the file ends the recording, not the reading.
#[derive(Debug)]
pub struct Recorder<R, F> {
    source: R,
    file: Option<F>,
    failed: Option<io::Error>,
}

impl<R: Read, F: Write> Recorder<R, F> {
    /// Copies what is read from `source` into `file`; without a file nothing is copied.
    pub const fn new(source: R, file: Option<F>) -> Self {
        Recorder { source, file, failed: None }
    }

    /// Why the recording ended early, if it did.
    pub const fn failed(&self) -> Option<&io::Error> {
        self.failed.as_ref()
    }

    /// The file, with everything written to it.
    ///
    /// # Errors
    /// The trouble that ended the recording, or what flushing it meets.
    pub fn finish(mut self) -> io::Result<Option<F>> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        if let Some(file) = &mut self.file {
            file.flush()?;
        }
        Ok(self.file)
    }
}

impl<R: Read, F: Write> Read for Recorder<R, F> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(bytes)?;
        if let (Some(file), Some(bytes)) = (&mut self.file, bytes.get(..read))
            && let Err(error) = file.write_all(bytes)
        {
            log::error!("recording the stream: {error}; the record ends here");
            self.file = None;
            self.failed = Some(error);
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Full(usize);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.0 == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let taken = bytes.len().min(self.0);
            self.0 -= taken;
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_copy_is_what_was_read() {
        let mut recorder = Recorder::new(&b"every byte"[..], Some(Vec::new()));
        let mut read = [0; 5];
        recorder.read_exact(&mut read).unwrap();
        assert_eq!(&read, b"every");
        assert_eq!(recorder.finish().unwrap().unwrap(), b"every");
    }

    #[test]
    fn a_full_disk_ends_the_recording_and_not_the_reading() {
        let mut recorder = Recorder::new(&[7; 100][..], Some(Full(30)));
        let mut read = Vec::new();
        assert_eq!(recorder.read_to_end(&mut read).unwrap(), 100);
        assert_eq!(recorder.failed().map(io::Error::kind), Some(io::ErrorKind::StorageFull));
        assert!(recorder.finish().is_err());
    }
}
