//! MSRs by name, and the {index, flags, value} entries that X86_MSR_POLICY, X86_PV_VCPU_MSRS and
//! the HVM context's CPU_MSR share.
//!
//! Source: `struct xen_msr_entry` in `xen/include/public/arch-x86/xen.h`, `struct xen_domctl_vcpu_msr`
//! in `xen/include/public/domctl.h`, MSR indices as in the Intel SDM volume 4 and AMD APM volume 2,
//! names as in Xen's `msr-index.h` without `MSR_`.

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use super::bits::{BitNames, Efer, bit_names, register_bits};
use super::error::DecodeError;
use super::hex::{Hex32, Hex64};
use super::wire::{Wire, parse_array};

/// MSR_INTEL_PLATFORM_INFO.
pub const PLATFORM_INFO: u32 = 0xce;
/// MSR_ARCH_CAPABILITIES.
pub const ARCH_CAPABILITIES: u32 = 0x10a;
/// MSR_SPEC_CTRL.
pub const SPEC_CTRL: u32 = 0x48;
/// MSR_INTEL_MISC_FEATURES_ENABLES.
pub const MISC_FEATURES_ENABLES: u32 = 0x140;
/// MSR_EFER.
pub const EFER: u32 = 0xc000_0080;
/// MSR_VIRT_SPEC_CTRL.
pub const VIRT_SPEC_CTRL: u32 = 0xc001_011f;

/// Index and name, ascending by index.
const NAMES: &[(u32, &str)] = &[
    (0x10, "TSC"),
    (0x1b, "APIC_BASE"),
    (0x35, "INTEL_CORE_THREAD_COUNT"),
    (0x3a, "FEATURE_CONTROL"),
    (0x3b, "TSC_ADJUST"),
    (SPEC_CTRL, "SPEC_CTRL"),
    (0x49, "PRED_CMD"),
    (0x8b, "UCODE_REV"),
    (0xbc, "MISC_PACKAGE_CTRL"),
    (0xbf, "PB_OPT_CTRL"),
    (PLATFORM_INFO, "INTEL_PLATFORM_INFO"),
    (0xcf, "CORE_CAPABILITIES"),
    (0xfe, "MTRRcap"),
    (ARCH_CAPABILITIES, "ARCH_CAPABILITIES"),
    (0x10b, "FLUSH_CMD"),
    (0x10f, "TSX_FORCE_ABORT"),
    (0x122, "TSX_CTRL"),
    (0x123, "MCU_OPT_CTRL"),
    (MISC_FEATURES_ENABLES, "INTEL_MISC_FEATURES_ENABLES"),
    (0x174, "SYSENTER_CS"),
    (0x175, "SYSENTER_ESP"),
    (0x176, "SYSENTER_EIP"),
    (0x179, "MCG_CAP"),
    (0x1a0, "MISC_ENABLE"),
    (0x1cc, "FRED_RSP_SL0"),
    (0x1cd, "FRED_RSP_SL1"),
    (0x1ce, "FRED_RSP_SL2"),
    (0x1cf, "FRED_RSP_SL3"),
    (0x1d0, "FRED_STK_LVLS"),
    (0x1d1, "FRED_SSP_SL1"),
    (0x1d2, "FRED_SSP_SL2"),
    (0x1d3, "FRED_SSP_SL3"),
    (0x1d4, "FRED_CONFIG"),
    (0x1d9, "DEBUGCTL"),
    (0x277, "PAT"),
    (0x2ff, "MTRRdefType"),
    (0x480, "VMX_BASIC"),
    (0x481, "VMX_PINBASED_CTLS"),
    (0x482, "VMX_PROCBASED_CTLS"),
    (0x483, "VMX_EXIT_CTLS"),
    (0x484, "VMX_ENTRY_CTLS"),
    (0x485, "VMX_MISC"),
    (0x486, "VMX_CR0_FIXED0"),
    (0x487, "VMX_CR0_FIXED1"),
    (0x488, "VMX_CR4_FIXED0"),
    (0x489, "VMX_CR4_FIXED1"),
    (0x48a, "VMX_VMCS_ENUM"),
    (0x48b, "VMX_PROCBASED_CTLS2"),
    (0x48c, "VMX_EPT_VPID_CAP"),
    (0x48d, "VMX_TRUE_PINBASED_CTLS"),
    (0x48e, "VMX_TRUE_PROCBASED_CTLS"),
    (0x48f, "VMX_TRUE_EXIT_CTLS"),
    (0x490, "VMX_TRUE_ENTRY_CTLS"),
    (0x491, "VMX_VMFUNC"),
    (0x492, "VMX_PROCBASED_CTLS3"),
    (0x560, "RTIT_OUTPUT_BASE"),
    (0x561, "RTIT_OUTPUT_MASK"),
    (0x570, "RTIT_CTL"),
    (0x571, "RTIT_STATUS"),
    (0x572, "RTIT_CR3_MATCH"),
    (0x6a0, "U_CET"),
    (0x6a2, "S_CET"),
    (0x6a4, "PL0_SSP"),
    (0x6a5, "PL1_SSP"),
    (0x6a6, "PL2_SSP"),
    (0x6a7, "PL3_SSP"),
    (0x6a8, "ISST"),
    (0x6e0, "TSC_DEADLINE"),
    (0x6e1, "PKRS"),
    (0xd90, "BNDCFGS"),
    (0xd93, "PASID"),
    (0xda0, "XSS"),
    (0x1406, "MCU_CONTROL"),
    (EFER, "EFER"),
    (0xc000_0081, "STAR"),
    (0xc000_0082, "LSTAR"),
    (0xc000_0083, "CSTAR"),
    (0xc000_0084, "SYSCALL_MASK"),
    (0xc000_0100, "FS_BASE"),
    (0xc000_0101, "GS_BASE"),
    (0xc000_0102, "SHADOW_GS_BASE"),
    (0xc000_0103, "TSC_AUX"),
    (0xc000_0104, "AMD64_TSC_RATIO"),
    (0xc001_0010, "K8_SYSCFG"),
    (0xc001_0015, "K8_HWCR"),
    (0xc001_0114, "K8_VM_CR"),
    (0xc001_0117, "K8_VM_HSAVE_PA"),
    (VIRT_SPEC_CTRL, "VIRT_SPEC_CTRL"),
    (0xc001_0140, "AMD_OSVW_ID_LENGTH"),
    (0xc001_0141, "AMD_OSVW_STATUS"),
    (0xc001_1019, "AMD64_DR1_ADDRESS_MASK"),
    (0xc001_101a, "AMD64_DR2_ADDRESS_MASK"),
    (0xc001_101b, "AMD64_DR3_ADDRESS_MASK"),
    (0xc001_1020, "AMD64_LS_CFG"),
    (0xc001_1027, "AMD64_DR0_ADDRESS_MASK"),
    (0xc001_1029, "AMD64_DE_CFG"),
];

