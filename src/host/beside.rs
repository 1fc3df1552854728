//! A receiver beside another process of this host that keeps a replica of the same domain since its side was denied: where a primary
//! starts its receiver itself, over ssh, the one of its last session may still be there.
//!
//! That process has the control socket, and answers for its replica. When the image of the new session is whole the replica is of no use any
//! more: that process is told to drop it, and its socket is taken over.

use super::operator::Desk;
use crate::control::status::Kept;
use crate::control::{Client, Request};
use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// How long the other process may take to end.
const FAREWELL: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_millis(50);

/// The replica that the process at a control socket keeps; none where it keeps none, or nobody is there.
pub fn kept_at(socket: &Path) -> Option<Kept> {
    Client::connect(socket).ok()?.request(&Request::Status).ok()?.status?.kept
}

/// Has the process at a control socket drop its replica, and opens the socket for this process' operator.
///
/// # Errors
/// It does not obey, or does not end: this process goes on without a control socket.
pub fn replace(socket: &Path, desk: &Desk) -> io::Result<()> {
    let reply = Client::connect(socket)?.request(&Request::Drop)?;
    if let Some(error) = reply.error {
        return Err(io::Error::other(error));
    }
    let end = Instant::now() + FAREWELL;
    loop {
        match desk.listen(socket) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < end => thread::sleep(AGAIN),
            listening => return listening,
        }
    }
}
