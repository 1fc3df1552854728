//! X86_PV_VCPU_BASIC: `struct vcpu_guest_context` in its two widths.

use serde::Serialize;

use super::parts::{ControlRegs, Fold32, Fold64, GdtFrames, TrapInfo32, TrapInfo64, TrapTable, VcpuFlags, VmAssist};
use crate::decode::bits::{Bits, Rflags};
use crate::decode::error::DecodeError;
use crate::decode::hex::{Hex16, Hex32, Hex64, Reserved};
use crate::decode::shared_info::Width;
use crate::decode::wire::{Blob, Table, Wire, layout};
use crate::decode::xsave::Fxsave;

layout! {
    /// `struct cpu_user_regs` of a 64-bit guest.
    pub struct UserRegs64 = "cpu_user_regs" {
        r15: Hex64, r14: Hex64, r13: Hex64, r12: Hex64,
        rbp: Hex64, rbx: Hex64,
        r11: Hex64, r10: Hex64, r9: Hex64, r8: Hex64,
        rax: Hex64, rcx: Hex64, rdx: Hex64, rsi: Hex64, rdi: Hex64,
        error_code: Hex32,
        entry_vector: Hex32,
        rip: Hex64,
        cs: Hex16,
        pad0: Reserved<2>,
        /// Event delivery masked; RFLAGS.IF is the opposite.
        saved_upcall_mask: u8,
        pad1: Reserved<3>,
        rflags: Bits<u64, Rflags>,
        rsp: Hex64,
        ss: Hex16, pad2: Reserved<6>,
        es: Hex16, pad3: Reserved<6>,
        ds: Hex16, pad4: Reserved<6>,
        fs: Hex16, pad5: Reserved<6>,
        gs: Hex16, pad6: Reserved<6>,
    }
}

layout! {
    /// `struct cpu_user_regs` of a 32-bit guest.
    pub struct UserRegs32 = "cpu_user_regs" {
        ebx: Hex32, ecx: Hex32, edx: Hex32, esi: Hex32, edi: Hex32, ebp: Hex32, eax: Hex32,
        error_code: Hex16,
        entry_vector: Hex16,
        eip: Hex32,
        cs: Hex16,
        /// Event delivery masked; EFLAGS.IF is the opposite.
        saved_upcall_mask: u8,
        pad0: Reserved<1>,
        eflags: Bits<u32, Rflags>,
        esp: Hex32,
        ss: Hex16, pad1: Reserved<2>,
        es: Hex16, pad2: Reserved<2>,
        ds: Hex16, pad3: Reserved<2>,
        fs: Hex16, pad4: Reserved<2>,
        gs: Hex16, pad5: Reserved<2>,
    }
}

layout! {
    /// `struct vcpu_guest_context` of a 64-bit guest: 5168 bytes.
    pub struct VcpuContext64 = "X86_PV_VCPU_BASIC" {
        fpu_ctxt: Fxsave,
        flags: Bits<u64, VcpuFlags>,
        user_regs: UserRegs64,
        /// Virtual IDT.
        trap_ctxt: TrapTable<TrapInfo64>,
        ldt_base: Hex64,
        ldt_ents: u64,
        /// The GDT's frames, as pfns.
        gdt_frames: GdtFrames<u64>,
        gdt_ents: u64,
        kernel_ss: Hex64,
        kernel_sp: Hex64,
        ctrlreg: ControlRegs<u64, Fold64>,
        debugreg: Table<Hex64, 8>,
        event_callback_eip: Hex64,
        failsafe_callback_eip: Hex64,
        syscall_callback_eip: Hex64,
        vm_assist: Bits<u64, VmAssist>,
        fs_base: Hex64,
        gs_base_kernel: Hex64,
        gs_base_user: Hex64,
    }
}

layout! {
    /// `struct vcpu_guest_context` of a 32-bit guest: 2800 bytes.
    pub struct VcpuContext32 = "X86_PV_VCPU_BASIC" {
        fpu_ctxt: Fxsave,
        flags: Bits<u32, VcpuFlags>,
        user_regs: UserRegs32,
        /// Virtual IDT.
        trap_ctxt: TrapTable<TrapInfo32>,
        ldt_base: Hex32,
        ldt_ents: u32,
        /// The GDT's frames, as pfns.
        gdt_frames: GdtFrames<u32>,
        gdt_ents: u32,
        kernel_ss: Hex32,
        kernel_sp: Hex32,
        ctrlreg: ControlRegs<u32, Fold32>,
        debugreg: Table<Hex32, 8>,
        event_callback_cs: Hex32,
        event_callback_eip: Hex32,
        failsafe_callback_cs: Hex32,
        failsafe_callback_eip: Hex32,
        vm_assist: Bits<u32, VmAssist>,
    }
}

/// A vCPU's basic state in the guest's width.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Basic {
    /// Of a 64-bit guest.
    Bits64(Box<VcpuContext64>),
    /// Of a 32-bit guest.
    Bits32(Box<VcpuContext32>),
}

impl Basic {
    /// Decodes the blob of X86_PV_VCPU_BASIC in the layout of the guest's width.
    ///
    /// # Errors
    /// [`DecodeError::TooShort`] or [`DecodeError::BadLength`] unless it is exactly 5168 bytes
    /// (64-bit) or 2800 (32-bit): the structure never changed, and Xen takes no other size.
    pub fn decode(blob: &[u8], width: Width) -> Result<Basic, DecodeError> {
        let (basic, extra, accepted) = match width {
            Width::Bits64 => {
                VcpuContext64::decode(blob).map(|(c, extra)| (Basic::Bits64(Box::new(c)), extra, "5168"))?
            }
            Width::Bits32 => {
                VcpuContext32::decode(blob).map(|(c, extra)| (Basic::Bits32(Box::new(c)), extra, "2800"))?
            }
        };
        if extra != 0 {
            return Err(DecodeError::BadLength { what: "X86_PV_VCPU_BASIC", offset: 0, length: blob.len(), accepted });
        }
        Ok(basic)
    }

    /// The width that a blob's length belongs to, for a stream that has not said it.
    pub fn width_of(blob: &[u8]) -> Option<Width> {
        match blob.len() {
            VcpuContext64::SIZE => Some(Width::Bits64),
            VcpuContext32::SIZE => Some(Width::Bits32),
            _ => None,
        }
    }

    /// Emits the blob.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Basic::Bits64(context) => context.encode(),
            Basic::Bits32(context) => context.encode(),
        }
    }
}
