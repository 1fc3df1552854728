//! The writing end of a session: the stream's bytes, written by who has them, and small frames that never wait.
#![forbid(unsafe_code)]

use super::frame::{self, Lane, MAX_PAYLOAD};
use crate::replicate::failpoint::{Failpoints, Step};
use crate::transport::{Cancel, LinkWriter};
use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Small frames that wait at most; when more do, packets are dropped, as on any network.
const MOST_WAITING: usize = 1 << 16;

/// How long a frame that is being written may take to its end when the session is left: behind a torn one there is no goodbye. A guest
/// whose state it has waits for it.
const GRACE: Duration = Duration::from_millis(250);

/// The writing end. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Pipe(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    framed: bool,
    queue: Mutex<Queue>,
    changed: Condvar,
    /// `None` once this end is closed, or a frame was written in part.
    writer: Mutex<Option<LinkWriter>>,
    /// Calls off what is being written.
    cancel: Cancel,
    /// The stream has ended here.
    stopped: AtomicBool,
    taken: AtomicU64,
}

#[derive(Debug, Default)]
struct Queue {
    frames: VecDeque<(Lane, Vec<u8>)>,
    /// A frame is on its way.
    writing: bool,
    closing: bool,
    /// The thread of the small frames is done.
    closed: bool,
}

