//! What goes into a secondary and what comes out.

use crate::remus::primary::Answer;
use crate::remus::types::{Generation, Level, RefuseReason, Session, Time, Timer};
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
    /// The connection has ended, or a write to it failed.
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
    /// What the link shows, reported before [`Timer::Peer`] is.
    Heard {
        /// When the last byte of the primary was read, on the machine's clock.
        read: Time,
        /// Whether bytes of it wait to be read.
        unread: bool,
    },
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
    /// Free the copy: this side will not go active.
    DropCopy,
    /// Keep the copy, paused, as [`crate::claim::Denied`]: this session will not let it go active, the operator may.
    KeepCopy,
    /// Run the fencing command: [`Event::Fenced`].
    RunFence {
        /// The generation that this side holds or would have.
        generation: Generation,
    },
    /// Start the guest from this checkpoint, which is applied, with its output free: [`Event::Activated`].
    ActivateGuest {
        /// The checkpoint.
        checkpoint: u64,
        /// The generation it is active in.
        generation: Generation,
    },
    /// Close the connection. No event.
    CloseLink,
    /// Send a frame.
    SendFrame(Control),
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
    /// The first checkpoint is whole: this side could take over.
    Ready,
    /// The primary is silent, or the connection is gone.
    PrimaryLost,
    /// The primary has come back before anything was decided.
    BackAgain,
    /// A checkpoint was discarded.
    Refused(RefuseReason),
    /// The forward channel cannot be read.
    LinkDamaged,
    /// The witness cannot be reached: passive until it can.
    WitnessUnreachable,
    /// The witness here is not the primary's.
    WitnessBehind,
    /// The primary does not hold the guest's output.
    Unheld,
    /// The primary's is another domain.
    OtherDomain,
    /// The rule leaves it to the operator: `fail-over`.
    OperatorNeeded,
    /// The fencing command failed: passive. It is tried again while the primary is silent.
    FenceFailed,
    /// Going active.
    Activating,
    /// Active.
    Active,
    /// No part any more.
    Ended(End),
    /// Done on the operator's word.
    Forced,
    /// SWITCH_OVER with another checkpoint than the newest here.
    BadSwitchOver,
}
