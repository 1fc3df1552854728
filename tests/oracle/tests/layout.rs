//! Numbers, sizes and offsets of this project's hypercalls against the headers of one release of Xen.

#![allow(clippy::unnecessary_cast)]

// The same file that the program is built from.
#[path = "../../../src/hypervisor/xen/hypercall/abi.rs"]
#[allow(dead_code)]
mod abi;

use abi::Op;
use std::mem::offset_of;
use xen_oracle::c;

/// Names and values of constants of C's.
macro_rules! constants {
    ($($name:ident)*) => { &[$((stringify!($name), c::$name as u64)),*] };
}

const DOMCTLS: &[(&str, u64)] = constants! {
    XEN_DOMCTL_pausedomain XEN_DOMCTL_unpausedomain XEN_DOMCTL_getdomaininfo XEN_DOMCTL_shadow_op XEN_DOMCTL_setvcpucontext
    XEN_DOMCTL_getvcpucontext XEN_DOMCTL_getvcpuinfo XEN_DOMCTL_resumedomain XEN_DOMCTL_subscribe XEN_DOMCTL_gethvmcontext
    XEN_DOMCTL_sethvmcontext XEN_DOMCTL_set_address_size XEN_DOMCTL_get_address_size XEN_DOMCTL_set_ext_vcpucontext
    XEN_DOMCTL_get_ext_vcpucontext XEN_DOMCTL_gettscinfo XEN_DOMCTL_settscinfo XEN_DOMCTL_getpageframeinfo3
    XEN_DOMCTL_setvcpuextstate XEN_DOMCTL_getvcpuextstate XEN_DOMCTL_get_vcpu_msrs XEN_DOMCTL_set_vcpu_msrs
    XEN_DOMCTL_get_cpu_policy XEN_DOMCTL_set_cpu_policy
};
const XENMEMS: &[(&str, u64)] = constants! {
    XENMEM_maximum_ram_page XENMEM_machphys_mfn_list XENMEM_populate_physmap XENMEM_maximum_gpfn XENMEM_machphys_compat_mfn_list
};
const HVMOPS: &[(&str, u64)] = constants! { HVMOP_set_param HVMOP_get_param };
const SCHEDOPS: &[(&str, u64)] = constants! { SCHEDOP_remote_shutdown };
const XENVERS: &[(&str, u64)] = constants! { XENVER_version, XENVER_extraversion };
const MMUEXTS: &[(&str, u64)] = constants! { MMUEXT_PIN_L1_TABLE };

#[test]
fn every_operation_has_xens_number() {
    let tables: [(&[Op], &[(&str, u64)]); 6] = [
        (abi::domctl::ALL, DOMCTLS),
        (abi::xenmem::ALL, XENMEMS),
        (abi::hvmop::ALL, HVMOPS),
        (abi::schedop::ALL, SCHEDOPS),
        (abi::xenver::ALL, XENVERS),
        (abi::mmuext::ALL, MMUEXTS),
    ];
    for (ours, theirs) in tables {
        assert_eq!(ours.len(), theirs.len());
        for op in ours {
            let found = theirs.iter().find(|(name, _)| *name == op.name);
            assert_eq!(found, Some(&(op.name, u64::from(op.number))));
        }
    }
}

