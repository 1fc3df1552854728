//! What the releases of Xen differ in, as far as a receiver turns streams away for it: one table, read off every tag from
//! RELEASE-4.14.0 to RELEASE-4.22.0 of xen.git.

use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// The oldest release that is known.
pub const OLDEST: u32 = 14;
/// The newest release that is known.
pub const NEWEST: u32 = 22;

/// A release of Xen 4, with its update where that is known: 4.17, 4.17.5.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Release {
    /// The second number.
    pub minor: u32,
    /// The third number. Without it a question may have no answer.
    pub update: Option<u32>,
}

/// Why a text names no release that is known.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is no release of Xen from 4.14 to 4.22")]
pub struct UnknownRelease(pub String);

impl FromStr for Release {
    type Err = UnknownRelease;

    /// Takes `4.17`, `4.17.5`, and the same behind `xen-`.
    fn from_str(text: &str) -> Result<Self, UnknownRelease> {
        let unknown = || UnknownRelease(text.to_owned());
        let mut numbers = text.strip_prefix("xen-").unwrap_or(text).split('.');
        let mut next = || numbers.next().map(|part| part.parse::<u32>().map_err(|_| unknown())).transpose();
        let (major, minor, update) = (next()?, next()?, next()?);
        let release = match (major, minor, numbers.next()) {
            (Some(4), Some(minor), None) => Release { minor, update },
            _ => return Err(unknown()),
        };
        if release.is_known() { Ok(release) } else { Err(unknown()) }
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "4.{}", self.minor)?;
        self.update.map_or(Ok(()), |update| write!(f, ".{update}"))
    }
}

impl Release {
    /// A release without its update.
    pub const fn new(minor: u32) -> Self {
        Release { minor, update: None }
    }

    /// Whether this table knows it.
    pub const fn is_known(self) -> bool {
        OLDEST <= self.minor && self.minor <= NEWEST
    }
}

/// Something that a release has or has not.
#[derive(Debug, PartialEq, Eq)]
pub struct Change {
    /// Older releases that were given it: release, and first update with it.
    updates: &'static [(u32, u32)],
    /// The first release that has it from its start.
    from: u32,
    /// Where it can be read in xen.git.
    pub source: &'static str,
}

impl Change {
    const fn new(updates: &'static [(u32, u32)], from: u32, source: &'static str) -> Self {
        Change { updates, from, source }
    }

    /// Whether a release has it; `None` where that depends on its update, which is not known.
    pub fn is_in(&self, release: Release) -> Option<bool> {
        if release.minor >= self.from {
            return Some(true);
        }
        match self.updates.iter().find(|(minor, _)| *minor == release.minor) {
            Some((_, first)) => release.update.map(|update| update >= *first),
            None => Some(false),
        }
    }

    /// The first update of this release that has it.
    pub fn first_update(&self, minor: u32) -> Option<Release> {
        let (minor, update) = self.updates.iter().find(|(of, _)| *of == minor)?;
        Some(Release { minor: *minor, update: Some(*update) })
    }

    /// The releases that have it, as in `4.18.5, 4.19.2, 4.20.1 or 4.21`.
    pub fn since(&self) -> String {
        let mut all: Vec<String> = self.updates.iter().map(|(minor, update)| format!("4.{minor}.{update}")).collect();
        let last = format!("4.{}", self.from);
        if all.is_empty() {
            return last;
        }
        all.sort_unstable();
        format!("{} or {last}", all.join(", "))
    }
}

/// The LAPIC entry of a HVM context has 32 bytes (`pending_esr`) instead of 24.
pub const LAPIC_ESR: Change =
    Change::new(&[(18, 5), (19, 2), (20, 1)], 21, "xen/include/public/arch-x86/hvm/save.h: struct hvm_hw_lapic");
/// A policy has room for leaf 7 subleaf 2.
pub const LEAF_7_2: Change = Change::new(
    &[(14, 5), (15, 3), (16, 1)],
    17,
    "xen/include/xen/lib/x86/cpu-policy.h: CPUID_GUEST_NR_FEAT, 2 then 3",
);
/// A policy has room for leaves up to 0x80000021, before that up to 0x8000001c.
pub const LEAF_80000021: Change = Change::new(
    &[(14, 5), (15, 3)],
    16,
    "xen/include/xen/lib/x86/cpu-policy.h: CPUID_GUEST_NR_EXTD_AMD, 0x1d then 0x22",
);
/// A policy has MSR_ARCH_CAPABILITIES beside INTEL_PLATFORM_INFO.
pub const POLICY_ARCH_CAPS: Change = Change::new(&[(14, 1)], 15, "xen/lib/x86/msr.c: x86_msr_copy_from_buffer");
/// A guest's highest subleaf of leaf 7 is held against the host's.
pub const MAX_SUBLEAF_HELD: Change = Change::new(&[], 15, "xen/lib/x86/policy.c: x86_cpu_policies_are_compatible");
/// A guest's vendor is held against the host's.
pub const VENDOR_HELD: Change =
    Change::new(&[], 22, "xen/arch/x86/lib/cpu-policy/policy.c: x86_cpu_policies_are_compatible");
