//! What arrives, kept in a file besides (`receive --record`): by a thread of its own, so that a file system that does not answer costs
//! the record and nothing else.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes that may wait to be written.
const ROOM: usize = 8 << 20;
/// How long who records waits for room, or at the end for what still waits, while nothing at all is written.
const PATIENCE: Duration = Duration::from_secs(2);

/// Keeps the streams as they arrive. Trouble with the file ends the recording and nothing else; so does a file that takes no byte
/// for 2 s while 8 MiB wait.
#[derive(Debug)]
pub struct Record {
    path: PathBuf,
    streams: Arc<AtomicU32>,
    writer: Option<Arc<Shared>>,
    failed: Arc<OnceLock<String>>,
    patience: Duration,
}

/// What the recording thread is given, and what it says.
#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Piece>,
    /// Bytes of it.
    bytes: usize,
    /// Writes that have come to an end.
    written: u64,
    /// No more is coming.
    closed: bool,
    /// The thread is through, or has failed.
    done: Option<io::Result<()>>,
}

#[derive(Debug)]
enum Piece {
    /// A stream begins, in a file of its own.
    Begin(PathBuf),
    Bytes(Vec<u8>),
}

impl Record {
    /// The first stream goes to `path`, later ones to the path with `.2`, `.3` and so on behind it.
    pub fn new(path: PathBuf) -> Self {
        Record { path, streams: Arc::default(), writer: None, failed: Arc::default(), patience: PATIENCE }
    }

    /// The record of the next session. Its streams are numbered on from those begun so far, so that none is lost.
    pub fn next_session(&mut self) -> Self {
        let mut next = Record::new(self.path.clone());
        next.streams = Arc::clone(&self.streams);
        next
    }

    /// Where it will stand, in words, why the record is not whole.
    pub fn failed(&self) -> Arc<OnceLock<String>> {
        Arc::clone(&self.failed)
    }

    /// A stream begins.
    pub(in crate::replicate) fn begin(&mut self) {
        let number = self.streams.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let mut path = self.path.clone().into_os_string();
        if number > 1 {
            path.push(format!(".{number}"));
        }
        if self.writer.is_none() && self.failed.get().is_none() {
            let shared = Arc::new(Shared::default());
            let writing = Arc::clone(&shared);
            match thread::Builder::new().name("record".into()).spawn(move || writing.write()) {
                Ok(_) => self.writer = Some(shared),
                Err(error) => self.fail(&error),
            }
        }
        self.give(Piece::Begin(path.into()));
    }

    /// Bytes of the stream.
    pub(in crate::replicate) fn keep(&mut self, bytes: &[u8]) {
        if self.writer.is_some() {
            self.give(Piece::Bytes(bytes.to_vec()));
        }
    }

    /// All of it is there: waits until it is written.
    pub(super) fn finish(&mut self) {
        let Some(shared) = self.writer.take() else { return };
        shared.lock().closed = true;
        shared.changed.notify_all();
        match shared.wait(self.patience, |state| state.done.is_some()) {
            Some(mut state) => {
                if let Some(Err(error)) = state.done.take() {
                    drop(state);
                    self.fail(&error);
                }
            }
            None => self.give_up(),
        }
    }

    fn give(&mut self, piece: Piece) {
        let Some(shared) = self.writer.clone() else { return };
        let length = piece.len();
        // A piece that is larger than the room goes alone.
        let room = |state: &State| state.done.is_some() || state.bytes == 0 || state.bytes + length <= ROOM;
        let Some(mut state) = shared.wait(self.patience, room) else { return self.give_up() };
        if let Some(done) = state.done.take() {
            drop(state);
            self.writer = None;
            if let Err(error) = done {
                self.fail(&error);
            }
            return;
        }
        state.bytes += length;
        state.waiting.push_back(piece);
        drop(state);
        shared.changed.notify_all();
    }

    /// The thread is left where it hangs: it ends when the file system lets it.
    fn give_up(&mut self) {
        if let Some(shared) = self.writer.take() {
            let mut state = shared.lock();
            state.closed = true;
            state.waiting.clear();
        }
        self.fail(&io::Error::new(
            io::ErrorKind::TimedOut,
            format!("the file has taken nothing for {} s", self.patience.as_secs_f32()),
        ));
    }

