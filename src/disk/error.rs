//! What can go wrong with a replicated disk.
#![forbid(unsafe_code)]

use super::Mark;
use std::io;
use thiserror::Error;

/// A result of an operation on a replicated disk.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// How the refusal of a keeper ends that has a checkpoint: its primary knows it by that.
pub(super) const KEPT: &str = "is kept here: only a new protection of the domain may replace it";

/// Why something of a replicated disk cannot be done. Each says what it is about.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The system refused, or a connection failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, and with what.
        what: String,
        /// Its answer.
        source: io::Error,
    },
    /// An image of no use as a disk.
    #[error("{path}: {size} bytes are no disk: it takes a multiple of 512, and more than none")]
    NoDisk {
        /// The image.
        path: String,
        /// Its size.
        size: u64,
    },
    /// Another process has the image, or the folder.
    #[error("{path}: another process has it")]
    InUse {
        /// What it has.
        path: String,
    },
    /// A block device that is mounted, or otherwise in use on this host.
    #[error("{path}: the device is in use on this host (mounted, swap, LVM or RAID?): `lsblk {path}` shows by what")]
    DeviceInUse {
        /// The device.
        path: String,
    },
    /// Content that nobody said may be lost.
    #[error("{path} is not empty, and a copy takes its place: --overwrite lets it")]
    NotEmpty {
        /// The image.
        path: String,
    },
    /// A file that has a disk in it, and is none itself.
    #[error(
        "{path} is a {format} file: a guest would see that and not the disk in it; `qemu-img convert -O raw {path} RAW` makes a raw one"
    )]
    Container {
        /// The image.
        path: String,
        /// What kind it is.
        format: &'static str,
    },
    /// Bytes behind the end of the disk.
    #[error("{length} bytes at {offset}: the disk has {size}")]
    Outside {
        /// The first one.
        offset: u64,
        /// How many.
        length: u64,
        /// The disk's size.
        size: u64,
    },
    /// What is in the state folder is none of this version's, or of another disk.
    #[error("{path}: {text}")]
    State {
        /// The file.
        path: String,
        /// What is wrong with it.
        text: String,
    },
    /// The two sides have different disks.
    #[error("the other side's disk is {theirs}, this one is {ours}")]
    Unsuited {
        /// Name and size, or version, there.
        theirs: String,
        /// The same here.
        ours: String,
    },
    /// The image is the guest's own disk here.
    #[error("the disk is in service here: its content is not to be overwritten")]
    InService,
    /// The image is another host's copy.
    #[error("the image holds a copy of another host's disk: `disk promote` puts it into service")]
    IsCopy,
    /// Somebody may still have to go on from what is kept here.
    #[error("checkpoint {0} {kept}", kept = KEPT)]
    Holds(Mark),
    /// There is no such checkpoint of the disk.
    #[error("the disk has no checkpoint {wanted} ({has}): it does not become the guest's")]
    NotThere {
        /// The checkpoint that was asked for.
        wanted: Mark,
        /// What is there, in words.
        has: String,
    },
    /// More was written since the last commit than the journal may hold.
    #[error("the journal of {limit} bytes is full")]
    JournalFull {
        /// Its limit.
        limit: u64,
    },
    /// A journal that has been acknowledged, and is not as it was written.
    #[error("{path}: the journal of a committed checkpoint is damaged at offset {offset}")]
    Damaged {
        /// The file.
        path: String,
        /// Of the first record that is not whole.
        offset: u64,
    },
    /// The other side does what the protocol does not allow.
    #[error("the other side: {0}")]
    Protocol(String),
    /// The copy is not complete.
    #[error("not in sync yet: {percent} %")]
    NotInSync {
        /// How much of it is.
        percent: u64,
    },
    /// There is no connection to a keeper.
    #[error("the keeper is out of reach: {0}")]
    Gone(String),
    /// Somebody took too long.
    #[error("{what} took more than {seconds} s")]
    Slow {
        /// Who, and to do what.
        what: &'static str,
        /// How long it may take.
        seconds: u64,
    },
    /// The daemon has another role than the one asked for.
    #[error("the disk is {is} here, not {wanted}")]
    Role {
        /// What it is.
        is: &'static str,
        /// What it should be.
        wanted: &'static str,
    },
    /// What a daemon answered.
    #[error("{0}")]
    Told(String),
}

/// Names what failed.
pub(super) fn io(what: impl std::fmt::Display) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { what: what.to_string(), source }
}
