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

    fn record(&mut self, direction: Direction, end: bool, at: Duration, octets: &[u8]) {
        if let Some(recorder) = &mut self.recorder
            && let Err(error) = recorder.write(Entry { direction, end, at }, octets)
        {
            log::error!("the recording ends here: {error}");
            self.recorder = None;
        }
    }

    /// Takes octets that are about to be passed on. Gives how many of them may be: all, unless the direction is cut.
    pub fn octets(&mut self, direction: Direction, octets: &[u8]) -> usize {
        let offset = self.session.octets(direction);
        let at = self.start.elapsed();
        self.record(direction, false, at, octets);
        for event in self.session.feed(direction, octets, at) {
            self.told(&event);
        }
        self.cut.as_ref().map_or(octets.len(), |cut| cut.passes(direction, offset, octets.len()))
    }

    /// Says that what may pass has been passed on, and the rest was dropped.
    pub fn dropped(&mut self, direction: Direction) {
        if !std::mem::replace(&mut self.is_cut, true) {
            let (offset, at) = (self.session.octets(direction), self.start.elapsed());
            self.told(&Event { direction, at, since: Duration::ZERO, offset, octets: 0, what: What::Cut });
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

    /// Says that nothing more is to be read from the primary ([`Session::close_image`], [`Session::close_state`]).
    pub fn silence(&mut self) {
        let at = self.start.elapsed();
        if let Some(event) = self.session.close_image(at).or_else(|| self.session.close_state(at)) {
            self.told(&event);
        }
    }

    /// Says that the primary has been silent for so long where it has to go on.
    pub fn silent(&mut self, span: Duration) {
        let event = self.session.silent(self.start.elapsed(), span);
        self.told(&event);
    }

    fn told(&mut self, event: &Event) {
        self.errors += u64::from(event.what.is_error());
        if let Some(cut) = &mut self.cut {
            cut.see(event);
        }
        (self.tell)(event);
    }
}
