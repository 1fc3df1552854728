//! In the place of the secondary.
#![forbid(unsafe_code)]

use super::connections::{Shared, run};
use super::recording::{Direction, Form};
use super::{CHUNK, Watch};
use crate::colo::dialect::{Dialect, Message, Point};
use crate::colo::wire;
use crate::transport::{LinkReader, LinkWriter, Listener, is_cancelled};
use std::io::{self, Read};
use std::time::Duration;

/// Answers a primary until it goes away, or until it sends what no secondary can take: then all connections are closed, and the
/// primary goes on by itself. Where the primary owes bytes, of an image or of a checkpoint, it may be silent for `patience`.
///
/// # Errors
/// The connections'. [`Form::Libxl`] is refused: that secondary is `receive --colo`.
pub fn answer(listener: Listener, form: Form, patience: Duration, watch: Watch) -> (Watch, io::Result<()>) {
    let Some(dialect) = form.dialect() else {
        let text = "libxl's secondary is xen-replicate receive --colo";
        return (watch, Err(io::Error::new(io::ErrorKind::InvalidInput, text)));
    };
    let silent = |watch: &mut Watch| {
        let owes = watch.session.primary_owes() && watch.session.bytes(Direction::Forward) > 0;
        if owes {
            watch.silent(patience);
        }
        owes
    };
    run(listener, watch, patience, silent, |scope, shared, connection, link, cancel| {
        let (from, to) = link.split();
        shared.begins(connection, vec![cancel]);
        scope.spawn(move || {
            let served = serve(shared, dialect, connection, from, to);
            let mut watch = shared.watch();
            watch.end(connection, Direction::Forward);
            if watch.session.is_main(connection) {
                watch.end(connection, Direction::Back);
            }
            drop(watch);
            if let Err(error) = served {
                shared.fails(error);
            }
            shared.ends(connection, Direction::Forward);
            shared.ends(connection, Direction::Back);
        });
        Ok(())
    })
}

fn serve(shared: &Shared, dialect: Dialect, connection: u16, mut from: LinkReader, to: LinkWriter) -> io::Result<()> {
    let probe = from.probe();
    shared.writes(connection, to);
    let mut chunk = vec![0; CHUNK];
    loop {
        let got = match from.read(&mut chunk) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset || is_cancelled(&error) => 0,
            other => other?,
        };
        if got == 0 {
            return Ok(());
        }
        let mut watch = shared.watch();
        if watch.bytes(connection, Direction::Forward, chunk.get(..got).unwrap_or_default()) < got {
            watch.dropped(Direction::Forward);
            drop(watch);
            return ignore(&mut from, &mut chunk);
        }
        if watch.session.is_main(connection) && !probe.has_input() {
            watch.close();
        }
        if watch.errors() > 0 {
            drop(watch);
            shared.cancel();
            return Ok(());
        }
        if !replies(shared, dialect, &mut watch)? {
            drop(watch);
            return ignore(&mut from, &mut chunk);
        }
    }
}

/// Sends all that is due; false when that was cut.
fn replies(shared: &Shared, dialect: Dialect, watch: &mut Watch) -> io::Result<bool> {
    while let Some((bytes, main)) = due(dialect, watch).zip(watch.session.main()) {
        // Seen before it is sent, as what is passed on.
        let passes = watch.bytes(main, Direction::Back, &bytes);
        match shared.write(main, bytes.get(..passes).unwrap_or_default()) {
            // It is gone: so says its direction, which may still hold what it sent last.
            Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {}
            Err(error) if is_cancelled(&error) => {}
            other => other?,
        }
        if passes < bytes.len() {
            watch.dropped(Direction::Back);
            return Ok(false);
        }
    }
    Ok(true)
}

/// What the primary waits for.
fn due(dialect: Dialect, watch: &Watch) -> Option<Vec<u8>> {
    let returned = watch.session.return_due();
    returned.or_else(|| watch.session.answer_due().and_then(|point| message(dialect, point)))
}

/// Stays, and says nothing.
fn ignore(from: &mut impl Read, chunk: &mut [u8]) -> io::Result<()> {
    loop {
        match from.read(chunk) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset || is_cancelled(&error) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

fn message(dialect: Dialect, point: Point) -> Option<Vec<u8>> {
    let message = match point {
        Point::Ready => Message::Ready,
        Point::Suspended => Message::Suspended,
        Point::Received => Message::Received,
        Point::Loaded => Message::Loaded,
        _ => return None,
    };
    Some(wire::encode(dialect, message)?.to_vec())
}
