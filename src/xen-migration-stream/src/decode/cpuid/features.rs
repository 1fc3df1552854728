//! The feature bits of CPUID leaves by name.
//!
//! Source: `xen/include/public/arch-x86/cpufeatureset.h`, names in lower case.

/// Register of a leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Register {
    /// EAX
    Eax,
    /// EBX
    Ebx,
    /// ECX
    Ecx,
    /// EDX
    Edx,
}

/// The feature bits of one register.
#[derive(Debug, Clone, Copy)]
pub struct FeatureWord {
    /// Leaf.
    pub leaf: u32,
    /// Subleaf; 0 for a leaf without subleaves.
    pub subleaf: u32,
    /// Register.
    pub register: Register,
    /// Key in JSON.
    pub key: &'static str,
    /// Bit and name, ascending.
    pub names: &'static [(u8, &'static str)],
}

/// Every register that has feature bits, by leaf.
pub const WORDS: &[FeatureWord] = &[
    FeatureWord { leaf: 1, subleaf: 0, register: Register::Edx, key: "1.edx", names: LEAF_1_EDX },
    FeatureWord { leaf: 1, subleaf: 0, register: Register::Ecx, key: "1.ecx", names: LEAF_1_ECX },
    FeatureWord { leaf: 7, subleaf: 0, register: Register::Ebx, key: "7:0.ebx", names: LEAF_7_EBX },
    FeatureWord { leaf: 7, subleaf: 0, register: Register::Ecx, key: "7:0.ecx", names: LEAF_7_ECX },
    FeatureWord { leaf: 7, subleaf: 0, register: Register::Edx, key: "7:0.edx", names: LEAF_7_EDX },
    FeatureWord { leaf: 7, subleaf: 1, register: Register::Eax, key: "7:1.eax", names: LEAF_7_1_EAX },
    FeatureWord { leaf: 7, subleaf: 1, register: Register::Ebx, key: "7:1.ebx", names: LEAF_7_1_EBX },
    FeatureWord { leaf: 7, subleaf: 1, register: Register::Edx, key: "7:1.edx", names: LEAF_7_1_EDX },
    FeatureWord { leaf: 7, subleaf: 2, register: Register::Edx, key: "7:2.edx", names: LEAF_7_2_EDX },
    FeatureWord { leaf: 0xd, subleaf: 1, register: Register::Eax, key: "0xd:1.eax", names: LEAF_D1_EAX },
    FeatureWord { leaf: 0x8000_0001, subleaf: 0, register: Register::Edx, key: "0x80000001.edx", names: EXT_1_EDX },
    FeatureWord { leaf: 0x8000_0001, subleaf: 0, register: Register::Ecx, key: "0x80000001.ecx", names: EXT_1_ECX },
    FeatureWord { leaf: 0x8000_0007, subleaf: 0, register: Register::Edx, key: "0x80000007.edx", names: EXT_7_EDX },
    FeatureWord { leaf: 0x8000_0008, subleaf: 0, register: Register::Ebx, key: "0x80000008.ebx", names: EXT_8_EBX },
    FeatureWord { leaf: 0x8000_0021, subleaf: 0, register: Register::Eax, key: "0x80000021.eax", names: EXT_21_EAX },
    FeatureWord { leaf: 0x8000_0021, subleaf: 0, register: Register::Ecx, key: "0x80000021.ecx", names: EXT_21_ECX },
];

/// Leaf 1 EDX.
#[rustfmt::skip]
const LEAF_1_EDX: &[(u8, &str)] = &[
    (0, "fpu"), (1, "vme"), (2, "de"), (3, "pse"), (4, "tsc"), (5, "msr"), (6, "pae"), (7, "mce"),
    (8, "cx8"), (9, "apic"), (11, "sep"), (12, "mtrr"), (13, "pge"), (14, "mca"), (15, "cmov"),
    (16, "pat"), (17, "pse36"), (19, "clflush"), (21, "ds"), (22, "acpi"), (23, "mmx"),
    (24, "fxsr"), (25, "sse"), (26, "sse2"), (27, "ss"), (28, "htt"), (29, "tm1"), (31, "pbe"),
];

/// Leaf 1 ECX.
#[rustfmt::skip]
const LEAF_1_ECX: &[(u8, &str)] = &[
    (0, "sse3"), (1, "pclmulqdq"), (2, "dtes64"), (3, "monitor"), (4, "dscpl"), (5, "vmx"),
    (6, "smx"), (7, "eist"), (8, "tm2"), (9, "ssse3"), (11, "sdbg"), (12, "fma"), (13, "cx16"),
    (14, "xtpr"), (15, "pdcm"), (17, "pcid"), (18, "dca"), (19, "sse4_1"), (20, "sse4_2"),
    (21, "x2apic"), (22, "movbe"), (23, "popcnt"), (24, "tsc_deadline"), (25, "aesni"),
    (26, "xsave"), (27, "osxsave"), (28, "avx"), (29, "f16c"), (30, "rdrand"), (31, "hypervisor"),
];

