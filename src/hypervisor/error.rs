//! What can go wrong between us and a hypervisor.
#![forbid(unsafe_code)]

use thiserror::Error;

use super::bitmap::BoundMismatch;
use super::types::{Pfn, RunState, ShutdownReason, XenVersion};
use crate::decode::DecodeError;

/// A result of a hypervisor operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A hypervisor operation that failed. Every variant has the values that it failed on.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The backend, or the kind of domain, has no such thing.
    #[error("{backend}: {what} is not supported")]
    Unsupported {
        /// The backend that was asked.
        backend: &'static str,
        /// What it was asked for.
        what: &'static str,
    },
    /// The guest was asked to suspend and did not.
    #[error("domain {domid} did not acknowledge the request to suspend (shutdown reason {shutdown:?})")]
    SuspendNotAcknowledged {
        /// The domain.
        domid: u32,
        /// The reason that it stands shut down with, if it does.
        shutdown: Option<ShutdownReason>,
    },
    /// The domain is not in a state that allows the operation.
    #[error("domain {domid}: cannot {operation} while {state}")]
    WrongState {
        /// The domain.
        domid: u32,
        /// What was asked for.
        operation: &'static str,
        /// The state that the domain is in.
        state: &'static str,
    },
    /// A pfn at or beyond the domain's maximum.
    #[error("pfn {pfn:#x} is outside the domain's maximum of {nr_pfns:#x} pfns")]
    PfnOutOfRange {
        /// The pfn.
        pfn: Pfn,
        /// One more than the highest pfn that the domain may have.
        nr_pfns: u64,
    },
    /// A pfn without a page behind it was to be mapped, written or cleared.
    #[error("pfn {pfn:#x} has no page behind it")]
    NotPopulated {
        /// The pfn.
        pfn: Pfn,
    },
    /// The domain's memory budget is used up.
    #[error("no memory for pfn {pfn:#x}: {populated} pages are populated, the budget is {budget}")]
    OutOfMemory {
        /// The pfn that found no page.
        pfn: Pfn,
        /// Pages that the domain has.
        populated: u64,
        /// Pages that it may have.
        budget: u64,
    },
    /// Two arrays of one batch differ in length.
    #[error("a batch of {pfns} pfns with room for {types} types")]
    BatchLength {
        /// How many pfns there are.
        pfns: usize,
        /// How many types fit.
        types: usize,
    },
    /// The dirty bitmap does not fit the domain.
    #[error(transparent)]
    BitmapBound(#[from] BoundMismatch),
    /// The dirty log was to be read while it is off.
    #[error("domain {domid}: log-dirty mode is off")]
    LogDirtyOff {
        /// The domain.
        domid: u32,
    },
    /// A HVM context that is no chain of entries.
    #[error(transparent)]
    HvmContextChain(#[from] DecodeError),
    /// A HVM context that the hypervisor does not take.
    #[error("HVM context, offset {offset}: {problem}")]
    HvmContext {
        /// Where in the blob, in bytes.
        offset: usize,
        /// What is wrong there.
        problem: HvmContextProblem,
    },
    /// A vCPU that the domain has not.
    #[error("vCPU {vcpu}, of {nr_vcpus}")]
    Vcpu {
        /// The vCPU.
        vcpu: u32,
        /// How many there are.
        nr_vcpus: u32,
    },
    /// A page table that the hypervisor does not pin.
    #[error("the table at frame {mfn:#x} cannot be pinned at level {level}")]
    PageTable {
        /// The table.
        mfn: u64,
        /// The level, 1 to 4.
        level: u8,
    },
    /// A HVM parameter that the hypervisor does not take.
    #[error("HVM parameter {index} = {value:#x} is refused")]
    HvmParam {
        /// Its index.
        index: u64,
        /// The value.
        value: u64,
    },
    /// A CPU policy that the hypervisor does not take.
    #[error("{part} policy of {length} bytes, not a multiple of {entry}")]
    CpuPolicyLength {
        /// Which of the two, "CPUID" or "MSR".
        part: &'static str,
        /// The length given.
        length: usize,
        /// The size of an entry.
        entry: usize,
    },
    /// A device-model state that the device model does not take.
    #[error("device model state, offset {offset}: {problem}")]
    DeviceModel {
        /// Where in the blob, in bytes.
        offset: usize,
        /// What is wrong there.
        problem: DeviceModelProblem,
    },
    /// A guest configuration that makes no sense.
    #[error("guest configuration: {field} = {value}: {reason}")]
    Config {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An epoch of output that lies before the one that has begun.
    #[error("output epoch {asked} begun after epoch {current}")]
    EpochOrder {
        /// The epoch begun last.
        current: u64,
        /// The epoch that was to begin.
        asked: u64,
    },
    /// The guest's own state is not what its program left: memory or registers were lost or mixed up.
    #[error("the guest's state is damaged: {0}")]
    GuestDamaged(#[from] GuestDamage),
    /// This host's Xen cannot be talked to: there is none, or this process may not.
    #[error(
        "no access to Xen through /dev/xen/privcmd (is this a Xen host's control domain, and are we root?): {source}"
    )]
    NoHypervisor {
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A library of Xen's that cannot be opened.
    #[error(
        "{library} cannot be opened: {problem}. It comes with Xen; Debian's packages are libxencall1, libxenforeignmemory1 and libxenevtchn1"
    )]
    NoLibrary {
        /// Its SONAME.
        library: &'static str,
        /// What the loader said.
        problem: String,
    },
    /// A library of Xen's without a function that is needed.
    #[error("{library} has no {symbol}: it is older than Xen 4.14, the oldest that this program works with")]
    OldLibrary {
        /// Its SONAME.
        library: &'static str,
        /// The function.
        symbol: &'static str,
    },
    /// Xen refuses what every control domain may ask for, in every version of its control interface that is known here.
    #[error(
        "Xen {xen} takes no XEN_DOMCTL_getdomaininfo of domain 0: its control interface is of a version that this program does not know, or \
         its security policy is against it: {source}"
    )]
    OtherInterface {
        /// The hypervisor's release.
        xen: XenVersion,
        /// What Xen said.
        #[source]
        source: std::io::Error,
    },
    /// A Xen that is newer than all that this program knows, and a domain's life would depend on it.
    #[error(
        "this host's Xen {xen} is not known to this program, which knows 4.14 to {newest}; nothing was touched: it tries all the same with --trust-xen, the save helper with XEN_REPLICATE_TRUST_XEN=1"
    )]
    UnknownXen {
        /// The hypervisor's release.
        xen: XenVersion,
        /// The newest that is known.
        newest: XenVersion,
    },
    /// Xen has no domain of this number.
    #[error("there is no domain {domid}")]
    NoSuchDomain {
        /// The number.
        domid: u32,
    },
    /// Xen refused.
    #[error("domain {domid}: {call} failed{}: {source}", on(*xen))]
    Hypercall {
        /// The operation, by its name in Xen's headers.
        call: &'static str,
        /// The domain.
        domid: u32,
        /// The hypervisor's release, where it is known.
        xen: Option<XenVersion>,
        /// What it said.
        #[source]
        source: std::io::Error,
    },
    /// A page of the domain that could not be mapped, for another reason than that it is not there.
    #[error("domain {domid}: mapping frame {gfn:#x} failed{}: {source}", on(*xen))]
    Map {
        /// The domain.
        domid: u32,
        /// The frame.
        gfn: u64,
        /// The hypervisor's release, where it is known.
        xen: Option<XenVersion>,
        /// What Xen or the system said.
        #[source]
        source: std::io::Error,
    },
    /// More pages in one batch than the backend takes.
    #[error("a batch of {pages} pages, {limit} at most")]
    BatchTooLong {
        /// How many were asked for.
        pages: usize,
        /// How many it takes.
        limit: usize,
    },
    /// A page type that does not exist.
    #[error("frame {gfn:#x} is of type {value:#x}, which does not exist")]
    PageType {
        /// The frame.
        gfn: u64,
        /// The four bits.
        value: u8,
    },
    /// Xen gave fewer bits of the dirty log than it was asked for.
    #[error("domain {domid}: dirty log of {found:#x} pfns where {expected:#x} were asked for")]
    DirtyLogLength {
        /// The domain.
        domid: u32,
        /// What was asked for.
        expected: u64,
        /// What came.
        found: u64,
    },
    /// A CPU policy that Xen does not take. What it does not name in particular is `u32::MAX`.
    #[error("domain {domid}: CPU policy refused at leaf {leaf:#x}, subleaf {subleaf:#x}, MSR {msr:#x}: {source}")]
    CpuPolicyRefused {
        /// The domain.
        domid: u32,
        /// The CPUID leaf.
        leaf: u32,
        /// Its subleaf.
        subleaf: u32,
        /// The MSR.
        msr: u32,
        /// What Xen said.
        #[source]
        source: std::io::Error,
    },
    /// The guest suspended, what had to follow failed, and it could not be resumed.
    #[error(
        "domain {domid} is left SUSPENDED: {cause}; resuming it: {problem}. `xen-replicate resume {domid}` resumes it"
    )]
    LeftSuspended {
        /// The domain.
        domid: u32,
        /// What failed after the guest had suspended.
        cause: Box<Error>,
        /// What kept it from being resumed.
        problem: Box<Error>,
    },
    /// What the toolstack has beside the domain (xenstore, the emulator, libxl's files) does not do as it should.
    #[error("{0}")]
    Toolstack(String),
    /// The host's operating system refused.
    #[error("{operation}: {source}")]
    Os {
        /// What was being done.
        operation: &'static str,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// " on Xen 4.17"
fn on(xen: Option<XenVersion>) -> String {
    xen.map(|xen| format!(" on Xen {xen}")).unwrap_or_default()
}

impl Error {
    /// The state in which a call to [`Domain::suspend`](super::Domain::suspend) or [`Domain::resume`](super::Domain::resume) that failed
    /// with this error has left the guest.
    pub fn guest_after(&self) -> RunState {
        match self {
            Error::LeftSuspended { .. } => RunState::Suspended,
            Error::NoSuchDomain { .. } => RunState::ShutDown,
            Error::SuspendNotAcknowledged { shutdown: Some(reason), .. } if *reason != ShutdownReason::Suspend => {
                RunState::ShutDown
            }
            _ => RunState::Running,
        }
    }
}

/// What is wrong with an entry of a HVM context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HvmContextProblem {
    /// A CPU entry of another size than the hypervisor's.
    #[error("CPU entry of {found} bytes instead of {expected}")]
    CpuSize {
        /// The size of the hypervisor's `struct hvm_hw_cpu`.
        expected: usize,
        /// The entry's.
        found: usize,
    },
    /// CPU entries that do not count 0, 1, 2 ... or go beyond the domain's vCPUs.
    #[error("CPU entry for vCPU {vcpu}, {nr_vcpus} vCPUs, next in turn {expected}")]
    VcpuInstance {
        /// The entry's instance.
        vcpu: u16,
        /// The vCPU that comes next.
        expected: u32,
        /// How many vCPUs the domain has.
        nr_vcpus: u32,
    },
}

