//! libxl's half with its libxc in another process: a save helper, ours or Xen's.
//!
//! ```text
//!              this program                                    the helper
//!   save::plain    xl preamble, libxl header, LIBXC_CONTEXT
//!                                         --- the fd --->      libxc's headers .. END
//!                  EMULATOR_*, END        <-- `complete` --
//!   save::remus    as above up to LIBXC_CONTEXT --------->     .. CHECKPOINT
//!                  EMULATOR_*, CHECKPOINT_END <-- `checkpoint` --
//!                                         --- reply 1 --->     the next round
//!   restore::plain, restore::remus        the same, read
//! ```
//!
//! The stream changes hands as [`crate::stream::handover`] has it: while it is the helper's, this program has a value that can
//! neither write nor read. The domain is the caller's on this side (suspend, resume, the device model), and the helper's by its
//! number on the other, as with libxl and libxc. Lines that the helper logs go to [`log`].
//!
//! COLO is not driven: its control records travel while libxc waits, see `tests/save_helper/colo.rs` for both sides of it.
#![forbid(unsafe_code)]

pub mod restore;
pub mod save;

use super::message::Level;
use super::parent::{Completion, Helper, ParentError};
use super::{Command, parent};
use crate::hypervisor;
use crate::libxc::{RestoreError, SaveError};
use crate::stream::handover::WriteError;
use crate::stream::reader::ReadError;
use std::ffi::CStr;
use std::os::fd::BorrowedFd;
use std::time::Instant;
use thiserror::Error;

/// The program that is libxc.
#[derive(Debug)]
pub struct Libxc {
    /// How to start it: the helper, or a program that becomes it. The arguments of libxl are added.
    pub program: std::process::Command,
    /// The domain's number there.
    pub domid: u32,
    /// When it must have completed, for all of the stream; without it there is no limit.
    pub deadline: Option<Instant>,
}

/// Why an image was not saved or restored.
#[derive(Debug, Error)]
pub enum DriverError {
    /// libxl's part of saving.
    #[error(transparent)]
    Save(#[from] SaveError),
    /// libxl's part of restoring.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// The guest or its device model, when the helper asked for it.
    #[error("at the save helper's {callback}: {error}")]
    Domain {
        /// What it asked for.
        callback: &'static str,
        /// Why it was not had.
        error: hypervisor::Error,
    },
    /// The helper could not be run.
    #[error(transparent)]
    Helper(#[from] ParentError),
    /// libxc's part: the helper has completed without success.
    #[error("the save helper failed with errno {}: {said}", .completion.errno)]
    Failed {
        /// What it says.
        completion: Completion,
        /// The last error that it logged.
        said: String,
    },
    /// It says what it cannot say in this turn.
    #[error("the save helper: {0} out of turn")]
    OutOfTurn(&'static str),
}

impl From<WriteError> for DriverError {
    fn from(error: WriteError) -> Self {
        DriverError::Save(error.into())
    }
}

impl From<ReadError> for DriverError {
    fn from(error: ReadError) -> Self {
        DriverError::Restore(error.into())
    }
}

/// What went wrong on libxl's side, and what the helper said of its own: the two ends' stories of one failure.
#[derive(Debug, Default)]
struct Story {
    trouble: Option<DriverError>,
    said: String,
}

impl Story {
    /// Keeps the first trouble. Whether there was none.
    fn keep(&mut self, result: Result<(), DriverError>) -> bool {
        match result {
            Ok(()) => true,
            Err(error) => {
                self.trouble.get_or_insert(error);
                false
            }
        }
    }

    fn log(&mut self, level: Level, errno: u32, text: &CStr) {
        let text = text.to_string_lossy();
        let line = match level {
            Level::Debug | Level::Verbose | Level::Detail | Level::Progress => log::Level::Debug,
            Level::Info | Level::Notice => log::Level::Info,
            Level::Warn => log::Level::Warn,
            Level::Error | Level::Critical => log::Level::Error,
        };
        if errno == super::message::NO_ERRNO {
            log::log!(line, "save helper: {text}");
        } else {
            log::log!(line, "save helper: {text} (errno {errno})");
        }
        if line == log::Level::Error {
            self.said = text.into_owned();
        }
    }

    /// How it ended: what failed first is why.
    fn end(self, completion: Completion) -> Result<(), DriverError> {
        match (self.trouble, completion.retval) {
            (Some(trouble), _) => Err(trouble),
            (None, 0) => Ok(()),
            (None, _) => Err(DriverError::Failed { completion, said: self.said }),
        }
    }
}

/// Runs the helper on the stream to its end.
fn run(
    libxc: Libxc,
    command: &Command,
    stream: BorrowedFd<'_>,
    libxl: &mut impl parent::Answers,
) -> Result<Completion, ParentError> {
    let mut helper = Helper::start_as(libxc.program, command, stream, None)?;
    let (completion, status) = helper.answer(libxl, libxc.deadline)?;
    log::debug!("save helper: {completion:?}, {status}");
    Ok(completion)
}

/// libxl's reply to a callback that wants 1 for success.
fn reply(well: bool) -> i32 {
    i32::from(well)
}
