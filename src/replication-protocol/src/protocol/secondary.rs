//! What the machines of all secondaries take and give alike, whatever the protocol. One driver carries it out.

use super::{Answer, Generation, Notice, Time, Timer};

/// Something that has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// The connection has ended, inside of a message or not, or a write to it failed.
    LinkLost,
    /// What the link shows, reported before [`Timer::Peer`] is.
    Heard {
        /// When the last byte of the primary was read, on the machine's clock.
        read: Time,
        /// Whether bytes of it wait to be read.
        unread: bool,
    },
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
}

/// Something to do, in order with the protocol's own actions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Free the replica, stopping it if it runs: this side will not go active.
    DropReplica,
    /// Keep the replica, paused, as [`crate::claim::Denied`]: this session will not let it go active, the operator may.
    KeepReplica,
    /// Take this generation: [`Event::Witness`].
    AskWitness {
        /// The one after the session's.
        generation: Generation,
    },
    /// Run the fencing command: [`Event::Fenced`].
    RunFence {
        /// The generation that this side holds or would have.
        generation: Generation,
    },
    /// Let the guest run, its output free: [`Event::Activated`].
    ActivateGuest {
        /// The checkpoint that it goes on from, now or since a while ago.
        checkpoint: u64,
        /// The generation it is active in.
        generation: Generation,
    },
    /// Close the connection. No event.
    CloseLink,
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
    Notice(Notice<Code>),
}

/// What a notice says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// There is a replica: this side could take over.
    Ready,
    /// The witness cannot be reached: passive until it can.
    WitnessUnreachable,
    /// The rule leaves it to the operator: `fail-over`.
    OperatorNeeded,
    /// The fencing command failed: passive. It is tried again while the primary is lost.
    FenceFailed,
    /// Done on the operator's word.
    Forced,
    /// Going active.
    Activating,
    /// Active.
    Active,
}
