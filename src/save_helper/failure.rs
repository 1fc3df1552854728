//! Why the helper did not do what libxl asked for, and which `errno` says so.
#![forbid(unsafe_code)]

use super::callback_error::CallbackError;
use super::limits::LimitsError;
use crate::hypervisor;
use crate::hypervisor::types::Pfn;
use crate::libxc::{RestoreError, SaveError};
use crate::stream::handover::WriteError;
use crate::stream::reader::ReadError;
use rustix::io::Errno;
use std::error::Error;
use std::io;
use thiserror::Error;

/// Why a save or a restore failed.
#[derive(Debug, Error)]
pub enum Failure {
    /// Saving failed.
    #[error(transparent)]
    Save(#[from] SaveError),
    /// Restoring failed.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// The domain could not be had.
    #[error("the domain: {0}")]
    Domain(#[from] hypervisor::Error),
    /// The limits of a live save make no sense.
    #[error(transparent)]
    Limits(#[from] LimitsError),
    /// libxl could not be asked.
    #[error(transparent)]
    Libxl(#[from] CallbackError),
    /// libxl was asked and did not do it.
    #[error("libxl's callback {callback} failed: {reply}")]
    Reply {
        /// The callback.
        callback: &'static str,
        /// What it answered.
        reply: i32,
    },
    /// SIGTERM.
    #[error("called off by SIGTERM")]
    CalledOff,
    /// The back channel could not be read.
    #[error("back channel: {0}")]
    BackRead(ReadError),
    /// The back channel could not be written.
    #[error("back channel: {0}")]
    BackWrite(io::Error),
    /// The back channel has come to its end.
    #[error("back channel: its end where CHECKPOINT_DIRTY_PFN_LIST is due")]
    BackEnd,
    /// Something else than the list of dirty pages.
    #[error("back channel: {found} where CHECKPOINT_DIRTY_PFN_LIST is due")]
    BackRecord {
        /// What it is.
        found: &'static str,
    },
    /// A page that the domain cannot have.
    #[error("back channel: pfn {pfn:#x} is outside the domain's maximum of {nr_pfns:#x} pfns")]
    BackPfn {
        /// The page.
        pfn: Pfn,
        /// One more than the highest pfn allowed.
        nr_pfns: u64,
    },
    /// A list that is framed in another way than the one before.
    #[error(
        "back channel: a list of pfns that begins with {found:#x}, where those before had eight zero bytes in front"
    )]
    BackFraming {
        /// What stands there.
        found: u64,
    },
    /// More dirty pages than one record can list.
    #[error("{pages} dirty pages: a CHECKPOINT_DIRTY_PFN_LIST has room for {most}")]
    BackTooMany {
        /// How many there are.
        pages: u64,
        /// How many can be listed.
        most: u64,
    },
    /// The stream has ended, and the supervisor does not say that this side is to take over.
    #[error("the stream has ended behind checkpoint {checkpoint}, and nobody has said that this side is to take over")]
    NotPermitted {
        /// The last whole checkpoint.
        checkpoint: u64,
    },
    /// A descriptor, a thread, a signal could not be had.
    #[error("{what}: {error}")]
    Os {
        /// What was being done.
        what: &'static str,
        /// The system's error.
        error: io::Error,
    },
}

impl Failure {
    /// The system's error that says most of it; never 0.
    pub fn errno(&self) -> i32 {
        let told = match self {
            Failure::Save(SaveError::Write(WriteError::Io { error, .. }) | SaveError::Xenstore(error))
            | Failure::Restore(RestoreError::Read(ReadError::Io { error, .. }))
            | Failure::BackRead(ReadError::Io { error, .. })
            | Failure::BackWrite(error)
            | Failure::Libxl(CallbackError::Gone(error))
            | Failure::Os { error, .. } => error.raw_os_error(),
            Failure::Save(SaveError::Hypervisor(error) | SaveError::Resume(error))
            | Failure::Restore(RestoreError::Hypervisor { error, .. })
            | Failure::Domain(error) => system_error(error),
            _ => None,
        };
        told.filter(|&errno| errno != 0).unwrap_or_else(|| self.kind().raw_os_error())
    }

    fn kind(&self) -> Errno {
        match self {
            Failure::Libxl(CallbackError::CalledOff) | Failure::CalledOff => Errno::INTR,
            Failure::Libxl(CallbackError::Gone(_)) => Errno::PIPE,
            Failure::Libxl(CallbackError::NotProvided(_)) | Failure::Limits(_) => Errno::INVAL,
            Failure::Reply { .. } | Failure::NotPermitted { .. } => Errno::CANCELED,
            Failure::Restore(RestoreError::Kind(_)) => Errno::OPNOTSUPP,
            Failure::Save(SaveError::NotSuspended { .. }) => Errno::BUSY,
            Failure::Save(SaveError::NotConverged { .. }) => Errno::TIMEDOUT,
            Failure::Save(SaveError::Write(WriteError::Order { .. } | WriteError::HandsOver(_))) => Errno::INVAL,
            Failure::Save(SaveError::Hypervisor(error) | SaveError::Resume(error))
            | Failure::Restore(RestoreError::Hypervisor { error, .. })
            | Failure::Domain(error) => match error {
                hypervisor::Error::OutOfMemory { .. } => Errno::NOMEM,
                hypervisor::Error::NoSuchDomain { .. } => Errno::SRCH,
                hypervisor::Error::NoHypervisor { .. } => Errno::NODEV,
                hypervisor::Error::NoLibrary { .. } => Errno::LIBACC,
                hypervisor::Error::OldLibrary { .. } => Errno::LIBBAD,
                hypervisor::Error::Unsupported { .. } => Errno::OPNOTSUPP,
                _ => Errno::INVAL,
            },
            Failure::Restore(RestoreError::RoundMemory { .. }) => Errno::NOMEM,
            Failure::Restore(RestoreError::RoundLimit { .. }) | Failure::BackTooMany { .. } => Errno::NOBUFS,
            Failure::Restore(error) if error.is_sender_gone() => Errno::NODATA,
            Failure::BackEnd => Errno::NODATA,
            Failure::BackRead(ReadError::Stream(error)) if error.is_truncation() => Errno::NODATA,
            Failure::Restore(RestoreError::Read(ReadError::Io { .. })) | Failure::BackRead(ReadError::Io { .. }) => {
                Errno::IO
            }
            Failure::Restore(_)
            | Failure::BackRead(_)
            | Failure::BackRecord { .. }
            | Failure::BackPfn { .. }
            | Failure::BackFraming { .. } => Errno::BADMSG,
            Failure::Save(_) | Failure::BackWrite(_) | Failure::Os { .. } => Errno::IO,
        }
    }

    /// The whole story in one line: the error and the errors behind it that it does not tell itself.
    pub fn story(&self) -> String {
        let mut story = self.to_string();
        let mut source = self.source();
        while let Some(error) = source {
            let text = error.to_string();
            if !story.contains(&text) {
                story.push_str(": ");
                story.push_str(&text);
            }
            source = error.source();
        }
        story
    }
}

/// The system's error behind an error.
fn system_error(error: &(dyn Error + 'static)) -> Option<i32> {
    let mut error = Some(error);
    while let Some(this) = error {
        if let Some(io) = this.downcast_ref::<io::Error>() {
            return io.raw_os_error();
        }
        error = this.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::libxc::DomainType;

    #[test]
    fn the_systems_error_is_passed_on() {
        let os = || io::Error::from_raw_os_error(28);
        let hypervisor = || hypervisor::Error::Os { operation: "mapping", source: os() };
        let failures: [Failure; 5] = [
            SaveError::Write(WriteError::Io { offset: 3, error: os() }).into(),
            SaveError::Hypervisor(hypervisor()).into(),
            RestoreError::Hypervisor { offset: 1, error: hypervisor() }.into(),
            RestoreError::Read(ReadError::Io { offset: 1, error: os() }).into(),
            Failure::Domain(hypervisor()),
        ];
        for failure in failures {
            assert_eq!(failure.errno(), 28, "{failure}");
        }
        assert_eq!(Failure::Domain(hypervisor()).story(), "the domain: mapping: No space left on device (os error 28)");
    }

    #[test]
    fn where_there_is_none_the_kind_counts() {
        let cases: [(Failure, Errno); 7] = [
            (Failure::CalledOff, Errno::INTR),
            (RestoreError::Kind(DomainType::Pv).into(), Errno::OPNOTSUPP),
            (RestoreError::Pfn { offset: 0, pfn: 1 << 34, nr_pfns: 9 }.into(), Errno::BADMSG),
            (RestoreError::RoundLimit { offset: 0, needed: 2, limit: 1 }.into(), Errno::NOBUFS),
            (Failure::Reply { callback: "suspend", reply: 0 }, Errno::CANCELED),
            (Failure::Domain(hypervisor::Error::OutOfMemory { pfn: 1, populated: 1, budget: 1 }), Errno::NOMEM),
            (Failure::Domain(hypervisor::Error::NoSuchDomain { domid: 9 }), Errno::SRCH),
        ];
        for (failure, errno) in cases {
            assert_eq!(failure.errno(), errno.raw_os_error(), "{failure}");
        }
    }
}
