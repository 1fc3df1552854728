//! CPU policies between Xen's structures and the bytes of their records.
#![forbid(unsafe_code)]

use super::hypercall::abi::{CpuidLeaf, MsrEntry};
use crate::hypervisor::error::{Error, Result};
use crate::stream::libxc::{CpuidPolicy, MsrPolicy};

/// How many leaves the body of X86_CPUID_POLICY has. They stand there as Xen takes them.
///
/// # Errors
/// [`Error::CpuPolicyLength`] for a body that ends within a leaf.
pub(super) fn count_leaves(bytes: &[u8]) -> Result<u32> {
    count("CPUID", bytes, CpuidPolicy::LEAF)
}

/// How many entries the body of X86_MSR_POLICY has.
///
/// # Errors
/// [`Error::CpuPolicyLength`] for a body that ends within an entry.
pub(super) fn count_msrs(bytes: &[u8]) -> Result<u32> {
    count("MSR", bytes, MsrPolicy::ENTRY)
}

fn count(part: &'static str, bytes: &[u8], entry: usize) -> Result<u32> {
    let length = bytes.len();
    match u32::try_from(length / entry) {
        Ok(count) if length.is_multiple_of(entry) => Ok(count),
        _ => Err(Error::CpuPolicyLength { part, length, entry }),
    }
}

/// The body of X86_CPUID_POLICY.
pub(super) fn emit_leaves(leaves: &[CpuidLeaf]) -> Vec<u8> {
    let words = leaves.iter().flat_map(|leaf| [leaf.leaf, leaf.subleaf, leaf.a, leaf.b, leaf.c, leaf.d]);
    words.flat_map(u32::to_le_bytes).collect()
}

/// The body of X86_MSR_POLICY.
pub(super) fn emit_msrs(entries: &[MsrEntry]) -> Vec<u8> {
    let bytes = |entry: &MsrEntry| u128::from(entry.idx) | u128::from(entry.flags) << 32 | u128::from(entry.val) << 64;
    entries.iter().flat_map(|entry| bytes(entry).to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_those_of_the_c_structures() {
        let leaf = CpuidLeaf { leaf: 0x0403_0201, subleaf: 0x0807_0605, a: 0x0c0b_0a09, b: 1, c: 2, d: 3 };
        let bytes = emit_leaves(&[leaf, CpuidLeaf::default()]);
        assert_eq!(bytes[..13], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 1]);
        assert_eq!((bytes.len(), count_leaves(&bytes).unwrap()), (48, 2));
        let entry = MsrEntry { idx: 0x0403_0201, flags: 0x0807_0605, val: 0x100f_0e0d_0c0b_0a09 };
        let bytes = emit_msrs(&[entry]);
        assert_eq!(bytes, (1..=16).collect::<Vec<u8>>());
        assert_eq!(count_msrs(&bytes).unwrap(), 1);
        assert_eq!((size_of::<CpuidLeaf>(), size_of::<MsrEntry>()), (CpuidPolicy::LEAF, MsrPolicy::ENTRY));
    }

    #[test]
    fn a_part_of_an_entry_is_refused() {
        assert_eq!((count_leaves(&[]).unwrap(), count_msrs(&[]).unwrap()), (0, 0));
        assert!(matches!(count_leaves(&[0; 25]), Err(Error::CpuPolicyLength { part: "CPUID", length: 25, entry: 24 })));
        assert!(matches!(count_msrs(&[0; 31]), Err(Error::CpuPolicyLength { part: "MSR", length: 31, entry: 16 })));
    }
}