/// DR6 and DR7 of a HVM vCPU are looked at: bits 32 to 63 must be clear.
pub const DEBUG_REGISTERS_HELD: Change = Change::new(&[], 18, "xen/arch/x86/hvm/hvm.c: hvm_load_cpu_ctxt");
/// SPEC_CTRL has bit 7 (PSFD).
pub const SPEC_CTRL_PSFD: Change =
    Change::new(&[(14, 5), (15, 3), (16, 1)], 17, "xen/arch/x86/msr.c: msr_spec_ctrl_valid_bits");
/// SPEC_CTRL has bits 3 to 6 (IPRED_DIS, RRSBA_DIS) and 10 (BHI_DIS_S).
pub const SPEC_CTRL_BHI: Change =
    Change::new(&[(15, 6), (16, 6), (17, 4), (18, 2)], 19, "xen/arch/x86/msr.c: msr_spec_ctrl_valid_bits");
/// AMX brings tilecfg and tiledata into XCR0.
pub const AMX: Change = Change::new(&[], 20, "xen/arch/x86/cpu-policy.c: recalculate_xstate");
/// VIRT_SPEC_CTRL is loaded from a HVM context.
pub const VIRT_SPEC_CTRL: Change = Change::new(&[], 17, "xen/arch/x86/hvm/hvm.c: hvm_load_cpu_msrs");
/// PKRS is loaded from a HVM context.
pub const PKRS: Change = Change::new(&[], 18, "xen/arch/x86/hvm/hvm.c: hvm_load_cpu_msrs");
/// HVM_PARAM_VIRIDIAN has bits 10 to 12.
pub const VIRIDIAN_12: Change = Change::new(&[], 15, "xen/include/public/hvm/params.h: HVMPV_feature_mask");
/// HVM_PARAM_NESTEDHVM cannot be set any more.
pub const NO_NESTEDHVM_PARAM: Change = Change::new(&[], 15, "xen/arch/x86/hvm/hvm.c: hvm_allow_set_param");
/// HVM_PARAM_ALTP2M cannot be set any more.
pub const NO_ALTP2M_PARAM: Change = Change::new(&[], 19, "xen/arch/x86/hvm/hvm.c: hvm_allow_set_param");

/// Bytes of a LAPIC entry before and since [`LAPIC_ESR`].
pub const LAPIC_LENGTHS: (usize, usize) = (24, 32);

#[cfg(test)]
mod tests {
    use super::*;

    fn release(text: &str) -> Release {
        text.parse().unwrap()
    }

    #[test]
    fn releases_by_name() {
        assert_eq!(release("xen-4.17"), Release::new(17));
        assert_eq!(release("4.20.1"), Release { minor: 20, update: Some(1) });
        assert_eq!(release("4.20.1").to_string(), "4.20.1");
        for wrong in ["", "xen-", "4", "4.13", "4.23", "5.17", "4.17.", "4.17.x", "4.17.1.2", "four.17"] {
            assert_eq!(wrong.parse::<Release>(), Err(UnknownRelease(wrong.to_owned())), "{wrong:?}");
        }
    }

    #[test]
    fn a_change_that_came_with_updates_depends_on_them() {
        let has = |text| LAPIC_ESR.is_in(release(text));
        assert_eq!(
            [has("4.14"), has("4.17.9"), has("4.18"), has("4.18.4")],
            [Some(false), Some(false), None, Some(false)]
        );
        assert_eq!(
            [has("4.18.5"), has("4.20.0"), has("4.20.1"), has("4.21")],
            [Some(true), Some(false), Some(true), Some(true)]
        );
        assert_eq!(LAPIC_ESR.since(), "4.18.5, 4.19.2, 4.20.1 or 4.21");
        assert_eq!(VENDOR_HELD.since(), "4.22");
        assert_eq!(LAPIC_ESR.first_update(19), Some(release("4.19.2")));
        assert_eq!(LAPIC_ESR.first_update(21), None);
    }
}
