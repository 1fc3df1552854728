//! vCPUs and platform devices: the state behind the HVM context.
//!
//! The registers live in the bytes of their HVM context entry, so that saving and loading lose nothing, whoever wrote the blob.

use byteorder::{ByteOrder, LittleEndian};

use super::hvm_blob::{self, CPU, CPU_SIZE, Entry};
use crate::hypervisor::error::{Error, HvmContextProblem, Result};

/// A 64-bit register: its offset in `struct hvm_hw_cpu` (Xen's `public/arch-x86/hvm/save.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Register(usize);

impl Register {
    /// Counter of the steps that the vCPU has run.
    pub const RAX: Register = Register(512);
    /// Base register.
    pub const RBX: Register = Register(520);
    /// Third argument and loop counter.
    pub const RCX: Register = Register(528);
    /// Data register.
    pub const RDX: Register = Register(536);
    /// Frame pointer.
    pub const RBP: Register = Register(544);
    /// Source index.
    pub const RSI: Register = Register(552);
    /// Destination index.
    pub const RDI: Register = Register(560);
    /// Stack pointer.
    pub const RSP: Register = Register(568);
    /// First of the numbered registers.
    pub const R8: Register = Register(576);
    /// Ninth register.
    pub const R9: Register = Register(584);
    /// Tenth register.
    pub const R10: Register = Register(592);
    /// Eleventh register.
    pub const R11: Register = Register(600);
    /// Instruction pointer.
    pub const RIP: Register = Register(640);
    /// Flags.
    pub const RFLAGS: Register = Register(648);
    /// Control register 0.
    pub const CR0: Register = Register(656);
    /// Control register 3: the page-table root.
    pub const CR3: Register = Register(672);
    /// Control register 4.
    pub const CR4: Register = Register(680);
    /// Debug register 6.
    pub const DR6: Register = Register(720);
    /// Debug register 7.
    pub const DR7: Register = Register(728);
    /// Extended feature enables.
    pub const EFER: Register = Register(992);
    /// What RDTSCP gives besides the counter.
    pub const TSC_AUX: Register = Register(1000);
    /// The guest's time stamp counter.
    pub const TSC: Register = Register(1008);
}

/// Type code of the PM timer's entry.
const PMTIMER: u16 = 13;

/// The HVM state of a domain: every entry of its context, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HvmState {
    entries: Vec<Entry>,
    /// Where the vCPUs are among the entries.
    cpus: Vec<usize>,
    pmtimer: Option<usize>,
}

impl HvmState {
    /// Takes over entries. The CPU entries must be of Xen's size, count up from vCPU 0, and be no more than `nr_vcpus`.
    pub(super) fn from_entries(entries: Vec<Entry>, nr_vcpus: u32) -> Result<Self> {
        let mut cpus = Vec::new();
        let mut pmtimer = None;
        let mut offset = 0;
        for (index, entry) in entries.iter().enumerate() {
            if entry.typecode == CPU {
                let expected = cpus.len() as u32;
                if entry.data.len() != CPU_SIZE {
                    let problem = HvmContextProblem::CpuSize { expected: CPU_SIZE, found: entry.data.len() };
                    return Err(Error::HvmContext { offset, problem });
                }
                if u32::from(entry.instance) != expected || expected >= nr_vcpus {
                    let problem = HvmContextProblem::VcpuInstance { vcpu: entry.instance, expected, nr_vcpus };
                    return Err(Error::HvmContext { offset, problem });
                }
                cpus.push(index);
            } else if entry.typecode == PMTIMER && entry.data.len() >= 4 {
                pmtimer = Some(index);
            }
            offset += 8 + entry.data.len();
        }
        Ok(HvmState { entries, cpus, pmtimer })
    }

    /// Loads a blob.
    pub(super) fn parse(blob: &[u8], nr_vcpus: u32) -> Result<Self> {
        HvmState::from_entries(hvm_blob::parse(blob)?, nr_vcpus)
    }

    /// Saves into a blob.
    pub(super) fn emit(&self, blob: &mut Vec<u8>) -> Result<()> {
        hvm_blob::emit(&self.entries, blob).map_err(|source| Error::Os { operation: "writing a HVM context", source })
    }

    /// How many vCPUs are up.
    pub fn nr_online(&self) -> usize {
        self.cpus.len()
    }

    /// A register of a vCPU; `None` when there is no such vCPU.
    pub fn register(&self, vcpu: usize, register: Register) -> Option<u64> {
        let entry = self.entries.get(*self.cpus.get(vcpu)?)?;
        entry.data.get(register.0..register.0 + 8).map(LittleEndian::read_u64)
    }

    /// Sets a register of a vCPU. Returns false when there is no such vCPU.
    pub(super) fn set_register(&mut self, vcpu: usize, register: Register, value: u64) -> bool {
        let entry = self.cpus.get(vcpu).and_then(|&index| self.entries.get_mut(index));
        match entry.and_then(|entry| entry.data.get_mut(register.0..register.0 + 8)) {
            Some(bytes) => {
                LittleEndian::write_u64(bytes, value);
                true
            }
            None => false,
        }
    }

    /// Lets the PM timer count on, where the platform has one.
    pub(super) fn advance_pmtimer(&mut self, ticks: u32) {
        let entry = self.pmtimer.and_then(|index| self.entries.get_mut(index));
        if let Some(counter) = entry.and_then(|entry| entry.data.get_mut(..4)) {
            LittleEndian::write_u32(counter, LittleEndian::read_u32(counter).wrapping_add(ticks));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypervisor::sim::platform;

    #[test]
    fn state_round_trips_through_the_blob() {
        let mut state = HvmState::from_entries(platform::power_on(3, 2_400_000), 3).unwrap();
        assert_eq!(state.nr_online(), 3);
        assert!(state.set_register(2, Register::R11, 0x0123_4567_89ab_cdef));
        assert!(!state.set_register(3, Register::R11, 1));
        state.advance_pmtimer(7);
        let mut blob = Vec::new();
        state.emit(&mut blob).unwrap();
        let again = HvmState::parse(&blob, 3).unwrap();
        assert_eq!(again, state);
        assert_eq!(again.register(2, Register::R11), Some(0x0123_4567_89ab_cdef));
        assert_eq!(again.register(3, Register::R11), None);
    }

    #[test]
    fn vcpus_out_of_turn_or_too_many_are_refused() {
        let problem = |entries, nr_vcpus| match HvmState::from_entries(entries, nr_vcpus) {
            Err(Error::HvmContext { offset, problem }) => (offset, problem),
            other => panic!("{other:?}"),
        };
        let entries = platform::power_on(2, 1000);
        let second = 32 + 8 + CPU_SIZE;
        assert_eq!(
            problem(entries.clone(), 1),
            (second, HvmContextProblem::VcpuInstance { vcpu: 1, expected: 1, nr_vcpus: 1 })
        );
        let mut twice = entries.clone();
        twice[2].instance = 0;
        assert_eq!(problem(twice, 2), (second, HvmContextProblem::VcpuInstance { vcpu: 0, expected: 1, nr_vcpus: 2 }));
        let mut short = entries;
        short[1].data.truncate(1016);
        assert_eq!(problem(short, 2), (32, HvmContextProblem::CpuSize { expected: 1032, found: 1016 }));
    }
}
