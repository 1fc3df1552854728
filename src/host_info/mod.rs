//! What a host is, as far as a guest that comes to it cares: Xen, CPU policies, device model, memory, bridges, toolstack.
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | the facts, and their JSON form |
//! | `policy.rs` | CPU policies in that form |
//! | `xen.rs` | what the hypervisor says |
//! | `system.rs` | what lies in files: device model, libxl, bridges, disks |
//!
//! The form is versioned: [`FORMAT`] and [`VERSION`]; `docs/host-info.md` has each field. What cannot be known is not left out, and not
//! guessed: [`Part::Missing`] says why.
#![forbid(unsafe_code)]

mod policy;
mod system;
mod xen;

pub use policy::Policy;
pub use system::Sources;

use crate::hypervisor::xen::hypercall::quirks::update_of;
use crate::stream::fit::release::Release;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// What `format` says in every file of this sort.
pub const FORMAT: &str = "xen-replicate host-info";
/// The version of the form that is written, and the newest that is read. Fields may be added to it; what is there keeps its meaning.
pub const VERSION: u32 = 1;

/// A fact, or why it is not known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Part<T> {
    /// It is not known.
    Missing {
        /// Why.
        missing: String,
    },
    /// It is known.
    Known(T),
}

impl<T> Part<T> {
    /// Not known.
    pub fn missing(why: impl Display) -> Self {
        Part::Missing { missing: why.to_string() }
    }

    /// The fact.
    pub const fn known(&self) -> Option<&T> {
        match self {
            Part::Known(fact) => Some(fact),
            Part::Missing { .. } => None,
        }
    }

    /// Why it is not known.
    pub fn why_missing(&self) -> Option<&str> {
        match self {
            Part::Known(_) => None,
            Part::Missing { missing } => Some(missing),
        }
    }
}

impl<T, E: Display> From<Result<T, E>> for Part<T> {
    fn from(result: Result<T, E>) -> Self {
        result.map_or_else(Part::missing, Part::Known)
    }
}

/// A host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostInfo {
    /// [`FORMAT`].
    pub format: String,
    /// The version of the form.
    pub version: u32,
    /// The host's name.
    pub host: Part<String>,
    /// The hypervisor.
    pub xen: Part<Xen>,
    /// libxl.
    pub toolstack: Part<Toolstack>,
    /// CPU policies.
    pub cpu_policies: CpuPolicies,
    /// XSAVE areas that guests can have, by kind of guest.
    pub xsave: Kinds<Part<Xsave>>,
    /// Bytes of a HVM context's entries in this release, by name; null where that depends on an update that is not known.
    pub hvm_context: Part<BTreeMap<String, Option<usize>>>,
    /// The device model.
    pub qemu: Part<Qemu>,
    /// Memory.
    pub memory: Part<Memory>,
    /// Bridges for network cards.
    pub bridges: Part<Bridges>,
    /// What was asked for by path: a guest's disks.
    pub paths: Vec<PathInfo>,
}

/// The hypervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Xen {
    /// As `4.17`.
    pub version: String,
    /// What follows, as `.7` (`XENVER_extraversion`).
    pub extra: Part<String>,
}

impl Xen {
    /// The release, with its update where the text behind the version begins with a number. `None` for one that is not known.
    pub fn release(&self) -> Option<Release> {
        let mut release: Release = self.version.parse().ok()?;
        release.update = self.extra.known().filter(|extra| extra.starts_with('.')).map(|extra| update_of(extra));
        Some(release)
    }
}

/// libxl, as it is installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Toolstack {
    /// Its releases, as `4.17`: one as a rule.
    pub libxl: Vec<String>,
}

/// The host's CPU policies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CpuPolicies {
    /// What the processor and Xen have.
    pub host: Part<Policy>,
    /// The most that a PV guest can have.
    pub pv_max: Part<Policy>,
    /// What a new PV guest gets.
    pub pv_default: Part<Policy>,
    /// The most that a HVM or PVH guest can have.
    pub hvm_max: Part<Policy>,
    /// What a new HVM or PVH guest gets.
    pub hvm_default: Part<Policy>,
}

/// The same for each kind of guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kinds<T> {
    /// Of PV guests.
    pub pv: T,
    /// Of HVM and PVH guests.
    pub hvm: T,
}

/// The largest XSAVE area of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Xsave {
    /// Components, a mask in hexadecimal.
    pub xcr0: String,
    /// Bytes, without what Xen puts before it.
    pub size: u32,
}

/// A device model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Qemu {
    /// The program.
    pub path: PathBuf,
    /// As `7.2.22`.
    pub version: Part<String>,
    /// Its machine types, aliases as well.
    pub machines: Part<Vec<String>>,
}

/// Memory of a host, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// All of it.
    pub total: u64,
    /// What no domain has. A toolstack that takes memory from domain 0 has more.
    pub free: u64,
}

/// Bridges.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bridges {
    /// Linux bridges.
    pub linux: Vec<String>,
    /// Every network interface: Open vSwitch's bridges are among them.
    pub interfaces: Vec<String>,
}

