//! The secondary in words: what its operator reads in the log and in the status.

use crate::remus::secondary::{Code, End, Notice, Phase};
use crate::remus::{Level, RefuseReason, Secondary};
use crate::replicate::operator::{Notices, figures, millis_since};
use crate::replicate::stats::Statistics;
use crate::replicate::status::Status;
use crate::replicate::status::{Framing, Guest, Output, Role, secondary_phase as phase};
use crate::replicate::witness::Alarm;
use std::time::Instant;

/// What is told of a secondary besides the machine's own state.
#[derive(Debug)]
pub(super) struct Words {
    pub domain: String,
    pub peer: String,
    pub witness: String,
    pub fence: bool,
    pub notices: Notices,
    pub alarm: Alarm,
    pub statistics: Statistics,
    /// When the newest checkpoint came.
    pub last: Option<Instant>,
    pub begun: Instant,
}

/// What helps two sides of different versions.
pub const OTHER_VERSION: &str = "install the same version of xen-replicate on both hosts";

fn text(code: Code) -> String {
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

impl Words {
    pub(super) fn notice(&mut self, notice: Notice) {
        self.notices.add(&self.domain, notice.level, text(notice.code));
    }

    pub(super) fn refused(&mut self, checkpoint: u64, reason: RefuseReason, detail: Option<&str>) {
        self.statistics.refused += 1;
        let text = format!("checkpoint {checkpoint} is refused: {}", super::run::refusal(reason, detail));
        self.notices.add(&self.domain, Level::Warning, text);
    }

    pub(super) fn status(&self, machine: &Secondary) -> Status {
        let newest = machine.newest().unwrap_or_default();
        let config = machine.config();
        Status {
            domain: self.domain.clone(),
            simulated: false,
            role: Role::Secondary,
            phase: phase(machine.phase()).into(),
            guest: if machine.phase() == Phase::Active { Guest::Running } else { Guest::Absent },
            protected: machine.newest().is_some() && machine.phase() == Phase::Passive,
            peer: Some(self.peer.clone()),
            framing: (machine.phase() != Phase::Greeting).then_some(Framing::Framed),
            rule: config.rule.name().into(),
            generation: machine.generation().0,
            session: if machine.session().0 == 0 { String::new() } else { format!("{:016x}", machine.session().0) },
            interval_ms: 0,
            output: Output::Held,
            checkpoint: newest,
            acknowledged: newest,
            since_last_ms: self.last.map(millis_since),
            elapsed_ms: millis_since(self.begun),
            witness: self.witness.clone(),
            fence: self.fence,
            adaptive: None,
            alarm: self.alarm.text(),
            notices: self.notices.list(),
            statistics: figures(&self.statistics),
            kept: None,
            lock_step: None,
        }
    }
}
