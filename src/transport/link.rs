//! A connection.

use super::cancel::{ready, wait_readable};
use super::{Address, Cancel};
use rustix::event::PollFlags;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::net::{Shutdown, shutdown, sockopt};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use std::fs::OpenOptions;
use std::io::{self, ErrorKind, IoSlice, Read};
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long a command may take to end once its stdin is closed, and once more when it was told to.
const GRACE: Duration = Duration::from_secs(2);

/// A connection to another process, both ways.
#[derive(Debug)]
pub struct Link {
    read: Arc<OwnedFd>,
    write: OwnedFd,
    peer: String,
    cancel: Cancel,
    behind: Behind,
}

/// What has to live as long as a link does.
#[derive(Debug, Clone, Default)]
enum Behind {
    #[default]
    Somebody,
    Command(Arc<Running>),
    Nobody(#[expect(dead_code, reason = "it is held, not looked at")] Arc<OwnedFd>),
}

/// A command at the other end. Dropped, it is seen to its end by a thread of its own.
#[derive(Debug)]
struct Running {
    child: Mutex<Option<Child>>,
    /// Whether anything came from it. One that was silent has no guest, and nothing to finish.
    spoke: AtomicBool,
}

/// The commands that somebody still has. A thread that is on its way to let go of one may not get there before this process ends.
static RUNNING: Mutex<Vec<Weak<Running>>> = Mutex::new(Vec::new());

/// The threads that see silent commands to their end.
static ENDING: Mutex<Vec<JoinHandle<()>>> = Mutex::new(Vec::new());

/// Waits until the commands that never said anything have ended, with all that they have started, before this process does:
/// a few seconds at most. Others are left to themselves.
pub fn end_commands() {
    let running = std::mem::take(&mut *RUNNING.lock().unwrap_or_else(PoisonError::into_inner));
    for command in running.iter().filter_map(Weak::upgrade).filter(|command| !command.spoke.load(Ordering::Relaxed)) {
        let child = command.child.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut child) = child {
            end_silent(&mut child);
        }
    }
    let ending = std::mem::take(&mut *ENDING.lock().unwrap_or_else(PoisonError::into_inner));
    for reaper in ending {
        // What a thread has panicked of was printed.
        let _ = reaper.join();
    }
}

/// The end that is read.
#[derive(Debug)]
pub struct LinkReader {
    fd: Arc<OwnedFd>,
    cancel: Cancel,
    /// When bytes came last.
    heard: Arc<Mutex<Instant>>,
    behind: Behind,
}

/// The end that is written.
#[derive(Debug)]
pub struct LinkWriter {
    fd: Option<OwnedFd>,
    cancel: Cancel,
    /// A socket is shut down in one direction; a pipe is closed.
    socket: bool,
    _behind: Behind,
}

/// Looks at the end that is read, from anywhere.
#[derive(Debug, Clone)]
pub struct Probe {
    fd: Arc<OwnedFd>,
    heard: Arc<Mutex<Instant>>,
}

#[derive(Debug, thiserror::Error)]
#[error("called off")]
struct Cancelled;

pub(super) fn cancelled() -> io::Error {
    io::Error::new(ErrorKind::ConnectionAborted, Cancelled)
}

/// Whether reading or writing was called off by a [`Cancel`].
pub fn is_cancelled(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Cancelled>())
}

/// Connects. `cancel` calls off this, and later whatever is done with the link.
///
/// # Errors
/// The system's; a command that cannot be started. A command that ends at once is an end of file.
pub fn connect(address: &Address, cancel: &Cancel) -> io::Result<Link> {
    let cancel = cancel.clone();
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{address}: {error}"));
    match address {
        Address::Command(command) => run(command, cancel),
        Address::Unix(path) => {
            let socket = UnixStream::connect(path).map_err(named)?;
            Link::socket(socket.into(), address.to_string(), cancel)
        }
        Address::Tcp(peer) => {
            let socket = TcpStream::connect_timeout(peer, Duration::from_secs(10)).map_err(named)?;
            Link::tcp(socket, address.to_string(), cancel)
        }
        Address::Fds { read, write } => Link::from_fds(*read, *write, cancel),
        Address::Null => {
            let null = OpenOptions::new().write(true).open("/dev/null")?;
            // Its other end stays open, and silent, as long as this one lives.
            let (silent, other) = UnixStream::pair()?;
            let mut link = Link::new(silent.into(), null.into(), address.to_string(), cancel)?;
            link.behind = Behind::Nobody(Arc::new(other.into()));
            Ok(link)
        }
    }
}

