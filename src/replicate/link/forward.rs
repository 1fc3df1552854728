//! What the primary says, and the stream inside of it: a [`Read`] that gives the bytes of one stream after another, and
//! passes on the frames between them as they come.

use super::record::Record;
use crate::remus::wire::{
    Body, Control, Decoder, Digest, Direction, HEADER_LEN, MAX_DATA, Seal, Step as DecodeStep, WireError,
};
use crate::remus::{RefuseReason, Session};
use crate::replicate::failpoint::{Failpoints, Step};
use crate::transport::is_cancelled;
use std::io::{self, Read};

/// Room for a frame and what follows it.
const BUFFER: usize = 2 * (HEADER_LEN + MAX_DATA);

/// What stands where the stream's bytes do not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heading {
    /// The connection has ended, or was cancelled.
    Ended,
    /// Damage: nothing can be read any more.
    Garbled(WireError),
    /// A new stream begins; bytes follow.
    Stream {
        /// The checkpoint that its first image will be.
        checkpoint: u64,
    },
    /// A checkpoint ends here.
    Checkpoint(Session, Seal),
}

/// The forward channel.
pub struct Forward {
    reader: Box<dyn Read + Send>,
    decoder: Decoder,
    buffer: Vec<u8>,
    /// What of the buffer is filled and not yet decoded.
    filled: std::ops::Range<usize>,
    /// What of it is payload of the DATA frame being read.
    data: std::ops::Range<usize>,
    digest: Digest,
    /// Read ahead: what the stream's reader has run into.
    heading: Option<Heading>,
    record: Option<Record>,
    failpoints: Failpoints,
    /// The step passed behind the next DATA frame.
    step: Option<Step>,
    control: Box<dyn FnMut(Session, Control) + Send>,
}

impl std::fmt::Debug for Forward {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Forward").field("offset", &self.decoder.offset()).field("heading", &self.heading).finish()
    }
}

impl Forward {
    /// Behind `first`, which has been read already. `control` gets every frame but DATA and CHECKPOINT, as it comes.
    pub fn new(
        reader: impl Read + Send + 'static,
        first: &[u8],
        record: Option<Record>,
        failpoints: Failpoints,
        control: impl FnMut(Session, Control) + Send + 'static,
    ) -> Self {
        let mut buffer = vec![0; BUFFER.max(first.len())];
        if let Some(place) = buffer.get_mut(..first.len()) {
            place.copy_from_slice(first);
        }
        Forward {
            reader: Box::new(reader),
            decoder: Decoder::new(Direction::Forward),
            buffer,
            filled: 0..first.len(),
            data: 0..0,
            digest: Digest::default(),
            heading: None,
            record,
            failpoints,
            step: None,
            control: Box::new(control),
        }
    }

    /// Passes over bytes until something else stands there, and takes it.
    pub fn next_heading(&mut self) -> Heading {
        loop {
            if let Some(heading) = self.heading.take() {
                match heading {
                    Heading::Stream { .. } => {
                        self.digest.restart();
                        if let Some(record) = &mut self.record {
                            record.begin();
                        }
                    }
                    // Nothing follows: it stays so.
                    Heading::Ended | Heading::Garbled(_) => self.heading = Some(heading),
                    Heading::Checkpoint(..) => {}
                }
                return heading;
            }
            self.data = 0..0;
            self.advance();
        }
    }

    /// Expects CHECKPOINT where the stream's bytes now stand, and holds it against what was received.
    ///
    /// # Errors
    /// What is wrong with the checkpoint; `None` in place of the frame when something else stands here, which
    /// [`Forward::next_heading`] gives.
    pub fn checkpoint(&mut self) -> Result<(Session, Seal, Result<(), RefuseReason>), Option<RefuseReason>> {
        while self.data.is_empty() && self.heading.is_none() {
            self.advance();
        }
        match self.heading {
            Some(Heading::Checkpoint(session, seal)) => {
                self.heading = None;
                Ok((session, seal, self.digest.verify(&seal)))
            }
            Some(_) => Err(None),
            // Bytes behind what the stream calls a whole checkpoint.
            None => Err(Some(RefuseReason::Length)),
        }
    }

    /// What stands behind the bytes that have been read, as far as has been seen.
    pub const fn seen(&self) -> Option<Heading> {
        self.heading
    }

    /// Passes `step` when the next bytes have arrived.
    pub const fn arm(&mut self, step: Step) {
        self.step = Some(step);
    }

    /// Reads and forgets what comes, until the connection ends or is cancelled: nothing of it can be understood.
    pub fn drain(&mut self) {
        self.heading = Some(Heading::Ended);
        while !matches!(self.reader.read(&mut self.buffer), Ok(0) | Err(_)) {}
    }

    /// Reads on until there is DATA or a heading.
    fn advance(&mut self) {
        let input = self.buffer.get(self.filled.clone()).unwrap_or_default();
        match self.decoder.take(input) {
            Ok(DecodeStep::Frame(frame, taken)) => {
                let session = frame.session;
                match frame.body {
                    Body::Data(data) => {
                        // The payload is the frame's end.
                        let end = self.filled.start + taken;
                        self.data = end - data.len()..end;
                        self.digest.update(data);
                        if let Some(record) = &mut self.record {
                            record.keep(data);
                        }
                        if let Some(step) = self.step.take() {
                            self.failpoints.pass(step);
                        }
                    }
                    Body::Control(Control::Checkpoint(seal)) => self.heading = Some(Heading::Checkpoint(session, seal)),
                    Body::Control(control) => {
                        if let Control::Stream { checkpoint, .. } = control {
                            self.heading = Some(Heading::Stream { checkpoint });
                        }
                        (self.control)(session, control);
                    }
                    Body::Refuse { .. } | Body::Unknown { .. } => {}
                }
                self.filled.start += taken;
            }
            Ok(DecodeStep::Need(needed)) => self.fill(needed),
            Err(error) => self.heading = Some(Heading::Garbled(error)),
        }
    }

    fn fill(&mut self, needed: usize) {
        if self.filled.start + needed > self.buffer.len() {
            self.buffer.copy_within(self.filled.clone(), 0);
            self.filled = 0..self.filled.len();
        }
        let room = self.buffer.get_mut(self.filled.end..).unwrap_or_default();
        match self.reader.read(room) {
            Ok(0) => {
                if let Err(torn) = self.decoder.finish(self.buffer.get(self.filled.clone()).unwrap_or_default()) {
                    log::debug!("{torn}");
                }
                self.heading = Some(Heading::Ended);
            }
            Ok(got) => self.filled.end += got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                if !is_cancelled(&error) {
                    log::warn!("reading the stream: {error}");
                }
                self.heading = Some(Heading::Ended);
            }
        }
    }
}

impl Read for Forward {
    /// Gives the stream's bytes. Its end, [`Forward::next_heading`], is an end of file.
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        while self.data.is_empty() {
            if self.heading.is_some() {
                return Ok(0);
            }
            self.advance();
        }
        let here = self.buffer.get(self.data.clone()).unwrap_or_default();
        let taken = here.len().min(bytes.len());
        crate::copying::copy(here, bytes);
        self.data.start += taken;
        Ok(taken)
    }
}
