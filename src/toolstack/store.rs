//! xenstore, as a control domain's toolstack uses it.
//!
//! [`Store`] reads and writes keys by the interface of `xenstore-rs` ([`Xs`]), [`Session`] waits for changes and has transactions
//! besides. Both speak the protocol of Xen's public header `io/xs_wire.h` over a connection of their own: that of `xenstore-rs` waits
//! for an answer without bound, and has neither watches (without an async runtime) nor transactions nor RESUME. Here each request is
//! answered within [`ANSWER`], or fails. A connection that failed in the middle of a message is not used again: a store connects again
//! at its next request, and who has a session asks [`Session::is_broken`].
#![forbid(unsafe_code)]

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use xenstore_rs::Xs;

/// Where xenstored listens, unless the environment's `XENSTORED_PATH` says otherwise.
const SOCKET: &str = "/run/xenstored/socket";
/// Where it is reached when it runs in a domain of its own.
const DEVICE: &str = "/dev/xen/xenbus";
/// Most bytes of a message's payload (`XENSTORE_PAYLOAD_MAX`).
const PAYLOAD: usize = 4096;
/// How long xenstored may take for an answer.
pub const ANSWER: Duration = Duration::from_secs(10);

/// Where xenstored is, and how long it may take for an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Its socket; the device is tried where nobody listens there.
    pub socket: PathBuf,
    /// How long it may take.
    pub patience: Duration,
}

impl Default for Server {
    fn default() -> Self {
        let socket = std::env::var_os("XENSTORED_PATH").map_or_else(|| SOCKET.into(), PathBuf::from);
        Server { socket, patience: ANSWER }
    }
}

/// Keys and values.
#[derive(Debug)]
pub struct Store {
    server: Server,
    session: Mutex<Option<Session>>,
}

impl Store {
    /// Connects to this host's.
    ///
    /// # Errors
    /// No xenstored answers here.
    pub fn open() -> io::Result<Self> {
        Store::at(Server::default())
    }

    /// Connects to the one that is there.
    ///
    /// # Errors
    /// No xenstored answers there.
    pub fn at(server: Server) -> io::Result<Self> {
        let session = Session::at(&server)?;
        Ok(Store { server, session: Mutex::new(Some(session)) })
    }

    /// Where it is.
    pub const fn server(&self) -> &Server {
        &self.server
    }

    /// The value at a path; `None` where there is none.
    ///
    /// # Errors
    /// xenstored's.
    pub fn get(&self, path: &str) -> io::Result<Option<String>> {
        Ok(absent(self.read(path))?.map(String::from))
    }

    /// The names below a path; none where there is no such path.
    ///
    /// # Errors
    /// xenstored's.
    pub fn list(&self, path: &str) -> io::Result<Vec<String>> {
        Ok(absent(self.directory(path))?.unwrap_or_default().into_iter().map(String::from).collect())
    }

    /// Sets a value.
    ///
    /// # Errors
    /// xenstored's.
    pub fn set(&self, path: &str, value: &str) -> io::Result<()> {
        self.write(path, value)
    }

    /// Removes a path with all below it. No error where there is none.
    ///
    /// # Errors
    /// xenstored's.
    pub fn remove(&self, path: &str) -> io::Result<()> {
        absent(self.rm(path)).map(drop)
    }

    fn with<T>(&self, request: impl FnOnce(&mut Session) -> io::Result<T>) -> io::Result<T> {
        let mut slot = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let session = match &mut *slot {
            Some(session) if !session.is_broken() => session,
            slot => slot.insert(Session::at(&self.server)?),
        };
        request(session)
    }
}

impl Xs for Store {
    fn directory(&self, path: &str) -> io::Result<Vec<Box<str>>> {
        Ok(self.with(|session| session.names(path))?.into_iter().map(String::into_boxed_str).collect())
    }

    fn read(&self, path: &str) -> io::Result<Box<str>> {
        self.with(|session| session.value(path)).map(String::into_boxed_str)
    }

