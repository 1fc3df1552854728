//! The verdict.

use super::child::Round;
use super::state::Comparison;
use crate::control::lock_step::LockStep;
use crate::outside::Seen;
use crate::replicate::{RoundFigures, Statistics};
use indicatif::{HumanBytes, HumanCount};
use serde::{Serialize, Serializer};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::Duration;

/// What came of the demonstration.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    /// The guest runs, with the state that it had, and is sound.
    pub survived: bool,
    /// Checkpoints that the secondary has received whole.
    pub received: u64,
    /// What the primary told.
    #[serde(serialize_with = "statistics")]
    pub sent: Statistics,
    pub failover: Option<Failover>,
    /// What the guests' outputs came to, in COLO.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lock_step: Option<LockStep>,
    /// What the client outside saw.
    client: Option<Seen>,
    /// Whether it heard the survivor.
    heard: bool,
    /// Pages compared byte by byte.
    pages_compared: u64,
    /// Pages not compared: rings that a restore clears.
    pages_left_out: Vec<u64>,
    /// The first difference between the primary's state at the checkpoint and the survivor's.
    difference: Option<String>,
    /// Steps that the guest has run on the secondary.
    steps_after: u64,
    /// What the guest's check of itself found afterwards.
    damage: Option<String>,
    /// Why the secondary has not failed over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// How the secondary took over.
#[derive(Debug, Default, Serialize)]
pub(super) struct Failover {
    /// To which checkpoint.
    pub checkpoint: u64,
    /// From the moment when the primary counted as lost until the guest ran, without the copy of its state that is kept.
    #[serde(rename = "took_ms", serialize_with = "milliseconds")]
    pub took: Duration,
}

fn milliseconds<S: Serializer>(time: &Duration, out: S) -> Result<S::Ok, S::Error> {
    out.serialize_f64(ms(time.as_nanos()))
}

fn statistics<S: Serializer>(sent: &Statistics, out: S) -> Result<S::Ok, S::Error> {
    serde_json::json!({
        "checkpoints": sent.checkpoints,
        "bytes": sent.bytes,
        "dirty_pages": sent.pages.summary(),
        "pause_ns": sent.pause.summary(),
        "transmission_ns": sent.transmission.summary(),
        "acknowledgement_ns": sent.acknowledgement.summary(),
        "output_delay_ns": sent.output_delay.summary(),
    })
    .serialize(out)
}

fn ms(nanoseconds: impl TryInto<u64>) -> f64 {
    nanoseconds.try_into().unwrap_or(u64::MAX) as f64 / 1e6
}

impl Report {
    pub fn count(&mut self, round: &Round) {
        let &Round { number, dirty_pages, bytes, pause, transmission, acknowledgement, output_delay } = round;
        let round = RoundFigures { number, dirty_pages, bytes, pause, transmission, acknowledgement, output_delay };
        self.sent.add(&round);
    }

    pub fn ran_on(&mut self, steps: u64, damage: Option<String>) {
        (self.steps_after, self.damage) = (steps, damage);
    }

    /// Takes the comparison and comes to the verdict.
    pub fn compared(&mut self, comparison: Comparison) {
        self.pages_compared = comparison.pages;
        self.pages_left_out = comparison.left_out;
        self.difference = comparison.difference;
        let sound = self.client.as_ref().is_some_and(Seen::is_sound) && self.heard;
        self.survived = self.difference.is_none() && self.damage.is_none() && self.steps_after > 0 && sound;
    }

    /// Takes the client's view.
    pub fn client_saw(&mut self, seen: Seen, survivor: SocketAddr) {
        self.heard = seen.hosts.iter().any(|host| host.address == survivor);
        self.client = Some(seen);
    }

    pub fn print(&self, brief: bool, out: &mut dyn Write) -> io::Result<()> {
        if !brief {
            self.details(out)?;
        }
        match (&self.failover, &self.trouble) {
            (Some(failover), None) if self.survived => {
                writeln!(out, "The guest survived, at checkpoint {}.", failover.checkpoint)
            }
            (_, Some(trouble)) => writeln!(out, "The guest did NOT survive: {trouble}"),
            _ => writeln!(out, "The guest did NOT survive as it was."),
        }
    }

