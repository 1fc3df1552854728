//! What the machines of all primaries take alike, whatever the protocol. One driver reports it.

use super::{Answer, OutputCall, RunState, Time, Timer};

/// Something that has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// The guest is suspended, as asked.
    GuestSuspended,
    /// It could not be, which may be after it has acknowledged the request.
    SuspendFailed {
        /// What the guest is doing now.
        guest: RunState,
    },
    /// The guest runs again, as asked.
    GuestResumed,
    /// It could not be resumed: it is suspended still.
    ResumeFailed,
    /// An action on the output buffer failed, or an epoch could not be begun. Reported after all actions of the same event are carried
    /// out.
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
