//! What goes into a secondary and what comes out.

use crate::protocol::{self, Session, secondary as common};
use crate::remus::types::RefuseReason;
use crate::remus::wire::Control;

/// Something that has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// A frame from the primary, CHECKPOINT excepted.
    Frame {
        /// The session in its header.
        session: Session,
        /// The frame.
        frame: Control,
    },
    /// A CHECKPOINT frame, held against the bytes received ([`crate::remus::wire::Digest::verify`]) and the whole of them
    /// parsed into memory of their own.
    Checkpoint {
        /// The session in its header.
        session: Session,
        /// The number in it.
        number: u64,
        /// What is wrong with it, if anything.
        verdict: Result<(), RefuseReason>,
    },
    /// The stream is unsound, or too large, before its CHECKPOINT frame has come.
    Damaged {
        /// What is wrong.
        reason: RefuseReason,
    },
    /// [`Action::ApplyCheckpoint`] is done.
    Applied {
        /// The checkpoint.
        checkpoint: u64,
    },
    /// [`Action::ApplyCheckpoint`] failed half-way: there is no sound copy any more.
    ApplyFailed {
        /// The checkpoint.
        checkpoint: u64,
    },
    /// The forward channel cannot be read any further: [`crate::remus::wire::WireError`].
    Garbled,
    /// The primary's HELLO is of another version.
    OtherVersion,
    /// The witness, as this side sees it, does not know of the session's generation, which it must have given: it is not
    /// the primary's.
    WitnessBehind,
    /// What every secondary hears of.
    Common(common::Event),
}

impl From<common::Event> for Event {
    fn from(event: common::Event) -> Self {
        Event::Common(event)
    }
}

/// What an operator can ask of a secondary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Command {
    /// Go active. With a witness its grant is still needed; with a fencing command its success. Refused while the primary is heard.
    FailOver {
        /// While the primary is heard: fail over all the same, the witness being asked and the fencing command run as without.
        /// Otherwise the operator's word that the primary is not and will not be active: nobody is asked and nothing is run.
        force: bool,
    },
    /// Give up the copy and end.
    Stop,
}

/// Something to do, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Load the checkpoint, which is whole and sound, over the one before: [`Event::Applied`] or [`Event::ApplyFailed`].
    /// Its memory is kept until then.
    ApplyCheckpoint {
        /// Its number.
        checkpoint: u64,
    },
    /// Free what has been received of it.
    DropCheckpoint {
        /// Its number.
        checkpoint: u64,
        /// What was wrong with it; `None` when it is merely of no use any more.
        reason: Option<RefuseReason>,
    },
    /// Send a frame.
    SendFrame(Control),
    /// Tell the operator.
    Notice(Notice),
    /// What every secondary's driver does.
    Common(common::Action),
}

impl From<common::Action> for Action {
    fn from(action: common::Action) -> Self {
        Action::Common(action)
    }
}

/// Why a secondary has no part any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum End {
    /// The primary has ended the session.
    Dismissed,
    /// The witness has given the next generation, or a newer one, to somebody else. The copy is kept.
    Denied,
    /// The primary was lost before one checkpoint was whole.
    Empty,
    /// The copy is lost: a checkpoint could not be applied.
    CopyLost,
    /// The operator asked for it.
    Stopped,
    /// The two sides do not suit: capability, rule, times, or witness.
    Unsuited,
}

/// What an operator is told of Remus alone.
pub type Notice = protocol::Notice<Code>;

/// What a notice says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// The primary is silent, or the connection is gone.
    PrimaryLost,
    /// The primary has come back before anything was decided.
    BackAgain,
    /// A checkpoint was discarded.
    Refused(RefuseReason),
    /// The forward channel cannot be read.
    LinkDamaged,
    /// The witness here is not the primary's.
    WitnessBehind,
    /// The primary does not hold the guest's output.
    Unheld,
    /// The primary's is another domain.
    OtherDomain,
    /// No part any more.
    Ended(End),
    /// SWITCH_OVER with another checkpoint than the newest here.
    BadSwitchOver,
}
