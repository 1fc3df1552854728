//! A daemon's own socket: one JSON object a line, both ways, for the engine, the receiver and the operator.
#![forbid(unsafe_code)]

use super::Mark;
use super::error::{Error, Result, io};
use crate::control::client::Lines;
use crate::control::server::Asked;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

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
    /// Its bytes.
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
    /// Bytes that wait to be sent (primary), or are kept apart (keeper).
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
            Err(error) => Request::refusal(error.to_string()),
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
    for byte in device.trim_start_matches('/').bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' => name.push(byte.into()),
            b'.' if !name.is_empty() => name.push('.'),
            _ => {
                // Writing to a string cannot fail.
                let _ = write!(name, "%{byte:02x}");
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

impl Asked for Request {
    type Reply = Reply;

    fn parse(line: &[u8]) -> std::result::Result<Self, String> {
        serde_json::from_slice(line).map_err(|error| error.to_string())
    }

    fn refusal(text: String) -> Reply {
        Reply { error: Some(text), ..Reply::default() }
    }
}

/// A conversation with a daemon.
#[derive(Debug)]
pub struct Client {
    lines: Lines,
    device: String,
}

impl Client {
    /// Of a daemon whose socket is there.
    #[cfg(test)]
    pub(super) fn at(path: &std::path::Path, device: &str) -> Self {
        Client { lines: Lines::connect(path).unwrap(), device: device.into() }
    }

    /// Calls the daemon of a device; `None` where there is none.
    ///
    /// # Errors
    /// The socket is another user's; the system's.
    pub fn call(device: &str) -> Result<Option<Self>> {
        let path = path(device)?;
        match Lines::connect(&path) {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => Ok(None),
            lines => {
                let client = Client { lines: lines.map_err(io(path.display()))?, device: device.to_owned() };
                client.be_patient(PATIENCE)?;
                Ok(Some(client))
            }
        }
    }

    /// Has answers take longer.
    ///
    /// # Errors
    /// The system's.
    pub fn be_patient(&self, patience: Duration) -> Result<()> {
        self.lines.set_timeout(patience).map_err(io(&self.device))
    }

    /// Asks for something, and waits for the answer, at most a minute unless [`Client::be_patient`] says otherwise.
    ///
    /// # Errors
    /// It was not done, for what reason the daemon gives; the daemon is gone.
    pub fn ask(&mut self, request: &Request) -> Result<Reply> {
        let named = |error| io(format_args!("the daemon of {}", self.device))(error);
        let reply: Reply = self.lines.ask(request).map_err(named)?;
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
    use crate::control::Server;
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::UnixListener;
    use std::sync::Arc;
    use std::thread;

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
    }

    #[test]
    fn an_answer_without_end_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let endless = vec![b'x'; (1 << 20) + 1];
        for (said, kind) in [
            (&b"no end"[..], ErrorKind::UnexpectedEof),
            (&b""[..], ErrorKind::UnexpectedEof),
            (&endless, ErrorKind::InvalidData),
        ] {
            let mut client = Client { lines: Lines::connect(&path).unwrap(), device: "/dev/nbd0".into() };
            let (mut server, _) = listener.accept().unwrap();
            let saying = thread::spawn({
                let said = said.to_vec();
                move || {
                    // What is asked is taken first, or the end would be a reset.
                    BufReader::new(&server).read_until(b'\n', &mut Vec::new()).unwrap();
                    let _ = server.write_all(&said);
                }
            });
            let error = client.ask(&Request::Status).unwrap_err();
            assert!(matches!(&error, Error::Io { source, .. } if source.kind() == kind), "{error}");
            drop(client);
            saying.join().unwrap();
        }
    }

    #[test]
    fn a_request_without_end_of_sense_is_refused_and_the_socket_is_ours_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disks/a.sock");
        let _server = Server::answer(&path, Arc::new(|_: Request| Reply::done())).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(std::fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
        let mut lines = Lines::connect(&path).unwrap();
        assert!(lines.ask::<Reply>(&Request::Status).unwrap().ok);
        let refused: Reply = lines.ask(&"nonsense").unwrap();
        assert!(!refused.ok && refused.error.is_some());
        let refused: Reply = lines.ask(&"x".repeat(1 << 20)).unwrap();
        assert!(refused.error.unwrap().contains("a line of more than"));
    }
}
