//! Layout checks that go over all entry types.

use super::*;
use crate::decode::wire::Wire;
use proptest::prelude::*;

/// Type code and every length that a real Xen writes.
const REAL_LENGTHS: &[(u16, &[usize])] = &[
    (1, &[24]),
    (2, &[1016, 1024, 1032]),
    (3, &[8]),
    (4, &[400]),
    (5, &[24, 32]),
    (6, &[1024]),
    (7, &[16]),
    (8, &[8]),
    (9, &[8]),
    (10, &[56]),
    (11, &[16, 24]),
    (12, &[1048]),
    (13, &[8]),
    (14, &[240]),
    (15, &[32]),
    (17, &[16, 216]),
    (18, &[24, 32]),
    (19, &[8]),
];

/// Bytes without two alike in a row, so that a shifted field shows.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 37 + i / 256 + 11) as u8).collect()
}

#[test]
fn every_real_length_round_trips_and_every_other_short_one_is_an_error() {
    for (typecode, lengths) in REAL_LENGTHS {
        let longest = lengths.iter().copied().max().unwrap();
        let blob = pattern(longest + 3);
        for len in 0..=longest {
            let got = EntryBody::decode(*typecode, &blob[..len]);
            if lengths.contains(&len) {
                let (body, extra) = got.unwrap().unwrap();
                assert_eq!((extra, body.typecode()), (0, *typecode));
                assert_eq!(body.encode(), &blob[..len], "{typecode} {len}");
                serde_json::to_value(&body).unwrap();
            } else {
                assert!(got.is_err(), "{typecode} {len}");
            }
        }
        let (body, extra) = EntryBody::decode(*typecode, &blob).unwrap().unwrap();
        assert_eq!(extra, 3);
        assert_eq!(body.encode(), &blob[..longest]);
    }
}

#[test]
fn unknown_types_and_end_have_no_body() {
    for typecode in [0, 21, 22, 34, 0xffff] {
        assert_eq!(EntryBody::decode(typecode, &[1, 2, 3]), Ok(None));
    }
    assert_eq!(entry_name(0), Some("END"));
    assert_eq!(entry_name(20), Some("CPU_MSR"));
    assert_eq!(entry_name(21), None);
}

/// Decodes and gives the JSON form.
fn shown<T: Blob + serde::Serialize>(blob: &[u8]) -> serde_json::Value {
    serde_json::to_value(T::decode(blob).unwrap().0).unwrap()
}

#[test]
fn fields_lie_where_a_c_compiler_puts_them() {
    use crate::decode::c_offsets::{CPU, HPET, VIRIDIAN_VCPU, check};
    check(1032, CPU, shown::<Cpu>);
    check(1048, HPET, shown::<Hpet>);
    check(216, VIRIDIAN_VCPU, shown::<ViridianVcpu>);
}

#[test]
fn cpu_fields_lie_at_their_c_offsets() {
    let mut blob = pattern(Cpu::NATIVE);
    let mut set = |at: usize, value: u64| blob[at..at + 8].copy_from_slice(&value.to_le_bytes());
    set(512, 0xa);
    set(568, 0x5b);
    set(640, 0xffff_ffff_8100_0000);
    set(648, 0x202);
    set(656, 0x8005_0033);
    set(672, 0x1234_5000);
    set(680, 0x6f0);
    set(992, 0xd01);
    set(1000, 7);
    set(1008, 0x11);
    blob[1016..1020].copy_from_slice(&0x8000_08feu32.to_le_bytes());
    blob[1024..1028].copy_from_slice(&1u32.to_le_bytes());
    let (cpu, _) = Cpu::decode(&blob).unwrap();
    assert_eq!(cpu.regs.rax.0, 0xa);
    assert_eq!(cpu.regs.rsp.0, 0x5b);
    assert_eq!(cpu.regs.rip.0, 0xffff_ffff_8100_0000);
    assert_eq!(cpu.regs.rflags.names(), ["fixed", "if"]);
    assert!(cpu.regs.cr0.has("pg") && cpu.regs.cr0.has("pe"));
    assert_eq!(cpu.regs.cr3.0, 0x1234_5000);
    assert_eq!(cpu.regs.msr_efer.names(), ["sce", "lme", "lma", "nx"]);
    assert_eq!(cpu.msr_tsc_aux.unwrap().0, 7);
    assert_eq!(cpu.tail.tsc.0, 0x11);
    assert!(cpu.tail.pending_event.is_valid() && cpu.tail.pending_event.has_error_code());
    assert_eq!(cpu.tail.pending_event.vector(), 0xfe);
    let json = serde_json::to_value(&cpu).unwrap();
    assert_eq!(json["rip"], "0xffffffff81000000");
    assert_eq!(json["tsc"], "0x11");
    assert_eq!(json["flags"]["set"], serde_json::json!(["fpu_initialised"]));
    assert_eq!(json["pending_event"]["kind"], "external_interrupt");
}

