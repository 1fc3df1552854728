//! Model-specific state: MTRR (14), VIRIDIAN_DOMAIN (15), CPU_XSAVE (16), VIRIDIAN_VCPU (17),
//! VMCE_VCPU (18), CPU_MSR (20).
//!
//! Source: `xen/include/public/arch-x86/hvm/save.h`.

use serde::Serialize;

use crate::decode::bits::{Bits, Xstate};
use crate::decode::error::DecodeError;
use crate::decode::hex::{Hex64, Reserved};
use crate::decode::msr::MsrEntry;
use crate::decode::wire::{Blob, Table, Wire, layout, parse_at};
use crate::decode::xsave::XsaveArea;

layout! {
    /// `struct hvm_hw_mtrr`: the memory type range registers and PAT.
    pub struct Mtrr = "MTRR" {
        /// Page attribute table MSR.
        msr_pat_cr: Hex64,
        /// Eight pairs of base and mask.
        msr_mtrr_var: Table<Hex64, 16>,
        msr_mtrr_fixed: Table<Hex64, 11>,
        msr_mtrr_cap: Hex64,
        msr_mtrr_def_type: Hex64,
    }
}

layout! {
    /// `struct hvm_viridian_domain_context`: the domain-wide Hyper-V MSRs.
    pub struct ViridianDomain = "VIRIDIAN_DOMAIN" {
        hypercall_gpa: Hex64,
        guest_os_id: Hex64,
        /// Partition reference count, in units of 100 ns.
        time_ref_count: u64,
        reference_tsc: Hex64,
    }
}

layout! {
    /// `struct hvm_viridian_vcpu_context`: a vCPU's Hyper-V MSRs; 16 bytes before Xen 4.13 had the
    /// synthetic interrupt controller and timers, 216 since.
    pub struct ViridianVcpu = "VIRIDIAN_VCPU" {
        vp_assist_msr: Hex64,
        apic_assist_pending: u8,
        pad0: Reserved<7>,
    } later {
        simp_msr: Hex64,
        sint_msr: Table<Hex64, 16>,
        stimer_config_msr: Table<Hex64, 4>,
        stimer_count_msr: Table<Hex64, 4>,
    }
}

layout! {
    /// `struct hvm_vmce_vcpu`: virtual machine-check banks; 24 bytes before Xen 4.10, 32 since.
    pub struct VmceVcpu = "VMCE_VCPU" {
        /// MCG_CAP MSR.
        caps: Hex64,
        mci_ctl2_bank0: Hex64,
        mci_ctl2_bank1: Hex64,
    } later {
        mcg_ext_ctl: Hex64,
    }
}

/// `struct hvm_hw_cpu_xsave`: a vCPU's XSAVE state. The length depends on the components that the
/// guest ever enabled.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CpuXsave {
    /// Components the saving machine had; Xen ignores it on load.
    pub xfeature_mask: Bits<u64, Xstate>,
    /// XCR0.
    pub xcr0: Bits<u64, Xstate>,
    /// Everything that XCR0 ever had enabled.
    pub xcr0_accum: Bits<u64, Xstate>,
    /// The area, in the uncompacted format.
    pub save_area: XsaveArea,
}

impl Blob for CpuXsave {
    const NAME: &'static str = "CPU_XSAVE";

    fn decode(blob: &[u8]) -> Result<(Self, usize), DecodeError> {
        if blob.len() < 24 + XsaveArea::MIN {
            return Err(DecodeError::TooShort {
                what: "CPU_XSAVE",
                offset: 0,
                needed: 24 + XsaveArea::MIN,
                got: blob.len(),
            });
        }
        let (rest, xfeature_mask) = parse_at("CPU_XSAVE.xfeature_mask", blob, 0)?;
        let (rest, xcr0) = parse_at("CPU_XSAVE.xcr0", rest, 8)?;
        let (rest, xcr0_accum) = parse_at("CPU_XSAVE.xcr0_accum", rest, 16)?;
        let save_area = XsaveArea::decode_at(rest, 24)?;
        Ok((CpuXsave { xfeature_mask, xcr0, xcr0_accum, save_area }, 0))
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.xfeature_mask.emit(&mut out);
        self.xcr0.emit(&mut out);
        self.xcr0_accum.emit(&mut out);
        self.save_area.emit(&mut out);
        out
    }
}

