//! Sees a session: records it, follows it, tells it.
#![forbid(unsafe_code)]

use super::cut::Cut;
use super::event::{Event, What};
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
    heard: Instant,
    tell: Box<dyn FnMut(&Event) + Send>,
    errors: u64,
    cut: Option<Cut>,
    /// Whether it was told.
    is_cut: bool,
}

impl Watch {
    /// Looks on from now; `tell` is given every event.
    ///
    /// # Errors
    /// The recording cannot be begun.
    pub fn new(form: Form, record: Option<File>, tell: Box<dyn FnMut(&Event) + Send>) -> io::Result<Self> {
        let recorder = record.map(|file| Recorder::new(file, form)).transpose()?;
        Ok(Watch {
            session: Session::new(form),
            recorder,
            start: Instant::now(),
            heard: Instant::now(),
            tell,
            errors: 0,
            cut: None,
            is_cut: false,
        })
    }

    /// Has a direction carry nothing any more from some place on.
    pub fn set_cut(&mut self, cut: Option<Cut>) {
        self.cut = cut;
    }

    /// Events that broke the protocol.
    pub const fn errors(&self) -> u64 {
        self.errors
    }

    /// How long ago anything came.
    pub fn silence(&self) -> Duration {
        self.heard.elapsed()
    }

    fn record(&mut self, entry: Entry, bytes: &[u8]) {
        if let Some(recorder) = &mut self.recorder
            && let Err(error) = recorder.write(entry, bytes)
        {
            log::error!("the recording ends here: {error}");
            self.recorder = None;
        }
    }

    /// Takes bytes of a connection that are about to be passed on. Gives how many of them may be: all, unless the direction is cut.
    pub fn bytes(&mut self, connection: u16, direction: Direction, bytes: &[u8]) -> usize {
        let offset = self.session.bytes_on(connection, direction);
        let at = self.start.elapsed();
        self.heard = Instant::now();
        self.record(Entry { connection, direction, end: false, at }, bytes);
        for event in self.session.feed_on(connection, direction, bytes, at) {
            self.told(&event);
        }
        let is_main = self.session.is_main(connection);
        let place = (!is_main).then_some(connection);
        self.cut.as_ref().map_or(bytes.len(), |cut| cut.passes(place, direction, offset, bytes.len()))
    }

    /// Says that what may pass has been passed on, and the rest was dropped.
    pub fn dropped(&mut self, direction: Direction) {
        if !std::mem::replace(&mut self.is_cut, true) {
            let (offset, at) = (self.session.bytes(direction), self.start.elapsed());
            let since = Duration::ZERO;
            self.told(&Event { direction, channel: None, at, since, offset, bytes: 0, what: What::Cut });
        }
    }

    /// Takes the end of a direction of a connection.
    pub fn end(&mut self, connection: u16, direction: Direction) {
        let at = self.start.elapsed();
        self.record(Entry { connection, direction, end: true, at }, &[]);
        for event in self.session.end_on(connection, direction, at) {
            self.told(&event);
        }
    }

    /// Says that nothing more is to be read from the primary: an image that is whole is told ([`Session::close_image`]).
    pub fn close_image(&mut self) {
        for event in self.session.close_image(self.start.elapsed()) {
            self.told(&event);
        }
    }

    /// As [`Watch::close_image`], and so is the state of a checkpoint ([`Session::close_state`]).
    pub fn close(&mut self) {
        self.close_image();
        if let Some(event) = self.session.close_state(self.start.elapsed()) {
            self.told(&event);
        }
    }

    /// Says that the primary has been silent for so long where it has to go on.
    pub fn silent(&mut self, span: Duration) {
        let event = self.session.silent(self.start.elapsed(), span);
        self.told(&event);
    }

    /// Says that both sides have been silent for so long ([`Session::idle`]).
    pub fn idle(&mut self, span: Duration) {
        if let Some(event) = self.session.idle(self.start.elapsed(), span) {
            self.told(&event);
        }
    }

    fn told(&mut self, event: &Event) {
        self.errors += u64::from(event.what.is_error());
        if let Some(cut) = &mut self.cut {
            cut.see(event);
        }
        (self.tell)(event);
    }
}
