//! The frames as values.

use super::{Capabilities, Seal};
use crate::protocol::{Generation, Rule, Session};
use crate::remus::types::RefuseReason;

/// Which way a row of bytes runs. Each has frames of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the primary to the secondary.
    Forward,
    /// From the secondary to the primary.
    Backward,
}

/// What a side says of itself, in the first frame of each direction. The primary's comes first; the secondary's answers it
/// in the same session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hello {
    /// What the sender can and will do.
    pub capabilities: Capabilities,
    /// Who may be active alone, as the sender was told.
    pub rule: Rule,
    /// The newest generation that the primary knows of; the secondary repeats it. The session's is the next, which the primary
    /// acquires once it has the secondary's HELLO, and says in BEGIN.
    pub generation: Generation,
    /// Between two heartbeats of the sender, in milliseconds.
    pub heartbeat_ms: u32,
    /// Silence after which the sender counts its peer as lost, in milliseconds.
    pub timeout_ms: u32,
    /// The sum of the sender's domain name ([`name_sum`]), 0 from a peer that does not say.
    pub domain: u64,
}

/// What [`Hello::domain`] has of a name: XXH3-64 with seed 0, never 0.
pub fn name_sum(name: &str) -> u64 {
    xxhash_rust::xxh3::xxh3_64(name.as_bytes()).max(1)
}

/// Why a side ends the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Farewell {
    /// The operator asked for it.
    Asked = 1,
    /// The sender was told to end.
    Stopping = 2,
    /// The primary has gone on alone and holds a newer generation.
    Alone = 3,
    /// The secondary's copy is lost.
    CopyLost = 4,
    /// The other's HELLO does not suit.
    Unsuited = 5,
}

impl Farewell {
    /// The farewell of a number on the wire.
    pub const fn from_wire(value: u32) -> Option<Farewell> {
        match value {
            1 => Some(Farewell::Asked),
            2 => Some(Farewell::Stopping),
            3 => Some(Farewell::Alone),
            4 => Some(Farewell::CopyLost),
            5 => Some(Farewell::Unsuited),
            _ => None,
        }
    }
}

/// Every frame but DATA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Control {
    /// Type 1, both ways.
    Hello(Hello),
    /// Type 3, forward: the next DATA is the first of a new migration-v2 stream, from its header on. What there was of the
    /// stream before, behind its last whole checkpoint, is void.
    Stream {
        /// Number of the stream in the session, from 1.
        number: u32,
        /// The checkpoint that its first image will be.
        checkpoint: u64,
    },
    /// Type 4, forward: the DATA since the last CHECKPOINT or STREAM is a whole checkpoint.
    Checkpoint(Seal),
    /// Type 5, both ways: the sender lives. May stand between any two frames.
    Heartbeat {
        /// The newest generation the sender knows.
        generation: Generation,
    },
    /// Type 6, forward: go active with this checkpoint. The sender's guest stands still and stays so, unless the sender
    /// takes the next generation.
    SwitchOver {
        /// The checkpoint, acknowledged already.
        checkpoint: u64,
        /// The generation of the session.
        generation: Generation,
    },
    /// Type 7, both ways: the session ends. Backward, also: I have no copy and will not go active.
    Goodbye {
        /// Why.
        reason: Farewell,
    },
    /// Type 8, backward: I have this checkpoint whole and checked, and can go on from it without you.
    Ack {
        /// Its number.
        checkpoint: u64,
    },
    /// Type 9, backward: I have discarded this checkpoint, and what I acknowledged before still stands. Begin a new stream.
    /// A text for people may follow.
    Refuse {
        /// Its number.
        checkpoint: u64,
        /// Why.
        reason: RefuseReason,
    },
    /// Type 10, backward: I have taken this generation and am going active. Stand still.
    Active {
        /// The generation taken.
        generation: Generation,
        /// The checkpoint gone on from.
        checkpoint: u64,
    },
    /// Type 11, forward, once, before the first STREAM: I have acquired the session's generation, the one after that of the
    /// HELLOs.
    Begin {
        /// The generation of the session.
        generation: Generation,
    },
}

/// Bit 7 of a type: a receiver may skip the frame.
pub(super) const OPTIONAL: u8 = 0x80;
pub(super) const DATA: u8 = 2;

impl Control {
    /// The number on the wire.
    pub const fn type_id(&self) -> u8 {
        match self {
            Control::Hello(_) => 1,
            Control::Stream { .. } => 3,
            Control::Checkpoint(_) => 4,
            Control::Heartbeat { .. } => 5,
            Control::SwitchOver { .. } => 6,
            Control::Goodbye { .. } => 7,
            Control::Ack { .. } => 8,
            Control::Refuse { .. } => 9,
            Control::Active { .. } => 10,
            Control::Begin { .. } => 11,
        }
    }

    /// Whether the frame may stand in a row of this direction.
    pub const fn runs(&self, direction: Direction) -> bool {
        may_run(self.type_id(), direction)
    }
}

pub(super) const fn may_run(type_id: u8, direction: Direction) -> bool {
    match type_id {
        1 | 5 | 7 => true,
        2 | 3 | 4 | 6 | 11 => matches!(direction, Direction::Forward),
        8..=10 => matches!(direction, Direction::Backward),
        _ => false,
    }
}

pub(super) const fn name(type_id: u8) -> &'static str {
    match type_id {
        1 => "HELLO",
        2 => "DATA",
        3 => "STREAM",
        4 => "CHECKPOINT",
        5 => "HEARTBEAT",
        6 => "SWITCH_OVER",
        7 => "GOODBYE",
        8 => "ACK",
        9 => "REFUSE",
        10 => "ACTIVE",
        11 => "BEGIN",
        _ => "an unknown frame",
    }
}

/// One frame, as received. Borrows what was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The session it belongs to. [`Session`] of the first HELLO forward is the session of the connection.
    pub session: Session,
    /// What it carries.
    pub body: Body<'a>,
}

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body<'a> {
    /// The next bytes of the migration-v2 stream.
    Data(&'a [u8]),
    /// Any other frame of this version.
    Control(Control),
    /// A REFUSE with its text, which may hold any bytes.
    Refuse {
        /// The checkpoint refused.
        checkpoint: u64,
        /// Why.
        reason: RefuseReason,
        /// For people.
        detail: &'a [u8],
    },
    /// A frame of a later version that may be skipped.
    Unknown {
        /// Its type.
        type_id: u8,
    },
}

impl Body<'_> {
    /// The control frame, text left out.
    pub const fn control(&self) -> Option<Control> {
        match *self {
            Body::Control(control) => Some(control),
            Body::Refuse { checkpoint, reason, .. } => Some(Control::Refuse { checkpoint, reason }),
            Body::Data(_) | Body::Unknown { .. } => None,
        }
    }
}
