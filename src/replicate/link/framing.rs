//! Remus's frames in an [`Outbox`].

use crate::remus::wire::{Control, Encoder, MAX_DETAIL};
use crate::replicate::outbox::{self, Codec};
use crate::transport::{Cancel, LinkWriter};
use std::io::{self, IoSlice};
use std::time::Duration;

/// The outgoing half of a session of Remus.
pub type Outbox = outbox::Outbox<Framing>;

/// Control frames with a text for people, which REFUSE can carry, and DATA.
#[derive(Debug)]
pub struct Framing {
    /// Without one the stream is bare.
    encoder: Option<Encoder>,
}

impl Codec for Framing {
    type Frame = (Control, Vec<u8>);

    fn is_beat((frame, _): &Self::Frame) -> bool {
        matches!(frame, Control::Heartbeat { .. })
    }

    fn frame(&mut self, link: &mut LinkWriter, (frame, detail): &Self::Frame) -> io::Result<()> {
        let Some(frame) = self.encoder.as_mut().and_then(|encoder| encoder.with_detail(*frame, detail)) else {
            return Ok(());
        };
        link.write_all_vectored(&mut [IoSlice::new(&frame)])
    }

    fn data(&mut self, link: &mut LinkWriter, parts: &[IoSlice<'_>], bytes: usize) -> io::Result<()> {
        let header = match self.encoder.as_mut() {
            None => None,
            Some(encoder) => Some(encoder.data_of(bytes).ok_or(io::ErrorKind::InvalidInput)?),
        };
        let header = header.iter().map(|header| IoSlice::new(header));
        let mut frame: Vec<_> = header.chain(parts.iter().copied()).collect();
        link.write_all_vectored(&mut frame)
    }
}

impl Outbox {
    /// Takes over the writing end, after the magic. `grace` is how long what waits may take to be sent once the connection is to be
    /// closed.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(
        link: LinkWriter,
        encoder: Option<Encoder>,
        cancel: Cancel,
        grace: Duration,
        lost: impl FnOnce(io::Error) + Send + 'static,
    ) -> io::Result<Self> {
        Self::with_codec(link, Framing { encoder }, cancel, grace, lost)
    }

    /// Has a frame sent ahead of the DATA that waits. Does not wait.
    pub fn send(&self, frame: Control) {
        self.send_with(frame, Vec::new());
    }

    /// The same with a text for people.
    pub fn send_with(&self, frame: Control, mut detail: Vec<u8>) {
        detail.truncate(MAX_DETAIL);
        self.send_frame((frame, detail));
    }

    /// Writes a frame after all DATA written before.
    ///
    /// # Errors
    /// The link's.
    pub fn send_in_order(&self, frame: Control) -> io::Result<()> {
        self.write_frame(&(frame, Vec::new()))
    }
}
