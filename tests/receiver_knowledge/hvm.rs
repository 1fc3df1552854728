//! HVM guests: each kind of fault, every one of it.

use crate::common::build::{hvm_params, xl_preamble};
use crate::edit::{
    Change, among, edit, entries, good_hvm, input, only, said, with_body, with_entries, with_entry, without,
};
use xen_replicate::decode::hvm_params::hvm_param_name;
use xen_replicate::stream::Layer;
use xen_replicate::stream::reader::SliceReader;
use xen_replicate::stream::{What, xl};

const HVM_CONTEXT: u32 = 9;
const HVM_PARAMS: u32 = 10;
const TSC_INFO: u32 = 8;
const CPUID_POLICY: u32 = 0x11;
const EMULATOR_CONTEXT: u32 = 3;

#[test]
fn every_bit_of_the_headers_magic_and_version() {
    let good = good_hvm();
    for bit in 0..64 {
        let field = if bit < 32 { "HEADER.magic" } else { "HEADER.version" };
        only(&with_entry(&good, 1, |data| data[bit / 8] ^= 1 << (bit % 8)), "error: HVM_CONTEXT", field);
    }
    for length in 0..24 {
        only(&with_entry(&good, 1, |data| data.truncate(length)), "error: HVM_CONTEXT", "HEADER");
    }
    only(&with_entry(&good, 1, |data| data.push(0)), "remark: HVM_CONTEXT: HEADER:0 has 25 bytes", "at most 24");
    // One more, none, and one behind another entry.
    let twice = with_entries(&good, |list| list.insert(1, list[0].clone()));
    only(&twice, "error: HVM_CONTEXT", "HEADER again");
    among(&with_entries(&good, |list| drop(list.remove(0))), "error: HVM_CONTEXT", "first entry has type 2");
}

#[test]
fn every_type_of_entry_that_no_xen_has() {
    let good = good_hvm();
    for typecode in (21..300).chain([0x7fff, 0x8000, u16::MAX]) {
        let changed = with_entries(&good, |list| list.push((typecode, 3, vec![0; 8])));
        only(&changed, &format!("remark: HVM_CONTEXT: entry type {typecode} (instance 3)"), "refuses it");
    }
    // Each of them is named, also where there are several.
    let several = with_entries(&good, |list| list.extend([(21, 0, vec![]), (22, 0, vec![]), (21, 1, vec![])]));
    assert_eq!(said(&several).len(), 3);
}

#[test]
fn every_length_of_an_entry_but_those_that_are() {
    let good = good_hvm();
    let present: Vec<_> = {
        let mut list = Vec::new();
        with_body(&good, HVM_CONTEXT, |blob| {
            assert!(!entries(blob).is_empty());
            blob.to_vec()
        });
        edit(&good, |layer, type_id, body| {
            if (layer, type_id) == (Layer::Libxc, HVM_CONTEXT) {
                list = entries(body);
            }
            Change::Keep
        });
        list
    };
    let mut seen = 0;
    for (typecode, instance, data) in &present {
        // HEADER has its own test; XSAVE and the MSRs have no fixed length.
        if matches!(typecode, 1 | 16 | 20) {
            continue;
        }
        seen += 1;
        let resized = |length: usize| {
            said(&with_entries(&good, |list| {
                let entry = list.iter_mut().find(|entry| (entry.0, entry.1) == (*typecode, *instance)).unwrap();
                entry.2.resize(length, 0);
            }))
        };
        // LAPIC of 24 bytes grows to the 32 of newer releases.
        let longest = if *typecode == 5 { 32 } else { data.len() };
        let longer = resized(longest + 1);
        assert!(longer.len() == 1 && longer[0].starts_with("remark") && longer[0].contains("at most"), "{longer:?}");
        let shorter = resized(data.len() - 1);
        let why = ["at least", "no known layout"];
        assert!(
            shorter.iter().any(|said| why.iter().any(|why| said.contains(why))),
            "type {typecode}: {} bytes: {shorter:?}",
            data.len() - 1
        );
    }
    assert!(seen >= 12, "{seen} sorts of entries");
    for length in 25..=32 {
        let newer = with_entry(&good, 5, |data| data.resize(length, 0));
        only(&newer, "remark: HVM_CONTEXT: LAPIC:0 has", "4.18.5, 4.19.2, 4.20.1 or 4.21");
    }
}

