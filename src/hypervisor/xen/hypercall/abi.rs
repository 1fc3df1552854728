//! Numbers and structures of Xen's public headers, x86-64, for exactly the operations in use: `xen.h`, `domctl.h`, `sysctl.h`, `memory.h`,
//! `sched.h`, `version.h`, `hvm/hvm_op.h`, `grant_table.h`.
//!
//! They are the same from Xen 4.14 to 4.22, but for the end of [`DomainInfo`] and [`total_pages_word`]. Sizes, and that there are no gaps, are asserted when this is
//! compiled. A guest handle is an address of 64 bits.
#![allow(unsafe_code)]

/// A structure of Xen's interface that can be copied byte by byte.
///
/// # Safety
/// Integers and arrays of them without gaps between: every pattern of bits is a value, and every byte is initialised.
pub unsafe trait Plain: Copy + 'static {}

// SAFETY: integers.
unsafe impl Plain for u8 {}
// SAFETY: integers.
unsafe impl Plain for u32 {}
// SAFETY: integers.
unsafe impl Plain for u64 {}
// SAFETY: integers.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}

/// Hypercall numbers (`__HYPERVISOR_*`).
pub mod hypercall {
    /// `__HYPERVISOR_memory_op`
    pub const MEMORY_OP: u32 = 12;
    /// `__HYPERVISOR_xen_version`
    pub const XEN_VERSION: u32 = 17;
    /// `__HYPERVISOR_mmuext_op`
    pub const MMUEXT_OP: u32 = 26;
    /// `__HYPERVISOR_sched_op`
    pub const SCHED_OP: u32 = 29;
    /// `__HYPERVISOR_hvm_op`
    pub const HVM_OP: u32 = 34;
    /// `__HYPERVISOR_sysctl`
    pub const SYSCTL: u32 = 35;
    /// `__HYPERVISOR_domctl`
    pub const DOMCTL: u32 = 36;
}

/// An operation: its number, and the name that messages have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Op {
    /// Its number in Xen's headers.
    pub number: u32,
    /// Its name there.
    pub name: &'static str,
}