#[test]
fn every_other_number_is_xens() {
    let of = |high: c::oracle_high| (high as u64) << abi::pfinfo::SHIFT;
    let pairs: &[(&str, u64, u64)] = &[
        ("memory_op", abi::hypercall::MEMORY_OP.into(), c::__HYPERVISOR_memory_op as u64),
        ("xen_version", abi::hypercall::XEN_VERSION.into(), c::__HYPERVISOR_xen_version as u64),
        ("mmuext_op", abi::hypercall::MMUEXT_OP.into(), c::__HYPERVISOR_mmuext_op as u64),
        ("sched_op", abi::hypercall::SCHED_OP.into(), c::__HYPERVISOR_sched_op as u64),
        ("hvm_op", abi::hypercall::HVM_OP.into(), c::__HYPERVISOR_hvm_op as u64),
        ("domctl", abi::hypercall::DOMCTL.into(), c::__HYPERVISOR_domctl as u64),
        ("resource", abi::xenmem::RESOURCE_GRANT_TABLE.into(), c::XENMEM_resource_grant_table as u64),
        ("table", abi::xenmem::RESOURCE_GRANT_TABLE_SHARED.into(), c::XENMEM_resource_grant_table_id_shared as u64),
        ("OFF", abi::shadow::OFF.into(), c::XEN_DOMCTL_SHADOW_OP_OFF as u64),
        ("ENABLE", abi::shadow::ENABLE_LOG_DIRTY.into(), c::XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY as u64),
        ("CLEAN", abi::shadow::CLEAN.into(), c::XEN_DOMCTL_SHADOW_OP_CLEAN as u64),
        ("PEEK", abi::shadow::PEEK.into(), c::XEN_DOMCTL_SHADOW_OP_PEEK as u64),
        ("FINAL", abi::shadow::FINAL.into(), c::XEN_DOMCTL_SHADOW_LOGDIRTY_FINAL as u64),
        ("dying", abi::dominf::DYING.into(), c::XEN_DOMINF_dying as u64),
        ("hvm_guest", abi::dominf::HVM_GUEST.into(), c::XEN_DOMINF_hvm_guest as u64),
        ("shutdown", abi::dominf::SHUTDOWN.into(), c::XEN_DOMINF_shutdown as u64),
        ("paused", abi::dominf::PAUSED.into(), c::XEN_DOMINF_paused as u64),
        ("running", abi::dominf::RUNNING.into(), c::XEN_DOMINF_running as u64),
        ("hap", abi::dominf::HAP.into(), c::XEN_DOMINF_hap as u64),
        ("shutdownmask", abi::dominf::SHUTDOWN_MASK.into(), c::XEN_DOMINF_shutdownmask as u64),
        ("shutdownshift", abi::dominf::SHUTDOWN_SHIFT.into(), c::XEN_DOMINF_shutdownshift as u64),
        ("poweroff", abi::shutdown::POWEROFF.into(), c::SHUTDOWN_poweroff as u64),
        ("reboot", abi::shutdown::REBOOT.into(), c::SHUTDOWN_reboot as u64),
        ("suspend", abi::shutdown::SUSPEND.into(), c::SHUTDOWN_suspend as u64),
        ("crash", abi::shutdown::CRASH.into(), c::SHUTDOWN_crash as u64),
        ("watchdog", abi::shutdown::WATCHDOG.into(), c::SHUTDOWN_watchdog as u64),
        ("soft_reset", abi::shutdown::SOFT_RESET.into(), c::SHUTDOWN_soft_reset as u64),
        ("PFINFO shift", abi::pfinfo::SHIFT.into(), c::oracle::ORACLE_PFINFO_SHIFT as u64),
        ("L2TAB", abi::pfinfo::L2TAB.into(), c::oracle::ORACLE_PFINFO_L2TAB as u64),
        ("L4TAB", abi::pfinfo::L4TAB.into(), c::oracle::ORACLE_PFINFO_L4TAB as u64),
        ("LPINTAB", abi::pfinfo::LPINTAB.into(), of(c::oracle_high::ORACLE_PFINFO_LPINTAB)),
        ("BROKEN", abi::pfinfo::BROKEN.into(), of(c::oracle_high::ORACLE_PFINFO_BROKEN)),
        ("XTAB", abi::pfinfo::XTAB.into(), of(c::oracle_high::ORACLE_PFINFO_XTAB)),
        ("DOMID_XEN", abi::DOMID_XEN.into(), c::oracle::ORACLE_DOMID_XEN as u64),
        ("reserved", abi::DOMID_FIRST_RESERVED.into(), c::oracle::ORACLE_DOMID_FIRST_RESERVED as u64),
        ("CALLBACK_IRQ", abi::HVM_PARAM_CALLBACK_IRQ.into(), c::HVM_PARAM_CALLBACK_IRQ as u64),
        ("permit_access", abi::GTF_PERMIT_ACCESS.into(), c::GTF_permit_access as u64),
        ("console", abi::GNTTAB_RESERVED_CONSOLE as u64, c::GNTTAB_RESERVED_CONSOLE as u64),
        ("xenstore", abi::GNTTAB_RESERVED_XENSTORE as u64, c::GNTTAB_RESERVED_XENSTORE as u64),
        ("domctl's body", abi::DOMCTL_BODY as u64, c::oracle::ORACLE_DOMCTL_BODY as u64),
        ("eax of 64 bits", abi::eax_offset(true) as u64, c::oracle::ORACLE_EAX_64 as u64),
        ("eax of 32 bits", abi::eax_offset(false) as u64, c::oracle::ORACLE_EAX_32 as u64),
        ("a vCPU of 64 bits", 5168, c::oracle::ORACLE_CONTEXT_64 as u64),
        ("a vCPU of 32 bits", 2800, c::oracle::ORACLE_CONTEXT_32 as u64),
        ("a MSR", 16, c::oracle::ORACLE_MSR as u64),
        ("NOTAB", abi::pfinfo::NOTAB.into(), 0),
    ];
    for (what, ours, theirs) in pairs {
        assert_eq!(ours, theirs, "{what}");
    }
}

