//! The registers of a vCPU, of a HVM or a PV guest alike.
//!
//! Source: `struct hvm_hw_cpu` in `xen/include/public/arch-x86/hvm/save.h`, `struct vcpu_guest_context` in
//! `xen/include/public/arch-x86/xen.h`. How the first becomes the second is that of `arch_get_info_guest` in Xen's
//! `arch/x86/domctl.c`.

use xen_migration_stream::decode::bits::Bits;
use xen_migration_stream::decode::hex::{Hex, Hex64};
use xen_migration_stream::decode::hvm_context::Entries;
use xen_migration_stream::decode::hvm_entry::{Cpu, CpuRegs};
use xen_migration_stream::decode::pv_vcpu::{Basic, VcpuContext32, VcpuContext64};
use xen_migration_stream::decode::shared_info::Width;
use xen_migration_stream::decode::wire::{Blob, Wire};
use xen_migration_stream::decode::{DecodeError, hvm_context};

/// The type of a HVM context's CPU entry.
const CPU: u16 = 2;
/// `VGCF_i387_valid` and `VGCF_online`.
const VALID_AND_ONLINE: u64 = 1 << 0 | 1 << 5;

/// A segment register.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Segment {
    /// Selector.
    pub selector: u32,
    /// Limit in bytes.
    pub limit: u32,
    /// Attributes in VMX's access-rights form.
    pub attributes: u32,
    /// Base.
    pub base: u64,
}

/// How a guest's virtual addresses become those of its page frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paging {
    /// Not at all: CR0.PG is clear.
    None,
    /// Two levels of 32-bit entries; whether CR4.PSE allows pages of 4 MiB.
    Legacy {
        /// CR4.PSE.
        large: bool,
    },
    /// Three levels of 64-bit entries.
    Pae,
    /// Four levels.
    Long,
    /// Five levels: CR4.LA57.
    Long57,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Registers {
    /// The vCPU's number.
    pub vcpu: u32,
    /// RAX, RBX, RCX, RDX, RSI, RDI, RSP, RBP, R8 to R15.
    pub general: [u64; 16],
    /// Instruction pointer.
    pub rip: u64,
    /// Flags.
    pub rflags: u64,
    /// CS, DS, ES, FS, GS, SS, LDT, TR, GDT, IDT. Of a PV guest selectors, and the bases of FS and GS.
    pub segments: [Segment; 10],
    /// CR0, CR1 (0), CR2, CR3, CR4. Of a PV guest CR3 is the address of the top page table's page frame.
    pub cr: [u64; 5],
    /// The base of GS that SWAPGS puts in.
    pub inactive_gs_base: u64,
    /// How its addresses are translated.
    pub paging: Paging,
    /// `struct vcpu_guest_context`; of a HVM guest the 64-bit one, as Xen makes it.
    pub context: Vec<u8>,
}

impl Registers {
    /// Of all vCPUs in the body of a HVM_CONTEXT record.
    ///
    /// # Errors
    /// A chain that breaks off, a CPU entry of no length that there is.
    pub fn of_hvm(body: &[u8]) -> Result<Vec<Registers>, DecodeError> {
        let mut all = Vec::new();
        for entry in Entries::new(body) {
            let entry: hvm_context::Entry<'_> = entry?;
            if entry.typecode == CPU {
                let (cpu, _) = Cpu::decode(entry.data)?;
                all.push(of_hvm_cpu(entry.instance.into(), &cpu.regs)?);
            }
        }
        Ok(all)
    }

    /// Of the body of an X86_PV_VCPU_BASIC record, the vCPU's number in front.
    ///
    /// # Errors
    /// Another length than the guest's width has.
    pub fn of_pv(body: &[u8], width: Width) -> Result<Registers, DecodeError> {
        let short = DecodeError::TooShort { what: "X86_PV_VCPU_BASIC", offset: 0, needed: 8, got: body.len() };
        let (head, context) = body.split_at_checked(8).ok_or(short)?;
        let vcpu = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
        Ok(match Basic::decode(context, width)? {
            Basic::Bits64(decoded) => of_pv64(vcpu, &decoded, context),
            Basic::Bits32(decoded) => of_pv32(vcpu, &decoded, context),
        })
    }

    /// Whether it runs the guest's kernel: the privilege level of CS is not 3.
    pub const fn in_kernel(&self) -> bool {
        self.segments[0].selector & 3 != 3
    }
}

const fn hvm_paging(cr0: u64, cr4: u64, efer: u64) -> Paging {
    const PG: u64 = 1 << 31;
    const PSE: u64 = 1 << 4;
    const PAE: u64 = 1 << 5;
    const LA57: u64 = 1 << 12;
    const LMA: u64 = 1 << 10;
    if cr0 & PG == 0 {
        Paging::None
    } else if cr4 & PAE == 0 {
        Paging::Legacy { large: cr4 & PSE != 0 }
    } else if efer & LMA == 0 {
        Paging::Pae
    } else if cr4 & LA57 == 0 {
        Paging::Long
    } else {
        Paging::Long57
    }
}

