//! Control registers, XCR0 and MSRs against the CPU policy of the same stream.
//!
//! Source: `hvm_cr4_guest_valid_bits`, `hvm_efer_valid`, `validate_xstate` and `msr_spec_ctrl_valid_bits` in Xen's
//! `xen/arch/x86`.

use super::{BeyondPolicy, ContentProblem};
use crate::decode::bits::{BitNames, Cr4, Efer, Xstate, bit_names};
use crate::decode::cpuid::CpuidPolicy;
use crate::decode::cpuid::features::WORDS;
use crate::decode::msr::{self, SpecCtrl};

/// A bit of a register, and the features of which any allows it.
type Need = (u8, &'static [&'static str]);

const CR4_NEEDS: &[Need] = &[
    (0, &["vme"]),
    (1, &["vme"]),
    (2, &["tsc"]),
    (3, &["de"]),
    (4, &["pse"]),
    (5, &["pae"]),
    (6, &["mce", "mca"]),
    (7, &["pge"]),
    (9, &["fxsr"]),
    (10, &["sse"]),
    (11, &["umip"]),
    (13, &["vmx"]),
    (16, &["fsgsbase"]),
    (17, &["pcid"]),
    (18, &["xsave"]),
    (20, &["smep"]),
    (21, &["smap"]),
    (22, &["pku"]),
    (23, &["cet_ss", "cet_ibt"]),
    (24, &["pks"]),
];

const EFER_NEEDS: &[Need] = &[
    (0, &["syscall"]),
    (8, &["lm"]),
    (10, &["lm"]),
    (11, &["nx"]),
    (12, &["svm"]),
    (14, &["ffxsr"]),
    (21, &["auto_ibrs"]),
];

const SPEC_CTRL_NEEDS: &[Need] = &[
    (0, &["ibrsb", "ibrs"]),
    (1, &["ibrsb", "ibrs", "stibp", "amd_stibp"]),
    (2, &["ssbd", "amd_ssbd"]),
    (3, &["ipred_ctrl"]),
    (4, &["ipred_ctrl"]),
    (5, &["rrsba_ctrl"]),
    (6, &["rrsba_ctrl"]),
    (7, &["intel_psfd", "psfd"]),
    (8, &["ddp_ctrl"]),
    (10, &["bhi_ctrl"]),
];

/// MSRs that a feature brings as a whole.
const MSR_NEEDS: &[(u32, &str, &[&str])] = &[
    (0x6e1, "MSR PKRS", &["pks"]),
    (0xd90, "MSR BNDCFGS", &["mpx"]),
    (0xc001_1027, "MSR AMD64_DR0_ADDRESS_MASK", &["dbext"]),
    (0xc001_1019, "MSR AMD64_DR1_ADDRESS_MASK", &["dbext"]),
    (0xc001_101a, "MSR AMD64_DR2_ADDRESS_MASK", &["dbext"]),
    (0xc001_101b, "MSR AMD64_DR3_ADDRESS_MASK", &["dbext"]),
];

/// MSRs that Xen up to 4.22 loads from a HVM context; of a PV vCPU TSC_AUX besides.
const LOADED: &[u32] = &[
    msr::SPEC_CTRL,
    msr::MISC_FEATURES_ENABLES,
    0x6e1,
    0xd90,
    0xda0,
    msr::VIRT_SPEC_CTRL,
    0xc001_1027,
    0xc001_1019,
    0xc001_101a,
    0xc001_101b,
];
const TSC_AUX: u32 = 0xc000_0103;

/// The CPU policy of a stream, as far as it is there.
#[derive(Debug, Clone, Default)]
pub(super) struct Policy {
    cpuid: Option<CpuidPolicy>,
}

impl Policy {
    /// A policy that is decoded already.
    pub(super) const fn of(cpuid: CpuidPolicy) -> Self {
        Policy { cpuid: Some(cpuid) }
    }

    /// Takes the body of X86_CPUID_POLICY. One without leaf 1 says nothing of a CPU.
    pub(super) fn learn(&mut self, leaves: &[u8]) {
        self.cpuid = CpuidPolicy::decode(leaves).ok().filter(|policy| policy.leaf(1, 0).is_some());
    }

    /// CR4 of a HVM vCPU.
    pub(super) fn cr4(&self, vcpu: u32, value: u64, report: &mut dyn FnMut(ContentProblem)) {
        self.needs(vcpu, "CR4", value, CR4_NEEDS, Cr4::NAMES, report);
    }

    /// EFER of a HVM vCPU.
    pub(super) fn efer(&self, vcpu: u32, value: u64, report: &mut dyn FnMut(ContentProblem)) {
        self.needs(vcpu, "EFER", value, EFER_NEEDS, Efer::NAMES, report);
    }

