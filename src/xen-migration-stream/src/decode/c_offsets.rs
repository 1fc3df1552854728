//! Offsets of fields as a C compiler lays out Xen's public headers, for x86-64 and (`_32`) i386,
//! and the check that a decoder has each field at its place.

use serde_json::Value;

/// Sets one byte at each field's offset and checks that the field, and no other, shows it.
pub(crate) fn check(size: usize, fields: &[(&str, usize)], decode: impl Fn(&[u8]) -> Value) {
    let zero = decode(&vec![0; size]);
    for (name, offset) in fields {
        let mut blob = vec![0; size];
        blob[*offset] = 0x40;
        let shown = decode(&blob);
        let changed: Vec<&String> = shown
            .as_object()
            .unwrap()
            .iter()
            .filter(|(key, value)| zero.get(key.as_str()) != Some(value))
            .map(|(key, _)| key)
            .collect();
        assert_eq!(changed, [*name], "byte {offset}");
    }
}

/// `struct hvm_hw_cpu`.
#[rustfmt::skip]
pub(crate) const CPU: &[(&str, usize)] = &[
    ("fpu_regs", 0), ("rax", 512), ("rbx", 520), ("rcx", 528), ("rdx", 536), ("rbp", 544),
    ("rsi", 552), ("rdi", 560), ("rsp", 568), ("r8", 576), ("r9", 584), ("r10", 592),
    ("r11", 600), ("r12", 608), ("r13", 616), ("r14", 624), ("r15", 632), ("rip", 640),
    ("rflags", 648), ("cr0", 656), ("cr2", 664), ("cr3", 672), ("cr4", 680), ("dr0", 688),
    ("dr1", 696), ("dr2", 704), ("dr3", 712), ("dr6", 720), ("dr7", 728), ("cs_sel", 736),
    ("ds_sel", 740), ("es_sel", 744), ("fs_sel", 748), ("gs_sel", 752), ("ss_sel", 756),
    ("tr_sel", 760), ("ldtr_sel", 764), ("cs_limit", 768), ("ds_limit", 772), ("es_limit", 776),
    ("fs_limit", 780), ("gs_limit", 784), ("ss_limit", 788), ("tr_limit", 792),
    ("ldtr_limit", 796), ("idtr_limit", 800), ("gdtr_limit", 804), ("cs_base", 808),
    ("ds_base", 816), ("es_base", 824), ("fs_base", 832), ("gs_base", 840), ("ss_base", 848),
    ("tr_base", 856), ("ldtr_base", 864), ("idtr_base", 872), ("gdtr_base", 880),
    ("cs_arbytes", 888), ("ds_arbytes", 892), ("es_arbytes", 896), ("fs_arbytes", 900),
    ("gs_arbytes", 904), ("ss_arbytes", 908), ("tr_arbytes", 912), ("ldtr_arbytes", 916),
    ("sysenter_cs", 920), ("sysenter_esp", 928), ("sysenter_eip", 936), ("shadow_gs", 944),
    ("msr_flags", 952), ("msr_lstar", 960), ("msr_star", 968), ("msr_cstar", 976),
    ("msr_syscall_mask", 984), ("msr_efer", 992), ("msr_tsc_aux", 1000), ("tsc", 1008),
    ("pending_event", 1016), ("error_code", 1020), ("flags", 1024),
];

/// `struct hvm_hw_hpet`.
#[rustfmt::skip]
pub(crate) const HPET: &[(&str, usize)] = &[
    ("capability", 0), ("config", 16), ("isr", 32), ("mc64", 240), ("timers", 256),
    ("period", 1024),
];

/// `struct hvm_viridian_vcpu_context`.
#[rustfmt::skip]
pub(crate) const VIRIDIAN_VCPU: &[(&str, usize)] = &[
    ("vp_assist_msr", 0), ("apic_assist_pending", 8), ("simp_msr", 16), ("sint_msr", 24),
    ("stimer_config_msr", 152), ("stimer_count_msr", 184),
];

/// `struct vcpu_guest_context`, but for the nested structures.
#[rustfmt::skip]
pub(crate) const VCPU_CONTEXT: &[(&str, usize)] = &[
    ("flags", 512), ("ldt_base", 4816), ("ldt_ents", 4824), ("gdt_frames", 4832),
    ("gdt_ents", 4960), ("kernel_ss", 4968), ("kernel_sp", 4976), ("ctrlreg", 4984),
    ("debugreg", 5048), ("event_callback_eip", 5112), ("failsafe_callback_eip", 5120),
    ("syscall_callback_eip", 5128), ("vm_assist", 5136), ("fs_base", 5144),
    ("gs_base_kernel", 5152), ("gs_base_user", 5160),
];

