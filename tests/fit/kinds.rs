//! Each kind of misfit by itself: a good guest with one thing changed, on the last release that refuses it and on the first that does not.

use crate::edit::{self, Change, Entry, good_hvm, with_body};
use crate::{guest, on, said};
use xen_replicate::stream::Layer;
use xen_replicate::stream::libxc::types;

/// The HVM guest with its context's entries changed.
fn with_entries(change: impl Fn(&mut Vec<Entry>)) -> Vec<u8> {
    edit::with_entries(&good_hvm(), change)
}

/// With another MSR of vCPU 0.
fn with_msr(index: u32, value: u64) -> Vec<u8> {
    with_entries(|all| {
        let mut data = vec![1, 0, 0, 0, 0, 0, 0, 0];
        data.extend(index.to_le_bytes());
        data.extend([0; 4]);
        data.extend(value.to_le_bytes());
        all.retain(|(typecode, ..)| *typecode != 20);
        all.push((20, 0, data));
    })
}

fn with_param(index: u64, value: u64) -> Vec<u8> {
    with_body(&good_hvm(), types::HVM_PARAMS, |body| {
        let mut body = body.to_vec();
        let count = u32::from_le_bytes(body[..4].try_into().unwrap()) + 1;
        body[..4].copy_from_slice(&count.to_le_bytes());
        body.extend(index.to_le_bytes());
        body.extend(value.to_le_bytes());
        body
    })
}

/// With one more leaf in its policy, in front of the hypervisor's.
fn with_leaf(leaf: u32, subleaf: u32) -> Vec<u8> {
    with_body(&good_hvm(), types::X86_CPUID_POLICY, |body| {
        let mut body = body.to_vec();
        for word in [leaf, subleaf, 0, 0, 0, 0] {
            body.extend(word.to_le_bytes());
        }
        body
    })
}

const NO_SUBLEAF: u32 = u32::MAX;

#[test]
fn each_kind_is_refused_by_the_releases_that_refuse_it() {
    let long_lapic = with_entries(|all| {
        for (_, _, data) in all.iter_mut().filter(|(typecode, ..)| *typecode == 5) {
            data.resize(32, 0);
        }
    });
    let dr6 = with_entries(|all| {
        for (_, _, data) in all.iter_mut().filter(|(typecode, ..)| *typecode == 2) {
            data[724] = 1;
        }
    });
    type Case<'a> = (&'a str, Vec<u8>, &'a [&'a str], &'a [&'a str], &'a str);
    let cases: &[Case<'_>] = &[
        (
            "LAPIC",
            long_lapic,
            &["4.14.6", "4.17.7", "4.18.4", "4.19.1", "4.20.0"],
            &["4.18.5", "4.19.2", "4.20.1", "4.21", "4.22"],
            "LAPIC:0 has 32 bytes, 24 before Xen 4.18.5, 4.19.2, 4.20.1 or 4.21",
        ),
        (
            "VIRT_SPEC_CTRL",
            with_msr(0xc001_011f, 0),
            &["4.14", "4.16.7"],
            &["4.17.0", "4.22"],
            "MSR 0xc001011f (VIRT_SPEC_CTRL): loaded since Xen 4.17",
        ),
        ("PKRS", with_msr(0x6e1, 0), &["4.14", "4.17.7"], &["4.18.0"], "MSR 0x6e1 (PKRS): loaded since Xen 4.18"),
        ("unknown MSR", with_msr(0x777, 0), &["4.14", "4.22"], &[], "MSR 0x777"),
        ("viridian", with_param(9, 0x401), &["4.14.6"], &["4.15", "4.22"], "bits 10 to 12 exist since Xen 4.15"),
        ("viridian of later", with_param(9, 0x2001), &["4.14", "4.22"], &[], "bits that no Xen up to 4.22 knows"),
        ("nested", with_param(24, 1), &["4.15.0", "4.22"], &["4.14.6"], "cannot be set since Xen 4.15"),
        ("altp2m", with_param(35, 1), &["4.19", "4.22"], &["4.18.6"], "cannot be set since Xen 4.19"),
        ("unknown parameter", with_param(77, 1), &["4.14", "4.22"], &[], "index 77"),
        ("DR6", dr6, &["4.18", "4.22"], &["4.14", "4.17"], "DR6"),
        ("a later type", with_entries(|all| all.push((21, 0, vec![0; 8]))), &["4.14", "4.22"], &[], "entry type 21"),
        (
            "leaf 7:2",
            with_leaf(7, 2),
            &["4.14.4", "4.15.2", "4.16.0"],
            &["4.14.5", "4.15.3", "4.16.1", "4.17"],
            "leaf 0x7:2: policies have a place for it since Xen 4.14.5, 4.15.3, 4.16.1 or 4.17",
        ),
        (
            "leaf 0x80000021",
            with_leaf(0x8000_0021, NO_SUBLEAF),
            &["4.14.4", "4.15.2"],
            &["4.14.5", "4.15.3", "4.16.0"],
            "leaf 0x80000021",
        ),
        ("leaf 0x80000022", with_leaf(0x8000_0022, NO_SUBLEAF), &["4.14", "4.22"], &[], "no Xen up to 4.22"),
        ("leaf 0x14", with_leaf(0x14, 0), &["4.14", "4.22"], &[], "leaf 0x14:0: no Xen up to 4.22"),
    ];
    for (name, stream, refusing, taking, text) in cases {
        let guest = guest(stream);
        for release in *refusing {
            let fit = on(&guest, release);
            // Without its update, a release with such updates only may refuse it.
            let depends = fit.findings.iter().any(|found| found.on_update && found.message.contains(text));
            let refused = said(&fit, "refused").iter().any(|message| message.contains(text));
            assert!(refused || depends, "{name} on {release}: {fit:?}");
            assert!(refused || !release.contains("4.1") || release.matches('.').count() == 1, "{name} on {release}");
        }
        for release in *taking {
            let fit = on(&guest, release);
            assert!(!fit.findings.iter().any(|found| found.message.contains(text)), "{name} on {release}: {fit:?}");
        }
    }
    assert_eq!(said(&on(&guest(&good_hvm()), "4.17"), "refused"), [""; 0]);
}

