//! The disks of a domain: what of them a copy on another host would have.
//!
//! A disk that the guest can write must be the same on the other host at each checkpoint, or the copy goes on with a file system that
//! its memory does not know. This version replicates none, so only a domain without such disks is protected, unless the operator says
//! otherwise (`-F -d`).

use super::failed;
use super::store::Store;
use crate::hypervisor::Result;

/// A disk of a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// As the guest knows it: `xvda`.
    pub name: String,
    /// What is behind it in this host.
    pub behind: String,
    /// Whether the guest can write to it.
    pub writable: bool,
}

impl Disk {
    /// Whether a copy on another host may have another content here at a checkpoint.
    pub fn is_uncovered(&self) -> bool {
        // A drive without a medium has nothing to write to.
        self.writable && !self.behind.is_empty()
    }
}

/// The disks of a domain.
///
/// # Errors
/// xenstore's.
pub fn disks(store: &Store, domid: u32) -> Result<Vec<Disk>> {
    let asked = |error| failed("xenstore", error);
    let root = format!("/libxl/{domid}/device/vbd");
    let mut disks = Vec::new();
    for entry in store.list(&root).map_err(asked)? {
        let backend = store.get(&format!("{root}/{entry}/backend")).map_err(asked)?.unwrap_or_default();
        let value = |key: &str| store.get(&format!("{backend}/{key}")).map_err(asked);
        disks.push(Disk {
            name: value("dev")?.unwrap_or(entry),
            behind: value("params")?.unwrap_or_default(),
            // What does not say that it is read-only may be written.
            writable: value("mode")?.as_deref() != Some("r"),
        });
    }
    Ok(disks)
}

/// The refusal of a domain with disks of which some are not covered; `None` where all are.
pub fn refusal(disks: &[Disk]) -> Option<String> {
    let uncovered: Vec<_> = disks
        .iter()
        .filter(|disk| disk.is_uncovered())
        .map(|disk| format!("{} ({})", disk.name, disk.behind))
        .collect();
    (!uncovered.is_empty()).then(|| {
        format!("its writes to {} would not reach the other host: -F -d protects it all the same", uncovered.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_written_is_refused_by_name() {
        let disk = |name: &str, behind: &str, writable| Disk { name: name.into(), behind: behind.into(), writable };
        let harmless = [disk("hdc", "", true), disk("xvdb", "/dev/ro", false)];
        assert_eq!(refusal(&harmless), None);
        let mixed = [&harmless[..], &[disk("xvda", "/dev/vg/web", true)]].concat();
        let text = refusal(&mixed).unwrap();
        assert!(text.contains("xvda (/dev/vg/web)") && text.contains("-F -d") && !text.contains("xvdb"), "{text}");
    }
}
