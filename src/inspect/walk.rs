//! The walker over an input.

use super::input::{Input, Pipe};
use super::progress::Progress;
use crate::stream::framer::{Framer, Item, Options};
use crate::stream::reader::{PullReader, ReadError, SliceReader};
use std::io::Read;

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
}

/// Visits every item of a stream in order.
pub fn walk(
    input: Input,
    options: Options,
    progress: &mut Progress,
    visit: &mut dyn FnMut(&Item<'_>) -> Flow,
) -> Walked {
    match input {
        Input::Mapped(map) => walk_slice(&map, options, progress, visit),
        Input::Pipe(pipe) => pull(PullReader::new(pipe, options).with_discard(Pipe::discard), progress, visit),
        Input::Compressed(source) => pull(PullReader::new(source, options), progress, visit),
    }
}

fn walk_slice(
    stream: &[u8],
    options: Options,
    progress: &mut Progress,
    visit: &mut dyn FnMut(&Item<'_>) -> Flow,
) -> Walked {
    let mut reader = SliceReader::new(stream, options);
    let end = loop {
        match reader.next_item() {
            Ok(Some(item)) => {
                progress.at(item.offset);
                if visit(&item) == Flow::Stop {
                    break Ok(());
                }
            }
            Ok(None) => break Ok(()),
            Err(error) => break Err(error.into()),
        }
    };
    Walked { framer: reader.framer().clone(), end }
}

fn pull<R: Read>(
    mut reader: PullReader<R>,
    progress: &mut Progress,
    visit: &mut dyn FnMut(&Item<'_>) -> Flow,
) -> Walked {
    let end = loop {
        match reader.next_item() {
            Ok(Some(item)) => {
                progress.at(item.offset);
                if visit(&item) == Flow::Stop {
                    break Ok(());
                }
            }
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    Walked { framer: reader.framer().clone(), end }
}
