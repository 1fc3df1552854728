//! Unpacking: gzip, xz, zstd, bzip2, lz4.

use std::io::{self, BufRead, Read};

/// Most memory that unpacking xz may take, in KiB; the presets of `xz` need up to 65 MiB. The other decoders have bounds of their
/// own: gzip 32 KiB, bzip2 4 MiB, lz4 13 MiB, zstd 128 MiB.
const XZ_MEMORY_KIB: u32 = 256 << 10;
/// The mark of bzip2's first block: pi.
const BZIP2_BLOCK: [u8; 6] = [0x31, 0x41, 0x59, 0x26, 0x53, 0x59];

/// How a file is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    Gzip,
    Xz,
    Zstd,
    Bzip2,
    Lz4,
}

impl Packing {
    /// The packing whose files begin so; [`super::container::HEAD`] bytes are enough.
    pub(super) fn of(first: &[u8]) -> Option<Packing> {
        let bzip2 = || {
            first.starts_with(b"BZh")
                && first.get(3).is_some_and(|level| (b'1'..=b'9').contains(level))
                && first.get(4..).is_some_and(|block| block.starts_with(&BZIP2_BLOCK))
        };
        if first.starts_with(&[0x1f, 0x8b]) {
            Some(Packing::Gzip)
        } else if first.starts_with(&[0xfd, b'7', b'z', b'X', b'Z', 0]) {
            Some(Packing::Xz)
        } else if first.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            Some(Packing::Zstd)
        } else if first.starts_with(&[0x04, 0x22, 0x4d, 0x18]) {
            Some(Packing::Lz4)
        } else if bzip2() {
            Some(Packing::Bzip2)
        } else {
            None
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Packing::Gzip => "gzip",
            Packing::Xz => "xz",
            Packing::Zstd => "zstd",
            Packing::Bzip2 => "bzip2",
            Packing::Lz4 => "lz4",
        }
    }

    /// Unpacks a source, all members or frames of it.
    ///
    /// # Errors
    /// None today: what is wrong with the first bytes shows when they are read.
    pub(super) fn reader<R: BufRead + Send + 'static>(self, source: R) -> io::Result<Box<dyn Read + Send>> {
        let unpacked: Box<dyn Read + Send> = match self {
            Packing::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(source)),
            Packing::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(source, true, XZ_MEMORY_KIB)),
            Packing::Zstd => Box::new(ZstdFrames { decoder: None, source: Some(source) }),
            Packing::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(source)),
            Packing::Lz4 => Box::new(Lz4Frames(lz4_flex::frame::FrameDecoder::new(source))),
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

impl<R: BufRead> Read for ZstdFrames<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(decoder) = &mut self.decoder {
                match decoder.read(out)? {
                    0 if !out.is_empty() => self.source = self.decoder.take().map(|decoder| decoder.into_inner()),
                    bytes => return Ok(bytes),
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

/// Every frame of a lz4 file; the decoder says at the end of each that there is no more.
struct Lz4Frames<R: Read>(lz4_flex::frame::FrameDecoder<R>);

impl<R: BufRead> Read for Lz4Frames<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let bytes = self.0.read(out)?;
            if bytes > 0 || out.is_empty() || self.0.get_mut().fill_buf()?.is_empty() {
                return Ok(bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::input::Input;
    use super::*;
    use std::io::{Seek, Write};

    /// 100 bytes packed by xz, the block header changed to claim a dictionary of 4 GiB.
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
