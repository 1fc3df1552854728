//! A session's octets, both ways in the order in which they were seen, to events.
//!
//! Where the first image ends is known from that order: the primary is silent until checkpoint-ready has come back, so what it
//! sent before is the image, and its last octets must be the description of its devices. Whoever is the secondary itself, and
//! has no such answer to see, asks [`Session::close_image`] whenever nothing more is to be read.
//!
//! Octets that are not understood cost the sight of that direction, not the session: at checkpoint-ready and vmstate-loaded the
//! primary has been silent too, so what it sends next is a message again.
#![forbid(unsafe_code)]

use super::event::{Event, Out, Trouble, What};
use super::recording::{Direction, Form};
use super::records::Records;
use crate::colo::dialect::{Dialect, Layout, Message, Point, Side};
use crate::colo::wire::Decoder;
use crate::decode::qemu_stream::{Devices, MOST_DEVICE_STATE, Progress, Ram, Walker};
use std::time::Duration;

/// Largest vmstate-size that is believed, in octets: in the older layout it counts the guest's RAM too.
pub const MOST_STATE: u64 = 1 << 40;

/// What a section's footer begins with, before the section's number.
const FOOTER: u8 = 0x7e;

/// What the primary's next octet is of.
#[derive(Debug, Clone)]
enum Forward {
    Image,
    Message,
    /// Behind vmstate-send: the layout shows.
    AfterSend,
    /// RAM up to its mark.
    Live,
    /// Device state of known size.
    Sized {
        left: u64,
        held: Vec<u8>,
    },
    /// RAM and device state of known size.
    Whole {
        left: u64,
    },
    /// RAM and device state up to the answer (COLO-Frame v8).
    Open,
    /// Not known.
    Lost,
}

impl Forward {
    /// For errors.
    const fn name(&self) -> &'static str {
        match self {
            Forward::Image => "the first image",
            Forward::Message => "messages",
            Forward::AfterSend => "what follows vmstate-send",
            Forward::Live => "RAM",
            Forward::Sized { .. } | Forward::Whole { .. } | Forward::Open => "the state",
            Forward::Lost => "octets that are not understood",
        }
    }
}

/// Follows a session.
#[derive(Debug, Clone)]
pub struct Session {
    dialect: Option<Dialect>,
    /// In place of all below, for libxl's form.
    records: Option<Box<Records>>,
    forward: Forward,
    walker: Walker,
    requests: Decoder,
    answers: Decoder,
    deaf: bool,
    /// Whether the secondary's direction has ended.
    gone: bool,
    /// Octets seen: forward and back.
    offsets: [u64; 2],
    /// Where the unit that `forward` is inside of began.
    began: u64,
    due: Point,
    older: bool,
    checkpoints: u64,
    last: Duration,
}

impl Session {
    /// In front of the first octet.
    pub fn new(form: Form) -> Self {
        let dialect = form.dialect();
        let decoder = Decoder::new(dialect.unwrap_or(Dialect::Libxl), 0);
        Session {
            dialect,
            records: dialect.is_none().then(|| Box::new(Records::new())),
            forward: Forward::Image,
            walker: Walker::new(0),
            requests: decoder.clone(),
            answers: decoder,
            deaf: false,
            gone: false,
            offsets: [0, 0],
            began: 0,
            due: Point::Ready,
            older: false,
            checkpoints: 0,
            last: Duration::ZERO,
        }
    }

    /// Checkpoints that the secondary has loaded; the first image is none.
    pub fn checkpoints(&self) -> u64 {
        self.records.as_ref().map_or(self.checkpoints, |records| records.checkpoints())
    }

    /// Octets of a direction.
    pub const fn octets(&self, direction: Direction) -> u64 {
        match direction {
            Direction::Forward => self.offsets[0],
            Direction::Back => self.offsets[1],
        }
    }

    /// Whether the session stands behind a state that the secondary has loaded, and in front of the next checkpoint.
    pub fn between_rounds(&self) -> bool {
        self.due == Point::New && matches!(self.forward, Forward::Message) && self.requests.end().is_ok()
    }

