//! Numbers and structures of Xen 4.17's public headers, x86-64: `xen.h`, `domctl.h`, `sysctl.h`, `memory.h`, `version.h`,
//! `hvm/hvm_op.h`, `grant_table.h`.

use crate::caller::Plain;

/// Hypercall numbers (`__HYPERVISOR_*`).
pub mod hypercall {
    /// `memory_op`
    pub const MEMORY_OP: u32 = 12;
    /// `multicall`
    pub const MULTICALL: u32 = 13;
    /// `xen_version`
    pub const XEN_VERSION: u32 = 17;
    /// `mmuext_op`
    pub const MMUEXT_OP: u32 = 26;
    /// `hvm_op`
    pub const HVM_OP: u32 = 34;
    /// `sysctl`
    pub const SYSCTL: u32 = 35;
    /// `domctl`
    pub const DOMCTL: u32 = 36;
}

/// Domctl commands (`XEN_DOMCTL_*`).
pub mod domctl {
    pub const PAUSE: u32 = 3;
    pub const UNPAUSE: u32 = 4;
    pub const GET_DOMAIN_INFO: u32 = 5;
    pub const SHADOW_OP: u32 = 10;
    pub const MAX_MEM: u32 = 11;
    pub const SET_VCPU_CONTEXT: u32 = 12;
    pub const GET_VCPU_CONTEXT: u32 = 13;
    pub const GET_VCPU_INFO: u32 = 14;
    pub const RESUME: u32 = 27;
    pub const GET_HVM_CONTEXT: u32 = 33;
    pub const SET_HVM_CONTEXT: u32 = 34;
    pub const SET_ADDRESS_SIZE: u32 = 35;
    pub const GET_ADDRESS_SIZE: u32 = 36;
    pub const SET_EXT_VCPU_CONTEXT: u32 = 42;
    pub const GET_EXT_VCPU_CONTEXT: u32 = 43;
    pub const GET_HVM_CONTEXT_PARTIAL: u32 = 55;
    pub const GET_TSC_INFO: u32 = 59;
    pub const SET_TSC_INFO: u32 = 60;
    pub const GET_PAGE_FRAME_INFO_3: u32 = 61;
    pub const SET_VCPU_EXT_STATE: u32 = 62;
    pub const GET_VCPU_EXT_STATE: u32 = 63;
    pub const CACHE_FLUSH: u32 = 71;
    pub const GET_VCPU_MSRS: u32 = 72;
    pub const SET_VCPU_MSRS: u32 = 73;
    pub const GET_CPU_POLICY: u32 = 82;
    pub const SET_CPU_POLICY: u32 = 83;

    /// Where the command's own part begins in `struct xen_domctl`.
    pub const BODY: u64 = 16;
}

/// Shadow operations (`XEN_DOMCTL_SHADOW_OP_*`).
pub mod shadow {
    pub const OFF: u32 = 0;
    pub const ENABLE_LOG_DIRTY: u32 = 2;
    pub const CLEAN: u32 = 11;
    pub const PEEK: u32 = 12;
    /// The last reading of the log, mode of clean and peek.
    pub const FINAL: u32 = 1;
}

/// Flags of a domain (`XEN_DOMINF_*`).
pub mod dominf {
    pub const HVM: u32 = 1 << 1;
    pub const SHUTDOWN: u32 = 1 << 2;
    pub const PAUSED: u32 = 1 << 3;
    pub const RUNNING: u32 = 1 << 5;
    pub const HAP: u32 = 1 << 8;
    pub const SHUTDOWN_SHIFT: u32 = 16;
}

/// Memory operations (`XENMEM_*`).
pub mod xenmem {
    pub const MAXIMUM_RAM_PAGE: u64 = 2;
    pub const CURRENT_RESERVATION: u64 = 3;
    pub const MACHPHYS_MFN_LIST: u64 = 5;
    pub const MAXIMUM_RESERVATION: u64 = 4;
    pub const POPULATE_PHYSMAP: u64 = 6;
    pub const MAXIMUM_GPFN: u64 = 14;
    pub const CLAIM_PAGES: u64 = 24;
    pub const MACHPHYS_COMPAT_MFN_LIST: u64 = 25;
    /// Kind of resource that can be mapped: the grant table.
    pub const RESOURCE_GRANT_TABLE: u32 = 1;
}

