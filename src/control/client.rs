//! The end that asks.

use super::place::check_socket;
use super::{MAX_REPLY, Reply, Request, Status};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, BufRead, BufReader, Error, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A connection to a socket of JSON lines, whatever is asked for there.
#[derive(Debug)]
pub(crate) struct Lines {
    stream: BufReader<UnixStream>,
}

impl Lines {
    /// As [`Client::connect`], without a time-out.
    pub(crate) fn connect(path: &Path) -> io::Result<Self> {
        check_socket(path)?;
        Ok(Lines { stream: BufReader::new(UnixStream::connect(path)?) })
    }

    /// How long each line may take.
    pub(crate) fn set_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.stream.get_ref().set_read_timeout(Some(timeout))?;
        self.stream.get_ref().set_write_timeout(Some(timeout))
    }

    /// As [`Client::request`].
    pub(crate) fn ask<A: DeserializeOwned>(&mut self, request: &impl Serialize) -> io::Result<A> {
        self.send(request)?;
        self.reply()?.ok_or_else(|| Error::new(ErrorKind::UnexpectedEof, "the server has closed the connection"))
    }

    fn send(&mut self, request: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        match self.stream.get_mut().write_all(&line) {
            // The server may have said why it closes before it did.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            Err(error) => Err(timed_out(error)),
            Ok(()) => Ok(()),
        }
    }

    /// The next reply; none when the server has closed the connection.
    fn reply<A: DeserializeOwned>(&mut self) -> io::Result<Option<A>> {
        let mut line = Vec::new();
        let limit = MAX_REPLY as u64 + 1;
        match (&mut self.stream).take(limit).read_until(b'\n', &mut line) {
            Ok(_) => {}
            // It left with something of ours unread.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(None),
            Err(error) => return Err(timed_out(error)),
        }
        match line.strip_suffix(b"\n") {
            Some(line) => Ok(Some(serde_json::from_slice(line)?)),
            None if line.len() > MAX_REPLY => Err(Error::new(ErrorKind::InvalidData, "a reply of more than 1 MiB")),
            None => Ok(None),
        }
    }
}

/// A connection to a control socket.
#[derive(Debug)]
pub struct Client {
    lines: Lines,
}

impl Client {
    /// How long a server may take to answer, unless [`Client::set_timeout`] says otherwise.
    pub const TIMEOUT: Duration = Duration::from_secs(10);

    /// Connects. A socket that another user may have put there is refused, unless this process is root's.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] and [`ErrorKind::ConnectionRefused`] when no server is there,
    /// [`ErrorKind::PermissionDenied`] when it is another user's; the system's.
    pub fn connect(path: &Path) -> io::Result<Client> {
        let client = Client { lines: Lines::connect(path)? };
        client.set_timeout(Self::TIMEOUT)?;
        Ok(client)
    }

    /// How long each request, and each status that is watched for, may take.
    ///
    /// # Errors
    /// Zero is refused.
    pub fn set_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.lines.set_timeout(timeout)
    }

    /// Asks, and waits for the answer. That the server refuses is an answer.
    ///
    /// # Errors
    /// [`ErrorKind::UnexpectedEof`] when the server has ended, [`ErrorKind::TimedOut`] when it does not answer,
    /// [`ErrorKind::InvalidData`] when it answers nonsense; the system's.
    pub fn request(&mut self, request: &Request) -> io::Result<Reply> {
        self.lines.ask(request)
    }

    /// Watches. `interval_ms` is in milliseconds, within [`Request::WATCH_BOUNDS`], by default
    /// [`Request::WATCH_DEFAULT`].
    ///
    /// # Errors
    /// As for [`Client::request`].
    pub fn watch(mut self, interval_ms: Option<u64>) -> io::Result<Watch> {
        self.lines.send(&Request::Watch { interval_ms })?;
        Ok(Watch { client: self })
    }
}

/// What a watched server tells: a [`Status`] at each interval, until it ends. Nothing of use comes behind an error.
#[derive(Debug)]
pub struct Watch {
    client: Client,
}

impl Watch {
    /// How long the next status may take.
    ///
    /// # Errors
    /// Zero is refused.
    pub fn set_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.client.set_timeout(timeout)
    }
}

impl Iterator for Watch {
    type Item = io::Result<Status>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.client.lines.reply::<Reply>() {
            Ok(None) => None,
            Ok(Some(Reply { ok: true, status: Some(status), .. })) => Some(Ok(*status)),
            Ok(Some(reply)) => {
                Some(Err(Error::other(reply.error.unwrap_or_else(|| "a reply without a status".into()))))
            }
            Err(error) => Some(Err(error)),
        }
    }
}

fn timed_out(error: Error) -> Error {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Error::new(ErrorKind::TimedOut, "the server does not answer"),
        _ => error,
    }
}
