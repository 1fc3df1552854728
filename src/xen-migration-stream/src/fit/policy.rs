//! CPU policies against a release, against those of a host, and against another guest's.
//!
//! Xen takes a policy in three steps (`update_domain_cpu_policy` in `xen/arch/x86/domctl.c`): leaves and MSRs that its
//! structures have no place for are refused; then the guest's is held against the highest that the host can give
//! (`x86_cpu_policies_are_compatible`), of which the ranges of leaves and INTEL_PLATFORM_INFO are refused, and features are not;
//! then every feature that the host lacks is taken from the guest without a word (`recalculate_cpuid_policy`).

use super::release::{self, Release};
use super::{Misfit, Verdict, What, lacks};
use crate::decode::bits::BitNames;
use crate::decode::cpuid::features::{FeatureWord, Register, WORDS};
use crate::decode::cpuid::{CpuidLeaf, CpuidPolicy, NO_SUBLEAF};
use crate::decode::hex::Hex;
use crate::decode::msr::{self, ArchCaps, MsrEntry, PlatformInfo, msr_name};

/// The highest basic leaf, and the subleaves of leaves 4, 7, 0xb and 0xd that policies have places for (`CPUID_GUEST_NR_*`).
const BASIC: u32 = 0xd;
const SUBLEAVES: [(u32, u32); 4] = [(4, 5), (7, 2), (0xb, 1), (0xd, 62)];
/// The highest extended leaf, now and before [`release::LEAF_80000021`].
const EXTENDED: (u32, u32) = (0x8000_0021, 0x8000_001c);
/// The bits of leaf 0x80000001 EDX that AMD repeats from leaf 1 (`CPUID_COMMON_1D_FEATURES`): they are derived.
const REPEATED: u32 = 0x0183_f3ff;

/// Bits that a toolstack may set whatever the host has, that are derived, or whose presence is a lack: leaf, subleaf, register, bits.
/// `recalculate_cpuid_policy` has HTT, X2APIC, CMP_LEGACY, ITSC, FDP_EXCP_ONLY and NO_FPU_SEL so; OSXSAVE and OSPKE are the guest's own.
const NOT_HELD: [(u32, u32, Register, u32); 8] = [
    (1, 0, Register::Edx, 1 << 28),
    (1, 0, Register::Ecx, 1 << 21 | 1 << 27 | 1 << 31),
    (7, 0, Register::Ebx, 1 << 6 | 1 << 13),
    (7, 0, Register::Ecx, 1 << 4),
    (0x8000_0001, 0, Register::Edx, REPEATED),
    (0x8000_0001, 0, Register::Ecx, 1 << 1),
    (0x8000_0007, 0, Register::Edx, 1 << 8),
    (0xd, 1, Register::Eax, 0),
];

fn held(word: &FeatureWord) -> u32 {
    let same = |(leaf, subleaf, register, _): &&(u32, u32, Register, u32)| {
        (*leaf, *subleaf, *register) == (word.leaf, word.subleaf, word.register)
    };
    !NOT_HELD.iter().find(same).map_or(0, |(.., bits)| *bits)
}

/// A policy against the places that a release's policies have.
///
/// Source: `x86_cpuid_copy_from_buffer`, `x86_msr_copy_from_buffer`.
pub fn against_release(cpuid: &CpuidPolicy, msrs: &[MsrEntry], release: Release, found: &mut Vec<Misfit>) {
    let mut add = |verdict, what| found.push(Misfit { verdict, what });
    for leaf in &cpuid.leaves {
        let number = leaf.leaf.0;
        let subleaf = (leaf.subleaf.0 != NO_SUBLEAF).then_some(leaf.subleaf.0);
        let unknown = What::LeafUnknown { leaf: number, subleaf };
        let last = SUBLEAVES.iter().find(|(of, _)| *of == number).map(|(_, last)| *last);
        match (number, subleaf, last) {
            (7, Some(2), _) => {
                if let Some(verdict) = lacks(&release::LEAF_7_2, release) {
                    let since = release::LEAF_7_2.since();
                    add(verdict, What::LeafNewer { leaf: number, subleaf, since });
                }
            }
            (0..=BASIC, Some(subleaf), Some(last)) if subleaf <= last => {}
            (0..=BASIC | 0x4000_0000 | 0x4000_0100, None, None) => {}
            (0x8000_0000.., None, None) if number <= EXTENDED.1 => {}
            (0x8000_0000.., None, None) if number <= EXTENDED.0 => {
                if let Some(verdict) = lacks(&release::LEAF_80000021, release) {
                    let since = release::LEAF_80000021.since();
                    add(verdict, What::LeafNewer { leaf: number, subleaf, since });
                }
            }
            _ => add(Verdict::Refused, unknown),
        }
    }
    let most = most_leaves(release);
    if cpuid.leaves.len() > most {
        add(Verdict::Refused, What::TooManyLeaves { count: cpuid.leaves.len(), most });
    }
    for entry in msrs {
        let index = entry.index.0;
        let name = msr_name(index).unwrap_or("no name");
        match index {
            msr::PLATFORM_INFO => {}
            msr::ARCH_CAPABILITIES => {
                if let Some(verdict) = lacks(&release::POLICY_ARCH_CAPS, release) {
                    let since = Some(release::POLICY_ARCH_CAPS.since());
                    add(verdict, What::PolicyMsr { index, name, since });
                }
            }
            _ => add(Verdict::Refused, What::PolicyMsr { index, name, since: None }),
        }
    }
}

