//! Plain values that cross the hypervisor boundary.
#![forbid(unsafe_code)]

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

pub use crate::remus::RunState;
pub use crate::stream::libxc::{HvmParam, PAGE_SIZE, PageType, TscInfo};
pub use crate::stream::libxl::EmulatorHeader;

/// log2 of [`PAGE_SIZE`].
pub const PAGE_SHIFT: u32 = 12;

/// The contents of one page of guest memory.
pub type Page = [u8; PAGE_SIZE];

/// A page of nothing but zero bytes.
pub static ZERO_PAGE: Page = [0; PAGE_SIZE];

/// A guest's physical frame number: the number of a page in the guest's own view of its memory (`xen_pfn_t`).
///
/// For translated guests (HVM and PVH) it is the gfn as well; for a PV guest it is the index into its p2m.
pub type Pfn = u64;

/// What kind of virtual machine a domain is, as far as its stream is concerned. PVH guests count as HVM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DomainKind {
    /// Paravirtualised: the guest manages machine frames itself (domain header type 1).
    Pv,
    /// Hardware virtualised and translated (domain header type 2).
    Hvm,
}

impl fmt::Display for DomainKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DomainKind::Pv => "PV",
            DomainKind::Hvm => "HVM",
        })
    }
}

/// A release of Xen. Its updates do not show (`XENVER_version`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct XenVersion {
    /// 4, for the releases of this age.
    pub major: u32,
    /// The release.
    pub minor: u32,
}

impl fmt::Display for XenVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Why a domain stands shut down (`SHUTDOWN_*` in Xen's `public/sched.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ShutdownReason {
    /// Switched itself off (0).
    Poweroff,
    /// Wants to be started again (1).
    Reboot,
    /// Stopped so that its state can be taken; may be resumed (2).
    Suspend,
    /// Crashed (3).
    Crash,
    /// Its watchdog ran out (4).
    Watchdog,
    /// Wants its devices reset (5).
    SoftReset,
}

/// What the hypervisor tells about a domain (`XEN_DOMCTL_getdomaininfo`, `XENMEM_maximum_gpfn`, and the toolstack's name).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainInfo {
    /// The domain's number on this host.
    pub domid: u32,
    /// The name the toolstack knows it by.
    pub name: String,
    /// The identity that it keeps on every host.
    pub uuid: Uuid,
    /// PV or HVM.
    pub kind: DomainKind,
    /// How many vCPUs it has.
    pub nr_vcpus: u32,
    /// The p2m size: one more than the highest pfn in use. Log-dirty bitmaps have this many bits.
    pub nr_pfns: u64,
    /// How many pages of memory it holds, holes not counted.
    pub populated: u64,
    /// How many it may hold.
    pub max_pages: u64,
    /// Whether the toolstack has paused it.
    pub paused: bool,
    /// Why it stands shut down, if it does.
    pub shutdown: Option<ShutdownReason>,
}

impl DomainInfo {
    /// Whether the domain has shut itself down with the reason "suspend", which is the only state its image may be taken in.
    pub fn is_suspended(&self) -> bool {
        self.shutdown == Some(ShutdownReason::Suspend)
    }

    /// Bytes of memory that it holds.
    pub const fn memory(&self) -> u64 {
        self.populated.saturating_mul(PAGE_SIZE as u64)
    }

    /// The domain's state in one word. A suspended domain that is paused besides counts as suspended, for it needs more than
    /// [`Domain::unpause`](super::Domain::unpause) to run.
    pub fn run_state(&self) -> RunState {
        match (self.shutdown, self.paused) {
            (Some(ShutdownReason::Suspend), _) => RunState::Suspended,
            (Some(_), _) => RunState::ShutDown,
            (None, true) => RunState::Paused,
            (None, false) => RunState::Running,
        }
    }
}

/// A domain's identity, 16 bytes, written as `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Uuid(pub [u8; 16]);

/// A text that is no UUID.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("'{text}' is not a UUID (32 hexadecimal digits in groups of 8-4-4-4-12)")]
pub struct ParseUuidError {
    /// The text that was given.
    pub text: String,
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl FromStr for Uuid {
    type Err = ParseUuidError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseUuidError { text: text.chars().take(64).collect() };
        let groups: Vec<&str> = text.split('-').collect();
        if groups.iter().map(|g| g.len()).ne([8, 4, 4, 4, 12]) {
            return Err(error());
        }
        let digits = groups.concat();
        let nibbles: Vec<u8> =
            digits.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect::<Option<_>>().ok_or_else(error)?;
        let mut bytes = [0u8; 16];
        for (byte, pair) in bytes.iter_mut().zip(nibbles.chunks_exact(2)) {
            if let [high, low] = pair {
                *byte = high << 4 | low;
            }
        }
        Ok(Uuid(bytes))
    }
}

impl Serialize for Uuid {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Uuid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A domain's CPU policy in the bytes of its stream records. An empty part is an absent record.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CpuPolicy {
    /// The body of X86_CPUID_POLICY: entries of 24 bytes (leaf, subleaf, eax, ebx, ecx, edx).
    pub cpuid: Vec<u8>,
    /// The body of X86_MSR_POLICY: entries of 16 bytes (index, flags, value).
    pub msrs: Vec<u8>,
}

/// What reading the log-dirty bitmap reports besides the bitmap (`xen_domctl_shadow_op_stats`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DirtyStats {
    /// Faults taken to track writes since the last clean.
    pub fault_count: u64,
    /// Pages dirtied since the last clean.
    pub dirty_count: u64,
}

/// Whether the dirty bitmap is read for the last time before the image is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CleanMode {
    /// The guest may be running, further rounds follow.
    Ongoing,
    /// The guest is suspended and this is the round's last read (`XEN_DOMCTL_SHADOW_LOGDIRTY_FINAL`).
    Final,
}

/// Which domains the restored guest's console and xenstore rings are granted to (`xc_dom_gnttab_seed`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct GrantSeed {
    /// gfn of the console ring, 0 for none.
    pub console_gfn: Pfn,
    /// The domain that serves the console.
    pub console_domid: u32,
    /// gfn of the xenstore ring, 0 for none.
    pub xenstore_gfn: Pfn,
    /// The domain that serves xenstore.
    pub xenstore_domid: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_round_trip_as_text_and_through_json() {
        let text = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0";
        let uuid: Uuid = text.parse().unwrap();
        assert_eq!(uuid.to_string(), text);
        assert_eq!(uuid.0[0], 0x0f);
        assert_eq!(uuid.0[15], 0xf0);
        let json = serde_json::to_string(&uuid).unwrap();
        assert_eq!(json, format!("\"{text}\""));
        assert_eq!(serde_json::from_str::<Uuid>(&json).unwrap(), uuid);
    }

    #[test]
    fn malformed_uuids_are_refused() {
        for text in ["", "0f1e2d3c4b5a69788796a5b4c3d2e1f0", "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1g0", "-----"] {
            assert_eq!(text.parse::<Uuid>(), Err(ParseUuidError { text: text.into() }));
        }
    }
}
