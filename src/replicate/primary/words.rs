//! The primary in words: what its operator reads in the log.

use crate::protocol::OutputCall;
use crate::remus::RefuseReason;
use crate::remus::primary::{Cause, Code};

const fn cause(cause: Cause) -> &'static str {
    match cause {
        Cause::Silent => "the secondary is silent",
        Cause::AckLate => "the secondary lives but does not acknowledge",
        Cause::LinkLost => "the connection to the secondary has ended",
        Cause::Garbled => "the back channel is damaged",
        Cause::Refused => "the secondary refuses too many checkpoints",
        Cause::OverBudget => {
            "the secondary's --memory-budget, or its host's memory, is too small for what the guest dirties in an interval: raise it, or shorten the interval"
        }
        Cause::LocalFailure => "a checkpoint could not be taken on this side",
        Cause::Output => "the output buffer on this side has failed",
        Cause::Asked => "the operator asked for it",
        Cause::NotTakenOver => "the secondary has not taken over",
    }
}

pub(super) fn text(code: Code, guest_gone: bool) -> String {
    let text = match code {
        Code::Unprotected if guest_gone => "nothing is protected any more: the guest is gone",
        Code::Protected => "protected: the secondary has the first checkpoint",
        Code::BackAgain => "the secondary is heard again, or is kept: going on as before",
        Code::IntervalStretched => "the guest dirties faster than the link carries: checkpoints come later than asked",
        Code::Refused(RefuseReason::Budget) => {
            "the secondary has refused a checkpoint (budget): its --memory-budget is too small for what the guest dirtied; a whole image follows"
        }
        Code::Refused(reason) => {
            return format!("the secondary has refused a checkpoint ({reason}); a whole image follows");
        }
        Code::Leaving(why) => {
            return format!("giving up protection: {}; output is held until that is decided", cause(why));
        }
        Code::Unprotected => "UNPROTECTED: the guest runs on, nothing survives this host's death",
        Code::SecondaryLeft => "the secondary has ended its part",
        Code::WitnessUnreachable => "the witness cannot be reached: nothing changes until it can",
        Code::NoAnswer => "nobody answered",
        Code::NotConnected => "no connection to a secondary",
        Code::OtherDomain => "the receiver there takes another domain than this one: see its --domain",
        Code::Unsuited => {
            "the two sides do not suit: compare --rule, --heartbeat, --timeout, --witness, and the versions"
        }
        Code::BareRefused => "the other side is Xen's own receiver, without acknowledgements: --allow-bare takes it",
        Code::Bare => "the other side is Xen's own receiver",
        Code::BackChannelDamaged => "the back channel is damaged",
        Code::LocalFailure => "a checkpoint could not be taken on this side",
        Code::OutputFailed(call) => match call {
            OutputCall::Hold | OutputCall::Epoch => {
                "the output buffer cannot hold output: no checkpoint is taken until it is free"
            }
            OutputCall::Release => "the output buffer has not released output that is acknowledged: trying again",
            OutputCall::Free => "the output buffer cannot be freed: output is HELD, trying again",
            OutputCall::Discard => "the output buffer cannot drop what it holds: trying again",
        },
        Code::ResumeFailed => "SUSPENDED: the guest could not be resumed; a secondary that has a checkpoint takes over",
        Code::Fenced => "FENCED: the other side is active, this guest stands still for good",
        Code::SwitchedOver => "switched over: the guest runs on the other side",
        Code::OperatorNeeded => {
            "the secondary was told to take over and does not answer: only the operator knows who is active"
        }
        Code::Forced => "going on alone on the operator's word that no other copy runs",
    };
    text.to_owned()
}
