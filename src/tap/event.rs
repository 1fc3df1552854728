//! What a session is made of, for people and for programs.
#![forbid(unsafe_code)]

use super::channel::ChannelError;
use super::recording::Direction;
use super::return_path::ReturnPathError;
use crate::colo::wire::WireError;
use crate::decode::qemu_stream::{Devices, Extents, Ram, WalkError};
use crate::stream::StreamError;
use serde::Serialize;
use std::fmt;
use std::time::Duration;
use thiserror::Error;

/// Something that was seen in a session.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Event {
    /// Who sent it.
    pub direction: Direction,
    /// The connection, where it is not the main one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<Channel>,
    /// Since the session began.
    pub at: Duration,
    /// Since the event before.
    pub since: Duration,
    /// Where it begins in its direction.
    pub offset: u64,
    /// Its bytes.
    pub bytes: u64,
    /// What it is.
    #[serde(flatten)]
    pub what: What,
}

/// A connection beside the main one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Channel {
    /// Its number in order of arrival.
    pub connection: u16,
    /// Its number among the multifd channels, once it has said so.
    pub id: Option<u8>,
}

/// What the first image says of its sender.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Recognised {
    /// Which releases send such an image in COLO.
    pub release: &'static str,
    /// The machine type.
    pub machine: String,
    /// Whether the secondary is to answer on a return path.
    pub return_path: bool,
    /// Capabilities that the secondary must have too, as far as the image names any.
    pub capabilities: Vec<String>,
    /// Multifd channels.
    pub channels: usize,
    /// How their pages are packed.
    pub packed: Option<&'static str>,
}

/// The kinds of events.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum What {
    /// The first image, whole.
    Image {
        /// Its pages.
        ram: Ram,
        /// Its devices.
        devices: Devices,
    },
    /// A sync point.
    Message {
        /// Its name in the dialect.
        name: &'static str,
        /// What vmstate-size says.
        #[serde(skip_serializing_if = "Option::is_none")]
        size: Option<u64>,
        /// What PONG and SHUT of the return path carry.
        #[serde(skip_serializing_if = "Option::is_none")]
        value: Option<u32>,
    },
    /// What the first image has shown of the session.
    Recognised(Box<Recognised>),
    /// A multifd channel has begun.
    Channel {
        /// The guest's UUID.
        uuid: String,
    },
    /// A SYNC of a multifd channel, and what came since the one before.
    Sync {
        /// Which one on this channel, from 1.
        sync: u64,
        /// Packets, this one counted.
        packets: u64,
        /// Pages in them.
        ram: Ram,
        /// How their contents are packed.
        packed: Option<&'static str>,
    },
    /// The RAM of a checkpoint, whole.
    Ram {
        /// Its pages.
        ram: Ram,
    },
    /// The sized state of a checkpoint, whole: the devices, and in the older layout also RAM.
    State {
        /// The pages in it.
        ram: Ram,
        /// The devices.
        devices: Devices,
    },
    /// The records of libxl's first image, or of a checkpoint, up to CHECKPOINT_END.
    Records {
        /// Whether it is the image.
        first: bool,
        /// How many records of libxc and libxl.
        records: u64,
        /// Pages in them.
        pages: u64,
        /// Bytes of the device model's state.
        emulator: u64,
    },
    /// What does not belong there.
    Trouble {
        /// What is wrong.
        message: String,
        /// The step: which message, or record, is due.
        due: &'static str,
        /// The state: what the direction's bytes are of.
        inside: &'static str,
    },
    /// The primary's bytes are understood again.
    Again,
    /// The direction carries nothing any more, as was asked for ([`super::Cut`]).
    Cut,
    /// The direction ended, at a place where it may.
    End,
    /// The direction ended inside of something, as when its sender dies.
    Broken {
        /// Inside of what.
        inside: &'static str,
    },
}

impl What {
    /// Whether it breaks the protocol.
    pub const fn is_error(&self) -> bool {
        matches!(self, What::Trouble { .. })
    }
}

