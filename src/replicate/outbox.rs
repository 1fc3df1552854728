//! Frames out, whatever the protocol: small frames ahead of the stream's bytes, and never a wait for who sends them.
//!
//! The writing end is held for one frame at a time. Whoever has it first writes the small frames that wait, so a sign of life is
//! behind one frame of the stream at the most. A thread of its own writes them when nobody sends anything of the stream.

use crate::transport::{Cancel, LinkWriter};
use std::collections::VecDeque;
use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How a protocol frames what is sent. Without frames only the stream's bytes are.
pub trait Codec: Debug + Send + 'static {
    /// A small frame.
    type Frame: Debug + Send + 'static;

    /// Whether it is a sign of life and nothing else.
    fn is_beat(frame: &Self::Frame) -> bool;

    /// Writes a small frame.
    ///
    /// # Errors
    /// The link's.
    fn frame(&mut self, link: &mut LinkWriter, frame: &Self::Frame) -> io::Result<()>;

    /// Writes bytes of the stream as one frame; they are the parts in a row.
    ///
    /// # Errors
    /// The link's; [`io::ErrorKind::InvalidInput`] for more than a frame can have.
    fn data(&mut self, link: &mut LinkWriter, parts: &[IoSlice<'_>], bytes: usize) -> io::Result<()>;
}

/// The outgoing half of a session. Clones are the same one.
#[derive(Debug)]
pub struct Outbox<C: Codec>(Arc<Shared<C>>);

impl<C: Codec> Clone for Outbox<C> {
    fn clone(&self) -> Self {
        Outbox(Arc::clone(&self.0))
    }
}

#[derive(Debug)]
struct Shared<C: Codec> {
    queue: Mutex<Queue<C::Frame>>,
    /// Told when the queue or its state changes.
    changed: Condvar,
    writer: Mutex<Writer<C>>,
    cancel: Cancel,
    /// How long what waits may take to be sent, once the connection is to be closed or the stream is given up.
    grace: Duration,
    /// Nothing more of the stream is written.
    stopped: AtomicBool,
    /// Bytes of the stream that the link has taken.
    taken: AtomicU64,
}

#[derive(Debug)]
struct Queue<F> {
    frames: VecDeque<F>,
    /// A frame is on its way.
    writing: bool,
    closing: bool,
    /// Nothing is written any more, by anybody.
    over: bool,
}

#[derive(Debug)]
struct Writer<C> {
    link: LinkWriter,
    codec: C,
    failed: bool,
}

/// Small frames that wait at most; when more do, the newest is dropped: signs of life, and packets, as on any network.
const MOST_WAITING: usize = 1 << 16;

impl<C: Codec> Outbox<C> {
    /// Takes over the writing end. `cancel` is the link's; `lost` hears once why nothing can be written any more.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn with_codec(
        link: LinkWriter,
        codec: C,
        cancel: Cancel,
        grace: Duration,
        lost: impl FnOnce(io::Error) + Send + 'static,
    ) -> io::Result<Self> {
        let queue = Queue { frames: VecDeque::new(), writing: false, closing: false, over: false };
        let shared = Arc::new(Shared {
            queue: Mutex::new(queue),
            changed: Condvar::new(),
            writer: Mutex::new(Writer { link, codec, failed: false }),
            cancel,
            grace,
            stopped: AtomicBool::new(false),
            taken: AtomicU64::new(0),
        });
        let outbox = Outbox(Arc::clone(&shared));
        thread::Builder::new().name("frames-out".into()).spawn(move || {
            if let Some(error) = shared.serve() {
                lost(error);
            }
        })?;
        Ok(outbox)
    }

    /// Has a frame sent ahead of what waits of the stream. Does not wait.
    pub fn send_frame(&self, frame: C::Frame) {
        let mut queue = self.0.queue();
        // On a link that is stuck one sign of life says as much as many.
        let again = C::is_beat(&frame) && queue.frames.iter().any(C::is_beat);
        if !queue.closing && !queue.over && !again && queue.frames.len() < MOST_WAITING {
            queue.frames.push_back(frame);
            self.0.changed.notify_all();
        }
    }

    /// Writes a frame after all that was written of the stream before.
    ///
    /// # Errors
    /// The link's.
    pub fn write_frame(&self, frame: &C::Frame) -> io::Result<()> {
        self.0.with_writer(|writer| writer.codec.frame(&mut writer.link, frame))
    }

    /// Writes bytes of the stream as one frame; they are the parts in a row.
    ///
    /// # Errors
    /// The link's; [`Outbox::stop`] or [`Outbox::close`] was called.
    pub fn data(&self, parts: &[IoSlice<'_>], bytes: usize) -> io::Result<()> {
        // What is being closed has no use for more, and who says goodbye waits for it.
        if self.is_stopped() {
            return Err(io::ErrorKind::NotConnected.into());
        }
        self.0.with_writer(|writer| writer.codec.data(&mut writer.link, parts, bytes))?;
        self.0.taken.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Bytes of the stream that the link has taken so far, by whole frames.
    pub fn taken(&self) -> u64 {
        self.0.taken.load(Ordering::Relaxed)
    }

    /// Whether [`Outbox::stop`] or [`Outbox::close`] was called.
    pub fn is_stopped(&self) -> bool {
        self.0.stopped.load(Ordering::SeqCst)
    }

    /// Nothing more of the stream is written. A frame that is being written is called off where the link does not take it soon. The
    /// connection stays open.
    pub fn stop(&self) {
        self.0.stopped.store(true, Ordering::SeqCst);
        if self.0.queue().writing {
            self.later(|outbox| {
                if outbox.wait(|queue| !queue.writing || queue.over) {
                    outbox.0.cancel.cancel();
                }
            });
        }
    }

    /// Waits until nothing more is written, once [`Outbox::close`] was asked for it: for the time of grace at the most.
    pub fn closed(&self) {
        self.wait(|queue| queue.over);
    }

    /// Closes the connection once what waits is sent, or after the time of grace if it cannot be sent. Does not wait.
    pub fn close(&self) {
        self.0.stopped.store(true, Ordering::SeqCst);
        if std::mem::replace(&mut self.0.queue().closing, true) {
            return;
        }
        self.0.changed.notify_all();
        self.later(|outbox| {
            outbox.closed();
            outbox.0.cancel.cancel();
        });
    }

    /// Waits, for the time of grace at the most. True when that is over.
    fn wait(&self, done: impl Fn(&Queue<C::Frame>) -> bool) -> bool {
        let deadline = Instant::now() + self.0.grace;
        let mut queue = self.0.queue();
        while !done(&queue) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            queue = self.0.changed.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        false
    }

    fn later(&self, act: impl FnOnce(Self) + Send + 'static) {
        let outbox = self.clone();
        let started = thread::Builder::new().name("link-closer".into()).spawn(move || act(outbox));
        if started.is_err() {
            self.0.cancel.cancel();
        }
    }
}

impl<C: Codec> Shared<C> {
    fn queue(&self) -> MutexGuard<'_, Queue<C::Frame>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writer(&self) -> MutexGuard<'_, Writer<C>> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what waits, then what the caller has.
    fn with_writer(&self, write: impl FnOnce(&mut Writer<C>) -> io::Result<()>) -> io::Result<()> {
        let mut writer = self.writer();
        self.drain(&mut writer)?;
        self.whole(&mut writer, write)
    }

    fn drain(&self, writer: &mut Writer<C>) -> io::Result<()> {
        loop {
            let Some(frame) = self.queue().frames.pop_front() else { return Ok(()) };
            self.whole(writer, |writer| writer.codec.frame(&mut writer.link, &frame))?;
        }
    }

    /// Nothing can follow on a link that was left in the middle of a frame.
    fn whole(&self, writer: &mut Writer<C>, write: impl FnOnce(&mut Writer<C>) -> io::Result<()>) -> io::Result<()> {
        if writer.failed {
            return Err(io::ErrorKind::NotConnected.into());
        }
        self.queue().writing = true;
        let written = write(writer);
        writer.failed = written.is_err();
        self.queue().writing = false;
        self.changed.notify_all();
        written
    }

    /// The thread. Gives why nothing can be written any more, unless it was called off.
    fn serve(&self) -> Option<io::Error> {
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
                // What was called off is no trouble.
                return drained.err().filter(|_| !self.stopped.load(Ordering::SeqCst));
            }
        }
    }
}
