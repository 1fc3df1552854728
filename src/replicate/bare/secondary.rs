//! The secondary: whole checkpoints in, and the domain ready to run when there are no more.
//!
//! A bare stream has no checksum. What breaks its form, or what the hypervisor or the device model does not take, is
//! refused; damage that keeps the form is not seen: inside page contents, in most values of registers and parameters, and
//! in bit 31 of a type, which turns a record into one that may be passed over. A length that claims more than there is
//! cannot be told from a primary that died, and leaves the last whole checkpoint as such a death does.

use crate::hypervisor::{self, DeviceModel, RestoreDomain};
use crate::libxc::RestoreError;
use crate::libxl::restore::{ApplyError, Options, Restorer, Started, Turn};
use crate::stream::handover::{LibxcReader, LibxlReader, ToLibxl};
use std::io::Read;

/// Told of each checkpoint of a secondary.
pub trait Observer {
    /// Checkpoint `number` is applied: from now on the domain goes on from there. It had so many pages and bytes; the
    /// first one, which is applied as it arrives, tells neither.
    fn applied(&mut self, number: u64, pages: usize, bytes: u64) {
        let _ = (number, pages, bytes);
    }

    /// The stream has stopped, after checkpoint `number`. The domain is made ready next.
    fn sender_gone(&mut self, number: u64) {
        let _ = number;
    }
}

/// Nobody watches.
impl Observer for () {}

/// How it ended. The domain is ready to run in either case, and paused.
#[derive(Debug)]
pub enum Outcome {
    /// The stream came to its end after a checkpoint: the domain was handed over.
    HandedOver,
    /// The stream stopped: the domain is at this checkpoint.
    FailOver {
        /// The last whole checkpoint, counted from 1.
        checkpoint: u64,
        /// How the stream stopped.
        stopped: RestoreError,
    },
}

/// Why the domain must not run.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The stream stopped before there was a whole checkpoint.
    #[error("the stream stopped before the first checkpoint was whole: {0}")]
    TooEarly(RestoreError),
    /// A plain migration: the sender keeps its domain until it is told that this one runs, which nobody here does.
    #[error(
        "the stream has no checkpoint: it is a plain migration, not Remus. No guest was started here and nothing was lost: the \
         sender keeps its guest. Receive it with the stock `xl migrate-receive`, or send it with `xl remus`"
    )]
    NoCheckpoint,
    /// The stream cannot be believed. The primary may well be alive, so this is no reason to fail over.
    #[error("refused after checkpoint {checkpoint}: {error}")]
    Refused {
        /// The last whole checkpoint, at which the domain still is; 0 for none.
        checkpoint: u64,
        /// What is wrong.
        error: RestoreError,
    },
    /// The hypervisor failed in the middle of a checkpoint: the domain is at none.
    #[error("after checkpoint {checkpoint}: {error}")]
    Damaged {
        /// The last whole checkpoint.
        checkpoint: u64,
        /// What failed.
        error: ApplyError,
    },
}

/// Takes a stream into an empty, paused domain until it ends or stops.
///
/// # Errors
/// [`Refusal`]: the domain is not to run.
pub fn receive<R: Read, D: RestoreDomain + DeviceModel>(
    source: R,
    domain: &mut D,
    options: Options,
    observer: &mut impl Observer,
) -> Result<Outcome, Refusal> {
    let Started { restorer, reader, .. } = Restorer::start(source, domain, options).map_err(early)?;
    image(restorer, reader, domain, observer)
}

/// The same into a domain that is made by the configuration in the stream's preamble.
///
/// # Errors
/// As [`receive`]; the domain cannot be made.
pub fn receive_new<R: Read, D: RestoreDomain + DeviceModel>(
    source: R,
    create: impl FnOnce(Option<&[u8]>) -> hypervisor::Result<D>,
    options: Options,
    observer: &mut impl Observer,
) -> Result<(Outcome, D), Refusal> {
    let (reader, config) = Restorer::open(source, options).map_err(early)?;
    let mut domain = create(config.as_deref())
        .map_err(|error| Refusal::Refused { checkpoint: 0, error: RestoreError::Hypervisor { offset: 0, error } })?;
    let restorer = Restorer::new(&domain, options).map_err(early)?;
    let outcome = image(restorer, reader, &mut domain, observer)?;
    Ok((outcome, domain))
}

fn early(error: RestoreError) -> Refusal {
    if error.is_sender_gone() { Refusal::TooEarly(error) } else { Refusal::Refused { checkpoint: 0, error } }
}

fn image<R: Read, D: RestoreDomain + DeviceModel>(
    mut restorer: Restorer,
    reader: LibxlReader<R>,
    domain: &mut D,
    observer: &mut impl Observer,
) -> Result<Outcome, Refusal> {
    let reader = match restorer.first_image(reader, domain).map_err(early)? {
        Turn::Ended(_) => return Err(Refusal::NoCheckpoint),
        Turn::Checkpoint(reader) => reader,
    };
    observer.applied(1, 0, 0);
    follow(&mut restorer, reader, domain, observer)
}

fn follow<R: Read, D: RestoreDomain + DeviceModel>(
    restorer: &mut Restorer,
    mut reader: LibxcReader<R, ToLibxl>,
    domain: &mut D,
    observer: &mut impl Observer,
) -> Result<Outcome, Refusal> {
    let mut checkpoint = 1;
    loop {
        let turn = match restorer.receive(reader, domain) {
            Ok(turn) => turn,
            Err(stopped) if stopped.is_sender_gone() => {
                log::info!("{stopped}; failing over to checkpoint {checkpoint}");
                observer.sender_gone(checkpoint);
                restorer.complete(domain).map_err(|error| Refusal::Refused { checkpoint, error })?;
                return Ok(Outcome::FailOver { checkpoint, stopped });
            }
            Err(error) => return Err(Refusal::Refused { checkpoint, error }),
        };
        restorer.apply(domain).map_err(|error| match error {
            ApplyError::Refused(error) => Refusal::Refused { checkpoint, error },
            torn => Refusal::Damaged { checkpoint, error: torn },
        })?;
        checkpoint += 1;
        observer.applied(checkpoint, restorer.round_pages(), restorer.round_bytes());
        reader = match turn {
            Turn::Checkpoint(reader) => reader,
            Turn::Ended(_) => {
                restorer.complete(domain).map_err(|error| Refusal::Refused { checkpoint, error })?;
                return Ok(Outcome::HandedOver);
            }
        };
    }
}
