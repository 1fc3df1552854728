//! Live images of a guest that goes on dirtying pages, with and without a VERIFY pass.

use crate::control::Control;
use crate::helper::{Helper, Outcome, PLAIN};
use crate::home::{Home, assert_go_on, assert_restored, fifo, guest};
use crate::message::Message;
use crate::plain::{configs, they_restore, they_save, try_restore, we_restore};
use std::fs::{self, File};
use std::io::{self, Read};
use std::thread;
use xen_replicate::hypervisor::sim::{Difference, SimConfig};

/// Live, and live with VERIFY.
const LIVE: u32 = 1;
const VERIFY: u32 = 3;

#[test]
#[ignore = "long"]
fn a_live_image_of_theirs_restores_equal_on_either_side() {
    for config in configs() {
        for flags in [LIVE, VERIFY] {
            let home = Home::of(&guest(&config, 50));
            let (original, stream) = they_save(&home, flags);
            assert_restored(&original, &they_restore(&config, &stream));
            let (copy, restorer) = we_restore(&config, &stream);
            match restorer.verified() {
                None => assert_eq!(flags, LIVE),
                Some(verified) => {
                    assert_eq!((flags, verified.different), (VERIFY, 0));
                    assert_eq!(verified.pages, original.memory().populated());
                }
            }
            assert_restored(&original, &copy);
            assert_go_on(original, copy);
        }
    }
}

/// Saves a guest that dirties its pages while most of them are still to be sent: the pipe is full, and nobody reads on before the
/// guest has run. Gives the outcome, and how far the guest was.
fn save_while_it_runs(home: &Home) -> (Outcome, u64) {
    let pipe = fifo(&home.path(""), "pipe");
    thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let mut from = File::open(&pipe).unwrap();
            let mut file = File::create(home.path("stream")).unwrap();
            io::copy(&mut (&mut from).take(1 << 16), &mut file).unwrap();
            let mut control = Control::connect(&home.path("control"));
            control.wait_for_steps(200);
            let steps = control.steps();
            io::copy(&mut from, &mut file).unwrap();
            steps
        });
        let outcome = Helper::save(home, &pipe, None, LIVE, PLAIN).run_well();
        (outcome, reading.join().unwrap())
    })
}

#[test]
#[ignore = "long"]
fn pages_that_are_dirtied_meanwhile_are_sent_again_in_rounds() {
    for config in configs() {
        let home = Home::of(&guest(&config, 50));
        let (outcome, ran) = save_while_it_runs(&home);
        let original = home.after();
        assert!(ran >= 250 && original.steps().unwrap() >= ran);
        let again = outcome.count(
            |message| matches!(message, Message::Progress { doing, total, .. } if doing == "Frames iteration 1" && *total >= 50),
        );
        assert!(again > 0, "no second round: {:?}", outcome.messages);
        let stream = home.path("stream");
        assert_restored(&original, &they_restore(&config, &stream));
        assert_restored(&original, &we_restore(&config, &stream).0);
    }
}

#[test]
#[ignore = "long"]
fn a_flipped_byte_is_seen_in_every_copy_and_in_a_verify_pass_by_either_side() {
    let config = SimConfig::small(5);
    let pfn = 40;
    for flags in [0, VERIFY] {
        let home = Home::of(&guest(&config, 50));
        let (original, stream) = they_save(&home, flags);
        let mut bytes = fs::read(&stream).unwrap();
        let page = original.memory().page(pfn).unwrap();
        let last = bytes.windows(page.len()).rposition(|bytes| bytes == page).unwrap();
        bytes[last] ^= 0x40;
        fs::write(&stream, &bytes).unwrap();
        let (theirs, outcome) = try_restore(&config, &stream);
        let (ours, restorer) = we_restore(&config, &stream);
        let verified = flags == VERIFY;
        assert_eq!(outcome.logged("verify pfn 0x28 failed"), verified, "{outcome:?}");
        assert_eq!(restorer.verified().map(|found| (found.different, found.first)), verified.then_some((1, Some(pfn))));
        let flipped = Difference::Memory { pfn, offset: 0, expected: page[0], found: page[0] ^ 0x40 };
        for copy in [theirs, ours] {
            // Behind VERIFY nothing is loaded any more.
            let differences = copy.diff(&original.snapshot().unwrap(), usize::MAX).unwrap();
            assert_eq!(differences.contains(&flipped), !verified, "{differences:?}");
        }
    }
}
