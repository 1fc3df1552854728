//! The fields of a vCPU context that are more than a number.

use std::marker::PhantomData;

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use crate::decode::bits::{Bits, Cr0, Cr4, register_bits};
use crate::decode::hex::{Hex, Hex8, Hex16, Hex32, Hex64, Reserved};
use crate::decode::wire::{Table, Wire, layout};

register_bits! {
    /// `vcpu_guest_context.flags`, names as the `VGCF_` constants.
    VcpuFlags {
        0 "i387_valid", 2 "in_kernel", 3 "failsafe_disables_events", 4 "syscall_disables_events",
        5 "online", 8 "in_syscall",
    }
    /// `vcpu_guest_context.vm_assist`, names as the `VMASST_TYPE_` constants.
    VmAssist {
        0 "4gb_segments", 1 "4gb_segments_notify", 2 "writable_pagetables", 3 "pae_extended_cr3",
        4 "architectural_iopl", 5 "runstate_update_flag", 32 "m2p_strict",
    }
}

layout! {
    /// `struct trap_info` of a 64-bit guest.
    pub struct TrapInfo64 = "trap_info" {
        vector: u8,
        /// Bits 0-1 privilege level that may raise the trap by software; bit 2 events are masked on
        /// entry.
        flags: Hex8,
        cs: Hex16,
        pad0: Reserved<4>,
        /// Handler; 0 for none.
        address: Hex64,
    }
}

layout! {
    /// `struct trap_info` of a 32-bit guest.
    pub struct TrapInfo32 = "trap_info" {
        vector: u8,
        /// As in [`TrapInfo64`].
        flags: Hex8,
        cs: Hex16,
        /// Handler; 0 for none.
        address: Hex32,
    }
}

/// What the table shows of a trap entry, whatever the width.
pub trait Trap {
    /// Vector, flags, code selector, handler.
    fn parts(&self) -> (u8, u8, u16, u64);
}

impl Trap for TrapInfo64 {
    fn parts(&self) -> (u8, u8, u16, u64) {
        (self.vector, self.flags.0, self.cs.0, self.address.0)
    }
}

impl Trap for TrapInfo32 {
    fn parts(&self) -> (u8, u8, u16, u64) {
        (self.vector, self.flags.0, self.cs.0, self.address.0.into())
    }
}

/// The virtual IDT, 256 entries; JSON counts those with a handler and lists the exceptions' (vectors
/// 0 to 31), as the rest are alike as a rule.
#[derive(Debug, Clone, PartialEq)]
pub struct TrapTable<T>(pub Table<T, 256>);

impl<T: Trap> TrapTable<T> {
    /// The entries with a handler, by their place in the table.
    pub fn set(&self) -> impl Iterator<Item = (usize, &T)> {
        self.0.iter().enumerate().filter(|(_, trap)| trap.parts().3 != 0)
    }
}

impl<T: Trap> Serialize for TrapTable<T> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct View {
            vector: u8,
            dpl: u8,
            masks_events: bool,
            cs: Hex16,
            address: Hex64,
        }
        let exceptions: Vec<View> = self
            .set()
            .filter(|(place, _)| *place < 32)
            .map(|(_, trap)| {
                let (vector, flags, cs, address) = trap.parts();
                View { vector, dpl: flags & 3, masks_events: flags & 4 != 0, cs: Hex(cs), address: Hex(address) }
            })
            .collect();
        let mut out = s.serialize_struct("TrapTable", 2)?;
        out.serialize_field("set", &self.set().count())?;
        out.serialize_field("exceptions", &exceptions)?;
        out.end()
    }
}

impl<T: Wire> Wire for TrapTable<T> {
    const SIZE: usize = Table::<T, 256>::SIZE;

    fn parse(input: &[u8]) -> Option<(&[u8], Self)> {
        let (rest, table) = Table::parse(input)?;
        Some((rest, TrapTable(table)))
    }

    fn emit(&self, out: &mut Vec<u8>) {
        self.0.emit(out);
    }
}

/// The pfns of the GDT's 16 frames; JSON leaves out the unused ones at the end.
#[derive(Debug, Clone, PartialEq)]
pub struct GdtFrames<T>(pub Table<T, 16>);

impl<T: Wire + Copy + Into<u64>> Serialize for GdtFrames<T> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let frames: Vec<u64> = self.0.iter().map(|f| (*f).into()).collect();
        let used = frames.iter().rposition(|f| *f != 0).map_or(0, |last| last + 1);
        s.collect_seq(frames.iter().take(used).map(|f| Hex(*f)))
    }
}

