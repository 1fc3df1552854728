//! A disk's content: a raw file or a block device, with one owner.
#![forbid(unsafe_code)]

use super::error::{Error, Result, io};
use rustix::fs::{FallocateFlags, FlockOperation, SeekFrom, fallocate, flock, seek};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Most zeroes that are written in one call.
const ZEROES: usize = 1 << 20;

/// An image that this process owns. Reading and writing at different places need no order between them.
#[derive(Debug)]
pub(super) struct Image {
    file: File,
    path: PathBuf,
    size: u64,
    /// Octets that may still be written before writing fails.
    #[cfg(test)]
    pub(super) fuse: std::sync::atomic::AtomicU64,
}

impl Image {
    /// Opens an image, and locks it: two daemons never have the same one.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let name = || path.display();
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(io(name()))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(Error::InUse { path: name().to_string() }),
            Err(error) => return Err(io(name())(error.into())),
        }
        // The end of a block device is found in the same way.
        let size = seek(&file, SeekFrom::End(0)).map_err(|error| io(name())(error.into()))?;
        if size == 0 || size % 512 != 0 || size > i64::MAX.unsigned_abs() {
            return Err(Error::NoDisk { path: name().to_string(), size });
        }
        Ok(Image {
            file,
            path: path.to_owned(),
            size,
            #[cfg(test)]
            fuse: u64::MAX.into(),
        })
    }

    pub(super) const fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether these octets are all of the disk.
    pub(super) fn check(&self, offset: u64, length: u64) -> Result<()> {
        match offset.checked_add(length) {
            Some(end) if end <= self.size => Ok(()),
            _ => Err(Error::Outside { offset, length, size: self.size }),
        }
    }

    pub(super) fn read(&self, offset: u64, octets: &mut [u8]) -> Result<()> {
        self.check(offset, octets.len() as u64)?;
        self.file
            .read_exact_at(octets, offset)
            .map_err(io(format_args!("{}: reading at {offset}", self.path.display())))
    }

    pub(super) fn write(&self, offset: u64, octets: &[u8]) -> Result<()> {
        self.check(offset, octets.len() as u64)?;
        let octets = self.burn(octets);
        self.file.write_all_at(octets.0, offset).map_err(self.writing(offset))?;
        octets.1.map_err(self.writing(offset))
    }

    /// Has zeroes there. With `hole` they need take no room.
    pub(super) fn zero(&self, offset: u64, length: u64, hole: bool) -> Result<()> {
        self.check(offset, length)?;
        if length == 0 {
            return Ok(());
        }
        if hole && fallocate(&self.file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, length).is_ok()
        {
            return Ok(());
        }
        let zeroes = vec![0; ZEROES];
        let mut at = offset;
        let end = offset + length;
        while at < end {
            let now = usize::try_from(end - at).unwrap_or(ZEROES).min(ZEROES);
            self.write(at, zeroes.get(..now).unwrap_or_default())?;
            at += now as u64;
        }
        Ok(())
    }

    /// Returns when what was written would outlive the host.
    pub(super) fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(io(format_args!("{}: syncing", self.path.display())))
    }

    /// Where the next octets are, at or behind `from`, that may be other than zero. `None`: there are none.
    pub(super) fn data(&self, from: u64) -> Option<u64> {
        match seek(&self.file, SeekFrom::Data(from)) {
            Ok(at) => Some(at.max(from)),
            Err(Errno::NXIO) => None,
            // Not a file system that knows its holes, or a block device.
            Err(_) => Some(from).filter(|from| *from < self.size),
        }
    }

    fn writing(&self, offset: u64) -> impl FnOnce(std::io::Error) -> Error {
        move |error| io(format_args!("{}: writing at {offset}", self.path.display()))(error)
    }

    /// In tests, a host that dies in the middle of a write.
    #[cfg(test)]
    fn burn<'a>(&self, octets: &'a [u8]) -> (&'a [u8], std::io::Result<()>) {
        use std::sync::atomic::Ordering::SeqCst;
        let left = usize::try_from(self.fuse.load(SeqCst)).unwrap_or(usize::MAX);
        let now = left.min(octets.len());
        self.fuse.fetch_sub(now as u64, SeqCst);
        let whole = if now == octets.len() { Ok(()) } else { Err(std::io::ErrorKind::Other.into()) };
        (&octets[..now], whole)
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "tests have another one")]
    const fn burn<'a>(&self, octets: &'a [u8]) -> (&'a [u8], std::io::Result<()>) {
        (octets, Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn image(folder: &TempDir, size: u64) -> (PathBuf, Result<Image>) {
        let path = folder.path().join("image");
        File::create(&path).unwrap().set_len(size).unwrap();
        let image = Image::open(&path);
        (path, image)
    }

    #[test]
    fn one_image_has_one_owner() {
        let folder = TempDir::new().unwrap();
        let (path, first) = image(&folder, 4096);
        let first = first.unwrap();
        assert!(matches!(Image::open(&path), Err(Error::InUse { .. })));
        drop(first);
        assert_eq!(Image::open(&path).unwrap().size(), 4096);
    }

    #[test]
    fn what_is_no_disk_is_refused() {
        let folder = TempDir::new().unwrap();
        for size in [0, 511, 513] {
            assert!(matches!(image(&folder, size).1, Err(Error::NoDisk { size: found, .. }) if found == size));
        }
        assert!(Image::open(&folder.path().join("none")).unwrap_err().to_string().contains("none"));
    }

    #[test]
    fn octets_zeroes_and_holes() {
        let folder = TempDir::new().unwrap();
        let image = image(&folder, 1 << 20).1.unwrap();
        image.write(4096, &[7; 8192]).unwrap();
        image.zero(8192, 100, false).unwrap();
        image.zero(9000, 10, true).unwrap();
        image.zero(0, 0, true).unwrap();
        let mut read = vec![0; 8192];
        image.read(4096, &mut read).unwrap();
        let expected: Vec<u8> = (4096..12288u64)
            .map(|at| if (8192..8292).contains(&at) || (9000..9010).contains(&at) { 0 } else { 7 })
            .collect();
        assert_eq!(read, expected);
        assert!(image.data(0).unwrap() <= 4096);
        assert!(matches!(image.write((1 << 20) - 1, &[1, 2]), Err(Error::Outside { .. })));
        assert!(matches!(image.read(u64::MAX, &mut [0]), Err(Error::Outside { .. })));
        assert!(image.zero(1, 1 << 20, true).is_err());
        image.sync().unwrap();
    }
}
