//! Chains whole, torn, out of order, and at random.

use super::*;
use crate::decode::hex::Hex;
use crate::decode::hvm_entry::{HVM_FILE_MAGIC, Header, PmTimer, TscAdjust};
use proptest::prelude::*;

fn header() -> EntryBody {
    EntryBody::Header(Box::new(Header {
        magic: Hex(HVM_FILE_MAGIC),
        version: 1,
        changeset: Hex(u64::MAX),
        cpuid: Hex(0),
        gtsc_khz: 0,
    }))
}

fn small() -> Vec<u8> {
    let mut builder = HvmContextBuilder::new();
    builder.push_body(0, &header()).unwrap();
    builder.push_body(1, &EntryBody::TscAdjust(Box::new(TscAdjust { tsc_adjust: Hex(5) }))).unwrap();
    builder.push(99, 7, &[1, 2, 3]).unwrap();
    builder.finish()
}

fn errors(blob: &[u8]) -> Vec<String> {
    Entries::new(blob).filter_map(|item| item.err().map(|e| e.to_string())).collect()
}

#[test]
fn a_built_chain_walks_back() {
    let blob = small();
    let context = HvmContext::parse(&blob).unwrap();
    let seen: Vec<_> = context.entries.iter().map(|e| (e.offset, e.typecode, e.name, e.instance, e.length)).collect();
    assert_eq!(
        seen,
        [
            (0, 1, Some("HEADER"), 0, 24),
            (32, 19, Some("TSC_ADJUST"), 1, 8),
            (48, 99, None, 7, 3),
            (59, 0, Some("END"), 0, 0)
        ]
    );
    assert_eq!(context.of_type(19).count(), 1);
    let json = serde_json::to_value(&context).unwrap();
    assert_eq!(
        json["entries"][2],
        serde_json::json!({"offset": 48, "typecode": 99, "name": null, "instance": 7, "length": 3})
    );
    assert_eq!(json["entries"][1]["body"]["tsc_adjust"], "0x5");
}

#[test]
fn every_prefix_names_where_it_tore() {
    let blob = small();
    for len in 0..blob.len() {
        let error = HvmContext::parse(&blob[..len]).unwrap_err();
        let expected = match len {
            0 | 32 | 48 | 59 => DecodeError::MissingEnd { offset: len },
            1..8 => DecodeError::ChainTorn { offset: 0, remaining: len },
            8..32 => DecodeError::EntryPastEnd { offset: 0, typecode: 1, instance: 0, length: 24, remaining: len - 8 },
            33..40 => DecodeError::ChainTorn { offset: 32, remaining: len - 32 },
            40..48 => {
                DecodeError::EntryPastEnd { offset: 32, typecode: 19, instance: 1, length: 8, remaining: len - 40 }
            }
            49..56 => DecodeError::ChainTorn { offset: 48, remaining: len - 48 },
            56..59 => {
                DecodeError::EntryPastEnd { offset: 48, typecode: 99, instance: 7, length: 3, remaining: len - 56 }
            }
            _ => DecodeError::ChainTorn { offset: 59, remaining: len - 59 },
        };
        assert_eq!(error, expected, "{len}");
    }
}

#[test]
fn problems_come_as_values_in_place() {
    let mut late = HvmContextBuilder::new();
    late.push(19, 0, &[0; 8]).unwrap();
    late.push_body(0, &header()).unwrap();
    assert_eq!(
        errors(&late.finish()),
        [
            "HVM context entry at offset 0: first entry has type 19, expected HEADER (1)",
            "HVM context entry at offset 16: HEADER again",
        ]
    );

    let mut blob = small();
    let end = blob.len() - 4;
    blob[end] = 2;
    blob.extend_from_slice(&[9; 5]);
    assert_eq!(
        errors(&blob),
        ["HVM context entry at offset 59: END has length 2, expected 0", "HVM context at offset 69: 3 bytes after END",]
    );
    blob[end] = 200;
    assert_eq!(
        errors(&blob),
        ["HVM context entry at offset 59 (type 0, instance 0): length 200 runs past the end, 5 bytes left"]
    );
    assert_eq!(errors(&[]), ["HVM context at offset 0: no END entry"]);
}

#[test]
fn a_bad_entry_does_not_hide_the_others() {
    let mut builder = HvmContextBuilder::new();
    builder.push_body(0, &header()).unwrap();
    builder.push(19, 0, &[0; 7]).unwrap();
    let timer = PmTimer { tmr_val: 1, pm1a_sts: Hex(2), pm1a_en: Hex(3) };
    builder.push_body(0, &EntryBody::PmTimer(Box::new(timer))).unwrap();
    let context = HvmContext::inspect(&builder.finish());
    assert_eq!(context.entries.len(), 4);
    assert!(context.entries[1].body.is_none() && context.entries[2].body.is_some());
    assert_eq!(context.problems, [DecodeError::TooShort { what: "TSC_ADJUST", offset: 40, needed: 8, got: 7 }]);
}

proptest! {
    #[test]
    fn any_bytes_end_the_walk(blob in proptest::collection::vec(prop_oneof![Just(0u8), 0u8..25, any::<u8>()], 0..400)) {
        let context = HvmContext::inspect(&blob);
        prop_assert!(context.entries.len() <= blob.len() / DESCRIPTOR);
        let covered: usize = context.entries.iter().map(|e| e.length + DESCRIPTOR).sum();
        prop_assert!(covered <= blob.len());
        prop_assert!(context.problems.is_empty() || HvmContext::parse(&blob).is_err());
    }

    #[test]
    fn built_chains_walk_back(entries in proptest::collection::vec((2u16..500, any::<u16>(), proptest::collection::vec(any::<u8>(), 0..60)), 0..20)) {
        let mut builder = HvmContextBuilder::new();
        builder.push_body(0, &header()).unwrap();
        for (typecode, instance, data) in &entries {
            builder.push(*typecode, *instance, data).unwrap();
        }
        let blob = builder.finish();
        let walked: Vec<_> = Entries::new(&blob).collect::<Result<_, _>>().unwrap();
        prop_assert_eq!(walked.len(), entries.len() + 2);
        for (entry, (typecode, instance, data)) in walked[1..].iter().zip(&entries) {
            prop_assert_eq!((entry.typecode, entry.instance, entry.data), (*typecode, *instance, &data[..]));
        }
    }
}
