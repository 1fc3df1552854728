//! Whether another host takes a guest, and if not, why.
//!
//! | file | what |
//! |---|---|
//! | `guest.rs` | what of a stream matters to another host |
//! | `target.rs` | what it is held against: a release, another guest's stream, a host |
//! | `cpu.rs` | CPU policies; the state of vCPUs and HVM parameters, by [`crate::stream::fit`] |
//! | `devices.rs` | device model, disks, network cards, memory, toolstack |
//! | `releases.rs` | which releases take it, in one line |
//!
//! A prediction is `refused` only where the receiver's sources say so of what is known of it. What depends on more, and what the
//! guest loses, is a remark.

mod cpu;
mod devices;
mod guest;
mod releases;
mod target;

pub use guest::Guest;
pub use releases::{Releases, releases};
pub use target::Target;

use super::verify::Finding as StreamFinding;
use crate::stream::fit::release::Release;
use crate::stream::fit::{Misfit, Verdict};
use serde::Serialize;
use std::io::{self, Write};

/// What has been found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fit {
    /// What it was held against.
    pub target: String,
    /// The target's release of Xen, as far as it is known.
    pub release: Option<String>,
    /// `fits`, `fits_with_remarks` or `does_not_fit`.
    pub verdict: &'static str,
    /// What was found, in the order of the parts.
    pub findings: Vec<Found>,
    /// Parts that could not be looked at, for the target says nothing of them.
    pub not_looked_at: Vec<&'static str>,
}

/// Something found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Found {
    /// `refused` or `remark`.
    pub severity: &'static str,
    /// `stream`, `xen`, `cpuid`, `msr`, `vcpu`, `hvm_context`, `hvm_param`, `qemu`, `disk`, `network`, `memory` or `toolstack`.
    pub part: &'static str,
    /// What it is.
    pub message: String,
    /// Whether it is refused by some updates of the release, and not by others.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub on_update: bool,
}

/// Where findings go.
#[derive(Debug, Default)]
struct Findings(Vec<Found>);

impl Findings {
    fn refused(&mut self, part: &'static str, message: impl Into<String>) {
        self.0.push(Found { severity: "refused", part, message: message.into(), on_update: false });
    }

    fn remark(&mut self, part: &'static str, message: impl Into<String>) {
        self.0.push(Found { severity: "remark", part, message: message.into(), on_update: false });
    }

    fn misfit(&mut self, misfit: &Misfit) {
        let (part, text) = (misfit.what.part(), misfit.what.to_string());
        match misfit.verdict {
            Verdict::Refused => self.refused(part, text),
            Verdict::RefusedBefore(release) => {
                self.remark(part, format!("{text}: so refused by Xen 4.{} before {release}", release.minor));
                if let Some(last) = self.0.last_mut() {
                    last.on_update = true;
                }
            }
            Verdict::Costs => self.remark(part, text),
        }
    }
}

/// Holds a guest against a target.
pub fn judge(guest: &Guest, target: &Target) -> Fit {
    let mut found = Findings::default();
    for error in guest.findings.iter().filter(|finding| finding.is_error()) {
        found.refused("stream", stream_error(error));
    }
    if !guest.is_whole() {
        found.refused("stream", "no guest in it that could be restored");
    }
    let release = target.release();
    if let Target::Host(_, host) = target {
        match (host.xen.known(), release) {
            (None, _) => {
                let why = host.xen.why_missing().unwrap_or_default();
                found.refused("xen", format!("the host has no hypervisor that could be asked: {why}"));
            }
            (Some(xen), None) => {
                found.remark(
                    "xen",
                    format!("Xen {} is newer than all that is known here: nothing is certain", xen.version),
                );
            }
            _ => {}
        }
    }
    cpu::judge(guest, target, release, &mut found);
    devices::judge(guest, target, &mut found);
    let verdict = match &found.0 {
        found if found.iter().any(|found| found.severity == "refused") => "does_not_fit",
        found if found.is_empty() => "fits",
        _ => "fits_with_remarks",
    };
    Fit {
        target: target.to_string(),
        release: release.as_ref().map(Release::to_string),
        verdict,
        findings: found.0,
        not_looked_at: target.not_looked_at().to_vec(),
    }
}

fn stream_error(finding: &StreamFinding) -> String {
    let record = finding.record.map_or(String::new(), |record| format!(" record {record}"));
    format!("{}{record} at offset {}: {}", finding.layer, finding.offset, finding.message)
}

impl Fit {
    /// Whether the target takes it.
    pub fn fits(&self) -> bool {
        self.verdict != "does_not_fit"
    }

    /// Writes it as text.
    ///
    /// # Errors
    /// The writer's.
    pub fn write_text(&self, out: &mut dyn Write) -> io::Result<()> {
        for Found { severity, part, message, .. } in &self.findings {
            writeln!(out, "{severity}: {part}: {}", super::summary::printable(message))?;
        }
        if !self.not_looked_at.is_empty() {
            writeln!(out, "not looked at, for {} does not tell: {}", self.target, self.not_looked_at.join(", "))?;
        }
        let count = |severity| self.findings.iter().filter(|found| found.severity == severity).count();
        let verdict = match (self.fits(), count("remark")) {
            (false, remarks) => {
                format!("does NOT fit {}: {} reasons, {remarks} remarks", self.target, count("refused"))
            }
            (true, 0) => format!("fits {}", self.target),
            (true, remarks) => format!("fits {}, {remarks} remarks", self.target),
        };
        writeln!(out, "{}", super::summary::printable(&verdict))
    }
}
