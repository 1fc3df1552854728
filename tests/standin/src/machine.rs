//! The machine's frames: what a foreign mapping names, and where it lies in the file of the guest's memory.
#![forbid(unsafe_code)]

use crate::errno::Errno;
use std::fs::File;
use std::os::fd::AsRawFd;
use xen_replicate::hypervisor::PAGE_SIZE;
use xen_replicate::hypervisor::sim::Turn;

/// Frames that one domain's pages can be mapped by.
///
/// For a translated guest a frame is named by its gfn. A PV guest's are named by their mfn, and some belong to nobody but the
/// hypervisor: this is the place where that is told apart.
pub struct Machine<'a> {
    domain: Turn<'a>,
    memory: &'a File,
}

impl<'a> Machine<'a> {
    /// The frames of a domain that stands still meanwhile.
    pub fn new((domain, memory): (Turn<'a>, &'a File)) -> Self {
        Machine { domain, memory }
    }

    /// Which page of the file a frame is; `EINVAL` for one that nobody can map. It stays the same for good.
    pub fn page(&self, frame: u64) -> Result<usize, Errno> {
        let memory = self.domain.memory();
        memory.slot(frame).filter(|_| memory.has_data(frame)).ok_or(Errno(libc::EINVAL))
    }

    /// The file's descriptor, and octets in it.
    pub fn file(&self) -> (i32, usize) {
        (self.memory.as_raw_fd(), usize::try_from(self.domain.memory().budget()).unwrap_or(0) * PAGE_SIZE)
    }
}
