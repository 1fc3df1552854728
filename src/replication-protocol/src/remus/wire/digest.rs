//! The checksum over a checkpoint: XXH3-128 (seed 0) over its DATA bytes. It finds damage, it does not authenticate.

use crate::remus::types::RefuseReason;
use core::fmt;
use xxhash_rust::xxh3::Xxh3;

/// What a CHECKPOINT frame says of the checkpoint before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Seal {
    /// Number of the checkpoint, from 1. It goes on from session to session; a refused one is not used again.
    pub number: u64,
    /// DATA bytes since the last CHECKPOINT or STREAM.
    pub bytes: u64,
    /// XXH3-128 over them.
    pub checksum: u128,
}

/// Collects bytes and checksum of one checkpoint after another, on either side.
#[derive(Clone, Default)]
pub struct Digest {
    state: Xxh3,
    bytes: u64,
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Digest").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl Digest {
    /// Adds the payload of a DATA frame.
    pub fn update(&mut self, data: &[u8]) {
        self.state.update(data);
        self.bytes = self.bytes.saturating_add(data.len() as u64);
    }

    /// Bytes so far.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Forgets what there was: a STREAM frame.
    pub fn restart(&mut self) {
        self.state.reset();
        self.bytes = 0;
    }

    /// Closes a checkpoint and begins the next.
    pub fn seal(&mut self, number: u64) -> Seal {
        let seal = Seal { number, bytes: self.bytes, checksum: self.state.digest128() };
        self.restart();
        seal
    }

    /// Holds what was received against a CHECKPOINT frame, and begins the next.
    ///
    /// # Errors
    /// [`RefuseReason::Length`] or [`RefuseReason::Checksum`].
    pub fn verify(&mut self, seal: &Seal) -> Result<(), RefuseReason> {
        let ours = self.seal(seal.number);
        if ours.bytes != seal.bytes {
            return Err(RefuseReason::Length);
        }
        if ours.checksum != seal.checksum {
            return Err(RefuseReason::Checksum);
        }
        Ok(())
    }
}
