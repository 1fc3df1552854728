//! What the records carry, held against each other: all that a receiver will find out later, and the hypervisor last.
//!
//! [`Checker`](crate::check::Checker) runs these checks over every item, so `verify`, `dump`, a receiver and a save
//! helper have the same. [`ContentProblem::refused_by`] tells them apart: a receiver refuses what a
//! [restorer](RefusedBy::Restorer) must, and leaves to the hypervisor what is the [hypervisor's](RefusedBy::Hypervisor),
//! for that one is there and knows best; `verify` has no hypervisor and reports both as errors.
//!
//! | file | against each other |
//! |---|---|
//! | `mod.rs` | pages and the p2m (PV); what an image and a checkpoint must have |
//! | `hvm_context.rs` | HVM_CONTEXT entries: header, types, lengths, registers, CPU and LAPIC of each vCPU |
//! | `vcpus.rs` | PV vCPU records; XSAVE |
//! | `policy.rs` | CR4, EFER, XCR0 and MSRs against X86_CPUID_POLICY |
//! | `params.rs` | HVM_PARAMS, X86_TSC_INFO |
//! | `devices.rs` | domain type, device model and xenstore entries against the configuration |
//!
//! A remark is made once a stream for each thing that it names. Nothing is allocated where all is well.

mod devices;
mod hvm_context;
mod params;
mod policy;
mod problem;
mod vcpus;

pub(crate) use hvm_context::entry_lengths;
pub(crate) use policy::named;
pub use problem::{BeyondPolicy, ContentProblem, RefusedBy};

use self::devices::Config;
use self::hvm_context::Found;
use self::params::Rings;
use self::policy::Policy;
use self::vcpus::VcpuSet;
use crate::check::Parsed;
use crate::decode::cpuid::CpuidPolicy;
use crate::decode::xl_config::XlConfig;
use crate::error::{Problem, Severity};
use crate::framer::{Item, What};
use crate::libxc::{self, DomainType, P2mFrames, PageData, VcpuBlob, VcpuRecord};
use crate::{libxl, xl};
use std::mem::Discriminant;

/// Remarks that are remembered so as not to be made again.
const REMEMBERED: usize = 256;