register_bits! {
    /// MSR 0x10a; names as in Xen's `cpufeatureset.h`.
    ArchCaps {
        0 "rdcl_no", 1 "eibrs", 2 "rsba", 3 "skip_l1dfl", 4 "intel_ssb_no", 5 "mds_no",
        6 "if_pschange_mc_no", 7 "tsx_ctrl", 8 "taa_no", 9 "mcu_ctrl", 10 "misc_pkg_ctrl",
        11 "energy_filtering", 12 "doitm", 13 "sbdr_ssdp_no", 14 "fbsdp_no", 15 "psdp_no",
        16 "mcu_ext", 17 "fb_clear", 18 "fb_clear_ctrl", 19 "rrsba", 20 "bhi_no",
        21 "xapic_status", 23 "ovrclk_status", 24 "pbrsb_no", 25 "gds_ctrl", 26 "gds_no",
        27 "rfds_no", 28 "rfds_clear", 29 "ign_umonitor", 30 "mon_umon_mitg", 32 "pb_opt_ctrl",
        62 "its_no",
    }
    /// MSR 0x48.
    SpecCtrl {
        0 "ibrs", 1 "stibp", 2 "ssbd", 3 "ipred_dis_u", 4 "ipred_dis_s", 5 "rrsba_dis_u",
        6 "rrsba_dis_s", 7 "psfd", 8 "ddp_dis_u", 10 "bhi_dis_s",
    }
    /// MSR 0xce, the bit that Xen's policy has.
    PlatformInfo { 31 "cpuid_faulting" }
    /// MSR 0x140.
    MiscFeatures { 0 "cpuid_faulting" }
}

