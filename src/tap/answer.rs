//! In the place of the secondary.
#![forbid(unsafe_code)]

use super::recording::{Direction, Form};
use super::{CHUNK, Watch};
use crate::colo::dialect::{Dialect, Message, Point};
use crate::colo::wire;
use crate::transport::Link;
use std::io::{self, IoSlice, Read};
use std::time::Duration;

/// Answers a primary until it goes away, or until it sends what no secondary can take: then the connection is closed, and the
/// primary goes on by itself. Where the primary owes octets, of an image or of a checkpoint, it may be silent for `patience`.
///
/// # Errors
/// The connection's. [`Form::Libxl`] is refused: that secondary is `receive --colo`.
pub fn answer(link: Link, form: Form, patience: Duration, mut watch: Watch) -> (Watch, io::Result<()>) {
    let result = match form.dialect() {
        Some(dialect) => answering(link, dialect, patience, &mut watch),
        None => Err(io::Error::new(io::ErrorKind::InvalidInput, "libxl's secondary is xen-replicate receive --colo")),
    };
    watch.end(Direction::Forward);
    watch.end(Direction::Back);
    (watch, result)
}

fn answering(link: Link, dialect: Dialect, patience: Duration, watch: &mut Watch) -> io::Result<()> {
    let (mut from, mut to) = link.split();
    let probe = from.probe();
    let mut chunk = vec![0; CHUNK];
    loop {
        if watch.session.primary_owes() && watch.session.octets(Direction::Forward) > 0 {
            while !probe.wait(patience.saturating_sub(probe.silence()))? {
                if probe.silence() >= patience {
                    watch.silent(patience);
                    return Ok(());
                }
            }
        }
        let got = match from.read(&mut chunk) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => 0,
            other => other?,
        };
        if got == 0 {
            return Ok(());
        }
        if watch.octets(Direction::Forward, chunk.get(..got).unwrap_or_default()) < got {
            watch.dropped(Direction::Forward);
            return ignore(&mut from, &mut chunk);
        }
        if !probe.has_input() {
            watch.silence();
        }
        if watch.errors() > 0 {
            return Ok(());
        }
        while let Some(octets) = watch.session.answer_due().and_then(|point| message(dialect, point)) {
            // Seen before it is sent, as what is passed on.
            let passes = watch.octets(Direction::Back, &octets);
            match to.write_all_vectored(&mut [IoSlice::new(octets.get(..passes).unwrap_or_default())]) {
                // It is gone: so says its direction, which may still hold what it sent last.
                Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {}
                other => other?,
            }
            if passes < octets.len() {
                watch.dropped(Direction::Back);
                return ignore(&mut from, &mut chunk);
            }
        }
    }
}

/// Stays, and says nothing.
fn ignore(from: &mut impl Read, chunk: &mut [u8]) -> io::Result<()> {
    loop {
        match from.read(chunk) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

fn message(dialect: Dialect, point: Point) -> Option<wire::Octets> {
    let message = match point {
        Point::Ready => Message::Ready,
        Point::Suspended => Message::Suspended,
        Point::Received => Message::Received,
        Point::Loaded => Message::Loaded,
        _ => return None,
    };
    wire::encode(dialect, message)
}
