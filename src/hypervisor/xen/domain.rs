//! One domain: who it is, and its life.
#![forbid(unsafe_code)]

use super::hypercall::abi::{self, dominf};
use super::hypercall::interface::Interface;
use super::log_buffer::DirtyLog;
use super::populate::Memory;
use super::pv::maps::PvMaps;
use crate::hypervisor::error::{Error, Result};
use crate::hypervisor::types::{DomainInfo, DomainKind, ShutdownReason, Uuid};
use crate::hypervisor::{DeviceModel, Domain};
use std::cell::Cell;
use std::fmt;

/// What the toolstack does when a domain is to suspend or to resume.
pub type LifeHook = Box<dyn FnMut() -> Result<()> + Send>;

/// A domain of this host's Xen.
///
/// Dropping the handle leaves the domain as it is, log-dirty mode included.
pub struct XenDomain {
    pub(super) interface: Interface,
    pub(super) log: DirtyLog,
    pub(super) domid: u32,
    pub(super) kind: DomainKind,
    /// What a restorer knows of the domain's pages.
    pub(super) memory: Memory,
    /// What of a PV domain stays mapped.
    pub(super) pv: PvMaps,
    /// Size of the HVM context the last time it was read.
    pub(super) context_size: Cell<usize>,
    /// Whether one of Xen's pauses is this handle's.
    paused_here: bool,
    suspend: Option<LifeHook>,
    resume: Option<LifeHook>,
    /// What libxl knows of the emulator beside the domain; `None` where there is none.
    pub(super) device_model: Option<Box<dyn DeviceModel + Send>>,
}

impl fmt::Debug for XenDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("XenDomain").field("domid", &self.domid).field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl XenDomain {
    pub(super) fn open(interface: &Interface, domid: u32) -> Result<Self> {
        let kind = kind(&interface.info(domid)?);
        Ok(XenDomain {
            interface: interface.clone(),
            log: DirtyLog::default(),
            domid,
            kind,
            memory: Memory::default(),
            pv: PvMaps::default(),
            context_size: Cell::new(0),
            paused_here: false,
            suspend: None,
            resume: None,
            device_model: None,
        })
    }

    /// Has [`Domain::suspend`] call the toolstack, which owns the ways to reach the guest (xenstore, event channels). It returns
    /// when the guest has suspended itself. Without it, [`Domain::suspend`] is not supported.
    #[must_use]
    pub fn with_suspend(mut self, suspend: LifeHook) -> Self {
        self.suspend = Some(suspend);
        self
    }

    /// Has [`Domain::resume`] call the toolstack, which also resumes the device model and xenstore. Without it, only Xen is told.
    #[must_use]
    pub fn with_resume(mut self, resume: LifeHook) -> Self {
        self.resume = Some(resume);
        self
    }

    /// Has what concerns the emulator beside the domain go there. Without it there is none, as beside PVH and most PV domains.
    #[must_use]
    pub fn with_device_model(mut self, device_model: Box<dyn DeviceModel + Send>) -> Self {
        self.device_model = Some(device_model);
        self
    }

    /// The domain's number.
    pub const fn domid(&self) -> u32 {
        self.domid
    }

    /// What Xen's domctl interface says of the domain.
    pub(super) fn getdomaininfo(&self) -> Result<abi::DomainInfo> {
        self.interface.info(self.domid)
    }

    /// Has Xen send an event to a port of the domain's, which somebody here is bound to, when the domain has suspended itself.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn subscribe_for_suspend(&self, port: u32) -> Result<()> {
        self.interface.subscribe(self.domid, port)
    }

    /// Has Xen shut the domain down as if it had suspended itself: what a HVM guest without PV drivers needs, which cannot be asked.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn suspend_from_outside(&mut self) -> Result<()> {
        self.interface.shut_down(self.domid, abi::shutdown::SUSPEND)
    }

    /// The p2m size: one more than the highest gfn, or for a PV guest than the highest pfn.
    pub(super) fn nr_gpfns(&self) -> Result<u64> {
        Ok(self.interface.maximum_gpfn(self.domid)? + 1)
    }

    /// Refuses what only PV domains have.
    pub(super) const fn must_be_pv(&self, what: &'static str) -> Result<()> {
        match self.kind {
            DomainKind::Pv => Ok(()),
            DomainKind::Hvm => Err(Error::Unsupported { backend: "xen, translated guest", what }),
        }
    }

    /// Refuses what needs a guest whose pfns are its gfns.
    pub(super) const fn must_be_translated(&self, what: &'static str) -> Result<()> {
        match self.kind {
            DomainKind::Hvm => Ok(()),
            DomainKind::Pv => Err(Error::Unsupported { backend: "xen, PV guest", what }),
        }
    }
}

impl Domain for XenDomain {
    /// The name is the domain's number: Xen knows no other.
    fn info(&self) -> Result<DomainInfo> {
        let info = self.getdomaininfo()?;
        Ok(DomainInfo {
            domid: self.domid,
            name: self.domid.to_string(),
            uuid: Uuid(info.handle),
            kind: kind(&info),
            // The highest number there is stands for a domain without vCPUs.
            nr_vcpus: info.max_vcpu_id.checked_add(1).unwrap_or(0),
            nr_pfns: self.nr_gpfns()?,
            populated: info.tot_pages,
            max_pages: info.max_pages,
            paused: info.flags & dominf::PAUSED != 0,
            shutdown: shutdown(info.flags),
        })
    }

