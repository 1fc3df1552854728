//! Between a primary and its secondary.
//!
//! Two threads for each connection, one a direction, each with one buffer: what was read is seen first and then passed on, so the order in
//! which bytes are seen is an order in which the two ends can have sent them.
#![forbid(unsafe_code)]

use super::connections::{Shared, run};
use super::recording::Direction;
use super::{CHUNK, Watch};
use crate::transport::{Address, Cancel, Link, LinkReader, LinkWriter, Listener, connect, is_cancelled};
use std::io::{self, IoSlice, Read};
use std::thread::Scope;
use std::time::Duration;

/// Bytes of answers read at once: the longest is a dozen.
const ANSWERS: usize = 4 << 10;

/// Passes everything on, connection by connection, until both directions of the main one have ended. An end is passed on as an end; where
/// bytes cannot be passed on, both sides of that connection are closed. What neither side sends within `patience` is told.
///
/// # Errors
/// The secondary cannot be reached, or why a direction ended other than by its end.
pub fn pass(listener: Listener, to: &Address, patience: Duration, watch: Watch) -> (Watch, io::Result<()>) {
    let idle = |watch: &mut Watch| {
        watch.idle(patience);
        false
    };
    let (watch, result) = run(listener, watch, patience, idle, |scope, shared, connection, primary, cancel| {
        let ours = Cancel::new()?;
        let secondary = connect(to, &ours).map_err(|error| io::Error::new(error.kind(), format!("{to}: {error}")))?;
        serve(scope, shared, connection, (primary, secondary), [cancel, ours]);
        Ok(())
    });
    (watch, result)
}

fn serve<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    shared: &'env Shared,
    connection: u16,
    (primary, secondary): (Link, Link),
    cancels: [Cancel; 2],
) {
    let (requests, replies) = primary.split();
    let (answers, state) = secondary.split();
    shared.begins(connection, cancels.to_vec());
    let both = cancels.clone();
    scope.spawn(move || direction(shared, connection, Direction::Forward, (requests, state), &cancels));
    scope.spawn(move || direction(shared, connection, Direction::Back, (answers, replies), &both));
}

fn direction(
    shared: &Shared,
    connection: u16,
    direction: Direction,
    (mut from, mut to): (LinkReader, LinkWriter),
    cancels: &[Cancel],
) {
    let probe = from.probe();
    let mut chunk = vec![0; if direction == Direction::Forward { CHUNK } else { ANSWERS }];
    let result = loop {
        match from.read(&mut chunk) {
            Ok(0) => break Ok(()),
            Ok(got) => {
                let bytes = chunk.get(..got).unwrap_or_default();
                let passes = shared.watch().bytes(connection, direction, bytes);
                if let Err(error) = to.write_all_vectored(&mut [IoSlice::new(bytes.get(..passes).unwrap_or_default())])
                {
                    cancels.iter().for_each(Cancel::cancel);
                    break Err(error);
                }
                if passes < got {
                    shared.watch().dropped(direction);
                }
                if direction == Direction::Forward && !probe.has_input() {
                    shared.watch().close_image();
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => break Err(error),
        }
    };
    shared.watch().end(connection, direction);
    to.shutdown();
    shared.ends(connection, direction);
    match result {
        // The other direction says why; or it is how a killed process ends, and told as the end that it is.
        Err(error) if is_cancelled(&error) => {}
        Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => {}
        Err(error) => shared.fails(error),
        Ok(()) => {}
    }
}