/// Operations with the names of Xen's headers.
macro_rules! ops {
    ($prefix:literal: $($(#[$doc:meta])* $constant:ident = $number:literal $name:literal;)*) => {$(
        #[doc = concat!("`", $prefix, $name, "`")]
        $(#[$doc])*
        pub const $constant: super::Op = super::Op { number: $number, name: concat!($prefix, $name) };
    )*
        /// All of them.
        pub const ALL: &[super::Op] = &[$($constant),*];
    };
}

/// Domctl commands.
pub mod domctl {
    ops! { "XEN_DOMCTL_":
        PAUSE = 3 "pausedomain";
        UNPAUSE = 4 "unpausedomain";
        GET_DOMAIN_INFO = 5 "getdomaininfo";
        SHADOW_OP = 10 "shadow_op";
        SET_VCPU_CONTEXT = 12 "setvcpucontext";
        GET_VCPU_CONTEXT = 13 "getvcpucontext";
        GET_VCPU_INFO = 14 "getvcpuinfo";
        RESUME = 27 "resumedomain";
        SUBSCRIBE = 29 "subscribe";
        GET_HVM_CONTEXT = 33 "gethvmcontext";
        SET_HVM_CONTEXT = 34 "sethvmcontext";
        SET_ADDRESS_SIZE = 35 "set_address_size";
        GET_ADDRESS_SIZE = 36 "get_address_size";
        SET_EXT_VCPU_CONTEXT = 42 "set_ext_vcpucontext";
        GET_EXT_VCPU_CONTEXT = 43 "get_ext_vcpucontext";
        GET_TSC_INFO = 59 "gettscinfo";
        SET_TSC_INFO = 60 "settscinfo";
        GET_PAGE_FRAME_INFO = 61 "getpageframeinfo3";
        SET_VCPU_EXT_STATE = 62 "setvcpuextstate";
        GET_VCPU_EXT_STATE = 63 "getvcpuextstate";
        GET_VCPU_MSRS = 72 "get_vcpu_msrs";
        SET_VCPU_MSRS = 73 "set_vcpu_msrs";
        GET_CPU_POLICY = 82 "get_cpu_policy";
        SET_CPU_POLICY = 83 "set_cpu_policy";
    }
}

/// Sysctl commands: questions about the host.
pub mod sysctl {
    ops! { "XEN_SYSCTL_":
        PHYSINFO = 3 "physinfo";
        GET_CPU_POLICY = 29 "get_cpu_policy";
    }
}

/// CPU policies of the host (`XEN_SYSCTL_cpu_policy_*`).
pub mod cpu_policy {
    /// `XEN_SYSCTL_cpu_policy_host`
    pub const HOST: u32 = 1;
    /// `XEN_SYSCTL_cpu_policy_pv_max`
    pub const PV_MAX: u32 = 2;
    /// `XEN_SYSCTL_cpu_policy_hvm_max`
    pub const HVM_MAX: u32 = 3;
    /// `XEN_SYSCTL_cpu_policy_pv_default`
    pub const PV_DEFAULT: u32 = 4;
    /// `XEN_SYSCTL_cpu_policy_hvm_default`
    pub const HVM_DEFAULT: u32 = 5;
}

/// Memory operations.
pub mod xenmem {
    ops! { "XENMEM_":
        MAXIMUM_RAM_PAGE = 2 "maximum_ram_page";
        MACHPHYS_MFN_LIST = 5 "machphys_mfn_list";
        POPULATE_PHYSMAP = 6 "populate_physmap";
        MAXIMUM_GPFN = 14 "maximum_gpfn";
        MACHPHYS_COMPAT_MFN_LIST = 25 "machphys_compat_mfn_list";
    }
    /// `XENMEM_resource_grant_table`: the kind of resource.
    pub const RESOURCE_GRANT_TABLE: u32 = 1;
    /// `XENMEM_resource_grant_table_id_shared`: the table of entries.
    pub const RESOURCE_GRANT_TABLE_SHARED: u32 = 0;
}

/// Operations on HVM domains.
pub mod hvmop {
    ops! { "HVMOP_":
        SET_PARAM = 0 "set_param";
        GET_PARAM = 1 "get_param";
    }
}

/// Scheduler operations.
pub mod schedop {
    ops! { "SCHEDOP_":
        REMOTE_SHUTDOWN = 4 "remote_shutdown";
    }
}

/// Questions about the hypervisor.
pub mod xenver {
    ops! { "XENVER_":
        /// Major in the high half, minor in the low one.
        VERSION = 0 "version";
        /// What the builder has added: text, ended by a zero, in [`EXTRA_LENGTH`](super::EXTRA_LENGTH) bytes.
        EXTRA_VERSION = 1 "extraversion";
    }
}

/// Bytes of `xen_extraversion_t`.
pub const EXTRA_LENGTH: usize = 16;

/// Operations on page tables.
pub mod mmuext {
    ops! { "MMUEXT_":
        /// The tables of higher levels follow in order.
        PIN_L1_TABLE = 0 "PIN_L1_TABLE";
    }
}

/// Shadow operations (`XEN_DOMCTL_SHADOW_OP_*`).
pub mod shadow {
    /// `XEN_DOMCTL_SHADOW_OP_OFF`
    pub const OFF: u32 = 0;
    /// `XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY`
    pub const ENABLE_LOG_DIRTY: u32 = 2;
    /// `XEN_DOMCTL_SHADOW_OP_CLEAN`
    pub const CLEAN: u32 = 11;
    /// `XEN_DOMCTL_SHADOW_OP_PEEK`
    pub const PEEK: u32 = 12;
    /// `XEN_DOMCTL_SHADOW_LOGDIRTY_FINAL`, a mode of the two before.
    pub const FINAL: u32 = 1;
}

/// Flags of a domain (`XEN_DOMINF_*`).
pub mod dominf {
    /// `XEN_DOMINF_dying`
    pub const DYING: u32 = 1 << 0;
    /// `XEN_DOMINF_hvm_guest`
    pub const HVM_GUEST: u32 = 1 << 1;
    /// `XEN_DOMINF_shutdown`
    pub const SHUTDOWN: u32 = 1 << 2;
    /// `XEN_DOMINF_paused`
    pub const PAUSED: u32 = 1 << 3;
    /// `XEN_DOMINF_running`
    pub const RUNNING: u32 = 1 << 5;
    /// `XEN_DOMINF_hap`
    pub const HAP: u32 = 1 << 8;
    /// `XEN_DOMINF_shutdownmask`, of the reason once it is shifted.
    pub const SHUTDOWN_MASK: u32 = 255;
    /// `XEN_DOMINF_shutdownshift`
    pub const SHUTDOWN_SHIFT: u32 = 16;
}

/// Reasons of a shutdown (`SHUTDOWN_*`).
pub mod shutdown {
    /// `SHUTDOWN_poweroff`
    pub const POWEROFF: u32 = 0;
    /// `SHUTDOWN_reboot`
    pub const REBOOT: u32 = 1;
    /// `SHUTDOWN_suspend`
    pub const SUSPEND: u32 = 2;
    /// `SHUTDOWN_crash`
    pub const CRASH: u32 = 3;
    /// `SHUTDOWN_watchdog`
    pub const WATCHDOG: u32 = 4;
    /// `SHUTDOWN_soft_reset`
    pub const SOFT_RESET: u32 = 5;
}

/// Types of a page in a [`PageFrameInfo3`] (`XEN_DOMCTL_PFINFO_*`).
pub mod pfinfo {
    /// `XEN_DOMCTL_PFINFO_LTAB_SHIFT`
    pub const SHIFT: u32 = 28;
    /// `XEN_DOMCTL_PFINFO_NOTAB`
    pub const NOTAB: u32 = 0;
    /// `XEN_DOMCTL_PFINFO_L2TAB`
    pub const L2TAB: u32 = 2 << 28;
    /// `XEN_DOMCTL_PFINFO_L4TAB`
    pub const L4TAB: u32 = 4 << 28;
    /// `XEN_DOMCTL_PFINFO_LPINTAB`
    pub const LPINTAB: u32 = 8 << 28;
    /// `XEN_DOMCTL_PFINFO_BROKEN`
    pub const BROKEN: u32 = 13 << 28;
    /// `XEN_DOMCTL_PFINFO_XTAB`
    pub const XTAB: u32 = 15 << 28;
}

/// `DOMID_XEN`: the owner of Xen's own frames.
pub const DOMID_XEN: u32 = 0x7ff2;
/// `DOMID_FIRST_RESERVED`: numbers from here on are no domain's.
pub const DOMID_FIRST_RESERVED: u32 = 0x7ff0;
/// `HVM_PARAM_CALLBACK_IRQ`: set by PV drivers alone.
pub const HVM_PARAM_CALLBACK_IRQ: u32 = 0;
/// `GTF_permit_access`
pub const GTF_PERMIT_ACCESS: u16 = 1;
/// `GNTTAB_RESERVED_CONSOLE`
pub const GNTTAB_RESERVED_CONSOLE: usize = 0;
/// `GNTTAB_RESERVED_XENSTORE`
pub const GNTTAB_RESERVED_XENSTORE: usize = 1;
/// Bytes that a domctl has for its command's own part.
pub const DOMCTL_BODY: usize = 128;
/// Bytes that a sysctl has for its command's own part.
pub const SYSCTL_BODY: usize = 128;

/// Where `total_pages` stands in `struct xen_sysctl_physinfo`, in words of 64 bits; `free_pages` follows. Since version 0x15 of the
/// interface (Xen 4.17) `arch_capabilities` is before them.
pub const fn total_pages_word(sysctl_version: u32) -> usize {
    if sysctl_version >= 0x15 { 5 } else { 4 }
}

/// Structures as C lays them out, with their sizes, and the names that C has for them and their fields.
macro_rules! structures {
    ($($(#[$doc:meta])* $name:ident = $c:literal, $size:literal {$(
        $(#[$field_doc:meta])* $field:ident: $type:ty,
    )*})*) => {$(
        #[doc = concat!("`", $c, "`")]
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(C)]
        pub struct $name {$(
            #[doc = concat!("`", stringify!($field), "`")]
            $(#[$field_doc])*
            pub $field: $type,
        )*}

        // SAFETY: integers and arrays of them, laid out by C's rules; the sum of their sizes is the structure's, so that there is no gap.
        unsafe impl Plain for $name {}
        const _: () = assert!(size_of::<$name>() == $size && 0 $(+ size_of::<$type>())* == $size);

        impl $name {
            /// Each field's name, offset and size.
            pub const FIELDS: &'static [(&'static str, usize, usize)] =
                &[$((stringify!($field), std::mem::offset_of!($name, $field), size_of::<$type>())),*];
        }

        impl Default for $name {
            fn default() -> Self {
                $name { $($field: <$type>::default(),)* }
            }
        }
    )*};
}

