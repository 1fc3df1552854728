//! Frames out: control frames ahead of the stream's bytes, and never a wait for who sends them.
//!
//! The writing end is held for one frame at a time. Whoever has it first writes the control frames that wait, so a
//! heartbeat is behind one DATA frame at the most. A thread of its own writes them when nobody sends DATA.

use crate::remus::wire::{Control, Encoder, MAX_DETAIL};
use crate::transport::{Cancel, LinkWriter};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The outgoing half of a session. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Outbox(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    /// Told when the queue or its state changes.
    changed: Condvar,
    writer: Mutex<Writer>,
    cancel: Cancel,
    /// How long a connection that is being closed may take to send what waits.
    farewell: Duration,
    /// Bytes of DATA that the link has taken.
    taken: AtomicU64,
}

#[derive(Debug, Default)]
struct Queue {
    frames: VecDeque<(Control, Vec<u8>)>,
    closing: bool,
    /// Nothing is written any more, by anybody.
    over: bool,
}

#[derive(Debug)]
struct Writer {
    link: LinkWriter,
    /// Without one the stream is bare: no frames, the bytes alone.
    encoder: Option<Encoder>,
    failed: bool,
}

impl Outbox {
    /// Takes over the writing end, behind the magic. `cancel` is the link's; `farewell` is how long what waits may take to be
    /// sent once the connection is to be closed; `lost` hears once why nothing can be written any more.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(
        link: LinkWriter,
        encoder: Option<Encoder>,
        cancel: Cancel,
        farewell: Duration,
        lost: impl Fn(io::Error) + Send + 'static,
    ) -> io::Result<Self> {
        let writer = Mutex::new(Writer { link, encoder, failed: false });
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            changed: Condvar::new(),
            writer,
            cancel,
            farewell,
            taken: AtomicU64::new(0),
        });
        let outbox = Outbox(Arc::clone(&shared));
        thread::Builder::new().name("frames-out".into()).spawn(move || shared.serve(&lost))?;
        Ok(outbox)
    }

    /// Has a frame sent ahead of the DATA that waits. Does not wait.
    pub fn send(&self, frame: Control) {
        self.send_with(frame, Vec::new());
    }

    /// The same with a text for people, which REFUSE can carry.
    pub fn send_with(&self, frame: Control, mut detail: Vec<u8>) {
        detail.truncate(MAX_DETAIL);
        let mut queue = self.0.queue();
        let beat = |frame: &Control| matches!(frame, Control::Heartbeat { .. });
        // On a link that is stuck one heartbeat says as much as many.
        if queue.closing || queue.over || (beat(&frame) && queue.frames.iter().any(|(waits, _)| beat(waits))) {
            return;
        }
        queue.frames.push_back((frame, detail));
        self.0.changed.notify_all();
    }

    /// Writes a frame behind all DATA written before.
    ///
    /// # Errors
    /// The link's.
    pub fn send_in_order(&self, frame: Control) -> io::Result<()> {
        self.0.with_writer(|writer| writer.control(frame, &[]))
    }

    /// Writes one DATA frame whose payload is the parts in a row, at most [`crate::remus::wire::MAX_DATA`] bytes.
    ///
    /// # Errors
    /// The link's.
    pub fn data(&self, parts: &[IoSlice<'_>], bytes: usize) -> io::Result<()> {
        // What is being closed has no use for more, and who says farewell waits behind it.
        if self.0.queue().closing {
            return Err(io::ErrorKind::NotConnected.into());
        }
        self.0.with_writer(|writer| writer.data(parts, bytes))?;
        self.0.taken.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Bytes of DATA that the link has taken so far, by whole frames.
    pub fn taken(&self) -> u64 {
        self.0.taken.load(Ordering::Relaxed)
    }

    /// Waits until nothing more is written, once [`Outbox::close`] was asked for it: for the farewell's time at the most.
    pub fn closed(&self) {
        let deadline = Instant::now() + self.0.farewell;
        let mut queue = self.0.queue();
        while !queue.over {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            queue = self.0.changed.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Closes the connection once what waits is sent, or after the farewell's time if it cannot be sent. Does not wait.
    pub fn close(&self) {
        let mut queue = self.0.queue();
        if queue.closing {
            return;
        }
        queue.closing = true;
        self.0.changed.notify_all();
        drop(queue);
        let shared = Arc::clone(&self.0);
        let closer = thread::Builder::new().name("link-closer".into()).spawn(move || {
            Outbox(Arc::clone(&shared)).closed();
            shared.cancel.cancel();
        });
        if closer.is_err() {
            self.0.cancel.cancel();
        }
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what waits, then what the caller has.
    fn with_writer(&self, write: impl FnOnce(&mut Writer) -> io::Result<()>) -> io::Result<()> {
        let mut writer = self.writer();
        self.drain(&mut writer)?;
        writer.whole(write)
    }

    fn drain(&self, writer: &mut Writer) -> io::Result<()> {
        loop {
            let Some((frame, detail)) = self.queue().frames.pop_front() else { return Ok(()) };
            writer.whole(|writer| writer.control(frame, &detail))?;
        }
    }

    /// The thread.
    fn serve(&self, lost: &impl Fn(io::Error)) {
        loop {
            let mut queue = self.queue();
            while queue.frames.is_empty() && !queue.closing {
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
            let closing = queue.closing;
            drop(queue);
            let mut writer = self.writer();
            let drained = self.drain(&mut writer);
            if closing || drained.is_err() {
                if drained.is_ok() {
                    writer.link.shutdown();
                }
                writer.failed = true;
                drop(writer);
                let mut queue = self.queue();
                queue.over = true;
                queue.frames.clear();
                self.changed.notify_all();
                drop(queue);
                if let Err(error) = drained
                    && !closing
                {
                    lost(error);
                }
                return;
            }
        }
    }
}

impl Writer {
    /// Nothing can follow on a link that was left in the middle of a frame.
    fn whole(&mut self, write: impl FnOnce(&mut Writer) -> io::Result<()>) -> io::Result<()> {
        if self.failed {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let written = write(self);
        self.failed = written.is_err();
        written
    }

    fn control(&mut self, frame: Control, detail: &[u8]) -> io::Result<()> {
        let Some(frame) = self.encoder.as_mut().and_then(|encoder| encoder.with_detail(frame, detail)) else {
            return Ok(());
        };
        self.link.write_all_vectored(&mut [IoSlice::new(&frame)])
    }

    fn data(&mut self, parts: &[IoSlice<'_>], bytes: usize) -> io::Result<()> {
        let header = match self.encoder.as_mut() {
            None => None,
            Some(encoder) => Some(encoder.data_of(bytes).ok_or(io::ErrorKind::InvalidInput)?),
        };
        let header = header.iter().map(|header| IoSlice::new(header));
        let mut frame: Vec<_> = header.chain(parts.iter().copied()).collect();
        self.link.write_all_vectored(&mut frame)
    }
}