/// Leaf 0x80000001 EDX. The bits that AMD repeats from leaf 1 EDX have its names.
#[rustfmt::skip]
const EXT_1_EDX: &[(u8, &str)] = &[
    (0, "fpu"), (1, "vme"), (2, "de"), (3, "pse"), (4, "tsc"), (5, "msr"), (6, "pae"), (7, "mce"),
    (8, "cx8"), (9, "apic"), (11, "syscall"), (12, "mtrr"), (13, "pge"), (14, "mca"),
    (15, "cmov"), (16, "pat"), (17, "pse36"), (20, "nx"), (22, "mmxext"), (23, "mmx"),
    (24, "fxsr"), (25, "ffxsr"), (26, "page1gb"), (27, "rdtscp"), (29, "lm"), (30, "3dnowext"),
    (31, "3dnow"),
];

/// Leaf 0x80000001 ECX.
#[rustfmt::skip]
const EXT_1_ECX: &[(u8, &str)] = &[
    (0, "lahf_lm"), (1, "cmp_legacy"), (2, "svm"), (3, "extapic"), (4, "cr8_legacy"), (5, "abm"),
    (6, "sse4a"), (7, "misalignsse"), (8, "3dnowprefetch"), (9, "osvw"), (10, "ibs"), (11, "xop"),
    (12, "skinit"), (13, "wdt"), (15, "lwp"), (16, "fma4"), (19, "nodeid_msr"), (21, "tbm"),
    (22, "topoext"), (26, "dbext"), (29, "monitorx"), (30, "addr_msk_ext"),
];

/// Leaf 0xd subleaf 1 EAX.
#[rustfmt::skip]
const LEAF_D1_EAX: &[(u8, &str)] = &[
    (0, "xsaveopt"), (1, "xsavec"), (2, "xgetbv1"), (3, "xsaves"), (4, "xfd"),
];

/// Leaf 7 subleaf 0 EBX.
#[rustfmt::skip]
const LEAF_7_EBX: &[(u8, &str)] = &[
    (0, "fsgsbase"), (1, "tsc_adjust"), (2, "sgx"), (3, "bmi1"), (4, "hle"), (5, "avx2"),
    (6, "fdp_excp_only"), (7, "smep"), (8, "bmi2"), (9, "erms"), (10, "invpcid"), (11, "rtm"),
    (12, "pqm"), (13, "no_fpu_sel"), (14, "mpx"), (15, "pqe"), (16, "avx512f"), (17, "avx512dq"),
    (18, "rdseed"), (19, "adx"), (20, "smap"), (21, "avx512_ifma"), (23, "clflushopt"),
    (24, "clwb"), (25, "proc_trace"), (26, "avx512pf"), (27, "avx512er"), (28, "avx512cd"),
    (29, "sha"), (30, "avx512bw"), (31, "avx512vl"),
];

/// Leaf 7 subleaf 0 ECX.
#[rustfmt::skip]
const LEAF_7_ECX: &[(u8, &str)] = &[
    (0, "prefetchwt1"), (1, "avx512_vbmi"), (2, "umip"), (3, "pku"), (4, "ospke"), (5, "waitpkg"),
    (6, "avx512_vbmi2"), (7, "cet_ss"), (8, "gfni"), (9, "vaes"), (10, "vpclmulqdq"),
    (11, "avx512_vnni"), (12, "avx512_bitalg"), (13, "tme"), (14, "avx512_vpopcntdq"),
    (16, "la57"), (22, "rdpid"), (24, "bld"), (25, "cldemote"), (27, "movdiri"),
    (28, "movdir64b"), (29, "enqcmd"), (30, "sgx_lc"), (31, "pks"),
];

/// Leaf 7 subleaf 0 EDX.
#[rustfmt::skip]
const LEAF_7_EDX: &[(u8, &str)] = &[
    (1, "sgx_keys"), (2, "avx512_4vnniw"), (3, "avx512_4fmaps"), (4, "fsrm"), (5, "uintr"),
    (8, "avx512_vp2intersect"), (9, "srbds_ctrl"), (10, "md_clear"), (11, "rtm_always_abort"),
    (13, "tsx_force_abort"), (14, "serialize"), (15, "hybrid"), (16, "tsxldtrk"), (18, "pconfig"),
    (19, "arch_lbr"), (20, "cet_ibt"), (22, "amx_bf16"), (23, "avx512_fp16"), (24, "amx_tile"),
    (25, "amx_int8"), (26, "ibrsb"), (27, "stibp"), (28, "l1d_flush"), (29, "arch_caps"),
    (30, "core_caps"), (31, "ssbd"),
];

