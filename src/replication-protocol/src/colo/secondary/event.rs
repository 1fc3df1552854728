//! What goes into a secondary and what comes out.

use crate::colo::dialect::Message;
use crate::colo::fault::Fault;
use crate::colo::wire::WireError;
use crate::protocol::{self, secondary as common};

/// Something that has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// The RAM of a checkpoint is there, up to its end mark ([`crate::colo::Layout::Live`]), beside the guest's own.
    MemoryReceived {
        /// The checkpoint.
        checkpoint: u64,
    },
    /// The first image, or all of a later state, is there: whole, sound, and in memory of its own.
    StateReceived {
        /// The checkpoint.
        checkpoint: u64,
    },
    /// The image or the state is unsound, or longer or shorter than its size says.
    StateDamaged,
    /// [`Action::Load`] is done.
    Loaded {
        /// The checkpoint.
        checkpoint: u64,
    },
    /// [`Action::Load`], [`Action::Suspend`] or [`Action::Resume`] failed: there is no sound copy any more.
    CopyFailed,
    /// [`Action::Suspend`] is done.
    GuestSuspended,
    /// [`Action::Resume`] is done.
    GuestResumed,
    /// The primary has said something.
    Message(Message),
    /// The forward channel holds something that is no message.
    Garbled(WireError),
    /// The primary goes on alone, and nobody else may be active: said in a dialect of our own, behind everything else.
    Dismissed,
    /// The peer sends signs of life between messages, as a dialect of our own has them: [`crate::protocol::Timer::Peer`] is in use from here on.
    Beats,
    /// Bytes of the connection's streams that have come so far, reported before [`crate::protocol::Timer::Answer`] is.
    Progress {
        /// So many.
        bytes: u64,
    },
    /// What every secondary hears of.
    Common(common::Event),
}

impl From<common::Event> for Event {
    fn from(event: common::Event) -> Self {
        Event::Common(event)
    }
}

/// What can be asked of a secondary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Command {
    /// The primary is dead, as a heartbeat outside of the protocol says: QEMU's `x-colo-lost-heartbeat`. With a witness its
    /// grant is still needed; with a fencing command its success.
    PeerLost,
    /// Go active: as [`Command::PeerLost`], and under [`crate::remus::Rule::Manual`] too. Refused in the session: the primary lives.
    FailOver {
        /// In the session: fail over all the same, the witness being asked and the fencing command run as without. After it the
        /// operator's word that the primary is not and will not be active: nobody is asked and nothing is run.
        force: bool,
    },
    /// Give up the copy and end.
    Stop,
}

/// Something to do. In order; each that is marked with an event answers with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Send a message.
    Send(Message),
    /// Send the list of pages that the guest has written since it was loaded, as a libxc record; empty when it has not run.
    SendDirtyList,
    /// Receive RAM up to its end mark, without touching the guest's: [`Event::MemoryReceived`] or [`Event::StateDamaged`].
    ReceiveMemory {
        /// Its checkpoint.
        checkpoint: u64,
    },
    /// Receive the state into memory of its own: [`Event::StateReceived`] or [`Event::StateDamaged`].
    ReceiveState {
        /// Its checkpoint.
        checkpoint: u64,
        /// Exactly so many bytes, within [`crate::colo::Config::budget`]; `None` when the state shows its own end.
        bytes: Option<u64>,
    },
    /// Free what has been received of this checkpoint.
    DropState {
        /// The checkpoint.
        checkpoint: u64,
    },
    /// Replace the guest's state by what was received; the guest stands still: [`Event::Loaded`] or [`Event::CopyFailed`].
    Load {
        /// The checkpoint.
        checkpoint: u64,
    },
    /// Suspend the guest: [`Event::GuestSuspended`] or [`Event::CopyFailed`].
    Suspend,
    /// Let the guest run, and have what it sends compared; nothing of it may leave: [`Event::GuestResumed`] or
    /// [`Event::CopyFailed`].
    Resume {
        /// The checkpoint it goes on from.
        epoch: u64,
    },
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
    /// What the primary said. It lives.
    Fault(Fault),
    /// The witness has given the next generation, or a newer one, to somebody else. The copy is kept.
    Denied,
    /// The primary goes on alone, and says so.
    Dismissed,
    /// The primary was lost before the first image was whole.
    Empty,
    /// The copy is lost: it could not be loaded, suspended or resumed.
    CopyLost,
    /// The operator asked for it.
    Stopped,
}

/// What an operator is told of COLO alone.
pub type Notice = protocol::Notice<Code>;

/// What a notice says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// The primary is silent, or the connection is gone; with the fault when it is silent.
    PrimaryLost(Option<Fault>),
    /// No part any more.
    Ended(End),
}
