//! The primary in words.
#![forbid(unsafe_code)]

use crate::colo::Primary;
use crate::colo::primary::{Cause, Code, Phase};

/// The phase as a word, those of Remus where they say the same.
pub(super) const fn phase(machine: &Primary) -> &'static str {
    match machine.phase() {
        Phase::Idle => "connecting",
        Phase::Claiming => "claiming",
        Phase::Session(_) if machine.checkpoints().1 == 0 => "image",
        Phase::Session(_) => "protected",
        Phase::Leaving { .. } => "leaving",
        Phase::Alone => "alone",
        Phase::Ended => "fenced",
        Phase::Suspended => "suspended",
    }
}

pub(super) fn text(code: Code) -> String {
    let Code::Leaving(cause) = code;
    let why = match cause {
        Cause::Fault(fault) => fault.to_string(),
        Cause::LinkLost => "the connection to the secondary has ended".into(),
        Cause::PeerLost => "the secondary is silent".into(),
        Cause::LocalFailure => "a checkpoint could not be taken on this side".into(),
        Cause::Output => "the output buffer on this side has failed".into(),
        Cause::Asked => "the operator asked for it".into(),
    };
    format!("giving up protection: {why}; output is held until that is decided")
}
