//! In the place of the primary: a recorded session, played once more.
//!
//! The primary's bytes are sent as they were recorded; where the recording has an answer, the same answer is waited for. Only
//! whole rounds are played: up to the last state that the recorded secondary had loaded. The connection then stays open until
//! the other side closes it, as after `x-colo-lost-heartbeat`.
#![forbid(unsafe_code)]

use super::recording::{Direction, Entry, Form, ReadError, Reader};
use super::{CHUNK, Session, Watch};
use crate::transport::{Link, LinkWriter};
use std::io::{self, IoSlice, Read};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
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

/// What of a recording is played.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Entries up to the last whole round.
    entries: u64,
    /// The main connection, and all in order of their first bytes.
    main: u16,
    connections: Vec<u16>,
}

/// Finds the last whole round. A recording that was cut is good up to there.
///
/// # Errors
/// [`ReplayError::Form`], [`ReplayError::Nothing`], and the system's.
pub fn plan<R: Read>(reader: &mut Reader<R>) -> Result<Plan, ReplayError> {
    if reader.form() == Form::Libxl {
        return Err(ReplayError::Form);
    }
    let mut session = Session::new(reader.form());
    let (mut entries, mut whole, mut connections) = (0, 0, Vec::new());
    loop {
        match reader.next_entry() {
            Ok(Some((entry, bytes))) => {
                entries += 1;
                session.feed_on(entry.connection, entry.direction, bytes, entry.at);
                if entry.direction == Direction::Forward && !connections.contains(&entry.connection) {
                    connections.push(entry.connection);
                }
                if entry.direction == Direction::Back && !entry.end && session.between_rounds() {
                    whole = entries;
                }
            }
            Ok(None) | Err(ReadError::Cut { .. } | ReadError::Entry { .. }) => break,
            Err(error) => return Err(error.into()),
        }
    }
    match session.main() {
        Some(main) if whole > 0 => Ok(Plan { entries: whole, main, connections }),
        _ => Err(ReplayError::Nothing),
    }
}

/// What the threads of a replay share.
struct Shared<'a> {
    plan: &'a Plan,
    watch: Mutex<&'a mut Watch>,
    /// How many entries of answers have come, or that no more will.
    answered: Mutex<Option<u64>>,
    more: Condvar,
}

/// Opens the recording again, at its beginning.
pub type Open<'a, R> = &'a (dyn Fn() -> Result<Reader<R>, ReplayError> + Sync);

/// Plays what was planned, and waits for the other side to close. `connect` makes a connection; `played` is called when all is played.
///
/// Every connection is opened in the order of the recording, and the first bytes of each sent at once: by those QEMU tells them apart, and it
/// does so one after the other. Then each goes on by itself; nobody sends what the recording has after an answer before that answer came.
///
/// # Errors
/// [`ReplayError`].
pub fn replay<R: Read + Send>(
    open: Open<'_, R>,
    plan: &Plan,
    connect: &dyn Fn() -> io::Result<Link>,
    watch: &mut Watch,
    played: &mut dyn FnMut(&Session),
) -> Result<(), ReplayError> {
    let shared = Shared { plan, watch: Mutex::new(watch), answered: Mutex::new(Some(0)), more: Condvar::new() };
    let (mut answers, mut writers) = (None, Vec::new());
    for connection in &plan.connections {
        let (reader, mut to) = connect()?.split();
        let mut source = Entries { reader: open()?, left: plan.entries, answers: 0 };
        let first = source.next(*connection)?;
        let rest = match &first {
            Some((_, bytes)) => {
                let head = bytes.get(..FIRST.min(bytes.len())).unwrap_or_default();
                shared.send(*connection, &mut to, head)?;
                bytes.get(head.len()..).unwrap_or_default().to_vec()
            }
            None => Vec::new(),
        };
        if *connection == plan.main {
            answers = Some(reader);
        }
        writers.push((*connection, to, source, rest));
    }
    let Some(mut answers) = answers else { return Err(ReplayError::Nothing) };
    let (held, result) = thread::scope(|scope| {
        let (mut main, mut threads) = (None, Vec::new());
        for (connection, to, source, rest) in writers {
            if connection == plan.main {
                main = Some((to, source, rest));
            } else {
                let shared = &shared;
                threads.push(scope.spawn(move || shared.channel(connection, to, source, &rest)));
            }
        }
        let result =
            main.map_or(Err(ReplayError::Nothing), |(to, source, rest)| shared.main(&mut answers, to, source, &rest));
        if !matches!(result, Ok((_, true))) {
            *shared.lock() = None;
            shared.more.notify_all();
        }
        // Nothing is closed before the end.
        let mut held = Vec::new();
        let mut result = result.map(|(to, whole)| {
            held.push(to);
            whole
        });
        for thread in threads {
            match thread.join() {
                Ok(Ok(to)) => held.push(to),
                Ok(Err(error)) => result = result.and(Err(error)),
                Err(_) => result = Err(io::Error::other("a thread of the replay has panicked").into()),
            }
        }
        (held, result)
    });
    if result? {
        played(&shared.watch().session);
    }
    let until = shared.until_closed(&mut answers);
    drop(held);
    until
}

