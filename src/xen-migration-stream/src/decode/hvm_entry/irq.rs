//! Interrupt routing: PIC (3), IOAPIC (4), PCI_IRQ (7), ISA_IRQ (8), PCI_LINK (9).
//!
//! Source: `xen/include/public/arch-x86/hvm/save.h`.

use serde::{Serialize, Serializer};

use crate::decode::hex::{Hex, Hex8, Hex32, Hex64, Reserved};
use crate::decode::wire::{Table, Wire, layout};

layout! {
    /// `struct hvm_hw_vpic`: one 8259A; instance 0 is the master, 1 the slave.
    pub struct Pic = "PIC" {
        /// Interrupt request register.
        irr: Hex8,
        /// Interrupt mask register.
        imr: Hex8,
        /// In-service register.
        isr: Hex8,
        /// Vector of the first line.
        irq_base: Hex8,
        /// Bits 0-3: state of the ICW2..4 initialisation, 0 for none; bits 4-7: `priority_add`, the
        /// line with the highest priority.
        state: PicState,
        mode: PicMode,
        /// Edge (0) or level (1) per line.
        elcr: Hex8,
        /// Level of the virtual INT line.
        int_output: u8,
    }
}

/// The byte of `hvm_hw_vpic` with the bit fields `init_state` and `priority_add`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PicState(pub u8);

impl PicState {
    /// Where the ICW2..4 initialisation stands, 0 when none is under way.
    pub fn init_state(self) -> u8 {
        self.0 & 0xf
    }

    /// Line with the highest priority.
    pub fn priority_add(self) -> u8 {
        self.0 >> 4
    }
}

impl Serialize for PicState {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct View {
            init_state: u8,
            priority_add: u8,
        }
        View { init_state: self.init_state(), priority_add: self.priority_add() }.serialize(s)
    }
}

impl Wire for PicState {
    const SIZE: usize = 1;

    fn parse(input: &[u8]) -> Option<(&[u8], Self)> {
        let (rest, byte) = u8::parse(input)?;
        Some((rest, PicState(byte)))
    }

    fn emit(&self, out: &mut Vec<u8>) {
        out.push(self.0);
    }
}

crate::decode::bits::register_bits! {
    /// The byte of one-bit fields in `hvm_hw_vpic`.
    PicModeBits {
        0 "readsel_isr", 1 "poll", 2 "auto_eoi", 3 "rotate_on_auto_eoi",
        4 "special_fully_nested_mode", 5 "special_mask_mode", 6 "is_master",
    }
}

/// The one-bit fields of `hvm_hw_vpic`, `readsel_isr` to `is_master`.
pub type PicMode = crate::decode::bits::Bits<u8, PicModeBits>;

/// Redirection entries of Xen's virtual IO-APIC (`VIOAPIC_NUM_PINS`).
pub const VIOAPIC_NUM_PINS: usize = 48;

layout! {
    /// `struct hvm_hw_vioapic`: the IO-APIC with its 48 pins.
    pub struct IoApic = "IOAPIC" {
        base_address: Hex64,
        /// Selected indirect register.
        ioregsel: Hex32,
        id: u32,
        redirtbl: Table<RedirEntry, VIOAPIC_NUM_PINS>,
    }
}

/// `union vioapic_redir_entry`: one redirection entry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RedirEntry(pub u64);

/// Names of the APIC delivery modes 0 to 7.
pub(super) fn delivery_mode(mode: u64) -> &'static str {
    match mode & 7 {
        0 => "fixed",
        1 => "lowest_priority",
        2 => "smi",
        4 => "nmi",
        5 => "init",
        6 => "startup",
        7 => "extint",
        _ => "reserved",
    }
}

impl RedirEntry {
    /// Vector delivered.
    pub fn vector(self) -> u8 {
        (self.0 & 0xff) as u8
    }

    /// Whether the pin is masked.
    pub fn masked(self) -> bool {
        self.0 >> 16 & 1 == 1
    }

    /// Destination APIC id or logical set.
    pub fn dest_id(self) -> u8 {
        (self.0 >> 56) as u8
    }
}

impl Serialize for RedirEntry {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct View {
            bits: Hex64,
            vector: Hex8,
            delivery: &'static str,
            dest_mode: &'static str,
            dest_id: u8,
            trigger: &'static str,
            polarity: &'static str,
            pending: bool,
            remote_irr: bool,
            masked: bool,
        }
        let bit = |n: u32| self.0 >> n & 1 == 1;
        View {
            bits: Hex(self.0),
            vector: Hex(self.vector()),
            delivery: delivery_mode(self.0 >> 8),
            dest_mode: if bit(11) { "logical" } else { "physical" },
            dest_id: self.dest_id(),
            trigger: if bit(15) { "level" } else { "edge" },
            polarity: if bit(13) { "low" } else { "high" },
            pending: bit(12),
            remote_irr: bit(14),
            masked: self.masked(),
        }
        .serialize(s)
    }
}

impl Wire for RedirEntry {
    const SIZE: usize = 8;

    fn parse(input: &[u8]) -> Option<(&[u8], Self)> {
        let (rest, value) = u64::parse(input)?;
        Some((rest, RedirEntry(value)))
    }

    fn emit(&self, out: &mut Vec<u8>) {
        self.0.emit(out);
    }
}

/// A bitmap of `N` bytes, bit 0 of the first byte being line 0; in JSON the list of set lines.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Lines<const N: usize>(pub [u8; N]);

impl<const N: usize> Lines<N> {
    /// The lines that are set, ascending.
    pub fn set(&self) -> Vec<usize> {
        (0..N * 8).filter(|line| self.0.get(line / 8).is_some_and(|byte| byte >> (line % 8) & 1 == 1)).collect()
    }
}

impl<const N: usize> std::fmt::Debug for Lines<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.set().fmt(f)
    }
}

impl<const N: usize> Serialize for Lines<N> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.set().serialize(s)
    }
}

impl<const N: usize> Wire for Lines<N> {
    const SIZE: usize = N;

    fn parse(input: &[u8]) -> Option<(&[u8], Self)> {
        let (rest, bytes) = crate::decode::hex::take_array(input)?;
        Some((rest, Lines(bytes)))
    }

    fn emit(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }
}

layout! {
    /// `struct hvm_hw_pci_irqs`: the INTx wires of PCI bus 0 that are asserted, numbered
    /// device * 4 + INTx.
    pub struct PciIrqs = "PCI_IRQ" {
        asserted: Lines<16>,
    }
}

layout! {
    /// `struct hvm_hw_isa_irqs`: the ISA interrupt lines that are asserted.
    pub struct IsaIrqs = "ISA_IRQ" {
        asserted: Lines<8>,
    }
}

layout! {
    /// `struct hvm_hw_pci_link`: the GSI that each of the four PCI-ISA links routes to, 0 for none.
    pub struct PciLink = "PCI_LINK" {
        route: Table<u8, 4>,
        pad0: Reserved<4>,
    }
}
