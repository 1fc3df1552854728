//! The primary in words and figures.
#![forbid(unsafe_code)]

use super::OnRound;
use crate::colo::primary::{Cause, Code, Notice, Phase};
use crate::colo::{Config, Mode, Primary, fault};
use crate::control::Status;
use crate::control::lock_step::LockStep;
use crate::control::status::{Framing, Guest, Output, Role, Summary};
use crate::remus::{Level, OutputCall};
use crate::replicate::operator::{Notices, figures, millis_since};
use crate::replicate::stats::{Histogram, RoundFigures, Statistics};
use crate::replicate::witness::Alarm;
use std::time::{Duration, Instant};

/// What is told of a primary besides the machine's own state.
#[derive(Debug)]
pub(super) struct Words {
    pub domain: String,
    pub witness: String,
    pub notices: Notices,
    pub alarm: Alarm,
    pub peer: Option<String>,
    pub framed: bool,
    pub begun: Instant,
}

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

fn text(code: Code) -> String {
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

impl Words {
    pub(super) fn notice(&mut self, notice: Notice) {
        self.notices.add(&self.domain, notice.level, text(notice.code));
    }

    pub(super) fn trouble(&mut self, text: String) {
        self.notices.add(&self.domain, Level::Critical, text);
    }

    pub(super) fn status(&self, machine: &Primary, rounds: &Rounds) -> Status {
        let (checkpoint, loaded) = machine.checkpoints();
        let config: &Config = machine.config();
        Status {
            domain: self.domain.clone(),
            role: Role::Primary,
            phase: phase(machine).into(),
            guest: match machine.guest() {
                fault::Guest::Running | fault::Guest::Suspending => Guest::Running,
                fault::Guest::Paused | fault::Guest::Absent => Guest::Stopped,
                _ => Guest::Suspended,
            },
            protected: matches!(machine.phase(), Phase::Session(_)) && loaded > 0,
            peer: self.peer.clone(),
            framing: self.peer.as_ref().map(|_| if self.framed { Framing::Framed } else { Framing::Bare }),
            rule: config.rule.name().into(),
            generation: machine.generation().0,
            interval_ms: u64::try_from(config.period.as_millis()).unwrap_or(u64::MAX),
            output: if machine.is_held() { Output::Held } else { Output::Free },
            checkpoint,
            acknowledged: loaded,
            since_last_ms: rounds.last.map(millis_since),
            elapsed_ms: millis_since(self.begun),
            witness: self.witness.clone(),
            alarm: self.alarm.text(),
            notices: self.notices.list(),
            statistics: figures(&rounds.statistics),
            lock_step: Some(LockStep {
                periodic: config.mode == Mode::Periodic,
                latency: Summary::from_nanos(rounds.latency.summary()),
                ..rounds.counts
            }),
            ..Status::default()
        }
    }
}

/// The rounds in figures.
pub(super) struct Rounds {
    statistics: Statistics,
    on_round: Option<OnRound>,
    round: RoundFigures,
    /// When the round was begun, and when its state was sent.
    begun: Option<Instant>,
    sent: Option<Instant>,
    last: Option<Instant>,
    latency: Histogram,
    counts: LockStep,
    /// A difference has been found since the last checkpoint.
    differs: bool,
}

impl Rounds {
    pub(super) fn new(on_round: Option<OnRound>) -> Self {
        Rounds {
            statistics: Statistics::default(),
            on_round,
            round: RoundFigures::default(),
            begun: None,
            sent: None,
            last: None,
            latency: Histogram::default(),
            counts: LockStep::default(),
            differs: false,
        }
    }

    pub(super) const fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    pub(super) const fn agreed(&mut self) {
        self.counts.agreed += 1;
    }

    pub(super) const fn differ(&mut self) {
        self.differs = true;
    }

    pub(super) const fn waited(&mut self, packets: u64) {
        self.counts.waited = self.counts.waited.saturating_add(packets);
    }

    /// NEW is said.
    pub(super) fn begin(&mut self) {
        self.begun = Some(Instant::now());
        let count =
            if std::mem::take(&mut self.differs) { &mut self.counts.by_difference } else { &mut self.counts.by_period };
        *count += 1;
    }

    pub(super) fn collected(&mut self, number: u64, dirty_pages: u64) {
        self.round = RoundFigures { number, dirty_pages, ..RoundFigures::default() };
    }

    pub(super) fn sent(&mut self, bytes: u64, took: Duration) {
        (self.round.bytes, self.round.transmission) = (bytes, took);
        self.sent = Some(Instant::now());
    }

    /// The secondary has loaded it, and the guest runs again.
    pub(super) fn resumed(&mut self, pause: Duration, loaded: bool) {
        self.round.pause = pause;
        if !loaded {
            return;
        }
        self.last = Some(Instant::now());
        if let Some(begun) = self.begun.take() {
            self.latency.add_time(begun.elapsed());
        }
        self.statistics.add(&self.round);
        if let Some(tell) = &mut self.on_round {
            tell(&self.round);
        }
    }

    pub(super) fn loaded(&mut self) {
        if let Some(sent) = self.sent.take() {
            self.round.acknowledgement = sent.elapsed();
        }
    }
}
