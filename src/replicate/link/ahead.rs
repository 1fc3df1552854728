//! Reads the link ahead of whoever uses its bytes, so that what is read, which is the peer's sign of life, does not depend on what
//! that thread is busy with.

use crate::transport::LinkReader;
use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// Bytes that are read ahead at most, and one chunk. A living primary that waits for an acknowledgement sends heartbeats alone, so
/// it takes a checkpoint larger than this, which nobody reads for longer than the time-out, to fill it.
const MOST: usize = 64 << 20;

const CHUNK: usize = 128 << 10;

/// The bytes that have come.
#[derive(Debug)]
pub struct ReadAhead(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    chunks: VecDeque<Vec<u8>>,
    /// Bytes of the first chunk that were taken.
    taken: usize,
    waiting: usize,
    /// How the link ended, once it has.
    end: Option<io::Result<()>>,
    /// Nobody takes any more.
    dropped: bool,
}

impl ReadAhead {
    /// Starts the thread, which ends with the link or with this value.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(mut link: LinkReader) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let ahead = ReadAhead(Arc::clone(&shared));
        thread::Builder::new().name("read-ahead".into()).spawn(move || {
            let mut chunk = vec![0; CHUNK];
            loop {
                let got = match link.read(&mut chunk) {
                    Ok(0) => return shared.end(Ok(())),
                    Ok(got) => got,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return shared.end(Err(error)),
                };
                if !shared.put(chunk.get(..got).unwrap_or_default()) {
                    return;
                }
            }
        })?;
        Ok(ahead)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for room. False when nobody takes what comes.
    fn put(&self, bytes: &[u8]) -> bool {
        let mut state = self.state();
        while state.waiting >= MOST && !state.dropped {
            state = self.wait(state);
        }
        state.waiting += bytes.len();
        state.chunks.push_back(bytes.to_vec());
        self.changed.notify_all();
        !state.dropped
    }

    fn end(&self, end: io::Result<()>) {
        self.state().end = Some(end);
        self.changed.notify_all();
    }
}

impl Read for ReadAhead {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut state = self.0.state();
        loop {
            let State { chunks, taken, waiting, .. } = &mut *state;
            if let Some(chunk) = chunks.front() {
                let here = chunk.get(*taken..).unwrap_or_default();
                let got = here.len().min(out.len());
                crate::copying::copy(here, out);
                *taken += got;
                *waiting -= got;
                if *taken >= chunk.len() {
                    chunks.pop_front();
                    *taken = 0;
                }
                self.0.changed.notify_all();
                return Ok(got);
            }
            match state.end.replace(Ok(())) {
                Some(end) => return end.map(|()| 0),
                None => {
                    state.end = None;
                    state = self.0.wait(state);
                }
            }
        }
    }
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        self.0.state().dropped = true;
        self.0.changed.notify_all();
    }
}
