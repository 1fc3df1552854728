//! The primary's bytes on the main connection.
#![forbid(unsafe_code)]

use super::super::event::{Out, Trouble, What};
use super::super::recording::Direction;
use super::{Forward, MOST_STATE, Session};
use crate::colo::dialect::{Dialect, Layout, Message, Side};
use crate::decode::qemu_stream::{Devices, MOST_DEVICE_STATE, Progress, Ram, WalkError, description_end};

impl Session {
    /// Takes bytes of one unit of the primary's; gives how many, at least one.
    pub(super) fn forward(&mut self, dialect: Dialect, bytes: &[u8], out: &mut Out) -> Result<usize, (usize, Trouble)> {
        let all = bytes.len();
        let used = match &mut self.forward {
            Forward::Image | Forward::Open | Forward::Live => {
                let pushed = self.walker.push(bytes);
                let used = *pushed.as_ref().unwrap_or(&all);
                self.offsets[0] += used as u64;
                pushed.map_err(|error| (all, error.into()))?;
                if self.one_way && matches!(self.forward, Forward::Image) {
                    return self.image_alone(used, out);
                }
                if matches!(self.forward, Forward::Live) && self.walker.progress() == Progress::Done {
                    let ram = self.walker.ram();
                    self.flushes += ram.flushes;
                    out.push(Direction::Forward, self.began, self.offsets[0] - self.began, What::Ram { ram });
                    self.expect_message(dialect);
                }
                used
            }
            Forward::Message => {
                let offset = self.requests.offset();
                let (used, message) = match self.requests.take(bytes) {
                    Ok(taken) => taken,
                    Err(error) => {
                        self.offsets[0] += all as u64;
                        return Err((all, error.into()));
                    }
                };
                self.offsets[0] += used as u64;
                if let Some(message) = message {
                    self.request(dialect, message, offset, out).map_err(|trouble| (used, trouble))?;
                }
                used
            }
            Forward::AfterSend => {
                self.after_send(dialect, bytes.first().copied().unwrap_or_default()).map_err(|trouble| {
                    self.offsets[0] += all as u64;
                    (all, trouble)
                })?;
                0
            }
            Forward::Sized { left, held } => {
                let used = usize::try_from(*left).unwrap_or(usize::MAX).min(all);
                *left -= used as u64;
                if held.len() + used <= MOST_DEVICE_STATE {
                    held.extend_from_slice(bytes.get(..used).unwrap_or_default());
                }
                self.offsets[0] += used as u64;
                self.state_end(dialect, out).map_err(|trouble| (used, trouble))?;
                used
            }
            Forward::Whole { left } => {
                let used = usize::try_from(*left).unwrap_or(usize::MAX).min(all);
                *left -= used as u64;
                self.offsets[0] += used as u64;
                let pushed = self.walker.push(bytes.get(..used).unwrap_or_default());
                pushed.map_err(|error| (used, error.into()))?;
                self.state_end(dialect, out).map_err(|trouble| (used, trouble))?;
                used
            }
            Forward::Lost => {
                self.offsets[0] += all as u64;
                all
            }
        };
        Ok(used)
    }

    /// A message of the primary's.
    pub(super) fn request(
        &mut self,
        dialect: Dialect,
        message: Message,
        offset: u64,
        out: &mut Out,
    ) -> Result<(), Trouble> {
        let size = if let Message::Size { bytes } = message { Some(bytes) } else { None };
        self.step(dialect, Side::Primary, message, offset, out)?;
        match message {
            Message::Send => self.forward = Forward::AfterSend,
            Message::Size { bytes } if bytes > MOST_STATE => {
                return Err(Trouble::Size { offset, value: bytes, most: MOST_STATE });
            }
            Message::Size { bytes } => {
                self.began = self.offsets[0];
                self.forward = if self.older {
                    self.walker.whole(self.began);
                    Forward::Whole { left: bytes }
                } else {
                    Forward::Sized { left: bytes, held: Vec::new() }
                };
            }
            _ => {}
        }
        match size {
            Some(0) => self.state_end(dialect, out),
            _ => Ok(()),
        }
    }

