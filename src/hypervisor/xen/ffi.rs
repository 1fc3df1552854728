//! Functions of Xen's libraries that the bindings do not have: those of xenguest.h (libxenguest), and one that libxenctrl exports
//! to libxenguest without a public prototype. As of Xen 4.17.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_uint};
use xenctrl_sys::{xc_interface, xen_cpuid_leaf_t, xen_msr_entry_t, xen_pfn_t};

/// `xc_cpu_policy_t`: opaque, made by [`xc_cpu_policy_init`].
#[repr(C)]
pub(super) struct CpuPolicyHandle {
    _opaque: [u8; 0],
}

#[link(name = "xenctrl")]
unsafe extern "C" {
    /// Replaces each of `num` (at most 1,024) gfns by its type, in bits 28 to 31.
    pub(super) fn xc_get_pfn_type_batch(xch: *mut xc_interface, dom: u32, num: c_uint, arr: *mut xen_pfn_t) -> c_int;
}

#[link(name = "xenguest")]
unsafe extern "C" {
    /// Lets a suspended domain run; `fast` is non-zero where the guest is to find that its suspend was cancelled.
    pub(super) fn xc_domain_resume(xch: *mut xc_interface, domid: u32, fast: c_int) -> c_int;

    /// Writes the two reserved grants of a new domain.
    pub(super) fn xc_dom_gnttab_seed(
        xch: *mut xc_interface,
        guest_domid: u32,
        is_hvm: bool,
        console_gfn: xen_pfn_t,
        xenstore_gfn: xen_pfn_t,
        console_domid: u32,
        xenstore_domid: u32,
    ) -> c_int;

    /// The most leaves and MSRs that a policy of this host's Xen can have.
    pub(super) fn xc_cpu_policy_get_size(xch: *mut xc_interface, nr_leaves: *mut u32, nr_msrs: *mut u32) -> c_int;

    /// An empty policy, or null. To be destroyed.
    pub(super) fn xc_cpu_policy_init() -> *mut CpuPolicyHandle;

    /// Frees a policy.
    pub(super) fn xc_cpu_policy_destroy(policy: *mut CpuPolicyHandle);

    /// Fills a policy with a domain's.
    pub(super) fn xc_cpu_policy_get_domain(xch: *mut xc_interface, domid: u32, policy: *mut CpuPolicyHandle) -> c_int;

    /// Writes a policy as leaves and MSRs. The numbers say how many fit, and then how many there are.
    pub(super) fn xc_cpu_policy_serialise(
        xch: *mut xc_interface,
        policy: *const CpuPolicyHandle,
        leaves: *mut xen_cpuid_leaf_t,
        nr_leaves: *mut u32,
        msrs: *mut xen_msr_entry_t,
        nr_msrs: *mut u32,
    ) -> c_int;

    /// Sets a domain's policy. On failure the last three name what is not taken, or are `u32::MAX`.
    pub(super) fn xc_set_domain_cpu_policy(
        xch: *mut xc_interface,
        domid: u32,
        nr_leaves: u32,
        leaves: *mut xen_cpuid_leaf_t,
        nr_msrs: u32,
        msrs: *mut xen_msr_entry_t,
        err_leaf: *mut u32,
        err_subleaf: *mut u32,
        err_msr: *mut u32,
    ) -> c_int;
}