impl Link {
    fn new(read: OwnedFd, write: OwnedFd, peer: String, cancel: Cancel) -> io::Result<Self> {
        for fd in [&read, &write] {
            fcntl_setfl(fd, fcntl_getfl(fd)? | OFlags::NONBLOCK)?;
        }
        Ok(Link { read: Arc::new(read), write, peer, cancel, behind: Behind::Somebody })
    }

    pub(super) fn socket(socket: OwnedFd, peer: String, cancel: Cancel) -> io::Result<Self> {
        let other = socket.try_clone()?;
        Link::new(socket, other, peer, cancel)
    }

    pub(super) fn tcp(socket: TcpStream, peer: String, cancel: Cancel) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        Link::socket(socket.into(), peer, cancel)
    }

    /// This process's standard input and output. They are taken over: what is printed from here on goes to standard error,
    /// and the other side sees an end when the link is closed, not when this process ends.
    ///
    /// # Errors
    /// The system's.
    pub fn stdio(cancel: Cancel) -> io::Result<Self> {
        let read = io::stdin().as_fd().try_clone_to_owned()?;
        let write = io::stdout().as_fd().try_clone_to_owned()?;
        rustix::stdio::dup2_stdin(OpenOptions::new().read(true).open("/dev/null")?)?;
        rustix::stdio::dup2_stdout(io::stderr())?;
        Link::new(read, write, "standard input and output".into(), cancel)
    }

    /// Descriptors that this process has inherited. They are opened anew where they are files or pipes, and shared where
    /// they are sockets. What was inherited stays open besides: through a pipe, the other side sees the end when this process
    /// ends, not when the link does.
    ///
    /// # Errors
    /// No such descriptor.
    pub fn from_fds(read: RawFd, write: RawFd, cancel: Cancel) -> io::Result<Self> {
        let peer = format!("fd:{read},{write}");
        Link::new(inherited(read, true)?, inherited(write, false)?, peer, cancel)
    }

    /// The other end, for people.
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// Both ends.
    pub fn split(self) -> (LinkReader, LinkWriter) {
        let socket = sockopt::socket_type(&self.write).is_ok();
        let heard = Arc::new(Mutex::new(Instant::now()));
        let reader = LinkReader { fd: self.read, cancel: self.cancel.clone(), heard, behind: self.behind.clone() };
        let writer = LinkWriter { fd: Some(self.write), cancel: self.cancel, socket, _behind: self.behind };
        (reader, writer)
    }
}

fn run(command: &str, cancel: Cancel) -> io::Result<Link> {
    let mut child = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // An interrupt from the terminal is for us: we say goodbye first.
        .process_group(0)
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("starting {command:?}: {error}")))?;
    let ends = child.stdout.take().zip(child.stdin.take());
    let running = Arc::new(Running { child: Mutex::new(Some(child)), spoke: AtomicBool::new(false) });
    {
        let mut all = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|command| command.strong_count() > 0);
        all.push(Arc::downgrade(&running));
    }
    let (read, write) = ends.ok_or(ErrorKind::BrokenPipe)?;
    let mut link = Link::new(read.into(), write.into(), format!("exec:{command}"), cancel)?;
    link.behind = Behind::Command(running);
    Ok(link)
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(mut child) = self.child.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        if !self.spoke.load(Ordering::Relaxed) {
            match thread::Builder::new().name("reaper".into()).spawn(move || end_silent(&mut child)) {
                Ok(reaper) => ENDING.lock().unwrap_or_else(PoisonError::into_inner).push(reaper),
                Err(error) => log::warn!("nobody ends the remote command: {error}"),
            }
            return;
        }
        let reaper = thread::Builder::new().name("reaper".into()).spawn(move || {
            let group = Pid::from_child(&child);
            let (ended, end) = channel();
            let waiter = thread::spawn(move || {
                let status = child.wait();
                let _ = ended.send(());
                status
            });
            for signal in [Signal::TERM, Signal::KILL] {
                if let Err(RecvTimeoutError::Timeout) = end.recv_timeout(GRACE) {
                    // Not reaped yet, so the number is still its own.
                    let _ = kill_process_group(group, signal);
                }
            }
            match waiter.join() {
                Ok(Ok(status)) if !status.success() => log::warn!("the remote command has ended with {status}"),
                Ok(Err(error)) => log::warn!("waiting for the remote command: {error}"),
                _ => {}
            }
        });
        if let Err(error) = reaper {
            log::warn!("nobody waits for the remote command: {error}");
        }
    }
}

