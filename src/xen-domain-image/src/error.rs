//! Why there is no such image, or it cannot be made into what was asked for.

use std::io;
use xen_migration_stream::decode::DecodeError;
use xen_migration_stream::reader::ReadError;
use xen_migration_stream::{BodyError, StreamError};

/// See the variants.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The file, or what is written to.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The stream cannot be read up to the checkpoint.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A receiver refuses the stream before the checkpoint.
    #[error(transparent)]
    Refused(#[from] StreamError),
    /// The stream ends before its first whole checkpoint, or before END where it has none.
    #[error("the stream holds no whole image: {0}")]
    Torn(StreamError),
    /// A back channel.
    #[error("a back channel holds no image")]
    BackChannel,
    /// Another checkpoint than there are.
    #[error("there is no checkpoint {asked}: the stream has {there}, counted from 1")]
    NoCheckpoint {
        /// The one asked for.
        asked: u64,
        /// The last.
        there: u64,
    },
    /// A record that the output needs.
    #[error("the image has no {0}")]
    Missing(&'static str),
    /// A record that has another shape.
    #[error("{record} at offset {offset:#x}: {error}")]
    Record {
        /// Its name.
        record: &'static str,
        /// Where it begins in the stream.
        offset: u64,
        /// What is wrong.
        error: RecordError,
    },
    /// An address that leads nowhere.
    #[error(transparent)]
    Address(#[from] crate::translate::AddressError),
    /// A page frame that the guest has no memory for.
    #[error("the guest has no page frame {0:#x}")]
    NoPage(u64),
    /// A vCPU that is not there.
    #[error("there is no vCPU {0}")]
    NoVcpu(u32),
}

/// What is wrong with a record.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// Its body.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// What is in it.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}
