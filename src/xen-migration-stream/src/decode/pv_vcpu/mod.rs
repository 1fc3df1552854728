//! The state of a PV vCPU: X86_PV_VCPU_BASIC, EXTENDED, XSAVE and MSRS, each without the record's
//! `u32 vcpu_id, u32 reserved`.
//!
//! Source: the "X86_PV_VCPU_*" sections of `docs/specs/libxc-migration-stream.pandoc`;
//! `struct vcpu_guest_context` in `xen/include/public/arch-x86/xen.h`, `struct cpu_user_regs` in
//! `xen-x86_64.h` and `xen-x86_32.h` beside it; `struct xen_domctl_ext_vcpucontext` in
//! `xen/include/public/domctl.h`. In a stream the machine frames of these structures (GDT frames,
//! CR3) are pfns.

mod basic;
mod parts;

pub use basic::{Basic, UserRegs32, UserRegs64, VcpuContext32, VcpuContext64};
pub use parts::{
    ControlRegs, Cr3Fold, Fold32, Fold64, GdtFrames, Trap, TrapInfo32, TrapInfo64, TrapTable, VcpuFlags, VmAssist,
};

use serde::Serialize;

use super::bits::{Bits, Xstate};
use super::error::DecodeError;
use super::hex::{Hex16, Hex64, Reserved};
use super::msr::{MsrEntry, decode_msrs};
use super::wire::{Wire, layout, parse_at};
use super::xsave::XsaveArea;

layout! {
    /// `struct xen_domctl_ext_vcpucontext`: callbacks of 32-bit system calls and the virtual
    /// machine-check banks; 56 bytes before Xen 4.10, 64 since.
    pub struct Extended = "X86_PV_VCPU_EXTENDED" {
        vcpu: u32,
        /// Bytes of this structure that Xen filled in.
        size: u32,
        syscall32_callback_eip: Hex64,
        sysenter_callback_eip: Hex64,
        syscall32_callback_cs: Hex16,
        sysenter_callback_cs: Hex16,
        syscall32_disables_events: u8,
        sysenter_disables_events: u8,
        pad0: Reserved<2>,
        /// MCG_CAP MSR.
        mcg_cap: Hex64,
        mci_ctl2_bank0: Hex64,
        mci_ctl2_bank1: Hex64,
    } later {
        mcg_ext_ctl: Hex64,
    }
}

/// The XSAVE state of a PV vCPU, as XEN_DOMCTL_getvcpuextstate gives it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Xsave {
    /// XCR0.
    pub xcr0: Bits<u64, Xstate>,
    /// Everything that XCR0 ever had enabled.
    pub xcr0_accum: Bits<u64, Xstate>,
    /// The area, in the uncompacted format.
    pub save_area: XsaveArea,
}

impl Xsave {
    /// Decodes the blob of X86_PV_VCPU_XSAVE.
    ///
    /// # Errors
    /// [`DecodeError::TooShort`] under 592 bytes.
    pub fn decode(blob: &[u8]) -> Result<Xsave, DecodeError> {
        let (rest, xcr0) = parse_at("X86_PV_VCPU_XSAVE.xcr0", blob, 0)?;
        let (rest, xcr0_accum) = parse_at("X86_PV_VCPU_XSAVE.xcr0_accum", rest, 8)?;
        Ok(Xsave { xcr0, xcr0_accum, save_area: XsaveArea::decode_at(rest, 16)? })
    }

    /// Emits the blob.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.xcr0.emit(&mut out);
        self.xcr0_accum.emit(&mut out);
        self.save_area.emit(&mut out);
        out
    }
}

/// Decodes the blob of X86_PV_VCPU_MSRS.
///
/// # Errors
/// [`DecodeError::NotMultiple`] where the length is not a multiple of 16.
pub fn decode_vcpu_msrs(blob: &[u8]) -> Result<Vec<MsrEntry>, DecodeError> {
    decode_msrs(blob)
}

#[cfg(test)]
mod tests;