/// Operations on page tables (`MMUEXT_*`).
pub mod mmuext {
    pub const PIN_L1_TABLE: u32 = 0;
    pub const PIN_L4_TABLE: u32 = 3;
}

/// The owner of Xen's own frames (`DOMID_XEN`).
pub const DOMID_XEN: u32 = 0x7ff2;

/// How far a type of a page is shifted in a getpageframeinfo3 (`XEN_DOMCTL_PFINFO_LTAB_SHIFT`).
pub const PAGE_TYPE_SHIFT: u32 = 28;

/// `struct xen_domctl` up to the command's own part.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Domctl {
    pub cmd: u32,
    pub interface_version: u32,
    pub domain: u16,
    pub pad: [u16; 3],
}

/// `struct xen_domctl_getdomaininfo`
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct DomainInfo {
    pub domain: u16,
    pub pad1: u16,
    pub flags: u32,
    pub tot_pages: u64,
    pub max_pages: u64,
    pub outstanding_pages: u64,
    pub shr_pages: u64,
    pub paged_pages: u64,
    pub shared_info_frame: u64,
    pub cpu_time: u64,
    pub nr_online_vcpus: u32,
    pub max_vcpu_id: u32,
    pub ssidref: u32,
    pub handle: [u8; 16],
    pub cpupool: u32,
    pub gpaddr_bits: u8,
    pub pad2: [u8; 7],
    pub emulation_flags: u32,
    pub misc_flags: u32,
}

/// `struct xen_domctl_shadow_op`
#[derive(Clone, Copy)]
#[repr(C)]
pub struct ShadowOp {
    pub op: u32,
    pub mode: u32,
    pub mb: u32,
    pub pad: u32,
    pub dirty_bitmap: u64,
    pub pages: u64,
    pub fault_count: u32,
    pub dirty_count: u32,
}

/// `struct xen_domctl_getpageframeinfo3`
#[derive(Clone, Copy)]
#[repr(C)]
pub struct PageFrameInfo3 {
    pub num: u64,
    pub array: u64,
}

/// `struct xen_domctl_hvmcontext`
#[derive(Clone, Copy)]
#[repr(C)]
pub struct HvmContext {
    pub size: u32,
    pub pad: u32,
    pub buffer: u64,
}

/// `struct xen_domctl_hvmcontext_partial`
#[derive(Clone, Copy)]
#[repr(C)]
pub struct HvmContextPartial {
    pub typecode: u32,
    pub instance: u32,
    pub bufsz: u64,
    pub buffer: u64,
}

/// `struct xen_domctl_vcpucontext`
#[derive(Clone, Copy)]
#[repr(C)]
pub struct VcpuContext {
    pub vcpu: u32,
    pub pad: u32,
    pub context: u64,
}

/// `struct xen_domctl_getvcpuinfo`
#[derive(Clone, Copy)]
#[repr(C)]
pub struct VcpuInfo {
    pub vcpu: u32,
    pub online: u8,
    pub blocked: u8,
    pub running: u8,
    pub pad: u8,
    pub cpu_time: u64,
    pub cpu: u32,
    pub pad2: u32,
}

/// The first fields of `struct xen_domctl_ext_vcpucontext`; the rest belongs to the vCPU.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct ExtVcpuContext {
    pub vcpu: u32,
    pub size: u32,
}

/// `struct xen_domctl_vcpuextstate`
#[derive(Clone, Copy)]
#[repr(C)]
pub struct VcpuExtState {
    pub vcpu: u32,
    pub pad: u32,
    pub xfeature_mask: u64,
    pub size: u64,
    pub buffer: u64,
}