#[test]
fn cpu_without_tsc_aux_keeps_the_tsc() {
    let mut blob = pattern(Cpu::COMPAT);
    blob[1000..1008].copy_from_slice(&0x77u64.to_le_bytes());
    let (cpu, _) = Cpu::decode(&blob).unwrap();
    assert_eq!((cpu.msr_tsc_aux, cpu.tail.tsc.0), (None, 0x77));
    assert!(cpu.end.is_none());
    assert_eq!(
        Cpu::decode(&pattern(1020)),
        Err(DecodeError::BadLength { what: "CPU", offset: 0, length: 1020, accepted: "1016, 1024 or 1032" })
    );
}

#[test]
fn header_is_checked() {
    let header = Header {
        magic: crate::decode::hex::Hex(HVM_FILE_MAGIC),
        version: HVM_FILE_VERSION,
        changeset: crate::decode::hex::Hex(u64::MAX),
        cpuid: crate::decode::hex::Hex(0x0080_0f12),
        gtsc_khz: 2_500_000,
    };
    assert_eq!(header.check(), Ok(()));
    let mut blob = header.encode();
    assert_eq!(blob[..4], [0x86, 0x12, 0x38, 0x54]);
    blob[0] = 0x87;
    let (bad, _) = Header::decode(&blob).unwrap();
    assert_eq!(bad.check().unwrap_err().to_string(), "HEADER.magic at offset 0: value 0x54381287, expected 0x54381286");
}

#[test]
fn pic_and_ioapic_bit_fields() {
    let (pic, _) = Pic::decode(&[1, 0xfb, 4, 0x30, 0x52, 0x44, 0x0c, 1]).unwrap();
    assert_eq!((pic.state.init_state(), pic.state.priority_add()), (2, 5));
    assert_eq!(pic.mode.names(), ["auto_eoi", "is_master"]);
    assert_eq!((pic.elcr.0, pic.int_output), (0x0c, 1));

    let mut blob = vec![0u8; IoApic::SIZE];
    blob[..8].copy_from_slice(&0xfec0_0000u64.to_le_bytes());
    blob[12] = 9;
    blob[16 + 8 * 2..16 + 8 * 3].copy_from_slice(&0x0300_0000_0001_a931u64.to_le_bytes());
    let (ioapic, _) = IoApic::decode(&blob).unwrap();
    assert_eq!((ioapic.base_address.0, ioapic.id), (0xfec0_0000, 9));
    let entry = ioapic.redirtbl[2];
    assert_eq!((entry.vector(), entry.masked(), entry.dest_id()), (0x31, true, 3));
    let json = serde_json::to_value(entry).unwrap();
    assert_eq!(json["delivery"], "lowest_priority");
    assert_eq!((&json["trigger"], &json["polarity"]), (&"level".into(), &"low".into()));
    assert_eq!(json["dest_mode"], "logical");
}

#[test]
fn interrupt_lines_are_numbered_from_the_lowest_bit() {
    let mut blob = [0u8; 16];
    blob[0] = 0b1001;
    blob[15] = 0x80;
    let (irqs, _) = PciIrqs::decode(&blob).unwrap();
    assert_eq!(irqs.asserted.set(), [0, 3, 127]);
}

proptest! {
    #[test]
    fn any_bytes_decode_or_fail_but_never_panic(typecode in 0u16..24, data in proptest::collection::vec(any::<u8>(), 0..1300)) {
        if let Ok(Some((body, extra))) = EntryBody::decode(typecode, &data) {
            prop_assert_eq!(&body.encode(), &data[..data.len() - extra]);
            prop_assert!(serde_json::to_string(&body).is_ok());
        }
    }
}
