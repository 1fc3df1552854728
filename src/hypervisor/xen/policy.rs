//! CPU policies between Xen's structures and the octets of their records.
#![forbid(unsafe_code)]

use super::hypercall::abi::{CpuidLeaf, MsrEntry};
use crate::hypervisor::error::{Error, Result};
use crate::stream::libxc::{CpuidPolicy, MsrPolicy};

/// The leaves in the body of X86_CPUID_POLICY.
///
/// # Errors
/// [`Error::CpuPolicyLength`] for a body that ends within a leaf.
pub(super) fn parse_leaves(octets: &[u8]) -> Result<Vec<CpuidLeaf>> {
    let (leaves, rest) = octets.as_chunks::<{ CpuidPolicy::LEAF }>();
    if !rest.is_empty() {
        return Err(Error::CpuPolicyLength { part: "CPUID", length: octets.len(), entry: CpuidPolicy::LEAF });
    }
    let word =
        |leaf: &[u8; CpuidPolicy::LEAF], index| leaf.as_chunks().0.get(index).copied().map_or(0, u32::from_le_bytes);
    Ok(leaves
        .iter()
        .map(|leaf| CpuidLeaf {
            leaf: word(leaf, 0),
            subleaf: word(leaf, 1),
            a: word(leaf, 2),
            b: word(leaf, 3),
            c: word(leaf, 4),
            d: word(leaf, 5),
        })
        .collect())
}

/// The body of X86_CPUID_POLICY.
pub(super) fn emit_leaves(leaves: &[CpuidLeaf]) -> Vec<u8> {
    let words = leaves.iter().flat_map(|leaf| [leaf.leaf, leaf.subleaf, leaf.a, leaf.b, leaf.c, leaf.d]);
    words.flat_map(u32::to_le_bytes).collect()
}

/// The entries in the body of X86_MSR_POLICY.
///
/// # Errors
/// [`Error::CpuPolicyLength`] for a body that ends within an entry.
pub(super) fn parse_msrs(octets: &[u8]) -> Result<Vec<MsrEntry>> {
    let (entries, rest) = octets.as_chunks::<{ MsrPolicy::ENTRY }>();
    if !rest.is_empty() {
        return Err(Error::CpuPolicyLength { part: "MSR", length: octets.len(), entry: MsrPolicy::ENTRY });
    }
    Ok(entries
        .iter()
        .map(|&entry| {
            // The four words of an entry, lowest first.
            let octets = u128::from_le_bytes(entry);
            MsrEntry { idx: octets as u32, flags: (octets >> 32) as u32, val: (octets >> 64) as u64 }
        })
        .collect())
}

/// The body of X86_MSR_POLICY.
pub(super) fn emit_msrs(entries: &[MsrEntry]) -> Vec<u8> {
    let octets = |entry: &MsrEntry| u128::from(entry.idx) | u128::from(entry.flags) << 32 | u128::from(entry.val) << 64;
    entries.iter().flat_map(|entry| octets(entry).to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_octets_are_those_of_the_c_structures() {
        let octets: Vec<u8> = (1..=48).collect();
        let leaves = parse_leaves(&octets).unwrap();
        assert_eq!(leaves.len(), 2);
        assert_eq!((leaves[0].leaf, leaves[0].subleaf, leaves[0].a), (0x0403_0201, 0x0807_0605, 0x0c0b_0a09));
        assert_eq!((leaves[1].b, leaves[1].c, leaves[1].d), (0x2827_2625, 0x2c2b_2a29, 0x302f_2e2d));
        assert_eq!(emit_leaves(&leaves), octets);

        let entries = parse_msrs(&octets).unwrap();
        assert_eq!(entries.len(), 3);
        assert_eq!(
            (entries[0].idx, entries[0].flags, entries[0].val),
            (0x0403_0201, 0x0807_0605, 0x100f_0e0d_0c0b_0a09)
        );
        assert_eq!(emit_msrs(&entries), octets);

        assert_eq!((size_of::<CpuidLeaf>(), size_of::<MsrEntry>()), (CpuidPolicy::LEAF, MsrPolicy::ENTRY));
    }

    #[test]
    fn a_part_of_an_entry_is_refused() {
        assert!(parse_leaves(&[]).unwrap().is_empty() && parse_msrs(&[]).unwrap().is_empty());
        assert!(matches!(parse_leaves(&[0; 25]), Err(Error::CpuPolicyLength { part: "CPUID", length: 25, entry: 24 })));
        assert!(matches!(parse_msrs(&[0; 31]), Err(Error::CpuPolicyLength { part: "MSR", length: 31, entry: 16 })));
    }
}