/// `struct cpu_user_regs`.
#[rustfmt::skip]
pub(crate) const USER_REGS: &[(&str, usize)] = &[
    ("r15", 0), ("r14", 8), ("r13", 16), ("r12", 24), ("rbp", 32), ("rbx", 40), ("r11", 48),
    ("r10", 56), ("r9", 64), ("r8", 72), ("rax", 80), ("rcx", 88), ("rdx", 96), ("rsi", 104),
    ("rdi", 112), ("error_code", 120), ("entry_vector", 124), ("rip", 128), ("cs", 136),
    ("saved_upcall_mask", 140), ("rflags", 144), ("rsp", 152), ("ss", 160), ("es", 168),
    ("ds", 176), ("fs", 184), ("gs", 192),
];

/// `struct xen_domctl_ext_vcpucontext`.
#[rustfmt::skip]
pub(crate) const EXTENDED: &[(&str, usize)] = &[
    ("vcpu", 0), ("size", 4), ("syscall32_callback_eip", 8), ("sysenter_callback_eip", 16),
    ("syscall32_callback_cs", 24), ("sysenter_callback_cs", 26),
    ("syscall32_disables_events", 28), ("sysenter_disables_events", 29), ("mcg_cap", 32),
];

/// `struct shared_info`.
#[rustfmt::skip]
pub(crate) const SHARED_INFO: &[(&str, usize)] = &[
    ("vcpu_info", 0), ("evtchn_pending", 2048), ("evtchn_mask", 2560), ("wc_version", 3072),
    ("wc_sec", 3076), ("wc_nsec", 3080), ("wc_sec_hi", 3084), ("max_pfn", 3088),
    ("pfn_to_mfn_frame_list_list", 3096), ("nmi_reason", 3104), ("p2m_cr3", 3112),
    ("p2m_vaddr", 3120), ("p2m_generation", 3128),
];

/// `struct vcpu_info`, but for the time.
#[rustfmt::skip]
pub(crate) const VCPU_INFO: &[(&str, usize)] = &[
    ("evtchn_upcall_pending", 0), ("evtchn_upcall_mask", 1), ("evtchn_pending_sel", 8),
    ("cr2", 16),
];

/// `struct vcpu_time_info`.
#[rustfmt::skip]
pub(crate) const VCPU_TIME: &[(&str, usize)] = &[
    ("version", 0), ("tsc_timestamp", 8), ("system_time", 16), ("tsc_to_system_mul", 24),
    ("tsc_shift", 28),
];

/// `struct vcpu_guest_context` of i386.
#[rustfmt::skip]
pub(crate) const VCPU_CONTEXT_32: &[(&str, usize)] = &[
    ("flags", 512), ("ldt_base", 2632), ("ldt_ents", 2636), ("gdt_frames", 2640),
    ("gdt_ents", 2704), ("kernel_ss", 2708), ("kernel_sp", 2712), ("ctrlreg", 2716),
    ("debugreg", 2748), ("event_callback_cs", 2780), ("event_callback_eip", 2784),
    ("failsafe_callback_cs", 2788), ("failsafe_callback_eip", 2792), ("vm_assist", 2796),
];

/// `struct cpu_user_regs` of i386.
#[rustfmt::skip]
pub(crate) const USER_REGS_32: &[(&str, usize)] = &[
    ("ebx", 0), ("ecx", 4), ("edx", 8), ("esi", 12), ("edi", 16), ("ebp", 20), ("eax", 24),
    ("error_code", 28), ("entry_vector", 30), ("eip", 32), ("cs", 36), ("saved_upcall_mask", 38),
    ("eflags", 40), ("esp", 44), ("ss", 48), ("es", 52), ("ds", 56), ("fs", 60), ("gs", 64),
];

/// `struct shared_info` of i386.
#[rustfmt::skip]
pub(crate) const SHARED_INFO_32: &[(&str, usize)] = &[
    ("vcpu_info", 0), ("evtchn_pending", 2048), ("evtchn_mask", 2176), ("wc_version", 2304),
    ("wc_sec", 2308), ("wc_nsec", 2312), ("max_pfn", 2316), ("pfn_to_mfn_frame_list_list", 2320),
    ("nmi_reason", 2324), ("p2m_cr3", 2328), ("p2m_vaddr", 2332), ("p2m_generation", 2336),
    ("wc_sec_hi", 2340),
];

/// `struct vcpu_info` of i386, but for the time.
#[rustfmt::skip]
pub(crate) const VCPU_INFO_32: &[(&str, usize)] = &[
    ("evtchn_upcall_pending", 0), ("evtchn_upcall_mask", 1), ("evtchn_pending_sel", 4),
    ("cr2", 8),
];
