//! The secondary in words: what its operator reads in the log.

use crate::remus::RefuseReason;
use crate::remus::secondary::{Code, End};

/// What helps two sides of different versions.
pub const OTHER_VERSION: &str = "install the same version of xen-replicate on both hosts";

pub(super) fn text(code: Code) -> String {
    let text = match code {
        Code::PrimaryLost => "the primary is silent, or its connection has ended",
        Code::BackAgain => "the primary is heard again",
        Code::Refused(reason) => return format!("a checkpoint was refused ({reason}); the one before it stands"),
        Code::LinkDamaged => "the link is damaged, nothing more can be read from it",
        Code::WitnessBehind => {
            "the witness here does not know of this session's generation, so it is not the primary's: compare --witness on \
             both, and whether the folder is mounted"
        }
        Code::Unheld => {
            "mc-net-disable: the primary does not hold the guest's output: a failover can contradict what clients have seen"
        }
        Code::OtherDomain => "the primary protects another domain than the one named here by --domain",
        Code::Ended(end) => match end {
            End::Dismissed => "the primary has ended the session; the copy is freed",
            End::Denied => {
                "the witness denies this side: the primary, or somebody else, holds a newer generation; the replica is kept"
            }
            End::Empty => "the connection ended before one checkpoint was whole",
            End::CopyLost => "a checkpoint could not be applied: the copy is lost",
            End::Stopped => "stopped; the copy is freed",
            End::Unsuited => "the two sides do not suit: compare --rule, --heartbeat, --timeout and --witness on both",
        },
        Code::BadSwitchOver => "the primary asked for a switch-over to another checkpoint than the newest here",
    };
    text.to_owned()
}

/// The reason in words, with what is known of it.
pub(super) fn refusal_text(reason: RefuseReason, detail: Option<&str>) -> String {
    match detail {
        Some(detail) => format!("{reason}: {detail}"),
        None => reason.to_string(),
    }
}
