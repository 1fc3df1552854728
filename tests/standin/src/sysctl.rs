//! `sysctl`: what a toolstack asks of the host.
#![forbid(unsafe_code)]

use crate::abi::{SysctlCpuPolicy, SysctlDomainInfoList};
use crate::caller::Caller;
use crate::domctl::{domain_info, put_info};
use crate::errno::{Answer, Errno};
use crate::host::Host;
use crate::release::Release;
use xen_replicate::stream::libxc::{CpuidPolicy, MsrPolicy};

/// `XEN_SYSCTL_physinfo`
const PHYSINFO: u32 = 3;
/// `XEN_SYSCTL_getdomaininfolist`
const GET_DOMAIN_INFO_LIST: u32 = 6;
/// `XEN_SYSCTL_get_cpu_policy`
const GET_CPU_POLICY: u32 = 29;
/// Most leaves that a policy can have in Xen 4.17 (`CPUID_MAX_SERIALISED_LEAVES` of its `lib/x86/cpu-policy.h`).
const MOST_LEAVES: u32 = 120;
/// `XEN_SYSCTL_cpu_policy_hvm_default`
const LAST_POLICY: u32 = 5;
/// Pages of this host.
const TOTAL_PAGES: u64 = 1 << 20;
/// Those that no domain has.
const FREE_PAGES: u64 = 3 << 18;
/// Most MSRs (`MSR_MAX_SERIALISED_ENTRIES`).
const MOST_MSRS: u32 = 2;

/// Answers one sysctl, whose structure is at `address`.
pub fn call(host: &mut Host, caller: Caller, address: u64) -> Answer {
    let [cmd, version]: [u32; 2] = [caller.read(address)?, caller.read(address.wrapping_add(4))?];
    host.may("sysctl", cmd.into())?;
    let answer = match cmd {
        _ if version != host.release.sysctl() => Err(Errno(libc::EACCES)),
        GET_DOMAIN_INFO_LIST => domain_list(host, caller, address),
        GET_CPU_POLICY => cpu_policy(host, caller, address),
        PHYSINFO => physinfo(host.release, caller, address),
        _ => Err(Errno(libc::ENOSYS)),
    };
    host.note(format_args!("sysctl {cmd}: {answer:?}"));
    answer
}

/// The domains from a number on: ours, or none.
fn domain_list(host: &mut Host, caller: Caller, address: u64) -> Answer {
    let mut list: SysctlDomainInfoList = caller.read(address)?;
    list.num_domains = 0;
    let release = host.release;
    if let Some((domid, guest)) = host.own()
        && domid >= u32::from(list.first_domain)
        && list.max_domains > 0
    {
        put_info(caller, list.buffer, release, domain_info(guest)?)?;
        list.num_domains = 1;
    }
    caller.write(address, list)?;
    Ok(0)
}

/// The processor of this host is the one that its domain has: every policy is the domain's.
fn cpu_policy(host: &mut Host, caller: Caller, address: u64) -> Answer {
    let mut wanted: SysctlCpuPolicy = caller.read(address)?;
    if wanted.index > LAST_POLICY {
        return Err(Errno(libc::ENOENT));
    }
    if wanted.leaves == 0 && wanted.msrs == 0 {
        (wanted.nr_leaves, wanted.nr_msrs) = (MOST_LEAVES, MOST_MSRS);
        caller.write(address, wanted)?;
        return Ok(0);
    }
    let (_, guest) = host.own().ok_or(Errno(libc::ENODEV))?;
    let policy = guest.cpu_policy()?;
    let (leaves, msrs) = (policy.cpuid.len() / CpuidPolicy::LEAF, policy.msrs.len() / MsrPolicy::ENTRY);
    if (wanted.nr_leaves as usize) < leaves || (wanted.nr_msrs as usize) < msrs {
        return Err(Errno(libc::ENOBUFS));
    }
    caller.write_array(wanted.leaves, &policy.cpuid)?;
    caller.write_array(wanted.msrs, &policy.msrs)?;
    (wanted.nr_leaves, wanted.nr_msrs) = (leaves as u32, msrs as u32);
    caller.write(address, wanted)?;
    Ok(0)
}

/// The host's memory; all else is zero.
fn physinfo(release: Release, caller: Caller, address: u64) -> Answer {
    let mut words = [0u64; 16];
    let at = release.total_pages_word();
    (words[at], words[at + 1]) = (TOTAL_PAGES, FREE_PAGES);
    caller.write_array(address.wrapping_add(8), &words)?;
    Ok(0)
}
