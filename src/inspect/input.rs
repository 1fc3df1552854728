//! A stream from a file or a pipe, mapped or read, packed or not.

use super::mapped;
use super::packing::Packing;
use memmap2::Mmap;
use rustix::pipe::{SpliceFlags, splice};
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek};
use std::os::fd::AsFd;
use std::path::Path;

/// Bytes that tell a compressed file or a container.
const PEEK: usize = super::container::HEAD;
/// Bytes read at once from a pipe whose contents nobody wants.
const CHUNK: usize = 1 << 18;

/// Where a stream comes from.
pub enum Input {
    /// A regular file, mapped.
    Mapped(Mmap),
    /// Something to be read from front to back, not compressed.
    Pipe(Pipe),
    /// A compressed file or pipe.
    Compressed(Box<dyn Read + Send>),
}

impl Input {
    /// Opens `path`; `-` is standard input.
    ///
    /// # Errors
    /// The system's.
    pub fn open(path: &Path) -> io::Result<Input> {
        let file = if path.as_os_str() == "-" {
            File::from(io::stdin().as_fd().try_clone_to_owned()?)
        } else {
            File::open(path)?
        };
        Input::from_file(file)
    }

    /// Takes a file from its present position on.
    ///
    /// # Errors
    /// The system's.
    pub fn from_file(mut file: File) -> io::Result<Input> {
        let metadata = file.metadata()?;
        if metadata.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        if metadata.is_file()
            && metadata.len() > 0
            && file.stream_position()? == 0
            && let Ok(map) = mapped::map(&file)
        {
            return Ok(match Packing::of(&map) {
                None => Input::Mapped(map),
                Some(packing) => Input::Compressed(packing.reader(BufReader::new(file))?),
            });
        }
        let pipe = Pipe::new(file)?;
        Ok(match Packing::of(&pipe.head[..pipe.len]) {
            None => Input::Pipe(pipe),
            Some(packing) => Input::Compressed(packing.reader(BufReader::new(pipe))?),
        })
    }

    /// The stream from front to back.
    pub fn into_reader(self) -> Box<dyn Read + Send> {
        match self {
            Input::Mapped(map) => Box::new(io::Cursor::new(map)),
            Input::Pipe(pipe) => Box::new(pipe),
            Input::Compressed(reader) => reader,
        }
    }

    /// Bytes of the stream, where that is known before it has been read.
    pub fn len(&self) -> Option<u64> {
        match self {
            Input::Mapped(map) => Some(map.len() as u64),
            _ => None,
        }
    }

    /// Whether the stream is known to have no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == Some(0)
    }
}

/// A file read from front to back, whose first bytes have been looked at already.
pub struct Pipe {
    file: File,
    head: [u8; PEEK],
    len: usize,
    given: usize,
    /// Where page contents go that nobody wants.
    sink: Option<File>,
    chunk: Vec<u8>,
}

impl Pipe {
    fn new(file: File) -> io::Result<Pipe> {
        let mut pipe = Pipe { file, head: [0; PEEK], len: 0, given: 0, sink: None, chunk: Vec::new() };
        while pipe.len < PEEK {
            match pipe.file.read(&mut pipe.head[pipe.len..]) {
                Ok(0) => break,
                Ok(read) => pipe.len += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        // Only pipes can be spliced from; without a sink the bytes are read.
        pipe.sink = OpenOptions::new().write(true).open("/dev/null").ok();
        Ok(pipe)
    }

    /// The first bytes, which have been looked at already: at most [`PEEK`].
    pub(super) fn head(&self) -> &[u8] {
        self.head.get(..self.len).unwrap_or_default()
    }

    /// Drops bytes without copying them where the system can: pages of a pipe move to `/dev/null`. Gives how many there
    /// were.
    ///
    /// # Errors
    /// The system's.
    pub fn discard(&mut self, bytes: u64) -> io::Result<u64> {
        let head = ((self.len - self.given) as u64).min(bytes);
        self.given += head as usize;
        let mut left = bytes - head;
        while left > 0 {
            let dropped = match self.splice_away(left) {
                Some(result) => result?,
                None => self.read_away(left)?,
            };
            if dropped == 0 {
                break;
            }
            left -= dropped;
        }
        Ok(bytes - left)
    }

    fn splice_away(&mut self, bytes: u64) -> Option<io::Result<u64>> {
        let sink = self.sink.as_ref()?;
        let bytes = bytes.min(1 << 30) as usize;
        loop {
            match splice(&self.file, None, sink, None, bytes, SpliceFlags::MOVE) {
                Ok(moved) => return Some(Ok(moved as u64)),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::INVAL) => {
                    // Not a pipe.
                    self.sink = None;
                    return None;
                }
                Err(error) => return Some(Err(error.into())),
            }
        }
    }

    fn read_away(&mut self, bytes: u64) -> io::Result<u64> {
        self.chunk.resize(CHUNK, 0);
        let end = bytes.min(CHUNK as u64) as usize;
        loop {
            match self.file.read(&mut self.chunk[..end]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result.map(|read| read as u64),
            }
        }
    }
}

impl Read for Pipe {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.given < self.len {
            let bytes = out.len().min(self.len - self.given);
            out[..bytes].copy_from_slice(&self.head[self.given..self.given + bytes]);
            self.given += bytes;
            return Ok(bytes);
        }
        self.file.read(out)
    }
}