/// Bytes of each connection that are sent before any is gone on with.
const FIRST: usize = 64;

/// A recording's entries that are played.
struct Entries<R> {
    reader: Reader<R>,
    left: u64,
    /// Answers passed.
    answers: u64,
}

/// An entry of a connection: how many answers stand in front of it, and its bytes.
type Found = (u64, Vec<u8>);

impl<R: Read> Entries<R> {
    /// The next bytes of the primary's on a connection.
    fn next(&mut self, connection: u16) -> Result<Option<Found>, ReplayError> {
        loop {
            match self.any()? {
                Some((entry, bytes)) if entry.direction == Direction::Forward && entry.connection == connection => {
                    return Ok(Some((self.answers, bytes)));
                }
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }

    /// The next entry with bytes.
    fn any(&mut self) -> Result<Option<(Entry, Vec<u8>)>, ReplayError> {
        while self.left > 0 {
            self.left -= 1;
            let Some((entry, bytes)) = self.reader.next_entry()? else { return Ok(None) };
            if bytes.is_empty() {
                continue;
            }
            self.answers += u64::from(entry.direction == Direction::Back);
            return Ok(Some((entry, bytes.to_vec())));
        }
        Ok(None)
    }
}

impl<'a> Shared<'a> {
    fn watch(&self) -> MutexGuard<'_, &'a mut Watch> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Option<u64>> {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends; false when it was cut.
    fn send(&self, connection: u16, to: &mut LinkWriter, bytes: &[u8]) -> Result<bool, ReplayError> {
        let passes = self.watch().bytes(connection, Direction::Forward, bytes);
        to.write_all_vectored(&mut [IoSlice::new(bytes.get(..passes).unwrap_or_default())])
            .map_err(|error| lost(error, &self.watch().session))?;
        if passes < bytes.len() {
            self.watch().dropped(Direction::Forward);
        }
        Ok(passes == bytes.len())
    }

    /// Plays a channel; gives its writer, which stays open.
    fn channel<R: Read>(
        &self,
        connection: u16,
        mut to: LinkWriter,
        mut source: Entries<R>,
        rest: &[u8],
    ) -> Result<LinkWriter, ReplayError> {
        let mut whole = self.send(connection, &mut to, rest)?;
        while let Some((answers, bytes)) = source.next(connection)?.filter(|_| whole) {
            let mut answered = self.lock();
            while answered.is_some_and(|answered| answered < answers) {
                answered = self.more.wait(answered).unwrap_or_else(PoisonError::into_inner);
            }
            if answered.is_none() {
                break;
            }
            drop(answered);
            whole = self.send(connection, &mut to, &bytes)?;
        }
        Ok(to)
    }

    /// Plays the main connection; gives its writer, and whether nothing was cut.
    fn main<R: Read>(
        &self,
        answers: &mut impl Read,
        mut to: LinkWriter,
        mut source: Entries<R>,
        rest: &[u8],
    ) -> Result<(LinkWriter, bool), ReplayError> {
        let main = self.plan.main;
        if !self.send(main, &mut to, rest)? {
            return Ok((to, false));
        }
        // Answers that the recording has in front of the rest of its first entry: none.
        while let Some((entry, bytes)) = source.any()? {
            match entry.direction {
                Direction::Forward if entry.connection != main => {}
                Direction::Forward => {
                    if !self.send(main, &mut to, &bytes)? {
                        return Ok((to, false));
                    }
                }
                Direction::Back => {
                    self.answer(answers, bytes)?;
                    *self.lock() = Some(source.answers);
                    self.more.notify_all();
                }
            }
        }
        Ok((to, true))
    }

    fn answer(&self, answers: &mut impl Read, recorded: Vec<u8>) -> Result<(), ReplayError> {
        let (offset, due) = {
            let watch = self.watch();
            (watch.session.bytes(Direction::Back), watch.session.due())
        };
        let mut got = vec![0; recorded.len()];
        answers.read_exact(&mut got).map_err(|error| lost(error, &self.watch().session))?;
        self.watch().bytes(self.plan.main, Direction::Back, &got);
        if got == recorded { Ok(()) } else { Err(ReplayError::Answer { due, offset, got, recorded }) }
    }

    fn until_closed(&self, answers: &mut impl Read) -> Result<(), ReplayError> {
        let mut rest = vec![0; CHUNK];
        loop {
            match answers.read(&mut rest) {
                Ok(0) => break,
                Ok(got) => {
                    let bytes = rest.get(..got).unwrap_or_default();
                    self.watch().bytes(self.plan.main, Direction::Back, bytes);
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break,
                Err(error) => return Err(error.into()),
            }
        }
        self.watch().end(self.plan.main, Direction::Back);
        Ok(())
    }
}

/// What an error of the connection means.
fn lost(error: io::Error, session: &Session) -> ReplayError {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    match error.kind() {
        UnexpectedEof | BrokenPipe | ConnectionReset => ReplayError::Gone {
            due: session.due(),
            sent: session.bytes(Direction::Forward),
            offset: session.bytes(Direction::Back),
        },
        _ => error.into(),
    }
}
