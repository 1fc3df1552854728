//! Layout checks of PV vCPU state.

use super::*;
use crate::decode::shared_info::Width;
use crate::decode::wire::Blob;
use proptest::prelude::*;
use serde_json::json;

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 29 + i / 256 + 3) as u8).collect()
}

fn put(blob: &mut [u8], at: usize, value: u64) {
    blob[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

#[test]
fn sizes_are_those_of_the_c_structures() {
    assert_eq!((UserRegs64::SIZE, UserRegs32::SIZE), (200, 68));
    assert_eq!((TrapInfo64::SIZE, TrapInfo32::SIZE), (16, 8));
    assert_eq!((VcpuContext64::SIZE, VcpuContext32::SIZE), (5168, 2800));
    assert_eq!((Extended::SHORT, Extended::LONG), (56, 64));
}

/// Decodes and gives the JSON form.
fn shown<T: Blob + Serialize>(blob: &[u8]) -> serde_json::Value {
    serde_json::to_value(T::decode(blob).unwrap().0).unwrap()
}

#[test]
fn fields_lie_where_a_c_compiler_puts_them() {
    use crate::decode::c_offsets::{EXTENDED, USER_REGS, USER_REGS_32, VCPU_CONTEXT, VCPU_CONTEXT_32, check};
    check(5168, VCPU_CONTEXT, shown::<VcpuContext64>);
    check(200, USER_REGS, shown::<UserRegs64>);
    check(2800, VCPU_CONTEXT_32, shown::<VcpuContext32>);
    check(68, USER_REGS_32, shown::<UserRegs32>);
    check(64, EXTENDED, shown::<Extended>);
}

#[test]
fn fields_of_a_64_bit_context_lie_at_their_c_offsets() {
    let mut blob = vec![0u8; 5168];
    put(&mut blob, 512, 0x25);
    put(&mut blob, 520 + 80, 0xaaaa);
    put(&mut blob, 520 + 128, 0xffff_ffff_8100_13aa);
    put(&mut blob, 520 + 136, 0xe033);
    put(&mut blob, 520 + 144, 0x246);
    put(&mut blob, 520 + 152, 0xffff_c900_0000_0000);
    put(&mut blob, 720 + 14 * 16, 0x0010_050e);
    put(&mut blob, 720 + 14 * 16 + 8, 0xffff_ffff_8200_0000);
    put(&mut blob, 720 + 255 * 16 + 8, 1);
    put(&mut blob, 4832, 0x1234);
    put(&mut blob, 4960, 512);
    put(&mut blob, 4968, 0xe02b);
    put(&mut blob, 4984, 0x8005_003b);
    put(&mut blob, 4992, 0x7000 | 1);
    put(&mut blob, 4984 + 24, 0x5_6000);
    put(&mut blob, 5048 + 56, 0x400);
    put(&mut blob, 5112, 0xe1);
    put(&mut blob, 5136, 1 << 5 | 1 << 32);
    put(&mut blob, 5160, 0x65);
    let basic = Basic::decode(&blob, Width::Bits64).unwrap();
    assert_eq!(basic.encode(), blob);
    let Basic::Bits64(context) = &basic else { panic!() };
    assert_eq!(context.flags.names(), ["i387_valid", "in_kernel", "online"]);
    assert_eq!(context.user_regs.rax.0, 0xaaaa);
    assert_eq!(context.user_regs.rip.0, 0xffff_ffff_8100_13aa);
    assert_eq!(context.user_regs.cs.0, 0xe033);
    assert!(context.user_regs.rflags.has("if"));
    assert_eq!(context.user_regs.rsp.0, 0xffff_c900_0000_0000);
    assert_eq!((context.ctrlreg.cr3_pfn(), context.ctrlreg.user_pfn()), (0x56, Some(7)));
    let json = serde_json::to_value(&basic).unwrap();
    assert_eq!(
        json["trap_ctxt"],
        json!({"set": 2, "exceptions": [
            {"vector": 14, "dpl": 1, "masks_events": true, "cs": "0x10", "address": "0xffffffff82000000"}]})
    );
    assert_eq!(json["gdt_frames"], json!(["0x1234"]));
    assert_eq!((&json["gdt_ents"], &json["kernel_ss"]), (&json!(512), &json!("0xe02b")));
    assert_eq!(json["ctrlreg"]["cr3_pfn"], "0x56");
    assert_eq!(json["debugreg"][7], "0x400");
    assert_eq!(json["event_callback_eip"], "0xe1");
    assert_eq!(json["vm_assist"]["set"], json!(["runstate_update_flag", "m2p_strict"]));
    assert_eq!(json["gs_base_user"], "0x65");
}

#[test]
fn a_32_bit_context_folds_cr3_around() {
    let mut blob = vec![0u8; 2800];
    blob[516 + 32..516 + 36].copy_from_slice(&0xc100_0000u32.to_le_bytes());
    blob[584 + 3 * 8 + 4] = 9;
    blob[2640] = 7;
    blob[2704] = 32;
    blob[2716 + 12..2716 + 16].copy_from_slice(&0x1234_5001u32.to_le_bytes());
    blob[2796] = 0x10;
    let basic = Basic::decode(&blob, Width::Bits32).unwrap();
    assert_eq!(basic.encode(), blob);
    let Basic::Bits32(context) = &basic else { panic!() };
    assert_eq!(context.user_regs.eip.0, 0xc100_0000);
    assert_eq!(context.trap_ctxt.set().count(), 1);
    assert_eq!((context.ctrlreg.cr3_pfn(), context.ctrlreg.user_pfn()), (0x0011_2345, None));
    assert_eq!(context.gdt_ents, 32);
    assert_eq!(context.vm_assist.names(), ["architectural_iopl"]);
    assert_eq!(serde_json::to_value(&basic).unwrap()["gdt_frames"], json!(["0x7"]));
}

#[test]
fn only_the_exact_lengths_are_contexts() {
    for (width, size) in [(Width::Bits64, 5168), (Width::Bits32, 2800)] {
        let blob = pattern(size + 1);
        for len in (0..size).step_by(7).chain([size - 1]) {
            assert_eq!(
                Basic::decode(&blob[..len], width),
                Err(DecodeError::TooShort { what: "X86_PV_VCPU_BASIC", offset: 0, needed: size, got: len })
            );
        }
        assert_eq!(Basic::decode(&blob[..size], width).unwrap().encode(), &blob[..size]);
        assert!(matches!(Basic::decode(&blob, width), Err(DecodeError::BadLength { .. })));
        assert_eq!(Basic::width_of(&blob[..size]), Some(width));
    }
    assert_eq!(Basic::width_of(&[]), None);
}

#[test]
fn extended_state_in_both_layouts() {
    let blob = pattern(64);
    for len in 0..=64 {
        match Extended::decode(&blob[..len]) {
            Ok((extended, 0)) if len == 56 || len == 64 => {
                assert_eq!(extended.encode(), &blob[..len]);
                assert_eq!(extended.mcg_ext_ctl.is_some(), len == 64);
            }
            other => assert!(other.is_err(), "{len}"),
        }
    }
    let (extended, _) = Extended::decode(&blob).unwrap();
    assert_eq!(extended.sysenter_callback_cs.0.to_le_bytes(), blob[26..28]);
    assert_eq!(extended.mcg_cap.0.to_le_bytes(), blob[32..40]);
}

#[test]
fn xsave_state() {
    let mut blob = pattern(16 + 832);
    put(&mut blob, 0, 3);
    put(&mut blob, 8, 7);
    let xsave = Xsave::decode(&blob).unwrap();
    assert_eq!(xsave.xcr0.names(), ["x87", "sse"]);
    assert_eq!(xsave.save_area.extended.0.len(), 256);
    assert_eq!(xsave.encode(), blob);
    (0..592).for_each(|len| assert!(Xsave::decode(&blob[..len]).is_err()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn any_context_serialises_and_round_trips(blob in proptest::collection::vec(any::<u8>(), 5168)) {
        for (width, len) in [(Width::Bits64, 5168), (Width::Bits32, 2800)] {
            let basic = Basic::decode(&blob[..len], width).unwrap();
            prop_assert!(serde_json::to_string(&basic).is_ok());
            prop_assert_eq!(basic.encode(), &blob[..len]);
        }
    }
}