/// A part of the state of vCPUs.
#[derive(Debug, Clone, Copy)]
pub(crate) enum State<'a> {
    /// The body of HVM_CONTEXT.
    Hvm(&'a [u8]),
    /// A record of a PV vCPU.
    Pv(VcpuBlob<'a>),
}

/// Holds the state of vCPUs against any policy: with all remarks, and without what is wrong with the chain of entries itself.
pub(crate) fn state(state: State<'_>, policy: &CpuidPolicy, report: &mut dyn FnMut(ContentProblem)) {
    let policy = Policy::of(policy.clone());
    match state {
        State::Hvm(blob) => hvm_context::check(blob, &policy, None, true, &mut |found| match found {
            Found::Chain(_) => {}
            Found::Content(problem) => report(problem),
        }),
        State::Pv(part) => vcpus::part(&part, &policy, None, true, report),
    }
}

/// The state of the checks over one stream.
#[derive(Debug, Clone, Default)]
pub struct Contents {
    config: Config,
    domain: Option<DomainType>,
    policy: Policy,
    p2m: P2m,
    /// Rounds before this one.
    rounds: u64,
    shared_info: bool,
    basics: VcpuSet,
    /// vCPUs with another part of their state.
    others: VcpuSet,
    context: bool,
    rings: Rings,
    emulator: bool,
    said: Vec<Key>,
}

/// What is known of a PV guest's p2m.
#[derive(Debug, Clone, Copy, Default)]
struct P2m {
    /// One more than the last pfn; 0 before the first record.
    pfns: u64,
    /// One more than the last pfn whose frame is known.
    known: u64,
    /// The highest pfn of a frame.
    highest: u64,
}

impl Contents {
    /// Checks the next item. With `remarks` also for what nobody refuses for certain.
    pub fn item(
        &mut self,
        item: &Item<'_>,
        parsed: Option<&Parsed<'_>>,
        remarks: bool,
        report: &mut dyn FnMut(Problem),
    ) {
        let mut said = std::mem::take(&mut self.said);
        let mut report = |problem: Problem| match &problem {
            Problem::Contents(content) if content.severity() == Severity::Remark => {
                let key = Key::of(content);
                if remarks && !said.contains(&key) {
                    if said.len() < REMEMBERED {
                        said.push(key);
                    }
                    report(problem);
                }
            }
            _ => report(problem),
        };
        self.check(item, parsed, remarks, &mut report);
        self.said = said;
    }

    fn check(&mut self, item: &Item<'_>, parsed: Option<&Parsed<'_>>, remarks: bool, report: &mut dyn FnMut(Problem)) {
        let mut content = |problem: ContentProblem| report(Problem::Contents(problem));
        match (&item.what, parsed) {
            (What::XlPreamble(preamble), _) if preamble.header.mandatory_flags & xl::MANDATORY_JSON != 0 => {
                match preamble.config().map(XlConfig::decode) {
                    Ok(Ok(config)) => self.config = Config::new(&config),
                    Ok(Err(error)) => report(Problem::Content { record: "xl preamble", error }),
                    // The length, which the preamble's own check has reported.
                    Err(_) => {}
                }
            }
            (What::ImageHeader(_), _) => {
                *self = Contents { config: std::mem::take(&mut self.config), ..Contents::default() }
            }
            (What::DomainHeader(header), _) => {
                self.domain = header.domain_type();
                if let Some(domain) = self.domain {
                    self.config.domain(domain, &mut content);
                }
            }
            (_, Some(Parsed::Libxl(record))) => self.libxl(record, remarks, &mut content),
            (_, Some(Parsed::Libxc(record))) => self.libxc(record, remarks, report),
            _ => {}
        }
    }

    fn libxl(&mut self, record: &libxl::Record<'_>, remarks: bool, report: &mut dyn FnMut(ContentProblem)) {
        match record {
            libxl::Record::EmulatorContext(context) => {
                self.emulator = true;
                // QEMU's state is long to look through, and nothing of it is refused for certain.
                if remarks {
                    self.config.context(context, report);
                }
            }
            libxl::Record::EmulatorXenstoreData(data) if remarks => self.config.xenstore(data, report),
            libxl::Record::End | libxl::Record::CheckpointEnd => {
                self.config.end(std::mem::take(&mut self.emulator), report);
            }
            _ => {}
        }
    }

    fn libxc(&mut self, record: &libxc::Record<'_>, remarks: bool, report: &mut dyn FnMut(Problem)) {
        use libxc::Record;
        let mut content = |problem: ContentProblem| report(Problem::Contents(problem));
        match record {
            Record::X86CpuidPolicy(policy) if remarks => self.policy.learn(policy.leaves),
            Record::X86PvP2mFrames(frames) => self.p2m.take(frames, &mut content),
            Record::PageData(pages) if self.domain == Some(DomainType::Pv) => self.p2m.pages(pages, &mut content),
            Record::SharedInfo(_) => self.shared_info = true,
            Record::X86PvVcpu(part) if !part.context.is_empty() => {
                match part.part {
                    VcpuRecord::Basic => self.basics.insert(part.vcpu_id),
                    _ => self.others.insert(part.vcpu_id),
                }
                vcpus::part(part, &self.policy, self.config.max_vcpus, remarks, &mut content);
            }
            Record::HvmContext(blob) => {
                self.context = true;
                hvm_context::check(blob, &self.policy, self.config.max_vcpus, remarks, &mut |found| match found {
                    Found::Chain(error) => report(Problem::Content { record: "HVM_CONTEXT", error }),
                    Found::Content(problem) => report(Problem::Contents(problem)),
                });
            }
            Record::HvmParams(params) => self.rings.take(params, &mut content),
            Record::X86TscInfo(tsc) => params::tsc(tsc, &mut content),
            Record::End | Record::Checkpoint => self.end_of_round(&mut content),
            _ => {}
        }
    }

    fn end_of_round(&mut self, report: &mut dyn FnMut(ContentProblem)) {
        match self.domain {
            Some(DomainType::Pv) => {
                self.p2m.end(report);
                if !self.shared_info {
                    report(ContentProblem::PvIncomplete { record: "SHARED_INFO" });
                }
                if !self.basics.contains(0) {
                    report(ContentProblem::PvIncomplete { record: "X86_PV_VCPU_BASIC of vCPU 0" });
                }
                if let Some(vcpu) = self.others.first_without(&self.basics) {
                    report(ContentProblem::PartWithoutBasic { vcpu });
                }
                if let Some(max_vcpus) = self.config.max_vcpus.filter(|_| !self.basics.is_empty())
                    && let Some((first, missing)) = self.basics.missing_below(max_vcpus)
                {
                    report(ContentProblem::VcpusOffline { first, missing, max_vcpus });
                }
            }
            Some(_) => {
                if !self.context && self.rounds > 0 {
                    report(ContentProblem::CheckpointIncomplete { record: "HVM_CONTEXT" });
                }
                self.rings.end(report);
            }
            None => {}
        }
        self.rounds += 1;
        (self.shared_info, self.context) = (false, false);
        (self.basics, self.others) = (VcpuSet::default(), VcpuSet::default());
    }
}

impl P2m {
    fn take(&mut self, frames: &P2mFrames<'_>, report: &mut dyn FnMut(ContentProblem)) {
        let (start, end) = (u64::from(frames.start), u64::from(frames.end));
        // Whole frames: the width decides how many pfns one covers.
        let per_frame = if frames.pfns().len() as u64 == frames.frames_for_width(8) { 512 } else { 1024 };
        if start / per_frame * per_frame > self.known {
            report(ContentProblem::P2mGap { start, known: self.known });
        }
        self.known = self.known.max((end / per_frame + 1) * per_frame);
        self.pfns = self.pfns.max(end + 1);
        self.highest = frames.pfns().fold(self.highest, u64::max);
    }

    fn pages(self, pages: &PageData<'_>, report: &mut dyn FnMut(ContentProblem)) {
        // Without any record of frames that is what is missing.
        let Some(last) = self.pfns.checked_sub(1) else { return };
        if pages.highest_possible() <= last {
            return;
        }
        // Holes may be listed anywhere.
        if let Some(entry) = pages.entries().find(|entry| entry.pfn > last && entry.page_type.is_populated()) {
            report(ContentProblem::PfnBeyondP2m { pfn: entry.pfn, last });
        }
    }

    fn end(self, report: &mut dyn FnMut(ContentProblem)) {
        if let Some(last) = self.pfns.checked_sub(1).filter(|last| self.highest > *last) {
            report(ContentProblem::P2mFrameOutside { pfn: self.highest, last });
        }
    }
}

/// What tells remarks of one sort apart: the remark is made once for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Key {
    sort: Discriminant<ContentProblem>,
    /// vCPU, instance or number.
    number: u64,
    /// Entry, register or parameter.
    name: &'static str,
    /// The bits that are meant, or the type.
    bits: u64,
}

