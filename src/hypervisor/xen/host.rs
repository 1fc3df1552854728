//! Access to the hypervisor of this host.
#![forbid(unsafe_code)]

use super::domain::XenDomain;
use super::hypercall::abi;
use super::hypercall::interface::Interface;
use super::hypercall::quirks::{NEWEST, Quirks};
use super::policy;
use crate::hypervisor::error::{Error, Result};
use crate::hypervisor::types::{CpuPolicy, PAGE_SIZE, XenVersion};

/// What is to be done with domains of a hypervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Their state is read: a save, or a look.
    Reading,
    /// A domain's life depends on what is written: a restore, a protection. `trusted`: the operator takes the responsibility for a
    /// hypervisor that is newer than all that is known here.
    Writing {
        /// As the operator says.
        trusted: bool,
    },
}

/// Which of a host's CPU policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum HostPolicy {
    /// What the processor and Xen have.
    Host = abi::cpu_policy::HOST,
    /// The most that a PV guest can have.
    PvMax = abi::cpu_policy::PV_MAX,
    /// The most that a HVM or PVH guest can have.
    HvmMax = abi::cpu_policy::HVM_MAX,
    /// What a new PV guest gets.
    PvDefault = abi::cpu_policy::PV_DEFAULT,
    /// What a new HVM or PVH guest gets.
    HvmDefault = abi::cpu_policy::HVM_DEFAULT,
}

/// Access to the hypervisor of this host.
#[derive(Debug, Clone)]
pub struct Host {
    interface: Interface,
}

impl Host {
    /// Opens Xen's libraries and finds out which Xen this is.
    ///
    /// # Errors
    /// [`Error::NoHypervisor`] where there is no Xen, in a guest, and without privilege; [`Error::NoLibrary`] and [`Error::OldLibrary`]
    /// where Xen's libraries are not of use; [`Error::OtherInterface`] where this Xen takes none of the requests that are known.
    pub fn open() -> Result<Self> {
        Ok(Host { interface: Interface::open()? })
    }

    /// Xen's version, major and minor, for the domain header of a stream (`XENVER_version`).
    pub const fn version(&self) -> (u32, u32) {
        let XenVersion { major, minor } = self.interface.version();
        (major, minor)
    }

    /// What stands behind the two numbers of the version (`XENVER_extraversion`), as `.7`.
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn extra_version(&self) -> Result<String> {
        self.interface.extra_version()
    }

    /// One of the host's CPU policies, in the form of the records that carry one (`XEN_SYSCTL_get_cpu_policy`).
    ///
    /// # Errors
    /// The hypervisor's: `EOPNOTSUPP` where it was built without guests of that kind.
    pub fn cpu_policy(&self, which: HostPolicy) -> Result<CpuPolicy> {
        let (leaves, msrs) = self.interface.host_policy(which as u32)?;
        Ok(CpuPolicy { cpuid: policy::emit_leaves(&leaves), msrs: policy::emit_msrs(&msrs) })
    }

    /// Bytes of memory, all and free (`XEN_SYSCTL_physinfo`).
    ///
    /// # Errors
    /// The hypervisor's.
    pub fn memory(&self) -> Result<(u64, u64)> {
        let (total, free) = self.interface.host_pages()?;
        Ok((total.saturating_mul(PAGE_SIZE as u64), free.saturating_mul(PAGE_SIZE as u64)))
    }

    /// What differs in this Xen from others.
    pub fn quirks(&self) -> Quirks {
        self.interface.quirks()
    }

    /// Refuses what must not be tried on a hypervisor that nobody knows yet, and warns of what may be. To be called before anything is
    /// touched.
    ///
    /// # Errors
    /// [`Error::UnknownXen`].
    pub fn admit(&self, what: Use) -> Result<()> {
        admit(self.interface.version(), self.interface.domctl_version(), what)
    }

    /// A handle on one domain. It may go to another thread.
    ///
    /// # Errors
    /// [`Error::NoSuchDomain`], or the hypervisor's.
    pub fn domain(&self, domid: u32) -> Result<XenDomain> {
        XenDomain::open(&self.interface, domid)
    }
}

fn admit(xen: XenVersion, domctl: u32, what: Use) -> Result<()> {
    // Which update it is makes no difference to that.
    if !Quirks::of(xen, 0, domctl).unknown {
        return Ok(());
    }
    match what {
        Use::Writing { trusted: false } => Err(Error::UnknownXen { xen, newest: NEWEST }),
        _ => {
            log::warn!(
                "this host's Xen {xen} (domctl {domctl:#x}) is not known to this program, which knows 4.14 to {NEWEST}"
            );
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_xen_is_read_from_and_not_written_to_unless_it_is_trusted() {
        let newer = XenVersion { minor: NEWEST.minor + 1, ..NEWEST };
        let (trusted, untrusted) = (Use::Writing { trusted: true }, Use::Writing { trusted: false });
        assert!(admit(newer, 0x19, Use::Reading).is_ok() && admit(newer, 0x19, trusted).is_ok());
        let error = admit(newer, 0x19, untrusted).unwrap_err();
        assert!(matches!(error, Error::UnknownXen { xen, .. } if xen == newer), "{error:?}");
        assert!(error.to_string().contains("--trust-xen") && error.to_string().contains("4.23"), "{error}");
        // A release that is known, with an interface that it is not known to have.
        assert!(admit(NEWEST, 0x19, untrusted).is_err());
        assert!(admit(NEWEST, 0x18, untrusted).is_ok());
    }
}
