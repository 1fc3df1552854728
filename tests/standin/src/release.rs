//! Which release of Xen this claims to be, and what that changes.
//!
//! Source: the public headers of each release, `xen/include/public/domctl.h` and `sysctl.h`.
#![forbid(unsafe_code)]

use serde::Deserialize;
use xen_replicate::hypervisor::XenVersion;
use xen_replicate::hypervisor::xen::hypercall::quirks::{Quirks, update_of};

/// A release of Xen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub enum Release {
    /// Debian 11's.
    #[serde(rename = "4.14")]
    Xen4_14,
    /// Debian 12's.
    #[default]
    #[serde(rename = "4.17")]
    Xen4_17,
    /// Debian 13's.
    #[serde(rename = "4.20")]
    Xen4_20,
}

impl Release {
    /// `XENVER_version`: major in the high half, minor in the low one.
    pub const fn version(self) -> i64 {
        let minor = match self {
            Release::Xen4_14 => 14,
            Release::Xen4_17 => 17,
            Release::Xen4_20 => 20,
        };
        4 << 16 | minor
    }

    /// `XENVER_extraversion`, as Debian's hypervisor of that release has it.
    pub const fn extra_version(self) -> &'static str {
        match self {
            Release::Xen4_14 => ".6",
            Release::Xen4_17 => ".7",
            Release::Xen4_20 => ".5-pre",
        }
    }

    /// What is otherwise in this hypervisor than in others, by the program's own table.
    pub fn quirks(self) -> Quirks {
        let version = XenVersion { major: 4, minor: self.version() as u32 & 0xffff };
        Quirks::of(version, update_of(self.extra_version()), self.domctl())
    }

    /// Bytes of a LAPIC entry of a HVM context.
    pub fn lapic_bytes(self) -> usize {
        self.quirks().lapic
    }

    /// `XEN_DOMCTL_INTERFACE_VERSION`
    pub const fn domctl(self) -> u32 {
        match self {
            Release::Xen4_14 => 0x12,
            Release::Xen4_17 => 0x15,
            Release::Xen4_20 => 0x17,
        }
    }

    /// `XEN_SYSCTL_INTERFACE_VERSION`
    pub const fn sysctl(self) -> u32 {
        match self {
            Release::Xen4_14 => 0x13,
            Release::Xen4_17 | Release::Xen4_20 => 0x15,
        }
    }

    /// Where `total_pages` stands in `struct xen_sysctl_physinfo`, in words.
    pub const fn total_pages_word(self) -> usize {
        match self {
            Release::Xen4_14 => 4,
            Release::Xen4_17 | Release::Xen4_20 => 5,
        }
    }

    /// Bytes of `struct xen_domctl_getdomaininfo`.
    pub const fn domain_info_bytes(self) -> usize {
        match self {
            Release::Xen4_14 => 104,
            Release::Xen4_17 | Release::Xen4_20 => 112,
        }
    }
}
