//! What a guest was at each checkpoint, in a file: so that a test can hold a survivor against the checkpoint it says it is from.
//!
//! One line a state, written out before the guest runs on: `checkpoint` where this side took it or `survivor` where this side
//! goes on from it, its number, and the three sums of [`Digest`] without the pages that a restore clears.

use crate::hypervisor::sim::{Digest, Runner, SimDomain};
use crate::replicate::primary::Observer;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

/// The file.
#[derive(Debug)]
pub struct Digests(File);

impl Digests {
    /// Opens the file, which is begun anew, or continued where the process's guest came from a checkpoint that is in it.
    ///
    /// # Errors
    /// The system's.
    pub fn open(path: &Path, continued: bool) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.create(true).append(continued).write(true).truncate(!continued);
        options.open(path).map(Digests)
    }

    /// Keeps what a domain is that is to go on from a checkpoint.
    ///
    /// # Errors
    /// The file's, or the domain's.
    pub fn survivor(&mut self, number: u64, domain: &SimDomain) -> io::Result<()> {
        self.line("survivor", number, domain.digest_but_cleared().map_err(io::Error::other)?)
    }

    fn line(&mut self, what: &str, number: u64, Digest { memory, vcpus, devices }: Digest) -> io::Result<()> {
        // One write: a process that dies leaves a whole line or none.
        self.0.write_all(format!("{what} {number} {memory:016x} {vcpus:016x} {devices:016x}\n").as_bytes())
    }
}

impl Observer<Runner> for Digests {
    fn suspended(&mut self, number: u64, domain: &Runner) {
        let digest = domain.turn().and_then(|turn| turn.digest_but_cleared());
        let kept = digest.map_err(io::Error::other).and_then(|digest| self.line("checkpoint", number, digest));
        if let Err(error) = kept {
            log::error!("keeping the sums of checkpoint {number}: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypervisor::sim::{Pace, SimConfig};
    use crate::hypervisor::{Domain, RestoreDomain, hvm_param};
    use crate::hypervisor::{PageBatchMut, SaveDomain};

    #[test]
    fn a_checkpoint_and_its_survivor_have_the_same_sums_and_others_have_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("digests");
        let domain = || SimDomain::create(&SimConfig::small(3)).unwrap();
        let mut runner = Runner::start(domain(), Pace::Free).unwrap();
        runner.suspend().unwrap();
        let mut digests = Digests::open(&path, false).unwrap();
        digests.suspended(7, &runner);
        let mut copy = runner.stop().unwrap();
        // What a restore does to it.
        let ring = copy.hvm_param(hvm_param::STORE_PFN).unwrap();
        copy.map_pages_mut(&[ring]).unwrap().page_mut(0).unwrap()[0] ^= 1;
        Digests::open(&path, true).unwrap().survivor(7, &copy).unwrap();
        copy.map_pages_mut(&[20]).unwrap().page_mut(0).unwrap()[0] ^= 1;
        Digests::open(&path, true).unwrap().survivor(7, &copy).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = text.lines().map(|line| line.split_once(' ').unwrap()).collect();
        assert_eq!((lines[0].0, lines[1].0, lines.len()), ("checkpoint", "survivor", 3));
        assert_eq!(lines[0].1, lines[1].1);
        assert_ne!(lines[1].1, lines[2].1);
    }
}
