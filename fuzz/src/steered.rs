//! A stream behind a few bytes that say how to read it, so that one corpus serves every target.

use xen_replicate::stream::framer::Options;
use xen_replicate::stream::{Limits, Mode, Start};

/// A stream and how to read it. All control bytes zero: everything by default, all bytes at once.
#[derive(Debug, Clone, Copy)]
pub struct Steered<'a> {
    control: [u8; Steered::CONTROL],
    /// The stream.
    pub stream: &'a [u8],
}

impl<'a> Steered<'a> {
    /// Bytes before the stream: start, mode, flags, and [`Steered::PIECES`] lengths.
    pub const CONTROL: usize = 8;
    const PIECES: usize = 5;
    const STRICT_END: u8 = 1 << 0;
    const SMALL: u8 = 1 << 1;
    const LENIENT: u8 = 1 << 2;

    /// Splits the input. One without all control bytes is a stream with zeros for them.
    pub fn new(bytes: &'a [u8]) -> Self {
        match bytes.split_first_chunk() {
            Some((&control, stream)) => Steered { control, stream },
            None => Steered { control: [0; Steered::CONTROL], stream: bytes },
        }
    }

    /// The outermost layer asked for.
    pub fn start(&self) -> Option<Start> {
        [None, Some(Start::Xl), Some(Start::Libxl), Some(Start::Libxc), Some(Start::Back)]
            [usize::from(self.control[0] % 5)]
    }

    /// The mode asked for.
    pub fn mode(&self) -> Option<Mode> {
        [None, Some(Mode::Plain), Some(Mode::Remus), Some(Mode::Colo), Some(Mode::Back)]
            [usize::from(self.control[1] % 5)]
    }

    /// Bounds: the default ones, or such as a small stream runs into.
    pub fn limits(&self) -> Limits {
        if self.control[2] & Self::SMALL == 0 {
            Limits::default()
        } else {
            Limits { libxc_body: 4200, libxl_body: 24, xl_optional_data: 64 }
        }
    }

    /// Whether a checkpointed stream must end properly.
    pub fn complete(&self) -> bool {
        self.control[2] & Self::STRICT_END != 0
    }

    /// Whether what a receiver must ignore passes.
    pub fn lenient(&self) -> bool {
        self.control[2] & Self::LENIENT != 0
    }

    /// How to cut the stream into items.
    pub fn framing(&self, skip_contents: bool) -> Options {
        Options { start: self.start(), mode: self.mode(), limits: self.limits(), skip_contents }
    }

    /// Lengths to cut the bytes into as they come in, never 0, over and over; the whole stream at once for a 0.
    pub fn pieces(&self) -> impl Iterator<Item = usize> + use<> {
        let control = self.control;
        let whole = self.stream.len().max(1);
        (0..Self::PIECES).cycle().map(move |piece| match control[Steered::CONTROL - Steered::PIECES + piece] {
            0 => whole,
            length => length.into(),
        })
    }
}
