//! A disk's content: a raw file or a block device, with one owner.
#![forbid(unsafe_code)]

use super::error::{Error, Result, io};
use rustix::fs::{FallocateFlags, FlockOperation, SeekFrom, fallocate, flock, seek};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Most zeroes that are written in one call.
const ZEROES: usize = 1 << 20;

/// What files begin with that have a disk in them: where, what, and its name.
const CONTAINERS: [(usize, &[u8], &str); 9] = [
    (0, b"QFI\xfb", "qcow2"),
    (0, b"QED\0", "QED"),
    (0, b"KDMV", "VMDK"),
    (0, b"COWD", "VMDK"),
    (0x40, b"\x7f\x10\xda\xbe", "VDI"),
    (0, b"vhdxfile", "VHDX"),
    (0, b"conectix", "VHD"),
    (0, b"WithoutFreeSpace", "Parallels"),
    (0, b"WithouFreSpacExt", "Parallels"),
];
/// Bytes that are looked at in each place where content may be, and in how many places.
const LOOK: u64 = 1 << 20;
const PLACES: u64 = 64;

/// An image that this process owns. Reading and writing at different places need no order between them.
#[derive(Debug)]
pub(super) struct Image {
    file: File,
    path: PathBuf,
    size: u64,
    /// Bytes that may still be written before writing fails.
    #[cfg(test)]
    pub(super) fuse: std::sync::atomic::AtomicU64,
}

impl Image {
    /// Opens an image, and locks it: two daemons never have the same one.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let name = || path.display();
        let is_device = std::fs::metadata(path).map_err(io(name()))?.file_type().is_block_device();
        // Of a block device alone: it is then this process's, as it is a mount's.
        let flags = if is_device { libc::O_EXCL } else { 0 };
        let file = match OpenOptions::new().read(true).write(true).custom_flags(flags).open(path) {
            Err(error) if is_device && error.kind() == std::io::ErrorKind::ResourceBusy => {
                return Err(Error::DeviceInUse { path: name().to_string() });
            }
            file => file.map_err(io(name()))?,
        };
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

    /// Refuses a file that has a disk in it and is none.
    pub(super) fn must_be_raw(&self) -> Result<()> {
        let mut head = [0; 512];
        self.read(0, &mut head)?;
        let is = |(at, magic, _): &&(usize, &[u8], &str)| head.get(*at..).is_some_and(|head| head.starts_with(magic));
        match CONTAINERS.iter().find(is) {
            Some((.., format)) => Err(Error::Container { path: self.path.display().to_string(), format }),
            None => Ok(()),
        }
    }

    /// Refuses an image that has content, as far as that is seen in its first and last MiB and at places in between.
    pub(super) fn must_be_empty(&self) -> Result<()> {
        let step = (self.size / PLACES).max(LOOK);
        let places = (0..PLACES).map(|place| place * step).take_while(|at| *at < self.size);
        for at in places.chain([self.size.saturating_sub(LOOK)]) {
            let Some(at) = self.data(at).filter(|data| *data < self.size) else { continue };
            let mut bytes = vec![0; usize::try_from(LOOK.min(self.size - at)).unwrap_or_default()];
            self.read(at, &mut bytes)?;
            if bytes.iter().any(|byte| *byte != 0) {
                return Err(Error::NotEmpty { path: self.path.display().to_string() });
            }
        }
        Ok(())
    }

    /// Whether these bytes are all of the disk.
    pub(super) fn check(&self, offset: u64, length: u64) -> Result<()> {
        match offset.checked_add(length) {
            Some(end) if end <= self.size => Ok(()),
            _ => Err(Error::Outside { offset, length, size: self.size }),
        }
    }

    pub(super) fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        self.check(offset, bytes.len() as u64)?;
        self.file.read_exact_at(bytes, offset).map_err(io(format_args!("{}: reading at {offset}", self.path.display())))
    }

    pub(super) fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.check(offset, bytes.len() as u64)?;
        let bytes = self.burn(bytes);
        self.file.write_all_at(bytes.0, offset).map_err(self.writing(offset))?;
        bytes.1.map_err(self.writing(offset))
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

    /// Where the next bytes are, at or behind `from`, that may be other than zero. `None`: there are none.
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
    fn burn<'a>(&self, bytes: &'a [u8]) -> (&'a [u8], std::io::Result<()>) {
        use std::sync::atomic::Ordering::SeqCst;
        let left = usize::try_from(self.fuse.load(SeqCst)).unwrap_or(usize::MAX);
        let now = left.min(bytes.len());
        self.fuse.fetch_sub(now as u64, SeqCst);
        let whole = if now == bytes.len() { Ok(()) } else { Err(std::io::ErrorKind::Other.into()) };
        (&bytes[..now], whole)
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "tests have another one")]
    const fn burn<'a>(&self, bytes: &'a [u8]) -> (&'a [u8], std::io::Result<()>) {
        (bytes, Ok(()))
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
    fn content_is_seen_wherever_it_is_and_an_image_of_zeroes_is_empty() {
        let folder = TempDir::new().unwrap();
        for size in [512, 1 << 20, 9 << 30] {
            let (path, image) = image(&folder, size);
            let image = image.unwrap();
            image.must_be_empty().unwrap();
            for at in [0, size / 1024 * 512, size - 512].map(|at| at.min(size - 512)) {
                image.write(at, &[1]).unwrap();
                let error = image.must_be_empty().unwrap_err().to_string();
                assert!(
                    error.contains(path.to_str().unwrap()) && error.contains("--overwrite"),
                    "{at} of {size}: {error}"
                );
                image.zero(at, 512, true).unwrap();
            }
            image.zero(0, 4096.min(size), false).unwrap();
            image.must_be_empty().unwrap();
        }
    }

    #[test]
    fn a_file_with_a_disk_in_it_is_named_by_its_format() {
        let folder = TempDir::new().unwrap();
        let image = image(&folder, 4096).1.unwrap();
        image.must_be_raw().unwrap();
        for (at, magic, format) in CONTAINERS {
            image.write(at as u64, magic).unwrap();
            let error = image.must_be_raw().unwrap_err().to_string();
            assert!(error.contains(format) && error.contains("qemu-img convert"), "{error}");
            image.zero(0, 512, false).unwrap();
        }
        // A boot sector and a file system are a disk's own.
        image.write(510, &[0x55, 0xaa]).unwrap();
        image.must_be_raw().unwrap();
    }

    #[test]
    fn bytes_zeroes_and_holes() {
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
