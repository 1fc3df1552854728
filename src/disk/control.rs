//! A daemon's own socket: one JSON object a line, both ways, for the engine, the receiver and the operator.
#![forbid(unsafe_code)]

use super::Mark;
use super::error::{Error, Result, io};
use crate::transport::{Address, Cancel, Link, Listener};
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::fs::DirBuilder;
use std::io::{BufRead, BufReader, IoSlice, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// Most octets of a line.
const MAX_LINE: u64 = 64 << 10;
/// How long an answer may take that waits for nothing but a disk.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a daemon can be asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// How it is.
    Status,
    /// Primary: a protection begins.
    Begin {
        /// The engine's session.
        session: u64,
    },
    /// Primary: wait until the copy is complete, at most so long; the answer has how much of it is.
    Synced {
        /// Milliseconds, at most a minute.
        timeout_ms: u64,
    },
    /// Primary: what the guest was answered until now belongs to this checkpoint. The answer has the number to wait for.
    Close {
        /// The checkpoint.
        mark: Mark,
        /// How many disks of the domain are told so.
        disks: u32,
    },
    /// Primary: wait until the keeper has it.
    Wait {
        /// The number.
        seq: u64,
    },
    /// Primary: the protection has ended.
    Leave,
    /// Primary: the keeper is there.
    To {
        /// Its address.
        address: String,
    },
    /// Keeper: the checkpoint was acknowledged. The answer has how many disks it is of.
    Commit {
        /// The checkpoint.
        mark: Mark,
    },
    /// Keeper: serve the disk as it was at this checkpoint; at the newest that was committed, where none is named.
    Promote {
        /// The checkpoint.
        mark: Option<Mark>,
    },
}

/// The answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// Whether it was done.
    pub ok: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// To [`Request::Close`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// To [`Request::Commit`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disks: Option<u32>,
    /// To [`Request::Synced`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<u64>,
    /// To [`Request::Status`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
}

/// What a daemon is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// It serves the guest's disk.
    #[default]
    Primary,
    /// It keeps a copy.
    Keeper,
}

/// How a daemon is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The guest's device.
    pub device: String,
    /// What it is.
    pub role: Role,
    /// The image.
    pub image: String,
    /// Its octets.
    pub size: u64,
    /// Where NBD is served, or would be.
    pub socket: String,
    /// Primary: the keeper's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// Whether the other side is connected.
    pub connected: bool,
    /// Primary: how much of the keeper's copy is complete. Keeper: 100 where a copy is.
    pub percent: u64,
    /// `alone`, `syncing`, `following`, `keeping`, `incomplete`.
    pub phase: String,
    /// Octets that wait to be sent (primary), or are kept apart (keeper).
    pub waiting: u64,
    /// The newest checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<Mark>,
    /// Keeper: the newest that was committed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub committed: Option<Mark>,
    /// Why the other side is not connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

impl Reply {
    /// Done.
    pub fn done() -> Self {
        Reply { ok: true, ..Reply::default() }
    }
}

impl<T> From<Result<T>> for Reply
where
    Reply: From<T>,
{
    fn from(result: Result<T>) -> Self {
        match result {
            Ok(value) => value.into(),
            Err(error) => Reply { error: Some(error.to_string()), ..Reply::default() },
        }
    }
}

impl From<()> for Reply {
    fn from((): ()) -> Self {
        Reply::done()
    }
}

/// Where the daemons of this host's disks are: `disks` beside the control sockets of the domains.
///
/// # Errors
/// There is no such folder.
pub fn folder() -> Result<PathBuf> {
    let beside = crate::control::default_path("disks").map_err(io("the folder of control sockets"))?;
    Ok(beside.with_file_name("disks"))
}

/// The file name of a device: letters, digits, `.`, `_` and `-` as they are, all else by its number.
pub fn file_name(device: &str) -> String {
    let mut name = String::new();
    for octet in device.trim_start_matches('/').bytes() {
        match octet {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' => name.push(octet.into()),
            b'.' if !name.is_empty() => name.push('.'),
            _ => {
                // Writing to a string cannot fail.
                let _ = write!(name, "%{octet:02x}");
            }
        }
    }
    name
}

/// Where the daemon of a device listens.
///
/// # Errors
/// As [`folder`].
pub fn path(device: &str) -> Result<PathBuf> {
    Ok(folder()?.join(format!("{}.sock", file_name(device))))
}

/// Answers requests.
pub(super) type Handler = Arc<dyn Fn(Request) -> Reply + Send + Sync>;