/// Why a session's bytes are not understood.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Trouble {
    /// An item of libxl's stream.
    #[error("{0}")]
    Record(#[from] StreamError),
    /// Silence where the other side has to speak.
    #[error("offset {offset}: nothing more has come for {span:?}")]
    Silent {
        /// Where the direction stands.
        offset: u64,
        /// How long.
        span: Duration,
    },
    /// The migration stream.
    #[error("{0}")]
    Walk(#[from] WalkError),
    /// A message.
    #[error("{0}")]
    Wire(#[from] WireError),
    /// A multifd channel, or what is missing of them.
    #[error("{0}")]
    Channel(#[from] ChannelError),
    /// The return path.
    #[error("{0}")]
    ReturnPath(#[from] ReturnPathError),
    /// An image that no COLO primary sends.
    #[error(
        "the primary is not in COLO: its image has neither ENABLE_COLO (before QEMU 11.1) nor a return path (from 11.1 on); this is an ordinary migration, and its guest leaves the primary. Set x-colo on both sides before migrating"
    )]
    Ordinary,
    /// A return path, and nothing on it.
    #[error(
        "the return path is open, and PING was not answered within {span:?}: the secondary has no return path. Set return-path on both sides"
    )]
    Unanswered {
        /// How long.
        span: Duration,
    },
    /// The secondary has closed the return path, and is not in COLO.
    #[error(
        "SHUT and no checkpoint-ready within {span:?}: the secondary has taken the image for an ordinary migration and runs the guest, and so does a primary in COLO once it resumes: two running guests. A primary of QEMU 11.1 needs a secondary of 11.1 or newer with x-colo. Stop one of the two guests"
    )]
    NoReady {
        /// How long.
        span: Duration,
    },
    /// An ordinary migration with a return path, to its end.
    #[error(
        "the primary ended after SHUT without checkpoint-ready: an ordinary migration, or a primary of QEMU 11.1 whose secondary is older. The secondary runs the guest; see that the primary does not"
    )]
    Migrated,
    /// A primary that ended in front of its first checkpoint.
    #[error(
        "the primary ended without any checkpoint: it is not in COLO (an ordinary migration whose guest has left it), or it died at once. Set x-colo on both sides before migrating"
    )]
    NoCheckpoint,
    /// Not the message that is due.
    #[error("{got} at offset {offset}, where {expected} is due")]
    Step {
        /// What came.
        got: &'static str,
        /// Where.
        offset: u64,
        /// What should have.
        expected: &'static str,
    },
    /// An answer before what it answers was whole.
    #[error("{got} while {left} bytes of the state are still to come")]
    Early {
        /// The answer.
        got: &'static str,
        /// Bytes.
        left: u64,
    },
    /// A byte behind vmstate-send that begins neither RAM nor vmstate-size.
    #[error("offset {offset}: {value:#x} begins neither RAM nor vmstate-size")]
    AfterSend {
        /// Of the byte.
        offset: u64,
        /// Its value.
        value: u8,
    },
    /// A size over every bound.
    #[error("offset {offset}: vmstate-size {value:#x}, at most {most:#x}")]
    Size {
        /// Of the message.
        offset: u64,
        /// What it says.
        value: u64,
        /// The bound.
        most: u64,
    },
    /// A state that does not end as long as vmstate-size says.
    #[error("offset {offset}: {bytes} bytes of state are not sections up to their end")]
    State {
        /// Of the state.
        offset: u64,
        /// Its bytes.
        bytes: u64,
    },
    /// The primary spoke when it should have been silent: bytes in front of an answer of which it did not know.
    #[error("offset {offset}: {bytes} bytes of the primary's in front of {answer}")]
    Unasked {
        /// Of the first.
        offset: u64,
        /// How many.
        bytes: u64,
        /// The answer.
        answer: &'static str,
    },
}

/// Events of one call.
pub(super) struct Out {
    at: Duration,
    pub(super) last: Duration,
    pub(super) events: Vec<Event>,
    pub(super) due: &'static str,
    pub(super) inside: &'static str,
}

impl Out {
    pub(super) const fn new(at: Duration, last: Duration) -> Self {
        Out { at, last, events: Vec::new(), due: "", inside: "" }
    }

    /// Where the session stands, for the errors from here on.
    pub(super) const fn at_step(&mut self, due: &'static str, inside: &'static str) {
        (self.due, self.inside) = (due, inside);
    }

    pub(super) fn push(&mut self, direction: Direction, offset: u64, bytes: u64, what: What) {
        let since = self.at.saturating_sub(self.last);
        self.last = self.at;
        self.events.push(Event { direction, channel: None, at: self.at, since, offset, bytes, what });
    }

