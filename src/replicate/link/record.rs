//! What arrives, kept in a file besides (`receive --record`): by a thread of its own, and nobody waits for the file but who ends the process,
//! so that a file system that does not answer costs the record and nothing else.

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
/// Bytes that are written at a time, and that short pieces are put together to.
const PIECE: usize = 64 << 10;
/// How long is waited, for room and at the end, while nothing at all is written.
const PATIENCE: Duration = Duration::from_secs(2);

/// The records of one session after another. Whoever drops it waits until they are written, as long as anything is.
#[derive(Debug)]
pub struct Records {
    path: PathBuf,
    streams: Arc<AtomicU32>,
    begun: Vec<Arc<Shared>>,
    patience: Duration,
}

/// Keeps the streams of a session as they arrive. Trouble with the file ends the recording and nothing else; so does a file that takes
/// nothing for 2 s while 8 MiB wait for it.
#[derive(Debug)]
pub struct Record {
    path: PathBuf,
    streams: Arc<AtomicU32>,
    shared: Arc<Shared>,
    patience: Duration,
    /// Whether there is a thread that writes.
    writing: bool,
}

/// What the recording thread is given, and what it says.
#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    failed: Arc<OnceLock<String>>,
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
    /// Nothing is written any more, and nothing was begun.
    idle: bool,
}

#[derive(Debug)]
enum Piece {
    /// A stream begins, in a file of its own.
    Begin(PathBuf),
    /// The same, in a file that is open.
    Open(File),
    Bytes(Vec<u8>),
}

impl Records {
    /// The first stream goes to `path`, later ones to the path with `.2`, `.3` and so on behind it.
    pub fn new(path: PathBuf) -> Self {
        Records { path, streams: Arc::default(), begun: Vec::new(), patience: PATIENCE }
    }

    /// The record of the next session. Its streams are numbered on from those begun so far, so that none is lost.
    pub fn next_session(&mut self) -> Record {
        let shared = Arc::new(Shared::default());
        shared.lock().idle = true;
        self.begun.retain(|before| !before.lock().idle);
        self.begun.push(Arc::clone(&shared));
        let (path, streams) = (self.path.clone(), Arc::clone(&self.streams));
        Record { path, streams, shared, patience: self.patience, writing: false }
    }

    /// Waits until what was recorded is written, for as long as anything is; the sessions have ended.
    pub fn finish(&mut self) {
        for shared in self.begun.drain(..) {
            shared.close();
            if shared.wait(self.patience, |state| state.idle).is_none() {
                shared.give_up(self.patience);
            }
        }
    }
}

impl Drop for Records {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Record {
    /// Where it will stand, in words, why the record is not whole.
    pub fn failed(&self) -> Arc<OnceLock<String>> {
        Arc::clone(&self.shared.failed)
    }

    /// A stream begins.
    pub(in crate::replicate) fn begin(&mut self) {
        let number = self.streams.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let mut path = self.path.clone().into_os_string();
        if number > 1 {
            path.push(format!(".{number}"));
        }
        self.write(Piece::Begin(path.into()));
    }

    /// The same, in this file.
    pub(in crate::replicate) fn begin_in(&mut self, file: File) {
        self.streams.fetch_add(1, Ordering::Relaxed);
        self.write(Piece::Open(file));
    }

    /// Bytes of the stream.
    pub(in crate::replicate) fn keep(&mut self, mut bytes: &[u8]) {
        while self.writing && !bytes.is_empty() {
            let shared = &self.shared;
            let room = |state: &State| state.idle || state.bytes < ROOM;
            let Some(mut state) = shared.wait(self.patience, room) else { return shared.give_up(self.patience) };
            if state.idle {
                self.writing = false;
                return;
            }
            let (now, later) = bytes.split_at(bytes.len().min(PIECE));
            bytes = later;
            state.bytes += now.len();
            match state.waiting.back_mut() {
                Some(Piece::Bytes(last)) if last.len() + now.len() <= PIECE => last.extend_from_slice(now),
                _ => state.waiting.push_back(Piece::Bytes(now.to_vec())),
            }
            drop(state);
            shared.changed.notify_all();
        }
    }

