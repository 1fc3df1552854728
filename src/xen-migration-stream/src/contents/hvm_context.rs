//! HVM_CONTEXT entry by entry, as the hypervisor loads it.
//!
//! Nothing is allocated for a context in which all is well: receivers run this once a checkpoint.
//!
//! Source: `hvm_load` in `xen/arch/x86/hvm/save.c`, `hvm_load_cpu_ctxt`, `hvm_load_cpu_xsave_states` and
//! `hvm_load_cpu_msrs` in `xen/arch/x86/hvm/hvm.c`, of Xen 4.14 to 4.22.

use super::ContentProblem;
use super::policy::Policy;
use super::vcpus::{VcpuSet, xsave};
use crate::decode::DecodeError;
use crate::decode::hvm_context::{DESCRIPTOR, Entries, Entry};
use crate::decode::hvm_entry::{END, EntryBody, HEADER, HVM_FILE_MAGIC, HVM_FILE_VERSION, entry_name};
use crate::fit::release::{Change, LAPIC_ESR, LAPIC_LENGTHS};
use byteorder::{ByteOrder, LittleEndian};

const CPU: u16 = 2;
const LAPIC: u16 = 5;
const LAPIC_REGS: u16 = 6;
const CPU_XSAVE: u16 = 16;
const CPU_MSR: u16 = 20;

/// Bytes of a HEADER entry's data, and the first of them: magic and version.
const HEADER_LEN: usize = 24;
const HEADER_START: [[u8; 4]; 2] = [HVM_FILE_MAGIC.to_le_bytes(), HVM_FILE_VERSION.to_le_bytes()];

/// Bytes of XSAVE's legacy region and header.
const XSAVE_MIN: usize = 576;

/// An entry's lengths.
struct Layout {
    typecode: u16,
    /// The longest layout of Xen up to 4.22.
    longest: usize,
    /// Xen fills shorter ones up with zeros; where not, it takes this length alone.
    zero_extended: bool,
    /// The length of older releases, and which have the longest.
    newer: Option<(usize, &'static Change)>,
}

const fn exact(typecode: u16, longest: usize) -> Layout {
    Layout { typecode, longest, zero_extended: false, newer: None }
}

const fn extended(typecode: u16, longest: usize) -> Layout {
    Layout { typecode, longest, zero_extended: true, newer: None }
}

/// Every entry of fixed length; a short HEADER is the chain's own fault. Those that vary are looked at where they are read.
const LAYOUTS: &[Layout] = &[
    extended(HEADER, HEADER_LEN),
    extended(CPU, 1032),
    exact(3, 8),
    exact(4, 400),
    Layout { newer: Some((LAPIC_LENGTHS.0, &LAPIC_ESR)), ..extended(LAPIC, LAPIC_LENGTHS.1) },
    exact(LAPIC_REGS, 1024),
    exact(7, 16),
    exact(8, 8),
    exact(9, 8),
    exact(10, 56),
    extended(11, 24),
    exact(12, 1048),
    exact(13, 8),
    exact(14, 240),
    extended(15, 32),
    extended(17, 216),
    extended(18, 32),
    exact(19, 8),
];

/// Type codes of the entries of fixed length, each with its longest.
pub(crate) fn entry_lengths() -> impl Iterator<Item = (u16, usize)> {
    LAYOUTS.iter().map(|layout| (layout.typecode, layout.longest))
}

/// Bytes of the fields in `struct hvm_hw_cpu`.
mod at {
    pub(super) const CR0: usize = 656;
    pub(super) const CR3: usize = 672;
    pub(super) const CR4: usize = 680;
    pub(super) const DR6: usize = 720;
    pub(super) const DR7: usize = 728;
    pub(super) const EFER: usize = 992;
    pub(super) const TSC_AUX: usize = 1000;
    pub(super) const FLAGS: usize = 1024;
    pub(super) const PAD: usize = 1028;
}

/// CR0's bits that exist.
const CR0_KNOWN: u64 = 0xe005_003f;
const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

/// What a check gives its findings to: problems of the contents, and of the chain itself.
pub(super) enum Found {
    /// The chain or the header.
    Chain(DecodeError),
    /// An entry.
    Content(ContentProblem),
}

/// Checks a context. `remarks` asks also for what nobody refuses for certain.
pub(super) fn check(
    blob: &[u8],
    policy: &Policy,
    max_vcpus: Option<u32>,
    remarks: bool,
    report: &mut dyn FnMut(Found),
) {
    let (mut cpus, mut lapics, mut lapic_regs) = (VcpuSet::default(), VcpuSet::default(), VcpuSet::default());
    for entry in Entries::new(blob) {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                report(Found::Chain(error));
                continue;
            }
        };
        let vcpu = u32::from(entry.instance);
        match entry.typecode {
            HEADER => header(&entry, report),
            END => {}
            CPU => cpus.insert(vcpu),
            LAPIC => lapics.insert(vcpu),
            LAPIC_REGS => lapic_regs.insert(vcpu),
            _ => {}
        }
        let mut report = |problem: ContentProblem| {
            if remarks || problem.severity() == crate::Severity::Error {
                report(Found::Content(problem));
            }
        };
        if let Some(max_vcpus) = max_vcpus.filter(|max| per_vcpu(entry.typecode) && vcpu >= *max) {
            let what = entry_name(entry.typecode).unwrap_or("HVM_CONTEXT");
            report(ContentProblem::VcpuBeyondMaximum { what, vcpu, max_vcpus });
        }
        length(&entry, remarks, &mut report);
        match entry.typecode {
            CPU => registers(&entry, policy, remarks, &mut report),
            CPU_XSAVE => {
                if let Some((head, area)) = entry.data.split_at_checked(24)
                    && let Some(header) = area.get(512..XSAVE_MIN)
                {
                    let (xcr0, accumulated) = (LittleEndian::read_u64(&head[8..]), LittleEndian::read_u64(&head[16..]));
                    xsave(vcpu, (xcr0, accumulated), header, remarks.then_some(policy), &mut report);
                }
            }
            CPU_MSR => msrs(&entry, policy, remarks, &mut report),
            _ => {}
        }
    }
    if !remarks {
        return;
    }
    let mut report = |problem| report(Found::Content(problem));
    if !cpus.contains(0) {
        report(ContentProblem::HvmNoBootCpu);
    }
    for (set, entry) in [(&lapics, "LAPIC"), (&lapic_regs, "LAPIC_REGS")] {
        if let Some(vcpu) = cpus.first_without(set) {
            report(ContentProblem::HvmNoLapic { entry, vcpu });
        }
    }
    if let Some(max_vcpus) = max_vcpus.filter(|_| cpus.contains(0))
        && let Some((first, missing)) = cpus.missing_below(max_vcpus)
    {
        report(ContentProblem::VcpusOffline { first, missing, max_vcpus });
    }
}

