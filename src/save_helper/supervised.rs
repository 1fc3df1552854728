//! A restore that somebody else watches over: who keeps the primary's checkpoints and decides whether this side takes over.
//!
//! `xl migrate-receive -r` fails over when its stream ends, whatever has ended it: the death of whoever feeds it, too. A supervisor
//! starts it with the environment variable [`ENVIRONMENT`], the name of a file. Then the end of the stream behind a checkpoint is a
//! failover only if that file is there, and each checkpoint that the domain is at is told on the back channel, which nothing else uses
//! in a Remus stream: one record of type [`APPLIED`] with the domain's number and the checkpoint's, each as a u64.
#![forbid(unsafe_code)]

use std::io::{self, ErrorKind, Read};
use std::path::PathBuf;

/// The environment variable that names the file which allows a failover.
pub const ENVIRONMENT: &str = "XEN_REPLICATE_FAILOVER";
/// The record's type: of those that may be passed over, and none of Xen's.
pub const APPLIED: u32 = 0x8000_5852;

/// The supervisor of this process.
#[derive(Debug, Clone)]
pub struct Supervisor {
    permit: PathBuf,
}

impl Supervisor {
    /// The one that the environment names, if it does.
    pub fn of_environment() -> Option<Self> {
        std::env::var_os(ENVIRONMENT).map(|permit| Supervisor { permit: permit.into() })
    }

    /// One that allows a failover by a file of this name.
    pub const fn new(permit: PathBuf) -> Self {
        Supervisor { permit }
    }

    /// Whether this side is to take over, now that the stream has ended.
    pub fn permits(&self) -> bool {
        self.permit.exists()
    }
}

/// What was told on the back channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Applied {
    /// The domain's number.
    pub domid: u32,
    /// The checkpoint it is at, counted from 1.
    pub checkpoint: u64,
}

impl Applied {
    /// The record's body.
    pub(super) fn body(self) -> [u8; 16] {
        let mut body = [0; 16];
        for (place, byte) in
            body.iter_mut().zip(u64::from(self.domid).to_le_bytes().into_iter().chain(self.checkpoint.to_le_bytes()))
        {
            *place = byte;
        }
        body
    }

    /// Reads one.
    ///
    /// # Errors
    /// The channel's; anything else than such a record.
    pub fn read(channel: &mut impl Read) -> io::Result<Self> {
        let mut header = [[0; 4]; 2];
        channel.read_exact(header.as_flattened_mut())?;
        if header.map(u32::from_le_bytes) != [APPLIED, 16] {
            return Err(io::Error::new(ErrorKind::InvalidData, "something else than a record of a checkpoint applied"));
        }
        let mut body = [[0; 8]; 2];
        channel.read_exact(body.as_flattened_mut())?;
        let [domid, checkpoint] = body.map(u64::from_le_bytes);
        let domid = u32::try_from(domid).map_err(|_| ErrorKind::InvalidData)?;
        Ok(Applied { domid, checkpoint })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::save_helper::back_channel::BackWriter;

    #[test]
    fn what_is_told_is_read_and_nothing_else_is() {
        let told = Applied { domid: 7, checkpoint: 1 << 40 };
        let mut bytes = Vec::new();
        BackWriter::new(&mut bytes).applied(told).unwrap();
        bytes.push(9);
        let mut rest = &bytes[..];
        assert_eq!(Applied::read(&mut rest).unwrap(), told);
        assert_eq!(rest, [9]);
        bytes[0] ^= 1;
        assert_eq!(Applied::read(&mut &bytes[..]).unwrap_err().kind(), ErrorKind::InvalidData);
        bytes[0] ^= 1;
        bytes[12] = 1;
        assert_eq!(Applied::read(&mut &bytes[..]).unwrap_err().kind(), ErrorKind::InvalidData);
        assert_eq!(Applied::read(&mut &bytes[..20]).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_failover_is_permitted_by_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let supervisor = Supervisor::new(folder.path().join("go"));
        assert!(!supervisor.permits());
        std::fs::write(folder.path().join("go"), "").unwrap();
        assert!(supervisor.permits());
    }
}
