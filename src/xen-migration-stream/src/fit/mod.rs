//! Whether another Xen takes what a stream carries: its release, and its host's CPU policies where they are known.
//!
//! | file | what is held against what |
//! |---|---|
//! | `release.rs` | what the releases differ in: one table, with sources |
//! | `policy.rs` | CPU policies against a release, a host's, another guest's |
//! | `state.rs` | HVM_CONTEXT, HVM_PARAMS and the state of PV vCPUs against a release, and the policy that the guest will have |
//!
//! Nothing here asks anybody: it compares values, so that it serves files and running hosts alike. What is refused is told
//! apart from what only costs the guest something, and from what depends on an update that is not known.

pub mod policy;
pub mod release;
pub mod state;

use crate::contents::{BeyondPolicy, ContentProblem};
use release::Release;
use thiserror::Error;

/// What becomes of a guest for a misfit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is refused, with certainty.
    Refused,
    /// It is refused by this release before this update, and which one the target has is not known.
    RefusedBefore(Release),
    /// It is taken, and the guest loses something; or nobody can tell from what is known.
    Costs,
}

/// Something that does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit {
    /// What becomes of it.
    pub verdict: Verdict,
    /// What it is.
    pub what: What,
}

/// What does not fit.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum What {
    /// A leaf that the release's policies have no place for.
    #[error("X86_CPUID_POLICY: {}: policies have a place for it since Xen {since} (ERANGE before)", leaf_name(*leaf, *subleaf))]
    LeafNewer {
        /// The leaf.
        leaf: u32,
        /// Its subleaf; `None` for a leaf without.
        subleaf: Option<u32>,
        /// The releases that have it.
        since: String,
    },
    /// A leaf that no release up to the newest has a place for.
    #[error("X86_CPUID_POLICY: {}: no Xen up to 4.22 has a place for it in a policy (ERANGE)", leaf_name(*leaf, *subleaf))]
    LeafUnknown {
        /// The leaf.
        leaf: u32,
        /// Its subleaf; `None` for a leaf without.
        subleaf: Option<u32>,
    },
    /// More leaves than a policy has.
    #[error("X86_CPUID_POLICY: {count} leaves, at most {most} are taken (E2BIG)")]
    TooManyLeaves {
        /// How many there are.
        count: usize,
        /// The most.
        most: usize,
    },
    /// A MSR that the release's policies do not have.
    #[error("X86_MSR_POLICY: MSR {index:#x} ({name}): {}", since.as_ref().map_or_else(
        || "no Xen up to 4.22 has it in a policy (ERANGE)".to_owned(), |since| format!("in policies since Xen {since} (ERANGE before)")))]
    PolicyMsr {
        /// The MSR.
        index: u32,
        /// Its name.
        name: &'static str,
        /// The releases that have it; `None` for none.
        since: Option<String>,
    },
    /// A range of leaves that goes further than the host's.
    #[error("leaf {} EAX is {guest:#x}, the host's at most {host:#x}: {}", leaf_name(*leaf, *subleaf).trim_start_matches("leaf "),
        if *held { "Xen refuses the policy (EINVAL)" } else { "the guest gets the host's" })]
    MaxLeaf {
        /// 0, 7 or 0x80000000.
        leaf: u32,
        /// 0 of leaf 7.
        subleaf: Option<u32>,
        /// The guest's.
        guest: u32,
        /// The host's.
        host: u32,
        /// Whether the release holds them against each other.
        held: bool,
    },
    /// A processor of another maker.
    #[error("leaf 0: the guest saw {guest:?}, the host has {host:?}{}", if *held { ": Xen refuses the policy (EINVAL)" } else { "" })]
    Vendor {
        /// The guest's.
        guest: String,
        /// The host's.
        host: String,
        /// Whether the release holds them against each other.
        held: bool,
    },
    /// Features of one register that the guest has and the host's policy has not.
    #[error("leaf {key}: {bits}: {}", if *certain { "the host cannot give it to the guest, which loses it" } else { "the other guest was not given it" })]
    Features {
        /// Leaf, subleaf and register, as `7:0.ebx`.
        key: &'static str,
        /// The bits.
        mask: u32,
        /// The same, by number and name.
        bits: String,
        /// Whether what it is held against is all that the host can give.
        certain: bool,
    },
    /// Bits of a MSR of the policy that the host has not.
    #[error("MSR {index:#x} ({name}): {bits} not in the host's: {}", if *held { "Xen refuses the policy (EINVAL)" } else { "the guest believes what is not so there" })]
    PolicyMsrBits {
        /// The MSR.
        index: u32,
        /// Its name.
        name: &'static str,
        /// The bits, by number and name.
        bits: String,
        /// Whether the release holds them against each other.
        held: bool,
    },
    /// Fewer bits of physical address.
    #[error("leaf 0x80000008 EAX: the guest saw {guest} bits of physical address, the host has {host}")]
    PhysicalBits {
        /// The guest's.
        guest: u32,
        /// The host's.
        host: u32,
    },
    /// No policy in the stream.
    #[error("no CPU policy in the stream: the guest will see whatever the host gives to new guests")]
    NoPolicy,
    /// An entry of a HVM context that is longer than the release's.
    #[error("HVM_CONTEXT: {entry}:{instance} has {length} bytes, {own} before Xen {since}: refused as too long{}",
        if *convertible { " (convert --for cuts it)" } else { "" })]
    EntryLength {
        /// Its name.
        entry: &'static str,
        /// The instance.
        instance: u16,
        /// Its bytes.
        length: usize,
        /// The bytes that the release has.
        own: usize,
        /// The releases that have more.
        since: String,
        /// Whether what is too much says nothing.
        convertible: bool,
    },
    /// A MSR of a vCPU that the release does not load.
    #[error("vCPU {vcpu}: MSR {index:#x} ({name}): loaded since Xen {since} (EOPNOTSUPP before)")]
    LoadedMsr {
        /// The vCPU.
        vcpu: u32,
        /// The MSR.
        index: u32,
        /// Its name.
        name: &'static str,
        /// The releases that load it.
        since: String,
    },
    /// Bits of SPEC_CTRL that the release does not know.
    #[error("vCPU {vcpu}: MSR SPEC_CTRL is {value:#x}: {bits}: known since Xen {since}")]
    SpecCtrl {
        /// The vCPU.
        vcpu: u32,
        /// Its value.
        value: u64,
        /// The bits, by number and name.
        bits: String,
        /// The releases that know them.
        since: String,
    },
    /// State that uses what the guest's policy will not have there.
    #[error("vCPU {}: {} is {:#x}: {} not in the policy that the guest can have there ({}): Xen refuses it", .0.vcpu, .0.register, .0.value, .0.bits, .0.leaf)]
    BeyondPolicy(Box<BeyondPolicy>),
    /// State that the release refuses, or every one.
    #[error("{0}")]
    State(ContentProblem),
    /// A HVM parameter that the release does not take.
    #[error("HVM_PARAMS: {name} is {value:#x}: {why}")]
    Param {
        /// Its number.
        index: u64,
        /// Its name.
        name: &'static str,
        /// Its value.
        value: u64,
        /// Who refuses it, and why.
        why: String,
    },
}

