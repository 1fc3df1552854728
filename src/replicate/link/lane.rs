//! The stream's way out: a [`Write`] that turns bytes into DATA frames and keeps the sum of each checkpoint.

use super::Outbox;
use crate::remus::wire::{Control, Digest, MAX_DATA};
use crate::replicate::failpoint::{Failpoints, Step};
use std::io::{self, IoSlice, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Less than this is collected before it is sent: most records of a checkpoint are a few bytes long.
const COLLECT: usize = 64 << 10;

/// Says up to which checkpoint nothing more is to be sent. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct StopFlag(Arc<AtomicU64>);

impl StopFlag {
    /// Nothing more of this checkpoint, nor of one before it.
    pub fn stop(&self, checkpoint: u64) {
        self.0.fetch_max(checkpoint, Ordering::SeqCst);
    }

    /// Whether the checkpoint is to be given up.
    pub fn stops(&self, checkpoint: u64) -> bool {
        checkpoint <= self.0.load(Ordering::SeqCst)
    }
}

/// A stream's way onto a link. Clones are the same one: the saver writes, the driver seals.
///
/// A write fails with the link's error, or because the checkpoint was stopped ([`StopFlag::stops`]).
#[derive(Debug, Clone)]
pub struct Lane(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    outbox: Outbox,
    stop: StopFlag,
    failpoints: Failpoints,
    /// The checkpoint that the bytes belong to.
    checkpoint: u64,
    /// The step passed behind the next DATA frame.
    step: Option<Step>,
    digest: Digest,
    collected: Vec<u8>,
    /// The bytes are a running guest's, and change while they are looked at.
    moving: bool,
    /// One frame of such bytes as they were once.
    settled: Vec<u8>,
}

impl Lane {
    /// A lane for one stream, whose first image will be `checkpoint`. Sends STREAM.
    ///
    /// # Errors
    /// The link's.
    pub fn begin(
        outbox: Outbox,
        stream: u32,
        checkpoint: u64,
        stop: StopFlag,
        failpoints: Failpoints,
    ) -> io::Result<Self> {
        outbox.send_in_order(Control::Stream { number: stream, checkpoint })?;
        Ok(Lane(Arc::new(Mutex::new(State {
            outbox,
            stop,
            failpoints,
            checkpoint,
            step: Some(Step::ImageMiddle),
            digest: Digest::default(),
            collected: Vec::with_capacity(COLLECT),
            moving: true,
            settled: Vec::new(),
        }))))
    }

    /// From here on the bytes belong to this checkpoint. They are a copy's, and stay as they are, unless `moving`: then they are
    /// where a guest, or a back end of its devices, may write to. So are those of a stream's first image, up to here.
    pub fn enter(&self, checkpoint: u64, moving: bool) {
        let mut state = self.state();
        state.checkpoint = checkpoint;
        state.moving = moving;
        state.step = Some(Step::TransmitMiddle);
    }

    /// Sends what is left of the checkpoint, and CHECKPOINT. Gives its bytes.
    ///
    /// # Errors
    /// The link's, or that the checkpoint was stopped.
    pub fn seal(&self, number: u64) -> io::Result<u64> {
        let mut state = self.state();
        state.flush_frames()?;
        state.failpoints.pass(Step::Transmitted);
        let seal = state.digest.seal(number);
        state.outbox.send_in_order(Control::Checkpoint(seal))?;
        Ok(seal.bytes)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Sends the collected bytes and then the parts, a frame at a time.
    fn send(&mut self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        if self.moving { self.send_settled(parts) } else { self.send_in_place(parts) }
    }

    /// The same by way of a copy: what is summed up must be what is sent.
    fn send_settled(&mut self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let collected = std::mem::take(&mut self.collected);
        let mut settled = std::mem::take(&mut self.settled);
        settled.clear();
        settled.reserve_exact(MAX_DATA);
        for mut rest in [&collected[..]].into_iter().chain(parts.iter().map(|part| &**part)) {
            while !rest.is_empty() {
                let (now, later) = rest.split_at(rest.len().min(MAX_DATA - settled.len()));
                settled.extend_from_slice(now);
                rest = later;
                if settled.len() == MAX_DATA {
                    self.settled_frame(&settled)?;
                    settled.clear();
                }
            }
        }
        if !settled.is_empty() {
            self.settled_frame(&settled)?;
        }
        self.settled = settled;
        self.collected = collected;
        self.collected.clear();
        Ok(())
    }

    fn settled_frame(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.digest.update(bytes);
        self.frame(&[IoSlice::new(bytes)], bytes.len())
    }

    fn send_in_place(&mut self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let collected = std::mem::take(&mut self.collected);
        let mut frame: Vec<IoSlice<'_>> = Vec::with_capacity(parts.len() + 1);
        let mut bytes = 0;
        for mut rest in [&collected[..]].into_iter().chain(parts.iter().map(|part| &**part)) {
            while !rest.is_empty() {
                let (now, later) = rest.split_at(rest.len().min(MAX_DATA - bytes));
                self.digest.update(now);
                frame.push(IoSlice::new(now));
                bytes += now.len();
                rest = later;
                if bytes == MAX_DATA {
                    self.frame(&frame, bytes)?;
                    frame.clear();
                    bytes = 0;
                }
            }
        }
        if bytes > 0 {
            self.frame(&frame, bytes)?;
        }
        drop(frame);
        self.collected = collected;
        self.collected.clear();
        Ok(())
    }

    fn frame(&mut self, parts: &[IoSlice<'_>], bytes: usize) -> io::Result<()> {
        if self.stop.stops(self.checkpoint) {
            return Err(io::Error::other("the checkpoint was given up"));
        }
        self.outbox.data(parts, bytes)?;
        if let Some(step) = self.step.take() {
            self.failpoints.pass(step);
        }
        Ok(())
    }

    fn flush_frames(&mut self) -> io::Result<()> {
        self.send(&[])
    }
}

impl Write for Lane {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut state = self.state();
        let bytes = parts.iter().map(|part| part.len()).sum::<usize>();
        if state.collected.len() + bytes < COLLECT {
            for part in parts {
                state.collected.extend_from_slice(part);
            }
        } else {
            state.send(parts)?;
        }
        Ok(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.state().flush_frames()
    }
}