impl Pipe {
    /// Takes over the writing end. `cancel` is that of `writer` and of nothing else; `lost` hears once why nothing can be written any
    /// more.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(
        writer: LinkWriter,
        framed: bool,
        cancel: Cancel,
        lost: impl FnOnce(io::Error) + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            framed,
            queue: Mutex::default(),
            changed: Condvar::new(),
            writer: Mutex::new(Some(writer)),
            cancel,
            stopped: AtomicBool::new(false),
            taken: AtomicU64::new(0),
        });
        let pipe = Pipe(Arc::clone(&shared));
        thread::Builder::new().name("colo-out".into()).spawn(move || {
            if let Err(error) = shared.serve() {
                // What was called off is no trouble.
                if !shared.stopped.load(Ordering::SeqCst) {
                    lost(error);
                }
                shared.until_closed();
            }
            shared.writer().take();
            shared.queue().closed = true;
            shared.changed.notify_all();
        })?;
        Ok(pipe)
    }

    /// Has a frame sent. Does not wait. A peer without frames has no use for one.
    pub fn post(&self, lane: Lane, payload: Vec<u8>) {
        let mut queue = self.0.queue();
        let full = queue.frames.len() >= MOST_WAITING;
        // On a link that is stuck one sign of life says as much as many.
        let again = lane == Lane::Beat && queue.frames.iter().any(|(waits, _)| *waits == Lane::Beat);
        if self.0.framed && !queue.closing && !full && !again {
            queue.frames.push_back((lane, payload));
            self.0.changed.notify_all();
        }
    }

    /// Writes a frame before anything of the stream is, waiting for the link: it is small, and the link is empty.
    ///
    /// # Errors
    /// The connection's.
    pub fn first(&self, lane: Lane, payload: &[u8]) -> io::Result<()> {
        if self.0.framed { self.0.write(lane, payload) } else { Ok(()) }
    }

    /// Bytes of the stream that the link has taken.
    pub fn taken(&self) -> u64 {
        self.0.taken.load(Ordering::Relaxed)
    }

    /// Whether [`Pipe::stop`] was called.
    pub fn is_stopped(&self) -> bool {
        self.0.stopped.load(Ordering::SeqCst)
    }

    /// Nothing more of the stream is written. A frame that is being written is called off where the link does not take it soon. The
    /// connection stays open.
    pub fn stop(&self) {
        self.0.stopped.store(true, Ordering::SeqCst);
        self.call_off_unless(|queue| !queue.writing);
    }

    /// Closes this end, once what waits has been written, if that does not take long.
    pub fn close(&self) {
        self.0.stopped.store(true, Ordering::SeqCst);
        self.0.queue().closing = true;
        self.0.changed.notify_all();
        self.call_off_unless(|queue| queue.closed);
    }

    /// Calls off what is being written, at the end of [`GRACE`], unless it is `done` by then.
    fn call_off_unless(&self, done: fn(&Queue) -> bool) {
        if done(&self.0.queue()) {
            return;
        }
        let shared = Arc::clone(&self.0);
        let waiting = thread::Builder::new().name("colo-grace".into()).spawn(move || {
            let queue = shared.queue();
            let waited = shared.changed.wait_timeout_while(queue, GRACE, |queue| !done(queue));
            if waited.unwrap_or_else(PoisonError::into_inner).1.timed_out() {
                shared.cancel.cancel();
            }
        });
        if waiting.is_err() {
            self.0.cancel.cancel();
        }
    }

    /// Bytes of the stream, as one frame or as they are.
    ///
    /// # Errors
    /// The connection's; [`Pipe::stop`].
    pub fn stream(&self, bytes: &[u8]) -> io::Result<()> {
        if self.is_stopped() {
            return Err(io::ErrorKind::NotConnected.into());
        }
        self.0.write(Lane::Stream, bytes)?;
        self.0.taken.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writer(&self) -> MutexGuard<'_, Option<LinkWriter>> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, lane: Lane, bytes: &[u8]) -> io::Result<()> {
        let mut held = self.writer();
        let writer = held.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        self.queue().writing = true;
        let written = if self.framed {
            let header = frame::header(lane, bytes);
            writer.write_all_vectored(&mut [IoSlice::new(&header), IoSlice::new(bytes)])
        } else {
            writer.write_all_vectored(&mut [IoSlice::new(bytes)])
        };
        self.queue().writing = false;
        self.changed.notify_all();
        written
    }

    /// The thread of the small frames, until this end is to be closed.
    fn serve(&self) -> io::Result<()> {
        let mut queue = self.queue();
        loop {
            let waiting = std::mem::take(&mut queue.frames);
            let closing = queue.closing;
            drop(queue);
            for (lane, payload) in waiting {
                self.write(lane, &payload)?;
            }
            if closing {
                return Ok(());
            }
            queue = self.queue();
            while queue.frames.is_empty() && !queue.closing {
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    fn until_closed(&self) {
        let mut queue = self.queue();
        while !queue.closing {
            queue.frames.clear();
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// What the stream is written to: collects small pieces.
#[derive(Debug)]
pub struct StreamOut {
    pipe: Pipe,
    collected: Vec<u8>,
    failpoints: Failpoints,
    /// Passed behind the next bytes written.
    step: Arc<Mutex<Option<Step>>>,
}

impl StreamOut {
    /// Onto a pipe. The second value arms a step, see [`Arm::arm`].
    pub fn new(pipe: Pipe, failpoints: Failpoints) -> (Self, Arm) {
        let step = Arc::default();
        (StreamOut { pipe, collected: Vec::new(), failpoints, step: Arc::clone(&step) }, Arm(step))
    }

    fn send(&mut self) -> io::Result<()> {
        for part in self.collected.chunks(MAX_PAYLOAD) {
            self.pipe.stream(part)?;
        }
        self.collected.clear();
        Ok(())
    }
}

/// Has a [`StreamOut`] pass a step.
#[derive(Debug, Clone)]
pub struct Arm(Arc<Mutex<Option<Step>>>);

impl Arm {
    /// When the next bytes are written, and before those behind them.
    pub fn arm(&self, step: Step) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(step);
    }
}

impl Write for StreamOut {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.collected.extend_from_slice(bytes);
        let armed = self.step.lock().unwrap_or_else(PoisonError::into_inner).take();
        if self.collected.len() >= MAX_PAYLOAD || armed.is_some() {
            self.send()?;
        }
        if let Some(step) = armed {
            self.failpoints.pass(step);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}