/// Whether an entry's instance is the number of a vCPU.
const fn per_vcpu(typecode: u16) -> bool {
    matches!(typecode, CPU | LAPIC | LAPIC_REGS | 14 | CPU_XSAVE | 17 | 18 | 19 | CPU_MSR)
}

/// Length, magic and version, which Xen wants as they are.
fn header(entry: &Entry<'_>, report: &mut dyn FnMut(Found)) {
    if entry.data.len() == HEADER_LEN && entry.data.starts_with(HEADER_START.as_flattened()) {
        return;
    }
    let shifted = |error: DecodeError| Found::Chain(error.shifted(entry.offset + DESCRIPTOR));
    // Decoded, which costs an allocation, only to say what is wrong.
    match EntryBody::decode(entry.typecode, entry.data) {
        Ok(Some((EntryBody::Header(header), _))) => {
            if let Err(error) = header.check() {
                report(shifted(error));
            }
        }
        Ok(_) => {}
        Err(error) => report(shifted(error)),
    }
}

fn length(entry: &Entry<'_>, remarks: bool, report: &mut dyn FnMut(ContentProblem)) {
    let (typecode, instance, length) = (entry.typecode, entry.instance, entry.data.len());
    let Some(name) = entry_name(typecode) else {
        report(ContentProblem::HvmUnknownEntry { typecode, instance });
        return;
    };
    let least = match typecode {
        CPU_XSAVE => 24 + XSAVE_MIN,
        CPU_MSR => 24,
        _ => 0,
    };
    if length < least {
        report(ContentProblem::HvmEntryTooShort { entry: name, instance, length, least });
    }
    let Some(layout) = LAYOUTS.iter().find(|layout| layout.typecode == typecode) else { return };
    let most = layout.longest;
    match layout.newer {
        _ if length > most => report(ContentProblem::HvmEntryTooLong { entry: name, instance, length, most }),
        Some((older, since)) if length > older => {
            report(ContentProblem::HvmEntryNewer { entry: name, instance, length, older, since });
        }
        _ if length < most && !layout.zero_extended => {
            report(ContentProblem::HvmEntryTooShort { entry: name, instance, length, least: most });
        }
        Some((older, _)) if length == older => {}
        _ if typecode == HEADER => {}
        // Decoding costs an allocation.
        _ if remarks && length < most && EntryBody::decode(typecode, entry.data).is_err() => {
            report(ContentProblem::HvmEntryShort { entry: name, instance, length });
        }
        _ => {}
    }
}

