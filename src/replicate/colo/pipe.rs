//! COLO's frames in an [`outbox::Outbox`], and what the stream is written to.
#![forbid(unsafe_code)]

use super::frame::{self, Lane, MAX_PAYLOAD};
use crate::replicate::failpoint::{Failpoints, Step};
use crate::replicate::outbox::{self, Codec};
use crate::transport::{Cancel, LinkWriter};
use std::io::{self, IoSlice, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long a frame that is being written may take to its end when the session is left: after a torn one there is no goodbye. A guest
/// whose state it has waits for it.
const GRACE: Duration = Duration::from_millis(250);

/// The outgoing half of a session of COLO.
pub type Pipe = outbox::Outbox<Lanes>;

/// Small frames by their lanes, and the stream in its own.
#[derive(Debug)]
pub struct Lanes {
    /// A peer without frames has no use for one.
    framed: bool,
}

impl Codec for Lanes {
    type Frame = (Lane, Vec<u8>);

    fn is_beat((lane, _): &Self::Frame) -> bool {
        *lane == Lane::Beat
    }

    fn frame(&mut self, link: &mut LinkWriter, (lane, payload): &Self::Frame) -> io::Result<()> {
        if !self.framed {
            return Ok(());
        }
        let header = frame::header(*lane, payload);
        link.write_all_vectored(&mut [IoSlice::new(&header), IoSlice::new(payload)])
    }

    fn data(&mut self, link: &mut LinkWriter, parts: &[IoSlice<'_>], bytes: usize) -> io::Result<()> {
        let header = self.framed.then(|| frame::header_of(Lane::Stream, parts.iter().map(|part| &**part), bytes));
        let header = header.iter().map(|header| IoSlice::new(header));
        let mut frame: Vec<_> = header.chain(parts.iter().copied()).collect();
        link.write_all_vectored(&mut frame)
    }
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
        Self::with_codec(writer, Lanes { framed }, cancel, GRACE, lost)
    }

    /// Has a frame sent. Does not wait.
    pub fn post(&self, lane: Lane, payload: Vec<u8>) {
        self.send_frame((lane, payload));
    }

    /// Writes a frame before anything of the stream is, waiting for the link: it is small, and the link is empty.
    ///
    /// # Errors
    /// The connection's.
    pub fn first(&self, lane: Lane, payload: Vec<u8>) -> io::Result<()> {
        self.write_frame(&(lane, payload))
    }

    /// Bytes of the stream, at most [`MAX_PAYLOAD`], as one frame or as they are.
    ///
    /// # Errors
    /// The connection's; it is stopped or closing.
    pub fn stream(&self, bytes: &[u8]) -> io::Result<()> {
        self.data(&[IoSlice::new(bytes)], bytes.len())
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
