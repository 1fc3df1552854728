//! A stream from a file or a pipe, mapped or read, compressed or not.

use super::mapped;
use memmap2::Mmap;
use rustix::pipe::{SpliceFlags, splice};
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek};
use std::os::fd::AsFd;
use std::path::Path;

/// Octets that tell a compressed file.
const PEEK: usize = 6;
/// Octets read at once from a pipe whose contents nobody wants.
const CHUNK: usize = 1 << 18;
/// Most memory that unpacking xz may take, in KiB; the presets of `xz` need up to 65 MiB. The decoders of gzip and zstd
/// have bounds of their own, 32 KiB and 128 MiB.
const XZ_MEMORY_KIB: u32 = 256 << 10;

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
            return Ok(match Compression::of(&map) {
                None => Input::Mapped(map),
                Some(compression) => Input::Compressed(compression.reader(BufReader::new(file))?),
            });
        }
        let pipe = Pipe::new(file)?;
        Ok(match Compression::of(&pipe.head[..pipe.len]) {
            None => Input::Pipe(pipe),
            Some(compression) => Input::Compressed(compression.reader(BufReader::new(pipe))?),
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

    /// Octets of the stream, where that is known before it has been read.
    pub fn len(&self) -> Option<u64> {
        match self {
            Input::Mapped(map) => Some(map.len() as u64),
            _ => None,
        }
    }

    /// Whether the stream is known to have no octets.
    pub fn is_empty(&self) -> bool {
        self.len() == Some(0)
    }
}

/// A file read from front to back, whose first octets have been looked at already.
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
        // Only pipes can be spliced from; without a sink the octets are read.
        pipe.sink = OpenOptions::new().write(true).open("/dev/null").ok();
        Ok(pipe)
    }

    /// The first octets, which have been looked at already: at most [`PEEK`].
    pub(super) fn head(&self) -> &[u8] {
        self.head.get(..self.len).unwrap_or_default()
    }

    /// Drops octets without copying them where the system can: pages of a pipe move to `/dev/null`. Gives how many there
    /// were.
    ///
    /// # Errors
    /// The system's.
    pub fn discard(&mut self, octets: u64) -> io::Result<u64> {
        let head = ((self.len - self.given) as u64).min(octets);
        self.given += head as usize;
        let mut left = octets - head;
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
        Ok(octets - left)
    }

    fn splice_away(&mut self, octets: u64) -> Option<io::Result<u64>> {
        let sink = self.sink.as_ref()?;
        let octets = octets.min(1 << 30) as usize;
        loop {
            match splice(&self.file, None, sink, None, octets, SpliceFlags::MOVE) {
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

    fn read_away(&mut self, octets: u64) -> io::Result<u64> {
        self.chunk.resize(CHUNK, 0);
        let end = octets.min(CHUNK as u64) as usize;
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
            let octets = out.len().min(self.len - self.given);
            out[..octets].copy_from_slice(&self.head[self.given..self.given + octets]);
            self.given += octets;
            return Ok(octets);
        }
        self.file.read(out)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compression {
    Gzip,
    Xz,
    Zstd,
}

impl Compression {
    fn of(first: &[u8]) -> Option<Compression> {
        if first.starts_with(&[0x1f, 0x8b]) {
            Some(Compression::Gzip)
        } else if first.starts_with(&[0xfd, b'7', b'z', b'X', b'Z', 0]) {
            Some(Compression::Xz)
        } else if first.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            Some(Compression::Zstd)
        } else {
            None
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Compression::Gzip => "gzip",
            Compression::Xz => "xz",
            Compression::Zstd => "zstd",
        }
    }

    fn reader<R: io::BufRead + Send + 'static>(self, source: R) -> io::Result<Box<dyn Read + Send>> {
        let unpacked: Box<dyn Read + Send> = match self {
            Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(source)),
            Compression::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(source, true, XZ_MEMORY_KIB)),
            Compression::Zstd => Box::new(ZstdFrames { decoder: None, source: Some(source) }),
        };
        Ok(Box::new(Unpacked { unpacked, name: self.name() }))
    }
}

/// Says with each error that it is the packing that is wrong, or cut, and not the stream in it.
struct Unpacked {
    unpacked: Box<dyn Read + Send>,
    name: &'static str,
}

impl Read for Unpacked {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.unpacked.read(out).map_err(|error| match error.kind() {
            io::ErrorKind::Interrupted => error,
            kind => io::Error::new(kind, format!("unpacking {}: {error}", self.name)),
        })
    }
}

/// Every frame of a zstd file; the decoder itself stops behind the first.
struct ZstdFrames<R: Read> {
    decoder: Option<ruzstd::decoding::StreamingDecoder<R, ruzstd::decoding::FrameDecoder>>,
    source: Option<R>,
}

impl<R: io::BufRead> Read for ZstdFrames<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(decoder) = &mut self.decoder {
                match decoder.read(out)? {
                    0 if !out.is_empty() => self.source = self.decoder.take().map(|decoder| decoder.into_inner()),
                    octets => return Ok(octets),
                }
            }
            let Some(mut source) = self.source.take() else { return Ok(0) };
            if source.fill_buf()?.is_empty() {
                return Ok(0);
            }
            self.decoder = Some(
                ruzstd::decoding::StreamingDecoder::new(source)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// 100 octets packed by xz, the block header changed to claim a dictionary of 4 GiB.
    const GREEDY_XZ: [u8; 64] = [
        0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00, 0x00, 0x04, 0xe6, 0xd6, 0xb4, 0x46, 0x02, 0x00, 0x21, 0x01, 0x28, 0x00,
        0x00, 0x00, 0xe6, 0xa0, 0x11, 0xb3, 0xe0, 0x00, 0x63, 0x00, 0x06, 0x5d, 0x00, 0x3c, 0x6e, 0x9e, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x59, 0xb3, 0x71, 0x57, 0x16, 0xaa, 0xeb, 0x64, 0x00, 0x01, 0x22, 0x64, 0x4a, 0x56,
        0xeb, 0xcd, 0x1f, 0xb6, 0xf3, 0x7d, 0x01, 0x00, 0x00, 0x00,
    ];

    #[test]
    fn a_packed_file_does_not_choose_how_much_memory_it_takes() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&GREEDY_XZ).unwrap();
        file.rewind().unwrap();
        let Input::Compressed(mut reader) = Input::from_file(file).unwrap() else { panic!("not seen as xz") };
        let error = reader.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::OutOfMemory, "{error}");
    }
}
