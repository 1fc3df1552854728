//! What the machines of all primaries take and give alike, whatever the protocol. One driver reports it and carries it out.

use super::{Answer, Generation, Level, Notice, OutputCall, RunState, Time, Timer};
use alloc::vec::Vec;

/// Something that has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// [`Action::Suspend`] is done.
    GuestSuspended,
    /// [`Action::Suspend`] failed, which may be after the guest has acknowledged it.
    SuspendFailed {
        /// What the guest is doing now.
        guest: RunState,
    },
    /// [`Action::Resume`] is done.
    GuestResumed,
    /// [`Action::Resume`] failed: the guest is suspended still.
    ResumeFailed,
    /// An action on the output buffer failed, or the epoch of [`Action::Resume`] could not be begun. Reported after all actions of
    /// the same event are carried out.
    OutputFailed(OutputCall),
    /// What the link shows, reported before [`Timer::Peer`] is.
    Heard {
        /// When the last byte of the peer was read, on the machine's clock.
        read: Time,
        /// Whether bytes of it wait to be read.
        unread: bool,
    },
    /// Bytes of the connection's streams that the link has taken so far, reported before [`Timer::Answer`] is.
    Progress {
        /// So many.
        bytes: u64,
    },
    /// A deadline has come.
    Timer(Timer),
    /// The witness has answered.
    Witness(Answer),
}

/// Something to do, in order with the protocol's own actions. Each that is marked with an event answers with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Suspend the guest: [`Event::GuestSuspended`] or [`Event::SuspendFailed`].
    Suspend,
    /// Stamp packets with this epoch from now on, and let the guest run: [`Event::GuestResumed`] or [`Event::ResumeFailed`].
    Resume {
        /// The checkpoint it goes on from.
        epoch: u64,
    },
    /// Let out what has been sent so far, then hold. The guest is suspended.
    HoldOutput,
    /// Let out everything, from now on as it is sent.
    FreeOutput,
    /// Drop what is held.
    DiscardOutput,
    /// Stop the guest and keep it stopped. It is not the active copy any more.
    PauseGuest,
    /// Take this generation: [`Event::Witness`].
    AskWitness {
        /// The one after the newest known.
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
    Notice(Notice<Code>),
}

/// What a notice says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// The secondary has the first checkpoint.
    Protected,
    /// The witness cannot be reached. Output that is held stays so until it can.
    WitnessUnreachable,
    /// The guest runs unprotected, its output free.
    Unprotected,
    /// The guest stands still for good: the other side holds a newer generation.
    Fenced,
    /// The output buffer failed.
    OutputFailed(OutputCall),
    /// The guest is suspended and could not be resumed.
    ResumeFailed,
    /// Done on the operator's word.
    Forced,
}

/// Sets a timer.
pub fn set<A: From<Action>>(timer: Timer, at: Time, out: &mut Vec<A>) {
    out.push(Action::SetTimer { timer, at }.into());
}

/// Unsets a timer.
pub fn cancel<A: From<Action>>(timer: Timer, out: &mut Vec<A>) {
    out.push(Action::CancelTimer(timer).into());
}

/// Tells the operator.
pub fn tell<A: From<Action>>(level: Level, code: Code, out: &mut Vec<A>) {
    out.push(Action::Notice(Notice { level, code }).into());
}