#[test]
fn what_a_vcpu_must_have() {
    let good = good_hvm();
    for (typecode, part) in [(2, "no CPU entry of vCPU 0"), (5, "no LAPIC entry"), (6, "no LAPIC_REGS entry")] {
        let changed = with_entries(&good, |list| list.retain(|entry| entry.0 != typecode));
        only(&changed, "remark: HVM_CONTEXT", part);
    }
    // A vCPU that the configuration has not, in each entry of a vCPU.
    for typecode in [2, 5, 6, 14] {
        let changed = with_entries(&good, |list| {
            let mut entry = list.iter().find(|entry| entry.0 == typecode).unwrap().clone();
            entry.1 = 1;
            list.push(entry);
        });
        among(&changed, "error: ", "vCPU 1, the configuration has max_vcpus 1");
    }
}

#[test]
fn every_register_that_no_xen_loads() {
    let good = good_hvm();
    let with =
        |at: usize, value: u64| with_entry(&good, 2, |data| data[at..at + 8].copy_from_slice(&value.to_le_bytes()));
    for bit in (6..16).chain([17]).chain(19..29).chain(32..64) {
        only(&with(656, 0x8005_0033 | 1 << bit), "error: vCPU 0: CR0", "reserved bits");
    }
    only(&with(656, 0x8005_0023), "error: vCPU 0: CR0", "bit 4 (et) is not set");
    only(&with(656, 0x8005_0032), "error: vCPU 0: CR0", "paging without protected mode");
    among(&with(992, 1 << 10), "error: vCPU 0: EFER", "without EFER.LME");
    for bit in 1..32 {
        only(&with(1024, 1 << bit), "error: vCPU 0: CPU.flags", "only bit 0 exists");
    }
    for bit in 32..64 {
        only(&with(1024, 1 << bit), "error: vCPU 0: CPU.pad0", "must be zero");
        only(&with(720, 1 << bit), "remark: vCPU 0: DR6", "newer releases");
        only(&with(728, 1 << bit), "remark: vCPU 0: DR7", "newer releases");
        only(&with(1000, 1 << bit), "remark: vCPU 0: TSC_AUX", "newer releases");
    }
}

/// Leaf, subleaf, and EAX to EDX of an entry of a CPU policy.
fn leaf(policy: &[u8], wanted: (u32, u32)) -> Option<[u32; 4]> {
    policy.chunks_exact(24).find_map(|entry| {
        let word = |at: usize| u32::from_le_bytes(entry[at..at + 4].try_into().unwrap());
        let subleaf = if word(4) == u32::MAX { 0 } else { word(4) };
        ((word(0), subleaf) == wanted).then(|| [word(8), word(12), word(16), word(20)])
    })
}

fn policy_of(stream: &[u8]) -> Vec<u8> {
    let mut policy = Vec::new();
    edit(stream, |layer, type_id, body| {
        if (layer, type_id) == (Layer::Libxc, CPUID_POLICY) {
            policy = body.to_vec();
        }
        Change::Keep
    });
    policy
}

#[test]
fn every_bit_of_xcr0_against_leaf_0xd() {
    let base = input("B2c-xsave-xcr0-beyond-policy");
    let [low, .., high] = leaf(&policy_of(&base), (0xd, 0)).unwrap();
    let most = u64::from(high) << 32 | u64::from(low);
    let with = |value: u64| {
        said(&with_entry(&base, 16, |data| {
            data[8..24].copy_from_slice(&[value.to_le_bytes(), value.to_le_bytes()].concat());
            data[24 + 512..24 + 576].fill(0);
        }))
    };
    assert_eq!(with(most), [""; 0]);
    // Bits that go together.
    for (bits, names) in
        [(1 << 9, "pkru"), (7 << 5, "opmask"), (3 << 17, "tilecfg"), (3 << 3, "bndregs"), (1 << 62, "bit 62")]
    {
        let said = with(most | bits);
        let beyond = most & bits != bits;
        assert_eq!(said.len(), usize::from(beyond), "{bits:#x}: {said:?}");
        assert!(!beyond || said[0].starts_with("remark: vCPU 0: XCR0") && said[0].contains(names), "{said:?}");
    }
    // What no CPU has, whatever its policy.
    for value in [0x2, 0x5, 0x27, 0xf, 0x2_0007] {
        assert!(with(value).iter().any(|said| said.starts_with("error: vCPU 0: XCR0")), "{value:#x}");
    }
}

