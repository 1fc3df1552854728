//! CPU (type 2): the registers of one vCPU, and HEADER (type 1).
//!
//! Source: `xen/include/public/arch-x86/hvm/save.h`.

use serde::{Serialize, Serializer};

use crate::decode::bits::{Bits, Cr0, Cr4, Efer, Rflags, register_bits};
use crate::decode::error::DecodeError;
use crate::decode::hex::{Hex32, Hex64, Reserved};
use crate::decode::wire::{Blob, Wire, layout, parse_at};
use crate::decode::xsave::Fxsave;

/// `HVM_FILE_MAGIC`.
pub const HVM_FILE_MAGIC: u32 = 0x5438_1286;
/// `HVM_FILE_VERSION`.
pub const HVM_FILE_VERSION: u32 = 1;

layout! {
    /// `struct hvm_save_header`: what saved this context.
    pub struct Header = "HEADER" {
        /// [`HVM_FILE_MAGIC`].
        magic: Hex32,
        /// [`HVM_FILE_VERSION`].
        version: u32,
        /// Changeset of the Xen that saved; all ones where the build did not know it.
        changeset: Hex64,
        /// CPUID leaf 1 EAX of the saving machine.
        cpuid: Hex32,
        /// The guest's TSC frequency in kHz.
        gtsc_khz: u32,
    }
}

impl Header {
    /// Checks magic and version as Xen does on load.
    ///
    /// # Errors
    /// [`DecodeError::BadValue`] with the offset inside the entry's data.
    pub fn check(&self) -> Result<(), DecodeError> {
        if self.magic.0 != HVM_FILE_MAGIC {
            return Err(DecodeError::BadValue {
                what: "HEADER.magic",
                offset: 0,
                value: self.magic.0.into(),
                expected: "0x54381286",
            });
        }
        if self.version != HVM_FILE_VERSION {
            return Err(DecodeError::BadValue {
                what: "HEADER.version",
                offset: 4,
                value: self.version.into(),
                expected: "1",
            });
        }
        Ok(())
    }
}

register_bits! {
    /// `hvm_hw_cpu.flags`.
    CpuFlags { 0 "fpu_initialised" }
}

layout! {
    /// The part of `struct hvm_hw_cpu` that all its layouts share, up to `msr_efer`.
    pub struct CpuRegs = "CPU" {
        fpu_regs: Fxsave,
        rax: Hex64, rbx: Hex64, rcx: Hex64, rdx: Hex64,
        rbp: Hex64, rsi: Hex64, rdi: Hex64, rsp: Hex64,
        r8: Hex64, r9: Hex64, r10: Hex64, r11: Hex64,
        r12: Hex64, r13: Hex64, r14: Hex64, r15: Hex64,
        rip: Hex64,
        rflags: Bits<u64, Rflags>,
        cr0: Bits<u64, Cr0>,
        cr2: Hex64,
        cr3: Hex64,
        cr4: Bits<u64, Cr4>,
        dr0: Hex64, dr1: Hex64, dr2: Hex64, dr3: Hex64, dr6: Hex64, dr7: Hex64,
        cs_sel: Hex32, ds_sel: Hex32, es_sel: Hex32, fs_sel: Hex32,
        gs_sel: Hex32, ss_sel: Hex32, tr_sel: Hex32, ldtr_sel: Hex32,
        cs_limit: Hex32, ds_limit: Hex32, es_limit: Hex32, fs_limit: Hex32,
        gs_limit: Hex32, ss_limit: Hex32, tr_limit: Hex32, ldtr_limit: Hex32,
        idtr_limit: Hex32, gdtr_limit: Hex32,
        cs_base: Hex64, ds_base: Hex64, es_base: Hex64, fs_base: Hex64,
        gs_base: Hex64, ss_base: Hex64, tr_base: Hex64, ldtr_base: Hex64,
        idtr_base: Hex64, gdtr_base: Hex64,
        /// Segment attributes in the VMX access-rights form.
        cs_arbytes: Hex32,
        ds_arbytes: Hex32, es_arbytes: Hex32, fs_arbytes: Hex32,
        gs_arbytes: Hex32, ss_arbytes: Hex32, tr_arbytes: Hex32, ldtr_arbytes: Hex32,
        sysenter_cs: Hex64, sysenter_esp: Hex64, sysenter_eip: Hex64,
        /// Inactive GS base, swapped in by SWAPGS.
        shadow_gs: Hex64,
        /// Obsolete, Xen ignores it.
        msr_flags: Hex64,
        msr_lstar: Hex64,
        msr_star: Hex64,
        msr_cstar: Hex64,
        msr_syscall_mask: Hex64,
        msr_efer: Bits<u64, Efer>,
    }
}

layout! {
    /// The part of `struct hvm_hw_cpu` behind the TSC_AUX MSR.
    pub struct CpuTail = "CPU" {
        /// What the guest would have read from its TSC.
        tsc: Hex64,
        pending_event: PendingEvent,
        error_code: Hex32,
    }
}

