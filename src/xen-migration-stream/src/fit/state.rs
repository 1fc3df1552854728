//! The state of a guest against a release, and against the policy that the guest will have there.
//!
//! Source: `hvm_load_*` of `xen/arch/x86/hvm/`, `hvm_set_param` and `hvm_allow_set_param` in `xen/arch/x86/hvm/hvm.c`, and the PV
//! commands of `xen/arch/x86/domctl.c`, at the tags of 4.14.0 to 4.22.0.

use super::release::{self, Change, LAPIC_LENGTHS, Release};
use super::{Misfit, Verdict, What, lacks};
use crate::Severity;
use crate::contents::{ContentProblem, State, state};
use crate::decode::bits::BitNames;
use crate::decode::cpuid::CpuidPolicy;
use crate::decode::hvm_context::Entries;
use crate::decode::hvm_entry::entry_name;
use crate::decode::hvm_params::hvm_param_name;
use crate::decode::msr::{self, SpecCtrl};
use crate::libxc::{HvmParam, VcpuBlob, VcpuRecord};
use byteorder::{ByteOrder, LittleEndian};

/// Type codes of a HVM context's entries.
pub const LAPIC: u16 = 5;
const CPU_MSR: u16 = 20;

/// MSRs that not every release loads.
const PKRS: u32 = 0x6e1;

/// One more than the highest number of a parameter.
const NR_PARAMS: u64 = 39;
const VIRIDIAN: u64 = 9;
const NESTEDHVM: u64 = 24;
const ALTP2M: u64 = 35;
/// `HVMPV_feature_mask` before and since [`release::VIRIDIAN_12`].
const VIRIDIAN_BITS: (u64, u64) = (0x3ff, 0x1fff);

/// The body of HVM_CONTEXT. `policy` is the one that the guest will have.
pub fn hvm_context(blob: &[u8], policy: &CpuidPolicy, release: Option<Release>, found: &mut Vec<Misfit>) {
    for entry in Entries::new(blob).filter_map(Result::ok) {
        match (entry.typecode, release) {
            (LAPIC, Some(release)) if entry.data.len() > LAPIC_LENGTHS.0 && entry.data.len() <= LAPIC_LENGTHS.1 => {
                if let Some(verdict) = lacks(&release::LAPIC_ESR, release) {
                    found.push(Misfit {
                        verdict,
                        what: What::EntryLength {
                            entry: "LAPIC",
                            instance: entry.instance,
                            length: entry.data.len(),
                            own: LAPIC_LENGTHS.0,
                            since: release::LAPIC_ESR.since(),
                            convertible: entry.data.iter().skip(LAPIC_LENGTHS.0).all(|byte| *byte == 0),
                        },
                    });
                }
            }
            (CPU_MSR, Some(release)) => {
                let entries = entry.data.get(8..).unwrap_or_default();
                loaded_msrs(entry.instance.into(), entries, release, found);
            }
            _ => {}
        }
    }
    state(State::Hvm(blob), policy, &mut |problem| judge(problem, release, found));
}

/// A part of a PV vCPU's state. `policy` is the one that the guest will have.
pub fn pv_vcpu(part: &VcpuBlob<'_>, policy: &CpuidPolicy, release: Option<Release>, found: &mut Vec<Misfit>) {
    if part.context.is_empty() {
        return;
    }
    if let (VcpuRecord::Msrs, Some(release)) = (part.part, release) {
        loaded_msrs(part.vcpu_id, part.context, release, found);
    }
    state(State::Pv(*part), policy, &mut |problem| judge(problem, release, found));
}

