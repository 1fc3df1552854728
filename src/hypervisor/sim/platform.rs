//! The state of a freshly started platform: the entries of a HVM context, of the sizes that Xen 4.17 writes.

use byteorder::{ByteOrder, LittleEndian};

use super::hvm_blob::{CPU, CPU_SIZE, Entry, HEADER, MAGIC, VERSION};

/// An entry under construction, filled field by field.
struct Body(Vec<u8>);

impl Body {
    fn new(size: usize) -> Self {
        Body(vec![0; size])
    }

    fn u8(mut self, offset: usize, value: u8) -> Self {
        if let Some(byte) = self.0.get_mut(offset) {
            *byte = value;
        }
        self
    }

    fn u16(mut self, offset: usize, value: u16) -> Self {
        if let Some(bytes) = self.0.get_mut(offset..offset + 2) {
            LittleEndian::write_u16(bytes, value);
        }
        self
    }

    fn u32(mut self, offset: usize, value: u32) -> Self {
        if let Some(bytes) = self.0.get_mut(offset..offset + 4) {
            LittleEndian::write_u32(bytes, value);
        }
        self
    }

    fn u64(mut self, offset: usize, value: u64) -> Self {
        if let Some(bytes) = self.0.get_mut(offset..offset + 8) {
            LittleEndian::write_u64(bytes, value);
        }
        self
    }

    fn entry(self, typecode: u16, instance: u16) -> Entry {
        Entry { typecode, instance, data: self.0 }
    }
}

/// The context of a domain whose vCPUs run in long mode, before their first step, at a TSC frequency of `khz`.
pub(super) fn power_on(nr_vcpus: u32, khz: u32) -> Vec<Entry> {
    let vcpus = 0..u16::try_from(nr_vcpus).unwrap_or(u16::MAX);
    let header = Body::new(24)
        .u32(0, MAGIC)
        .u32(4, VERSION)
        .u64(8, u64::MAX) // No changeset is known.
        .u32(16, super::policy::SIGNATURE)
        .u32(20, khz);
    let mut entries = vec![header.entry(HEADER, 0)];
    entries.extend(vcpus.clone().map(cpu));
    entries.push(pic(0x30).u8(5, 0x40).u8(6, 0x20).entry(3, 0)); // The master; ELCR: line 5 by level.
    entries.push(pic(0x38).u8(6, 0x0c).entry(3, 1)); // The slave; ELCR: lines 10 and 11 by level.
    entries.push(ioapic().entry(4, 0));
    entries.extend(vcpus.clone().map(lapic));
    entries.extend(vcpus.clone().map(lapic_registers));
    entries.push(Body::new(16).entry(7, 0)); // PCI_IRQ: all lines low.
    entries.push(Body::new(8).entry(8, 0)); // ISA_IRQ: likewise.
    entries.push(Body::new(8).u8(0, 5).u8(1, 10).u8(2, 11).u8(3, 5).entry(9, 0)); // PCI_LINK
    entries.push(pit().entry(10, 0));
    entries.push(rtc().entry(11, 0));
    entries.push(Body::new(1048).u64(0, 0x00f4_2400_8086_a201).entry(12, 0)); // HPET: capabilities, 64 MHz, 3 timers.
    entries.push(Body::new(8).entry(13, 0)); // PMTIMER
    entries.extend(vcpus.clone().map(mtrr));
    entries.extend(vcpus.clone().map(|vcpu| Body::new(32).u64(0, 2).entry(18, vcpu))); // VMCE_VCPU: two banks.
    entries.extend(vcpus.map(|vcpu| Body::new(8).entry(19, vcpu))); // TSC_ADJUST
    entries
}

