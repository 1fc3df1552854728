//! The secondary's bytes on the main connection, and what they say of the primary's.
#![forbid(unsafe_code)]

use super::super::event::{Out, Trouble, What};
use super::super::recording::Direction;
use super::super::return_path::{Kind, ReturnPathError};
use super::{Forward, Session};
use crate::colo::dialect::{Dialect, Message, Point, Side};

impl Session {
    /// Bytes of the secondary's.
    pub(super) fn back(&mut self, dialect: Dialect, bytes: &[u8], out: &mut Out) {
        self.offsets[1] += bytes.len() as u64;
        let mut rest = bytes;
        while !rest.is_empty() && !self.deaf {
            out.at_step(dialect.name(self.due), self.forward.name());
            if self.return_path() {
                rest = self.returned(dialect, rest, out);
                continue;
            }
            let offset = self.answers.offset();
            match self.answers.take(rest) {
                Ok((used, message)) => {
                    rest = rest.get(used..).unwrap_or_default();
                    if let Some(message) = message {
                        self.answer(dialect, message, offset, out);
                    }
                }
                Err(error) => {
                    out.trouble(Direction::Back, offset, &error.into());
                    self.deaf = true;
                }
            }
        }
    }

    /// A message of the return path; gives the bytes after it.
    fn returned<'a>(&mut self, dialect: Dialect, bytes: &'a [u8], out: &mut Out) -> &'a [u8] {
        let at = self.offsets[1].saturating_sub(bytes.len() as u64);
        let begun = self.returns.len();
        let offset = at.saturating_sub(begun as u64);
        let (used, message) = match self.returns.take(bytes, at) {
            Ok((used, None)) => return bytes.get(used..).unwrap_or_default(),
            Ok((used, Some(message))) => (used, message),
            Err(error) => {
                self.shut = true;
                let colo = matches!(error, ReturnPathError::NoShut { .. });
                out.trouble(Direction::Back, offset, &error.into());
                if !colo {
                    self.deaf = true;
                    return &[];
                }
                // They are a COLO message, whole with the last of them.
                let held = self.returns.take_held();
                if let Ok((_, Some(message))) = self.answers.take(&held) {
                    self.answer(dialect, message, offset, out);
                }
                return bytes.get(held.len().saturating_sub(begun)..).unwrap_or_default();
            }
        };
        let trouble = match (message.kind, message.value) {
            (Kind::Pong, Some(value)) => {
                self.pongs += 1;
                let expected = self.walker.head().ping;
                (expected != Some(value)).then_some(ReturnPathError::Pong { offset, value, expected })
            }
            (Kind::Shut, value) => {
                self.shut = true;
                let value = value.unwrap_or_default();
                if value == 0
                    && let Err(trouble) = self.before(dialect, Point::Ready, out)
                {
                    self.lose(out, &trouble);
                }
                (value != 0).then_some(ReturnPathError::Failed { offset, value })
            }
            _ => None,
        };
        let what = What::Message { name: message.kind.name(), size: None, value: message.value };
        out.push(Direction::Back, offset, message.bytes, what);
        self.answers.skip(message.bytes);
        if let Some(trouble) = trouble {
            out.trouble(Direction::Back, offset, &trouble.into());
        }
        bytes.get(used..).unwrap_or_default()
    }

    fn answer(&mut self, dialect: Dialect, message: Message, offset: u64, out: &mut Out) {
        let point = message.point();
        let lost = matches!(self.forward, Forward::Lost);
        let before = self.before(dialect, point, out);
        if let (Err(trouble), false) = (before, lost) {
            self.lose(out, &trouble);
        }
        if let (Err(trouble), false) = (self.step(dialect, Side::Secondary, message, offset, out), lost) {
            out.trouble(Direction::Back, offset, &trouble);
        }
        if matches!(point, Point::Ready | Point::Received)
            && !lost
            && let Err(error) = self.channels.complete(self.flushes)
        {
            out.trouble(Direction::Forward, self.offsets[0], &error.into());
        }
        if point == Point::Ready {
            self.channels.close();
        }
        if point == Point::Loaded {
            self.checkpoints += 1;
        }
        if matches!(point, Point::Ready | Point::Loaded) && matches!(self.forward, Forward::Lost) {
            out.push(Direction::Forward, self.offsets[0], 0, What::Again);
            self.expect_message(dialect);
        }
    }

    /// What an answer says of the primary's bytes that came before it.
    fn before(&mut self, dialect: Dialect, point: Point, out: &mut Out) -> Result<(), Trouble> {
        let got = dialect.name(point);
        let bytes = self.offsets[0];
        match (&self.forward, point) {
            (Forward::Image, _) => self.image(out),
            (Forward::Sized { left, .. } | Forward::Whole { left }, _) => Err(Trouble::Early { got, left: *left }),
            (Forward::Open, Point::Received) => self.open_end(dialect, out),
            (Forward::Message, _) if self.requests.end().is_err() => {
                let offset = self.requests.offset();
                Err(Trouble::Unasked { offset, bytes: bytes.saturating_sub(offset), answer: got })
            }
            _ => Ok(()),
        }
    }
}
