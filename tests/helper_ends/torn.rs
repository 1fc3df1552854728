//! Records that the stream's end tears: which of them are the primary's death, and which were wrong before that.

use crate::rounds::{is_at, recorded, replayed};
use crate::world::*;

/// A record's header.
fn header(type_id: u32, length: u32) -> Vec<u8> {
    [type_id.to_le_bytes(), length.to_le_bytes()].concat()
}

fn with(type_id: u32, length: u32, body: &[u8]) -> Vec<u8> {
    [&header(type_id, length)[..], body].concat()
}

const BADMSG: i32 = 74;

/// What no primary writes behind a checkpoint of a HVM domain, as far as it has come.
fn wrong() -> Vec<(&'static str, Vec<u8>)> {
    let entries = |entries: &[u64]| -> Vec<u8> {
        let count = (entries.len() as u64 + 2).to_le_bytes();
        [&count[..], &entries.iter().flat_map(|entry| entry.to_le_bytes()).collect::<Vec<_>>()].concat()
    };
    // A HVM context's first entry, of type HEADER: typecode, instance, length, and what is there of it.
    let context = |length: u32, data: &[u8]| [&[1, 0, 0, 0][..], &length.to_le_bytes(), data].concat();
    vec![
        ("an unknown mandatory type", header(0x13, 64)),
        ("END with a body", header(0, 8)),
        ("CHECKPOINT with a body", header(14, 1)),
        ("X86_TSC_INFO of 4096 bytes", header(8, 4096)),
        ("X86_TSC_INFO of 16 bytes", header(8, 16)),
        ("VERIFY", header(13, 8)),
        ("X86_PV_INFO", header(2, 8)),
        ("X86_PV_P2M_FRAMES", header(3, 24)),
        ("X86_PV_VCPU_BASIC", header(4, 5176)),
        ("SHARED_INFO", header(7, 4096)),
        ("STATIC_DATA_END", header(16, 8)),
        ("X86_CPUID_POLICY", header(17, 24)),
        ("CHECKPOINT_DIRTY_PFN_LIST", header(15, 8)),
        ("HVM_PARAMS of 9 bytes", header(10, 9)),
        ("HVM_PARAMS of 4 bytes", header(10, 4)),
        ("HVM_PARAMS whose count is another", with(10, 24, &[3, 0, 0, 0])),
        ("HVM_CONTEXT of another magic", with(9, 4096, &context(24, &[7; 24]))),
        ("HVM_CONTEXT whose entry is longer", with(9, 4096, &context(8192, &[]))),
        ("PAGE_DATA of 7 bytes", header(1, 7)),
        ("PAGE_DATA of no pages", with(1, 8 + 8 + 4096, &[0, 0, 0, 0])),
        ("PAGE_DATA of more pages than it has room for", with(1, 8 + 8 + 4096, &1000u32.to_le_bytes())),
        ("PAGE_DATA that is no whole number of pages", with(1, 8 + 8 + 4090, &[1, 0, 0, 0])),
        ("PAGE_DATA with fewer pages than entries for them", with(1, 8 + 24 + 4096, &entries(&[1, 2]))),
        ("PAGE_DATA with more pages than entries for them", with(1, 8 + 24 + 3 * 4096, &entries(&[0xf << 60 | 1]))),
        ("PAGE_DATA of a type that there is not", with(1, 8 + 24 + 3 * 4096, &entries(&[5 << 60 | 1]))),
        ("PAGE_DATA of a pfn that there is not", with(1, 8 + 24 + 3 * 4096, &entries(&[1 << 41]))),
    ]
}

#[test]
fn a_record_that_is_wrong_as_far_as_it_goes_is_an_error_and_no_failover() {
    let config = small(6);
    let (stream, ends, _) = recorded(&config);
    for (what, bytes) in wrong() {
        let (secondary, end) = replayed(&[&stream[..ends[0]], &bytes].concat(), &config);
        assert_eq!(end, failed(BADMSG), "{what}");
        assert_eq!(secondary.results, [(0, 0)], "{what}");
        assert_eq!(secondary.checkpoints, 1, "{what}");
    }
}

#[test]
fn one_byte_too_many_before_any_record_is_an_error_wherever_the_stream_stops_behind_that_header() {
    let config = small(6);
    let (stream, ends, _) = recorded(&config);
    for byte in [0, 1, 0x80, 0xff] {
        for more in [8, 9, 100] {
            let torn = [&stream[..ends[0]], &[byte], &stream[ends[0]..][..more]].concat();
            let (secondary, end) = replayed(&torn, &config);
            assert_eq!(end, failed(BADMSG), "{byte:#x} and {more} bytes");
            assert_eq!(secondary.results, [(0, 0)], "{byte:#x} and {more} bytes");
        }
    }
}

/// The other way round: nothing that a primary writes is taken for wrong, wherever it stops.
#[test]
fn a_good_round_is_the_primarys_death_wherever_it_stops() {
    let config = small(6);
    let (stream, ends, primary) = recorded(&config);
    let round = ends[0]..ends[1];
    let step = round.len() / 60;
    for cut in round.clone().filter(|cut| (cut - round.start) % step < 2 || round.end - cut < 30) {
        let (secondary, end) = replayed(&stream[..cut], &config);
        assert_eq!(end, GOOD, "cut at {cut}");
        is_at(&secondary, &primary, 1);
    }
}
