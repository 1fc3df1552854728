//! The socket's place in the file system: nobody else may open it, nor put another there.

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::process::geteuid;
use std::fs::{self, DirBuilder, File, Metadata, Permissions};
use std::io::{self, Error, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// A bound socket's name; removed with this value if it is still the same socket's.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl Place {
    /// Makes a socket at `path` that listens, and is open to our own user and to root only from its first moment on.
    ///
    /// The folder is locked meanwhile, so that of two that find the same stale socket one replaces it.
    pub fn bind(path: &Path) -> io::Result<(UnixListener, Place)> {
        let folder = folder(path);
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|error| named(error, folder))?;
        let metadata = fs::metadata(folder).map_err(|error| named(error, folder))?;
        check_folder(folder, &metadata, false)?;
        let lock = File::open(folder).map_err(|error| named(error, folder))?;
        flock(&lock, FlockOperation::LockExclusive)?;
        if in_use(path).map_err(|error| named(error, path))? {
            return Err(Error::new(ErrorKind::AddrInUse, format!("{}: another process listens there", path.display())));
        }
        // Whatever the umask is: nobody else can get into this folder while the socket has the mode it is born with.
        let cradle = tempfile::Builder::new().prefix(".").rand_bytes(4).tempdir_in(folder)?;
        let born = cradle.path().join("s");
        let listener = UnixListener::bind(&born).map_err(|error| named(error, path))?;
        fs::set_permissions(&born, Permissions::from_mode(0o600))?;
        let metadata = fs::symlink_metadata(&born)?;
        fs::rename(&born, path).map_err(|error| named(error, path))?;
        Ok((listener, Place { path: path.into(), identity: identity(&metadata) }))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Without the lock there is a moment in which a successor's socket could be taken for ours; somebody who keeps the
        // folder locked must not keep us.
        let lock = File::open(folder(&self.path)).ok();
        let _locked = lock.as_ref().map(|lock| flock(lock, FlockOperation::NonBlockingLockExclusive));
        if fs::symlink_metadata(&self.path).is_ok_and(|now| identity(&now) == self.identity)
            && let Err(error) = fs::remove_file(&self.path)
        {
            log::warn!("{}: {error}", self.path.display());
        }
    }
}

/// Whether the socket at `path` may be taken for that of a process of ours: it, and its folder, are our user's or root's.
pub(super) fn check_socket(path: &Path) -> io::Result<()> {
    let metadata = fs::metadata(path)?;
    if !ours(metadata.uid(), true) {
        let text = format!("{}: belongs to user {}", path.display(), metadata.uid());
        return Err(Error::new(ErrorKind::PermissionDenied, text));
    }
    let folder = folder(path);
    check_folder(folder, &fs::metadata(folder)?, true)
}

fn check_folder(folder: &Path, metadata: &Metadata, client: bool) -> io::Result<()> {
    const OTHERS_WRITE: u32 = 0o002;
    const STICKY: u32 = 0o1000;
    let refuse = |text| Err(Error::new(ErrorKind::PermissionDenied, format!("{}: {text}", folder.display())));
    if !ours(metadata.uid(), client) {
        return refuse(format!("belongs to user {}", metadata.uid()));
    }
    if metadata.mode() & OTHERS_WRITE != 0 && metadata.mode() & STICKY == 0 {
        return refuse("anybody may replace files in it".into());
    }
    Ok(())
}

/// Root may be the client of anybody's server.
fn ours(uid: u32, client: bool) -> bool {
    let me = geteuid();
    uid == 0 || uid == me.as_raw() || (client && me.is_root())
}

/// Whether somebody listens at `path`. A socket that nobody listens on any more is in nobody's way.
fn in_use(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(Error::new(ErrorKind::AlreadyExists, "is not a socket"));
        }
        Ok(_) => {}
    }
    // Without waiting: a process that is stopped accepts nothing and is there all the same.
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let probe = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match connect(&probe, &SocketAddrUnix::new(path)?) {
        Ok(()) | Err(Errno::AGAIN) => Ok(true),
        Err(Errno::CONNREFUSED) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

fn named(error: Error, path: &Path) -> Error {
    Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_missing_folder_is_made_and_both_are_private() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("run/x/web.sock");
        let (_listener, place) = Place::bind(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(&folder.path().join("run")), 0o700);
        assert_eq!(mode(&folder.path().join("run/x")), 0o700);
        check_socket(&path).unwrap();
        drop(place);
        let left: Vec<_> = fs::read_dir(folder.path().join("run/x")).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }

    #[test]
    fn a_stale_socket_is_replaced_a_live_one_and_a_file_are_not() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("web.sock");
        drop(UnixListener::bind(&path).unwrap());
        let (listener, place) = Place::bind(&path).unwrap();
        let error = Place::bind(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        assert!(error.to_string().contains("web.sock"), "{error}");
        drop((listener, place));
        fs::write(&path, "something else").unwrap();
        assert_eq!(Place::bind(&path).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "something else");
    }

    #[test]
    fn a_process_that_accepts_nothing_is_live() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("web.sock");
        let (_listener, _place) = Place::bind(&path).unwrap();
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let mut waiting = Vec::new();
        loop {
            let one = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
            match connect(&one, &SocketAddrUnix::new(&path).unwrap()) {
                Ok(()) => waiting.push(one),
                Err(Errno::AGAIN) => break,
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(Place::bind(&path).unwrap_err().kind(), ErrorKind::AddrInUse);
    }

    #[test]
    fn a_successors_socket_stays() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("web.sock");
        let (_first, place) = Place::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let (_second, _successor) = Place::bind(&path).unwrap();
        drop(place);
        assert!(in_use(&path).unwrap());
    }

    #[test]
    fn a_folder_of_everybody_is_refused_unless_sticky() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("web.sock");
        fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).unwrap();
        assert_eq!(Place::bind(&path).unwrap_err().kind(), ErrorKind::PermissionDenied);
        fs::set_permissions(folder.path(), Permissions::from_mode(0o1777)).unwrap();
        Place::bind(&path).unwrap();
    }
}