    /// What XCR0 ever had enabled.
    pub(super) fn xcr0(&self, vcpu: u32, accumulated: u64, report: &mut dyn FnMut(ContentProblem)) {
        let Some(policy) = &self.cpuid else { return };
        let leaf = policy.leaf(0xd, 0);
        let most = leaf.map_or(0, |leaf| u64::from(leaf.edx.0) << 32 | u64::from(leaf.eax.0));
        let beyond = accumulated & !most;
        if beyond == 0 {
            return;
        }
        let mut leaf = String::new();
        for (half, register) in [(beyond as u32, "eax"), ((beyond >> 32) as u32, "edx")] {
            if half != 0 {
                leaf += if leaf.is_empty() { "0xd:0." } else { ", 0xd:0." };
                leaf += register;
            }
        }
        let bits = named(beyond, Xstate::NAMES);
        report(ContentProblem::BeyondPolicy(Box::new(BeyondPolicy {
            vcpu,
            register: "XCR0",
            value: accumulated,
            mask: beyond,
            bits,
            leaf,
        })));
    }

    /// A MSR of a vCPU; `record` is what carries it.
    pub(super) fn msr(
        &self,
        vcpu: u32,
        record: &'static str,
        pv: bool,
        (index, value): (u32, u64),
        report: &mut dyn FnMut(ContentProblem),
    ) {
        let loaded = LOADED.contains(&index) || (pv && index == TSC_AUX);
        if !loaded {
            report(ContentProblem::UnknownMsr { vcpu, record, index });
            return;
        }
        if index == msr::SPEC_CTRL {
            self.needs(vcpu, "MSR SPEC_CTRL", value, SPEC_CTRL_NEEDS, SpecCtrl::NAMES, report);
        }
        if let (Some(policy), Some((_, register, features))) =
            (&self.cpuid, MSR_NEEDS.iter().find(|(known, ..)| *known == index))
            && value != 0
            && !features.iter().any(|feature| policy.has(feature))
        {
            let bits = features.join(" or ");
            report(ContentProblem::BeyondPolicy(Box::new(BeyondPolicy {
                vcpu,
                register,
                value,
                mask: 0,
                bits,
                leaf: leaves(features),
            })));
        }
    }

    fn needs(
        &self,
        vcpu: u32,
        register: &'static str,
        value: u64,
        needs: &[Need],
        names: &[(u8, &'static str)],
        report: &mut dyn FnMut(ContentProblem),
    ) {
        let Some(policy) = &self.cpuid else { return };
        for (bit, features) in needs {
            if value >> bit & 1 == 1 && !features.iter().any(|feature| policy.has(feature)) {
                let mask = 1 << bit;
                let bits = named(mask, names);
                report(ContentProblem::BeyondPolicy(Box::new(BeyondPolicy {
                    vcpu,
                    register,
                    value,
                    mask,
                    bits,
                    leaf: leaves(features),
                })));
            }
        }
    }
}

/// Bits by number and name.
pub(crate) fn named(bits: u64, names: &[(u8, &'static str)]) -> String {
    let numbers = (0..64u8).filter(|bit| bits >> bit & 1 == 1);
    let text: Vec<_> = numbers.zip(bit_names(bits, names)).map(|(bit, name)| format!("bit {bit} ({name})")).collect();
    text.join(", ")
}

/// Where features stand in a policy.
fn leaves(features: &[&str]) -> String {
    let place = |feature: &&str| {
        let word = WORDS.iter().find(|word| word.names.iter().any(|(_, name)| name == feature));
        format!("{} {feature}", word.map_or("?", |word| word.key))
    };
    features.iter().map(place).collect::<Vec<_>>().join(" or ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_feature_that_is_needed_has_a_place_in_a_policy() {
        let needs = [CR4_NEEDS, EFER_NEEDS, SPEC_CTRL_NEEDS].concat();
        let whole = MSR_NEEDS.iter().map(|(.., features)| *features);
        for features in needs.into_iter().map(|(_, features)| features).chain(whole) {
            assert!(!leaves(features).contains('?'), "{features:?}");
        }
    }

    #[test]
    fn without_a_policy_nothing_is_said() {
        let mut policy = Policy::default();
        let mut silent = |problem: ContentProblem| panic!("{problem}");
        policy.cr4(0, u64::MAX, &mut silent);
        policy.xcr0(0, u64::MAX, &mut silent);
        // A leaf 0 alone is no CPU.
        policy.learn(&[0; 24]);
        policy.efer(0, u64::MAX, &mut silent);
    }
}
