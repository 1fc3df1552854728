//! What the contents of records can have wrong with them, and who refuses it.

use crate::error::Severity;
use crate::fit::release::Change;
use thiserror::Error;

/// Who turns a stream away that has a problem of this sort.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RefusedBy {
    /// The program that restores: it must not go on.
    Restorer,
    /// The hypervisor, whatever its release.
    Hypervisor,
    /// Nobody for certain: it depends on the release of Xen, or costs the guest something.
    Nobody,
}

/// State of a vCPU that uses what the policy of the same stream has not.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "vCPU {vcpu}: {register} is {value:#x}: {bits} not in X86_CPUID_POLICY ({leaf}): Xen refuses it, or takes it from the guest"
)]
pub struct BeyondPolicy {
    /// The vCPU.
    pub vcpu: u32,
    /// The register.
    pub register: &'static str,
    /// Its value.
    pub value: u64,
    /// The bits that the policy has not; 0 for a register that it has not at all.
    pub mask: u64,
    /// The same, by number and name.
    pub bits: String,
    /// The leaf and register of the policy that would allow them.
    pub leaf: String,
}

/// A problem with what records carry.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ContentProblem {
    /// A page of a PV guest that its p2m has no place for.
    #[error(
        "PAGE_DATA: pfn {pfn:#x} is outside the domain's maximum: X86_PV_P2M_FRAMES ends at pfn {last:#x} (memory that was added past the maximum cannot be migrated)"
    )]
    PfnBeyondP2m {
        /// The page.
        pfn: u64,
        /// The last pfn of the p2m.
        last: u64,
    },
    /// A part of the p2m before which others are missing.
    #[error("X86_PV_P2M_FRAMES: starts at pfn {start:#x}, the frames before it are known up to pfn {known:#x} only")]
    P2mGap {
        /// First pfn of the record.
        start: u64,
        /// One more than the last pfn whose frame is known.
        known: u64,
    },
    /// A p2m whose own pages are not in it.
    #[error("X86_PV_P2M_FRAMES: frame at pfn {pfn:#x} is outside the domain's maximum, pfn {last:#x}")]
    P2mFrameOutside {
        /// The frame.
        pfn: u64,
        /// The last pfn of the p2m.
        last: u64,
    },
    /// A record that a PV guest cannot be restored without.
    #[error("no {record} before the end of libxc's part: the guest cannot be restored without it")]
    PvIncomplete {
        /// What is missing.
        record: &'static str,
    },
    /// A checkpoint whose memory would go with the vCPUs of the one before.
    #[error("no {record} in this checkpoint: its memory would go with the vCPUs of the one before")]
    CheckpointIncomplete {
        /// What is missing.
        record: &'static str,
    },
    /// A vCPU that the configuration does not give the domain.
    #[error("{what}: vCPU {vcpu}, the configuration has max_vcpus {max_vcpus}")]
    VcpuBeyondMaximum {
        /// Record or entry.
        what: &'static str,
        /// The vCPU.
        vcpu: u32,
        /// How many vCPUs the configuration has.
        max_vcpus: u32,
    },
    /// The same of a PV guest, whose vCPUs the restorer counts.
    #[error("{record}: vCPU {vcpu}, the domain has {nr_vcpus}: Xen's restorer refuses it")]
    PvVcpuBeyondMaximum {
        /// The record.
        record: &'static str,
        /// The vCPU.
        vcpu: u32,
        /// How many vCPUs the configuration has, or any PV domain can have.
        nr_vcpus: u32,
    },
    /// vCPUs without registers.
    #[error("no registers of vCPU {first} ({missing} of {max_vcpus} vCPUs have none): they were offline, or stay so")]
    VcpusOffline {
        /// The first of them.
        first: u32,
        /// How many.
        missing: u32,
        /// How many vCPUs the configuration has.
        max_vcpus: u32,
    },
    /// A part of a vCPU's state without the part that all else hangs on.
    #[error("vCPU {vcpu} has parts of its state and no X86_PV_VCPU_BASIC: Xen's restorer ignores them")]
    PartWithoutBasic {
        /// The vCPU.
        vcpu: u32,
    },
    /// A part of a vCPU's state of a length that none has.
    #[error("{record} of vCPU {vcpu}: {length} bytes of state, at most {most} exist")]
    PartTooLong {
        /// The record.
        record: &'static str,
        /// The vCPU.
        vcpu: u32,
        /// Its bytes.
        length: usize,
        /// The longest that Xen takes.
        most: usize,
    },
    /// A TSC mode that does not exist.
    #[error("X86_TSC_INFO: mode is {0}, not 0 to 2: every Xen refuses it (EINVAL)")]
    TscMode(u32),
    /// The TSC mode that Xen 4.14 dropped.
    #[error("X86_TSC_INFO: mode 3 (PVRDTSCP): Xen 4.14 and later refuse it (EINVAL)")]
    TscModePvrdtscp,
    /// A HVM context without any vCPU's registers, or without those of vCPU 0.
    #[error(
        "HVM_CONTEXT: no CPU entry of vCPU 0: every Xen takes it and leaves the vCPU down, so that the guest never runs"
    )]
    HvmNoBootCpu,
    /// A vCPU with registers and without its APIC.
    #[error("HVM_CONTEXT: no {entry} entry of vCPU {vcpu}: its APIC starts as after a reset")]
    HvmNoLapic {
        /// The entry.
        entry: &'static str,
        /// The vCPU.
        vcpu: u32,
    },
    /// An entry of a type that is not known.
    #[error("HVM_CONTEXT: entry type {typecode} (instance {instance}): Xen up to 4.22 does not know it and refuses it")]
    HvmUnknownEntry {
        /// The type.
        typecode: u16,
        /// The instance.
        instance: u16,
    },
    /// An entry longer than any that is known.
    #[error("HVM_CONTEXT: {entry}:{instance} has {length} bytes: Xen up to 4.22 has at most {most} and refuses it")]
    HvmEntryTooLong {
        /// Its name.
        entry: &'static str,
        /// The instance.
        instance: u16,
        /// Its bytes.
        length: usize,
        /// The longest layout known.
        most: usize,
    },
    /// An entry of a length that newer releases have.
    #[error("HVM_CONTEXT: {entry}:{instance} has {length} bytes: Xen before {} has {older} and refuses it", since.since())]
    HvmEntryNewer {
        /// Its name.
        entry: &'static str,
        /// The instance.
        instance: u16,
        /// Its bytes.
        length: usize,
        /// The length of older releases.
        older: usize,
        /// Which releases have the longer form.
        since: &'static Change,
    },
    /// An entry shorter than any that Xen takes.
    #[error("HVM_CONTEXT: {entry}:{instance} has {length} bytes, at least {least} needed: every Xen refuses it")]
    HvmEntryTooShort {
        /// Its name.
        entry: &'static str,
        /// The instance.
        instance: u16,
        /// Its bytes.
        length: usize,
        /// The least that Xen takes.
        least: usize,
    },
    /// An entry shorter than any layout, which Xen fills up with zeros.
    #[error("HVM_CONTEXT: {entry}:{instance} has {length} bytes, no known layout: Xen takes the rest for zeros")]
    HvmEntryShort {
        /// Its name.
        entry: &'static str,
        /// The instance.
        instance: u16,
        /// Its bytes.
        length: usize,
    },
    /// A register with a value that no Xen loads.
    #[error("vCPU {vcpu}: {register} is {value:#x}: {why}: every Xen refuses it")]
    Register {
        /// The vCPU.
        vcpu: u32,
        /// The register or field.
        register: &'static str,
        /// Its value.
        value: u64,
        /// What is wrong.
        why: &'static str,
    },
    /// A register with a value that some releases refuse.
    #[error("vCPU {vcpu}: {register} is {value:#x}: {why}")]
    RegisterDepends {
        /// The vCPU.
        vcpu: u32,
        /// The register or field.
        register: &'static str,
        /// Its value.
        value: u64,
        /// Who refuses it, and why.
        why: &'static str,
    },
    /// State that uses what the policy of the same stream has not.
    #[error("{0}")]
    BeyondPolicy(Box<BeyondPolicy>),
    /// A MSR that no Xen loads from a stream.
    #[error("vCPU {vcpu}: {record}: MSR {index:#x}: Xen up to 4.22 does not load it and refuses it")]
    UnknownMsr {
        /// The vCPU.
        vcpu: u32,
        /// The record or entry.
        record: &'static str,
        /// The MSR.
        index: u32,
    },
    /// A HVM parameter that is not known.
    #[error("HVM_PARAMS: index {index} (value {value:#x}): Xen up to 4.22 has none of that number and refuses it")]
    ParamUnknown {
        /// Its number.
        index: u64,
        /// Its value.
        value: u64,
    },
    /// A HVM parameter with a value that no Xen takes.
    #[error("HVM_PARAMS: {name} is {value:#x}: {why}: every Xen refuses it")]
    ParamValue {
        /// Its name.
        name: &'static str,
        /// Its value.
        value: u64,
        /// What is wrong.
        why: &'static str,
    },
    /// A HVM parameter that the guest pays for.
    #[error("HVM_PARAMS: {name} is {value:#x}: {why}")]
    ParamOdd {
        /// Its name.
        name: &'static str,
        /// Its value.
        value: u64,
        /// What it means.
        why: &'static str,
    },
    /// A guest whose rings nobody will find.
    #[error("HVM_PARAMS: no {missing}: the restored guest is cut off from {service}")]
    ParamMissing {
        /// The parameter.
        missing: &'static str,
        /// What it loses.
        service: &'static str,
    },
    /// Another type of domain than the configuration says.
    #[error(
        "the configuration says type {config:?}, the domain header {header}: the restore fails or makes another domain"
    )]
    TypeMismatch {
        /// `c_info.type`.
        config: String,
        /// The domain header's.
        header: &'static str,
    },
    /// No device model's state for a guest that has a device model.
    #[error("no EMULATOR_CONTEXT, and the configuration has a HVM guest with {model}: the device model will not start")]
    EmulatorMissing {
        /// The device model.
        model: String,
    },
    /// A device model's state for a guest that has none.
    #[error("EMULATOR_CONTEXT in a guest whose configuration says type {config:?}: nobody reads it")]
    EmulatorUnused {
        /// `c_info.type`.
        config: String,
    },
    /// The state of another device model than the configuration's.
    #[error("{record}: for {found}, the configuration has {model}: the device model will not start")]
    EmulatorOther {
        /// The record.
        record: &'static str,
        /// The record's.
        found: &'static str,
        /// The configuration's.
        model: String,
    },
    /// A device model's state with which it will not start.
    #[error("EMULATOR_CONTEXT: {why}: the device model will not start")]
    EmulatorState {
        /// What is wrong.
        why: String,
    },
    /// A xenstore entry that xenstore does not take.
    #[error("EMULATOR_XENSTORE_DATA: key {key:?}: {why}")]
    XenstoreEntry {
        /// The key.
        key: String,
        /// What is wrong.
        why: &'static str,
    },
}

impl ContentProblem {
    /// Who refuses the stream for it.
    pub const fn refused_by(&self) -> RefusedBy {
        match self {
            ContentProblem::PfnBeyondP2m { .. }
            | ContentProblem::P2mGap { .. }
            | ContentProblem::P2mFrameOutside { .. }
            | ContentProblem::PvIncomplete { .. }
            | ContentProblem::CheckpointIncomplete { .. }
            | ContentProblem::PvVcpuBeyondMaximum { .. }
            | ContentProblem::PartTooLong { .. } => RefusedBy::Restorer,
            ContentProblem::VcpuBeyondMaximum { .. }
            | ContentProblem::TscMode(_)
            | ContentProblem::HvmEntryTooShort { .. }
            | ContentProblem::Register { .. }
            | ContentProblem::ParamValue { .. } => RefusedBy::Hypervisor,
            _ => RefusedBy::Nobody,
        }
    }

    /// What `verify` makes of it.
    pub const fn severity(&self) -> Severity {
        match self.refused_by() {
            RefusedBy::Restorer | RefusedBy::Hypervisor => Severity::Error,
            RefusedBy::Nobody => Severity::Remark,
        }
    }
}
