//! Why an image could not be saved or restored.

use super::precopy::RoundSent;
use super::pv::context::{ContextError, FrameProblem};
use super::pv::p2m::P2mError;
use super::pv::table::BadEntry;
use crate::hypervisor;
use crate::hypervisor::types::Pfn;
use crate::stream::handover::WriteError;
use crate::stream::libxc::DomainType;
use crate::stream::reader::ReadError;
use std::io::ErrorKind;
use thiserror::Error;

/// Why saving stopped.
#[derive(Debug, Error)]
pub enum SaveError {
    /// The hypervisor, the guest or its device model refused.
    #[error("saving the domain: {0}")]
    Hypervisor(#[from] hypervisor::Error),
    /// The suspended domain could not be resumed: it stands still, and its state is intact.
    #[error("resuming the domain: {0}; it is still suspended")]
    Resume(hypervisor::Error),
    /// The stream could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The p2m of a PV domain.
    #[error("the guest's p2m: {0}")]
    P2m(#[from] P2mError),
    /// More pfns than X86_PV_P2M_FRAMES can name.
    #[error("a p2m of {0:#x} pfns is too large for a stream")]
    TooManyPfns(u64),
    /// A page table of a PV domain that stands still.
    #[error("the page table at pfn {pfn:#x}: {error}")]
    Table {
        /// The table.
        pfn: Pfn,
        /// What is wrong with it.
        error: BadEntry,
    },
    /// A PV vCPU's state.
    #[error("vCPU {vcpu}: {error}")]
    Context {
        /// The vCPU.
        vcpu: u32,
        /// What is wrong with it.
        error: ContextError,
    },
    /// The guest writes faster than it is sent, and is not to stand still for that.
    #[error("the guest writes faster than it is sent: the limit of {limit} is reached; {sent}")]
    NotConverged {
        /// Which limit.
        limit: &'static str,
        /// The last round.
        sent: RoundSent,
    },
    /// The domain says that it has suspended, and has not.
    #[error("domain {domid} is not suspended")]
    NotSuspended {
        /// The domain.
        domid: u32,
    },
    /// A device model's xenstore key or value that cannot stand in a stream.
    #[error("the device model's xenstore data: {0}")]
    Xenstore(std::io::Error),
}

/// Why restoring stopped. Offsets count from the start of the stream.
#[derive(Debug, Error)]
pub enum RestoreError {
    /// The stream ended, could not be read, or must be refused.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The hypervisor or the device model refused what the stream says.
    #[error("restoring the record at offset {offset}: {error}")]
    Hypervisor {
        /// Offset of the record; of the record behind it where a whole round is applied.
        offset: u64,
        /// Its reason.
        error: hypervisor::Error,
    },
    /// The image of another kind of domain than there is to restore into.
    #[error("a stream of a {} domain, for a domain of the other kind", .0.name())]
    Kind(DomainType),
    /// A PV image whose frames do not add up.
    #[error("the record at offset {offset}: {error}")]
    Pv {
        /// Offset of the record; of the record behind it where a whole image or round is applied.
        offset: u64,
        /// What is wrong with it.
        error: PvError,
    },
    /// A page beyond the memory that the domain may have.
    #[error("PAGE_DATA at offset {offset}: pfn {pfn:#x} is outside the domain's maximum of {nr_pfns:#x} pfns")]
    Pfn {
        /// Offset of the record; of the record behind it where a whole round is applied.
        offset: u64,
        /// The page.
        pfn: Pfn,
        /// One more than the highest pfn allowed.
        nr_pfns: u64,
    },
    /// A checkpoint that does not fit the memory set aside for it.
    #[error("checkpoint: the record at offset {offset} makes it {needed} bytes, over the limit of {limit}")]
    RoundLimit {
        /// Offset of the record.
        offset: u64,
        /// Bytes that the checkpoint would take with it.
        needed: u64,
        /// Bytes that it may take.
        limit: u64,
    },
    /// A checkpoint for which there is no memory on this host.
    #[error("checkpoint: the record at offset {offset} makes it {needed} bytes, for which there is no memory")]
    RoundMemory {
        /// Offset of the record.
        offset: u64,
        /// Bytes that the checkpoint would take with it.
        needed: u64,
    },
    /// A domain is to be completed whose vCPUs have no state.
    #[error("what is before offset {offset} has no HVM_CONTEXT")]
    NoHvmContext {
        /// Offset behind the last record.
        offset: u64,
    },
    /// The state of another device model than the domain has.
    #[error("{record} at offset {offset}: for {found}, the domain has {expected}")]
    Emulator {
        /// The record.
        record: &'static str,
        /// Its offset.
        offset: u64,
        /// The device model of the record.
        found: &'static str,
        /// The device model of the domain.
        expected: &'static str,
    },
    /// A record that has no place in the turn that the stream is in.
    #[error("{record} at offset {offset}: not expected here")]
    Unexpected {
        /// The record, or what was met in its place.
        record: &'static str,
        /// Its offset.
        offset: u64,
    },
}

/// What is wrong with a PV image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PvError {
    /// A page table.
    #[error("the page table at pfn {pfn:#x}: {error}")]
    Table {
        /// The table.
        pfn: Pfn,
        /// What is wrong with it.
        error: BadEntry,
    },
    /// A vCPU's state, or the start info that it leads to.
    #[error("vCPU {vcpu}: {error}")]
    Context {
        /// The vCPU.
        vcpu: u32,
        /// What is wrong with it.
        error: ContextError,
    },
    /// A vCPU that the domain has not.
    #[error("vCPU {vcpu}, of {nr_vcpus}")]
    Vcpu {
        /// The vCPU.
        vcpu: u32,
        /// How many the domain has.
        nr_vcpus: u32,
    },
    /// A frame of the p2m that is no page of data.
    #[error("frame {index} of the p2m is pfn {pfn:#x}, which is {problem}")]
    P2mFrame {
        /// Which.
        index: usize,
        /// Its pfn.
        pfn: Pfn,
        /// What is wrong with it.
        problem: FrameProblem,
    },
    /// A stream, or a round of one, without what it takes.
    #[error("{0} is missing")]
    Missing(&'static str),
}

impl RestoreError {
    /// Whether the stream merely stopped: the only thing in a bare stream that tells of the sender's death. Everything
    /// else is a stream that must be refused, or trouble on this side, and never a reason to fail over.
    pub fn is_sender_gone(&self) -> bool {
        match self {
            RestoreError::Read(ReadError::Stream(error)) => error.is_truncation(),
            RestoreError::Read(ReadError::Io { error, .. }) => matches!(
                error.kind(),
                ErrorKind::ConnectionReset
                    | ErrorKind::ConnectionAborted
                    | ErrorKind::BrokenPipe
                    | ErrorKind::UnexpectedEof
            ),
            _ => false,
        }
    }
}