impl What {
    /// What part of a guest it is about: `cpuid`, `msr`, `hvm_context`, `vcpu` or `hvm_param`.
    pub const fn part(&self) -> &'static str {
        match self {
            What::LeafNewer { .. }
            | What::LeafUnknown { .. }
            | What::TooManyLeaves { .. }
            | What::MaxLeaf { .. }
            | What::Vendor { .. }
            | What::Features { .. }
            | What::PhysicalBits { .. }
            | What::NoPolicy => "cpuid",
            What::PolicyMsr { .. } | What::PolicyMsrBits { .. } => "msr",
            What::EntryLength { .. } => "hvm_context",
            What::LoadedMsr { .. } | What::SpecCtrl { .. } => "msr",
            What::BeyondPolicy(_) => "vcpu",
            What::State(problem) => match problem {
                ContentProblem::ParamUnknown { .. } | ContentProblem::ParamValue { .. } => "hvm_param",
                ContentProblem::Register { .. } | ContentProblem::RegisterDepends { .. } => "vcpu",
                ContentProblem::UnknownMsr { .. } => "msr",
                _ => "hvm_context",
            },
            What::Param { .. } => "hvm_param",
        }
    }
}

impl Misfit {
    const fn refused(what: What) -> Self {
        Misfit { verdict: Verdict::Refused, what }
    }

    const fn costs(what: What) -> Self {
        Misfit { verdict: Verdict::Costs, what }
    }
}

/// What a release lacks that a guest uses: refused, or that depends on the update.
fn lacks(change: &release::Change, release: Release) -> Option<Verdict> {
    match change.is_in(release) {
        Some(true) => None,
        Some(false) => Some(Verdict::Refused),
        None => Some(change.first_update(release.minor).map_or(Verdict::Refused, Verdict::RefusedBefore)),
    }
}

fn leaf_name(leaf: u32, subleaf: Option<u32>) -> String {
    match subleaf {
        Some(subleaf) => format!("leaf {leaf:#x}:{subleaf}"),
        None => format!("leaf {leaf:#x}"),
    }
}
