//! Where a legacy image is read from: in order, with the offset at hand, and no more memory than has arrived.

use super::{LegacyError, Problem};
use std::io::{self, Read};

/// Bytes of an unsigned long of the toolstack that wrote the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// 4
    Bits32,
    /// 8
    Bits64,
}

/// See the module.
pub struct Source<R> {
    from: R,
    /// Bytes read so far.
    offset: u64,
    /// Bytes that were looked at and are still to be read.
    ahead: Vec<u8>,
    /// The toolstack's.
    pub width: Width,
}

impl<R: Read> Source<R> {
    pub fn new(from: R) -> Self {
        Source { from, offset: 0, ahead: Vec::new(), width: Width::Bits64 }
    }

    /// An error at the present offset.
    pub const fn wrong(&self, problem: Problem) -> LegacyError {
        LegacyError::Image { offset: self.offset, problem }
    }

    /// Looks at what follows; less where the image ends before.
    pub fn peek(&mut self, bytes: usize) -> io::Result<&[u8]> {
        let missing = bytes.saturating_sub(self.ahead.len()) as u64;
        self.from.by_ref().take(missing).read_to_end(&mut self.ahead)?;
        Ok(self.ahead.get(..bytes.min(self.ahead.len())).unwrap_or_default())
    }

    /// Reads so many bytes into a buffer, replacing what it had.
    pub fn bytes(&mut self, count: u64, into: &mut Vec<u8>) -> Result<(), LegacyError> {
        into.clear();
        let ahead = self.ahead.len().min(usize::try_from(count).unwrap_or(usize::MAX));
        into.extend(self.ahead.drain(..ahead));
        self.from.by_ref().take(count - ahead as u64).read_to_end(into)?;
        if into.len() as u64 != count {
            return Err(self.wrong(Problem::Truncated { needed: count, there: into.len() as u64 }));
        }
        self.offset += count;
        Ok(())
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], LegacyError> {
        let mut bytes = Vec::with_capacity(N);
        self.bytes(N as u64, &mut bytes)?;
        Ok(bytes.try_into().unwrap_or([0; N]))
    }

    pub fn u32(&mut self) -> Result<u32, LegacyError> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, LegacyError> {
        self.array().map(u64::from_le_bytes)
    }

    /// An unsigned long.
    pub fn ulong(&mut self) -> Result<u64, LegacyError> {
        match self.width {
            Width::Bits32 => self.u32().map(u64::from),
            Width::Bits64 => self.u64(),
        }
    }

    /// So many of them.
    pub fn ulongs(&mut self, count: u64, into: &mut Vec<u64>) -> Result<(), LegacyError> {
        let size: usize = if self.width == Width::Bits32 { 4 } else { 8 };
        let mut bytes = Vec::new();
        self.bytes(count * size as u64, &mut bytes)?;
        into.clear();
        into.extend(bytes.chunks_exact(size).map(|chunk| {
            let mut word = [0; 8];
            for (to, from) in word.iter_mut().zip(chunk) {
                *to = *from;
            }
            u64::from_le_bytes(word)
        }));
        Ok(())
    }

    /// All that follows, up to so much.
    pub fn rest(&mut self, most: u64) -> Result<u64, LegacyError> {
        let ahead = std::mem::take(&mut self.ahead).len() as u64;
        let more = io::copy(&mut self.from.by_ref().take(most), &mut io::sink())?;
        self.offset += ahead + more;
        Ok(ahead + more)
    }
}
