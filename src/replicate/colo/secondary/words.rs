//! The secondary in words.
#![forbid(unsafe_code)]

use crate::colo::secondary::{Code, End, Notice, Phase};
use crate::colo::{Config, Secondary, fault};
use crate::replicate::operator::{Notices, figures, millis_since};
use crate::replicate::stats::Statistics;
use crate::replicate::status::Status;
use crate::replicate::status::{Framing, Guest, Output, Role};
use crate::replicate::witness::Alarm;
use std::time::Instant;

/// What is told of a secondary besides the machine's own state.
#[derive(Debug)]
pub(super) struct Words {
    pub domain: String,
    pub peer: String,
    pub witness: String,
    pub fence: bool,
    pub framed: bool,
    pub notices: Notices,
    pub alarm: Alarm,
    pub statistics: Statistics,
    pub last: Option<Instant>,
    pub begun: Instant,
}

/// The phase as a word, those of Remus where they say the same.
pub(super) fn phase(machine: Option<&Secondary>) -> &'static str {
    machine.map_or("greeting", |machine| phase_of(machine.phase()))
}

/// The same of a phase.
pub(super) const fn phase_of(phase: Phase) -> &'static str {
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
pub(super) fn end(end: End) -> String {
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

fn text(code: Code) -> String {
    let text = match code {
        Code::PrimaryLost(Some(fault)) => return format!("the primary counts as lost: {fault}"),
        Code::PrimaryLost(None) => "the primary counts as lost: the connection has ended, or it is silent",
        Code::Ended(why) => return end(why),
    };
    text.to_owned()
}

impl Words {
    pub(super) fn notice(&mut self, notice: Notice) {
        self.notices.add(&self.domain, notice.level, text(notice.code));
    }

    pub(super) fn status(&self, machine: Option<&Secondary>, config: &Config) -> Status {
        let (checkpoint, loaded) = machine.map_or((0, 0), Secondary::checkpoints);
        let session = machine.is_some_and(|machine| matches!(machine.phase(), Phase::Session(_)));
        Status {
            domain: self.domain.clone(),
            role: Role::Secondary,
            phase: phase(machine).into(),
            guest: match machine.map(Secondary::guest) {
                Some(fault::Guest::Running | fault::Guest::Suspending) => Guest::Running,
                None | Some(fault::Guest::Absent) => Guest::Absent,
                Some(_) => Guest::Suspended,
            },
            protected: session && loaded > 0,
            peer: Some(self.peer.clone()),
            framing: machine.map(|_| if self.framed { Framing::Framed } else { Framing::Bare }),
            rule: config.rule.name().into(),
            generation: machine.map_or(0, |machine| machine.generation().0),
            interval_ms: u64::try_from(config.period.as_millis()).unwrap_or(u64::MAX),
            output: Output::Held,
            checkpoint,
            acknowledged: loaded,
            since_last_ms: self.last.map(millis_since),
            elapsed_ms: millis_since(self.begun),
            witness: self.witness.clone(),
            fence: self.fence,
            alarm: self.alarm.text(),
            notices: self.notices.list(),
            statistics: figures(&self.statistics),
            ..Status::default()
        }
    }
}
