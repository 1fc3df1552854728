//! A HVM context as a release of Xen has it: the length of its LAPIC entries. A simulated domain has those of 24 bytes.
#![forbid(unsafe_code)]

use crate::errno::Errno;
use crate::release::Release;
use xen_replicate::decode::hvm_context::{Entries, Entry};

/// `HVM_SAVE_CODE(LAPIC)`.
const LAPIC: u16 = 5;
/// Bytes of a simulated domain's.
const SIMULATED: usize = 24;

/// As the release saves it.
pub fn saved(release: Release, blob: &[u8]) -> Vec<u8> {
    with_lapics_of(release.lapic_bytes(), blob)
}

/// As the simulated domain takes what the release is given. Xen extends an entry that is shorter than its own by zeros, and refuses a longer
/// one (`hvm_load_entry_zeroextend`).
pub fn loaded(release: Release, blob: &[u8]) -> Result<Vec<u8>, Errno> {
    let own = release.lapic_bytes();
    match Entries::new(blob).flatten().find(|entry| entry.typecode == LAPIC && entry.data.len() > own) {
        Some(_) => Err(Errno(libc::EINVAL)),
        None => Ok(with_lapics_of(SIMULATED, blob)),
    }
}

/// What is no chain of entries stays as it is: refusing it is the domain's business.
fn with_lapics_of(bytes: usize, blob: &[u8]) -> Vec<u8> {
    let Ok(entries) = Entries::new(blob).collect::<Result<Vec<_>, _>>() else { return blob.to_vec() };
    let mut changed = Vec::with_capacity(blob.len());
    for Entry { typecode, instance, data, .. } in entries {
        let mut data = data.to_vec();
        if typecode == LAPIC {
            data.resize(bytes, 0);
        }
        for bytes in [&typecode.to_le_bytes()[..], &instance.to_le_bytes(), &(data.len() as u32).to_le_bytes(), &data]
        {
            changed.extend_from_slice(bytes);
        }
    }
    changed
}