impl<T: Wire> Wire for GdtFrames<T> {
    const SIZE: usize = Table::<T, 16>::SIZE;

    fn parse(input: &[u8]) -> Option<(&[u8], Self)> {
        let (rest, table) = Table::parse(input)?;
        Some((rest, GdtFrames(table)))
    }

    fn emit(&self, out: &mut Vec<u8>) {
        self.0.emit(out);
    }
}

/// How a guest of one width folds a pfn into CR3 (`xen_pfn_to_cr3`).
pub trait Cr3Fold {
    /// The pfn in a folded CR3.
    fn pfn(cr3: u64) -> u64;
    /// The folded CR3 of the user page table in `ctrlreg[1]`, where the width has one and it is set.
    fn user_cr3(ctrlreg1: u64) -> Option<u64>;
}

/// 64-bit: the pfn is CR3 shifted by 12; `ctrlreg[1]` holds the user page table with bit 0 set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fold64 {}

/// 32-bit: the low 20 bits of the pfn are CR3's bits 31-12, the high 12 its bits 11-0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fold32 {}

impl Cr3Fold for Fold64 {
    fn pfn(cr3: u64) -> u64 {
        cr3 >> 12
    }

    fn user_cr3(ctrlreg1: u64) -> Option<u64> {
        (ctrlreg1 & 1 == 1).then_some(ctrlreg1)
    }
}

impl Cr3Fold for Fold32 {
    fn pfn(cr3: u64) -> u64 {
        (cr3 >> 12 & 0xf_ffff) | (cr3 & 0xfff) << 20
    }

    fn user_cr3(_: u64) -> Option<u64> {
        None
    }
}

/// `vcpu_guest_context.ctrlreg`: CR0 to CR7, with CR3 (and on x86-64 the user page table in CR1's
/// place) as folded pfns.
#[derive(Clone, PartialEq)]
pub struct ControlRegs<T, F> {
    /// The registers as they are in the stream.
    pub raw: Table<T, 8>,
    fold: PhantomData<F>,
}

impl<T: Copy + Into<u64>, F: Cr3Fold> ControlRegs<T, F> {
    /// Wraps the eight registers.
    pub fn new(raw: Table<T, 8>) -> Self {
        ControlRegs { raw, fold: PhantomData }
    }

    fn at(&self, n: usize) -> u64 {
        self.raw.get(n).map_or(0, |r| (*r).into())
    }

    /// The pfn of the kernel's top-level page table.
    pub fn cr3_pfn(&self) -> u64 {
        F::pfn(self.at(3))
    }

    /// The pfn of the user-mode top-level page table.
    pub fn user_pfn(&self) -> Option<u64> {
        F::user_cr3(self.at(1)).map(F::pfn)
    }
}

impl<T: Copy + Into<u64>, F: Cr3Fold> std::fmt::Debug for ControlRegs<T, F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries((0..8).map(|n| Hex(self.at(n)))).finish()
    }
}

impl<T: Copy + Into<u64>, F: Cr3Fold> Serialize for ControlRegs<T, F> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let others = [5, 6, 7].iter().all(|n| self.at(*n) == 0);
        let mut out = s.serialize_struct("ControlRegs", 7)?;
        out.serialize_field("cr0", &Bits::<u64, Cr0>::new(self.at(0)))?;
        out.serialize_field("cr1", &Hex(self.at(1)))?;
        out.serialize_field("cr2", &Hex(self.at(2)))?;
        out.serialize_field("cr3", &Hex(self.at(3)))?;
        out.serialize_field("cr3_pfn", &Hex(self.cr3_pfn()))?;
        out.serialize_field("user_pfn", &self.user_pfn().map(Hex))?;
        out.serialize_field("cr4", &Bits::<u64, Cr4>::new(self.at(4)))?;
        if !others {
            out.serialize_field("cr5_to_cr7", &[5, 6, 7].map(|n| Hex(self.at(n))))?;
        }
        out.end()
    }
}

impl<T: Wire + Copy + Into<u64>, F: Cr3Fold> Wire for ControlRegs<T, F> {
    const SIZE: usize = Table::<T, 8>::SIZE;

    fn parse(input: &[u8]) -> Option<(&[u8], Self)> {
        let (rest, raw) = Table::parse(input)?;
        Some((rest, ControlRegs::new(raw)))
    }

    fn emit(&self, out: &mut Vec<u8>) {
        self.raw.emit(out);
    }
}