    fn after_send(&mut self, dialect: Dialect, byte: u8) -> Result<(), Trouble> {
        self.began = self.offsets[0];
        match (dialect, Layout::of_first_byte(byte)) {
            (Dialect::FrameV8, _) if byte == b'Q' => {
                self.walker.whole(self.began);
                self.forward = Forward::Open;
            }
            (Dialect::Qemu(_), Some(Layout::Live)) => {
                self.older = false;
                self.walker.live(self.began);
                self.forward = Forward::Live;
            }
            (Dialect::Qemu(_), Some(Layout::Whole)) => {
                self.older = true;
                self.expect_message(dialect);
            }
            _ => return Err(Trouble::AfterSend { offset: self.began, value: byte }),
        }
        Ok(())
    }

    /// Looks into a state of known size, when all of it is there.
    fn state_end(&mut self, dialect: Dialect, out: &mut Out) -> Result<(), Trouble> {
        let bytes = self.offsets[0] - self.began;
        let (ram, state, known) = match &self.forward {
            Forward::Sized { left: 0, held } => (Ram::default(), held.as_slice(), held.len() as u64 == bytes),
            Forward::Whole { left: 0 } => (self.walker.ram(), self.walker.devices().0, true),
            _ => return Ok(()),
        };
        // A state that is too large to be held has not been looked at.
        let ended = !known || state.last() == Some(&0);
        let devices = Devices::infer(if known { state } else { &[] });
        out.push(Direction::Forward, self.began, bytes, What::State { ram, devices });
        self.expect_message(dialect);
        self.checkpoints += u64::from(self.one_way);
        if ended { Ok(()) } else { Err(Trouble::State { offset: self.began, bytes }) }
    }

    /// Looks for the image's end in its own bytes, where no answer tells it. Of `used` bytes, gives how many are the image's.
    fn image_alone(&mut self, used: usize, out: &mut Out) -> Result<usize, (usize, Trouble)> {
        let state = self.walker.devices().0;
        match description_end(state, self.scanned) {
            Ok(end) => {
                let more = state.len().saturating_sub(end);
                self.walker.cut_devices(end);
                self.offsets[0] = self.offsets[0].saturating_sub(more as u64);
                let used = used.saturating_sub(more);
                self.image(out).map_err(|trouble| (used, trouble))?;
                Ok(used)
            }
            Err(from) => {
                self.scanned = from;
                Ok(used)
            }
        }
    }

    /// The end of a state without a size (COLO-Frame v8), as somebody else knows.
    pub(super) fn open_end(&mut self, dialect: Dialect, out: &mut Out) -> Result<(), Trouble> {
        let (ram, devices) = (self.walker.ram(), Devices::infer(self.walker.devices().0));
        let ended = self.walker.devices().0.last() == Some(&0);
        let bytes = self.offsets[0] - self.began;
        out.push(Direction::Forward, self.began, bytes, What::State { ram, devices });
        self.expect_message(dialect);
        if ended { Ok(()) } else { Err(Trouble::State { offset: self.began, bytes }) }
    }

    pub(super) fn image(&mut self, out: &mut Out) -> Result<(), Trouble> {
        let (state, at) = self.walker.devices();
        if self.walker.progress() != Progress::Devices {
            return Err(WalkError::NoDevices { offset: self.offsets[0] }.into());
        }
        let devices = Devices::described(state, at, self.walker.footers().unwrap_or(false))?;
        let (ram, bytes) = (self.walker.ram(), self.offsets[0]);
        self.flushes += ram.flushes;
        out.push(Direction::Forward, 0, bytes, What::Image { ram, devices });
        let Some(dialect) = self.dialect else { return Ok(()) };
        self.expect_message(dialect);
        if matches!(dialect, Dialect::Qemu(_)) {
            out.push(Direction::Forward, 0, bytes, What::Recognised(Box::new(self.recognised())));
            let head = self.walker.head();
            if !head.colo && !head.return_path {
                out.trouble(Direction::Forward, bytes, &Trouble::Ordinary);
            }
        }
        Ok(())
    }
}