    /// As [`Out::push`], on a connection beside the main one.
    pub(super) fn push_on(&mut self, channel: Channel, direction: Direction, offset: u64, bytes: u64, what: What) {
        self.push(direction, offset, bytes, what);
        if let Some(event) = self.events.last_mut() {
            event.channel = Some(channel);
        }
    }

    pub(super) fn trouble_of(&self, trouble: &Trouble) -> What {
        What::Trouble { message: trouble.to_string(), due: self.due, inside: self.inside }
    }

    pub(super) fn trouble(&mut self, direction: Direction, offset: u64, trouble: &Trouble) {
        self.push(direction, offset, 0, self.trouble_of(trouble));
    }
}

fn pages(ram: &Ram) -> String {
    let kinds = [(ram.full, "full"), (ram.zero, "zero"), (ram.xbzrle, "xbzrle"), (ram.compressed, "compressed")];
    let kinds: Vec<_> = kinds.iter().filter(|kind| kind.0 > 0).map(|(count, name)| format!("{count} {name}")).collect();
    let kinds = if kinds.is_empty() { String::new() } else { format!(" ({})", kinds.join(", ")) };
    format!("{} RAM pages{kinds}", ram.pages())
}

fn sections(devices: &Devices) -> String {
    let how = match (devices.complete, devices.extents) {
        (true, Extents::Description) => "by description",
        (true, Extents::Inference) => "by inference",
        (false, _) => "as far as they are certain",
    };
    format!("{} device sections {how}", devices.sections.len())
}

impl fmt::Display for Recognised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "recognised: {}, machine {}", self.release, self.machine)?;
        if self.return_path {
            f.write_str(", return path")?;
        }
        if self.channels > 0 {
            write!(f, ", multifd channels: {} ({})", self.channels, self.packed.unwrap_or("none packed"))?;
        }
        match self.capabilities.as_slice() {
            [] => Ok(()),
            names => write!(f, ", capabilities {}", names.join(" ")),
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let arrow = match self.direction {
            Direction::Forward => "->",
            Direction::Back => "<-",
        };
        let (at, since) = (self.at.as_secs_f64(), self.since.as_secs_f64());
        write!(f, "{at:>10.6} {since:>+10.6} {arrow} {:>12} {:>10}  ", self.offset, self.bytes)?;
        match self.channel {
            Some(Channel { id: Some(id), .. }) => write!(f, "channel {id}: ")?,
            Some(Channel { connection, .. }) => write!(f, "connection {connection}: ")?,
            None => {}
        }
        match &self.what {
            What::Image { ram, devices } => write!(f, "image: {}, {}", pages(ram), sections(devices)),
            What::Message { name, size: Some(size), .. } => write!(f, "{name} {size}"),
            What::Message { name, value: Some(value), .. } => write!(f, "{name} {value}"),
            What::Message { name, .. } => f.write_str(name),
            What::Recognised(recognised) => write!(f, "{recognised}"),
            What::Channel { uuid } => write!(f, "multifd, UUID {uuid}"),
            What::Sync { sync, packets, ram, packed } => {
                let packed = packed.map_or(String::new(), |packed| format!(", packed: {packed}"));
                write!(f, "SYNC {sync}: {}, packets: {packets}{packed}", pages(ram))
            }
            What::Ram { ram } => write!(f, "RAM: {}", pages(ram)),
            What::State { ram, devices } if ram.sections > 0 => {
                write!(f, "state: {}, {}", pages(ram), sections(devices))
            }
            What::State { devices, .. } => write!(f, "device state: {}", sections(devices)),
            What::Records { first, records, pages, emulator } => {
                let what = if *first { "image" } else { "checkpoint" };
                write!(f, "{what}: {pages} pages in {records} records, {emulator} bytes of device state")
            }
            What::Trouble { message, due, inside } => write!(f, "error: {message} (due: {due}; inside of: {inside})"),
            What::Again => f.write_str("understood again from here on"),
            What::Cut => f.write_str("cut: nothing passes any more"),
            What::End => f.write_str("end"),
            What::Broken { inside } => write!(f, "end inside of {inside}"),
        }
    }
}