/// What is wrong with a device-model state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DeviceModelProblem {
    /// It begins with other bytes than this device model's.
    #[error("unknown magic {found:#x}")]
    Magic {
        /// The first four bytes.
        found: u32,
    },
    /// A version that this device model does not read.
    #[error("unknown version {found}")]
    Version {
        /// The version.
        found: u32,
    },
    /// Too short or too long.
    #[error("{found} bytes instead of {expected}")]
    Length {
        /// What is needed.
        expected: usize,
        /// What is there.
        found: usize,
    },
    /// The checksum does not match.
    #[error("checksum {found:#018x} where the contents give {expected:#018x}")]
    Checksum {
        /// Of the contents.
        expected: u64,
        /// In the blob.
        found: u64,
    },
}

/// How the guest's self-check failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum GuestDamage {
    /// There is no workload in this guest's memory.
    #[error("no workload: control page begins with {found:#x}")]
    NoWorkload {
        /// The first eight bytes of the control page.
        found: u64,
    },
    /// The control page contradicts itself.
    #[error("control page checksum {found:#018x}, its fields give {expected:#018x}")]
    ControlPage {
        /// Of the fields.
        expected: u64,
        /// In the page.
        found: u64,
    },
    /// The working set is not what was written to it.
    #[error("working set checksum {found:#018x}, its pages give {expected:#018x}")]
    WorkingSet {
        /// Of the pages.
        expected: u64,
        /// In the control page.
        found: u64,
    },
    /// A page of the balloon is not what was written to it when it was taken.
    #[error("pfn {pfn:#x}: not as event {event} of the balloon has left it")]
    Balloon {
        /// The page.
        pfn: u64,
        /// The number of the event that took it.
        event: u64,
    },
    /// Registers and memory disagree about how far the guest has come.
    #[error("vCPU registers count {registers} steps, memory {memory}")]
    Steps {
        /// Steps by the vCPUs' registers.
        registers: u64,
        /// Steps by the control page.
        memory: u64,
    },
    /// Fewer vCPUs are up than the workload runs on.
    #[error("{online} vCPUs are up, the workload runs on {needed}")]
    Vcpus {
        /// vCPUs of the HVM context.
        online: u64,
        /// vCPUs by the control page.
        needed: u64,
    },
    /// The control page names memory that the guest does not have.
    #[error("control page names pfn {pfn:#x}, which has no page")]
    Layout {
        /// The pfn.
        pfn: Pfn,
    },
}
