//! The three ways in, each a thin driver around [`Framer`].
//!
//! * [`SliceReader`]: the whole stream as a slice, usually a mapped file. Items borrow from it; nothing is copied, and
//!   page contents are not touched.
//! * [`PushReader`]: bytes come in any split; the items are the same for every split.
//! * [`PullReader`]: reads from an [`std::io::Read`], exactly to the end of the item asked for and not a byte
//!   further. That is what lets two programs share one fd: the next owner finds its first byte.
//!
//! All three give items in order, then `None` once the stream has ended properly, or one error, then `None`.

use super::Layer;
use super::error::{FrameError, StreamError};
use super::framer::{Advance, Framer, Item, Options, Step};
use super::record::RecordHeader;
use std::io::{self, Read};
use thiserror::Error;

/// Bytes asked for at once while a long item arrives: memory grows with what is there, not with what is claimed.
const GROWTH: usize = 1 << 20;
/// The longest buffer that is kept for the next item: a real sender's longest records, of 1024 pages, fit in.
const KEPT: usize = 8 << 20;

/// Why reading stopped.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The bytes could not be had.
    #[error("reading the stream at offset {offset}: {error}")]
    Io {
        /// Offset of the item that was being read.
        offset: u64,
        /// The system's error.
        error: io::Error,
    },
    /// The bytes are no stream.
    #[error(transparent)]
    Stream(#[from] StreamError),
}

/// Items of a slice.
#[derive(Debug, Clone)]
pub struct SliceReader<'a> {
    framer: Framer,
    rest: &'a [u8],
    over: bool,
}

impl<'a> SliceReader<'a> {
    /// A reader at the first byte.
    pub fn new(stream: &'a [u8], options: Options) -> Self {
        SliceReader { framer: Framer::new(options), rest: stream, over: false }
    }

    /// The walker, for what it knows: offset, mode, checkpoints.
    pub const fn framer(&self) -> &Framer {
        &self.framer
    }

    /// The next item.
    ///
    /// # Errors
    /// The stream cannot be cut into items any further, or ends too early.
    pub fn next_item(&mut self) -> Result<Option<Item<'a>>, StreamError> {
        if self.over {
            return Ok(None);
        }
        let result = self.step();
        self.over = !matches!(result, Ok(Some(_)));
        result
    }

    fn step(&mut self) -> Result<Option<Item<'a>>, StreamError> {
        match self.framer.take(self.rest)? {
            Step::Item(item, bytes) => {
                self.rest = &self.rest[bytes..];
                Ok(Some(item))
            }
            // Everything that there is was shown.
            Step::Need(_) | Step::Skip { .. } => self.framer.finish(self.rest, 0).map(|()| None),
        }
    }
}

/// The same as [`SliceReader::next_item`]: after an error there is nothing more.
impl<'a> Iterator for SliceReader<'a> {
    type Item = Result<Item<'a>, StreamError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_item().transpose()
    }
}

impl std::iter::FusedIterator for SliceReader<'_> {}

/// Items of bytes that come in pieces.
#[derive(Debug, Clone)]
pub struct PushReader {
    framer: Framer,
    buffer: Vec<u8>,
    /// Bytes at the front of `buffer` that belong to items already given.
    taken: usize,
    /// Bytes of page contents still to drop as they come, and how many were dropped. While there are some to drop, the
    /// buffer holds what stands before them and nothing else.
    to_drop: u64,
    dropped: u64,
    over: bool,
}

impl PushReader {
    /// A reader before the first byte.
    pub fn new(options: Options) -> Self {
        PushReader { framer: Framer::new(options), buffer: Vec::new(), taken: 0, to_drop: 0, dropped: 0, over: false }
    }

    /// The walker, for what it knows: offset, mode, checkpoints.
    pub const fn framer(&self) -> &Framer {
        &self.framer
    }

    /// Hands over the next bytes of the stream. Take all items that they complete before pushing more: what is not
    /// taken stays in memory.
    pub fn push(&mut self, mut bytes: &[u8]) {
        let drop = self.to_drop.min(bytes.len() as u64);
        bytes = &bytes[drop as usize..];
        self.to_drop -= drop;
        self.dropped += drop;
        if self.taken > 0 {
            self.buffer.drain(..self.taken);
            self.taken = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole item, or `None` when more bytes are needed for it.
    ///
    /// # Errors
    /// The stream cannot be cut into items any further; every later call gives `None`.
    pub fn next_item(&mut self) -> Result<Option<Item<'_>>, StreamError> {
        while !self.over && self.to_drop == 0 {
            match self.framer.advance(&self.buffer[self.taken..]) {
                Ok(Advance::Need(_)) => return Ok(None),
                Ok(Advance::Skip { keep, skip }) => self.drop_contents(keep, skip),
                Ok(Advance::Ready) => return self.give(),
                Err(error) => {
                    self.over = true;
                    return Err(error);
                }
            }
        }
        Ok(None)
    }

    /// Says that no more bytes come. All items must have been taken before.
    ///
    /// # Errors
    /// The stream has ended too early.
    pub fn finish(&mut self) -> Result<(), StreamError> {
        if std::mem::replace(&mut self.over, true) {
            return Ok(());
        }
        let rest = &self.buffer[self.taken..];
        if self.to_drop == 0 {
            // So that the walker knows what is missing, also where nothing came behind the last item.
            self.framer.advance(rest)?;
        }
        self.framer.finish(rest, self.dropped)
    }

    fn give(&mut self) -> Result<Option<Item<'_>>, StreamError> {
        match self.framer.take(&self.buffer[self.taken..])? {
            Step::Item(item, bytes) => {
                self.taken += bytes;
                self.dropped = 0;
                Ok(Some(item))
            }
            _ => Ok(None),
        }
    }