/// `CPUID_MAX_SERIALISED_LEAVES`, of the newest update where it is not known.
fn most_leaves(release: Release) -> usize {
    let newer = |change: &release::Change| change.is_in(release) != Some(false);
    let feat = if newer(&release::LEAF_7_2) { 3 } else { 2 };
    let extended = if newer(&release::LEAF_80000021) { EXTENDED.0 } else { EXTENDED.1 } & 0xffff;
    let subleaves = 5 + (feat - 1) + 1 + 62;
    BASIC as usize + 1 + subleaves + extended as usize + 1 + 2
}

/// A policy against the highest one that a host can give to a guest of its kind (`pv_max`, `hvm_max`). Without a release only what is
/// the same in all of them is refused.
///
/// Source: `x86_cpu_policies_are_compatible`, `recalculate_cpuid_policy`.
pub fn against_host(
    (cpuid, msrs): (&CpuidPolicy, &[MsrEntry]),
    (host, host_msrs): (&CpuidPolicy, &[MsrEntry]),
    release: Option<Release>,
    found: &mut Vec<Misfit>,
) {
    let holds = |change: &release::Change| release.is_some_and(|release| change.is_in(release) == Some(true));
    let by = |held: bool, what| if held { Misfit::refused(what) } else { Misfit::costs(what) };
    for (leaf, subleaf) in [(0, None), (7, Some(0)), (0x8000_0000, None)] {
        let highest = |policy: &CpuidPolicy| policy.leaf(leaf, subleaf.unwrap_or(0)).map_or(0, |leaf| leaf.eax.0);
        let (guest, host) = (highest(cpuid), highest(host));
        if guest > host {
            let held = leaf != 7 || holds(&release::MAX_SUBLEAF_HELD);
            found.push(by(held, What::MaxLeaf { leaf, subleaf, guest, host, held }));
        }
    }
    if let (Some(guest), Some(host)) = (&cpuid.vendor, &host.vendor)
        && guest != host
    {
        let held = holds(&release::VENDOR_HELD);
        found.push(by(held, What::Vendor { guest: guest.clone(), host: host.clone(), held }));
    }
    let value =
        |entries: &[MsrEntry], index| entries.iter().find(|entry| entry.index.0 == index).map(|entry| entry.value.0);
    for (index, names, held) in
        [(msr::PLATFORM_INFO, PlatformInfo::NAMES, true), (msr::ARCH_CAPABILITIES, ArchCaps::NAMES, false)]
    {
        let Some(guest) = value(msrs, index) else { continue };
        // A host's policies without the MSR say that it has none, where they have MSRs at all.
        let host = match value(host_msrs, index) {
            None if host_msrs.is_empty() => continue,
            host => host.unwrap_or(0),
        };
        let beyond = guest & !host;
        if beyond != 0 {
            let bits = crate::contents::named(beyond, names);
            let name = msr_name(index).unwrap_or("no name");
            found.push(by(held, What::PolicyMsrBits { index, name, bits, held }));
        }
    }
    lost(cpuid, host, true, found);
    let bits = |policy: &CpuidPolicy| policy.leaf(0x8000_0008, 0).map_or(0, |leaf| leaf.eax.0 & 0xff);
    let (guest, host) = (bits(cpuid), bits(host));
    if guest > host && host != 0 {
        found.push(Misfit::costs(What::PhysicalBits { guest, host }));
    }
}

