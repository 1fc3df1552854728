//! The walker over an input.

use super::container::{self, Container};
use super::foreign::{self, Foreign};
use super::input::{Input, Pipe};
use super::mapped;
use super::progress::Progress;
use crate::stream::error::{FrameError, Problem};
use crate::stream::framer::{Framer, Item, Options, What};
use crate::stream::reader::{PullReader, ReadError, SliceReader};
use crate::stream::{Layer, libxc, libxl};
use memmap2::Mmap;
use std::io::{self, Read};

/// Whether to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// With the next item.
    Next,
    /// Enough.
    Stop,
}

/// How a walk ended.
#[derive(Debug)]
pub struct Walked {
    /// The walker where it stopped: mode, start, checkpoints, offset.
    pub framer: Framer,
    /// Whether the stream ended properly, or the visitor stopped, or why neither.
    pub end: Result<(), ReadError>,
    /// What was around the stream.
    pub container: Option<Container>,
    /// What stands where the stream could not be followed, if that can be told.
    pub foreign: Option<Foreign>,
}

/// Visits every item of a stream in order. Of a stream in a [`Container`] offsets count from the stream's own start.
pub fn walk(
    input: Input,
    options: Options,
    progress: &mut Progress,
    visit: &mut dyn FnMut(&Item<'_>) -> Flow,
) -> Walked {
    let walk = Walk { container: None, options, progress, visit };
    match input {
        Input::Mapped(map) => {
            let mut stream = &map[..];
            let kind = container::Kind::of(stream);
            walk.within(kind.map(|kind| Container::enter(kind, &mut stream)), |walk| walk.slice(stream, Some(&map)))
        }
        Input::Pipe(mut pipe) => {
            let kind = container::Kind::of(pipe.head());
            walk.within(kind.map(|kind| Container::enter(kind, &mut pipe)), |walk| {
                let options = walk.options;
                walk.pull(PullReader::new(pipe, options).with_discard(Pipe::discard))
            })
        }
        Input::Compressed(mut source) => {
            let mut head = Vec::new();
            if let Err(error) = source.by_ref().take(container::HEAD as u64).read_to_end(&mut head) {
                return walk.within(Some(Err(ReadError::Io { offset: 0, error })), |walk| walk.slice(&[], None));
            }
            let kind = container::Kind::of(&head);
            let mut source = io::Cursor::new(head).chain(source);
            walk.within(kind.map(|kind| Container::enter(kind, &mut source)), |walk| {
                let options = walk.options;
                walk.pull(PullReader::new(source, options))
            })
        }
    }
}

/// Bytes of a mapped file that stay in memory behind the walk, at most, and the record that it is at.
const RESIDENT: usize = 32 << 20;

/// Why a walk goes no further.
enum End {
    Proper,
    /// The visitor's wish; true at a record that may be the last.
    Stopped(bool),
    Error(ReadError),
}

struct Walk<'a> {
    container: Option<Container>,
    options: Options,
    progress: &'a mut Progress,
    visit: &'a mut dyn FnMut(&Item<'_>) -> Flow,
}

impl Walk<'_> {
    /// Walks what is in a container, if there is one and it can be read.
    fn within(mut self, entered: Option<Result<Container, ReadError>>, walk: impl FnOnce(Self) -> Walked) -> Walked {
        match entered.transpose() {
            Ok(container) => {
                let start = container.as_ref().and_then(|container| container.start);
                self.options.start = self.options.start.or(start);
                self.container = container;
                walk(self)
            }
            Err(error) => Walked { framer: Framer::new(self.options), end: Err(error), container: None, foreign: None },
        }
    }

    fn visit(&mut self, item: &Item<'_>) -> Option<End> {
        self.progress.at(item.offset);
        let stopped = (self.visit)(item) == Flow::Stop;
        stopped.then(|| End::Stopped(is_last(item)))
    }

    /// A stream that is in memory, or at the end of a mapping.
    fn slice(mut self, stream: &[u8], map: Option<&Mmap>) -> Walked {
        let mut reader = SliceReader::new(stream, self.options);
        let mut let_go = 0;
        let end = loop {
            match reader.next_item() {
                Ok(Some(item)) => {
                    if let Some(end) = self.visit(&item) {
                        break end;
                    }
                    let seen = usize::try_from(item.offset + item.size).unwrap_or(usize::MAX).min(stream.len());
                    if let Some(map) = map
                        && seen - let_go >= RESIDENT
                    {
                        let base = map.len() - stream.len();
                        mapped::let_go(map, base + let_go..base + seen);
                        let_go = seen;
                    }
                }
                Ok(None) => break End::Proper,
                Err(error) => break End::Error(error.into()),
            }
        };
        let framer = reader.framer().clone();
        let at = usize::try_from(framer.offset()).unwrap_or(usize::MAX).min(stream.len());
        let (before, ahead) = stream.split_at(at);
        self.end(framer, end, before, ahead, io::empty())
    }

    fn pull<R: Read>(mut self, mut reader: PullReader<R>) -> Walked {
        let end = loop {
            match reader.next_item() {
                Ok(Some(item)) => {
                    if let Some(end) = self.visit(&item) {
                        break end;
                    }
                }
                Ok(None) => break End::Proper,
                Err(error) => break End::Error(error),
            }
        };
        let framer = reader.framer().clone();
        let (mut source, mut ahead) = reader.into_parts();
        if matches!(end, End::Stopped(true) | End::Error(ReadError::Stream(_))) {
            let more = foreign::WINDOW.saturating_sub(ahead.len()) as u64;
            // What cannot be read is not there to be looked at; the walk has ended before.
            let _ = source.by_ref().take(more).read_to_end(&mut ahead);
        }
        self.end(framer, end, &[], &ahead, source)
    }

    /// `before` is what is there of the stream so far, `ahead` and `more` what follows.
    fn end(mut self, framer: Framer, end: End, before: &[u8], ahead: &[u8], mut more: impl Read) -> Walked {
        let offset = framer.offset();
        let (end, foreign) = match end {
            End::Stopped(true) => (Ok(()), foreign::look_for_zeros(offset, before, ahead, &mut more)),
            End::Stopped(false) => (Ok(()), Ok(None)),
            End::Proper => (self.leave(offset, ahead, more), Ok(None)),
            End::Error(ReadError::Stream(error)) => {
                let behind = matches!(error.problem, Problem::Frame(FrameError::BytesAfterEnd { .. }));
                if behind && self.container.as_ref().is_some_and(|container| container.goes_on) {
                    (self.leave(offset, ahead, more), Ok(None))
                } else {
                    let foreign = foreign::look(&framer, &error, before, ahead, &mut more);
                    (Err(error.into()), foreign)
                }
            }
            End::Error(error) => (Err(error), Ok(None)),
        };
        // Trouble with reading on does not matter where the walk has ended before.
        Walked { framer, end, container: self.container, foreign: foreign.unwrap_or_default() }
    }

    fn leave(&mut self, offset: u64, ahead: &[u8], more: impl Read) -> Result<(), ReadError> {
        match &mut self.container {
            Some(container) => container.leave(&mut ahead.chain(more), offset),
            None => Ok(()),
        }
    }
}

/// END of libxl or of libxc, which zeros look like.
fn is_last(item: &Item<'_>) -> bool {
    let end = match item.layer {
        Layer::Libxl => libxl::types::END,
        _ => libxc::types::END,
    };
    matches!(&item.what, What::Record(frame) if frame.header.type_id == end)
}
