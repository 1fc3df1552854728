//! The connections of a session as they come: one and its channels, until the main one is over.
#![forbid(unsafe_code)]

use super::recording::MOST_CONNECTION;
use super::{Direction, Watch};
use crate::transport::{Cancel, Link, LinkWriter, Listener, is_cancelled};
use std::io::{self, IoSlice};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, Scope};
use std::time::Duration;

/// Looks for silence so many times in the span that is allowed.
const LOOKS: u32 = 8;

/// What the threads of a session share.
pub(super) struct Shared {
    watch: Mutex<Watch>,
    ways: Mutex<Vec<Way>>,
    /// Calls off the listener and the look-out for silence.
    over: Cancel,
    /// The first error of a connection.
    failed: Mutex<Option<io::Error>>,
}

/// A connection's directions, and what calls them off.
struct Way {
    connection: u16,
    cancels: Vec<Cancel>,
    /// Where answers are written, where the tap is the secondary.
    writer: Option<LinkWriter>,
    /// Whether forward and back have ended.
    ended: [bool; 2],
}

impl Shared {
    fn new(watch: Watch, over: Cancel) -> Self {
        Shared { watch: Mutex::new(watch), ways: Mutex::default(), over, failed: Mutex::default() }
    }

    /// Takes why a connection ended other than by its end.
    pub(super) fn fails(&self, error: io::Error) {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    pub(super) fn watch(&self) -> MutexGuard<'_, Watch> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ways(&self) -> MutexGuard<'_, Vec<Way>> {
        self.ways.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begins(&self, connection: u16, cancels: Vec<Cancel>) {
        self.ways().push(Way { connection, cancels, writer: None, ended: [false, false] });
    }

    /// Keeps where a connection's answers are written.
    pub(super) fn writes(&self, connection: u16, writer: LinkWriter) {
        if let Some(way) = self.ways().iter_mut().find(|way| way.connection == connection) {
            way.writer = Some(writer);
        }
    }

    /// Writes an answer.
    pub(super) fn write(&self, connection: u16, bytes: &[u8]) -> io::Result<()> {
        let mut ways = self.ways();
        let writer = ways.iter_mut().find(|way| way.connection == connection).and_then(|way| way.writer.as_mut());
        writer.map_or(Ok(()), |writer| writer.write_all_vectored(&mut [IoSlice::new(bytes)]))
    }

    /// Ends every connection.
    pub(super) fn cancel(&self) {
        self.over.cancel();
        self.ways().iter().flat_map(|way| &way.cancels).for_each(Cancel::cancel);
    }

    /// Takes the end of a direction. Once the main connection is over, nothing else comes, and a channel that has no sender any more is
    /// closed: its secondary may keep it for as long as it lives.
    pub(super) fn ends(&self, connection: u16, direction: Direction) {
        // Always in this order: an answer is written by whoever holds the watch.
        let watch = self.watch();
        let main = |connection| watch.session.is_main(connection);
        let mut ways = self.ways();
        for way in ways.iter_mut().filter(|way| way.connection == connection) {
            // Nobody is there to be answered; closing it is what a primary sees of its secondary's end.
            way.writer = None;
            way.ended[usize::from(direction == Direction::Back)] = true;
        }
        let mains = ways.iter().filter(|way| main(way.connection)).map(|way| way.ended == [true, true]);
        let over = mains.reduce(|a, b| a && b).unwrap_or_else(|| ways.iter().all(|way| way.ended == [true, true]));
        if over {
            self.over.cancel();
            ways.iter().filter(|way| way.ended[0]).flat_map(|way| &way.cancels).for_each(Cancel::cancel);
        }
    }
}

/// Accepts connections until the session is over, each served by `serve` on threads of its own, which gives what calls it off.
///
/// # Errors
/// The listener's, and those of the first connection.
pub(super) fn accept<'scope, 'env: 'scope>(
    scope: &'scope Scope<'scope, 'env>,
    shared: &'env Shared,
    listener: Listener,
    serve: impl Fn(&'scope Scope<'scope, 'env>, u16, Link, Cancel) -> io::Result<()>,
) -> io::Result<()> {
    for connection in 0..=MOST_CONNECTION {
        match listener.accept(&shared.over) {
            Ok((link, cancel)) => match serve(scope, connection, link, cancel) {
                Err(error) if connection == 0 => return Err(error),
                // Its own connection is closed by that; what is missing then shows in the others.
                Err(error) => log::error!("connection {connection}: {error}"),
                Ok(()) => {}
            },
            Err(error) if is_cancelled(&error) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    log::warn!("{} connections: no more are taken", usize::from(MOST_CONNECTION) + 1);
    Ok(())
}

/// Looks for silence until the session is over.
pub(super) fn look_out(shared: &Shared, patience: Duration, silent: impl Fn(&mut Watch) -> bool) {
    let span = (patience / LOOKS).max(Duration::from_millis(1));
    while let Ok(false) = shared.over.wait_for(span) {
        let mut watch = shared.watch();
        if watch.silence() >= patience && silent(&mut watch) {
            drop(watch);
            return shared.cancel();
        }
    }
}

/// Runs what serves the connections of a session.
pub(super) fn run(
    listener: Listener,
    watch: Watch,
    patience: Duration,
    silent: impl Fn(&mut Watch) -> bool + Sync,
    serve: impl for<'scope, 'env> Fn(&'scope Scope<'scope, 'env>, &'env Shared, u16, Link, Cancel) -> io::Result<()>,
) -> (Watch, io::Result<()>) {
    let over = match Cancel::new() {
        Ok(over) => over,
        Err(error) => return (watch, Err(error)),
    };
    let shared = Shared::new(watch, over);
    let result = thread::scope(|scope| {
        scope.spawn(|| look_out(&shared, patience, &silent));
        let shared = &shared;
        let result = accept(scope, shared, listener, |scope, connection, link, cancel| {
            serve(scope, shared, connection, link, cancel)
        });
        if result.is_err() {
            shared.cancel();
        }
        result
    });
    let failed = shared.failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    (shared.watch.into_inner().unwrap_or_else(PoisonError::into_inner), result.and(failed.map_or(Ok(()), Err)))
}
