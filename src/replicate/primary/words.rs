//! The primary in words: what its operator reads in the log.

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

pub(super) fn text(code: Code) -> String {
    let text = match code {
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
        Code::SecondaryLeft => "the secondary has ended its part",
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
        Code::SwitchedOver => "switched over: the guest runs on the other side",
        Code::OperatorNeeded => {
            "the secondary was told to take over and does not answer: only the operator knows who is active"
        }
    };
    text.to_owned()
}