/// `struct xen_domctl_vcpu_msrs`
#[derive(Clone, Copy)]
#[repr(C)]
pub struct VcpuMsrs {
    pub vcpu: u32,
    pub msr_count: u32,
    pub msrs: u64,
}

/// `struct xen_domctl_tsc_info`
#[derive(Clone, Copy)]
#[repr(C)]
pub struct TscInfo {
    pub tsc_mode: u32,
    pub gtsc_khz: u32,
    pub incarnation: u32,
    pub pad: u32,
    pub elapsed_nsec: u64,
}

/// `struct xen_domctl_cpu_policy`
#[derive(Clone, Copy)]
#[repr(C)]
pub struct CpuPolicy {
    pub nr_leaves: u32,
    pub nr_msrs: u32,
    pub leaves: u64,
    pub msrs: u64,
    pub err_leaf: u32,
    pub err_subleaf: u32,
    pub err_msr: u32,
    pub pad: u32,
}

/// `struct xen_sysctl` with the part of `XEN_SYSCTL_get_cpu_policy`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct SysctlCpuPolicy {
    pub cmd: u32,
    pub interface_version: u32,
    pub index: u32,
    pub nr_leaves: u32,
    pub nr_msrs: u32,
    pub reserved: u32,
    pub leaves: u64,
    pub msrs: u64,
}

/// `struct xen_sysctl` with the part of `XEN_SYSCTL_getdomaininfolist`.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct SysctlDomainInfoList {
    pub cmd: u32,
    pub interface_version: u32,
    pub first_domain: u16,
    pub pad: u16,
    pub max_domains: u32,
    pub buffer: u64,
    pub num_domains: u32,
    pub pad2: u32,
}

/// `struct xen_memory_reservation`
#[derive(Clone, Copy)]
#[repr(C)]
pub struct MemoryReservation {
    pub extent_start: u64,
    pub nr_extents: u64,
    pub extent_order: u32,
    pub mem_flags: u32,
    pub domid: u16,
    pub pad: [u16; 3],
}

/// `struct xen_machphys_mfn_list`
#[derive(Clone, Copy)]
#[repr(C)]
pub struct MachphysMfnList {
    pub max_extents: u32,
    pub pad: u32,
    pub extent_start: u64,
    pub nr_extents: u32,
    pub pad2: u32,
}

/// `struct mmuext_op`
#[derive(Clone, Copy)]
#[repr(C)]
pub struct MmuextOp {
    pub cmd: u32,
    pub pad: u32,
    pub arg1: u64,
    pub arg2: u64,
}

/// `struct xen_hvm_param`
#[derive(Clone, Copy)]
#[repr(C)]
pub struct HvmParam {
    pub domid: u16,
    pub pad: u16,
    pub index: u32,
    pub value: u64,
}

/// `struct multicall_entry`
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Multicall {
    pub op: u64,
    pub result: u64,
    pub args: [u64; 6],
}

/// `struct grant_entry_v1`
#[derive(Clone, Copy)]
#[repr(C)]
pub struct GrantEntry {
    pub flags: u16,
    pub domid: u16,
    pub frame: u32,
}

/// Structures that are `Plain`, with their sizes by the headers.
macro_rules! plain {
    ($($structure:ident: $size:literal),* $(,)?) => {$(
        // SAFETY: integers and arrays of them, laid out by C's rules; addresses are integers here.
        unsafe impl Plain for $structure {}
        const _: () = assert!(size_of::<$structure>() == $size);
    )*};
}

plain! {
    Domctl: 16, DomainInfo: 112, ShadowOp: 40, PageFrameInfo3: 16, HvmContext: 16, HvmContextPartial: 24, TscInfo: 24,
    VcpuContext: 16, VcpuInfo: 24, ExtVcpuContext: 8, VcpuExtState: 32, VcpuMsrs: 16, MachphysMfnList: 24, MmuextOp: 24,
    CpuPolicy: 40, SysctlCpuPolicy: 40, SysctlDomainInfoList: 32, MemoryReservation: 32, HvmParam: 16, Multicall: 64, GrantEntry: 8,
}