fn of_hvm_cpu(vcpu: u32, regs: &CpuRegs) -> Result<Registers, DecodeError> {
    let general = [
        regs.rax, regs.rbx, regs.rcx, regs.rdx, regs.rsi, regs.rdi, regs.rsp, regs.rbp, regs.r8, regs.r9, regs.r10,
        regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
    ]
    .map(|register| register.0);
    let segment = |selector: Hex<u32>, limit: Hex<u32>, attributes: Hex<u32>, base: Hex64| Segment {
        selector: selector.0,
        limit: limit.0,
        attributes: attributes.0,
        base: base.0,
    };
    let table = |limit: Hex<u32>, base: Hex64| Segment { limit: limit.0, base: base.0, ..Segment::default() };
    let segments = [
        segment(regs.cs_sel, regs.cs_limit, regs.cs_arbytes, regs.cs_base),
        segment(regs.ds_sel, regs.ds_limit, regs.ds_arbytes, regs.ds_base),
        segment(regs.es_sel, regs.es_limit, regs.es_arbytes, regs.es_base),
        segment(regs.fs_sel, regs.fs_limit, regs.fs_arbytes, regs.fs_base),
        segment(regs.gs_sel, regs.gs_limit, regs.gs_arbytes, regs.gs_base),
        segment(regs.ss_sel, regs.ss_limit, regs.ss_arbytes, regs.ss_base),
        segment(regs.ldtr_sel, regs.ldtr_limit, regs.ldtr_arbytes, regs.ldtr_base),
        segment(regs.tr_sel, regs.tr_limit, regs.tr_arbytes, regs.tr_base),
        table(regs.gdtr_limit, regs.gdtr_base),
        table(regs.idtr_limit, regs.idtr_base),
    ];
    Ok(Registers {
        vcpu,
        general,
        rip: regs.rip.0,
        rflags: regs.rflags.value,
        segments,
        cr: [regs.cr0.value, 0, regs.cr2.0, regs.cr3.0, regs.cr4.value],
        inactive_gs_base: regs.shadow_gs.0,
        paging: hvm_paging(regs.cr0.value, regs.cr4.value, regs.msr_efer.value),
        context: context_of_hvm(regs)?,
    })
}

/// What XEN_DOMCTL_getvcpucontext gives of a HVM guest.
fn context_of_hvm(regs: &CpuRegs) -> Result<Vec<u8>, DecodeError> {
    let (mut context, _) = VcpuContext64::decode(&[0; <VcpuContext64 as Wire>::SIZE])?;
    context.fpu_ctxt = regs.fpu_regs.clone();
    context.flags = Bits::new(VALID_AND_ONLINE);
    let user = &mut context.user_regs;
    (user.rax, user.rbx, user.rcx, user.rdx) = (regs.rax, regs.rbx, regs.rcx, regs.rdx);
    (user.rsi, user.rdi, user.rsp, user.rbp) = (regs.rsi, regs.rdi, regs.rsp, regs.rbp);
    (user.r8, user.r9, user.r10, user.r11) = (regs.r8, regs.r9, regs.r10, regs.r11);
    (user.r12, user.r13, user.r14, user.r15) = (regs.r12, regs.r13, regs.r14, regs.r15);
    user.rip = regs.rip;
    user.rflags = Bits::new(regs.rflags.value);
    let selector = |selector: Hex<u32>| Hex(selector.0 as u16);
    (user.cs, user.ss, user.ds) = (selector(regs.cs_sel), selector(regs.ss_sel), selector(regs.ds_sel));
    (user.es, user.fs, user.gs) = (selector(regs.es_sel), selector(regs.fs_sel), selector(regs.gs_sel));
    context.fs_base = regs.fs_base;
    if regs.cs_sel.0 & 3 == 3 {
        (context.gs_base_user, context.gs_base_kernel) = (regs.gs_base, regs.shadow_gs);
    } else {
        (context.gs_base_kernel, context.gs_base_user) = (regs.gs_base, regs.shadow_gs);
    }
    let control = [regs.cr0.value, 0, regs.cr2.0, regs.cr3.0, regs.cr4.value];
    for (place, value) in context.ctrlreg.raw.iter_mut().zip(control) {
        *place = value;
    }
    // DR4 and DR5 do not exist.
    let zero = Hex(0);
    let debug = [regs.dr0, regs.dr1, regs.dr2, regs.dr3, zero, zero, regs.dr6, regs.dr7];
    for (place, value) in context.debugreg.iter_mut().zip(debug) {
        *place = value;
    }
    Ok(context.encode())
}

