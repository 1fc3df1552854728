//! Why an image could not be saved or restored.

use crate::decode::DecodeError;
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
    /// Page-table pages cannot be normalised.
    #[error("domain {domid} is PV: only HVM and PVH domains can be saved")]
    Pv {
        /// The domain.
        domid: u32,
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
    /// An image of a kind of domain that cannot be restored here.
    #[error("a stream of a {} domain: only HVM and PVH domains can be restored", .0.name())]
    Kind(DomainType),
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
    #[error("checkpoint: the record at offset {offset} makes it {needed} octets, over the limit of {limit}")]
    RoundLimit {
        /// Offset of the record.
        offset: u64,
        /// Octets that the checkpoint would take with it.
        needed: u64,
        /// Octets that it may take.
        limit: u64,
    },
    /// A HVM context that is no chain of entries.
    #[error("HVM_CONTEXT at offset {offset}: {error}")]
    HvmContext {
        /// Offset of the record.
        offset: u64,
        /// What is wrong with it.
        error: DecodeError,
    },
    /// A checkpoint without vCPU state: its memory would go with the vCPUs of the one before.
    #[error("the checkpoint before offset {offset} has no HVM_CONTEXT")]
    NoHvmContext {
        /// Offset behind the checkpoint's last record.
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