/// A path that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathInfo {
    /// The path.
    pub path: String,
    /// `block`, `file`, `other`, or `none` where nothing is there.
    pub kind: String,
    /// Bytes of a file or block device.
    pub size: Option<u64>,
}

/// Why a text is no host-info.
#[derive(Debug, Error)]
pub enum FormError {
    /// Not this form at all.
    #[error("not a host-info file: {0}")]
    Json(#[from] serde_json::Error),
    /// Another form.
    #[error("not a host-info file: its format is {0:?}")]
    Format(String),
    /// A newer version of it.
    #[error("a host-info file of version {0}: this program reads version {VERSION} and older")]
    Version(u32),
}

impl HostInfo {
    /// Finds out all that can be known of this host; `paths` are asked for besides.
    pub fn gather(sources: &Sources, paths: &[PathBuf]) -> Self {
        let xen = xen::ask();
        let release =
            xen.version.known().map(|xen| xen.release().ok_or_else(|| format!("Xen {} is not known", xen.version)));
        let hvm_context = match release {
            Some(Ok(release)) => Part::Known(entry_lengths(release)),
            Some(Err(why)) => Part::missing(why),
            None => Part::missing(xen.version.why_missing().unwrap_or_default()),
        };
        HostInfo {
            format: FORMAT.to_owned(),
            version: VERSION,
            host: sources.host(),
            xsave: Kinds { pv: xsave(&xen.policies.pv_max), hvm: xsave(&xen.policies.hvm_max) },
            xen: xen.version,
            toolstack: sources.toolstack(),
            cpu_policies: xen.policies,
            hvm_context,
            qemu: sources.qemu(),
            memory: xen.memory,
            bridges: sources.bridges(),
            paths: paths.iter().map(|path| sources.path(path)).collect(),
        }
    }

    /// Reads a host-info file's text.
    ///
    /// # Errors
    /// It is something else, or newer.
    pub fn parse(text: &[u8]) -> Result<Self, FormError> {
        /// What every version has.
        #[derive(Deserialize)]
        struct Head {
            format: String,
            version: u32,
        }
        let head: Head = serde_json::from_slice(text)?;
        if head.format != FORMAT {
            return Err(FormError::Format(head.format));
        }
        if head.version > VERSION {
            return Err(FormError::Version(head.version));
        }
        Ok(serde_json::from_slice(text)?)
    }

    /// Whether a file's start is one of this sort.
    pub fn is_one(head: &[u8]) -> bool {
        let head = head.get(..head.len().min(256)).unwrap_or_default();
        String::from_utf8_lossy(head).contains(FORMAT)
    }

    /// What was asked for a path.
    pub fn path(&self, path: &Path) -> Option<&PathInfo> {
        self.paths.iter().find(|info| Path::new(&info.path) == path)
    }
}

fn entry_lengths(release: Release) -> BTreeMap<String, Option<usize>> {
    let lengths = crate::stream::fit::state::entry_lengths(release);
    lengths.into_iter().map(|(name, length)| (name.to_owned(), length)).collect()
}

fn xsave(policy: &Part<Policy>) -> Part<Xsave> {
    let policy = match policy {
        Part::Known(policy) => policy,
        Part::Missing { missing } => return Part::missing(missing),
    };
    match policy.cpuid.leaf(0xd, 0) {
        Some(leaf) => {
            let xcr0 = u64::from(leaf.edx.0) << 32 | u64::from(leaf.eax.0);
            Part::Known(Xsave { xcr0: format!("{xcr0:#x}"), size: leaf.ecx.0 })
        }
        None => Part::missing("the policy has no leaf 0xd: no XSAVE"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn xen(version: &str, extra: &str) -> Xen {
        Xen { version: version.into(), extra: Part::Known(extra.into()) }
    }

    #[test]
    fn the_update_is_what_the_extra_version_begins_with() {
        let release = |version, extra| xen(version, extra).release().map(|release| release.to_string());
        assert_eq!(release("4.17", ".7"), Some("4.17.7".into()));
        assert_eq!(release("4.20", ".5-pre"), Some("4.20.4".into()), "what is under way counts as the one before");
        assert_eq!(release("4.20", "-unstable"), Some("4.20".into()));
        assert_eq!(release("4.20", ""), Some("4.20".into()));
        assert_eq!(release("4.23", ".1"), None);
    }

    #[test]
    fn other_forms_and_newer_versions_are_told_of() {
        let parse = |text: &str| HostInfo::parse(text.as_bytes()).unwrap_err().to_string();
        assert!(parse("{}").contains("format"));
        assert!(parse(r#"{"format": "x", "version": 1}"#).contains("its format is \"x\""));
        assert!(parse(r#"{"format": "xen-replicate host-info", "version": 2}"#).contains("version 2"));
        assert!(parse(r#"{"format": "xen-replicate host-info", "version": 1}"#).contains("missing field"));
    }
}
