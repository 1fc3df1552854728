//! What a secondary keeps its copy in.
//!
//! [`Restored`] restores into a domain of a backend in this process; another kind of copy may hand the checkpoints on to who does.

use super::Target;
use crate::hypervisor::{self, DeviceModel, RestoreDomain};
use crate::libxc::RestoreError;
use crate::libxl::restore::{Options, Restorer, Turn};
use crate::remus::{RefuseReason, Session};
use crate::stream::handover::{LibxcReader, LibxlReader, ToLibxl};
use std::io::Read;

/// Makes copies of the primary's domain, one for each stream.
pub trait Copies: Send + 'static {
    /// The domain, once it is fit to run.
    type Domain: Send + 'static;
    /// A copy, with the stream that continues it.
    type Copy<R: Read>: Replica<Domain = Self::Domain>;

    /// Reads a stream's first image, up to the end of its first checkpoint, into a copy of its own.
    ///
    /// # Errors
    /// [`Unsound`]: there is no such copy then.
    fn image<R: Read>(&mut self, stream: R, options: Options) -> Result<Self::Copy<R>, Unsound>;
}

/// A copy of the primary's domain, at one of its checkpoints.
pub trait Replica {
    /// The domain, once it is fit to run.
    type Domain;

    /// Reads the next checkpoint, whole. The copy stays at the one before.
    ///
    /// # Errors
    /// [`Unsound`]: the stream goes no further.
    fn receive(&mut self) -> Result<Arrived, Unsound>;

    /// The checkpoint that was received last, this one of this session, was acknowledged: what else there is of the guest on this host
    /// is to be at it, too. [`Replica::apply`] follows, behind the first image alone it does not.
    ///
    /// # Errors
    /// In words why it is not: the copy is of no use any more.
    fn commit(&mut self, session: Session, checkpoint: u64) -> Result<(), String> {
        let _ = (session, checkpoint);
        Ok(())
    }

    /// Goes to the checkpoint that was received last.
    ///
    /// # Errors
    /// In words why not: the copy is of no use any more.
    fn apply(&mut self) -> Result<(), String>;

    /// Makes the domain fit to run.
    ///
    /// # Errors
    /// In words why it cannot be.
    fn activate(self) -> Result<Self::Domain, String>;

    /// Bytes of memory that it takes, as far as is known.
    fn memory(&self) -> u64;
}

/// What a checkpoint brought.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Arrived {
    /// Pfns listed.
    pub pages: u64,
    /// Bytes kept.
    pub bytes: u64,
}

/// Why a stream goes no further.
#[derive(Debug, thiserror::Error)]
pub enum Unsound {
    /// It cannot be believed, or it stopped.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// It has a domain that this side cannot have.
    #[error("no domain for the image: {0}")]
    Domain(hypervisor::Error),
    /// It is complete, as no stream of checkpoints is.
    #[error("the stream ends as a plain one does")]
    Ended,
}

impl Unsound {
    /// What the primary is told.
    pub const fn reason(&self) -> RefuseReason {
        match self {
            Unsound::Domain(hypervisor::Error::OutOfMemory { .. })
            | Unsound::Restore(
                RestoreError::RoundLimit { .. }
                | RestoreError::RoundMemory { .. }
                | RestoreError::Hypervisor { error: hypervisor::Error::OutOfMemory { .. }, .. },
            ) => RefuseReason::Budget,
            Unsound::Domain(_) | Unsound::Restore(_) | Unsound::Ended => RefuseReason::Malformed,
        }
    }

    /// Whether the source came to its end, or failed, rather than having bytes of no use.
    pub fn is_sender_gone(&self) -> bool {
        matches!(self, Unsound::Restore(error) if error.is_sender_gone())
    }
}

/// A domain of this process at a checkpoint.
#[derive(Debug)]
pub struct Restored<R, D> {
    restorer: Restorer,
    domain: D,
    /// Gone when the stream is.
    reader: Option<LibxcReader<R, ToLibxl>>,
}

impl<T: Target> Copies for T {
    type Domain = T::Domain;
    type Copy<R: Read> = Restored<R, T::Domain>;

    fn image<R: Read>(&mut self, stream: R, options: Options) -> Result<Self::Copy<R>, Unsound> {
        let (reader, config): (LibxlReader<R>, _) = Restorer::open(stream, options)?;
        let mut domain = self.create(config.as_deref()).map_err(Unsound::Domain)?;
        let mut restorer = Restorer::new(&domain, options)?;
        match restorer.first_image(reader, &mut domain)? {
            Turn::Checkpoint(reader) => Ok(Restored { restorer, domain, reader: Some(reader) }),
            Turn::Ended(_) => Err(Unsound::Ended),
        }
    }
}

impl<R: Read, D: RestoreDomain + DeviceModel> Replica for Restored<R, D> {
    type Domain = D;

    fn receive(&mut self) -> Result<Arrived, Unsound> {
        let reader = self.reader.take().ok_or(Unsound::Ended)?;
        match self.restorer.receive(reader, &self.domain)? {
            Turn::Checkpoint(reader) => self.reader = Some(reader),
            Turn::Ended(_) => return Err(Unsound::Ended),
        }
        Ok(Arrived { pages: self.restorer.round_pages() as u64, bytes: self.restorer.round_bytes() })
    }

    fn apply(&mut self) -> Result<(), String> {
        self.restorer.apply(&mut self.domain).map_err(|error| error.to_string())
    }

    fn activate(mut self) -> Result<D, String> {
        self.restorer.complete(&mut self.domain).map_err(|error| error.to_string())?;
        Ok(self.domain)
    }

    fn memory(&self) -> u64 {
        self.domain.info().map_or(0, |info| info.memory())
    }
}