    fn drop_contents(&mut self, keep: usize, skip: u64) {
        let from = self.taken + keep;
        let here = skip.min((self.buffer.len() - from) as u64);
        self.buffer.drain(from..from + here as usize);
        self.to_drop = skip - here;
        self.dropped = here;
    }
}

/// Throws away bytes of a source; gives how many there were before its end.
pub type Discard<R> = fn(&mut R, u64) -> io::Result<u64>;

/// Items pulled from a source, never a byte past the item asked for.
#[derive(Debug)]
pub struct PullReader<R> {
    source: R,
    framer: Framer,
    buffer: Vec<u8>,
    filled: usize,
    dropped: u64,
    held: Held,
    discard: Option<Discard<R>>,
    over: bool,
}

/// Page contents that the item given last has left in the source.
#[derive(Debug, Default)]
struct Held {
    left: u64,
    /// Offset, number and size of the item: what to say when the source ends among its contents.
    item: (u64, u64, u64),
}

impl Held {
    fn torn(&self) -> ReadError {
        let (offset, index, needed) = self.item;
        let problem = FrameError::Truncated { what: "PAGE_DATA", needed, got: needed.saturating_sub(self.left) };
        StreamError { layer: Layer::Libxc, index: Some(index), offset, problem: problem.into() }.into()
    }

    fn failed(&self, error: io::Error) -> ReadError {
        ReadError::Io { offset: self.item.0, error }
    }
}

/// The contents of one PAGE_DATA record, still in the source. What of them is not read is passed over.
#[derive(Debug)]
pub struct Contents<'a, R> {
    source: &'a mut R,
    held: &'a mut Held,
    over: &'a mut bool,
}

impl<R: Read> Contents<'_, R> {
    /// Bytes that are left.
    pub const fn left(&self) -> u64 {
        self.held.left
    }

    /// Reads the next bytes of the contents to where they belong.
    ///
    /// # Errors
    /// The source fails or ends, after which the reader gives no more items; [`io::ErrorKind::InvalidInput`] for more bytes than
    /// are left, none of which is read then.
    pub fn read_exact(&mut self, mut place: &mut [u8]) -> Result<(), ReadError> {
        if place.len() as u64 > self.held.left {
            return Err(self.held.failed(io::ErrorKind::InvalidInput.into()));
        }
        while !place.is_empty() {
            match self.source.read(place) {
                Ok(read) if read > 0 => {
                    self.held.left -= read as u64;
                    place = place.get_mut(read..).unwrap_or_default();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => {
                    *self.over = true;
                    return Err(result.map_or_else(|error| self.held.failed(error), |_| self.held.torn()));
                }
            }
        }
        Ok(())
    }
}

impl<R: Read> PullReader<R> {
    /// A reader at the first byte.
    pub fn new(source: R, options: Options) -> Self {
        PullReader {
            source,
            framer: Framer::new(options),
            buffer: Vec::new(),
            filled: 0,
            dropped: 0,
            held: Held::default(),
            discard: None,
            over: false,
        }
    }

    /// Uses `discard` for page contents that are left out, where the source has a faster way than reading them.
    #[must_use]
    pub fn with_discard(mut self, discard: Discard<R>) -> Self {
        self.discard = Some(discard);
        self
    }

    /// The walker, for what it knows: offset, owner, mode, checkpoints.
    pub const fn framer(&self) -> &Framer {
        &self.framer
    }

    /// The source, which stands behind the last item given.
    pub fn into_inner(self) -> R {
        self.source
    }

    /// The source, and what was read of it that is part of no item.
    pub fn into_parts(mut self) -> (R, Vec<u8>) {
        self.buffer.truncate(self.filled);
        (self.source, self.buffer)
    }

    /// The walker, to be told of what it has not seen.
    pub(super) const fn framer_mut(&mut self) -> &mut Framer {
        &mut self.framer
    }

    /// The source, between two items. Reading from it while an item is half read loses the stream.
    pub const fn get_mut(&mut self) -> &mut R {
        &mut self.source
    }

    /// The source. Reading from it while an item is half read loses the stream.
    pub const fn get_ref(&self) -> &R {
        &self.source
    }

    /// The header of the record of libxc that the source has ended in, if it has.
    pub fn torn_record(&self) -> Option<RecordHeader> {
        let bytes = self.buffer.get(..self.filled).filter(|_| self.over)?;
        self.framer.torn_record(bytes)
    }

