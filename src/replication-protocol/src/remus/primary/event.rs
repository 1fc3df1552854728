//! What goes into a primary and what comes out.

use crate::protocol::primary as common;
use crate::protocol::{self, Generation, Session};
use crate::remus::types::{Image, RefuseReason};
use crate::remus::wire::{Control, Farewell};
use core::time::Duration;

/// Something that has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// The live rounds of [`Action::BeginStream`] are done: what is left is small enough to suspend for.
    ImageReady {
        /// The checkpoint that the stream's first image will be.
        checkpoint: u64,
    },
    /// [`Action::CopyState`] is done: the checkpoint is in memory of its own, and the guest may run.
    StateCopied {
        /// Its number.
        checkpoint: u64,
    },
    /// [`Action::BeginStream`] or [`Action::CopyState`] failed here, not on the link.
    CopyFailed {
        /// The checkpoint.
        checkpoint: u64,
    },
    /// [`Action::Transmit`] is done, the CHECKPOINT frame included, or was given up for [`Action::StopTransmit`].
    CheckpointSent {
        /// The checkpoint.
        checkpoint: u64,
    },
    /// The connection asked for is there, and the peer is [`crate::remus::wire::Peer::Framed`].
    Connected,
    /// The connection asked for is there, and the peer is [`crate::remus::wire::Peer::Bare`].
    ConnectedBare,
    /// A frame from the secondary.
    Frame {
        /// The session in its header.
        session: Session,
        /// The frame.
        frame: Control,
    },
    /// The back channel cannot be read any further: [`crate::remus::wire::WireError`].
    Garbled,
    /// The connection could not be made, has ended, or a write to it failed.
    LinkLost {
        /// The session that it carried.
        session: Session,
    },
    /// What every primary hears of.
    Common(common::Event),
}

impl From<common::Event> for Event {
    fn from(event: common::Event) -> Self {
        Event::Common(event)
    }
}

/// What an operator can ask of a primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Command {
    /// Take a secondary, while the guest runs.
    Protect {
        /// A random number that no session had before.
        session: Session,
    },
    /// Stop protecting and run on. With a witness that cannot be reached it is not done, unless forced.
    Unprotect {
        /// The operator's word that no other copy is or will be active. The witness is not asked; also starts a guest again
        /// that was ended.
        force: bool,
    },
    /// Hand the guest to the secondary, without loss.
    SwitchOver,
    /// Change the interval, within [`crate::remus::Config::INTERVAL`].
    SetInterval(Duration),
}

/// Something to do. In order; each that is marked with an event answers with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Send STREAM, switch the dirty log on, and send a whole image while the guest runs, as the start of a new
    /// migration-v2 stream: [`Event::ImageReady`] or [`Event::CopyFailed`]. Abandons what was under way of an older stream.
    BeginStream {
        /// Number of the stream in the session.
        stream: u32,
        /// The checkpoint it will make.
        checkpoint: u64,
    },
    /// Copy what is dirty, and the state, to memory of its own; the guest is suspended: [`Event::StateCopied`] or
    /// [`Event::CopyFailed`].
    CopyState {
        /// Number of the checkpoint.
        checkpoint: u64,
    },
    /// Send what was copied, then CHECKPOINT, heartbeats in between: [`Event::CheckpointSent`].
    Transmit {
        /// Number of the checkpoint.
        checkpoint: u64,
        /// What it is.
        image: Image,
    },
    /// The checkpoint under way is refused already; drop the rest of it, at a frame's end:
    /// [`Event::CheckpointSent`] if [`Action::Transmit`] was asked for.
    StopTransmit {
        /// Number of the checkpoint.
        checkpoint: u64,
    },
    /// Let out packets of all epochs up to this one.
    ReleaseOutput {
        /// The last epoch.
        up_to_epoch: u64,
    },
    /// Connect to the secondary: [`Event::Connected`], [`Event::ConnectedBare`] or [`Event::LinkLost`].
    Connect {
        /// The session.
        session: Session,
        /// Its generation.
        generation: Generation,
    },
    /// Close the connection, what was written before sent if that needs no waiting. No event.
    CloseLink {
        /// Its session.
        session: Session,
    },
    /// Send a frame, ahead of DATA that waits.
    SendFrame(Control),
    /// Tell the operator.
    Notice(Notice),
    /// What every primary's driver does.
    Common(common::Action),
}

impl From<common::Action> for Action {
    fn from(action: common::Action) -> Self {
        Action::Common(action)
    }
}

/// Why a primary wants to go on alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The secondary has been silent for the time-out.
    Silent,
    /// The secondary lives and does not acknowledge.
    AckLate,
    /// The connection is gone.
    LinkLost,
    /// The back channel is damaged.
    Garbled,
    /// Too many refusals, in a row or over time.
    Refused,
    /// The same, the last one because the checkpoint does not fit into the secondary's memory.
    OverBudget,
    /// Suspending or copying failed here.
    LocalFailure,
    /// The output buffer failed here.
    Output,
    /// The operator asked for it.
    Asked,
    /// The secondary has not taken over after SWITCH_OVER.
    NotTakenOver,
}

impl Cause {
    /// Whether a sign of life of the peer makes it void.
    pub(super) const fn can_pass(self) -> bool {
        matches!(self, Cause::Silent | Cause::AckLate | Cause::NotTakenOver)
    }

    pub(super) const fn farewell(self) -> Farewell {
        match self {
            Cause::Asked => Farewell::Asked,
            _ => Farewell::Alone,
        }
    }
}

/// Why a guest stands still for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum End {
    /// The other side holds a newer generation.
    Fenced,
    /// The same, as asked.
    SwitchedOver,
    /// The guest is suspended and could not be resumed. Its output is held and the connection closed, so that a secondary takes
    /// over; where there is none, only the operator can resume it.
    Suspended,
}

/// What an operator is told.
pub type Notice = protocol::Notice<Code>;

/// What a notice says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// The peer has come back before anything was decided.
    BackAgain,
    /// The guest dirties faster than the link carries: checkpoints come later than asked.
    IntervalStretched,
    /// The secondary has discarded a checkpoint; a whole image follows.
    Refused(RefuseReason),
    /// Protection is being given up; output stays held until that is decided.
    Leaving(Cause),
    /// The secondary has ended its part.
    SecondaryLeft,
    /// Nobody answered.
    NoAnswer,
    /// The connection failed before a session was there.
    NotConnected,
    /// The peer's HELLO does not suit: capability, rule or generation.
    Unsuited,
    /// The peer's is another domain.
    OtherDomain,
    /// The peer has no framing and settings forbid to go on without.
    BareRefused,
    /// The peer has no framing: see [`crate::remus::wire::Capabilities::cost`].
    Bare,
    /// The back channel cannot be read.
    BackChannelDamaged,
    /// Suspending or copying failed here.
    LocalFailure,
    /// The other side is active, as asked.
    SwitchedOver,
    /// After SWITCH_OVER nobody answers and there is no witness: only the operator knows who is active.
    OperatorNeeded,
}