layout! {
    /// The end of `struct hvm_hw_cpu` since Xen 4.7.
    pub struct CpuEnd = "CPU" {
        flags: Bits<u32, CpuFlags>,
        pad0: Reserved<4>,
    }
}

/// `hvm_hw_cpu.pending_event`: an event that was to be injected when the vCPU was saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PendingEvent(pub u32);

impl PendingEvent {
    /// Whether there is one.
    pub fn is_valid(self) -> bool {
        self.0 >> 31 == 1
    }

    /// Vector of the event.
    pub fn vector(self) -> u8 {
        (self.0 & 0xff) as u8
    }

    /// Kind of the event, as in the VMX interruption-information field.
    pub fn kind(self) -> &'static str {
        match self.0 >> 8 & 7 {
            0 => "external_interrupt",
            2 => "nmi",
            3 => "hardware_exception",
            4 => "software_interrupt",
            5 => "privileged_software_exception",
            6 => "software_exception",
            _ => "reserved",
        }
    }

    /// Whether the event pushes an error code.
    pub fn has_error_code(self) -> bool {
        self.0 >> 11 & 1 == 1
    }
}

impl Wire for PendingEvent {
    const SIZE: usize = 4;

    fn parse(input: &[u8]) -> Option<(&[u8], Self)> {
        let (rest, value) = u32::parse(input)?;
        Some((rest, PendingEvent(value)))
    }

    fn emit(&self, out: &mut Vec<u8>) {
        self.0.emit(out);
    }
}

impl Serialize for PendingEvent {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct View {
            value: Hex32,
            vector: u8,
            kind: &'static str,
            has_error_code: bool,
        }
        let view = self.is_valid().then(|| View {
            value: crate::decode::hex::Hex(self.0),
            vector: self.vector(),
            kind: self.kind(),
            has_error_code: self.has_error_code(),
        });
        match view {
            Some(view) => view.serialize(s),
            None if self.0 == 0 => s.serialize_none(),
            None => crate::decode::hex::Hex(self.0).serialize(s),
        }
    }
}

/// `struct hvm_hw_cpu`, or one of its two shorter predecessors: without the flags (1024 bytes,
/// before Xen 4.7), and without TSC_AUX as well (1016 bytes, `struct hvm_hw_cpu_compat`, before
/// Xen 3.4). Xen's own layout is 1032 bytes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cpu {
    /// Registers common to all layouts.
    #[serde(flatten)]
    pub regs: CpuRegs,
    /// TSC_AUX MSR; not in the 1016-byte layout.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub msr_tsc_aux: Option<Hex64>,
    /// TSC and pending event.
    #[serde(flatten)]
    pub tail: CpuTail,
    /// Flags; only in the 1032-byte layout.
    #[serde(flatten)]
    pub end: Option<CpuEnd>,
}

impl Cpu {
    /// Bytes of the layout without TSC_AUX and flags.
    pub const COMPAT: usize = CpuRegs::SIZE + CpuTail::SIZE;
    /// Bytes of the layout without flags.
    pub const NO_FLAGS: usize = Self::COMPAT + 8;
    /// Bytes of today's layout.
    pub const NATIVE: usize = Self::NO_FLAGS + CpuEnd::SIZE;
}

impl Blob for Cpu {
    const NAME: &'static str = "CPU";

    fn decode(blob: &[u8]) -> Result<(Self, usize), DecodeError> {
        let len = blob.len();
        if len < Self::COMPAT {
            return Err(DecodeError::TooShort { what: "CPU", offset: 0, needed: Self::COMPAT, got: len });
        }
        if len < Self::NATIVE && len != Self::COMPAT && len != Self::NO_FLAGS {
            return Err(DecodeError::BadLength { what: "CPU", offset: 0, length: len, accepted: "1016, 1024 or 1032" });
        }
        let (rest, regs) = parse_at("CPU", blob, 0)?;
        let (rest, msr_tsc_aux) = if len > Self::COMPAT {
            let (rest, aux) = parse_at("CPU.msr_tsc_aux", rest, CpuRegs::SIZE)?;
            (rest, Some(aux))
        } else {
            (rest, None)
        };
        let (rest, tail) = parse_at("CPU.tsc", rest, len - rest.len())?;
        let (rest, end) = if len >= Self::NATIVE {
            let (rest, end) = parse_at("CPU.flags", rest, Self::NO_FLAGS)?;
            (rest, Some(end))
        } else {
            (rest, None)
        };
        Ok((Cpu { regs, msr_tsc_aux, tail, end }, rest.len()))
    }

    /// Emits the layout that the optional fields ask for; flags without TSC_AUX do not exist, there
    /// TSC_AUX is emitted as zero.
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::NATIVE);
        self.regs.emit(&mut out);
        match (self.msr_tsc_aux, &self.end) {
            (Some(aux), _) => aux.emit(&mut out),
            (None, Some(_)) => 0u64.emit(&mut out),
            (None, None) => {}
        }
        self.tail.emit(&mut out);
        if let Some(end) = &self.end {
            end.emit(&mut out);
        }
        out
    }
}
