//! Sees a session: records it, follows it, tells it.
#![forbid(unsafe_code)]

use super::event::Event;
use super::recording::{Direction, Entry, Form, Recorder};
use super::session::Session;
use std::fs::File;
use std::io;
use std::time::{Duration, Instant};

/// What looks on. Nothing that happens to it stops a session: a recording that cannot be written ends, and says so.
pub struct Watch {
    /// The session so far.
    pub session: Session,
    recorder: Option<Recorder<File>>,
    start: Instant,
    tell: Box<dyn FnMut(&Event) + Send>,
    errors: u64,
}

impl Watch {
    /// Looks on from now; `tell` is given every event.
    ///
    /// # Errors
    /// The recording cannot be begun.
    pub fn new(form: Form, record: Option<File>, tell: Box<dyn FnMut(&Event) + Send>) -> io::Result<Self> {
        let recorder = record.map(|file| Recorder::new(file, form)).transpose()?;
        Ok(Watch { session: Session::new(form), recorder, start: Instant::now(), tell, errors: 0 })
    }

    /// Events that broke the protocol.
    pub const fn errors(&self) -> u64 {
        self.errors
    }

    fn record(&mut self, direction: Direction, end: bool, at: Duration, octets: &[u8]) {
        if let Some(recorder) = &mut self.recorder
            && let Err(error) = recorder.write(Entry { direction, end, at }, octets)
        {
            log::error!("the recording ends here: {error}");
            self.recorder = None;
        }
    }

    /// Takes octets that are about to be passed on.
    pub fn octets(&mut self, direction: Direction, octets: &[u8]) {
        let at = self.start.elapsed();
        self.record(direction, false, at, octets);
        for event in self.session.feed(direction, octets, at) {
            self.told(&event);
        }
    }

    /// Takes the end of a direction.
    pub fn end(&mut self, direction: Direction) {
        let at = self.start.elapsed();
        self.record(direction, true, at, &[]);
        if let Some(event) = self.session.end(direction, at) {
            self.told(&event);
        }
    }

    /// Says that nothing more is to be read from the primary ([`Session::close_image`]).
    pub fn silence(&mut self) {
        if let Some(event) = self.session.close_image(self.start.elapsed()) {
            self.told(&event);
        }
    }

    fn told(&mut self, event: &Event) {
        self.errors += u64::from(event.what.is_error());
        (self.tell)(event);
    }
}