/// `struct hvm_msr`: a vCPU's MSRs that have no field elsewhere, `u32 count`, four bytes of
/// padding, and `count` entries.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CpuMsr {
    /// Bytes between count and entries; zero when written by Xen.
    #[serde(skip_serializing_if = "Wire::hidden")]
    pub pad0: Reserved<4>,
    /// The MSRs.
    pub msrs: Vec<MsrEntry>,
}

impl Blob for CpuMsr {
    const NAME: &'static str = "CPU_MSR";

    fn decode(blob: &[u8]) -> Result<(Self, usize), DecodeError> {
        if blob.len() < 8 {
            return Err(DecodeError::TooShort { what: "CPU_MSR", offset: 0, needed: 8, got: blob.len() });
        }
        let (rest, count) = parse_at::<u32>("CPU_MSR.count", blob, 0)?;
        let (mut rest, pad0) = parse_at("CPU_MSR.pad", rest, 4)?;
        if rest.len() as u64 / (MsrEntry::SIZE as u64) < u64::from(count) {
            return Err(DecodeError::CountTooLarge {
                what: "CPU_MSR.msr",
                offset: 8,
                count: count.into(),
                needed: u64::from(count) * MsrEntry::SIZE as u64,
                got: rest.len(),
            });
        }
        let mut msrs = Vec::new();
        for _ in 0..count {
            let (next, msr) = parse_at("CPU_MSR.msr", rest, blob.len() - rest.len())?;
            msrs.push(msr);
            rest = next;
        }
        Ok((CpuMsr { pad0, msrs }, rest.len()))
    }

    /// Emits the entries, at most 2^32 - 1 of them.
    fn encode(&self) -> Vec<u8> {
        let count = u32::try_from(self.msrs.len()).unwrap_or(u32::MAX);
        let mut out = Vec::with_capacity(8 + self.msrs.len() * MsrEntry::SIZE);
        count.emit(&mut out);
        self.pad0.emit(&mut out);
        self.msrs.iter().take(count as usize).for_each(|msr| msr.emit(&mut out));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::hex::Hex;

    #[test]
    fn sizes_are_those_of_the_c_structures() {
        assert_eq!(Mtrr::SIZE, 8 * 30);
        assert_eq!(ViridianDomain::SIZE, 32);
        assert_eq!((ViridianVcpu::SHORT, ViridianVcpu::LONG), (16, 216));
        assert_eq!((VmceVcpu::SHORT, VmceVcpu::LONG), (24, 32));
    }

    #[test]
    fn msr_entries_start_at_offset_8_and_are_named() {
        let mut blob = vec![2, 0, 0, 0, 0, 0, 0, 0];
        for (index, value) in [(0x48u32, 1u64), (0xc000_0103, 3)] {
            blob.extend_from_slice(&index.to_le_bytes());
            blob.extend_from_slice(&[0; 4]);
            blob.extend_from_slice(&value.to_le_bytes());
        }
        let (msrs, extra) = CpuMsr::decode(&blob).unwrap();
        assert_eq!(extra, 0);
        assert_eq!(msrs.msrs[0].name(), Some("SPEC_CTRL"));
        assert_eq!((msrs.msrs[1].name(), msrs.msrs[1].value), (Some("TSC_AUX"), Hex(3)));
        assert_eq!(msrs.encode(), blob);
        for len in 0..blob.len() {
            assert!(CpuMsr::decode(&blob[..len]).is_err(), "{len}");
        }
    }

    #[test]
    fn a_count_beyond_the_blob_is_refused_before_anything_is_allocated() {
        assert_eq!(
            CpuMsr::decode(&[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 1]),
            Err(DecodeError::CountTooLarge {
                what: "CPU_MSR.msr",
                offset: 8,
                count: 0xffff_ffff,
                needed: 0xf_ffff_fff0,
                got: 1
            })
        );
    }

    #[test]
    fn xsave_with_avx_round_trips() {
        let mut blob = vec![0u8; 24 + 576 + 256];
        blob[0] = 7;
        blob[8] = 3;
        blob[16] = 7;
        blob[24 + 512] = 2;
        blob[24 + 576] = 0xaa;
        let (xsave, extra) = CpuXsave::decode(&blob).unwrap();
        assert_eq!((extra, xsave.xcr0.value, xsave.xcr0_accum.value), (0, 3, 7));
        assert_eq!(xsave.save_area.header.xstate_bv.names(), ["sse"]);
        assert_eq!(xsave.save_area.extended.0.len(), 256);
        assert_eq!(xsave.encode(), blob);
        assert!(CpuXsave::decode(&blob[..599]).is_err());
    }
}
