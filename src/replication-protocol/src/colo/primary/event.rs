//! What goes into a primary and what comes out.

use crate::colo::dialect::Message;
use crate::colo::fault::Fault;
use crate::colo::wire::WireError;
use crate::protocol::primary as common;
use crate::protocol::{self, Generation};

/// Something that has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// The connection is there, both ways, to a peer that knows of no generations.
    Connected,
    /// The same to one that does, and suits: a generation of the session's own comes first.
    Greeted,
    /// The live rounds of [`Action::SendImage`] are done: what is left is small enough to suspend for.
    ImageReady,
    /// [`Action::Collect`] is done.
    Collected {
        /// The checkpoint.
        checkpoint: u64,
        /// Bytes that [`Action::SendState`] will send: what vmstate-size says. Of no matter in a dialect without it.
        bytes: u64,
    },
    /// [`Action::SendImage`], [`Action::Collect`] or [`Action::SendState`] failed here, not on the link.
    CollectFailed,
    /// [`Action::SendState`] is done: the last byte is written. May come later than the peer's answer to it.
    StateSent {
        /// The checkpoint.
        checkpoint: u64,
    },
    /// The peer sends signs of life between messages, as a dialect of our own has them: [`crate::protocol::Timer::Peer`] is in use from here on.
    Beats,
    /// The secondary has said something. A dirty list is reported when the whole of it is merged into the dirty set.
    Message(Message),
    /// The back channel holds something that is no message, or a pfn that the guest does not have.
    Garbled(WireError),
    /// The connection has ended, inside of a message or not, or a write to it failed.
    LinkLost,
    /// Both guests have sent this packet in this epoch, in the order of its connection.
    Agreed {
        /// The checkpoint that both went on from.
        epoch: u64,
        /// The driver's number of the packet.
        packet: u64,
    },
    /// The guests have sent different packets in this epoch, or one has sent what the other has not for too long.
    Differ {
        /// The checkpoint that both went on from.
        epoch: u64,
    },
    /// What every primary hears of.
    Common(common::Event),
}

impl From<common::Event> for Event {
    fn from(event: common::Event) -> Self {
        Event::Common(event)
    }
}

/// What can be asked of a primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Command {
    /// Take a checkpoint as soon as the gap allows.
    Checkpoint,
    /// The secondary is dead, as a heartbeat outside of the protocol says: QEMU's `x-colo-lost-heartbeat`.
    PeerLost,
    /// Stop protecting and run on. With a witness its grant is needed, unless forced.
    Unprotect {
        /// The operator's word that no other copy is or will be active. Also starts a guest again that was ended.
        force: bool,
    },
}

/// Something to do. In order; each that is marked with an event answers with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Switch the dirty log on and send a whole image while the guest runs: [`Event::ImageReady`].
    SendImage,
    /// Collect what is dirty, and the device state; the guest is suspended: [`Event::Collected`] or
    /// [`Event::CollectFailed`].
    Collect {
        /// Number of the checkpoint, from 1.
        checkpoint: u64,
        /// The secondary's guest has run: what it has listed is dirty too.
        merge: bool,
    },
    /// Send a message.
    Send(Message),
    /// Send the dirty pages as RAM sections ([`crate::colo::Layout::Live`]). No event; later actions wait for it.
    SendMemory {
        /// Number of the checkpoint.
        checkpoint: u64,
    },
    /// Send the state, or what of it has not been sent: [`Event::StateSent`] or [`Event::CollectFailed`].
    SendState {
        /// Number of the checkpoint.
        checkpoint: u64,
    },
    /// Drop what is being collected or sent. The guest may run as soon as this is done.
    Abandon,
    /// Tell the secondary, in a dialect of our own, what the session is: its generation, which this side holds. No event.
    Begin {
        /// The session's.
        generation: Generation,
    },
    /// Tell the secondary, in a dialect of our own, that this side goes on alone: its copy is of no use any more. No event.
    Dismiss,
    /// Let out one packet: both guests have sent it.
    Release {
        /// Its epoch.
        epoch: u64,
        /// The driver's number of it.
        packet: u64,
    },
    /// Let out packets of all epochs up to this one: the secondary has loaded a later state. Drop what the secondary's guest
    /// has sent in them.
    ReleaseHeld {
        /// The last epoch.
        up_to_epoch: u64,
    },
    /// Close the connection. No event.
    CloseLink,
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

/// Why a primary does not go on with its secondary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// What the peer said, or did not say.
    Fault(Fault),
    /// The connection is gone.
    LinkLost,
    /// [`Command::PeerLost`].
    PeerLost,
    /// The guest could not be suspended, or its state not be collected or sent.
    LocalFailure,
    /// The output buffer failed here.
    Output,
    /// The operator asked for it.
    Asked,
}

/// What an operator is told.
pub type Notice = protocol::Notice<Code>;

/// What a notice says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// The session has ended here; who may be active is being decided.
    Leaving(Cause),
}