#[test]
fn a_release_without_its_update_is_told_of_what_depends_on_it() {
    let stream = with_entries(|all| {
        for (_, _, data) in all.iter_mut().filter(|(typecode, ..)| *typecode == 5) {
            data.resize(32, 0);
        }
    });
    let fit = on(&guest(&stream), "4.18");
    assert_eq!(fit.verdict, "fits_with_remarks");
    assert!(said(&fit, "remark").iter().any(|text| text.ends_with("so refused by Xen 4.18 before 4.18.5")), "{fit:?}");
}

#[test]
fn a_msr_of_the_policy_that_no_release_has_is_refused() {
    let stream = with_body(&good_hvm(), types::X86_MSR_POLICY, |body| {
        let mut body = body.to_vec();
        body[..4].copy_from_slice(&0x3au32.to_le_bytes());
        body
    });
    let fit = on(&guest(&stream), "4.22");
    assert!(said(&fit, "refused").iter().any(|text| text.contains("MSR 0x3a (FEATURE_CONTROL)")), "{fit:?}");
    let arch_caps = guest(&good_hvm()).msrs.iter().any(|entry| entry.index.0 == 0x10a);
    let old = on(&guest(&good_hvm()), "4.14.0");
    assert_eq!(said(&old, "refused").iter().any(|text| text.contains("ARCH_CAPABILITIES")), arch_caps, "{old:?}");
}

#[test]
fn a_stream_without_a_policy_is_told_of_and_one_that_is_not_valid_does_not_fit() {
    let drop = |_: Layer, type_id: u32, _: &[u8]| match type_id {
        types::X86_CPUID_POLICY | types::X86_MSR_POLICY => Change::Drop,
        _ => Change::Keep,
    };
    let fit = on(&guest(&edit::edit(&good_hvm(), drop)), "4.17");
    assert!(said(&fit, "remark").iter().any(|text| text.contains("no CPU policy in the stream")), "{fit:?}");
    let cut = good_hvm();
    let fit = on(&guest(&cut[..cut.len() / 2]), "4.17");
    assert_eq!((fit.verdict, fit.findings[0].part), ("does_not_fit", "stream"), "{fit:?}");
}