impl Key {
    fn of(problem: &ContentProblem) -> Key {
        let (number, name, bits) = match *problem {
            ContentProblem::BeyondPolicy(ref beyond) => (beyond.vcpu.into(), beyond.register, beyond.mask),
            ContentProblem::UnknownMsr { vcpu, record, index } => (vcpu.into(), record, index.into()),
            ContentProblem::RegisterDepends { vcpu, register, .. } => (vcpu.into(), register, 0),
            ContentProblem::PartWithoutBasic { vcpu } => (vcpu.into(), "", 0),
            ContentProblem::HvmUnknownEntry { typecode, instance } => (instance.into(), "", typecode.into()),
            ContentProblem::HvmEntryTooLong { entry, instance, .. }
            | ContentProblem::HvmEntryNewer { entry, instance, .. }
            | ContentProblem::HvmEntryShort { entry, instance, .. } => (instance.into(), entry, 0),
            ContentProblem::HvmNoLapic { entry, vcpu } => (vcpu.into(), entry, 0),
            ContentProblem::ParamUnknown { index, .. } => (index, "", 0),
            ContentProblem::ParamOdd { name, .. } => (0, name, 0),
            ContentProblem::ParamMissing { missing, .. } => (0, missing, 0),
            ContentProblem::EmulatorOther { record, .. } => (0, record, 0),
            _ => (0, "", 0),
        };
        Key { sort: std::mem::discriminant(problem), number, name, bits }
    }
}
