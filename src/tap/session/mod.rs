//! A session's bytes, both ways in the order in which they were seen, to events.
//!
//! Where the first image ends is known from that order: the primary is silent until checkpoint-ready has come back, so what it
//! sent before is the image, and its last bytes must be the description of its devices. Whoever is the secondary itself, and
//! has no such answer to see, asks [`Session::close_image`] whenever nothing more is to be read.
//!
//! Bytes that are not understood cost the sight of that direction, not the session: at checkpoint-ready and vmstate-loaded the
//! primary has been silent too, so what it sends next is a message again.
#![forbid(unsafe_code)]

mod back;
mod connections;
mod forward;
mod silence;

use super::channels::Channels;
use super::event::{Event, Out, Trouble, What};
use super::recording::{Direction, Form};
use super::records::Records;
use super::return_path;
use crate::colo::dialect::{Dialect, Message, Point, Side};
use crate::colo::wire::Decoder;
use crate::decode::qemu_stream::Walker;
use std::time::Duration;

/// Largest vmstate-size that is believed, in bytes: in the older layout it counts the guest's RAM too.
pub const MOST_STATE: u64 = 1 << 40;

/// What the primary's next byte is of.
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
            Forward::Lost => "bytes that are not understood",
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
    /// All connections; the fields here are of the main one.
    channels: Channels,
    /// Of the return path, up to SHUT.
    returns: return_path::Decoder,
    shut: bool,
    pongs: u64,
    /// Flush marks in all of the image and the checkpoints whose RAM is whole.
    flushes: u64,
    /// Whether nothing of the secondary's is there to be seen, and how far the image was searched for its end.
    one_way: bool,
    scanned: usize,
    /// Whether a checkpoint was ever requested.
    requested: bool,
    /// Whether silence was told of.
    idle: bool,
    /// Whether the secondary's direction has ended.
    gone: bool,
    /// Bytes seen: forward and back.
    offsets: [u64; 2],
    /// Where the unit that `forward` is inside of began.
    began: u64,
    due: Point,
    older: bool,
    checkpoints: u64,
    last: Duration,
}

impl Session {
    /// In front of the first byte.
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
            channels: Channels::default(),
            returns: return_path::Decoder::default(),
            shut: false,
            pongs: 0,
            flushes: 0,
            one_way: false,
            scanned: 0,
            requested: false,
            idle: false,
            gone: false,
            offsets: [0, 0],
            began: 0,
            due: Point::Ready,
            older: false,
            checkpoints: 0,
            last: Duration::ZERO,
        }
    }

    /// In front of the first byte of a primary whose secondary's answers were not kept. Checkpoints are then those that the primary
    /// has sent whole.
    pub fn one_way(form: Form) -> Self {
        Session { one_way: true, ..Session::new(form) }
    }

    /// Whether the secondary's next bytes are of the return path.
    fn return_path(&self) -> bool {
        self.walker.head().return_path && !self.shut
    }

    /// Checkpoints that the secondary has loaded; the first image is none.
    pub fn checkpoints(&self) -> u64 {
        self.records.as_ref().map_or(self.checkpoints, |records| records.checkpoints())
    }

    /// Bytes of a direction.
    pub const fn bytes(&self, direction: Direction) -> u64 {
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
            Forward::Message => {
                let channels = matches!(self.due, Point::Ready | Point::Received);
                self.requests.end().is_err()
                    || matches!(self.due, Point::Send | Point::Size)
                    || (channels && self.channels.complete(self.flushes).is_err())
            }
            Forward::Lost => false,
            _ => true,
        }
    }

    /// Which answer the primary waits for.
    pub fn answer_due(&self) -> Option<Point> {
        match (self.due, &self.forward) {
            (Point::Ready | Point::Received, Forward::Message) if self.channels.complete(self.flushes).is_err() => None,
            (Point::Ready | Point::Suspended | Point::Received | Point::Loaded, Forward::Message) => Some(self.due),
            _ => None,
        }
    }

    /// Takes bytes of a direction of the first connection ([`Session::feed_on`]).
    pub fn feed(&mut self, direction: Direction, bytes: &[u8], at: Duration) -> Vec<Event> {
        self.feed_on(0, direction, bytes, at)
    }

    /// Takes bytes of libxl's form.
    fn feed_records(&mut self, direction: Direction, bytes: &[u8], out: &mut Out) {
        match direction {
            Direction::Forward => self.offsets[0] += bytes.len() as u64,
            Direction::Back => self.offsets[1] += bytes.len() as u64,
        }
        if let Some(records) = &mut self.records {
            records.feed(direction, bytes, out);
        }
    }

    /// Takes bytes of the main connection.
    fn feed_main(&mut self, dialect: Dialect, direction: Direction, bytes: &[u8], out: &mut Out) {
        if direction == Direction::Back {
            return self.back(dialect, bytes, out);
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            out.at_step(dialect.name(self.due), self.forward.name());
            let used = match self.forward(dialect, rest, out) {
                Ok(used) => used,
                Err((used, trouble)) => {
                    self.lose(out, &trouble);
                    used
                }
            };
            rest = rest.get(used..).unwrap_or_default();
        }
    }

    /// Takes the end of a direction.
    pub fn end(&mut self, direction: Direction, at: Duration) -> Option<Event> {
        self.gone |= direction == Direction::Back;
        let mut out = Out::new(at, self.last);
        let inside = match (direction, &self.forward) {
            _ if self.dialect.is_none() => self.records.as_ref().and_then(|records| records.inside(direction)),
            (Direction::Back, _) if self.returns.len() > 0 => Some("a message of the return path"),
            (Direction::Back, _) => self.answers.end().is_err().then_some("an answer"),
            (_, Forward::Image) => Some("the first image"),
            (_, Forward::Message) if self.requests.end().is_err() => Some("a message"),
            // What was sent last is whole, and only the answers to it are due.
            (_, Forward::Message) if self.one_way && self.due == Point::Received => None,
            (_, Forward::Message) => (!matches!(self.due, Point::New | Point::Ready)).then_some("a checkpoint"),
            _ => Some("a checkpoint"),
        };
        let offset = self.bytes(direction);
        out.push(direction, offset, 0, inside.map_or(What::End, |inside| What::Broken { inside }));
        self.last = out.last;
        out.events.pop()
    }

    fn lose(&mut self, out: &mut Out, trouble: &Trouble) {
        out.trouble(Direction::Forward, self.offsets[0], trouble);
        self.forward = Forward::Lost;
    }

    fn expect_message(&mut self, dialect: Dialect) {
        self.forward = Forward::Message;
        self.requests = Decoder::new(dialect, self.offsets[0]);
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
        let (bytes, size) = match message {
            Message::Size { bytes } => (12, Some(bytes)),
            _ => (if dialect == Dialect::FrameV8 { 8 } else { 4 }, None),
        };
        out.push(direction, offset, bytes, What::Message { name: dialect.name(point), size, value: None });
        self.requested |= point == Point::New;
        while self.one_way && side == Side::Primary && self.due.sender() == Side::Secondary {
            self.due = next(dialect, self.due);
        }
        let due = std::mem::replace(&mut self.due, next(dialect, point));
        // QEMU 7.2 begins one more checkpoint before it notices that its secondary is gone.
        let last = self.gone && point == Point::New;
        if (due == point || last) && point.sender() == side {
            return Ok(());
        }
        Err(Trouble::Step { got: dialect.name(point), offset, expected: dialect.name(due) })
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
