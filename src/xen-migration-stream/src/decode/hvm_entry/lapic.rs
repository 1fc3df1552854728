//! Local APIC: LAPIC (5), the state without a register, and LAPIC_REGS (6), the register page.
//!
//! Source: `xen/include/public/arch-x86/hvm/save.h`; register offsets from the Intel SDM, volume 3,
//! chapter "Advanced Programmable Interrupt Controller".

use serde::{Serialize, Serializer};

use super::irq::delivery_mode;
use crate::decode::bits::{Bits, register_bits};
use crate::decode::error::DecodeError;
use crate::decode::hex::{Hex, Hex8, Hex32, Hex64, Reserved};
use crate::decode::wire::{Blob, layout};

register_bits! {
    /// `hvm_hw_lapic.disabled`.
    ApicDisabled { 0 "software", 1 "hardware" }
}

layout! {
    /// `struct hvm_hw_lapic`: 24 bytes in Xen 4.17, 32 since Xen kept pending errors (4.18).
    pub struct Lapic = "LAPIC" {
        /// APIC base MSR: base address, bit 8 BSP, bit 10 x2APIC, bit 11 enabled.
        apic_base_msr: Hex64,
        disabled: Bits<u32, ApicDisabled>,
        /// Divisor of the timer's clock.
        timer_divisor: u32,
        /// TSC deadline MSR.
        tdt_msr: Hex64,
    } later {
        /// Errors collected for the next read of the error status register.
        pending_esr: Hex32,
        pad0: Reserved<4>,
    }
}

/// `struct hvm_hw_lapic_regs`: the first 1024 bytes of the APIC register page. A register has 16
/// bytes of which the first four count.
#[derive(Clone, PartialEq, Eq)]
pub struct LapicRegs {
    data: Box<[u8; Self::LENGTH]>,
}

/// The registers of [`LapicRegs`] by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LapicView {
    /// APIC id register; the id is in bits 31-24 unless in x2APIC mode.
    pub id: Hex32,
    /// Version register.
    pub version: Hex32,
    /// Task priority.
    pub tpr: Hex8,
    /// Processor priority.
    pub ppr: Hex8,
    /// Logical destination.
    pub ldr: Hex32,
    /// Destination format.
    pub dfr: Hex32,
    /// Spurious interrupt vector register; bit 8 is the software enable.
    pub svr: Hex32,
    /// Whether the APIC is enabled by software (bit 8 of `svr`).
    pub enabled: bool,
    /// Vectors in service.
    pub isr: Vec<u8>,
    /// Vectors that are level triggered.
    pub tmr: Vec<u8>,
    /// Vectors requested.
    pub irr: Vec<u8>,
    /// Error status.
    pub esr: Hex32,
    /// Interrupt command, both halves.
    pub icr: Hex64,
    /// Local vector table: corrected machine checks.
    pub lvt_cmci: Lvt,
    /// Local vector table: timer.
    pub lvt_timer: Lvt,
    /// Mode of the timer.
    pub timer_mode: &'static str,
    /// Local vector table: thermal sensor.
    pub lvt_thermal: Lvt,
    /// Local vector table: performance counters.
    pub lvt_perf: Lvt,
    /// Local vector table: pin LINT0.
    pub lvt_lint0: Lvt,
    /// Local vector table: pin LINT1.
    pub lvt_lint1: Lvt,
    /// Local vector table: APIC errors.
    pub lvt_error: Lvt,
    /// Initial count of the timer.
    pub timer_initial: u32,
    /// Current count of the timer.
    pub timer_current: u32,
    /// Divide configuration of the timer.
    pub timer_divide: Hex32,
}

/// One entry of the local vector table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Lvt {
    /// Whole register.
    pub value: Hex32,
    /// Vector delivered.
    pub vector: Hex8,
    /// Delivery mode.
    pub delivery: &'static str,
    /// Whether the source is masked.
    pub masked: bool,
}

impl LapicRegs {
    /// Bytes in the blob.
    pub const LENGTH: usize = 1024;

    /// A register page from its bytes.
    pub fn new(data: [u8; Self::LENGTH]) -> Self {
        LapicRegs { data: Box::new(data) }
    }

    /// The register at `offset` of the page; 0 outside of it.
    pub fn register(&self, offset: usize) -> u32 {
        match self.data.get(offset..).and_then(|at| at.first_chunk::<4>()) {
            Some(bytes) => u32::from_le_bytes(*bytes),
            None => 0,
        }
    }

    /// The page itself.
    pub fn data(&self) -> &[u8; Self::LENGTH] {
        &self.data
    }

    /// The vectors set in the 256-bit register that starts at `offset`.
    fn vectors(&self, offset: usize) -> Vec<u8> {
        (0..=255u8)
            .filter(|vector| {
                let at = usize::from(vector / 32);
                self.register(offset + at * 16) >> (vector % 32) & 1 == 1
            })
            .collect()
    }

    fn lvt(&self, offset: usize) -> Lvt {
        let value = self.register(offset);
        Lvt {
            value: Hex(value),
            vector: Hex((value & 0xff) as u8),
            delivery: delivery_mode(u64::from(value >> 8)),
            masked: value >> 16 & 1 == 1,
        }
    }

