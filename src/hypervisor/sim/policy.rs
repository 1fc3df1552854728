//! The CPU policy of a simulated guest: leaves and MSRs of a plain 64-bit Intel processor.

use byteorder::{LittleEndian, WriteBytesExt};

use crate::hypervisor::types::CpuPolicy;

/// Leaf 1 eax of the processor: family 6, model 0x3a, stepping 9.
pub(super) const SIGNATURE: u32 = 0x0003_06a9;

/// The subleaf of leaves that have none (`XEN_CPUID_NO_SUBLEAF`).
const NO_SUBLEAF: u32 = u32::MAX;

/// The policy of a guest with `nr_vcpus` vCPUs, in the form that Xen gives a policy: every leaf up to each range's highest, empty
/// ones too; lists of subleaves up to the first that says it is the last; between the two ranges the limits of the hypervisor's
/// own leaves.
pub(super) fn policy(nr_vcpus: u32) -> CpuPolicy {
    // Writing to a Vec does not fail.
    CpuPolicy { cpuid: cpuid(nr_vcpus).unwrap_or_default(), msrs: msrs().unwrap_or_default() }
}

fn cpuid(nr_vcpus: u32) -> std::io::Result<Vec<u8>> {
    let logical = nr_vcpus.saturating_mul(2).min(0xff);
    let brand = |part: &[u8; 16]| {
        let word = |i: usize| part.get(i * 4..i * 4 + 4).and_then(|w| w.try_into().ok()).map_or(0, u32::from_le_bytes);
        [word(0), word(1), word(2), word(3)]
    };
    let vendor = [0x756e_6547, 0x6c65_746e, 0x4965_6e69];
    let leaves: &[(u32, u32, [u32; 4])] = &[
        (0x0, NO_SUBLEAF, [0xd, vendor[0], vendor[1], vendor[2]]),
        (0x1, NO_SUBLEAF, [SIGNATURE, 0x800 | logical << 16, 0xfeb8_2203, 0x1fcb_fbff]),
        (0x2, NO_SUBLEAF, [0x7603_5a01, 0x00f0_b2ff, 0, 0x00ca_0000]),
        (0x3, NO_SUBLEAF, [0; 4]),
        (0x4, 0, [0x121, 0x01c0_003f, 0x3f, 0]),
        (0x4, 1, [0x122, 0x01c0_003f, 0x3f, 0]),
        (0x4, 2, [0x143, 0x01c0_003f, 0x1ff, 0]),
        (0x4, 3, [0x163, 0x03c0_003f, 0xfff, 6]),
        (0x4, 4, [0; 4]),
        (0x5, NO_SUBLEAF, [0; 4]),
        (0x6, NO_SUBLEAF, [0; 4]),
        (0x7, 0, [0, 0x281, 0, 0]),
        (0x8, NO_SUBLEAF, [0; 4]),
        (0x9, NO_SUBLEAF, [0; 4]),
        (0xa, NO_SUBLEAF, [0; 4]),
        (0xb, 0, [0; 4]),
        (0xc, NO_SUBLEAF, [0; 4]),
        (0xd, 0, [0x7, 0x340, 0x340, 0]),
        (0xd, 1, [0x1, 0, 0, 0]),
        (0xd, 2, [0x100, 0x240, 0, 0]),
        (0x4000_0000, NO_SUBLEAF, [0; 4]),
        (0x4000_0100, NO_SUBLEAF, [0; 4]),
        (0x8000_0000, NO_SUBLEAF, [0x8000_0008, 0, 0, 0]),
        (0x8000_0001, NO_SUBLEAF, [0, 0, 0x1, 0x2810_0800]),
        (0x8000_0002, NO_SUBLEAF, brand(b"xen-replicate si")),
        (0x8000_0003, NO_SUBLEAF, brand(b"mulated process\0")),
        (0x8000_0004, NO_SUBLEAF, [0; 4]),
        (0x8000_0005, NO_SUBLEAF, [0; 4]),
        (0x8000_0006, NO_SUBLEAF, [0, 0, 0x0100_6040, 0]),
        (0x8000_0007, NO_SUBLEAF, [0, 0, 0, 0x100]),
        (0x8000_0008, NO_SUBLEAF, [0x3027, 0, 0, 0]),
    ];
    let mut out = Vec::new();
    for (leaf, subleaf, registers) in leaves {
        out.write_u32::<LittleEndian>(*leaf)?;
        out.write_u32::<LittleEndian>(*subleaf)?;
        for register in registers {
            out.write_u32::<LittleEndian>(*register)?;
        }
    }
    Ok(out)
}

fn msrs() -> std::io::Result<Vec<u8>> {
    let mut out = Vec::new();
    // INTEL_PLATFORM_INFO with CPUID faulting, and ARCH_CAPABILITIES with none: the two that real streams carry.
    for (index, value) in [(0xce, 0x8000_0000), (0x10a, 0)] {
        out.write_u32::<LittleEndian>(index)?;
        out.write_u32::<LittleEndian>(0)?;
        out.write_u64::<LittleEndian>(value)?;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::libxc::{CpuidPolicy, MsrPolicy};

    #[test]
    fn entries_are_whole_and_leaves_ascend() {
        let policy = policy(2);
        assert_eq!(policy.cpuid.len() % CpuidPolicy::LEAF, 0);
        assert_eq!(policy.msrs.len(), 2 * MsrPolicy::ENTRY);
        let leaves: Vec<(u32, u32)> = policy
            .cpuid
            .chunks_exact(CpuidPolicy::LEAF)
            .map(|e| (u32::from_le_bytes(e[..4].try_into().unwrap()), u32::from_le_bytes(e[4..8].try_into().unwrap())))
            .collect();
        assert!(leaves.is_sorted() && leaves.len() > 10, "{leaves:x?}");
        assert_eq!(&policy.cpuid[12..16], b"Genu");
    }
}
