//! Why libxl could not be asked for what only it can do.
#![forbid(unsafe_code)]

use std::io;
use thiserror::Error;

/// Why not.
#[derive(Debug, Error)]
pub enum CallbackError {
    /// The pipe is broken, or at its end: libxl has died or wants nothing more to do with us.
    #[error("libxl is gone: {0}")]
    Gone(io::Error),
    /// The save was called off meanwhile or before.
    #[error("called off by SIGTERM")]
    CalledOff,
    /// libxl does not answer this one.
    #[error("callback {0} is not in CBFLAGS")]
    NotProvided(&'static str),
}