structures! {
    /// All of it: the command's own part is the last field.
    Domctl = "struct xen_domctl", 144 {
        cmd: u32,
        interface_version: u32,
        domain: u16,
        pad: [u16; 3],
        u: [u64; 16],
    }

    /// All of it: the command's own part is the last field.
    Sysctl = "struct xen_sysctl", 136 {
        cmd: u32,
        interface_version: u32,
        u: [u64; 16],
    }

    SysctlCpuPolicy = "struct xen_sysctl_cpu_policy", 32 {
        index: u32,
        nr_leaves: u32,
        nr_msrs: u32,
        pad: u32,
        leaves: u64,
        msrs: u64,
    }

    /// As Xen 4.16 and later have it; up to 4.15 it ends after 104 bytes.
    DomainInfo = "struct xen_domctl_getdomaininfo", 112 {
        domain: u16,
        pad1: u16,
        flags: u32,
        tot_pages: u64,
        max_pages: u64,
        outstanding_pages: u64,
        shr_pages: u64,
        paged_pages: u64,
        shared_info_frame: u64,
        cpu_time: u64,
        nr_online_vcpus: u32,
        max_vcpu_id: u32,
        ssidref: u32,
        handle: [u8; 16],
        cpupool: u32,
        /// The rest differs from version to version, and is not read.
        rest: [u32; 4],
    }

    ShadowOp = "struct xen_domctl_shadow_op", 40 {
        op: u32,
        mode: u32,
        mb: u32,
        pad: u32,
        dirty_bitmap: u64,
        pages: u64,
        fault_count: u32,
        dirty_count: u32,
    }

    VcpuContext = "struct xen_domctl_vcpucontext", 16 {
        vcpu: u32,
        pad: u32,
        ctxt: u64,
    }

    VcpuInfo = "struct xen_domctl_getvcpuinfo", 24 {
        vcpu: u32,
        online: u8,
        blocked: u8,
        running: u8,
        pad: u8,
        cpu_time: u64,
        cpu: u32,
        pad2: u32,
    }

    HvmContext = "struct xen_domctl_hvmcontext", 16 {
        size: u32,
        pad: u32,
        buffer: u64,
    }

    TscInfo = "struct xen_domctl_tsc_info", 24 {
        tsc_mode: u32,
        gtsc_khz: u32,
        incarnation: u32,
        pad: u32,
        elapsed_nsec: u64,
    }

    PageFrameInfo3 = "struct xen_domctl_getpageframeinfo3", 16 {
        num: u64,
        array: u64,
    }

    VcpuExtState = "struct xen_domctl_vcpuextstate", 32 {
        vcpu: u32,
        pad: u32,
        xfeature_mask: u64,
        size: u64,
        buffer: u64,
    }

    VcpuMsrs = "struct xen_domctl_vcpu_msrs", 16 {
        vcpu: u32,
        msr_count: u32,
        msrs: u64,
    }

    CpuPolicy = "struct xen_domctl_cpu_policy", 40 {
        nr_leaves: u32,
        nr_msrs: u32,
        leaves: u64,
        msrs: u64,
        err_leaf: u32,
        err_subleaf: u32,
        err_msr: u32,
        pad: u32,
    }

    MemoryReservation = "struct xen_memory_reservation", 32 {
        extent_start: u64,
        nr_extents: u64,
        extent_order: u32,
        mem_flags: u32,
        domid: u16,
        pad: [u16; 3],
    }

    MachphysMfnList = "struct xen_machphys_mfn_list", 24 {
        max_extents: u32,
        pad: u32,
        extent_start: u64,
        nr_extents: u32,
        pad2: u32,
    }

    MmuextOp = "struct mmuext_op", 24 {
        cmd: u32,
        pad: u32,
        arg1: u64,
        arg2: u64,
    }

    HvmParam = "struct xen_hvm_param", 16 {
        domid: u16,
        pad: u16,
        index: u32,
        value: u64,
    }

    RemoteShutdown = "struct sched_remote_shutdown", 8 {
        domain_id: u16,
        pad: u16,
        reason: u32,
    }

    GrantEntry = "struct grant_entry_v1", 8 {
        flags: u16,
        domid: u16,
        frame: u32,
    }

    /// A leaf of a CPU policy.
    CpuidLeaf = "struct xen_cpuid_leaf", 24 {
        leaf: u32,
        subleaf: u32,
        a: u32,
        b: u32,
        c: u32,
        d: u32,
    }

    /// A MSR of a CPU policy.
    MsrEntry = "struct xen_msr_entry", 16 {
        idx: u32,
        flags: u32,
        val: u64,
    }
}

/// Offset of `user_regs.eax` in a vCPU's context (`struct vcpu_guest_context`): behind 512 bytes of FPU state, the flags, and the registers
/// that come before it.
pub const fn eax_offset(is_64: bool) -> usize {
    if is_64 { 520 + 10 * 8 } else { 516 + 6 * 4 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_of_operations_are_unique() {
        for ops in [domctl::ALL, sysctl::ALL, xenmem::ALL, hvmop::ALL, xenver::ALL] {
            for (index, op) in ops.iter().enumerate() {
                assert!(ops.iter().skip(index + 1).all(|other| other.number != op.number && other.name != op.name));
            }
        }
        assert_eq!(domctl::GET_TSC_INFO, Op { number: 59, name: "XEN_DOMCTL_gettscinfo" });
    }

    #[test]
    fn every_bodys_size_fits_into_a_domctl() {
        assert_eq!(std::mem::offset_of!(Domctl, u), 16);
        for size in [size_of::<DomainInfo>(), size_of::<CpuPolicy>(), size_of::<ShadowOp>()] {
            assert!(size <= DOMCTL_BODY);
        }
    }
}
