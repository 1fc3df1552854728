//! One domain: who it is, and its life.
#![allow(unsafe_code)]

use super::ffi;
use super::handles::{Handles, hypercall};
use super::log_dirty::DirtyLog;
use super::populate::Memory;
use super::pv::PvMaps;
use crate::hypervisor::error::{Error, Result};
use crate::hypervisor::types::{DomainInfo, DomainKind, ShutdownReason, Uuid};
use crate::hypervisor::{DeviceModel, Domain};
use std::cell::Cell;
use std::fmt;
use xenctrl_sys as sys;

/// The release of Xen whose libraries this is built on.
const RELEASE: &str = "4.17";

/// What the toolstack does when a domain is to suspend or to resume.
pub type LifeHook = Box<dyn FnMut() -> Result<()> + Send>;

/// A domain of this host's Xen.
///
/// Dropping the handle leaves the domain as it is, log-dirty mode included.
pub struct XenDomain {
    pub(super) handles: Handles,
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
    pub(super) fn open(domid: u32) -> Result<Self> {
        let handles = Handles::open()?;
        let kind = kind(&getdomaininfo(&handles, domid)?);
        Ok(XenDomain {
            handles,
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
    pub(super) fn getdomaininfo(&self) -> Result<sys::xc_domaininfo_t> {
        getdomaininfo(&self.handles, self.domid)
    }

    /// Has Xen send an event to a port of the domain's, which somebody here is bound to, when the domain has suspended itself.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn subscribe_for_suspend(&self, port: u32) -> Result<()> {
        // SAFETY: the interface is open. The rest are numbers.
        let rc = unsafe { sys::xc_domain_subscribe_for_suspend(self.handles.xch(), self.domid, port) };
        hypercall("xc_domain_subscribe_for_suspend", self.domid, rc)?;
        Ok(())
    }

    /// Has Xen shut the domain down as if it had suspended itself: what a HVM guest without PV drivers needs, which cannot be asked.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn suspend_from_outside(&mut self) -> Result<()> {
        // SAFETY: the interface is open. The rest are numbers.
        let rc = unsafe { sys::xc_domain_shutdown(self.handles.xch(), self.domid, sys::SHUTDOWN_suspend as i32) };
        hypercall("xc_domain_shutdown", self.domid, rc)?;
        Ok(())
    }

    /// The p2m size: one more than the highest gfn, or for a PV guest than the highest pfn.
    pub(super) fn nr_gpfns(&self) -> Result<u64> {
        let mut nr = 0;
        // SAFETY: the interface is open, and `nr` is a place for the one value that is written.
        let rc = unsafe { sys::xc_domain_nr_gpfns(self.handles.xch(), self.domid, &raw mut nr) };
        hypercall("xc_domain_nr_gpfns", self.domid, rc)?;
        Ok(nr)
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

impl Drop for XenDomain {
    fn drop(&mut self) {
        self.log.release(&self.handles);
        self.pv.release(&self.handles);
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
            paused: info.flags & sys::XEN_DOMINF_paused != 0,
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
        // SAFETY: the interface is open. The rest are numbers.
        let rc = unsafe { ffi::xc_domain_resume(self.handles.xch(), self.domid, 1) };
        hypercall("xc_domain_resume", self.domid, rc)?;
        Ok(())
    }

    /// Xen counts pauses. This handle holds at most one of them, whoever else holds some.
    fn pause(&mut self) -> Result<()> {
        if !self.paused_here {
            // SAFETY: the interface is open. The rest is a number.
            let rc = unsafe { sys::xc_domain_pause(self.handles.xch(), self.domid) };
            hypercall("xc_domain_pause", self.domid, rc)?;
            self.paused_here = true;
        }
        Ok(())
    }

    /// Takes back this handle's pause, or else somebody else's: a new domain is paused by whoever created it.
    fn unpause(&mut self) -> Result<()> {
        if self.paused_here || self.getdomaininfo()?.flags & sys::XEN_DOMINF_paused != 0 {
            // SAFETY: the interface is open. The rest is a number.
            let rc = unsafe { sys::xc_domain_unpause(self.handles.xch(), self.domid) };
            hypercall("xc_domain_unpause", self.domid, rc)?;
            self.paused_here = false;
        }
        Ok(())
    }
}

fn getdomaininfo(handles: &Handles, domid: u32) -> Result<sys::xc_domaininfo_t> {
    let mut info = sys::xc_domaininfo_t::default();
    // SAFETY: the interface is open, and `info` is a place for the one structure that is asked for.
    let rc = unsafe { sys::xc_domain_getinfolist(handles.xch(), domid, 1, &raw mut info) };
    let count = hypercall("xc_domain_getinfolist", domid, rc).map_err(|error| other_interface(error, domid))?;
    // Where there is no such domain, the next one is told about.
    let found = count == 1 && u32::from(info.domain) == domid && info.flags & sys::XEN_DOMINF_dying == 0;
    if found { Ok(info) } else { Err(Error::NoSuchDomain { domid }) }
}

/// A Xen answers a request of another version of its interface (`XEN_SYSCTL_INTERFACE_VERSION`, `XEN_DOMCTL_INTERFACE_VERSION`) with
/// EACCES. This is the first such request that is made of it.
fn other_interface(error: Error, domid: u32) -> Error {
    match error {
        Error::Hypercall { source, .. } if source.raw_os_error() == Some(libc::EACCES) => {
            Error::OtherInterface { domid, release: RELEASE, source }
        }
        error => error,
    }
}

const fn kind(info: &sys::xc_domaininfo_t) -> DomainKind {
    if info.flags & sys::XEN_DOMINF_hvm_guest != 0 { DomainKind::Hvm } else { DomainKind::Pv }
}

/// The reason in a domain's flags. A reason that has no name is that of a guest gone wrong.
const fn shutdown(flags: u32) -> Option<ShutdownReason> {
    if flags & sys::XEN_DOMINF_shutdown == 0 {
        return None;
    }
    Some(match (flags >> sys::XEN_DOMINF_shutdownshift) & sys::XEN_DOMINF_shutdownmask {
        sys::SHUTDOWN_poweroff => ShutdownReason::Poweroff,
        sys::SHUTDOWN_reboot => ShutdownReason::Reboot,
        sys::SHUTDOWN_suspend => ShutdownReason::Suspend,
        sys::SHUTDOWN_watchdog => ShutdownReason::Watchdog,
        sys::SHUTDOWN_soft_reset => ShutdownReason::SoftReset,
        _ => ShutdownReason::Crash,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shutdown_reasons_are_told_only_of_domains_that_are_shut_down() {
        let suspended = sys::XEN_DOMINF_shutdown | 2 << 16;
        assert_eq!(shutdown(suspended), Some(ShutdownReason::Suspend));
        assert_eq!(shutdown(suspended | sys::XEN_DOMINF_paused | sys::XEN_DOMINF_hvm_guest), shutdown(suspended));
        // A running domain has the code 255.
        assert_eq!(shutdown(255 << 16), None);
        assert_eq!(shutdown(2 << 16), None);
        assert_eq!(shutdown(sys::XEN_DOMINF_shutdown), Some(ShutdownReason::Poweroff));
        assert_eq!(shutdown(sys::XEN_DOMINF_shutdown | 77 << 16), Some(ShutdownReason::Crash));
    }

    #[test]
    fn a_xen_of_another_version_is_told_of() {
        let refused = |errno| {
            let source = std::io::Error::from_raw_os_error(errno);
            other_interface(Error::Hypercall { call: "xc_domain_getinfolist", domid: 7, source }, 7)
        };
        let error = refused(libc::EACCES);
        assert!(matches!(error, Error::OtherInterface { domid: 7, .. }), "{error:?}");
        assert!(error.to_string().contains("another version") && error.to_string().contains(RELEASE), "{error}");
        let other = refused(libc::EPERM);
        assert!(
            matches!(other, Error::Hypercall { .. }) && other.to_string().contains("xc_domain_getinfolist"),
            "{other}"
        );
    }

    #[test]
    fn the_kind_is_one_flag() {
        let info = |flags| sys::xc_domaininfo_t { flags, ..Default::default() };
        assert_eq!(kind(&info(sys::XEN_DOMINF_hvm_guest | sys::XEN_DOMINF_hap)), DomainKind::Hvm);
        assert_eq!(kind(&info(sys::XEN_DOMINF_running)), DomainKind::Pv);
    }
}
