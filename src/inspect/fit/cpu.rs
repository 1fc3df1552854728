//! CPU policies, the state of vCPUs, HVM parameters.

use super::{Findings, Guest, Target};
use crate::decode::cpuid::CpuidPolicy;
use crate::decode::hvm_context::Entries;
use crate::host_info::Policy;
use crate::stream::fit::release::{LAPIC_LENGTHS, Release};
use crate::stream::fit::{Misfit, Verdict, What, policy, state};
use crate::stream::libxc::DomainType;

pub(super) fn judge(guest: &Guest, target: &Target, release: Option<Release>, found: &mut Findings) {
    let mut misfits = Vec::new();
    let most = match target {
        Target::Host(_, host) => {
            let (kind, policies) = (guest.domain, &host.cpu_policies);
            let most = if kind == Some(DomainType::Pv) { &policies.pv_max } else { &policies.hvm_max };
            if let Some(why) = most.why_missing().filter(|_| host.xen.known().is_some()) {
                found.remark("cpuid", format!("not held against the CPU policies of the host: {why}"));
            }
            most.known()
        }
        _ => None,
    };
    let policy = policies(guest, target, most, release, &mut misfits);
    if let Some(policy) = &policy {
        state::hvm_context(&guest.hvm_context, policy, release, &mut misfits);
        for part in guest.vcpu_parts() {
            state::pv_vcpu(&part, policy, release, &mut misfits);
        }
    }
    if let Some(release) = release {
        state::hvm_params(guest.hvm_params.iter().copied(), release, &mut misfits);
    }
    if let Target::Guest(_, other) = target {
        by_the_others_lapic(&mut misfits, other);
    }
    let mut said: Vec<&Misfit> = Vec::new();
    for misfit in &misfits {
        // The same of several vCPUs has a text of its own each; the same text twice says nothing more.
        if !said.contains(&misfit) {
            found.misfit(misfit);
            said.push(misfit);
        }
    }
}

/// Holds the policies against each other; gives the one that the guest will have.
fn policies(
    guest: &Guest,
    target: &Target,
    most: Option<&Policy>,
    release: Option<Release>,
    misfits: &mut Vec<Misfit>,
) -> Option<CpuidPolicy> {
    let Some(cpuid) = guest.cpuid.as_ref().filter(|cpuid| cpuid.leaf(1, 0).is_some()) else {
        if guest.domain.is_some() {
            misfits.push(Misfit { verdict: Verdict::Costs, what: What::NoPolicy });
        }
        // The guest will see what the host has, where that is known.
        return Some(most.map_or_else(|| CpuidPolicy::of(Vec::new()), |most| most.cpuid.clone()));
    };
    if let Some(release) = release {
        policy::against_release(cpuid, &guest.msrs, release, misfits);
    }
    match (target, most) {
        (_, Some(most)) => {
            policy::against_host((cpuid, &guest.msrs), (&most.cpuid, &most.msrs), release, misfits);
        }
        (Target::Guest(_, other), _) if other.domain == guest.domain => {
            if let Some(theirs) = &other.cpuid {
                policy::against_guest(cpuid, theirs, misfits);
            }
        }
        _ => {}
    }
    Some(policy::effective(cpuid, most.map(|most| &most.cpuid), release))
}

/// The other guest's LAPIC entries are as long as its host's Xen has them, whatever its update.
fn by_the_others_lapic(misfits: &mut Vec<Misfit>, other: &Guest) {
    let lapic = Entries::new(&other.hvm_context).filter_map(Result::ok).find(|entry| entry.typecode == state::LAPIC);
    let Some(lapic) = lapic else { return };
    misfits.retain_mut(|misfit| match (&misfit.what, misfit.verdict) {
        (What::EntryLength { entry: "LAPIC", .. }, Verdict::RefusedBefore(_)) => {
            misfit.verdict = Verdict::Refused;
            lapic.data.len() <= LAPIC_LENGTHS.0
        }
        _ => true,
    });
}