/// Ends a command and its whole process group. The group's number is its own for as long as the command was not reaped.
fn end_silent(child: &mut Child) {
    let pid = Pid::from_child(child);
    // It may have ended, and its children not.
    let _ = kill_process_group(pid, Signal::TERM);
    let (ended, end) = channel();
    let waiter = thread::spawn(move || {
        let _ = ended.send(waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT));
    });
    let _ = end.recv_timeout(GRACE);
    let _ = kill_process_group(pid, Signal::KILL);
    let _ = waiter.join();
    if let Err(error) = child.wait() {
        log::warn!("waiting for the remote command: {error}");
    }
}

impl LinkReader {
    /// Has `cancel` call reading off, and nothing else.
    #[must_use]
    pub fn with_cancel(mut self, cancel: Cancel) -> Self {
        self.cancel = cancel;
        self
    }

    /// A look at this end, for somebody else.
    pub fn probe(&self) -> Probe {
        Probe { fd: Arc::clone(&self.fd), heard: Arc::clone(&self.heard) }
    }
}

impl Probe {
    /// Whether bytes wait to be read.
    pub fn has_input(&self) -> bool {
        ready(self.fd.as_fd(), PollFlags::IN)
    }

    /// Waits until bytes, or the end, can be read; false when `span` was over first, or cut short by a signal.
    ///
    /// # Errors
    /// The system's.
    pub fn wait(&self, span: Duration) -> io::Result<bool> {
        wait_readable(self.fd.as_fd(), span)
    }

    /// How long ago bytes were read; since the connection was made, if none were.
    pub fn silence(&self) -> Duration {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}

impl Read for LinkReader {
    /// Waits for bytes, the end, or to be called off ([`is_cancelled`]).
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            match rustix::io::read(&*self.fd, &mut *bytes) {
                Ok(got) if self.cancel.is_cancelled() && got == 0 => return Err(cancelled()),
                Ok(got) => {
                    if got > 0 {
                        if let Behind::Command(running) = &self.behind {
                            running.spoke.store(true, Ordering::Relaxed);
                        }
                        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
                    }
                    return Ok(got);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    if !self.cancel.wait(self.fd.as_fd(), PollFlags::IN)? {
                        return Err(cancelled());
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl LinkWriter {
    /// Writes all of it, waiting for room.
    ///
    /// # Errors
    /// The connection's; called off ([`is_cancelled`]). Nobody knows how much was written then.
    pub fn write_all_vectored(&mut self, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        let fd = self.fd.as_ref().ok_or(ErrorKind::BrokenPipe)?;
        let mut rest = parts;
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            let now = rest.len().min(MAX_PARTS);
            match rustix::io::writev(fd, rest.get(..now).unwrap_or_default()) {
                Ok(written) => IoSlice::advance_slices(&mut rest, written),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    if !self.cancel.wait(fd.as_fd(), PollFlags::OUT)? {
                        return Err(cancelled());
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Says that nothing more will be written. What was written arrives.
    pub fn shutdown(&mut self) {
        if let Some(fd) = self.fd.take()
            && self.socket
        {
            // The other end may be gone already.
            let _ = shutdown(&fd, Shutdown::Write);
        }
    }
}

/// Most parts of one call: Linux's `UIO_MAXIOV`.
const MAX_PARTS: usize = 1024;

/// An inherited descriptor as one of our own.
fn inherited(fd: RawFd, read: bool) -> io::Result<OwnedFd> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("descriptor {fd}: {error}"));
    let path = format!("/proc/self/fd/{fd}");
    match OpenOptions::new().read(read).write(!read).open(&path) {
        Ok(file) => Ok(file.into()),
        // A socket cannot be opened by name.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) => {
            duplicate(fd).map_err(named)
        }
        Err(error) => Err(named(error)),
    }
}

fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    // By way of the kernel's own list, for a number is no descriptor until somebody vouches for it.
    let this = rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty())?;
    Ok(rustix::process::pidfd_getfd(&this, fd, rustix::process::PidfdGetfdFlags::empty())?)
}

#[cfg(test)]
mod tests;
