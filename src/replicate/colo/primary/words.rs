//! The primary in words.
#![forbid(unsafe_code)]

use crate::colo::Primary;
use crate::colo::primary::{Cause, Code, Phase};
use crate::protocol::OutputCall;

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
    let text = match code {
        Code::Protected => "protected: the secondary has loaded the first checkpoint",
        Code::Leaving(cause) => {
            let why = match cause {
                Cause::Fault(fault) => fault.to_string(),
                Cause::LinkLost => "the connection to the secondary has ended".into(),
                Cause::PeerLost => "the secondary is silent".into(),
                Cause::LocalFailure => "a checkpoint could not be taken on this side".into(),
                Cause::Output => "the output buffer on this side has failed".into(),
                Cause::Asked => "the operator asked for it".into(),
            };
            return format!("giving up protection: {why}; output is held until that is decided");
        }
        Code::WitnessUnreachable => "the witness cannot be reached: output is held until it can",
        Code::Unprotected => "UNPROTECTED: the guest runs on, nothing survives this host's death",
        Code::Fenced => "FENCED: the other side is active, this guest stands still for good",
        Code::Forced => "going on alone on the operator's word that no other copy runs",
        Code::OutputFailed(call) => match call {
            OutputCall::Hold | OutputCall::Epoch => {
                "the output buffer cannot hold output: nothing is released until it is free"
            }
            OutputCall::Release => "the output buffer has not released output that both guests have sent: trying again",
            OutputCall::Free => "the output buffer cannot be freed: output is HELD, trying again",
            OutputCall::Discard => "the output buffer cannot drop what it holds: trying again",
        },
        Code::ResumeFailed => "SUSPENDED: the guest could not be resumed; a secondary that has a checkpoint takes over",
    };
    text.to_owned()
}
