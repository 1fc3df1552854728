//! In the place of the secondary.
#![forbid(unsafe_code)]

use super::recording::{Direction, Form};
use super::{CHUNK, Watch};
use crate::colo::dialect::{Dialect, Layout, Message, Point};
use crate::colo::wire;
use crate::transport::Link;
use std::io::{self, IoSlice, Read};

/// Answers a primary until it goes away, or until it sends what no secondary can take: then the connection is closed, and the
/// primary goes on by itself.
///
/// # Errors
/// The connection's. [`Form::FrameV8`] and [`Form::Libxl`] are refused: nothing in a v8 checkpoint tells its end before the
/// answer, and a libxl secondary is `receive --colo`.
pub fn answer(link: Link, form: Form, mut watch: Watch) -> (Watch, io::Result<()>) {
    let result = answering(link, form, &mut watch);
    watch.end(Direction::Forward);
    watch.end(Direction::Back);
    (watch, result)
}

fn answering(link: Link, form: Form, watch: &mut Watch) -> io::Result<()> {
    if form != Form::Qemu {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "only QEMU's own dialect can be answered: use --forward",
        ));
    }
    let (mut from, mut to) = link.split();
    let probe = from.probe();
    let mut chunk = vec![0; CHUNK];
    loop {
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
        while let Some(octets) = watch.session.answer_due().and_then(message) {
            // Seen before it is sent, as what is passed on.
            let passes = watch.octets(Direction::Back, &octets);
            to.write_all_vectored(&mut [IoSlice::new(octets.get(..passes).unwrap_or_default())])?;
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

fn message(point: Point) -> Option<wire::Octets> {
    let message = match point {
        Point::Ready => Message::Ready,
        Point::Suspended => Message::Suspended,
        Point::Received => Message::Received,
        Point::Loaded => Message::Loaded,
        _ => return None,
    };
    wire::encode(Dialect::Qemu(Layout::Live), message)
}