    /// Gives the thread the start of a stream.
    fn write(&mut self, start: Piece) {
        let shared = Arc::clone(&self.shared);
        if shared.failed.get().is_some() {
            return;
        }
        let mut state = shared.lock();
        state.waiting.push_back(start);
        if !self.writing {
            (state.idle, self.writing) = (false, true);
            let (writing, path) = (Arc::clone(&shared), self.path.clone());
            let begun = thread::Builder::new().name("record".into()).spawn(move || writing.write(&path));
            if let Err(error) = begun {
                (state.idle, self.writing) = (true, false);
                drop(state);
                shared.fail(&error.to_string());
                return;
            }
        }
        drop(state);
        shared.changed.notify_all();
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// No more is coming: the thread ends when it has written what waits.
    fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
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

    /// Leaves the thread where it hangs: it ends when the file system lets it.
    fn give_up(&self, patience: Duration) {
        let mut state = self.lock();
        (state.closed, state.idle, state.bytes) = (true, true, 0);
        state.waiting.clear();
        drop(state);
        self.changed.notify_all();
        self.fail(&format!("the file has taken nothing for {} s", patience.as_secs_f32()));
    }

    /// The first trouble is the one that counts.
    fn fail(&self, why: &str) {
        if self.failed.set(why.to_owned()).is_ok() {
            log::error!("recording the stream: {why}; the record ends here");
        }
    }

    /// The recording thread.
    fn write(&self, path: &std::path::Path) {
        let done = self.write_all();
        if let Err(error) = done {
            self.fail(&format!("{}: {error}", path.display()));
        }
        let mut state = self.lock();
        (state.idle, state.bytes) = (true, 0);
        state.waiting.clear();
        drop(state);
        self.changed.notify_all();
    }

    fn write_all(&self) -> io::Result<()> {
        let mut file: Option<File> = None;
        while let Some(piece) = self.next() {
            let mut bytes = 0;
            match piece {
                Piece::Begin(path) => file = Some(File::create(path)?),
                Piece::Open(opened) => file = Some(opened),
                Piece::Bytes(data) => {
                    bytes = data.len();
                    if let Some(file) = &mut file {
                        file.write_all(&data)?;
                    }
                }
            }
            let mut state = self.lock();
            state.written += 1;
            state.bytes = state.bytes.saturating_sub(bytes);
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

    /// Records in a folder; `patience` where anything is to be given up, else as long as it takes on a busy machine.
    fn records(path: PathBuf, patience: Option<Duration>) -> Records {
        let mut records = Records::new(path);
        records.patience = patience.unwrap_or(Duration::from_secs(300));
        records
    }

    fn pipe(folder: &TempDir) -> PathBuf {
        let path = folder.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
        path
    }

    #[test]
    fn each_stream_has_a_file_and_all_of_it_is_there_at_the_end() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("record");
        let mut records = records(path.clone(), None);
        let mut record = records.next_session();
        let bytes: Vec<u8> = (0..3 << 20).map(|at| (at % 251) as u8).collect();
        record.begin();
        for piece in bytes.chunks(60_000).flat_map(|piece| piece.chunks(piece.len() / 3)) {
            record.keep(piece);
        }
        record.begin();
        record.keep(b"second");
        let failed = record.failed();
        drop(record);
        let mut next = records.next_session();
        next.begin_in(File::create(folder.path().join("third")).unwrap());
        next.keep(b"third");
        drop((next, records));
        assert!(std::fs::read(&path).unwrap() == bytes);
        assert_eq!(std::fs::read(folder.path().join("record.2")).unwrap(), b"second");
        assert_eq!(std::fs::read(folder.path().join("third")).unwrap(), b"third");
        assert_eq!(failed.get(), None);
    }

    #[test]
    fn a_file_that_cannot_be_made_or_is_full_is_said_by_its_error() {
        for (path, error) in [("/nowhere/at/all", "No such file"), ("/dev/full", "No space left")] {
            let mut records = records(path.into(), None);
            let mut record = records.next_session();
            record.begin();
            record.keep(&[0; 100]);
            records.finish();
            let failed = record.failed();
            assert!(failed.get().unwrap().contains(error), "{path}: {failed:?}");
            // It is no more than the end of the recording.
            record.keep(&[0; 100]);
            record.begin();
        }
    }

    /// Nobody opens the pipe's other end, or somebody does and does not read.
    #[test]
    fn a_file_that_takes_nothing_is_given_up_and_the_stream_goes_on() {
        let folder = TempDir::new().unwrap();
        let path = pipe(&folder);
        for opened in [false, true] {
            let mut records = records(path.clone(), Some(Duration::from_millis(50)));
            let mut record = records.next_session();
            let failed = record.failed();
            record.begin();
            let reader = opened.then(|| File::open(&path).unwrap());
            let mut kept = 0;
            while failed.get().is_none() {
                record.keep(&[7; 1 << 16]);
                kept += 1;
            }
            assert!(failed.get().unwrap().contains("taken nothing"), "{failed:?}");
            assert!(kept <= 2 * ROOM / PIECE, "{kept} pieces wait");
            record.begin();
            assert_eq!(record.streams.load(Ordering::Relaxed), 2);
            // The thread ends with the pipe.
            match reader {
                Some(reader) => drop(reader),
                None => drop(File::options().read(true).write(true).open(&path).unwrap()),
            }
        }
    }

    #[test]
    fn at_the_end_a_file_that_takes_nothing_is_not_waited_for() {
        let folder = TempDir::new().unwrap();
        let path = pipe(&folder);
        let mut records = records(path.clone(), Some(Duration::from_millis(50)));
        let mut record = records.next_session();
        let failed = record.failed();
        record.begin();
        let reader = File::open(&path).unwrap();
        record.keep(&[7; 1 << 20]);
        drop(record);
        assert_eq!(failed.get(), None, "who recorded waits for nothing");
        drop(records);
        assert!(failed.get().unwrap().contains("taken nothing"), "{failed:?}");
        drop(reader);
    }

    #[test]
    fn a_slow_file_is_waited_for() {
        let folder = TempDir::new().unwrap();
        let path = pipe(&folder);
        let mut records = records(path.clone(), None);
        let mut record = records.next_session();
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
        let failed = record.failed();
        drop((record, records));
        assert!(reading.join().unwrap().unwrap() == bytes);
        assert_eq!(failed.get(), None);
    }
}