    fn suspend(&mut self) -> Result<()> {
        let Some(suspend) = &mut self.suspend else {
            return Err(Error::Unsupported {
                backend: "xen",
                what: "asking a guest to suspend without a toolstack (XenDomain::with_suspend)",
            });
        };
        suspend()?;
        match shutdown(self.getdomaininfo()?.flags) {
            Some(ShutdownReason::Suspend) => Ok(()),
            shutdown => Err(Error::SuspendNotAcknowledged { domid: self.domid, shutdown }),
        }
    }

    fn resume(&mut self) -> Result<()> {
        if let Some(resume) = &mut self.resume {
            return resume();
        }
        if shutdown(self.getdomaininfo()?.flags) != Some(ShutdownReason::Suspend) {
            return Err(Error::WrongState { domid: self.domid, operation: "resume", state: "not suspended" });
        }
        self.cancel_suspend()?;
        self.interface.resume(self.domid)
    }

    /// Xen counts pauses. This handle holds at most one of them, whoever else holds some.
    fn pause(&mut self) -> Result<()> {
        if !self.paused_here {
            self.interface.pause(self.domid)?;
            self.paused_here = true;
        }
        Ok(())
    }

    /// Takes back this handle's pause, or else somebody else's: a new domain is paused by whoever created it.
    fn unpause(&mut self) -> Result<()> {
        if self.paused_here || self.getdomaininfo()?.flags & dominf::PAUSED != 0 {
            self.interface.unpause(self.domid)?;
            self.paused_here = false;
        }
        Ok(())
    }
}

impl XenDomain {
    /// Puts 1, "cancelled", where the guest will look for what its suspend hypercall returned: in its first vCPU's accumulator.
    fn cancel_suspend(&self) -> Result<()> {
        // A HVM guest without PV drivers has made no hypercall.
        let hvm = self.kind == DomainKind::Hvm;
        if hvm && self.interface.hvm_param(self.domid, abi::HVM_PARAM_CALLBACK_IRQ)? == 0 {
            return Ok(());
        }
        let is_64 = hvm || self.interface.address_size(self.domid)? == u64::BITS;
        let mut context = self.interface.vcpu_context(self.domid, 0)?;
        cancel(&mut context, is_64);
        self.interface.set_vcpu_context(self.domid, 0, &context)
    }
}

/// Sets the lower half of the accumulator in a vCPU's context to 1, and leaves the upper half as it is.
fn cancel(context: &mut [u8], is_64: bool) {
    for (place, byte) in context.iter_mut().skip(abi::eax_offset(is_64)).zip(1u32.to_le_bytes()) {
        *place = byte;
    }
}

const fn kind(info: &abi::DomainInfo) -> DomainKind {
    if info.flags & dominf::HVM_GUEST != 0 { DomainKind::Hvm } else { DomainKind::Pv }
}

/// The reason in a domain's flags. A reason that has no name is that of a guest gone wrong.
const fn shutdown(flags: u32) -> Option<ShutdownReason> {
    if flags & dominf::SHUTDOWN == 0 {
        return None;
    }
    Some(match (flags >> dominf::SHUTDOWN_SHIFT) & dominf::SHUTDOWN_MASK {
        abi::shutdown::POWEROFF => ShutdownReason::Poweroff,
        abi::shutdown::REBOOT => ShutdownReason::Reboot,
        abi::shutdown::SUSPEND => ShutdownReason::Suspend,
        abi::shutdown::WATCHDOG => ShutdownReason::Watchdog,
        abi::shutdown::SOFT_RESET => ShutdownReason::SoftReset,
        _ => ShutdownReason::Crash,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shutdown_reasons_are_told_only_of_domains_that_are_shut_down() {
        let suspended = dominf::SHUTDOWN | 2 << 16;
        assert_eq!(shutdown(suspended), Some(ShutdownReason::Suspend));
        assert_eq!(shutdown(suspended | dominf::PAUSED | dominf::HVM_GUEST), shutdown(suspended));
        // A running domain has the code 255.
        assert_eq!(shutdown(255 << 16), None);
        assert_eq!(shutdown(2 << 16), None);
        assert_eq!(shutdown(dominf::SHUTDOWN), Some(ShutdownReason::Poweroff));
        assert_eq!(shutdown(dominf::SHUTDOWN | 77 << 16), Some(ShutdownReason::Crash));
    }

    #[test]
    fn a_cancelled_suspend_returns_one_in_the_lower_half_of_the_accumulator() {
        // Offsets of the two widths' registers, as the stream's decoder has them.
        for (is_64, offset) in [(true, 520 + 80), (false, 516 + 24)] {
            let mut context = vec![0xaa; crate::decode::pv_words::CONTEXT_64];
            cancel(&mut context, is_64);
            assert_eq!(context[offset..offset + 4], [1, 0, 0, 0]);
            assert!(context.iter().enumerate().all(|(at, &byte)| byte == 0xaa || (offset..offset + 4).contains(&at)));
        }
    }

    #[test]
    fn the_kind_is_one_flag() {
        let info = |flags| abi::DomainInfo { flags, ..Default::default() };
        assert_eq!(kind(&info(dominf::HVM_GUEST | dominf::HAP)), DomainKind::Hvm);
        assert_eq!(kind(&info(dominf::RUNNING)), DomainKind::Pv);
    }
}
