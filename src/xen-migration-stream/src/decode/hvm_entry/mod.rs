//! The entries of a HVM context by name, for the type codes of Xen 4.17 to 4.22.
//!
//! Source: `xen/include/public/arch-x86/hvm/save.h`. A blob that is longer than the longest layout
//! known here is decoded as far as it is known.

mod cpu;
mod irq;
mod lapic;
mod msrs;
mod timer;

pub use cpu::{Cpu, CpuEnd, CpuFlags, CpuRegs, CpuTail, HVM_FILE_MAGIC, HVM_FILE_VERSION, Header, PendingEvent};
pub use irq::{
    IoApic, IsaIrqs, Lines, PciIrqs, PciLink, Pic, PicMode, PicModeBits, PicState, RedirEntry, VIOAPIC_NUM_PINS,
};
pub use lapic::{ApicDisabled, Lapic, LapicRegs, LapicView, Lvt};
pub use msrs::{CpuMsr, CpuXsave, Mtrr, ViridianDomain, ViridianVcpu, VmceVcpu};
pub use timer::{Cmos, CmosTime, Hpet, HpetConfig, HpetTimer, Pit, PitChannel, PmTimer, Rtc, TscAdjust};

use serde::Serialize;

use super::error::DecodeError;
use super::wire::Blob;

/// Type code of the END entry.
pub const END: u16 = 0;
/// Type code of the HEADER entry.
pub const HEADER: u16 = 1;

macro_rules! entries {
    ($($(#[$meta:meta])* $code:literal $name:literal $variant:ident($type:ty);)*) => {
        /// The decoded data of one entry.
        #[derive(Debug, Clone, PartialEq, Serialize)]
        #[serde(untagged)]
        #[non_exhaustive]
        pub enum EntryBody {
            $($(#[$meta])* $variant(Box<$type>),)*
        }

        /// Name of a type code, without the `HVM_SAVE_` notation of the header; `END` for 0.
        pub fn entry_name(typecode: u16) -> Option<&'static str> {
            match typecode {
                END => Some("END"),
                $($code => Some($name),)*
                _ => None,
            }
        }

        impl EntryBody {
            /// Decodes the data of an entry. `None` for END and for type codes that are not known;
            /// the number counts the bytes behind the longest layout known.
            ///
            /// # Errors
            /// Where the data is shorter than, or between, the real layouts.
            pub fn decode(typecode: u16, data: &[u8]) -> Result<Option<(EntryBody, usize)>, DecodeError> {
                match typecode {
                    $($code => {
                        let (body, extra) = <$type>::decode(data)?;
                        Ok(Some((EntryBody::$variant(Box::new(body)), extra)))
                    })*
                    _ => Ok(None),
                }
            }

            /// Type code of the entry.
            pub fn typecode(&self) -> u16 {
                match self {
                    $(EntryBody::$variant(_) => $code,)*
                }
            }

            /// The data as Xen writes it.
            pub fn encode(&self) -> Vec<u8> {
                match self {
                    $(EntryBody::$variant(body) => body.encode(),)*
                }
            }
        }
    };
}

entries! {
    /// Who saved.
    1 "HEADER" Header(Header);
    /// A vCPU's registers.
    2 "CPU" Cpu(Cpu);
    /// A legacy interrupt controller.
    3 "PIC" Pic(Pic);
    /// The IO-APIC.
    4 "IOAPIC" IoApic(IoApic);
    /// A vCPU's APIC, hidden state.
    5 "LAPIC" Lapic(Lapic);
    /// A vCPU's APIC, registers.
    6 "LAPIC_REGS" LapicRegs(LapicRegs);
    /// PCI INTx wires.
    7 "PCI_IRQ" PciIrqs(PciIrqs);
    /// ISA interrupt lines.
    8 "ISA_IRQ" IsaIrqs(IsaIrqs);
    /// PCI-ISA links.
    9 "PCI_LINK" PciLink(PciLink);
    /// Interval timer.
    10 "PIT" Pit(Pit);
    /// Real-time clock.
    11 "RTC" Rtc(Rtc);
    /// High-precision event timer.
    12 "HPET" Hpet(Hpet);
    /// ACPI timer.
    13 "PMTIMER" PmTimer(PmTimer);
    /// Memory type ranges.
    14 "MTRR" Mtrr(Mtrr);
    /// Hyper-V state of the domain.
    15 "VIRIDIAN_DOMAIN" ViridianDomain(ViridianDomain);
    /// XSAVE state.
    16 "CPU_XSAVE" CpuXsave(CpuXsave);
    /// Hyper-V state of a vCPU.
    17 "VIRIDIAN_VCPU" ViridianVcpu(ViridianVcpu);
    /// Machine-check state.
    18 "VMCE_VCPU" VmceVcpu(VmceVcpu);
    /// TSC_ADJUST.
    19 "TSC_ADJUST" TscAdjust(TscAdjust);
    /// Further MSRs.
    20 "CPU_MSR" CpuMsr(CpuMsr);
}

#[cfg(test)]
mod tests;
