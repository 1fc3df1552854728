//! What the primary's silence says: that an image or a state is whole, or that something is missing.
#![forbid(unsafe_code)]

use super::super::event::{Event, Out, Trouble, What};
use super::super::recording::Direction;
use super::{Forward, Session};
use crate::colo::dialect::Point;
use crate::decode::qemu_stream::Devices;
use std::time::Duration;

/// What a section's footer begins with, before the section's number.
const FOOTER: u8 = 0x7e;

impl Session {
    /// Says that the primary has been silent: nothing more is to be read, and nothing was answered. If its bytes end with the
    /// description of an image's devices, the image is whole, and is given.
    pub fn close_image(&mut self, at: Duration) -> Vec<Event> {
        let mut out = Out::new(at, self.last);
        // Cheap: the description's last brace.
        let ended = self.walker.devices().0.last() == Some(&b'}');
        if !matches!(self.forward, Forward::Image) || !ended || self.image(&mut out).is_err() {
            return Vec::new();
        }
        self.last = out.last;
        out.events
    }

    /// Says that the primary has been silent, as [`Session::close_image`], inside of a checkpoint of COLO-Frame v8. The state is
    /// whole, and is given, if its bytes are sections, each with its footer, up to the mark of the end: behind a footer only
    /// that mark is 0. Without footers nothing is given.
    pub fn close_state(&mut self, at: Duration) -> Option<Event> {
        let dialect = self.dialect?;
        if !matches!(self.forward, Forward::Open) || self.walker.footers() != Some(true) {
            return None;
        }
        let state = self.walker.devices().0;
        // Cheap: the mark of the end behind a footer.
        let [.., FOOTER, _, _, _, _, 0] = state else { return None };
        let devices = Devices::infer(state);
        let last = devices.sections.last()?;
        let footer = [[FOOTER].as_slice(), &last.id.to_be_bytes(), &[0]].concat();
        // Type, number, name with its length, instance and version stand in front of the data.
        let header = 14 + last.name.as_ref().map_or(0, String::len);
        let end = last.offset.checked_add(header)?.checked_add(last.size)?.checked_add(footer.len())?;
        if !devices.complete || end != state.len() || !state.ends_with(&footer) {
            return None;
        }
        let mut out = Out::new(at, self.last);
        self.open_end(dialect, &mut out).ok()?;
        self.last = out.last;
        out.events.pop()
    }

    /// Says that the primary has been silent for so long, where it has to go on by itself.
    pub fn silent(&mut self, at: Duration, span: Duration) -> Event {
        let mut out = Out::new(at, self.last);
        out.at_step(self.due(), self.forward.name());
        let offset = self.offsets[0];
        let trouble = match (&self.forward, self.channels.complete(self.flushes)) {
            (Forward::Message, Err(error)) => Trouble::Channel(error),
            _ => Trouble::Silent { offset, span },
        };
        let what = What::Trouble { message: trouble.to_string(), due: out.due, inside: out.inside };
        self.forward = Forward::Lost;
        let since = at.saturating_sub(self.last);
        Event { direction: Direction::Forward, channel: None, at, since, offset, bytes: 0, what }
    }

    /// Says that neither side has sent anything for so long, where the tap only looks on. What should have come is told, once until
    /// something comes.
    pub fn idle(&mut self, at: Duration, span: Duration) -> Option<Event> {
        let asked = self.walker.head().pings > self.pongs && self.return_path();
        let trouble = match (&self.forward, self.due) {
            _ if self.idle || self.dialect.is_none() || self.gone => return None,
            _ if asked => Trouble::Unanswered { span },
            (Forward::Message, Point::Ready | Point::Received) => match self.channels.complete(self.flushes) {
                Err(error) => error.into(),
                Ok(()) if self.due == Point::Ready && self.shut => Trouble::NoReady { span },
                Ok(()) => return None,
            },
            _ => return None,
        };
        self.idle = true;
        let mut out = Out::new(at, self.last);
        out.at_step(self.due(), self.forward.name());
        out.trouble(Direction::Forward, self.offsets[0], &trouble);
        self.last = out.last;
        out.events.pop()
    }

    /// What the end of the primary's direction says of the session so far, in front of that end.
    pub fn conclude(&mut self, at: Duration) -> Vec<Event> {
        let mut events = if self.one_way { Vec::new() } else { self.close_image(at) };
        let mut out = Out::new(at, self.last);
        out.at_step(self.due(), self.forward.name());
        let head = self.walker.head();
        let whole = matches!(self.forward, Forward::Message) && self.requests.end().is_ok();
        let trouble = match self.due {
            _ if self.dialect.is_none() || self.one_way || !whole || self.checkpoints > 0 => None,
            Point::Ready if head.pings > self.pongs && self.return_path() && self.offsets[1] == 0 => {
                Some(Trouble::Unanswered { span: at })
            }
            Point::Ready if self.shut && !head.colo => Some(Trouble::Migrated),
            Point::New if head.return_path && !head.colo && !self.requested => Some(Trouble::NoCheckpoint),
            _ => None,
        };
        if let Some(trouble) = trouble {
            out.trouble(Direction::Forward, self.offsets[0], &trouble);
        }
        self.last = out.last;
        events.append(&mut out.events);
        events
    }
}
