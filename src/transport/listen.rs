//! Waiting for another host.

use super::{Address, Cancel, Link};
use rustix::event::PollFlags;
use rustix::fs::{Mode, chmod};
use std::fs;
use std::io::{self, ErrorKind};
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a connection waits before it is tried again to take it, when descriptors or memory were short.
const SHORTAGE: Duration = Duration::from_millis(200);

/// A socket that others connect to.
#[derive(Debug)]
pub enum Listener {
    /// With its file, which goes when this does.
    Unix(UnixListener, SocketFile),
    /// On a port.
    Tcp(TcpListener),
}

/// The file of a Unix socket: its path, device and inode.
#[derive(Debug)]
pub struct SocketFile(PathBuf, (u64, u64));

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(SocketFile(path.to_owned(), identity(path)?))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Somebody else's may stand there by now.
        if identity(&self.0).is_ok_and(|now| now == self.1) {
            let _ = fs::remove_file(&self.0);
        }
    }
}

impl Listener {
    /// Listens. The file of a Unix socket of this user's that nobody listens on any more is replaced; the new one is for this user
    /// alone. Anything else that has the name is left as it is.
    ///
    /// # Errors
    /// With the address: the system's; [`ErrorKind::AddrInUse`]; an address that nobody can listen on.
    pub fn bind(address: &Address) -> io::Result<Self> {
        Listener::bound(address).map_err(|error| io::Error::new(error.kind(), format!("{address}: {error}")))
    }

    fn bound(address: &Address) -> io::Result<Self> {
        match address {
            Address::Unix(path) => {
                make_room(path)?;
                let listener = UnixListener::bind(path)?;
                chmod(path, Mode::RUSR | Mode::WUSR)?;
                listener.set_nonblocking(true)?;
                let file = SocketFile::of(path)?;
                Ok(Listener::Unix(listener, file))
            }
            Address::Tcp(address) => {
                let listener = TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                Ok(Listener::Tcp(listener))
            }
            _ => Err(io::Error::new(ErrorKind::InvalidInput, "nobody can listen on such an address")),
        }
    }

    /// Where it listens, with the port that was chosen.
    ///
    /// # Errors
    /// The system's.
    pub fn address(&self) -> io::Result<Address> {
        Ok(match self {
            Listener::Unix(_, file) => Address::Unix(file.0.clone()),
            Listener::Tcp(listener) => Address::Tcp(listener.local_addr()?),
        })
    }

    /// Waits until a connection waits to be accepted. False when `cancel` came first.
    ///
    /// # Errors
    /// The system's.
    pub fn wait(&self, cancel: &Cancel) -> io::Result<bool> {
        let fd = match self {
            Listener::Unix(listener, _) => listener.as_fd(),
            Listener::Tcp(listener) => listener.as_fd(),
        };
        cancel.wait(fd, PollFlags::IN)
    }

    /// Waits for the next connection, and gives with it what calls it off later on. Where descriptors or memory are short,
    /// the other side waits until there are some: that is no reason to stop listening.
    ///
    /// # Errors
    /// The system's; called off by `cancel` ([`is_cancelled`](super::is_cancelled)).
    pub fn accept(&self, cancel: &Cancel) -> io::Result<(Link, Cancel)> {
        let mut told = false;
        loop {
            let fd = match self {
                Listener::Unix(listener, _) => listener.as_fd(),
                Listener::Tcp(listener) => listener.as_fd(),
            };
            if !cancel.wait(fd, PollFlags::IN)? {
                return Err(super::link::cancelled());
            }
            match Cancel::new().and_then(|link| Ok((self.take(link.clone())?, link))) {
                // Gone again before we looked.
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionAborted) => {}
                Err(error) if is_shortage(&error) => {
                    if !std::mem::replace(&mut told, true) {
                        log::warn!("a connection waits: {error}");
                    }
                    if cancel.wait_for(SHORTAGE)? {
                        return Err(super::link::cancelled());
                    }
                }
                other => return other,
            }
        }
    }

    fn take(&self, link: Cancel) -> io::Result<Link> {
        match self {
            Listener::Unix(listener, file) => {
                let (socket, _) = listener.accept()?;
                Link::socket(socket.into(), format!("unix:{}", file.0.display()), link)
            }
            Listener::Tcp(listener) => {
                let (socket, peer) = listener.accept()?;
                Link::tcp(socket, format!("tcp:{peer}"), link)
            }
        }
    }
}

fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM))
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let file = fs::symlink_metadata(path)?;
    Ok((file.dev(), file.ino()))
}

/// Removes the socket that an earlier process of this user's has left at a path. Whatever else is there is refused, untouched.
fn make_room(path: &Path) -> io::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    let kind = found.file_type();
    let what = match UnixStream::connect(path) {
        _ if kind.is_dir() => "a directory",
        _ if kind.is_symlink() => "a symbolic link",
        _ if kind.is_block_device() || kind.is_char_device() => "a device",
        _ if kind.is_fifo() => "a pipe",
        _ if !kind.is_socket() => "an ordinary file",
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            if found.uid() == rustix::process::geteuid().as_raw() {
                return fs::remove_file(path);
            }
            "a socket of another user"
        }
        _ => "a socket that another process has open",
    };
    let text = format!("{what} has this name, and was left as it is: use another path, or remove it first");
    Err(io::Error::new(ErrorKind::AddrInUse, text))
}