#[test]
fn every_bit_of_spec_ctrl_against_the_policy() {
    let base = input("E3-spec-ctrl-psfd-not-in-policy");
    let with = |value: u64| {
        said(&with_entry(&base, 20, |data| {
            let at = data[8..].chunks_exact(16).position(|msr| msr[..4] == 0x48u32.to_le_bytes()).unwrap();
            data[8 + at * 16 + 8..][..8].copy_from_slice(&value.to_le_bytes());
        }))
    };
    let named = |value: u64| with(value).iter().filter(|said| said.contains("SPEC_CTRL")).count();
    assert_eq!(named(0), 0);
    // Several of one vCPU are each named, not the first alone.
    assert_eq!(named(1 << 2 | 1 << 7), 2, "{:?}", with(0x84));
    let without: Vec<_> = (0..=10).filter(|bit| named(1 << bit) == 1).collect();
    assert_eq!(named(without.iter().map(|bit| 1u64 << bit).sum()), without.len());
    assert!(without.contains(&2) && without.contains(&7), "{without:?}");
}

#[test]
fn every_msr_that_no_xen_loads() {
    let good = input("E3-spec-ctrl-psfd-not-in-policy");
    let before = said(&good).len();
    for index in [0, 0x10, 0x1b, 0x174, 0x277, 0x6e0, 0x4000_0000, 0xc000_0080, 0xc001_0015, u32::MAX] {
        let changed = with_entry(&good, 20, |data| {
            let count = u32::from_le_bytes(data[..4].try_into().unwrap()) + 1;
            data[..4].copy_from_slice(&count.to_le_bytes());
            data.extend([&index.to_le_bytes()[..], &[0; 12]].concat());
        });
        assert_eq!(said(&changed).len(), before + 1, "{index:#x}");
        among(&changed, "remark: vCPU 0", &format!("MSR {index:#x}"));
    }
    for count in [0, 2, 100, u32::MAX] {
        let changed = with_entry(&good, 20, |data| data[..4].copy_from_slice(&count.to_le_bytes()));
        among(&changed, "error: vCPU 0: CPU_MSR.count", "another number of MSRs");
    }
}

fn params_of(stream: &[u8]) -> Vec<(u64, u64)> {
    let mut params = Vec::new();
    edit(stream, |layer, type_id, body| {
        if (layer, type_id) == (Layer::Libxc, HVM_PARAMS) {
            let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
            params = body[8..].chunks_exact(16).map(|entry| (word(&entry[..8]), word(&entry[8..]))).collect();
        }
        Change::Keep
    });
    params
}

#[test]
fn every_param_that_nobody_knows_and_no_other() {
    let good = good_hvm();
    let params = params_of(&good);
    let with = |index: u64, value: u64| {
        let list = [&params[..], &[(index, value)]].concat();
        said(&with_body(&good, HVM_PARAMS, |_| hvm_params(&list)))
    };
    for index in (39..400).chain([1 << 32, u64::MAX]) {
        let said = with(index, 5);
        assert!(said.len() == 1 && said[0].starts_with(&format!("remark: HVM_PARAMS: index {index} ")), "{said:?}");
    }
    for index in (0..39).filter(|index| hvm_param_name(*index).is_some()) {
        let said = with(index, 1);
        assert!(said.iter().all(|said| !said.contains("has none of that number")), "{index}: {said:?}");
    }
    for (index, value, words) in [
        (10, 4, "TIMER_MODE"),
        (9, 2, "VIRIDIAN"),
        (14, 1, "ACPI_S_STATE"),
        (33, 0, "NR_IOREQ_SERVER_PAGES"),
        (33, 65, "NR_IOREQ_SERVER_PAGES"),
        (36, 3, "X87_FIP_WIDTH"),
        (37, 0xfeff_e000, "VM86_TSS_SIZED"),
    ] {
        let said = with(index, value);
        let found = said.iter().any(|said| said.starts_with("error: HVM_PARAMS") && said.contains(words));
        assert!(found, "{index} {value}: {said:?}");
    }
}

