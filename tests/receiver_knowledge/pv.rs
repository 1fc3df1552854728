//! PV guests: each kind of fault, every one of it.

use crate::common::build::{pages, pv_libxc, record, vcpu};
use crate::edit::{among, only, said, with_body, without};
use xen_replicate::stream::Layer;

const PAGE_DATA: u32 = 1;
const P2M_FRAMES: u32 = 3;
const SHARED_INFO: u32 = 7;
const VCPU_BASIC: u32 = 4;
const VCPU_EXTENDED: u32 = 5;

fn good() -> Vec<u8> {
    let stream = pv_libxc();
    assert_eq!(said(&stream), [""; 0], "the stream that the others are made from");
    stream
}

/// A record's body of p2m frames, each at pfn 0.
fn frames(start: u32, end: u32) -> Vec<u8> {
    let count = end as usize / 512 - start as usize / 512 + 1;
    [&start.to_le_bytes()[..], &end.to_le_bytes(), &vec![0; count * 8]].concat()
}

/// The stream with these bodies of P2M_FRAMES one behind the other.
fn with_frames(bodies: &[Vec<u8>]) -> Vec<u8> {
    let mut changed = with_body(&good(), P2M_FRAMES, |_| bodies[0].clone());
    let first = record(P2M_FRAMES, &bodies[0]);
    let at = changed.windows(first.len()).position(|part| part == first).unwrap() + first.len();
    let more: Vec<u8> = bodies[1..].iter().flat_map(|body| record(P2M_FRAMES, body)).collect();
    changed.splice(at..at, more);
    changed
}

#[test]
fn every_page_past_the_end_of_the_p2m() {
    let good = good();
    let with = |entry: u64, contents: usize| with_body(&good, PAGE_DATA, |_| pages(&[entry], contents));
    // The p2m has pfns 0 and 1.
    for pfn in 0..2 {
        assert_eq!(said(&with(pfn, 1)), [""; 0]);
    }
    for pfn in (2..2000).chain((12..34).map(|bit| 1 << bit)) {
        only(&with(pfn, 1), "error: PAGE_DATA", &format!("pfn {pfn:#x} is outside the domain's maximum"));
    }
    // Page tables and allocated pages as much as pages of data; holes may be listed anywhere.
    only(&with(1 << 60 | 2, 1), "error: PAGE_DATA", "pfn 0x2 is outside");
    only(&with(0xe << 60 | 2, 0), "error: PAGE_DATA", "pfn 0x2 is outside");
    assert_eq!(said(&with(0xf << 60 | 2, 0)), [""; 0]);
}

#[test]
fn every_gap_in_the_p2m() {
    for start in (512..=8192).step_by(512).chain([0x8000_0000, 0xffff_fe00]) {
        let end = start + 511;
        let said = said(&with_frames(&[frames(start, end)]));
        let words = format!("error: X86_PV_P2M_FRAMES: starts at pfn {start:#x}");
        assert!(said.iter().any(|said| said.starts_with(&words)), "{said:?}");
        if start > 512 {
            among(
                &with_frames(&[frames(0, 1), frames(start, end)]),
                "error: X86_PV_P2M_FRAMES: starts",
                "up to pfn 0x200",
            );
        }
    }
    // One behind the other, over the other, and the first again.
    for bodies in [
        vec![frames(0, 511), frames(512, 1023)],
        vec![frames(0, 1023), frames(512, 2047)],
        vec![frames(0, 1), frames(0, 1)],
    ] {
        assert_eq!(said(&with_frames(&bodies)), [""; 0]);
    }
}

#[test]
fn a_frame_of_the_p2m_outside_of_it() {
    for pfn in [2u64, 3, 1 << 20, u64::MAX] {
        let body = [&0u32.to_le_bytes()[..], &1u32.to_le_bytes(), &pfn.to_le_bytes()].concat();
        among(&with_frames(&[body]), "error: X86_PV_P2M_FRAMES", "");
    }
}

#[test]
fn what_a_pv_guest_cannot_be_restored_without() {
    let good = good();
    only(&without(&good, Layer::Libxc, SHARED_INFO), "error: no SHARED_INFO", "before the end");
    among(&without(&good, Layer::Libxc, VCPU_BASIC), "error: no X86_PV_VCPU_BASIC of vCPU 0", "");
    // Of another vCPU than vCPU 0 it is no error, and what else there is of it nobody reads.
    let other = with_body(&good, VCPU_EXTENDED, |_| vcpu(1, 64));
    only(&other, "remark: vCPU 1 has parts of its state", "no X86_PV_VCPU_BASIC");
}

#[test]
fn parts_of_vcpus_that_no_xen_takes() {
    let good = good();
    for length in [129, 136, 1000] {
        only(&with_body(&good, VCPU_EXTENDED, |_| vcpu(0, length)), "error: X86_PV_VCPU_EXTENDED", "at most 128");
    }
    for id in [8192, u32::MAX] {
        among(&with_body(&good, VCPU_EXTENDED, |_| vcpu(id, 64)), "error: X86_PV_VCPU_EXTENDED", "the domain has 8192");
    }
}