    fn fail(&mut self, error: &io::Error) {
        log::error!("{}: {error}; the record ends here", self.path.display());
        self.writer = None;
        // The first trouble is the one that counts.
        let _ = self.failed.set(error.to_string());
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Piece {
    fn len(&self) -> usize {
        match self {
            Piece::Begin(_) => 0,
            Piece::Bytes(bytes) => bytes.len(),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until something holds; `None` when nothing was written for so long before it did.
    fn wait(&self, patience: Duration, holds: impl Fn(&State) -> bool) -> Option<MutexGuard<'_, State>> {
        let mut state = self.lock();
        let (mut written, mut since) = (state.written, Instant::now());
        while !holds(&state) {
            if state.written != written {
                (written, since) = (state.written, Instant::now());
            }
            let left = patience.checked_sub(since.elapsed()).filter(|left| !left.is_zero())?;
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Some(state)
    }

    /// The recording thread.
    fn write(&self) {
        let done = self.write_all();
        let mut state = self.lock();
        state.done = Some(done);
        state.waiting.clear();
        state.bytes = 0;
        drop(state);
        self.changed.notify_all();
    }

    fn write_all(&self) -> io::Result<()> {
        let mut file: Option<File> = None;
        while let Some(piece) = self.next() {
            match (&piece, &mut file) {
                (Piece::Begin(path), file) => *file = Some(File::create(path)?),
                (Piece::Bytes(bytes), Some(file)) => file.write_all(bytes)?,
                (Piece::Bytes(_), None) => {}
            }
            let mut state = self.lock();
            state.written += 1;
            state.bytes = state.bytes.saturating_sub(piece.len());
            drop(state);
            self.changed.notify_all();
        }
        Ok(())
    }

    /// What is to be written next; `None` at the end.
    fn next(&self) -> Option<Piece> {
        let mut state = self.lock();
        loop {
            if let Some(piece) = state.waiting.pop_front() {
                return Some(piece);
            }
            if state.closed {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::Read;
    use tempfile::TempDir;

    fn pipe(folder: &TempDir) -> PathBuf {
        let path = folder.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
        path
    }

    #[test]
    fn each_stream_has_a_file_and_all_of_it_is_there_when_the_record_is_finished() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("record");
        let mut first = Record::new(path.clone());
        let mut record = first.next_session();
        let bytes: Vec<u8> = (0..3 << 20).map(|at| (at % 251) as u8).collect();
        record.begin();
        for piece in bytes.chunks(60_000) {
            record.keep(piece);
        }
        record.begin();
        record.keep(b"second");
        record.finish();
        let mut next = first.next_session();
        next.begin();
        next.keep(b"third");
        drop(next);
        assert!(std::fs::read(&path).unwrap() == bytes);
        assert_eq!(std::fs::read(folder.path().join("record.2")).unwrap(), b"second");
        assert_eq!(std::fs::read(folder.path().join("record.3")).unwrap(), b"third");
        assert_eq!(record.failed().get(), None);
    }

    #[test]
    fn a_file_that_cannot_be_made_or_is_full_is_said_by_its_error() {
        for (path, error) in [("/nowhere/at/all", "No such file"), ("/dev/full", "No space left")] {
            let mut record = Record::new(path.into());
            let failed = record.failed();
            record.begin();
            record.keep(&[0; 100]);
            record.finish();
            assert!(failed.get().unwrap().contains(error), "{path}: {failed:?}");
        }
    }

    /// Nobody opens the pipe's other end, or somebody does and does not read.
    #[test]
    fn a_file_that_takes_nothing_is_given_up_and_the_stream_goes_on() {
        let folder = TempDir::new().unwrap();
        let path = pipe(&folder);
        for opened in [false, true] {
            let mut record = Record::new(path.clone());
            record.patience = Duration::from_millis(50);
            let (begun, failed) = (record.streams.clone(), record.failed());
            record.begin();
            let reader = opened.then(|| File::open(&path).unwrap());
            while failed.get().is_none() {
                record.keep(&[7; 1 << 16]);
            }
            assert!(failed.get().unwrap().contains("taken nothing"), "{failed:?}");
            // It is no more than the end of the recording.
            record.keep(&[7; 1 << 16]);
            record.begin();
            record.finish();
            assert_eq!(begun.load(Ordering::Relaxed), 2);
            // The threads end with the pipe.
            match reader {
                Some(reader) => drop(reader),
                None => drop(File::options().read(true).write(true).open(&path).unwrap()),
            }
        }
    }

    #[test]
    fn a_slow_file_is_waited_for() {
        let folder = TempDir::new().unwrap();
        let path = pipe(&folder);
        let mut record = Record::new(path.clone());
        record.begin();
        let mut reader = File::open(&path).unwrap();
        let reading = thread::spawn(move || {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).map(|_| bytes)
        });
        let bytes = vec![3; 3 * ROOM];
        for piece in bytes.chunks(1 << 16) {
            record.keep(piece);
        }
        record.finish();
        assert!(reading.join().unwrap().unwrap() == bytes);
        assert_eq!(record.failed().get(), None);
    }
}
