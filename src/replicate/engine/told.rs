//! What is told of a side besides its machine's own state.

use crate::protocol::{Generation, Level};
use crate::replicate::operator::{Notices, figures, millis_since};
use crate::replicate::stats::Statistics;
use crate::replicate::status::{Role, Status};
use crate::replicate::witness::Alarm;
use std::time::Instant;

/// What is told of a side: of which domain, whom the peer is called, and what the operator should know.
#[derive(Debug)]
pub(in crate::replicate) struct Told {
    pub domain: String,
    role: Role,
    pub peer: Option<String>,
    witness: String,
    notices: Notices,
    alarm: Alarm,
    begun: Instant,
}

impl Told {
    pub(super) fn new(domain: String, role: Role, peer: Option<String>, witness: String) -> Self {
        Told {
            domain,
            role,
            peer,
            witness,
            notices: Notices::default(),
            alarm: Alarm::default(),
            begun: Instant::now(),
        }
    }

    pub fn notice(&mut self, level: Level, text: impl Into<String>) {
        self.notices.add(&self.domain, level, text.into());
    }

    pub fn trouble(&mut self, text: impl Into<String>) {
        self.notice(Level::Critical, text);
    }

    /// What a look at the witness has shown; `known`: the newest generation that this side knows of.
    pub(super) fn looked(&mut self, looked: Result<Generation, String>, known: Option<Generation>) {
        if let Some((level, text)) = self.alarm.looked(looked, known) {
            self.notice(level, text);
        }
    }

    /// What there is to say whatever the protocol.
    pub(super) fn status(&self, statistics: &Statistics) -> Status {
        Status {
            domain: self.domain.clone(),
            role: self.role,
            peer: self.peer.clone(),
            elapsed_ms: millis_since(self.begun),
            witness: self.witness.clone(),
            alarm: self.alarm.text(),
            notices: self.notices.list(),
            statistics: figures(statistics),
            ..Status::default()
        }
    }
}