fn of_pv64(vcpu: u32, context: &VcpuContext64, bytes: &[u8]) -> Registers {
    let user = &context.user_regs;
    let general = [
        user.rax, user.rbx, user.rcx, user.rdx, user.rsi, user.rdi, user.rsp, user.rbp, user.r8, user.r9, user.r10,
        user.r11, user.r12, user.r13, user.r14, user.r15,
    ]
    .map(|register| register.0);
    let kernel = user.cs.0 & 3 != 3;
    let (gs_base, inactive_gs_base) = if kernel {
        (context.gs_base_kernel.0, context.gs_base_user.0)
    } else {
        (context.gs_base_user.0, context.gs_base_kernel.0)
    };
    let mut segments = selectors([user.cs, user.ds, user.es, user.fs, user.gs, user.ss]);
    (segments[3].base, segments[4].base) = (context.fs_base.0, gs_base);
    let control = &context.ctrlreg.raw;
    Registers {
        vcpu,
        general,
        rip: user.rip.0,
        rflags: user.rflags.value,
        segments,
        cr: [control[0], 0, control[2], context.ctrlreg.cr3_pfn() << 12, control[4]],
        inactive_gs_base,
        paging: Paging::Long,
        context: bytes.to_vec(),
    }
}

fn of_pv32(vcpu: u32, context: &VcpuContext32, bytes: &[u8]) -> Registers {
    let user = &context.user_regs;
    let mut general = [0; 16];
    let low = [user.eax, user.ebx, user.ecx, user.edx, user.esi, user.edi, user.esp, user.ebp];
    for (place, register) in general.iter_mut().zip(low) {
        *place = register.0.into();
    }
    let segments = selectors([user.cs, user.ds, user.es, user.fs, user.gs, user.ss]);
    Registers {
        vcpu,
        general,
        rip: user.eip.0.into(),
        rflags: user.eflags.value.into(),
        segments,
        cr: [0, 0, 0, context.ctrlreg.cr3_pfn() << 12, 0],
        inactive_gs_base: 0,
        paging: Paging::Pae,
        context: bytes.to_vec(),
    }
}

fn selectors(selectors: [Hex<u16>; 6]) -> [Segment; 10] {
    let mut segments = [Segment::default(); 10];
    for (segment, selector) in segments.iter_mut().zip(selectors) {
        segment.selector = selector.0.into();
    }
    segments
}

#[cfg(test)]
mod tests {
    use super::*;
    use xen_migration_stream::decode::hvm_context::HvmContextBuilder;
    use xen_migration_stream::decode::hvm_entry::{EntryBody, HVM_FILE_MAGIC, Header};

    #[test]
    fn a_hvm_vcpu_is_what_xen_would_give_of_it() {
        let mut cpu = vec![0; Cpu::NATIVE];
        let put = |cpu: &mut Vec<u8>, at: usize, bytes: &[u8]| cpu[at..at + bytes.len()].copy_from_slice(bytes);
        // Each register has its own number, by the places of `struct hvm_hw_cpu`: behind 512 bytes of FPU, 16 registers, RIP, RFLAGS.
        for number in 0..18u64 {
            put(&mut cpu, 512 + 8 * number as usize, &(0x100 + number).to_le_bytes());
        }
        put(&mut cpu, 656, &0x8005_0033_u64.to_le_bytes());
        put(&mut cpu, 664, &0x2000_u64.to_le_bytes());
        put(&mut cpu, 672, &0x3000_u64.to_le_bytes());
        put(&mut cpu, 680, &0x20_u64.to_le_bytes());
        let header =
            Header { magic: Hex(HVM_FILE_MAGIC), version: 1, changeset: Hex(u64::MAX), cpuid: Hex(0), gtsc_khz: 0 };
        let mut builder = HvmContextBuilder::new();
        builder.push_body(0, &EntryBody::Header(Box::new(header))).unwrap();
        builder.push(CPU, 3, &cpu).unwrap();
        let all = Registers::of_hvm(&builder.finish()).unwrap();
        assert_eq!(all.len(), 1);
        let registers = &all[0];
        // rax, rbx, rcx, rdx, rbp, rsi, rdi, rsp in the structure; RSI, RDI, RSP, RBP here.
        assert_eq!(registers.general[..8], [0x100, 0x101, 0x102, 0x103, 0x105, 0x106, 0x107, 0x104]);
        assert_eq!((registers.vcpu, registers.rip, registers.rflags), (3, 0x110, 0x111));
        assert_eq!(registers.cr, [0x8005_0033, 0, 0x2000, 0x3000, 0x20]);
        assert_eq!((registers.paging, registers.in_kernel()), (Paging::Pae, true));
        assert_eq!(registers.context.len(), 5168);
        let word = |at: usize| u64::from_le_bytes(registers.context[at..at + 8].try_into().unwrap());
        // flags; r15 first of user_regs; rip behind 15 registers and 8 bytes; ctrlreg[0] and [3].
        assert_eq!((word(512), word(520), word(520 + 128)), (VALID_AND_ONLINE, 0x10f, 0x110));
        assert_eq!((word(4984), word(4984 + 24)), (0x8005_0033, 0x3000));
    }
}
