//! `--watch`: a table on standard output that follows whoever is in charge of the domain.

use super::table::Live;
use crate::control::Request;
use crate::host::operator::Desk;
use std::io;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Between two looks.
const TURN: Duration = Duration::from_secs(1);

/// Ends the table when dropped.
#[derive(Debug)]
pub(super) struct Watching {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Starts a table.
pub(super) fn start(desk: &Desk) -> io::Result<Watching> {
    let desk = desk.clone();
    let (end, ended) = channel();
    let thread = thread::Builder::new().name("table".into()).spawn(move || {
        let mut table = Live::stdout();
        while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(TURN) {
            let shown = desk.request(Request::Status).status.map_or(Ok(()), |status| table.show(&status));
            // Nobody reads any more: the guest matters, the table does not.
            if shown.is_err() {
                return;
            }
        }
    })?;
    Ok(Watching { end: Some(end), thread: Some(thread) })
}

impl Drop for Watching {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // Should it have panicked, it has said so.
            let _ = thread.join();
        }
    }
}