#[test]
fn params_without_which_a_guest_is_cut_off() {
    let good = good_hvm();
    let params = params_of(&good);
    for (index, words) in [(1, "no STORE_PFN"), (17, "no CONSOLE_PFN")] {
        let left: Vec<_> = params.iter().copied().filter(|param| param.0 != index).collect();
        only(&with_body(&good, HVM_PARAMS, |_| hvm_params(&left)), "remark: HVM_PARAMS", words);
    }
    assert_eq!(
        said(&without(&good, Layer::Libxc, HVM_PARAMS)).iter().filter(|said| said.contains("cut off")).count(),
        2
    );
}

#[test]
fn every_tsc_mode_that_does_not_exist() {
    let good = good_hvm();
    let with = |mode: u32| with_body(&good, TSC_INFO, |body| [&mode.to_le_bytes()[..], &body[4..]].concat());
    for mode in 0..=2 {
        assert_eq!(said(&with(mode)), [""; 0]);
    }
    only(&with(3), "remark: X86_TSC_INFO", "PVRDTSCP");
    for mode in (4..=64).chain([0x100, 1 << 31, u32::MAX]) {
        only(&with(mode), "error: X86_TSC_INFO", &format!("mode is {mode},"));
    }
}

/// The stream behind another configuration.
fn with_config(stream: &[u8], change: impl Fn(&str) -> String) -> Vec<u8> {
    let mut reader = SliceReader::new(stream, Default::default());
    let first = reader.next_item().unwrap().unwrap();
    let What::XlPreamble(preamble) = first.what else { panic!("{first:?}") };
    let config = String::from_utf8(preamble.config().unwrap().to_vec()).unwrap();
    let changed = change(&config);
    assert_ne!(config, changed);
    [xl_preamble(changed.as_bytes()), stream[first.size as usize..].to_vec()].concat()
}

#[test]
fn every_type_of_domain_against_every_header() {
    let good = good_hvm();
    let typed = |name: &str| with_config(&good, |config| config.replace("\"hvm\"", &format!("\"{name}\"")));
    among(&typed("pv"), "remark: ", "type \"pv\", the domain header HVM");
    // A PVH guest has no device model.
    only(&typed("pvh"), "remark: EMULATOR_CONTEXT in a guest", "type \"pvh\"");
    assert_eq!(xl::MANDATORY_JSON, 1);
}

#[test]
fn every_truncation_of_qemus_state() {
    let good = good_hvm();
    let state = |cut: Option<usize>| {
        edit(&good, |layer, type_id, body| match (layer, type_id) {
            (Layer::Libxl, EMULATOR_CONTEXT) => Change::Body(body[..cut.unwrap_or(body.len())].to_vec()),
            _ => Change::Keep,
        })
    };
    let mut whole = 0;
    edit(&good, |layer, type_id, body| {
        if (layer, type_id) == (Layer::Libxl, EMULATOR_CONTEXT) {
            whole = body.len();
        }
        Change::Keep
    });
    assert!(whole > 6000);
    assert_eq!(said(&state(None)), [""; 0]);
    let unseen: Vec<_> = (8..whole).filter(|cut| said(&state(Some(*cut))).is_empty()).collect();
    assert!(unseen.is_empty(), "{} of {whole} cuts are taken for whole: {unseen:?}", unseen.len());
    only(&without(&good, Layer::Libxl, EMULATOR_CONTEXT), "remark: no EMULATOR_CONTEXT", "qemu_xen");
}
