//! Live saves within limits, and by default beside Debian's helper.

use crate::control::Control;
use crate::helper::{Helper, Outcome, PLAIN};
use crate::home::{Home, Program, assert_restored, fifo, guest};
use crate::message::Message;
use std::fs::File;
use std::io::{self, Read};
use std::thread;
use xen_replicate::hypervisor::sim::SimConfig;
use xen_replicate::hypervisor::{DirtyBitmap, Domain, LogDirty};

use Program::{Debians, Ours};

/// A guest that writes to most of its memory at once.
fn busy() -> SimConfig {
    let config = SimConfig { memory: 3000, working_set: 2500, writes_per_step: 4000, ..SimConfig::small(5) };
    SimConfig { hot_permille: 0, ..config }
}

/// Saves it onto a pipe that nobody reads on from before the guest has run, in each round.
fn save(home: &Home, start: impl FnOnce(&std::path::Path) -> Helper) -> Outcome {
    let pipe = fifo(&home.path(""), "pipe");
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut from = File::open(&pipe).unwrap();
            let mut file = File::create(home.path("stream")).unwrap();
            let mut control = None;
            // A part of each round's pages.
            while io::copy(&mut (&mut from).take(4 << 20), &mut file).unwrap() > 0 {
                control.get_or_insert_with(|| Control::connect(&home.path("control"))).run_on(3);
            }
        });
        start(&pipe).run(|_, _| None)
    })
}

fn rounds(outcome: &Outcome) -> usize {
    let begins = |message: &Message| matches!(message, Message::Progress { doing, done: 0, .. } if doing.starts_with("Frames iteration"));
    outcome.count(begins)
}

#[test]
#[ignore = "long"]
fn by_default_a_busy_guest_has_as_many_rounds_as_with_theirs() {
    let counted = [Debians, Ours].map(|program| {
        let home = Home::of(&guest(&busy(), 5)).with(program);
        let outcome = save(&home, |pipe| Helper::save(&home, pipe, None, 1, PLAIN));
        assert_eq!(outcome.retval, 0, "{outcome:?}");
        let copy = Home::empty(&busy()).with(Ours);
        Helper::restore(&copy, &home.path("stream"), None, PLAIN).run_well();
        assert_restored(&home.after(), &copy.after());
        rounds(&outcome)
    });
    assert_eq!(counted[0], counted[1]);
    assert!(counted[0] >= 5, "{counted:?}");
}

#[test]
#[ignore = "long"]
fn a_guest_that_writes_too_fast_is_not_saved_where_the_host_says_so() {
    let home = Home::of(&guest(&busy(), 5)).with(Ours);
    let outcome = save(&home, |pipe| Helper::save_within(&home, pipe, "rounds=3 otherwise=abort"));
    assert_eq!(outcome.retval, -1, "{outcome:?}");
    assert_eq!(outcome.count(|message| *message == Message::Suspend), 0);
    let errno = rustix::io::Errno::TIMEDOUT.raw_os_error();
    assert!(outcome.messages.contains(&Message::Complete { retval: -1, errno }), "{outcome:?}");
    for words in ["round 0: ", "round 2: ", "pages/s", "MiB/s", "downtime estimate", "the limit of rounds is reached"] {
        assert!(outcome.logged(words), "{words}: {outcome:?}");
    }
    let mut guest = home.after();
    assert!(!guest.info().unwrap().is_suspended());
    let mut dirty = DirtyBitmap::new(guest.info().unwrap().nr_pfns);
    assert!(guest.peek_log_dirty(&mut dirty).is_err(), "writes are still tracked");
    guest.self_check().unwrap();
}

#[test]
#[ignore = "long"]
fn limits_that_make_no_sense_are_told_before_anything_is_done() {
    let home = Home::of(&guest(&busy(), 5)).with(Ours);
    let outcome = Helper::save_within(&home, &home.path("stream"), "rounds=3 downtime=soon").run(|_, _| None);
    assert_eq!(outcome.retval, -1, "{outcome:?}");
    assert!(outcome.logged("XEN_REPLICATE_LIVE: \"downtime=soon\": not a number"), "{outcome:?}");
    assert_eq!(std::fs::metadata(home.path("stream")).unwrap().len(), 0);
    assert_eq!(outcome.count(|message| matches!(message, Message::SwitchQemuLogdirty { .. })), 0);
}