/// HVM parameters: the same for every host of a release.
pub fn hvm_params(params: impl Iterator<Item = HvmParam>, release: Release, found: &mut Vec<Misfit>) {
    let has = |change: &Change| change.is_in(release) != Some(false);
    for HvmParam { index, value } in params {
        let name = hvm_param_name(index).unwrap_or("no name");
        if index >= NR_PARAMS {
            found.push(Misfit::refused(What::State(ContentProblem::ParamUnknown { index, value })));
            continue;
        }
        let why = match index {
            VIRIDIAN if value & !VIRIDIAN_BITS.1 != 0 => {
                "bits that no Xen up to 4.22 knows: refused (EINVAL)".to_owned()
            }
            VIRIDIAN if value & !VIRIDIAN_BITS.0 != 0 && !has(&release::VIRIDIAN_12) => {
                format!("bits 10 to 12 exist since Xen {}: refused (EINVAL)", release::VIRIDIAN_12.since())
            }
            NESTEDHVM if has(&release::NO_NESTEDHVM_PARAM) => {
                format!("cannot be set since Xen {}: refused (EINVAL)", release::NO_NESTEDHVM_PARAM.since())
            }
            ALTP2M if has(&release::NO_ALTP2M_PARAM) => {
                format!("cannot be set since Xen {}: refused (EEXIST)", release::NO_ALTP2M_PARAM.since())
            }
            _ => continue,
        };
        found.push(Misfit::refused(What::Param { index, name, value, why }));
    }
}

/// The bytes of a HVM context's entries in a release, of those that have one length; `None` where that depends on an update that is
/// not known.
pub fn entry_lengths(release: Release) -> Vec<(&'static str, Option<usize>)> {
    let lapic = release::LAPIC_ESR.is_in(release).map(|newer| if newer { LAPIC_LENGTHS.1 } else { LAPIC_LENGTHS.0 });
    let own = |typecode, longest| if typecode == LAPIC { lapic } else { Some(longest) };
    crate::contents::entry_lengths()
        .filter_map(|(typecode, longest)| Some((entry_name(typecode)?, own(typecode, longest))))
        .collect()
}

/// MSRs that not every release loads, and bits that not every release knows.
fn loaded_msrs(vcpu: u32, entries: &[u8], release: Release, found: &mut Vec<Misfit>) {
    let mut add = |verdict, what| found.push(Misfit { verdict, what });
    for entry in entries.chunks_exact(16) {
        let (index, value) = (LittleEndian::read_u32(entry), LittleEndian::read_u64(&entry[8..]));
        let change = match index {
            msr::VIRT_SPEC_CTRL => &release::VIRT_SPEC_CTRL,
            PKRS => &release::PKRS,
            msr::SPEC_CTRL => {
                for (bits, change) in [(1 << 7, &release::SPEC_CTRL_PSFD), (0x478, &release::SPEC_CTRL_BHI)] {
                    if let (true, Some(verdict)) = (value & bits != 0, lacks(change, release)) {
                        let bits = crate::contents::named(value & bits, SpecCtrl::NAMES);
                        add(verdict, What::SpecCtrl { vcpu, value, bits, since: change.since() });
                    }
                }
                continue;
            }
            _ => continue,
        };
        if let Some(verdict) = lacks(change, release) {
            let name = msr::msr_name(index).unwrap_or("no name");
            add(verdict, What::LoadedMsr { vcpu, index, name, since: change.since() });
        }
    }
}

/// What the checks of a stream's contents have found, for a known release and policy: what they must leave open is decided here.
fn judge(problem: ContentProblem, release: Option<Release>, found: &mut Vec<Misfit>) {
    let known = release.is_some();
    let verdict = match &problem {
        ContentProblem::BeyondPolicy(beyond) => {
            found.push(Misfit::refused(What::BeyondPolicy(beyond.clone())));
            return;
        }
        _ if problem.severity() == Severity::Error => Verdict::Refused,
        ContentProblem::RegisterDepends { register: "DR6" | "DR7", .. } => {
            match release.map(|release| release::DEBUG_REGISTERS_HELD.is_in(release)) {
                Some(Some(true)) => Verdict::Refused,
                Some(_) => return,
                None => Verdict::Costs,
            }
        }
        ContentProblem::RegisterDepends { .. }
        | ContentProblem::HvmUnknownEntry { .. }
        | ContentProblem::HvmEntryTooLong { .. }
        | ContentProblem::UnknownMsr { .. } => {
            if known {
                Verdict::Refused
            } else {
                Verdict::Costs
            }
        }
        // Said above with the release; or no matter of the target.
        _ => return,
    };
    found.push(Misfit { verdict, what: What::State(problem) });
}