    /// The message that is due, by its name in the dialect; CHECKPOINT_END for libxl's records up to it.
    pub fn due(&self) -> &'static str {
        match (self.dialect, &self.records) {
            (Some(dialect), _) => dialect.name(self.due),
            (None, Some(records)) => records.due(),
            (None, None) => "",
        }
    }

    /// Whether the primary is inside of something, and has to go on by itself.
    pub fn primary_owes(&self) -> bool {
        match &self.forward {
            Forward::Message => self.requests.end().is_err() || matches!(self.due, Point::Send | Point::Size),
            Forward::Lost => false,
            _ => true,
        }
    }

    /// Which answer the primary waits for.
    pub const fn answer_due(&self) -> Option<Point> {
        match (self.due, &self.forward) {
            (Point::Ready | Point::Suspended | Point::Received | Point::Loaded, Forward::Message) => Some(self.due),
            _ => None,
        }
    }

    /// Takes octets of a direction, and gives what they complete.
    pub fn feed(&mut self, direction: Direction, octets: &[u8], at: Duration) -> Vec<Event> {
        let mut out = Out::new(at, self.last);
        match (direction, self.dialect) {
            (_, None) => {
                match direction {
                    Direction::Forward => self.offsets[0] += octets.len() as u64,
                    Direction::Back => self.offsets[1] += octets.len() as u64,
                }
                if let Some(records) = &mut self.records {
                    records.feed(direction, octets, &mut out);
                }
            }
            (Direction::Forward, Some(dialect)) => {
                let mut rest = octets;
                while !rest.is_empty() {
                    out.at_step(dialect.name(self.due), self.forward.name());
                    let used = match self.forward(dialect, rest, &mut out) {
                        Ok(used) => used,
                        Err((used, trouble)) => {
                            self.lose(&mut out, &trouble);
                            used
                        }
                    };
                    rest = rest.get(used..).unwrap_or_default();
                }
            }
            (Direction::Back, Some(dialect)) => self.back(dialect, octets, &mut out),
        }
        self.last = out.last;
        out.events
    }

    /// Takes the end of a direction.
    pub fn end(&mut self, direction: Direction, at: Duration) -> Option<Event> {
        self.gone |= direction == Direction::Back;
        let mut out = Out::new(at, self.last);
        let inside = match (direction, &self.forward) {
            _ if self.dialect.is_none() => self.records.as_ref().and_then(|records| records.inside(direction)),
            (Direction::Back, _) => self.answers.end().is_err().then_some("an answer"),
            (_, Forward::Image) => Some("the first image"),
            (_, Forward::Message) if self.requests.end().is_err() => Some("a message"),
            (_, Forward::Message) => (!matches!(self.due, Point::New | Point::Ready)).then_some("a checkpoint"),
            _ => Some("a checkpoint"),
        };
        let offset = self.octets(direction);
        out.push(direction, offset, 0, inside.map_or(What::End, |inside| What::Broken { inside }));
        self.last = out.last;
        out.events.pop()
    }

    /// Says that the primary has been silent: nothing more is to be read, and nothing was answered. If its octets end with the
    /// description of an image's devices, the image is whole, and is given.
    pub fn close_image(&mut self, at: Duration) -> Option<Event> {
        let mut out = Out::new(at, self.last);
        // Cheap: the description's last brace.
        let ended = self.walker.devices().0.last() == Some(&b'}');
        if !matches!(self.forward, Forward::Image) || !ended || self.image(&mut out).is_err() {
            return None;
        }
        self.last = out.last;
        out.events.pop()
    }

    /// Says that the primary has been silent, as [`Session::close_image`], inside of a checkpoint of COLO-Frame v8. The state is
    /// whole, and is given, if its octets are sections, each with its footer, up to the mark of the end: behind a footer only
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
        let trouble = Trouble::Silent { offset, span };
        let what = What::Trouble { message: trouble.to_string(), due: out.due, inside: out.inside };
        self.forward = Forward::Lost;
        Event { direction: Direction::Forward, at, since: at.saturating_sub(self.last), offset, octets: 0, what }
    }

    fn lose(&mut self, out: &mut Out, trouble: &Trouble) {
        out.trouble(Direction::Forward, self.offsets[0], trouble);
        self.forward = Forward::Lost;
    }

    fn expect_message(&mut self, dialect: Dialect) {
        self.forward = Forward::Message;
        self.requests = Decoder::new(dialect, self.offsets[0]);
    }

    /// Takes octets of one unit of the primary's; gives how many, at least one.
    fn forward(&mut self, dialect: Dialect, octets: &[u8], out: &mut Out) -> Result<usize, (usize, Trouble)> {
        let all = octets.len();
        let used = match &mut self.forward {
            Forward::Image | Forward::Open | Forward::Live => {
                let pushed = self.walker.push(octets);
                let used = *pushed.as_ref().unwrap_or(&all);
                self.offsets[0] += used as u64;
                pushed.map_err(|error| (all, error.into()))?;
                if matches!(self.forward, Forward::Live) && self.walker.progress() == Progress::Done {
                    let ram = self.walker.ram();
                    out.push(Direction::Forward, self.began, self.offsets[0] - self.began, What::Ram { ram });
                    self.expect_message(dialect);
                }
                used
            }
            Forward::Message => {
                let offset = self.requests.offset();
                let (used, message) = match self.requests.take(octets) {
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
                self.after_send(dialect, octets.first().copied().unwrap_or_default()).map_err(|trouble| {
                    self.offsets[0] += all as u64;
                    (all, trouble)
                })?;
                0
            }
            Forward::Sized { left, held } => {
                let used = usize::try_from(*left).unwrap_or(usize::MAX).min(all);
                *left -= used as u64;
                if held.len() + used <= MOST_DEVICE_STATE {
                    held.extend_from_slice(octets.get(..used).unwrap_or_default());
                }
                self.offsets[0] += used as u64;
                self.state_end(dialect, out).map_err(|trouble| (used, trouble))?;
                used
            }
            Forward::Whole { left } => {
                let used = usize::try_from(*left).unwrap_or(usize::MAX).min(all);
                *left -= used as u64;
                self.offsets[0] += used as u64;
                let pushed = self.walker.push(octets.get(..used).unwrap_or_default());
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
    fn request(&mut self, dialect: Dialect, message: Message, offset: u64, out: &mut Out) -> Result<(), Trouble> {
        let size = if let Message::Size { octets } = message { Some(octets) } else { None };
        self.step(dialect, Side::Primary, message, offset, out)?;
        match message {
            Message::Send => self.forward = Forward::AfterSend,
            Message::Size { octets } if octets > MOST_STATE => {
                return Err(Trouble::Size { offset, value: octets, most: MOST_STATE });
            }
            Message::Size { octets } => {
                self.began = self.offsets[0];
                self.forward = if self.older {
                    self.walker.whole(self.began);
                    Forward::Whole { left: octets }
                } else {
                    Forward::Sized { left: octets, held: Vec::new() }
                };
            }
            _ => {}
        }
        match size {
            Some(0) => self.state_end(dialect, out),
            _ => Ok(()),
        }
    }

    /// Tells a message, and holds it against the one that is due.
    fn step(
        &mut self,
        dialect: Dialect,
        side: Side,
        message: Message,
        offset: u64,
        out: &mut Out,
    ) -> Result<(), Trouble> {
        let point = message.point();
        let direction = if side == Side::Primary { Direction::Forward } else { Direction::Back };
        let (octets, size) = match message {
            Message::Size { octets } => (12, Some(octets)),
            _ => (if dialect == Dialect::FrameV8 { 8 } else { 4 }, None),
        };
        out.push(direction, offset, octets, What::Message { name: dialect.name(point), size });
        let due = std::mem::replace(&mut self.due, next(dialect, point));
        // QEMU 7.2 begins one more checkpoint before it notices that its secondary is gone.
        let last = self.gone && point == Point::New;
        if (due == point || last) && point.sender() == side {
            return Ok(());
        }
        Err(Trouble::Step { got: dialect.name(point), offset, expected: dialect.name(due) })
    }

    fn after_send(&mut self, dialect: Dialect, octet: u8) -> Result<(), Trouble> {
        self.began = self.offsets[0];
        match (dialect, Layout::of_first_octet(octet)) {
            (Dialect::FrameV8, _) if octet == b'Q' => {
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
            _ => return Err(Trouble::AfterSend { offset: self.began, value: octet }),
        }
        Ok(())
    }

    /// Looks into a state of known size, when all of it is there.
    fn state_end(&mut self, dialect: Dialect, out: &mut Out) -> Result<(), Trouble> {
        let octets = self.offsets[0] - self.began;
        let (ram, state, known) = match &self.forward {
            Forward::Sized { left: 0, held } => (Ram::default(), held.as_slice(), held.len() as u64 == octets),
            Forward::Whole { left: 0 } => (self.walker.ram(), self.walker.devices().0, true),
            _ => return Ok(()),
        };
        // A state that is too large to be held has not been looked at.
        let ended = !known || state.last() == Some(&0);
        let devices = Devices::infer(if known { state } else { &[] });
        out.push(Direction::Forward, self.began, octets, What::State { ram, devices });
        self.expect_message(dialect);
        if ended { Ok(()) } else { Err(Trouble::State { offset: self.began, octets }) }
    }

    /// The end of a state without a size (COLO-Frame v8), as somebody else knows.
    fn open_end(&mut self, dialect: Dialect, out: &mut Out) -> Result<(), Trouble> {
        let (ram, devices) = (self.walker.ram(), Devices::infer(self.walker.devices().0));
        let ended = self.walker.devices().0.last() == Some(&0);
        let octets = self.offsets[0] - self.began;
        out.push(Direction::Forward, self.began, octets, What::State { ram, devices });
        self.expect_message(dialect);
        if ended { Ok(()) } else { Err(Trouble::State { offset: self.began, octets }) }
    }

    fn image(&mut self, out: &mut Out) -> Result<(), Trouble> {
        let (state, at) = self.walker.devices();
        if self.walker.progress() != Progress::Devices {
            return Err(crate::decode::qemu_stream::WalkError::NoDevices { offset: self.offsets[0] }.into());
        }
        let devices = Devices::described(state, at, self.walker.footers().unwrap_or(false))?;
        out.push(Direction::Forward, 0, self.offsets[0], What::Image { ram: self.walker.ram(), devices });
        if let Some(dialect) = self.dialect {
            self.expect_message(dialect);
        }
        Ok(())
    }

    /// Octets of the secondary's.
    fn back(&mut self, dialect: Dialect, octets: &[u8], out: &mut Out) {
        self.offsets[1] += octets.len() as u64;
        let mut rest = octets;
        while !rest.is_empty() && !self.deaf {
            out.at_step(dialect.name(self.due), self.forward.name());
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
        if point == Point::Loaded {
            self.checkpoints += 1;
        }
        if matches!(point, Point::Ready | Point::Loaded) && matches!(self.forward, Forward::Lost) {
            out.push(Direction::Forward, self.offsets[0], 0, What::Again);
            self.expect_message(dialect);
        }
    }

    /// What an answer says of the primary's octets that came before it.
    fn before(&mut self, dialect: Dialect, point: Point, out: &mut Out) -> Result<(), Trouble> {
        let got = dialect.name(point);
        let octets = self.offsets[0];
        match (&self.forward, point) {
            (Forward::Image, _) => self.image(out),
            (Forward::Sized { left, .. } | Forward::Whole { left }, _) => Err(Trouble::Early { got, left: *left }),
            (Forward::Open, Point::Received) => self.open_end(dialect, out),
            (Forward::Message, _) if self.requests.end().is_err() => {
                let offset = self.requests.offset();
                Err(Trouble::Unasked { offset, octets: octets.saturating_sub(offset), answer: got })
            }
            _ => Ok(()),
        }
    }
}

/// What follows a point in a round.
const fn next(dialect: Dialect, point: Point) -> Point {
    match (point, dialect) {
        (Point::Ready | Point::Loaded, _) => Point::New,
        (Point::New, _) => Point::Suspended,
        (Point::Suspended, _) => Point::Send,
        (Point::Send, Dialect::Qemu(_)) => Point::Size,
        (Point::Send | Point::Size, _) => Point::Received,
        _ => Point::Loaded,
    }
}
