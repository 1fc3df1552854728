//! The end that answers.

use super::place::Place;
use super::{MAX_REQUEST, Reply, Request};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use serde::Serialize;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

/// What the clients of a socket ask for. The server knows no more of it than this.
pub trait Asked: Sized + 'static {
    /// The answer.
    type Reply: Serialize;

    /// Reads a request from its line.
    ///
    /// # Errors
    /// In words what is wrong with it.
    fn parse(line: &[u8]) -> Result<Self, String>;

    /// The answer to what cannot be done, for this reason.
    fn refusal(text: String) -> Self::Reply;

    /// Where this stands for a request at each interval until the client is gone: that request, and the interval.
    fn watched(&self) -> Option<(fn() -> Self, Duration)> {
        None
    }
}

impl Asked for Request {
    type Reply = Reply;

    fn parse(line: &[u8]) -> Result<Self, String> {
        Request::parse(line).map_err(|error| error.to_string())
    }

    fn refusal(text: String) -> Reply {
        Reply::error(text)
    }

    fn watched(&self) -> Option<(fn() -> Self, Duration)> {
        let Request::Watch { interval_ms } = self else { return None };
        Some((|| Request::Status, Duration::from_millis(interval_ms.unwrap_or(Request::WATCH_DEFAULT))))
    }
}

/// Answers a request; never given one that is watched ([`Request::Watch`]), which the server makes of many.
///
/// Called on the threads of the connections, by several at once. An operator's should be quick: begin what takes time, and let the
/// status tell the rest. A command should have reached its machine before it returns, so that a status asked for after it
/// shows its effect.
pub type Handler<R = Request> = Arc<dyn Fn(R) -> <R as Asked>::Reply + Send + Sync>;

/// Most connections at a time. Further ones are told so and closed.
pub const MAX_CONNECTIONS: usize = 16;
/// How long a client may leave its replies unread before it is disconnected.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a dropped server waits for a handler that is at work.
const HANDLER_PATIENCE: Duration = Duration::from_secs(2);

/// A control socket and its threads: one that accepts, and one for each connection.
///
/// Dropping it gives each watching client one last status, ends the threads and removes the socket. No client can hold that
/// up. A handler at work is waited for, for two seconds at most; then its thread is left to end by itself.
#[derive(Debug)]
pub struct Server {
    /// Its end wakes every thread.
    wake: Option<OwnedFd>,
    acceptor: Option<JoinHandle<()>>,
    open: Arc<Open>,
    _place: Place,
}

impl Server {
    /// Listens at `path`: a socket of mode 0600, in a folder that is made with 0700 if it is missing. A socket that nobody
    /// listens on any more is replaced.
    ///
    /// # Errors
    /// [`ErrorKind::AddrInUse`] when another server answers there, [`ErrorKind::AlreadyExists`] when something else than a
    /// socket is there, [`ErrorKind::PermissionDenied`] when another user could replace the socket; the system's.
    pub fn bind(path: &Path, handler: Handler) -> io::Result<Server> {
        Self::answer(path, handler)
    }

    /// The same for whatever is asked for there.
    ///
    /// # Errors
    /// As [`Server::bind`].
    pub fn answer<R: Asked>(path: &Path, handler: Handler<R>) -> io::Result<Server> {
        let (listener, place) = Place::bind(path)?;
        listener.set_nonblocking(true)?;
        let (ended, wake) = pipe_with(PipeFlags::CLOEXEC)?;
        let open = Arc::new(Open::default());
        let acceptor = Acceptor { listener, ended: Arc::new(ended), handler, open: open.clone() };
        let acceptor = Builder::new().name("control".into()).spawn(move || acceptor.run())?;
        Ok(Server { wake: Some(wake), acceptor: Some(acceptor), open, _place: place })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.wake.take());
        if let Some(acceptor) = self.acceptor.take() {
            // A panic of its has been told already.
            let _ = acceptor.join();
        }
        if !self.open.wait_for_none(HANDLER_PATIENCE) {
            log::warn!("a control command is still at work");
        }
    }
}

/// How many connections there are.
#[derive(Debug, Default)]
struct Open {
    count: Mutex<usize>,
    closed: Condvar,
}

impl Open {
    fn take(self: &Arc<Self>) -> Option<Slot> {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        if *count == MAX_CONNECTIONS {
            return None;
        }
        *count += 1;
        Some(Slot(self.clone()))
    }

    fn wait_for_none(&self, at_most: Duration) -> bool {
        let count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, _) =
            self.closed.wait_timeout_while(count, at_most, |count| *count > 0).unwrap_or_else(PoisonError::into_inner);
        *count == 0
    }
}

/// One of the connections that there may be.
#[derive(Debug)]
struct Slot(Arc<Open>);

impl Drop for Slot {
    fn drop(&mut self) {
        *self.0.count.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.closed.notify_all();
    }
}

struct Acceptor<R: Asked> {
    listener: UnixListener,
    ended: Arc<OwnedFd>,
    handler: Handler<R>,
    open: Arc<Open>,
}

impl<R: Asked> Acceptor<R> {
    fn run(self) {
        while let Ok(Woken::Ready) = wait(&self.listener, PollFlags::IN, &self.ended, None) {
            match self.listener.accept() {
                Ok((stream, _)) => self.serve(stream),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => {
                    // No more file descriptors, most likely, and the client keeps waiting at the door.
                    log::warn!("control socket: {error}");
                    if !matches!(pause(&self.ended, Duration::from_millis(100)), Ok(Woken::TimedOut)) {
                        return;
                    }
                }
            }
        }
    }