/// Answers there, on threads that end with the process.
pub(super) fn serve(device: &str, handler: Handler) -> Result<()> {
    let path = path(device)?;
    DirBuilder::new().recursive(true).mode(0o700).create(folder()?).map_err(io(path.display()))?;
    let listener = Listener::bind(&Address::Unix(path.clone())).map_err(io(path.display()))?;
    let never = Cancel::new().map_err(io(path.display()))?;
    let spawned = thread::Builder::new().name("disk-control".into()).spawn(move || {
        loop {
            let link = match listener.accept(&never) {
                Ok((link, _)) => link,
                Err(error) => return log::error!("{}: {error}", path.display()),
            };
            let handler = Arc::clone(&handler);
            let spawned = thread::Builder::new().name("disk-asker".into()).spawn(move || {
                if let Err(error) = converse(link, &handler) {
                    log::debug!("a control connection: {error}");
                }
            });
            if let Err(error) = spawned {
                log::warn!("no thread for a control connection: {error}");
            }
        }
    });
    spawned.map(drop).map_err(io("a thread"))
}

fn converse(link: Link, handler: &Handler) -> std::io::Result<()> {
    let (reader, mut writer) = link.split();
    let mut reader = BufReader::new(reader);
    while let Some(line) = line(&mut reader)? {
        let reply = match serde_json::from_slice(&line) {
            Ok(request) => handler(request),
            Err(error) => Reply { error: Some(error.to_string()), ..Reply::default() },
        };
        let mut text = serde_json::to_vec(&reply)?;
        text.push(b'\n');
        writer.write_all_vectored(&mut [IoSlice::new(&text)])?;
    }
    Ok(())
}

fn line(reader: &mut impl BufRead) -> std::io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)?;
    match line.pop() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(line)),
        Some(_) => Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "a line without an end")),
    }
}

/// A conversation with a daemon.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    device: String,
}

impl Client {
    /// Calls the daemon of a device; `None` where there is none.
    ///
    /// # Errors
    /// The system's.
    pub fn call(device: &str) -> Result<Option<Self>> {
        let path = path(device)?;
        let stream = match UnixStream::connect(&path) {
            Err(error)
                if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused) =>
            {
                return Ok(None);
            }
            stream => stream.map_err(io(path.display()))?,
        };
        stream.set_read_timeout(Some(PATIENCE)).map_err(io(path.display()))?;
        Ok(Some(Client { stream: BufReader::new(stream), device: device.to_owned() }))
    }

    /// Has answers take longer.
    ///
    /// # Errors
    /// The system's.
    pub fn be_patient(&self, patience: Duration) -> Result<()> {
        self.stream.get_ref().set_read_timeout(Some(patience)).map_err(io(&self.device))
    }

    /// Asks for something, and waits for the answer, at most a minute unless [`Client::be_patient`] says otherwise.
    ///
    /// # Errors
    /// It was not done, for what reason the daemon gives; the daemon is gone.
    pub fn ask(&mut self, request: &Request) -> Result<Reply> {
        let named = |error| io(format_args!("the daemon of {}", self.device))(error);
        let mut text = serde_json::to_vec(request).map_err(|error| named(error.into()))?;
        text.push(b'\n');
        self.stream.get_mut().write_all(&text).map_err(named)?;
        let line =
            line(&mut self.stream).map_err(named)?.ok_or_else(|| named(std::io::ErrorKind::UnexpectedEof.into()))?;
        let reply: Reply = serde_json::from_slice(&line).map_err(|error| named(error.into()))?;
        match reply.ok {
            true => Ok(reply),
            false => Err(Error::Told(format!("{}: {}", self.device, reply.error.unwrap_or_default()))),
        }
    }

    /// How the daemon is.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub fn status(&mut self) -> Result<Status> {
        let reply = self.ask(&Request::Status)?;
        reply.status.ok_or_else(|| Error::Told(format!("{}: no status", self.device)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_device_has_a_name_of_its_own() {
        assert_eq!(file_name("/dev/nbd0"), "dev%2fnbd0");
        assert_eq!(file_name("nbd:unix:/run/a.b"), "nbd%3aunix%3a%2frun%2fa.b");
        assert_ne!(file_name("a/b"), file_name("a-b"));
        assert_eq!(file_name(".."), "%2e.");
        assert!(!file_name("../x").contains('/'));
    }

    #[test]
    fn requests_are_what_they_are_and_nothing_else_is_taken() {
        for (text, request) in [
            (r#"{"command":"status"}"#, Request::Status),
            (r#"{"command":"wait","seq":7}"#, Request::Wait { seq: 7 }),
            (r#"{"command":"promote","mark":null}"#, Request::Promote { mark: None }),
            (
                r#"{"command":"commit","mark":{"session":18446744073709551615,"checkpoint":3}}"#,
                Request::Commit { mark: Mark { session: u64::MAX, checkpoint: 3 } },
            ),
        ] {
            assert_eq!(serde_json::from_str::<Request>(text).unwrap(), request);
            assert_eq!(serde_json::to_string(&request).unwrap(), text);
        }
        for text in ["{}", r#"{"command":"reboot"}"#, r#"{"command":"wait"}"#, r#"{"command":"wait","seq":1,"x":2}"#] {
            assert!(serde_json::from_str::<Request>(text).is_err(), "{text}");
        }
        assert!(line(&mut &b"no end"[..]).is_err());
        assert_eq!(line(&mut &b""[..]).unwrap(), None);
        assert!(line(&mut &vec![b'x'; 1 << 20][..]).is_err());
    }
}