/// A field of C's: name here, offset, size.
type Field = (&'static str, usize, usize);

const fn size_of_field<S, F>(_: fn(&S) -> &F) -> usize {
    size_of::<F>()
}

/// Fields of a structure of C's, by the names that ours have; `ours: path` where C has another name.
macro_rules! fields {
    ($type:ty { $($name:ident $(: $($path:ident).+)?),* $(,)? }) => {
        &[$(fields!(@one $type, $name $(, $($path).+)?)),*]
    };
    (@one $type:ty, $name:ident) => {
        (stringify!($name), offset_of!($type, $name), size_of_field::<$type, _>(|of| &of.$name))
    };
    (@one $type:ty, $name:ident, $($path:ident).+) => {
        (stringify!($name), offset_of!($type, $($path).+), size_of_field::<$type, _>(|of| &of.$($path).+))
    };
}

/// Our fields that have no name in C, or are not read.
const PADDING: [&str; 5] = ["pad", "pad1", "pad2", "rest", "u"];

fn hold(name: &str, ours: &[Field], size: usize, theirs: &[Field], their_size: usize) -> usize {
    assert_eq!(size, their_size, "size of {name}");
    let mut held = 0;
    for field in ours.iter().filter(|(field, ..)| !PADDING.contains(field)) {
        assert!(theirs.contains(field), "{name}: ours {field:?}, theirs {theirs:?}");
        held += 1;
    }
    assert_eq!(held, theirs.len(), "{name}: a field is missing");
    held
}

macro_rules! structures {
    ($($ours:ident = $theirs:ident {$($fields:tt)*})*) => {
        0 $(+ hold(
            stringify!($ours),
            abi::$ours::FIELDS,
            size_of::<abi::$ours>(),
            fields!(c::$theirs {$($fields)*}),
            size_of::<c::$theirs>(),
        ))*
    };
}

#[test]
fn every_field_is_where_xen_has_it() {
    let held = structures! {
        Domctl = xen_domctl { cmd, interface_version, domain }
        ShadowOp = xen_domctl_shadow_op {
            op, mode, mb, dirty_bitmap, pages, fault_count: stats.fault_count, dirty_count: stats.dirty_count
        }
        VcpuContext = xen_domctl_vcpucontext { vcpu, ctxt }
        VcpuInfo = xen_domctl_getvcpuinfo { vcpu, online, blocked, running, cpu_time, cpu }
        HvmContext = xen_domctl_hvmcontext { size, buffer }
        TscInfo = xen_domctl_tsc_info { tsc_mode, gtsc_khz, incarnation, elapsed_nsec }
        PageFrameInfo3 = xen_domctl_getpageframeinfo3 { num, array }
        VcpuExtState = xen_domctl_vcpuextstate { vcpu, xfeature_mask, size, buffer }
        VcpuMsrs = xen_domctl_vcpu_msrs { vcpu, msr_count, msrs }
        CpuPolicy = xen_domctl_cpu_policy { nr_leaves, nr_msrs, leaves, msrs, err_leaf, err_subleaf, err_msr }
        MemoryReservation = xen_memory_reservation { extent_start, nr_extents, extent_order, mem_flags, domid }
        MachphysMfnList = xen_machphys_mfn_list { max_extents, extent_start, nr_extents }
        MmuextOp = mmuext_op { cmd, arg1, arg2 }
        HvmParam = xen_hvm_param { domid, index, value }
        RemoteShutdown = sched_remote_shutdown { domain_id, reason }
        GrantEntry = grant_entry_v1 { flags, domid, frame }
        CpuidLeaf = xen_cpuid_leaf { leaf, subleaf, a, b, c, d }
        MsrEntry = xen_msr_entry { idx, flags, val }
    };
    println!("{held} fields of 18 structures");
    // The last one, whose end differs from version to version; what is used of it does not.
    type Info = c::xen_domctl_getdomaininfo;
    let theirs: &[Field] = fields!(c::xen_domctl_getdomaininfo {
        domain,
        flags,
        tot_pages,
        max_pages,
        outstanding_pages,
        shr_pages,
        paged_pages,
        shared_info_frame,
        cpu_time,
        nr_online_vcpus,
        max_vcpu_id,
        ssidref,
        handle,
        cpupool,
    });
    let expected = if c::oracle::ORACLE_DOMCTL_VERSION as u64 >= 0x14 { 112 } else { 104 };
    assert_eq!(size_of::<Info>(), expected);
    hold("DomainInfo", abi::DomainInfo::FIELDS, expected, theirs, expected);
    assert_eq!(offset_of!(c::xen_domctl, u), offset_of!(abi::Domctl, u));
}

/// So that nobody takes one release's headers for another's: `run` says which they are to be.
#[test]
fn the_headers_are_those_that_were_asked_for() {
    let version = c::oracle::ORACLE_DOMCTL_VERSION as u64;
    let expected = match std::env::var("XEN_ORACLE_RELEASE").as_deref() {
        Ok("4.14") => 0x12,
        Ok("4.17") => 0x15,
        Ok("4.20") => 0x17,
        other => panic!("XEN_ORACLE_RELEASE is {other:?}: see tests/oracle/run"),
    };
    assert_eq!(version, expected, "domctl version");
}
