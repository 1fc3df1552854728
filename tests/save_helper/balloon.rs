//! A guest that gives memory back, takes it again and writes to it between two checkpoints, under the save helpers; on hypervisors whose
//! dirty log does not tell of what comes to a guest, as of 4.14 and 4.17, and on one whose log does, as of 4.20.4.

use crate::control::Control;
use crate::helper;
use crate::home::{Home, Program, fifo, guest};
use crate::message::Message;
use crate::ours::{protect_and, take_over};
use std::fs::{self, File};
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use xen_replicate::hypervisor::sim::{SimConfig, SimDomain};
use xen_replicate::hypervisor::{Domain, Pfn, SaveDomain, hvm_param};

use Program::{Debians, Ours};

/// Gives one page back and takes another one at every third step; a checkpoint has 20 steps.
fn config() -> SimConfig {
    // A live image that no pipe holds.
    SimConfig { memory: 512, balloon_pages: 24, balloon_every: 3, ..SimConfig::small(5) }
}

/// Pages that the guest has and the copy has not, or with other contents. The rings' are cleared.
fn lost(original: &SimDomain, copy: &SimDomain) -> Vec<Pfn> {
    let rings = [hvm_param::STORE_PFN, hvm_param::CONSOLE_PFN, hvm_param::IOREQ_PFN, hvm_param::BUFIOREQ_PFN];
    let rings = rings.map(|ring| original.hvm_param(ring).unwrap());
    let (original, copy) = (original.memory(), copy.memory());
    let pages = original.populated_pfns().filter(|pfn| !rings.contains(pfn));
    pages.filter(|&pfn| original.page(pfn) != copy.page(pfn)).collect()
}

/// The stock helper fails where a page goes between its look and its mapping, which a balloon does in live rounds: for it the guest is
/// paused until its first checkpoint.
fn paused_for(saving: Program) -> impl Fn(&Message, &mut Control) {
    let begun = AtomicBool::new(saving == Ours);
    move |message, control| match message {
        Message::SwitchQemuLogdirty { enable: true } if !begun.load(Ordering::SeqCst) => {
            control.tell("pause");
        }
        Message::Suspend if !begun.swap(true, Ordering::SeqCst) => {
            control.tell("unpause");
        }
        _ => {}
    }
}

/// The guest and its copy behind a failover.
fn failed_over(saving: (Program, &'static str), restoring: (Program, &'static str)) -> (Home, SimDomain, SimDomain) {
    let primary = Home::of(&guest(&config(), 50)).with(saving.0).on(saving.1);
    let secondary = Home::empty(&config()).with(restoring.0).on(restoring.1);
    let stream = fifo(&primary.path(""), "stream");
    thread::scope(|scope| {
        let protecting = scope.spawn(|| protect_and(&primary, &stream, 4, paused_for(saving.0)));
        let reading = scope.spawn(|| File::open(&stream).unwrap());
        assert_eq!(take_over(&secondary, &stream, reading.join().unwrap()), 4);
        protecting.join().unwrap();
    });
    let domains = (primary.after(), secondary.after());
    assert!(domains.0.steps().unwrap() >= 50 + 3 * 20);
    (primary, domains.0, domains.1)
}

/// How often the helper has asked for types of frames before it began the log.
fn looks_before_the_log(home: &Home) -> usize {
    let log = fs::read_to_string(home.path("log")).unwrap();
    // XEN_DOMCTL_shadow_op, XEN_DOMCTL_getpageframeinfo3.
    let before = log.lines().take_while(|line| !line.starts_with("domctl 10 "));
    before.filter(|line| line.starts_with("domctl 61 ")).count()
}

#[test]
#[ignore = "long"]
fn our_primary_loses_nothing_of_a_guest_that_balloons_into_either_secondary() {
    for (here, there) in [("4.14", "4.17"), ("4.17", "4.17"), ("4.17", "4.20"), ("4.20", "4.20")] {
        for restoring in [Debians, Ours] {
            let (_, original, mut copy) = failed_over((Ours, here), (restoring, there));
            assert_eq!(lost(&original, &copy), [0; 0], "{here} to {restoring:?} on {there}");
            copy.self_check().unwrap();
            copy.unpause().unwrap();
            copy.run(100).unwrap();
            copy.self_check().unwrap();
        }
    }
}

/// The gap itself: the stock helper takes the log for enough, and on 4.17 it is not.
#[test]
#[ignore = "long"]
fn their_primary_loses_what_comes_to_a_guest_of_4_17_and_nothing_on_4_20() {
    // What came and was written to again later is in the log: it takes a few runs at most until something was not.
    let loses = || {
        let (_, original, copy) = failed_over((Debians, "4.17"), (Debians, "4.17"));
        (!lost(&original, &copy).is_empty()).then_some(copy)
    };
    let copy = (0..50).find_map(|_| loses()).expect("nothing is lost");
    assert!(copy.self_check().is_err());
    let (_, original, copy) = failed_over((Debians, "4.20"), (Debians, "4.20"));
    assert_eq!(lost(&original, &copy), [0; 0]);
    copy.self_check().unwrap();
}

/// A saver that is going to look for what has come looks before the log is begun, too: ours does on 4.17, and on 4.20 it does not.
#[test]
#[ignore = "long"]
fn the_look_is_made_on_4_17_and_not_on_4_20() {
    let looks = |program, xen| looks_before_the_log(&failed_over((program, xen), (Ours, "4.20")).0);
    assert_eq!([looks(Ours, "4.14"), looks(Ours, "4.17"), looks(Ours, "4.20"), looks(Debians, "4.17")], [1, 1, 0, 0]);
}

/// The guest runs while its first round waits to be read, and is paused from then on to its suspension: what goes and comes between a
/// taking of the log and the look at the pages in it is not told by anything (`libxc/added.rs`).
fn save_what_came_in_the_first_round(home: &Home) {
    let pipe = fifo(&home.path(""), "pipe");
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut from = File::open(&pipe).unwrap();
            let mut file = File::create(home.path("stream")).unwrap();
            io::copy(&mut (&mut from).take(1 << 16), &mut file).unwrap();
            let mut control = Control::connect(&home.path("control"));
            control.wait_for_steps(200);
            control.tell("pause");
            io::copy(&mut from, &mut file).unwrap();
        });
        let outcome = helper::Helper::save(home, &pipe, None, 1, helper::PLAIN).run(|message, control| {
            if *message == Message::Suspend {
                control.tell("unpause");
            }
            None
        });
        assert_eq!(outcome.retval, 0, "{outcome:?}");
    });
}

#[test]
#[ignore = "long"]
fn a_live_image_has_what_came_meanwhile() {
    for xen in ["4.14", "4.17", "4.20"] {
        let home = Home::of(&guest(&config(), 50)).with(Ours).on(xen);
        save_what_came_in_the_first_round(&home);
        let copy = Home::empty(&config()).with(Debians).on("4.20");
        helper::Helper::restore(&copy, &home.path("stream"), None, helper::PLAIN).run_well();
        assert_eq!(lost(&home.after(), &copy.after()), [0; 0], "{xen}");
        copy.after().self_check().unwrap();
    }
}
