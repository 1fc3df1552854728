//! What a guest is held against.

use super::Guest;
use crate::host_info::HostInfo;
use crate::stream::fit::release::Release;
use std::fmt;

/// A target.
#[derive(Debug)]
pub enum Target {
    /// A release of Xen, on a host of which nothing else is known.
    Release(Release),
    /// The host that another guest comes from, by what that one's stream tells: where the stream is, and the guest.
    Guest(String, Box<Guest>),
    /// A host: its name, and what it is.
    Host(String, Box<HostInfo>),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Release(release) => write!(f, "xen-{release}"),
            Target::Guest(name, _) => write!(f, "the host of {name}"),
            Target::Host(name, _) => f.write_str(name),
        }
    }
}

impl Target {
    /// The release of Xen, where it is known.
    pub fn release(&self) -> Option<Release> {
        match self {
            Target::Release(release) => Some(*release),
            Target::Guest(_, guest) => match guest.xen? {
                (4, minor) => Some(Release::new(minor)).filter(|release| release.is_known()),
                _ => None,
            },
            Target::Host(_, host) => host.xen.known()?.release(),
        }
    }

    /// What it says nothing of.
    pub(super) const fn not_looked_at(&self) -> &'static [&'static str] {
        match self {
            Target::Release(_) => &["the CPU", "the device model", "disks", "bridges", "memory"],
            Target::Guest(..) => &["disks", "bridges", "memory"],
            Target::Host(..) => &[],
        }
    }
}