    fn write(&self, path: &str, data: &str) -> io::Result<()> {
        self.with(|session| session.request(message::WRITE, 0, &[path, data], false).map(drop))
    }

    fn rm(&self, path: &str) -> io::Result<()> {
        self.with(|session| session.request(message::RM, 0, &[path], true).map(drop))
    }
}

fn absent<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Types of messages (`enum xsd_sockmsg_type`).
mod message {
    pub const DIRECTORY: u32 = 1;
    pub const READ: u32 = 2;
    pub const WATCH: u32 = 4;
    pub const UNWATCH: u32 = 5;
    pub const TRANSACTION_START: u32 = 6;
    pub const TRANSACTION_END: u32 = 7;
    pub const WRITE: u32 = 11;
    pub const RM: u32 = 13;
    pub const WATCH_EVENT: u32 = 15;
    pub const ERROR: u32 = 16;
    pub const RESUME: u32 = 18;
}

#[derive(Debug)]
enum Wire {
    Socket(UnixStream),
    Device(File),
}

impl Wire {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Wire::Socket(stream) => stream.write_all(bytes),
            Wire::Device(file) => file.write_all(bytes),
        }
    }

    fn read_exact(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        match self {
            Wire::Socket(stream) => stream.read_exact(bytes),
            Wire::Device(file) => file.read_exact(bytes),
        }
    }

    /// Waits until there is something to read; false at the deadline.
    fn readable(&self, deadline: Instant) -> io::Result<bool> {
        wait(&mut [PollFd::new(self, PollFlags::IN)], deadline)
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Wire::Socket(stream) => stream.as_fd(),
            Wire::Device(file) => file.as_fd(),
        }
    }
}

