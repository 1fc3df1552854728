//! Between a primary and its secondary.
//!
//! Two threads, one a direction, each with one buffer: what was read is seen first and then passed on, so the order in which
//! octets are seen is an order in which the two ends can have sent them.
#![forbid(unsafe_code)]

use super::recording::Direction;
use super::{CHUNK, Watch};
use crate::transport::{Cancel, Link, LinkReader, LinkWriter, is_cancelled};
use std::io::{self, IoSlice, Read};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Passes everything on until both directions have ended. An end is passed on as an end; where octets cannot be passed on,
/// both connections are closed, `cancel` being what both links are called off by.
///
/// # Errors
/// Why a direction ended other than by its end.
pub fn pass(primary: Link, secondary: Link, cancels: &[Cancel], watch: Watch) -> (Watch, io::Result<()>) {
    let (requests, replies) = primary.split();
    let (answers, state) = secondary.split();
    let watch = Mutex::new(watch);
    let (forward, back) = thread::scope(|scope| {
        let forward = scope.spawn(|| direction(Direction::Forward, requests, state, &watch, cancels));
        let back = direction(Direction::Back, answers, replies, &watch, cancels);
        (forward.join().unwrap_or_else(|_| Err(io::Error::other("the forward thread has panicked"))), back)
    });
    (watch.into_inner().unwrap_or_else(PoisonError::into_inner), forward.and(back))
}

fn direction(
    direction: Direction,
    mut from: LinkReader,
    mut to: LinkWriter,
    watch: &Mutex<Watch>,
    cancels: &[Cancel],
) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    let see = || watch.lock().unwrap_or_else(PoisonError::into_inner);
    let result = loop {
        match from.read(&mut chunk) {
            Ok(0) => break Ok(()),
            Ok(got) => {
                let octets = chunk.get(..got).unwrap_or_default();
                let passes = see().octets(direction, octets);
                if let Err(error) = to.write_all_vectored(&mut [IoSlice::new(octets.get(..passes).unwrap_or_default())])
                {
                    cancels.iter().for_each(Cancel::cancel);
                    break Err(error);
                }
                if passes < got {
                    see().dropped(direction);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => break Err(error),
        }
    };
    see().end(direction);
    to.shutdown();
    match result {
        // The other direction says why.
        Err(error) if is_cancelled(&error) => Ok(()),
        // How a killed process ends; told as the end that it is.
        Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => Ok(()),
        other => other,
    }
}
