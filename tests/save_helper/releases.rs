//! Xen 4.14, 4.17 and 4.20, by what the stand-in says that it is; Debian's unmodified helpers of 4.17 and 4.20, each on its own, and
//! ours, one program, on all three.

use crate::home::{Home, Program, assert_restored, fifo, guest};
use crate::ours::{protect, save, take_over};
use crate::{helper, pv_home};
use std::fs::File;
use std::thread;
use xen_replicate::hypervisor::sim::SimConfig;

use Program::{Debians, Ours};

/// A helper on a release.
type Actor = (Program, &'static str);

const ACTORS: [Actor; 5] = [(Debians, "4.17"), (Debians, "4.20"), (Ours, "4.14"), (Ours, "4.17"), (Ours, "4.20")];

/// All pairings; a stream goes from the first to the second.
fn pairs() -> impl Iterator<Item = (Actor, Actor)> {
    ACTORS.into_iter().flat_map(|from| ACTORS.into_iter().map(move |to| (from, to)))
}

/// Whether the second's hypervisor takes what the first's has saved of a HVM domain: 4.20 has longer LAPIC entries.
fn fits(here: &str, there: &str) -> bool {
    here != "4.20" || there == "4.20"
}

fn pairs_that_fit() -> impl Iterator<Item = (Actor, Actor)> {
    pairs().filter(|((_, here), (_, there))| fits(here, there))
}

/// As between real hosts: the hypervisor refuses it, and the helper says so.
#[test]
#[ignore = "long"]
fn a_hvm_context_of_a_newer_release_is_refused_by_an_older_hypervisor() {
    let config = SimConfig::small(5);
    for ((saving, here), (restoring, there)) in pairs().filter(|((_, here), (_, there))| !fits(here, there)) {
        let (_, home) = save(saving, Home::of(&guest(&config, 50)).on(here), 0);
        let copy = Home::empty(&config).with(restoring).on(there);
        let outcome = helper::Helper::restore(&copy, &home.path("stream"), None, helper::PLAIN).run(|_, _| None);
        assert_eq!(outcome.retval, -1, "{saving:?} {here} to {restoring:?} {there}: {outcome:?}");
        let failed = copy.failed_calls();
        assert!(failed.iter().any(|call| call.contains("Err(Errno(22))")), "{failed:?}");
    }
}

#[test]
#[ignore = "long"]
fn plain_and_live_images_go_from_any_to_any() {
    let config = SimConfig::small(5);
    for ((saving, here), (restoring, there)) in pairs_that_fit() {
        for flags in [0, 1] {
            let (original, home) = save(saving, Home::of(&guest(&config, 50)).on(here), flags);
            assert_eq!(home.failed_calls(), [""; 0], "{saving:?} on {here}");
            let copy = Home::empty(&config).with(restoring).on(there);
            helper::Helper::restore(&copy, &home.path("stream"), None, helper::PLAIN).run_well();
            assert_eq!(copy.failed_calls(), [""; 0], "{restoring:?} on {there}");
            assert_restored(&original, &copy.after());
        }
    }
}

#[test]
#[ignore = "long"]
fn remus_goes_over_from_any_to_any() {
    let config = SimConfig::small(5);
    for ((saving, here), (restoring, there)) in pairs_that_fit() {
        let primary = Home::of(&guest(&config, 50)).with(saving).on(here);
        let secondary = Home::empty(&config).with(restoring).on(there);
        let stream = fifo(&primary.path(""), "stream");
        thread::scope(|scope| {
            let protecting = scope.spawn(|| protect(&primary, &stream, 3));
            let reading = scope.spawn(|| File::open(&stream).unwrap());
            assert_eq!(take_over(&secondary, &stream, reading.join().unwrap()), 3, "{saving:?} {here}");
            protecting.join().unwrap();
        });
        assert_restored(&primary.after(), &secondary.after());
    }
}

/// The secondary of 4.18 and later frames its lists of dirty pages in another way than the specification says, and its own primary goes
/// out of step with that; ours does not.
#[test]
#[ignore = "long"]
fn colo_is_equal_at_each_checkpoint_from_any_to_any() {
    let config = SimConfig::small(5);
    for ((saving, here), (restoring, there)) in pairs_that_fit() {
        if (saving, restoring, there) == (Debians, Debians, "4.20") {
            continue;
        }
        let primary = Home::of(&guest(&config, 50)).with(saving).on(here);
        let secondary = Home::empty(&config).with(restoring).on(there);
        let longer = crate::colo::equal_at_each_checkpoint(&primary, &secondary);
        let expected = saving == Ours && (restoring, there) == (Debians, "4.20");
        assert_eq!(longer, expected, "{saving:?} {here}, {restoring:?} {there}");
    }
}

#[test]
#[ignore = "long"]
fn pv_images_go_from_any_to_any() {
    let [config, _, narrow, _] = pv_home::configs();
    for ((saving, here), (restoring, there)) in pairs() {
        for config in [&config, &narrow] {
            let home = pv_home::home_of(&pv_home::guest(config), saving).on(here);
            helper::Helper::save(&home, &home.path("stream"), None, 1, helper::PLAIN).run_well();
            let copy = pv_home::empty_home(config, restoring).on(there);
            helper::Helper::restore(&copy, &home.path("stream"), None, helper::PLAIN).run_well();
            pv_home::assert_restored(&mut pv_home::after(&home), &mut pv_home::after(&copy), config);
        }
    }
}