/// Waits until one of the descriptors is ready; false at the deadline.
fn wait(fds: &mut [PollFd<'_>], deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        match poll(fds, Some(&left)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// A connection that waits for changes.
#[derive(Debug)]
pub struct Session {
    wire: Wire,
    requests: u32,
    /// Tokens of events that came while an answer was waited for.
    events: VecDeque<String>,
    patience: Duration,
    /// The connection failed in the middle of something.
    broken: bool,
}

impl Session {
    /// Connects to this host's.
    ///
    /// # Errors
    /// No xenstored answers here.
    pub fn open() -> io::Result<Self> {
        Session::at(&Server::default())
    }

    /// Connects to the one that is there.
    ///
    /// # Errors
    /// No xenstored answers there.
    pub fn at(server: &Server) -> io::Result<Self> {
        let wire = match UnixStream::connect(&server.socket) {
            Ok(stream) => {
                // What is readable may be half a message, and a full socket takes nothing.
                stream.set_read_timeout(Some(server.patience))?;
                stream.set_write_timeout(Some(server.patience))?;
                Wire::Socket(stream)
            }
            Err(error) => {
                let device = OpenOptions::new().read(true).write(true).open(DEVICE);
                let named = |_| io::Error::new(error.kind(), format!("{}: {error}", server.socket.display()));
                Wire::Device(device.map_err(named)?)
            }
        };
        Ok(Session::on(wire, server.patience))
    }

    /// Over a connection that is there.
    pub fn over(socket: OwnedFd) -> Self {
        Session::on(Wire::Socket(socket.into()), ANSWER)
    }

    const fn on(wire: Wire, patience: Duration) -> Self {
        Session { wire, requests: 0, events: VecDeque::new(), patience, broken: false }
    }

    /// Whether the connection is of no use any more: it failed in the middle of a message.
    pub const fn is_broken(&self) -> bool {
        self.broken
    }

    /// Has changes at or below `path` told under `token`, of which the first comes at once.
    ///
    /// # Errors
    /// xenstored's.
    pub fn watch(&mut self, path: &str, token: &str) -> io::Result<()> {
        self.request(message::WATCH, 0, &[path, token], true).map(drop)
    }

    /// Ends that.
    ///
    /// # Errors
    /// xenstored's.
    pub fn unwatch(&mut self, path: &str, token: &str) -> io::Result<()> {
        self.request(message::UNWATCH, 0, &[path, token], true).map(drop)
    }

    /// The token of the next change; `None` at the deadline.
    ///
    /// # Errors
    /// The connection's.
    pub fn next_event(&mut self, deadline: Instant) -> io::Result<Option<String>> {
        loop {
            if let Some(token) = self.events.pop_front() {
                return Ok(Some(token));
            }
            if !self.wire.readable(deadline)? {
                return Ok(None);
            }
            let (kind, _, payload) = self.receive()?;
            if kind == message::WATCH_EVENT {
                self.keep(&payload);
            }
        }
    }

    /// Waits until there has been a change, or there is something to read from `other`; false at the deadline. All changes are taken.
    ///
    /// # Errors
    /// The connection's.
    pub fn changes_or(&mut self, other: &impl AsFd, deadline: Instant) -> io::Result<bool> {
        if self.events.is_empty() {
            let mut fds = [PollFd::new(&self.wire, PollFlags::IN), PollFd::new(other, PollFlags::IN)];
            if !wait(&mut fds, deadline)? {
                return Ok(false);
            }
        }
        while self.next_event(Instant::now())?.is_some() {}
        Ok(true)
    }

    /// The value at a path; `None` where there is none.
    ///
    /// # Errors
    /// xenstored's.
    pub fn get(&mut self, path: &str) -> io::Result<Option<String>> {
        absent(self.value(path))
    }

    fn value(&mut self, path: &str) -> io::Result<String> {
        Ok(text(&self.request(message::READ, 0, &[path], true)?))
    }

    /// The names below a path; none where there is no such path.
    ///
    /// # Errors
    /// xenstored's.
    pub fn list(&mut self, path: &str) -> io::Result<Vec<String>> {
        Ok(absent(self.names(path))?.unwrap_or_default())
    }

    fn names(&mut self, path: &str) -> io::Result<Vec<String>> {
        let names = self.request(message::DIRECTORY, 0, &[path], true)?;
        Ok(names.split(|&byte| byte == 0).filter(|name| !name.is_empty()).map(text).collect())
    }

    /// Tells xenstored that a domain that was shut down lives on, so that its next end is told again (`@releaseDomain`).
    ///
    /// # Errors
    /// xenstored's.
    pub fn resumed(&mut self, domid: u32) -> io::Result<()> {
        self.request(message::RESUME, 0, &[&domid.to_string()], true).map(drop)
    }

    /// Writes `to` at `path` if the value there is `from`, in one transaction. Gives whether it did.
    ///
    /// # Errors
    /// xenstored's.
    pub fn exchange(&mut self, path: &str, from: &str, to: &str) -> io::Result<bool> {
        self.write_if(path, |now| now == from, to)
    }

    /// Writes `to` at `path` if there is such a path, in one transaction: a path that its owner has removed does not come back. Gives
    /// whether it did.
    ///
    /// # Errors
    /// xenstored's.
    pub fn replace(&mut self, path: &str, to: &str) -> io::Result<bool> {
        self.write_if(path, |_| true, to)
    }

    fn write_if(&mut self, path: &str, may: impl Fn(&str) -> bool, to: &str) -> io::Result<bool> {
        loop {
            let start = self.request(message::TRANSACTION_START, 0, &[""], true)?;
            let number = text(&start).parse().map_err(|_| io::Error::from(ErrorKind::InvalidData))?;
            let now = absent(self.request(message::READ, number, &[path], true))?;
            let writes = now.is_some_and(|now| may(&text(&now)));
            if writes {
                self.request(message::WRITE, number, &[path, to], false)?;
            }
            let end = if writes { "T" } else { "F" };
            match self.request(message::TRANSACTION_END, number, &[end], true) {
                Ok(_) => return Ok(writes),
                // Somebody else has written meanwhile.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn request(&mut self, kind: u32, transaction: u32, parts: &[&str], ended: bool) -> io::Result<Vec<u8>> {
        self.requests = self.requests.wrapping_add(1);
        let mut payload = parts.join("\0").into_bytes();
        if ended {
            payload.push(0);
        }
        let length = u32::try_from(payload.len()).ok().filter(|_| payload.len() <= PAYLOAD);
        let length = length.ok_or(ErrorKind::InvalidInput)?;
        let mut bytes: Vec<u8> =
            [kind, self.requests, transaction, length].iter().flat_map(|word| word.to_ne_bytes()).collect();
        bytes.append(&mut payload);
        self.wire.write_all(&bytes).inspect_err(|_| self.broken = true)?;
        let deadline = Instant::now() + self.patience;
        loop {
            if !self.wire.readable(deadline)? {
                // Its answer would be taken for the next request's.
                self.broken = true;
                let text = format!("xenstored has not answered for {:?}", self.patience);
                return Err(io::Error::new(ErrorKind::TimedOut, text));
            }
            let (found, request, payload) = self.receive()?;
            match found {
                message::WATCH_EVENT => self.keep(&payload),
                message::ERROR if request == self.requests => return Err(refusal(&text(&payload))),
                _ if found == kind && request == self.requests => return Ok(payload),
                _ => {
                    self.broken = true;
                    return Err(io::Error::new(ErrorKind::InvalidData, "xenstored answers what was not asked"));
                }
            }
        }
    }

    fn receive(&mut self) -> io::Result<(u32, u32, Vec<u8>)> {
        self.message().inspect_err(|_| self.broken = true)
    }

    fn message(&mut self) -> io::Result<(u32, u32, Vec<u8>)> {
        let mut header = [[0; 4]; 4];
        self.wire.read_exact(header.as_flattened_mut())?;
        let [kind, request, _, length] = header.map(u32::from_ne_bytes);
        let length = usize::try_from(length).ok().filter(|&length| length <= PAYLOAD).ok_or(ErrorKind::InvalidData)?;
        let mut payload = vec![0; length];
        self.wire.read_exact(&mut payload)?;
        Ok((kind, request, payload))
    }

    /// Of an event's path and token, the token.
    fn keep(&mut self, payload: &[u8]) {
        if let Some(token) = payload.split(|&byte| byte == 0).nth(1) {
            self.events.push_back(text(token));
        }
    }
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

/// xenstored's name of an error, as a kind.
fn refusal(name: &str) -> io::Error {
    let kind = match name {
        "ENOENT" => ErrorKind::NotFound,
        "EAGAIN" => ErrorKind::WouldBlock,
        "EACCES" | "EPERM" => ErrorKind::PermissionDenied,
        "EINVAL" => ErrorKind::InvalidInput,
        "EEXIST" => ErrorKind::AlreadyExists,
        _ => ErrorKind::Other,
    };
    io::Error::new(kind, format!("xenstored says {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    /// A message's type and payload.
    type Said = (u32, &'static [u8]);

    /// Answers by a script: each request's type and payload, and the messages that come for it.
    fn xenstored(script: Vec<(u32, &'static [u8], Vec<Said>)>) -> (Session, thread::JoinHandle<()>) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let server = thread::spawn(move || {
            for (kind, payload, answers) in script {
                let mut header = [[0; 4]; 4];
                theirs.read_exact(header.as_flattened_mut()).unwrap();
                let [found, request, transaction, length] = header.map(u32::from_ne_bytes);
                let mut body = vec![0; length as usize];
                theirs.read_exact(&mut body).unwrap();
                assert_eq!((found, &body[..]), (kind, payload));
                for (kind, payload) in answers {
                    let request = if kind == message::WATCH_EVENT { 0 } else { request };
                    for word in [kind, request, transaction, payload.len() as u32] {
                        theirs.write_all(&word.to_ne_bytes()).unwrap();
                    }
                    theirs.write_all(payload).unwrap();
                }
            }
        });
        (Session::over(ours.into()), server)
    }

    #[test]
    fn events_that_come_before_an_answer_are_kept() {
        let (mut session, server) = xenstored(vec![
            (4, b"@releaseDomain\0gone\0", vec![(15, b"@releaseDomain\0gone\0"), (4, b"OK\0")]),
            (18, b"7\0", vec![(15, b"/a\0other\0"), (18, b"OK\0")]),
        ]);
        session.watch("@releaseDomain", "gone").unwrap();
        session.resumed(7).unwrap();
        server.join().unwrap();
        let now = Instant::now();
        assert_eq!(session.next_event(now).unwrap().as_deref(), Some("gone"));
        assert_eq!(session.next_event(now).unwrap().as_deref(), Some("other"));
        assert!(session.next_event(now).is_err(), "the connection has ended");
    }

    #[test]
    fn nothing_to_tell_is_no_event() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        assert_eq!(Session::over(ours.into()).next_event(Instant::now()).unwrap(), None);
    }

    #[test]
    fn a_change_or_another_descriptor_ends_the_waiting() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut session = Session::over(ours.into());
        let (other, mut peer) = UnixStream::pair().unwrap();
        assert!(!session.changes_or(&other, Instant::now()).unwrap());
        for word in [message::WATCH_EVENT, 0, 0, 5] {
            theirs.write_all(&word.to_ne_bytes()).unwrap();
        }
        theirs.write_all(b"/a\0t\0").unwrap();
        let deadline = Instant::now() + ANSWER;
        assert!(session.changes_or(&other, deadline).unwrap());
        assert!(!session.changes_or(&other, Instant::now()).unwrap(), "it was taken");
        peer.write_all(b"!").unwrap();
        assert!(session.changes_or(&other, deadline).unwrap());
    }

    #[test]
    fn a_value_is_exchanged_only_while_it_is_the_expected_one() {
        let start = (6, &b"\0"[..], vec![(6, &b"12\0"[..])]);
        let (mut session, server) = xenstored(vec![
            start.clone(),
            (2, b"/p\0", vec![(2, b"suspend")]),
            (11, b"/p\0", vec![(11, b"OK\0")]),
            (7, b"T\0", vec![(16, b"EAGAIN\0")]),
            start,
            (2, b"/p\0", vec![(2, b"")]),
            (7, b"F\0", vec![(7, b"OK\0")]),
        ]);
        assert!(!session.exchange("/p", "suspend", "").unwrap());
        server.join().unwrap();
    }

    #[test]
    fn what_is_not_there_is_not_replaced() {
        let (mut session, server) = xenstored(vec![
            (6, b"\0", vec![(6, b"1\0")]),
            (2, b"/p\0", vec![(16, b"ENOENT\0")]),
            (7, b"F\0", vec![(7, b"OK\0")]),
            (6, b"\0", vec![(6, b"2\0")]),
            (2, b"/p\0", vec![(2, b"")]),
            (11, b"/p\0suspend", vec![(11, b"OK\0")]),
            (7, b"T\0", vec![(7, b"OK\0")]),
        ]);
        assert!(!session.replace("/p", "suspend").unwrap());
        assert!(session.replace("/p", "suspend").unwrap());
        server.join().unwrap();
    }

    #[test]
    fn refusals_and_garbage_are_errors() {
        let (mut session, server) =
            xenstored(vec![(18, b"1\0", vec![(16, b"EINVAL\0")]), (18, b"2\0", vec![(4, b"OK\0")])]);
        let refused = session.resumed(1).unwrap_err();
        assert!(refused.kind() == ErrorKind::InvalidInput && refused.to_string().contains("EINVAL"));
        assert_eq!(session.resumed(2).unwrap_err().kind(), ErrorKind::InvalidData);
        server.join().unwrap();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        for word in [15u32, 0, 0, 1 << 30] {
            theirs.write_all(&word.to_ne_bytes()).unwrap();
        }
        let error = Session::over(ours.into()).next_event(Instant::now() + ANSWER).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
    }
}
