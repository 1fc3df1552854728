//! Which vCPUs have state, the XSAVE area that HVM and PV vCPUs share, and a PV vCPU's parts.

use super::ContentProblem;
use super::policy::Policy;
use crate::libxc::{VcpuBlob, VcpuRecord};
use byteorder::{ByteOrder, LittleEndian};

/// Most vCPUs that any domain has: those of a PV domain.
const MAX_VCPUS: usize = 8192;
/// Bytes of X86_PV_VCPU_EXTENDED's state that a domctl has room for.
const EXTENDED: usize = 128;

/// vCPUs by number.
#[derive(Debug, Clone)]
pub(super) struct VcpuSet([u64; MAX_VCPUS / 64]);

impl Default for VcpuSet {
    fn default() -> Self {
        VcpuSet([0; MAX_VCPUS / 64])
    }
}

impl VcpuSet {
    /// Adds a vCPU; numbers that no vCPU has are left out.
    pub(super) fn insert(&mut self, vcpu: u32) {
        if let Some(word) = self.0.get_mut(vcpu as usize / 64) {
            *word |= 1 << (vcpu % 64);
        }
    }

    pub(super) fn contains(&self, vcpu: u32) -> bool {
        self.0.get(vcpu as usize / 64).is_some_and(|word| word >> (vcpu % 64) & 1 == 1)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// The first vCPU that `other` lacks.
    pub(super) fn first_without(&self, other: &VcpuSet) -> Option<u32> {
        let place = self.0.iter().zip(&other.0).position(|(here, there)| here & !there != 0)?;
        let bits = self.0.get(place)? & !other.0.get(place)?;
        Some(place as u32 * 64 + bits.trailing_zeros())
    }

    /// The first vCPU below `max` that is not there, and how many are not.
    pub(super) fn missing_below(&self, max: u32) -> Option<(u32, u32)> {
        let mut missing = (0..max.min(MAX_VCPUS as u32)).filter(|vcpu| !self.contains(*vcpu));
        let first = missing.next()?;
        Some((first, 1 + missing.count() as u32))
    }
}

/// The header of an XSAVE area and XCR0, as every Xen wants them; with a policy, that too.
///
/// Source: `validate_xstate` and `valid_xcr0` in `xen/arch/x86/xstate.c`.
pub(super) fn xsave(
    vcpu: u32,
    (xcr0, accumulated): (u64, u64),
    header: &[u8],
    policy: Option<&Policy>,
    report: &mut dyn FnMut(ContentProblem),
) {
    let word = |at: usize| header.get(at..at + 8).map_or(0, LittleEndian::read_u64);
    // Xen before 4.12 wrote areas of vCPUs without XSAVE, in which all of this is zero.
    if (xcr0, accumulated, word(0), word(8)) == (0, 0, 0, 0) {
        return;
    }
    let mut wrong = |register, value, why| report(ContentProblem::Register { vcpu, register, value, why });
    for (register, value) in [("XCR0", xcr0), ("xcr0_accum", accumulated)] {
        if let Some(why) = bad_xcr0(value) {
            wrong(register, value, why);
        }
    }
    if xcr0 & !accumulated != 0 {
        wrong("XCR0", xcr0, "it has bits that xcr0_accum has not");
    }
    if word(0) & !accumulated != 0 {
        wrong("XSTATE_BV", word(0), "it has bits that xcr0_accum has not");
    }
    if word(8) != 0 {
        wrong("XCOMP_BV", word(8), "a compacted area is not taken from a stream");
    }
    if let Some(policy) = policy {
        policy.xcr0(vcpu, accumulated, report);
    }
}

const fn bad_xcr0(value: u64) -> Option<&'static str> {
    const AVX512: u64 = 7 << 5;
    const BNDREGS: u64 = 3 << 3;
    const TILES: u64 = 3 << 17;
    if value & 1 == 0 {
        Some("bit 0 (x87) is not set")
    } else if value & 4 != 0 && value & 2 == 0 {
        Some("AVX without SSE")
    } else if value & AVX512 != 0 && (value & 4 == 0 || value & AVX512 != AVX512) {
        Some("AVX-512 in part, or without AVX")
    } else if value & BNDREGS != 0 && value & BNDREGS != BNDREGS {
        Some("one of bndregs and bndcsr alone")
    } else if value & TILES != 0 && value & TILES != TILES {
        Some("one of tilecfg and tiledata alone")
    } else {
        None
    }
}

/// A part of a PV vCPU's state.
pub(super) fn part(
    part: &VcpuBlob<'_>,
    policy: &Policy,
    max_vcpus: Option<u32>,
    remarks: bool,
    report: &mut dyn FnMut(ContentProblem),
) {
    let (vcpu, what, length) = (part.vcpu_id, part.part.name(), part.context.len());
    let nr_vcpus = max_vcpus.unwrap_or(MAX_VCPUS as u32);
    if vcpu >= nr_vcpus {
        report(ContentProblem::PvVcpuBeyondMaximum { record: what, vcpu, nr_vcpus });
    }
    match part.part {
        VcpuRecord::Basic => {}
        VcpuRecord::Extended if length > EXTENDED => {
            report(ContentProblem::PartTooLong { record: what, vcpu, length, most: EXTENDED });
        }
        VcpuRecord::Extended => {}
        VcpuRecord::Xsave => {
            if let Some((head, area)) = part.context.split_at_checked(16)
                && let Some(header) = area.get(512..576)
            {
                let pair = (LittleEndian::read_u64(head), LittleEndian::read_u64(&head[8..]));
                xsave(vcpu, pair, header, remarks.then_some(policy), report);
            }
        }
        VcpuRecord::Msrs => {
            for entry in part.context.chunks_exact(16) {
                let (index, flags) = (LittleEndian::read_u32(entry), LittleEndian::read_u32(&entry[4..]));
                if flags != 0 {
                    let why = "it must be zero";
                    report(ContentProblem::Register { vcpu, register: "msr.reserved", value: flags.into(), why });
                }
                if remarks {
                    policy.msr(vcpu, what, true, (index, LittleEndian::read_u64(&entry[8..])), report);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_knows_what_it_lacks() {
        let (mut set, mut other) = (VcpuSet::default(), VcpuSet::default());
        assert!(set.is_empty() && set.missing_below(0).is_none());
        for vcpu in [0, 1, 70, 8191, u32::MAX] {
            set.insert(vcpu);
        }
        for vcpu in [0, 1] {
            other.insert(vcpu);
        }
        assert_eq!((set.first_without(&other), other.first_without(&set)), (Some(70), None));
        assert_eq!((set.missing_below(2), set.missing_below(4)), (None, Some((2, 2))));
        assert!(set.contains(8191) && !set.contains(u32::MAX));
    }

    #[test]
    fn xcr0_as_the_manual_has_it() {
        for good in [1, 3, 7, 0xe7, 0x1f, 0x6_0007, 0x207] {
            assert_eq!(bad_xcr0(good), None, "{good:#x}");
        }
        for bad in [0, 2, 5, 0x27, 0xe3, 0xf, 0x2_0007] {
            assert!(bad_xcr0(bad).is_some(), "{bad:#x}");
        }
    }
}
