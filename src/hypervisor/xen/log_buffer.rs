//! The buffer that a domain's dirty log is read into.
#![forbid(unsafe_code)]

use super::hypercall::buffer::Buffer;
use super::hypercall::interface::Interface;
use crate::hypervisor::error::Result;

/// It, kept from read to read. Whether the log is on is the domain's matter: in COLO libxl
/// switches it on.
#[derive(Debug, Default)]
pub(super) struct DirtyLog {
    buffer: Option<Buffer>,
}

impl DirtyLog {
    /// A buffer of at least so many words.
    pub(super) fn buffer(&mut self, interface: &Interface, words: usize) -> Result<&mut Buffer> {
        if self.buffer.as_ref().is_some_and(|buffer| buffer.words().len() < words) {
            self.buffer = None;
        }
        match &mut self.buffer {
            Some(buffer) => Ok(buffer),
            none => Ok(none.insert(interface.buffer(words * size_of::<u64>())?)),
        }
    }
}