/// The registers that Xen looks at before it loads any.
fn registers(entry: &Entry<'_>, policy: &Policy, remarks: bool, report: &mut dyn FnMut(ContentProblem)) {
    let vcpu = u32::from(entry.instance);
    let at = |offset: usize| entry.data.get(offset..offset + 8).map_or(0, LittleEndian::read_u64);
    let word = |offset: usize| entry.data.get(offset..offset + 4).map_or(0, LittleEndian::read_u32);
    if entry.data.len() < at::EFER + 8 {
        return;
    }
    let (cr0, efer) = (at(at::CR0), at(at::EFER));
    let mut wrong = |register, value, why| report(ContentProblem::Register { vcpu, register, value, why });
    if cr0 & !CR0_KNOWN != 0 {
        wrong("CR0", cr0, "it has reserved bits");
    } else if cr0 & CR0_ET == 0 {
        wrong("CR0", cr0, "bit 4 (et) is not set");
    } else if cr0 & CR0_PG != 0 && cr0 & CR0_PE == 0 {
        wrong("CR0", cr0, "paging without protected mode");
    }
    if efer & EFER_LMA != 0 && (efer & EFER_LME == 0 || cr0 & CR0_PG == 0) {
        wrong("EFER", efer, "long mode is active without EFER.LME or CR0.PG");
    }
    if word(at::FLAGS) & !1 != 0 {
        wrong("CPU.flags", word(at::FLAGS).into(), "only bit 0 exists");
    }
    if word(at::PAD) != 0 {
        wrong("CPU.pad0", word(at::PAD).into(), "it must be zero");
    }
    if !remarks {
        return;
    }
    for (register, value) in [("DR6", at(at::DR6)), ("DR7", at(at::DR7))] {
        if value >> 32 != 0 {
            let why = "bits 32 to 63 are set: newer releases of Xen refuse it";
            report(ContentProblem::RegisterDepends { vcpu, register, value, why });
        }
    }
    // The layout of 1,016 bytes has none.
    if entry.data.len() > 1016 && at(at::TSC_AUX) >> 32 != 0 {
        let why = "bits 32 to 63 are set: newer releases of Xen refuse it";
        report(ContentProblem::RegisterDepends { vcpu, register: "TSC_AUX", value: at(at::TSC_AUX), why });
    }
    if at(at::CR3) >> 52 != 0 {
        let why = "no CPU has so many bits of physical address: Xen refuses it";
        report(ContentProblem::RegisterDepends { vcpu, register: "CR3", value: at(at::CR3), why });
    }
    policy.cr4(vcpu, at(at::CR4), report);
    policy.efer(vcpu, efer, report);
}

fn msrs(entry: &Entry<'_>, policy: &Policy, remarks: bool, report: &mut dyn FnMut(ContentProblem)) {
    let vcpu = u32::from(entry.instance);
    let Some((head, entries)) = entry.data.split_at_checked(8) else { return };
    let count = LittleEndian::read_u32(head);
    if entries.len() as u64 != u64::from(count) * 16 {
        let why = "the entry has another number of MSRs";
        report(ContentProblem::Register { vcpu, register: "CPU_MSR.count", value: count.into(), why });
        return;
    }
    for entry in entries.chunks_exact(16) {
        let (index, flags) = (LittleEndian::read_u32(entry), LittleEndian::read_u32(&entry[4..]));
        if flags != 0 {
            let why = "it must be zero";
            report(ContentProblem::Register { vcpu, register: "CPU_MSR.msr._rsvd", value: flags.into(), why });
        }
        if remarks {
            policy.msr(vcpu, "HVM_CONTEXT", false, (index, LittleEndian::read_u64(&entry[8..])), report);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_layouts_are_those_that_the_decoders_know() {
        for layout in LAYOUTS {
            let (_, extra) = EntryBody::decode(layout.typecode, &vec![0; layout.longest]).unwrap().unwrap();
            assert_eq!(extra, 0, "type {}", layout.typecode);
            let (_, extra) = EntryBody::decode(layout.typecode, &vec![0; layout.longest + 8]).unwrap().unwrap();
            assert_eq!(extra, 8, "type {}", layout.typecode);
        }
    }
}
