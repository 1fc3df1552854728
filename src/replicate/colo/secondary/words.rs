//! The secondary in words.
#![forbid(unsafe_code)]

use crate::colo::Secondary;
use crate::colo::secondary::{Code, End, Phase};

/// The phase as a word, those of Remus where they say the same.
pub(super) fn phase(machine: Option<&Secondary>) -> &'static str {
    machine.map_or("greeting", |machine| phase_of(machine.phase()))
}

/// The same of a phase.
const fn phase_of(phase: Phase) -> &'static str {
    match phase {
        Phase::Session(_) => "passive",
        Phase::Lost => "lost",
        Phase::Claiming => "claiming",
        Phase::Fencing => "fencing",
        Phase::Activating => "activating",
        Phase::Active => "active",
        Phase::Ended(_) => "ended",
    }
}

/// Why there is no part any more.
fn end(end: End) -> String {
    match end {
        End::Fault(fault) => format!("{fault}; the primary lives, the copy is freed"),
        End::Denied => {
            "the witness denies this side: the primary, or somebody else, holds a newer generation; the replica is kept"
                .into()
        }
        End::Dismissed => "the primary goes on alone; the copy is freed".into(),
        End::Empty => "the connection ended before the first image was whole".into(),
        End::CopyLost => "the copy is lost".into(),
        End::Stopped => "stopped; the copy is freed".into(),
    }
}

pub(super) fn text(code: Code) -> String {
    let text = match code {
        Code::PrimaryLost(Some(fault)) => return format!("the primary counts as lost: {fault}"),
        Code::PrimaryLost(None) => "the primary counts as lost: the connection has ended, or it is silent",
        Code::Ended(why) => return end(why),
    };
    text.to_owned()
}
