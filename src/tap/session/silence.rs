//! What the primary's silence says: that an image or a state is whole, or that something is missing.
#![forbid(unsafe_code)]

use super::super::channel::{Channel, ChannelError};
use super::super::event::{Event, Out, Trouble, What};
use super::super::recording::Direction;
use super::{Forward, Session};
use crate::colo::dialect::Point;
use crate::decode::qemu_stream::Devices;
use std::time::Duration;

/// A primary whose rounds have had next to no pages for so long waits for the secondary's word.
pub(super) const WAITS: u64 = 256;

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
        let trouble = match (&self.forward, self.due) {
            _ if self.told.idle || self.dialect.is_none() || self.gone => return None,
            _ if self.is_asked() => self.unanswered(span)?,
            (Forward::Message, Point::Ready | Point::Received) => match self.channels.complete(self.flushes) {
                Err(error) => {
                    self.told.channels = true;
                    error.into()
                }
                Ok(()) if self.due == Point::Ready && self.shut => Trouble::NoReady { span },
                Ok(()) => return None,
            },
            _ => return None,
        };
        self.told.idle = true;
        let mut out = Out::new(at, self.last);
        out.at_step(self.due(), self.forward.name());
        out.trouble(Direction::Forward, self.offsets[0], &trouble);
        self.last = out.last;
        out.events.pop()
    }

    /// Whether a PING waits for its PONG.
    fn is_asked(&self) -> bool {
        self.walker.head().pings > self.pongs && self.return_path()
    }

    /// A PING that is not answered, once: because of a channel that is missing, where that shows.
    fn unanswered(&mut self, span: Duration) -> Option<Trouble> {
        if std::mem::replace(&mut self.told.unanswered, true) {
            return None;
        }
        let so_far = if matches!(self.forward, Forward::Image) { self.walker.ram().flushes } else { 0 };
        Some(match self.channels.complete(self.flushes.saturating_add(so_far)) {
            Err(error @ (ChannelError::Missing { .. } | ChannelError::Numbers { .. })) => error.into(),
            _ => Trouble::Unanswered { span, channels: self.channels.count() },
        })
    }

    /// How many rounds of the first image in a row had few pages, after all pages had been sent once. A primary that may end the image does
    /// so instead.
    pub(super) fn rounds_of_few_pages(&self) -> u64 {
        let waits = matches!(self.forward, Forward::Image) && !self.one_way && self.return_path();
        if waits { self.rounds.max(self.walker.sections_of_few_pages()) } else { 0 }
    }

    /// Counts those rounds on channels, behind a SYNC.
    pub(super) fn count_rounds(&mut self) {
        let pages = self.walker.ram().pages().saturating_add(self.channels.pages());
        if matches!(self.forward, Forward::Image) && pages >= self.walker.all_pages().max(1) {
            self.rounds = self.rounds.max(self.channels.syncs_of_few_pages().unwrap_or_default());
        }
    }

    /// Tells of a primary that waits for an acknowledgement which does not come.
    pub(super) fn held_up(&mut self, out: &mut Out) {
        let rounds = self.rounds_of_few_pages();
        let waits = rounds >= self.acked_after.saturating_add(2 * WAITS) && (self.acks > 0 || !self.acknowledges);
        if !waits || std::mem::replace(&mut self.told.held_up, true) {
            return;
        }
        out.at_step(self.due(), self.forward.name());
        out.trouble(Direction::Forward, self.offsets[0], &Trouble::HeldUp { rounds, acks: self.acks });
    }

    /// Tells of a channel that the secondary closes while the primary sends the first image.
    pub(super) fn channel_closed(&mut self, connection: u16, direction: Direction, out: &mut Out) {
        let id = self.channels.channel(connection).and_then(Channel::id);
        let early = direction == Direction::Back && self.due == Point::Ready && !self.ended && !self.gone;
        if let (Some(id), true) = (id, early)
            && !std::mem::replace(&mut self.told.closed, true)
        {
            let offset = self.bytes_on(connection, direction);
            self.trouble_on(connection, direction, offset, &ChannelError::Closed { id }.into(), out);
        }
    }

    /// What the end of the secondary's direction says of the session so far, in front of that end.
    pub(super) fn forsaken(&mut self, at: Duration) -> Vec<Event> {
        let early = self.due == Point::Ready && !self.ended && !self.gone && !self.refused;
        if self.dialect.is_none() || !early {
            return Vec::new();
        }
        let mut out = Out::new(at, self.last);
        out.at_step(self.due(), self.forward.name());
        let trouble = match self.shut {
            true => Trouble::Taken,
            false => {
                let machine = self.walker.head().machine.clone();
                Trouble::Refused { machine, channels: self.channels.count() }
            }
        };
        out.trouble(Direction::Back, self.offsets[1], &trouble);
        self.last = out.last;
        out.events
    }

    /// What the end of the primary's direction says of the session so far, in front of that end.
    pub fn conclude(&mut self, at: Duration) -> Vec<Event> {
        let mut events = if self.one_way { Vec::new() } else { self.close_image(at) };
        let mut out = Out::new(at, self.last);
        out.at_step(self.due(), self.forward.name());
        let head = self.walker.head();
        let whole = matches!(self.forward, Forward::Message) && self.requests.end().is_ok();
        let channels = self.channels.complete(self.flushes).err().filter(|_| !self.told.channels && !self.refused);
        let trouble = match self.due {
            // Whose secondary has gone first, has been told of.
            _ if self.dialect.is_none() || self.one_way || self.gone || !whole || self.checkpoints > 0 => None,
            Point::Ready if self.is_asked() && self.offsets[1] == 0 => self.unanswered(at),
            Point::Ready if channels.is_some() => channels.map(Trouble::from),
            Point::Ready if self.shut && !self.refused && !head.colo => Some(Trouble::Migrated),
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