    /// The registers by name.
    pub fn view(&self) -> LapicView {
        let svr = self.register(0xf0);
        let timer = self.register(0x320);
        LapicView {
            id: Hex(self.register(0x20)),
            version: Hex(self.register(0x30)),
            tpr: Hex((self.register(0x80) & 0xff) as u8),
            ppr: Hex((self.register(0xa0) & 0xff) as u8),
            ldr: Hex(self.register(0xd0)),
            dfr: Hex(self.register(0xe0)),
            svr: Hex(svr),
            enabled: svr >> 8 & 1 == 1,
            isr: self.vectors(0x100),
            tmr: self.vectors(0x180),
            irr: self.vectors(0x200),
            esr: Hex(self.register(0x280)),
            icr: Hex(u64::from(self.register(0x310)) << 32 | u64::from(self.register(0x300))),
            lvt_cmci: self.lvt(0x2f0),
            lvt_timer: self.lvt(0x320),
            timer_mode: match timer >> 17 & 3 {
                0 => "oneshot",
                1 => "periodic",
                2 => "tsc_deadline",
                _ => "reserved",
            },
            lvt_thermal: self.lvt(0x330),
            lvt_perf: self.lvt(0x340),
            lvt_lint0: self.lvt(0x350),
            lvt_lint1: self.lvt(0x360),
            lvt_error: self.lvt(0x370),
            timer_initial: self.register(0x380),
            timer_current: self.register(0x390),
            timer_divide: Hex(self.register(0x3e0)),
        }
    }
}

impl std::fmt::Debug for LapicRegs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.view().fmt(f)
    }
}

impl Serialize for LapicRegs {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.view().serialize(s)
    }
}

impl Blob for LapicRegs {
    const NAME: &'static str = "LAPIC_REGS";

    fn decode(blob: &[u8]) -> Result<(Self, usize), DecodeError> {
        let Some((data, rest)) = blob.split_first_chunk::<{ Self::LENGTH }>() else {
            return Err(DecodeError::TooShort { what: "LAPIC_REGS", offset: 0, needed: Self::LENGTH, got: blob.len() });
        };
        Ok((LapicRegs::new(*data), rest.len()))
    }

    fn encode(&self) -> Vec<u8> {
        self.data.to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lapic_has_a_short_and_a_long_layout() {
        assert_eq!((Lapic::SHORT, Lapic::LONG), (24, 32));
        let mut blob = Vec::new();
        blob.extend_from_slice(&0xfee0_0900u64.to_le_bytes());
        blob.extend_from_slice(&1u32.to_le_bytes());
        blob.extend_from_slice(&16u32.to_le_bytes());
        blob.extend_from_slice(&0x1234u64.to_le_bytes());
        let (short, extra) = Lapic::decode(&blob).unwrap();
        assert_eq!((short.pending_esr, extra), (None, 0));
        assert_eq!(short.disabled.names(), ["software"]);
        assert_eq!(short.timer_divisor, 16);
        assert_eq!(short.encode(), blob);
        for torn in 1..8 {
            let mut torn_blob = blob.clone();
            torn_blob.resize(24 + torn, 0);
            assert_eq!(
                Lapic::decode(&torn_blob),
                Err(DecodeError::TooShort { what: "LAPIC", offset: 0, needed: 32, got: 24 + torn })
            );
        }
        blob.extend_from_slice(&0x40u32.to_le_bytes());
        blob.extend_from_slice(&[0; 4]);
        let (long, extra) = Lapic::decode(&blob).unwrap();
        assert_eq!((long.pending_esr, extra), (Some(Hex(0x40)), 0));
        assert_eq!(long.encode(), blob);
        let json = serde_json::to_value(&long).unwrap();
        assert_eq!(json["pending_esr"], "0x40");
        assert!(json.get("pad0").is_none());
        blob.push(9);
        assert_eq!(Lapic::decode(&blob).unwrap().1, 1);
    }

    #[test]
    fn registers_by_name() {
        let mut page = [0u8; 1024];
        let mut set = |at: usize, value: u32| page[at..at + 4].copy_from_slice(&value.to_le_bytes());
        set(0x20, 0x0200_0000);
        set(0x30, 0x0005_0014);
        set(0xf0, 0x1ff);
        set(0x110, 1 << 3);
        set(0x170, 1 << 31);
        set(0x220, 1);
        set(0x300, 0x000c_08fd);
        set(0x310, 0x0100_0000);
        set(0x320, 0x0004_00ef);
        set(0x350, 0x0001_0700);
        set(0x380, 77);
        let regs = LapicRegs::new(page);
        let view = regs.view();
        assert_eq!(view.id, Hex(0x0200_0000));
        assert!(view.enabled);
        assert_eq!(view.isr, [35, 255]);
        assert_eq!(view.irr, [64]);
        assert_eq!(view.icr, Hex(0x0100_0000_000c_08fd));
        assert_eq!((view.lvt_timer.vector, view.timer_mode), (Hex(0xef), "tsc_deadline"));
        assert_eq!((view.lvt_lint0.delivery, view.lvt_lint0.masked), ("extint", true));
        assert_eq!(view.timer_initial, 77);
        assert_eq!(regs.register(1024), 0);
        assert_eq!(regs.encode(), page);
    }
}