    /// The next item. Bytes behind it stay in the source.
    ///
    /// # Errors
    /// The source fails, the stream cannot be cut into items any further, or it ends too early. Every later call gives
    /// `None`.
    pub fn next_item(&mut self) -> Result<Option<Item<'_>>, ReadError> {
        if self.fetch()? { self.take_whole() } else { Ok(None) }
    }

    /// Reads the next item whole, for [`PullReader::take_whole`]; false when there is none.
    ///
    /// # Errors
    /// As [`PullReader::next_item`].
    pub fn fetch(&mut self) -> Result<bool, ReadError> {
        self.next_is_whole(false)
    }

    /// The item that [`PullReader::fetch`] has found whole.
    ///
    /// # Errors
    /// None, behind a `true` of [`PullReader::fetch`].
    pub fn take_whole(&mut self) -> Result<Option<Item<'_>>, ReadError> {
        match self.framer.take(&self.buffer[..self.filled])? {
            Step::Item(item, _) => Ok(Some(item)),
            _ => Ok(None),
        }
    }

    /// The same, except that the contents of a PAGE_DATA record stay in the source, from where they can be read to where they
    /// belong. The item is as if contents were left out.
    ///
    /// # Errors
    /// As [`PullReader::next_item`].
    pub fn next_held(&mut self) -> Result<Option<(Item<'_>, Contents<'_, R>)>, ReadError> {
        let before = self.framer.set_skip_contents(true);
        let whole = self.next_is_whole(true);
        let step = match whole {
            Ok(true) => self.framer.take(&self.buffer[..self.filled]).map(Some),
            _ => Ok(None),
        };
        self.framer.set_skip_contents(before);
        whole?;
        match step? {
            Some(Step::Item(item, _)) => {
                self.held.item = (item.offset, item.index, item.size);
                let contents = Contents { source: &mut self.source, held: &mut self.held, over: &mut self.over };
                Ok(Some((item, contents)))
            }
            _ => Ok(None),
        }
    }

    /// Reads the next item into the buffer; false when there is none. With `hold`, its contents stay where they are.
    fn next_is_whole(&mut self, hold: bool) -> Result<bool, ReadError> {
        if self.over {
            return Ok(false);
        }
        self.filled = 0;
        self.dropped = 0;
        if self.buffer.len() > KEPT {
            self.buffer = Vec::new();
        }
        if self.held.left > 0 {
            self.over = true;
            let discard = self.discard.unwrap_or(read_away);
            let passed = discard(&mut self.source, self.held.left).map_err(|error| self.held.failed(error))?;
            self.held.left = self.held.left.saturating_sub(passed);
            if self.held.left > 0 {
                return Err(self.held.torn());
            }
            self.over = false;
        }
        match self.read_item(hold) {
            Ok(true) => Ok(true),
            Ok(false) => {
                self.over = true;
                // The bytes that came since the walker last looked may show that it waits in vain: a message of the
                // handshake that is none has another error than a torn one.
                self.framer.advance(&self.buffer[..self.filled])?;
                self.framer.finish(&self.buffer[..self.filled], self.dropped)?;
                Ok(false)
            }
            Err(error) => {
                self.over = true;
                Err(error)
            }
        }
    }

    /// Reads until the next item is whole; false when the source ends before that.
    fn read_item(&mut self, hold: bool) -> Result<bool, ReadError> {
        loop {
            let whole = match self.framer.advance(&self.buffer[..self.filled])? {
                Advance::Ready => return Ok(true),
                // Contents are whole pages. Only of a record that says otherwise is there padding behind what is held.
                Advance::Need(_) if self.held.left > 0 => {
                    let skip = std::mem::take(&mut self.held.left);
                    self.drop_contents(skip)
                }
                Advance::Need(bytes) => self.fill(bytes),
                Advance::Skip { skip, .. } if hold => {
                    self.held.left = skip;
                    Ok(true)
                }
                Advance::Skip { skip, .. } => self.drop_contents(skip),
            };
            if !whole.map_err(|error| ReadError::Io { offset: self.framer.offset(), error })? {
                return Ok(false);
            }
        }
    }

    fn drop_contents(&mut self, bytes: u64) -> io::Result<bool> {
        let discard = self.discard.unwrap_or(read_away);
        self.dropped = discard(&mut self.source, bytes)?;
        Ok(self.dropped == bytes)
    }

    fn fill(&mut self, bytes: usize) -> io::Result<bool> {
        while self.filled < bytes {
            let end = bytes.min(self.filled + GROWTH);
            if self.buffer.len() < end {
                // Not twice as much, as the vector would have it: a stranger says how long a record is.
                self.buffer.reserve_exact(end - self.buffer.len());
                self.buffer.resize(end, 0);
            }
            match self.source.read(&mut self.buffer[self.filled..end]) {
                Ok(0) => return Ok(false),
                Ok(read) => self.filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

fn read_away<R: Read>(source: &mut R, bytes: u64) -> io::Result<u64> {
    io::copy(&mut source.take(bytes), &mut io::sink())
}
