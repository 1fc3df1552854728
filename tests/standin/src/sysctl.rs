//! `sysctl`: what a toolstack asks of the host.
#![forbid(unsafe_code)]

use crate::abi::{SysctlCpuPolicy, SysctlDomainInfoList};
use crate::caller::Caller;
use crate::domctl::{domain_info, put_info};
use crate::errno::{Answer, Errno};
use crate::host::Host;

/// `XEN_SYSCTL_getdomaininfolist`
const GET_DOMAIN_INFO_LIST: u32 = 6;
/// `XEN_SYSCTL_get_cpu_policy`
const GET_CPU_POLICY: u32 = 29;
/// Most leaves that a policy can have in Xen 4.17 (`CPUID_MAX_SERIALISED_LEAVES` of its `lib/x86/cpu-policy.h`).
const MOST_LEAVES: u32 = 120;
/// Most MSRs (`MSR_MAX_SERIALISED_ENTRIES`).
const MOST_MSRS: u32 = 2;

/// Answers one sysctl, whose structure is at `address`.
pub fn call(host: &mut Host, caller: Caller, address: u64) -> Answer {
    let [cmd, version]: [u32; 2] = [caller.read(address)?, caller.read(address.wrapping_add(4))?];
    let answer = match cmd {
        _ if version != host.release.sysctl() => Err(Errno(libc::EACCES)),
        GET_DOMAIN_INFO_LIST => domain_list(host, caller, address),
        GET_CPU_POLICY => cpu_policy(caller, address),
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

/// Sizes only: there is no processor of the host's to tell of.
fn cpu_policy(caller: Caller, address: u64) -> Answer {
    let mut policy: SysctlCpuPolicy = caller.read(address)?;
    if policy.leaves != 0 || policy.msrs != 0 {
        return Err(Errno(libc::EOPNOTSUPP));
    }
    (policy.nr_leaves, policy.nr_msrs) = (MOST_LEAVES, MOST_MSRS);
    caller.write(address, policy)?;
    Ok(0)
}
