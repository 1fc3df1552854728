//! Live images of a guest that goes on dirtying pages, with and without a VERIFY pass.

use crate::helper::Helper;
use crate::helper::PLAIN;
use crate::home::{Home, assert_go_on, assert_restored, guest};
use crate::message::Message;
use crate::plain::{configs, they_restore, they_save, we_restore};
use std::fs;

/// Live, and live with VERIFY.
const LIVE: u32 = 1;
const VERIFY: u32 = 3;

#[test]
#[ignore = "long"]
fn a_live_image_of_theirs_restores_equal_on_either_side() {
    for config in configs() {
        for flags in [LIVE, VERIFY] {
            let before = guest(&config, 50);
            let home = Home::of(&before);
            let (original, stream) = they_save(&home, flags);
            assert!(original.steps().unwrap() > before.steps().unwrap(), "the guest stood still");
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

#[test]
#[ignore = "long"]
fn the_guest_runs_and_is_sent_again_while_it_is_saved() {
    let [config, _] = configs();
    let home = Home::of(&guest(&config, 50));
    let stream = home.path("stream");
    // The helper asks for the dirty log before it sends: a guest that has run on since makes a second round.
    let mut ran = 0;
    let outcome = Helper::save(&home, &stream, None, LIVE, PLAIN).run(|message, control| {
        if matches!(message, Message::Suspend) {
            control.wait_for_steps(200);
            ran = control.steps();
        }
        None
    });
    assert_eq!(outcome.retval, 0);
    let suspended = home.after().steps().unwrap();
    assert!(ran >= 250 && suspended >= ran, "{ran}, {suspended}");
    let log = fs::read_to_string(home.path("log")).unwrap();
    let frames: u64 =
        log.lines().filter_map(|line| line.strip_prefix("map of ")?.split(' ').next()?.parse::<u64>().ok()).sum();
    assert!(frames > home.after().memory().populated() + 50, "{frames} frames mapped: nothing was sent again");
    assert_restored(&home.after(), &they_restore(&config, &stream));
}