/// Leaf 7 subleaf 1 EAX.
#[rustfmt::skip]
const LEAF_7_1_EAX: &[(u8, &str)] = &[
    (0, "sha512"), (1, "sm3"), (2, "sm4"), (4, "avx_vnni"), (5, "avx512_bf16"), (6, "lass"),
    (7, "cmpccxadd"), (8, "arch_perf_mon"), (10, "fzrm"), (11, "fsrs"), (12, "fsrcs"),
    (17, "fred"), (18, "lkgs"), (19, "wrmsrns"), (20, "nmi_src"), (21, "amx_fp16"),
    (23, "avx_ifma"), (26, "lam"), (27, "msrlist"), (30, "no_invd"), (31, "movrs"),
];

/// Leaf 7 subleaf 1 EBX.
#[rustfmt::skip]
const LEAF_7_1_EBX: &[(u8, &str)] = &[
    (0, "intel_ppin"),
];

/// Leaf 7 subleaf 1 EDX.
#[rustfmt::skip]
const LEAF_7_1_EDX: &[(u8, &str)] = &[
    (4, "avx_vnni_int8"), (5, "avx_ne_convert"), (8, "amx_complex"), (10, "avx_vnni_int16"),
    (14, "prefetchi"), (17, "uiret_uif"), (18, "cet_sss"), (24, "slsm"),
];

/// Leaf 7 subleaf 2 EDX.
#[rustfmt::skip]
const LEAF_7_2_EDX: &[(u8, &str)] = &[
    (0, "intel_psfd"), (1, "ipred_ctrl"), (2, "rrsba_ctrl"), (3, "ddp_ctrl"), (4, "bhi_ctrl"),
    (5, "mcdt_no"), (6, "uc_lock_dis"),
];

/// Leaf 0x80000007 EDX.
#[rustfmt::skip]
const EXT_7_EDX: &[(u8, &str)] = &[
    (7, "hw_pstate"), (8, "itsc"), (9, "cpb"), (10, "efro"),
];

/// Leaf 0x80000008 EBX.
#[rustfmt::skip]
const EXT_8_EBX: &[(u8, &str)] = &[
    (0, "clzero"), (2, "rstr_fp_err_ptrs"), (9, "wbnoinvd"), (12, "ibpb"), (14, "ibrs"),
    (15, "amd_stibp"), (16, "ibrs_always"), (17, "stibp_always"), (18, "ibrs_fast"),
    (19, "ibrs_same_mode"), (20, "no_lmsl"), (23, "amd_ppin"), (24, "amd_ssbd"),
    (25, "virt_ssbd"), (26, "ssb_no"), (27, "cppc"), (28, "psfd"), (29, "btc_no"),
    (30, "ibpb_ret"),
];

/// Leaf 0x80000021 EAX.
#[rustfmt::skip]
const EXT_21_EAX: &[(u8, &str)] = &[
    (0, "no_nest_bp"), (1, "fs_gs_ns"), (2, "lfence_dispatch"), (5, "verw_clear"), (6, "nscb"),
    (8, "auto_ibrs"), (10, "amd_fsrs"), (11, "amd_fsrc"), (17, "cpuid_user_dis"), (18, "epsf"),
    (19, "fsrsc"), (20, "amd_prefetchi"), (23, "avx512_bmm"), (27, "sbpb"), (28, "ibpb_brtype"),
    (29, "srso_no"), (30, "srso_us_no"), (31, "srso_msr_fix"),
];

/// Leaf 0x80000021 ECX.
#[rustfmt::skip]
const EXT_21_ECX: &[(u8, &str)] = &[
    (1, "tsa_sq_no"), (2, "tsa_l1_no"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_ordered_and_their_bits_ascend() {
        assert!(WORDS.windows(2).all(|w| (w[0].leaf, w[0].subleaf) <= (w[1].leaf, w[1].subleaf)));
        for word in WORDS {
            assert!(word.names.windows(2).all(|w| w[0].0 < w[1].0), "{}", word.key);
            assert!(word.names.iter().all(|(bit, _)| *bit < 32), "{}", word.key);
        }
    }

    #[test]
    fn well_known_bits() {
        let has = |key: &str, bit: u8, name: &str| WORDS.iter().any(|w| w.key == key && w.names.contains(&(bit, name)));
        assert!(has("1.edx", 0, "fpu") && has("1.ecx", 19, "sse4_1") && has("1.ecx", 31, "hypervisor"));
        assert!(has("7:0.ebx", 5, "avx2") && has("7:0.edx", 29, "arch_caps") && has("0xd:1.eax", 3, "xsaves"));
        assert!(has("0x80000001.edx", 29, "lm") && has("0x80000001.ecx", 2, "svm"));
        assert!(has("0x80000007.edx", 8, "itsc") && has("0x80000008.ebx", 24, "amd_ssbd"));
    }
}
