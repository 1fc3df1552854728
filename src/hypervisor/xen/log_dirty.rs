//! Which pages a domain writes: Xen's dirty log.
#![forbid(unsafe_code)]

use super::domain::XenDomain;
use super::hypercall::abi::shadow;
use crate::hypervisor::bitmap::BoundMismatch;
use crate::hypervisor::error::{Error, Result};
use crate::hypervisor::types::{CleanMode, DirtyStats, DomainKind};
use crate::hypervisor::{DirtyBitmap, LogDirty};
use std::io;

impl XenDomain {
    fn read_log(&mut self, bitmap: &mut DirtyBitmap, operation: u32, mode: u32) -> Result<DirtyStats> {
        // What lies beyond the bitmap would be lost without a word. Only of a PV guest's p2m may the end name nothing.
        let all = self.nr_gpfns()?;
        let nr_pfns = bitmap.nr_pfns();
        if if self.kind == DomainKind::Pv { nr_pfns > all } else { nr_pfns != all } {
            return Err(BoundMismatch { expected: all, found: nr_pfns }.into());
        }
        let words = bitmap.words().len();
        let buffer = self.log.buffer(&self.interface, words)?;
        let domid = self.domid;
        let stats = self.interface.read_log(domid, operation, mode, nr_pfns, buffer).map_err(|error| match error {
            // What Xen says to reading a log that is off; nothing else of this request can be invalid.
            Error::Hypercall { source, .. } if source.kind() == io::ErrorKind::InvalidInput => {
                Error::LogDirtyOff { domid }
            }
            other => other,
        })?;
        bitmap.copy_from_words(buffer.words());
        Ok(stats)
    }
}

/// Set to anything, it has what the log does not tell of passed over: for runs that show what would be lost by that, and for nothing else.
const TRUST_LOG: &str = "XEN_REPLICATE_TRUST_DIRTY_LOG";

impl LogDirty for XenDomain {
    /// Of a PV guest no Xen's log has them.
    fn logs_additions(&self) -> bool {
        let told = self.kind == DomainKind::Hvm && self.interface.quirks().logs_p2m_additions;
        let trusted = std::env::var_os(TRUST_LOG).is_some();
        if trusted && !told {
            log::warn!(
                "domain {}: {TRUST_LOG} is set: memory that comes to it may be missing from its copy",
                self.domid
            );
        }
        told || trusted
    }

    fn enable_log_dirty(&mut self) -> Result<()> {
        if self.interface.switch_log(self.domid, shadow::ENABLE_LOG_DIRTY).is_err() {
            // It may be on already, for a device model that follows the video memory.
            self.interface.switch_log(self.domid, shadow::OFF)?;
            self.interface.switch_log(self.domid, shadow::ENABLE_LOG_DIRTY)?;
        }
        Ok(())
    }

    /// Xen counts with 32 bits: more stay at the highest number.
    fn clean_log_dirty(&mut self, bitmap: &mut DirtyBitmap, mode: CleanMode) -> Result<DirtyStats> {
        let mode = match mode {
            CleanMode::Ongoing => 0,
            CleanMode::Final => shadow::FINAL,
        };
        self.read_log(bitmap, shadow::CLEAN, mode)
    }

    fn peek_log_dirty(&mut self, bitmap: &mut DirtyBitmap) -> Result<DirtyStats> {
        self.read_log(bitmap, shadow::PEEK, 0)
    }

    fn disable_log_dirty(&mut self) -> Result<()> {
        self.interface.switch_log(self.domid, shadow::OFF)
    }
}