    fn client_details(&self, out: &mut dyn Write) -> io::Result<()> {
        let Some(seen) = &self.client else { return Ok(()) };
        let trip = seen.round_trip_ns.map_or((0, 0), |trip| (trip.p50, trip.p99));
        writeln!(
            out,
            "  client        {} answers to {} requests, {:.1} ms each (median), {:.1} ms (99 %)",
            HumanCount(seen.acknowledged),
            HumanCount(seen.requests),
            ms(trip.0),
            ms(trip.1)
        )?;
        writeln!(
            out,
            "                outputs seen {}: lost {}, contradicted {}, out of two copies {}",
            HumanCount(seen.packets),
            seen.lost,
            seen.contradicted,
            seen.interleaved
        )?;
        match seen.fail_over_ns {
            Some(silence) if self.heard => {
                writeln!(out, "                silence of {:.1} ms from one host to the other", ms(silence))
            }
            _ if self.heard => Ok(()),
            _ => writeln!(out, "                the survivor was NOT heard"),
        }
    }

    fn details(&self, out: &mut dyn Write) -> io::Result<()> {
        let (pause, sent) = (self.sent.pause.summary(), &self.sent);
        writeln!(
            out,
            "  checkpoints   {} told acknowledged, {} received whole; {} in all",
            sent.checkpoints,
            self.received,
            HumanBytes(sent.bytes)
        )?;
        writeln!(out, "  dirty pages   {} a checkpoint (median)", HumanCount(sent.pages.quantile(500)))?;
        writeln!(
            out,
            "  guest paused  {:.2} ms a checkpoint (median), {:.2} ms (99 %), {:.2} ms at most",
            ms(pause.p50),
            ms(pause.p99),
            ms(pause.max)
        )?;
        let copies = match self.lock_step {
            None => "not counted: the copy of its state that is kept for the comparison below",
            // The guest stands still until the secondary is done.
            Some(_) => "counted: the copy of its state that the secondary keeps for the comparison below",
        };
        writeln!(out, "                ({copies})")?;
        if let Some(told) = &self.lock_step {
            lock_step(told, out)?;
        }
        let delay = self.sent.output_delay.summary();
        if self.lock_step.is_none() {
            writeln!(
                out,
                "  output held   {:.1} ms at most in a checkpoint (median), {:.1} ms (99 %)",
                ms(delay.p50),
                ms(delay.p99)
            )?;
        }
        if let Some(failover) = &self.failover {
            writeln!(
                out,
                "  failover      to checkpoint {}: fenced and running {:.1} ms after the primary counted as lost",
                failover.checkpoint,
                ms(failover.took.as_nanos())
            )?;
        }
        self.client_details(out)?;
        match &self.difference {
            Some(difference) => writeln!(out, "  guest state   DIFFERS: {difference}")?,
            None if self.trouble.is_none() => {
                let rings: Vec<_> = self.pages_left_out.iter().map(|pfn| format!("{pfn:#x}")).collect();
                writeln!(
                    out,
                    "  guest state   equal byte for byte: {} pages, vCPUs, platform, parameters, TSC, policies, devices",
                    HumanCount(self.pages_compared)
                )?;
                writeln!(
                    out,
                    "                (left out: the {} ring pages that a restore clears, pfns {})",
                    rings.len(),
                    rings.join(" ")
                )?;
            }
            None => {}
        }
        match &self.damage {
            Some(damage) => writeln!(out, "  afterwards    the guest finds itself DAMAGED: {damage}"),
            None => {
                writeln!(
                    out,
                    "  afterwards    {} steps run; the guest finds itself sound",
                    HumanCount(self.steps_after)
                )
            }
        }
    }
}

/// What became of the packets that the two guests sent.
fn lock_step(told: &LockStep, out: &mut dyn Write) -> io::Result<()> {
    writeln!(
        out,
        "  outputs       {} packets equal on both hosts and sent at once, {} after a checkpoint",
        HumanCount(told.agreed),
        HumanCount(told.waited)
    )?;
    writeln!(
        out,
        "                {} checkpoints because the guests differed, {} because of the period",
        HumanCount(told.by_difference),
        HumanCount(told.by_period)
    )?;
    let (p50, p99) = (told.latency.p50 as f64 / 1e3, told.latency.p99 as f64 / 1e3);
    writeln!(
        out,
        "                {p50:.1} ms from the request until the guests run again (median), {p99:.1} ms (99 %)"
    )
}
