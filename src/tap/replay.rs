//! In the place of the primary: a recorded session, played once more.
//!
//! The primary's octets are sent as they were recorded; where the recording has an answer, the same answer is waited for. Only
//! whole rounds are played: up to the last state that the recorded secondary had loaded. The connection then stays open until
//! the other side closes it, as after `x-colo-lost-heartbeat`.
#![forbid(unsafe_code)]

use super::recording::{Direction, Form, ReadError, Reader};
use super::{CHUNK, Session, Watch};
use crate::transport::Link;
use std::io::{self, IoSlice, Read};
use thiserror::Error;

/// Why a replay ended early.
#[derive(Debug, Error)]
pub enum ReplayError {
    /// The recording.
    #[error(transparent)]
    Recording(#[from] ReadError),
    /// The connection.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A recording of libxl's records: `receive` takes those from a file.
    #[error("a recording of libxl's records is not replayed")]
    Form,
    /// No state in it that its secondary has loaded.
    #[error("no whole image in the recording")]
    Nothing,
    /// Another answer than the recorded one.
    #[error("answer at offset {offset}, where {due} is due: {got:02x?}, recorded is {recorded:02x?}")]
    Answer {
        /// The message that should have come.
        due: &'static str,
        /// In the secondary's direction.
        offset: u64,
        /// What came.
        got: Vec<u8>,
        /// What was recorded.
        recorded: Vec<u8>,
    },
    /// The secondary went away.
    #[error("the secondary went away; {due} is due, at offset {sent} of ours and {offset} of its answers")]
    Gone {
        /// The message that should have come next, of either side.
        due: &'static str,
        /// In the primary's direction.
        sent: u64,
        /// In the secondary's direction.
        offset: u64,
    },
}

/// Entries up to the last whole round. A recording that was cut is good up to there.
///
/// # Errors
/// [`ReplayError::Form`], [`ReplayError::Nothing`], and the system's.
pub fn whole_rounds<R: Read>(reader: &mut Reader<R>) -> Result<u64, ReplayError> {
    if reader.form() == Form::Libxl {
        return Err(ReplayError::Form);
    }
    let mut session = Session::new(reader.form());
    let (mut entries, mut whole) = (0, 0);
    loop {
        match reader.next_entry() {
            Ok(Some((entry, octets))) => {
                entries += 1;
                session.feed(entry.direction, octets, entry.at);
                if entry.direction == Direction::Back && !entry.end && session.between_rounds() {
                    whole = entries;
                }
            }
            Ok(None) | Err(ReadError::Cut { .. } | ReadError::Entry { .. }) => break,
            Err(error) => return Err(error.into()),
        }
    }
    if whole == 0 { Err(ReplayError::Nothing) } else { Ok(whole) }
}

/// Plays the first `entries` of a recording, and waits for the other side to close. `played` is called when all is played.
///
/// # Errors
/// [`ReplayError`].
pub fn replay<R: Read>(
    reader: &mut Reader<R>,
    entries: u64,
    link: Link,
    watch: &mut Watch,
    played: &mut dyn FnMut(&Session),
) -> Result<(), ReplayError> {
    let (mut answers, mut to) = link.split();
    for _ in 0..entries {
        let Some((entry, octets)) = reader.next_entry()? else { break };
        match entry.direction {
            Direction::Forward => {
                let passes = watch.octets(Direction::Forward, octets);
                to.write_all_vectored(&mut [IoSlice::new(octets.get(..passes).unwrap_or_default())])
                    .map_err(|error| lost(error, &watch.session))?;
                if passes < octets.len() {
                    watch.dropped(Direction::Forward);
                    return until_closed(&mut answers, watch);
                }
            }
            Direction::Back => {
                let (offset, due) = (watch.session.octets(Direction::Back), watch.session.due());
                let mut got = vec![0; octets.len()];
                answers.read_exact(&mut got).map_err(|error| lost(error, &watch.session))?;
                watch.octets(Direction::Back, &got);
                if got != octets {
                    return Err(ReplayError::Answer { due, offset, got, recorded: octets.to_vec() });
                }
            }
        }
    }
    played(&watch.session);
    until_closed(&mut answers, watch)
}

/// What an error of the connection means.
fn lost(error: io::Error, session: &Session) -> ReplayError {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    match error.kind() {
        UnexpectedEof | BrokenPipe | ConnectionReset => ReplayError::Gone {
            due: session.due(),
            sent: session.octets(Direction::Forward),
            offset: session.octets(Direction::Back),
        },
        _ => error.into(),
    }
}

fn until_closed(answers: &mut impl Read, watch: &mut Watch) -> Result<(), ReplayError> {
    let mut rest = vec![0; CHUNK];
    loop {
        match answers.read(&mut rest) {
            Ok(0) => break,
            Ok(got) => {
                watch.octets(Direction::Back, rest.get(..got).unwrap_or_default());
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break,
            Err(error) => return Err(error.into()),
        }
    }
    watch.end(Direction::Back);
    Ok(())
}