/// `struct hvm_hw_cpu` in 64-bit flat mode with paging.
fn cpu(vcpu: u16) -> Entry {
    /// First selector, limit, base and access-rights fields; each array runs cs, ds, es, fs, gs, ss, tr, ldtr (and, for limits and
    /// bases, idtr, gdtr).
    const SELECTORS: usize = 736;
    const LIMITS: usize = 768;
    const BASES: usize = 808;
    const RIGHTS: usize = 888;
    let stack = 0xffff_8000_0010_0000 + u64::from(vcpu) * 0x4000;
    let mut body = Body::new(CPU_SIZE)
        .u16(0, 0x037f) // x87 control word after FNINIT.
        .u32(24, 0x1f80) // MXCSR after reset.
        .u64(568, stack)
        .u64(640, 0xffff_8000_0001_0000)
        .u64(648, 0x202)
        .u64(656, 0x8005_0033)
        .u64(672, 0x1000 * (0x10 + u64::from(vcpu)))
        .u64(680, 0x6f0)
        .u64(720, 0xffff_0ff0)
        .u64(728, 0x400)
        .u64(992, 0xd01) // EFER: SCE, LME, LMA, NXE.
        .u64(1000, u64::from(vcpu))
        .u32(1024, 1); // The FPU state is initialised.
    for (segment, selector) in [0x08u32, 0x10, 0x10, 0, 0, 0x10, 0x40, 0].into_iter().enumerate() {
        body = body.u32(SELECTORS + 4 * segment, selector);
    }
    let rights = [0xa9b, 0xc93, 0xc93, 0xc93, 0xc93, 0xc93, 0x8b, 0x10000];
    for (segment, rights) in rights.into_iter().enumerate() {
        body = body.u32(RIGHTS + 4 * segment, rights);
    }
    for (segment, limit) in
        [u32::MAX, u32::MAX, u32::MAX, u32::MAX, u32::MAX, u32::MAX, 0x67, 0, 0xfff, 0x7f].into_iter().enumerate()
    {
        body = body.u32(LIMITS + 4 * segment, limit);
    }
    let tables = 0xffff_8000_0000_0000 + u64::from(vcpu) * 0x2000;
    body.u64(BASES + 8 * 6, tables + 0x1800)
        .u64(BASES + 8 * 8, tables)
        .u64(BASES + 8 * 9, tables + 0x1000)
        .entry(CPU, vcpu)
}

/// `struct hvm_hw_vpic` with all lines masked.
fn pic(irq_base: u8) -> Body {
    Body::new(8).u8(1, 0xff).u8(3, irq_base)
}

/// `struct hvm_hw_vioapic` with all 48 lines masked.
fn ioapic() -> Body {
    (0..48).fold(Body::new(400).u64(0, 0xfec0_0000), |body, line| body.u64(16 + 8 * line, 1 << 16))
}

/// `struct hvm_hw_lapic`: enabled, the boot processor marked.
fn lapic(vcpu: u16) -> Entry {
    let boot = if vcpu == 0 { 0x100 } else { 0 };
    Body::new(24).u64(0, 0xfee0_0800 | boot).u32(12, 2).entry(5, vcpu)
}

/// The LAPIC's register page: id, version, spurious vector, and the local vectors masked.
fn lapic_registers(vcpu: u16) -> Entry {
    let body = Body::new(1024)
        .u32(0x20, (u32::from(vcpu) * 2) << 24)
        .u32(0x30, 0x0005_0014)
        .u32(0xe0, u32::MAX)
        .u32(0xf0, 0x1ff);
    (0..6).fold(body, |body, vector| body.u32(0x320 + 0x10 * vector, 1 << 16)).entry(6, vcpu)
}

/// `struct hvm_hw_pit`: three channels counting from 65536.
fn pit() -> Body {
    (0..3).fold(Body::new(56), |body, channel| {
        let at = 16 * channel;
        body.u32(at, 0x10000).u8(at + 12, 3).u8(at + 13, 3).u8(at + 15, u8::from(channel != 2))
    })
}

/// `struct hvm_hw_rtc`: midnight, 1 January 2000, in BCD.
fn rtc() -> Body {
    Body::new(24).u8(6, 7).u8(7, 1).u8(8, 1).u8(10, 0x26).u8(11, 0x02).u8(13, 0x80)
}

/// `struct hvm_hw_mtrr`: write-back everywhere, the PAT of Linux.
fn mtrr(vcpu: u16) -> Entry {
    Body::new(240).u64(0, 0x0407_0506_0007_0106).u64(224, 0x508).u64(232, 0xc06).entry(14, vcpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_have_the_sizes_of_a_real_context() {
        let entries = power_on(2, 2_400_000);
        let sizes: Vec<_> = entries.iter().map(|e| (e.typecode, e.instance, e.data.len())).collect();
        let expected = [
            (1, 0, 24),
            (2, 0, 1032),
            (2, 1, 1032),
            (3, 0, 8),
            (3, 1, 8),
            (4, 0, 400),
            (5, 0, 24),
            (5, 1, 24),
            (6, 0, 1024),
            (6, 1, 1024),
            (7, 0, 16),
            (8, 0, 8),
            (9, 0, 8),
            (10, 0, 56),
            (11, 0, 24),
            (12, 0, 1048),
            (13, 0, 8),
            (14, 0, 240),
            (14, 1, 240),
            (18, 0, 32),
            (18, 1, 32),
            (19, 0, 8),
            (19, 1, 8),
        ];
        assert_eq!(sizes, expected);
    }

    #[test]
    fn one_vcpu_makes_a_blob_as_long_as_that_of_a_real_guest() {
        let mut blob = Vec::new();
        super::super::hvm_blob::emit(&power_on(1, 2_400_000), &mut blob).unwrap();
        assert_eq!(blob.len(), 4112);
    }
}
