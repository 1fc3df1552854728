//! The disks of a domain: what of them a copy on another host would have.
//!
//! A disk that the guest can write must be the same on the other host at each checkpoint, or the copy goes on with a file system that
//! its memory does not know. So each must be [`Replicated`] by somebody, a patched DRBD or the daemons of [`crate::disk`], or the domain is not protected, unless the
//! operator says otherwise (`-F -d`).
#![forbid(unsafe_code)]

use super::drbd;
use super::failed;
use super::store::Store;
use crate::disk::engine;
use crate::hypervisor::{Error, Replicated, Result};
use std::path::Path;

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
    /// Whether a copy on another host may have another content here at a checkpoint, unless somebody replicates it.
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

/// What replicates the disks of a domain that can be written.
///
/// Without acknowledgements (`acknowledged`), of which a keeper would learn what is committed, only DRBD does. A survivor (`lazy`) has
/// nobody yet to replicate it, and runs already: who could is found, the rest is told.
///
/// # Errors
/// One that nothing replicates, with its name; a daemon's.
pub fn replicated(disks: &[Disk], probe: &Path, acknowledged: bool, lazy: bool) -> Result<Vec<Box<dyn Replicated>>> {
    let mut replicated: Vec<Box<dyn Replicated>> = Vec::new();
    let (mut served, mut rest) = (Vec::new(), Vec::new());
    for disk in disks.iter().filter(|disk| disk.is_uncovered()) {
        match engine::find(&disk.behind, lazy).map_err(|error| failed(&disk.name, error))? {
            Some(_) if !acknowledged => {
                let text =
                    "a receiver without acknowledgements commits nothing to its keeper: -F -d protects it all the same";
                return Err(failed(&disk.name, text));
            }
            Some(primary) => served.push(primary),
            None => match drbd::probe(probe, &disk.behind)? {
                Some(drbd) => replicated.push(Box::new(drbd)),
                None => rest.push(disk.clone()),
            },
        }
    }
    let count = served.len();
    replicated.extend(served.into_iter().map(|primary| Box::new(primary.of(count)) as Box<dyn Replicated>));
    match refusal(&rest) {
        Some(text) if lazy => log::warn!("{text}"),
        Some(text) => return Err(Error::Toolstack(text)),
        None => {}
    }
    Ok(replicated)
}

/// The refusal of a domain with disks of which some are not covered; `None` where all are.
fn refusal(disks: &[Disk]) -> Option<String> {
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
        let none = Path::new("/none/probe");
        assert!(replicated(&harmless, none, true, false).unwrap().is_empty());
        assert!(replicated(&[disk("xvda", "/dev/vg/web", true)], none, true, false).is_err());
        assert_eq!(refusal(&harmless), None);
        let mixed = [&harmless[..], &[disk("xvda", "/dev/vg/web", true)]].concat();
        let text = refusal(&mixed).unwrap();
        assert!(text.contains("xvda (/dev/vg/web)") && text.contains("-F -d") && !text.contains("xvdb"), "{text}");
    }
}
