//! What every primary and every secondary tells, in words: what their operator reads in the log.

use crate::protocol::{OutputCall, primary, secondary};

/// A notice of every primary. `gone`: its guest has ended by itself.
pub(super) const fn primary(code: primary::Code, gone: bool) -> &'static str {
    use primary::Code;
    match code {
        Code::Protected => "protected: the secondary has the first checkpoint",
        Code::WitnessUnreachable => "the witness cannot be reached: nothing changes until it can",
        Code::Unprotected if gone => "nothing is protected any more: the guest is gone",
        Code::Unprotected => "UNPROTECTED: the guest runs on, nothing survives this host's death",
        Code::Fenced => "FENCED: the other side is active, this guest stands still for good",
        Code::OutputFailed(call) => match call {
            OutputCall::Hold | OutputCall::Epoch => {
                "the output buffer cannot hold output: no checkpoint is taken until it is free"
            }
            OutputCall::Release => "the output buffer has not released output that may leave: trying again",
            OutputCall::Free => "the output buffer cannot be freed: output is HELD, trying again",
            OutputCall::Discard => "the output buffer cannot drop what it holds: trying again",
        },
        Code::ResumeFailed => "SUSPENDED: the guest could not be resumed; a secondary that has a checkpoint takes over",
        Code::Forced => "going on alone on the operator's word that no other copy runs",
    }
}

/// A notice of every secondary.
pub(super) const fn secondary(code: secondary::Code) -> &'static str {
    use secondary::Code;
    match code {
        Code::Ready => "the first checkpoint is whole: this side could take over",
        Code::WitnessUnreachable => "the witness cannot be reached: this side stays passive until it can",
        Code::OperatorNeeded => {
            "the rule in use leaves it to the operator who is active: ctl fail-over makes the guest here the active one"
        }
        Code::FenceFailed => "the fencing command has failed: this side stays passive",
        Code::Forced => "going active on the operator's word that no other copy runs",
        Code::Activating => "going active",
        Code::Active => "active",
    }
}
