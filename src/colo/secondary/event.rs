//! What goes into a secondary and what comes out.
#![forbid(unsafe_code)]

use crate::colo::dialect::Message;
use crate::colo::fault::Fault;
use crate::colo::wire::WireError;
use crate::remus::primary::Answer;
use crate::remus::{Generation, Level, Time, Timer};

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
    /// The connection has ended, inside of a message or a state or not, or a write to it failed.
    LinkLost,
    /// A deadline has come.
    Timer(Timer),
    /// The witness has answered.
    Witness(Answer),
    /// The fencing command has ended.
    Fenced {
        /// It says that the primary is dead.
        success: bool,
    },
    /// [`Action::ActivateGuest`] is done.
    Activated,
    /// The primary goes on alone, and nobody else may be active: said in a dialect of our own, behind everything else.
    Dismissed,
    /// The peer sends signs of life between messages, as a dialect of our own has them: [`Timer::Peer`] is in use from here on.
    Beats,
    /// What the link shows, reported before [`Timer::Peer`] is.
    Heard {
        /// When the last byte of the primary was read, on the machine's clock.
        read: Time,
        /// Whether bytes of it wait to be read.
        unread: bool,
    },
    /// Bytes of the connection's streams that have come so far, reported before [`Timer::Answer`] is.
    Progress {
        /// So many.
        bytes: u64,
    },
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
    /// Free the copy, stopping it if it runs: this side will not go active.
    DropCopy,
    /// Keep the copy, suspended, as [`crate::claim::Denied`]: this session will not let it go active, the operator may.
    KeepCopy,
    /// Run the fencing command: [`Event::Fenced`].
    RunFence {
        /// The generation that this side holds or would have.
        generation: Generation,
    },
    /// Let the guest run if it stands still, its output free: [`Event::Activated`].
    ActivateGuest {
        /// The checkpoint that it went on from, or does now.
        checkpoint: u64,
        /// The generation it is active in.
        generation: Generation,
    },
    /// Close the connection. No event.
    CloseLink,
    /// Take this generation: [`Event::Witness`].
    AskWitness {
        /// The one after the session's.
        generation: Generation,
    },
    /// Set a timer, in place of the deadline it had.
    SetTimer {
        /// Which.
        timer: Timer,
        /// When.
        at: Time,
    },
    /// Unset a timer.
    CancelTimer(Timer),
    /// Tell the operator.
    Notice(Notice),
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

/// A word to the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Notice {
    /// How loud.
    pub level: Level,
    /// What.
    pub code: Code,
}

/// What a notice says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// The first checkpoint is loaded: this side could take over.
    Ready,
    /// The primary is silent, or the connection is gone; with the fault when it is silent.
    PrimaryLost(Option<Fault>),
    /// The witness cannot be reached: passive until it can.
    WitnessUnreachable,
    /// The rule leaves it to the operator: `fail-over`.
    OperatorNeeded,
    /// The fencing command failed: passive. It is tried again.
    FenceFailed,
    /// Going active.
    Activating,
    /// Active.
    Active,
    /// No part any more.
    Ended(End),
    /// Done on the operator's word.
    Forced,
}
