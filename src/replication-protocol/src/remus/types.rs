//! What only Remus has: why a checkpoint is discarded, and what one carries.

use core::fmt;

/// Why a secondary has discarded a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum RefuseReason {
    /// The checksum over its bytes is another.
    Checksum = 1,
    /// It has more or fewer bytes than its CHECKPOINT frame says.
    Length = 2,
    /// Its bytes are no sound continuation of the migration-v2 stream.
    Malformed = 3,
    /// It needs more memory than the secondary may use.
    Budget = 4,
    /// Its number does not follow.
    Order = 5,
    /// The link's framing was damaged; nothing behind that can be read.
    Framing = 6,
    /// It could not be applied. The secondary's copy is lost; a GOODBYE follows.
    Apply = 7,
}

impl RefuseReason {
    /// The reason of a number on the wire.
    pub const fn from_wire(value: u32) -> Option<RefuseReason> {
        match value {
            1 => Some(RefuseReason::Checksum),
            2 => Some(RefuseReason::Length),
            3 => Some(RefuseReason::Malformed),
            4 => Some(RefuseReason::Budget),
            5 => Some(RefuseReason::Order),
            6 => Some(RefuseReason::Framing),
            7 => Some(RefuseReason::Apply),
            _ => None,
        }
    }

    /// One word for logs and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            RefuseReason::Checksum => "checksum",
            RefuseReason::Length => "length",
            RefuseReason::Malformed => "malformed",
            RefuseReason::Budget => "budget",
            RefuseReason::Order => "order",
            RefuseReason::Framing => "framing",
            RefuseReason::Apply => "apply",
        }
    }
}

impl fmt::Display for RefuseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a checkpoint carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Image {
    /// The last of a whole image: a new migration-v2 stream began with it.
    Whole,
    /// What has changed since the checkpoint before.
    Delta,
}