    fn serve(&self, stream: UnixStream) {
        if let Err(error) = stream.set_nonblocking(true) {
            log::warn!("control connection: {error}");
            return;
        }
        let slot = self.open.take();
        let mut connection = Connection { stream, ended: self.ended.clone(), unread: Vec::new() };
        let Some(slot) = slot else {
            // The socket's buffer is empty, so nothing waits here; a client that is gone already does not mind.
            let _ = connection.send(&R::refusal(format!("{MAX_CONNECTIONS} connections are open already")));
            return;
        };
        let handler = self.handler.clone();
        let served = Builder::new().name("control-client".into()).spawn(move || {
            let slot = slot;
            if let Err(error) = connection.run(&handler) {
                log::debug!("control connection: {error}");
            }
            drop((connection, handler));
            drop(slot);
        });
        if let Err(error) = served {
            log::warn!("no thread for a control connection: {error}");
        }
    }
}

struct Connection {
    stream: UnixStream,
    ended: Arc<OwnedFd>,
    /// Bytes received, of a line that is not whole, or behind it.
    unread: Vec<u8>,
}

/// What the next line is.
enum Line {
    Whole(Vec<u8>),
    TooLong,
    /// The client, or the server, has ended.
    End,
}

impl Connection {
    fn run<R: Asked>(&mut self, handler: &Handler<R>) -> io::Result<()> {
        loop {
            let line = match self.line()? {
                Line::Whole(line) => line,
                Line::TooLong => {
                    return self.send(&R::refusal(format!("a line of more than {MAX_REQUEST} bytes")));
                }
                Line::End => return Ok(()),
            };
            let reply = match R::parse(&line) {
                Ok(request) => match request.watched() {
                    Some((each, interval)) => return self.watch(interval, || handler(each())),
                    None => handler(request),
                },
                Err(text) => R::refusal(text),
            };
            self.send(&reply)?;
        }
    }

    /// The next line without its end. The last one may lack the end.
    fn line(&mut self) -> io::Result<Line> {
        let mut searched = 0;
        loop {
            let fresh = self.unread.get(searched..).unwrap_or_default();
            if let Some(end) = fresh.iter().position(|&byte| byte == b'\n') {
                let rest = self.unread.split_off(searched + end + 1);
                let mut line = std::mem::replace(&mut self.unread, rest);
                line.pop();
                return Ok(if line.len() > MAX_REQUEST { Line::TooLong } else { Line::Whole(line) });
            }
            searched = self.unread.len();
            if searched > MAX_REQUEST {
                return Ok(Line::TooLong);
            }
            if wait(&self.stream, PollFlags::IN, &self.ended, None)? != Woken::Ready {
                return Ok(Line::End);
            }
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(0) if self.unread.is_empty() => return Ok(Line::End),
                Ok(0) => return Ok(Line::Whole(std::mem::take(&mut self.unread))),
                Ok(n) => self.unread.extend_from_slice(bytes.get(..n).unwrap_or_default()),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// An answer at each interval until the client is gone. One that has merely closed its sending direction is not.
    fn watch<A: Serialize>(&mut self, interval: Duration, answer: impl Fn() -> A) -> io::Result<()> {
        let mut due = Instant::now();
        loop {
            self.send(&answer())?;
            // Where telling takes longer than the interval, the next is due an interval after it.
            due = (due + interval).max(Instant::now());
            match wait(&self.stream, PollFlags::empty(), &self.ended, Some(due))? {
                Woken::TimedOut => {}
                Woken::Ready => return Ok(()),
                Woken::Ended => return self.send(&answer()),
            }
        }
    }

    fn send(&mut self, reply: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(reply)?;
        line.push(b'\n');
        let give_up = Instant::now() + PATIENCE;
        let mut left = line.as_slice();
        while !left.is_empty() {
            match self.stream.write(left) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(n) => left = left.get(n..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    match wait(&self.stream, PollFlags::OUT, &self.ended, Some(give_up))? {
                        Woken::Ready => {}
                        Woken::TimedOut => return Err(io::Error::new(ErrorKind::TimedOut, "replies are left unread")),
                        Woken::Ended => return Err(ErrorKind::Interrupted.into()),
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Why a wait is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Woken {
    /// What was waited for, or the other end is gone.
    Ready,
    /// The deadline.
    TimedOut,
    /// The server ends.
    Ended,
}

/// Waits for one of `events`, or for the peer's end. That the server ends goes before all else.
fn wait(fd: &impl AsFd, events: PollFlags, ended: &OwnedFd, deadline: Option<Instant>) -> io::Result<Woken> {
    poll_both([PollFd::new(ended, PollFlags::IN), PollFd::new(fd, events)], deadline)
}

fn pause(ended: &OwnedFd, span: Duration) -> io::Result<Woken> {
    poll_both([PollFd::new(ended, PollFlags::IN)], Some(Instant::now() + span))
}

/// The first one is the server's end.
fn poll_both<const N: usize>(mut fds: [PollFd<'_>; N], deadline: Option<Instant>) -> io::Result<Woken> {
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        // Intervals are at most minutes: the conversion cannot fail.
        let left = left.map(|left| Timespec::try_from(left).unwrap_or_default());
        match poll(&mut fds, left.as_ref()) {
            Ok(0) => return Ok(Woken::TimedOut),
            Ok(_) if fds.first().is_some_and(|fd| !fd.revents().is_empty()) => return Ok(Woken::Ended),
            Ok(_) => return Ok(Woken::Ready),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
