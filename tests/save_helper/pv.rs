//! PV domains: Debian's helper and this project's, each with the other, on guests of either width with either kind of p2m.

use crate::helper::{Helper, PLAIN};
use crate::home::{Home, Program, fifo};
use crate::message::Message;
use crate::ours::{protect, save_while_it_runs, take_over};
use crate::pv_home::{after, assert_go_on, assert_restored, configs, empty_home, guest, home_of};
use std::fs::{self, File};
use std::path::Path;
use std::thread;
use xen_replicate::hypervisor::pv::PvDomain as _;
use xen_replicate::hypervisor::sim::pv::{PvConfig, PvSim};
use xen_replicate::hypervisor::{DirtyBitmap, Domain, LogDirty};
use xen_replicate::libxc::Saver;
use xen_replicate::libxc::save::STREAM_VERSION;
use xen_replicate::stream::Mode;
use xen_replicate::stream::handover::LibxcWriter;

use Program::{Debians, Ours};

/// Who saves, and who restores.
const PAIRS: [(Program, Program); 4] = [(Debians, Debians), (Debians, Ours), (Ours, Debians), (Ours, Ours)];

/// Saves a guest that stands still from the stream's first page on, onto `stream` of its folder.
pub fn save(program: Program, config: &PvConfig, flags: u32) -> Home {
    let home = home_of(&guest(config), program);
    let outcome = Helper::save(&home, &home.path("stream"), None, flags, PLAIN).run_well();
    assert!(outcome.logged("Saving domain 1, type x86 PV"), "{outcome:?}");
    // libxl fails where it is asked of a domain without a device model.
    assert_eq!(outcome.count(|message| matches!(message, Message::SwitchQemuLogdirty { .. })), 0);
    assert_eq!(home.failed_calls(), [""; 0]);
    home
}

fn restore(program: Program, config: &PvConfig, stream: &Path) -> PvSim {
    let home = empty_home(config, program);
    let outcome = Helper::restore(&home, stream, None, PLAIN).run_well();
    assert_eq!(home.failed_calls(), [""; 0]);
    let domain = after(&home);
    assert_eq!(outcome.results(), Some((domain.grants().xenstore_gfn, domain.grants().console_gfn)));
    domain
}

/// Our half of libxc saves a suspended domain in this process.
fn we_save(domain: &mut PvSim) -> Vec<u8> {
    let mut saver = Saver::new(domain, Default::default()).unwrap();
    let mut out = LibxcWriter::start(Vec::new(), Mode::Plain, STREAM_VERSION, saver.header()).unwrap();
    saver.static_data(domain, &mut out).unwrap();
    saver.everything();
    saver.send_pages(domain, &mut out).unwrap();
    saver.send_state(domain, &mut out).unwrap();
    out.end().unwrap()
}

#[test]
#[ignore = "long"]
fn plain_images_of_pv_guests_go_either_way() {
    for config in configs() {
        for (saving, restoring) in PAIRS {
            let home = save(saving, &config, 0);
            let mut original = after(&home);
            let mut copy = restore(restoring, &config, &home.path("stream"));
            assert_restored(&mut original, &mut copy, &config);
            assert_go_on(original, copy);
        }
    }
}

/// Xen has no extent of its m2p behind one that ends with the machine.
#[test]
#[ignore = "long"]
fn a_guest_of_a_machine_that_ends_with_an_extent_of_the_m2p_is_saved() {
    let whole = (2 << 20) / size_of::<u64>() as u64;
    let budget = whole - guest(&configs()[0]).nr_mfns().unwrap() + configs()[0].budget;
    let config = PvConfig { budget, ..configs()[0] };
    assert_eq!(guest(&config).nr_mfns().unwrap(), whole);
    for program in [Debians, Ours] {
        save(program, &config, 0);
    }
}

#[test]
#[ignore = "long"]
fn our_plain_pv_stream_is_theirs_byte_for_byte() {
    for config in configs() {
        let theirs = save(Debians, &config, 0);
        let mut original = after(&theirs);
        // The same guest, suspended already, once more.
        let ours = home_of(&original, Ours);
        let outcome = Helper::save(&ours, &ours.path("stream"), None, 0, PLAIN)
            .run(|message, _| (*message == Message::Suspend).then_some(1));
        assert_eq!(outcome.retval, 0, "{outcome:?}");
        let expected = fs::read(theirs.path("stream")).unwrap();
        for found in [fs::read(ours.path("stream")).unwrap(), we_save(&mut original)] {
            let first = found.iter().zip(&expected).position(|(a, b)| a != b);
            assert_eq!((first, found.len()), (None, expected.len()), "{config:?}");
        }
    }
}

#[test]
#[ignore = "long"]
fn live_images_of_pv_guests_have_what_was_dirtied_meanwhile() {
    for config in configs() {
        for (saving, restoring) in PAIRS {
            let home = home_of(&guest(&config), saving);
            let outcome = save_while_it_runs(&home);
            assert_eq!(home.failed_calls(), [""; 0]);
            let rounds =
                |message: &Message| matches!(message, Message::Progress { doing, .. } if doing == "Frames iteration 1");
            assert!(outcome.count(rounds) > 0, "no second round: {:?}", outcome.messages);
            let mut original = after(&home);
            assert!(original.steps() >= 400, "{} steps", original.steps());
            let mut copy = restore(restoring, &config, &home.path("stream"));
            assert_restored(&mut original, &mut copy, &config);
            assert_go_on(original, copy);
        }
    }
}

#[test]
#[ignore = "long"]
fn a_verify_pass_of_a_pv_guest_agrees_with_either_side() {
    for config in configs() {
        for (saving, restoring) in PAIRS {
            let home = save(saving, &config, 3);
            let mut original = after(&home);
            let mut copy = restore(restoring, &config, &home.path("stream"));
            assert_restored(&mut original, &mut copy, &config);
        }
    }
}

#[test]
#[ignore = "long"]
fn a_save_that_is_called_off_leaves_a_pv_guest_untracked_and_running() {
    let [config, ..] = configs();
    let home = home_of(&guest(&config), Ours);
    assert_eq!(crate::ours::call_off(&home), 0, "there is no device model");
    let mut guest = after(&home);
    assert!(!guest.info().unwrap().is_suspended());
    let mut dirty = DirtyBitmap::new(guest.info().unwrap().nr_pfns);
    assert!(guest.peek_log_dirty(&mut dirty).is_err(), "writes are still tracked");
}

#[test]
#[ignore = "long"]
fn remus_of_pv_guests_goes_over_to_the_last_checkpoint() {
    for config in configs() {
        for (saving, restoring) in PAIRS {
            let primary = home_of(&guest(&config), saving);
            let secondary = empty_home(&config, restoring);
            let stream = fifo(&primary.path(""), "stream");
            thread::scope(|scope| {
                let protecting = scope.spawn(|| protect(&primary, &stream, 4));
                let reading = scope.spawn(|| File::open(&stream).unwrap());
                assert_eq!(take_over(&secondary, &stream, reading.join().unwrap()), 4);
                protecting.join().unwrap();
            });
            for home in [&primary, &secondary] {
                assert_eq!(home.failed_calls(), [""; 0]);
            }
            let (mut original, mut copy) = (after(&primary), after(&secondary));
            assert!(copy.info().unwrap().paused);
            assert_restored(&mut original, &mut copy, &config);
            assert_go_on(original, copy);
        }
    }
}