/// A policy against another guest's: what that one was not given, its host may have all the same.
pub fn against_guest(cpuid: &CpuidPolicy, other: &CpuidPolicy, found: &mut Vec<Misfit>) {
    for (leaf, subleaf) in [(0, None), (7, Some(0)), (0x8000_0000, None)] {
        let highest = |policy: &CpuidPolicy| policy.leaf(leaf, subleaf.unwrap_or(0)).map_or(0, |leaf| leaf.eax.0);
        let (guest, host) = (highest(cpuid), highest(other));
        if guest > host {
            found.push(Misfit::costs(What::MaxLeaf { leaf, subleaf, guest, host, held: true }));
        }
    }
    if let (Some(guest), Some(host)) = (&cpuid.vendor, &other.vendor)
        && guest != host
    {
        found.push(Misfit::costs(What::Vendor { guest: guest.clone(), host: host.clone(), held: false }));
    }
    lost(cpuid, other, false, found);
}

fn lost(cpuid: &CpuidPolicy, host: &CpuidPolicy, certain: bool, found: &mut Vec<Misfit>) {
    for word in WORDS {
        let value =
            |policy: &CpuidPolicy| policy.leaf(word.leaf, word.subleaf).map_or(0, |l| l.register(word.register));
        let mask = value(cpuid) & !value(host) & held(word);
        if mask != 0 {
            let bits = crate::contents::named(mask.into(), word.names);
            found.push(Misfit::costs(What::Features { key: word.key, mask, bits, certain }));
        }
    }
}

/// The policy that a guest will have: its features as far as the host has them, and XCR0 as it follows from them. What it leaves out is
/// what Xen leaves out; what more Xen may take (features that need others, shadow paging) is not looked at, so that it has no
/// less than the guest will have.
///
/// Source: `recalculate_cpuid_policy`, `recalculate_xstate`.
pub fn effective(cpuid: &CpuidPolicy, host: Option<&CpuidPolicy>, release: Option<Release>) -> CpuidPolicy {
    let mut leaves = cpuid.leaves.clone();
    if let Some(host) = host {
        for leaf in &mut leaves {
            let (number, subleaf) = (leaf.leaf.0, leaf.subleaf.0);
            for word in WORDS.iter().filter(|word| is_of((number, subleaf), word)) {
                let most = host.leaf(word.leaf, word.subleaf).map_or(0, |leaf| leaf.register(word.register));
                let register = register_of(leaf, word.register);
                register.0 &= most | !held(word);
            }
        }
    }
    let features = CpuidPolicy::of(leaves.clone());
    let has = |feature: &str| features.has(feature);
    let mut xcr0: u64 = if has("xsave") { 3 } else { 0 };
    if xcr0 != 0 {
        let amx = release.is_none_or(|release| release::AMX.is_in(release) != Some(false));
        for (feature, bits) in [
            ("avx", 1 << 2),
            ("mpx", 3 << 3),
            ("avx512f", 7 << 5),
            ("pku", 1 << 9),
            ("amx_tile", 3 << 17),
            ("lwp", 1 << 62),
        ] {
            if has(feature) && (feature != "amx_tile" || amx) {
                xcr0 |= bits;
            }
        }
    }
    for leaf in leaves.iter_mut().filter(|leaf| (leaf.leaf.0, leaf.subleaf.0) == (0xd, 0)) {
        (leaf.eax, leaf.edx) = (Hex(xcr0 as u32), Hex((xcr0 >> 32) as u32));
    }
    CpuidPolicy::of(leaves)
}

fn is_of((leaf, subleaf): (u32, u32), word: &FeatureWord) -> bool {
    leaf == word.leaf && (subleaf == word.subleaf || (word.subleaf == 0 && subleaf == NO_SUBLEAF))
}

fn register_of(leaf: &mut CpuidLeaf, register: Register) -> &mut Hex<u32> {
    match register {
        Register::Eax => &mut leaf.eax,
        Register::Ebx => &mut leaf.ebx,
        Register::Ecx => &mut leaf.ecx,
        Register::Edx => &mut leaf.edx,
    }
}