/// Name of a MSR.
pub fn msr_name(index: u32) -> Option<&'static str> {
    let at = NAMES.binary_search_by_key(&index, |(known, _)| *known).ok()?;
    NAMES.get(at).map(|(_, name)| *name)
}

/// Names of the bits set in a MSR that has named bits.
pub fn msr_bits(index: u32, value: u64) -> Option<Vec<String>> {
    let names = match index {
        ARCH_CAPABILITIES => ArchCaps::NAMES,
        SPEC_CTRL | VIRT_SPEC_CTRL => SpecCtrl::NAMES,
        PLATFORM_INFO => PlatformInfo::NAMES,
        MISC_FEATURES_ENABLES => MiscFeatures::NAMES,
        EFER => Efer::NAMES,
        _ => return None,
    };
    Some(bit_names(value, names))
}

/// One MSR with its value: 16 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MsrEntry {
    /// MSR index.
    pub index: Hex32,
    /// Flags in a policy, reserved in vCPU state; zero in both.
    pub flags: Hex32,
    /// Value.
    pub value: Hex64,
}

impl MsrEntry {
    /// Name of the MSR.
    pub fn name(&self) -> Option<&'static str> {
        msr_name(self.index.0)
    }
}

impl Wire for MsrEntry {
    const SIZE: usize = 16;

    fn parse(input: &[u8]) -> Option<(&[u8], Self)> {
        let (input, index) = Hex32::parse(input)?;
        let (input, flags) = Hex32::parse(input)?;
        let (input, value) = Hex64::parse(input)?;
        Some((input, MsrEntry { index, flags, value }))
    }

    fn emit(&self, out: &mut Vec<u8>) {
        self.index.emit(out);
        self.flags.emit(out);
        self.value.emit(out);
    }
}

impl Serialize for MsrEntry {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut out = s.serialize_struct("MsrEntry", 5)?;
        out.serialize_field("index", &self.index)?;
        out.serialize_field("name", &self.name())?;
        if self.flags.0 != 0 {
            out.serialize_field("flags", &self.flags)?;
        }
        out.serialize_field("value", &self.value)?;
        if let Some(bits) = msr_bits(self.index.0, self.value.0) {
            out.serialize_field("set", &bits)?;
        }
        out.end()
    }
}

/// Decodes an array of MSR entries: the body of X86_MSR_POLICY, or the blob of X86_PV_VCPU_MSRS. An
/// empty array is legal.
///
/// # Errors
/// [`DecodeError::NotMultiple`] where the length is not a multiple of 16.
pub fn decode_msrs(blob: &[u8]) -> Result<Vec<MsrEntry>, DecodeError> {
    parse_array("MSR entries", blob, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_so_that_the_search_finds_them() {
        assert!(NAMES.windows(2).all(|w| w[0].0 < w[1].0));
        assert!(NAMES.iter().all(|(index, name)| msr_name(*index) == Some(name)));
        assert_eq!(msr_name(0xdead_beef), None);
    }

    #[test]
    fn policy_entries_decode_and_name_their_bits() {
        let mut blob = Vec::new();
        for (index, value) in [(0xceu32, 0x8000_0000u64), (0x10a, 0x4000_0000_0000_0021), (7, 9)] {
            blob.extend_from_slice(&index.to_le_bytes());
            blob.extend_from_slice(&[0; 4]);
            blob.extend_from_slice(&value.to_le_bytes());
        }
        let msrs = decode_msrs(&blob).unwrap();
        assert_eq!(
            serde_json::to_value(&msrs).unwrap(),
            serde_json::json!([
                {"index": "0xce", "name": "INTEL_PLATFORM_INFO", "value": "0x80000000", "set": ["cpuid_faulting"]},
                {"index": "0x10a", "name": "ARCH_CAPABILITIES", "value": "0x4000000000000021",
                 "set": ["rdcl_no", "mds_no", "its_no"]},
                {"index": "0x7", "name": null, "value": "0x9"},
            ])
        );
        let mut out = Vec::new();
        msrs.iter().for_each(|m| m.emit(&mut out));
        assert_eq!(out, blob);
        assert_eq!(decode_msrs(&[]), Ok(vec![]));
        assert_eq!(
            decode_msrs(&blob[..17]),
            Err(DecodeError::NotMultiple { what: "MSR entries", offset: 0, length: 17, unit: 16 })
        );
    }
}
