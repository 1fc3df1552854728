//! This project's own save helper in the place of Debian's, over the same fake libraries, and each of the two with the other.

use crate::control::Control;
use crate::helper::{Helper, Outcome, PLAIN, REMUS};
use crate::home::{Home, Program, assert_go_on, assert_restored, fifo, guest};
use crate::message::Message;
use crate::plain::{configs, we_save};
use crate::remus::{append, record};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::thread;
use xen_replicate::hypervisor::sim::{SimConfig, SimDomain};
use xen_replicate::hypervisor::{DirtyBitmap, Domain, LogDirty};
use xen_replicate::stream::libxl;

use Program::{Debians, Ours};

const PAIRS: [(Program, Program); 3] = [(Ours, Debians), (Debians, Ours), (Ours, Ours)];

/// Saves a guest; gives it as it was then.
pub fn save(program: Program, home: Home, flags: u32) -> (SimDomain, Home) {
    let home = home.with(program);
    let outcome = Helper::save(&home, &home.path("stream"), None, flags, PLAIN).run_well();
    assert!(outcome.logged("Saving domain 1, type x86 HVM"), "{outcome:?}");
    let domain = home.after();
    assert!(domain.info().unwrap().is_suspended());
    (domain, home)
}

fn restore(program: Program, config: &SimConfig, stream: &Path) -> SimDomain {
    let home = Home::empty(config).with(program);
    let outcome = Helper::restore(&home, stream, None, PLAIN).run_well();
    let domain = home.after();
    assert_eq!(outcome.results(), Some((domain.grants().xenstore_gfn, domain.grants().console_gfn)));
    domain
}

#[test]
#[ignore = "long"]
fn plain_images_go_either_way_and_ours_is_byte_for_byte_what_it_should_be() {
    for config in configs() {
        for (saving, restoring) in PAIRS {
            let (mut original, home) = save(saving, Home::of(&guest(&config, 50)), 0);
            let stream = home.path("stream");
            let copy = restore(restoring, &config, &stream);
            assert_restored(&original, &copy);
            // The same as our half in process makes of it, which is what Debian's makes of it.
            let (found, expected) = (fs::read(&stream).unwrap(), we_save(&mut original));
            let first = found.iter().zip(&expected).position(|(a, b)| a != b);
            assert_eq!((first, found.len()), (None, expected.len()), "{saving:?}, {:?}", config.layout);
            assert_go_on(original, copy);
        }
    }
}

/// Saves a guest that dirties its pages meanwhile: nobody reads on before it has run.
pub fn save_while_it_runs(home: &Home) -> Outcome {
    let pipe = fifo(&home.path(""), "pipe");
    thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let mut from = File::open(&pipe).unwrap();
            let mut file = File::create(home.path("stream")).unwrap();
            io::copy(&mut (&mut from).take(1 << 16), &mut file).unwrap();
            Control::connect(&home.path("control")).wait_for_steps(200);
            io::copy(&mut from, &mut file).unwrap();
        });
        let outcome = Helper::save(home, &pipe, None, 1, PLAIN).run_well();
        reading.join().unwrap();
        outcome
    })
}

#[test]
#[ignore = "long"]
fn live_images_have_what_the_guest_dirtied_meanwhile() {
    for config in configs() {
        for (saving, restoring) in PAIRS {
            let home = Home::of(&guest(&config, 50)).with(saving);
            let outcome = save_while_it_runs(&home);
            let rounds =
                |message: &Message| matches!(message, Message::Progress { doing, .. } if doing == "Frames iteration 1");
            assert!(outcome.count(rounds) > 0, "no second round: {:?}", outcome.messages);
            assert_restored(&home.after(), &restore(restoring, &config, &home.path("stream")));
        }
    }
}

#[test]
#[ignore = "long"]
fn a_verify_pass_agrees_with_either_side() {
    let config = SimConfig::small(5);
    for (saving, restoring) in PAIRS {
        let (original, home) = save(saving, Home::of(&guest(&config, 50)), 3);
        assert_restored(&original, &restore(restoring, &config, &home.path("stream")));
    }
}

/// Has our helper save a guest onto a pipe that nobody reads any more, with SIGTERM then, and looks at how it puts things in order. Gives
/// how often the device model's log was switched off again.
pub fn call_off(home: &Home) -> usize {
    let stream = fifo(&home.path(""), "stream");
    let switched_off = thread::scope(|scope| {
        let reading = scope.spawn(|| File::open(&stream).unwrap());
        let helper = Helper::save(home, &stream, None, 1, PLAIN);
        let id = Pid::from_raw(i32::try_from(helper.id()).unwrap()).unwrap();
        let mut reader = reading.join().unwrap();
        let calling = scope.spawn(move || {
            reader.read_exact(&mut [0; 1 << 16]).unwrap();
            kill_process(id, Signal::TERM).unwrap();
            reader
        });
        let outcome = helper.run(|_, _| None);
        drop(calling.join());
        assert_eq!(outcome.retval, -1, "{outcome:?}");
        assert!(outcome.logged("called off by SIGTERM"), "{outcome:?}");
        assert_eq!(outcome.count(|message| *message == Message::Suspend), 0);
        outcome.count(|message| *message == Message::SwitchQemuLogdirty { enable: false })
    });
    assert_eq!(home.failed_calls(), [""; 0]);
    switched_off
}

#[test]
#[ignore = "long"]
fn a_save_that_is_called_off_leaves_the_guest_untracked_and_running() {
    // More than the pipe holds.
    let config = SimConfig { memory: 2000, ..SimConfig::small(5) };
    let home = Home::of(&guest(&config, 50)).with(Ours);
    assert_eq!(call_off(&home), 1);
    let mut guest = home.after();
    assert!(!guest.info().unwrap().is_suspended());
    let mut dirty = DirtyBitmap::new(guest.info().unwrap().nr_pfns);
    assert!(guest.peek_log_dirty(&mut dirty).is_err(), "writes are still tracked");
}

/// Takes so many checkpoints; libxl's part of each is written when libxl is told that libxc's is.
pub fn protect(home: &Home, stream: &Path, checkpoints: u32) {
    protect_and(home, stream, checkpoints, |_, _| {});
}

/// The same; `see` hears of each message before it is answered.
pub fn protect_and(home: &Home, stream: &Path, checkpoints: u32, see: impl Fn(&Message, &mut Control)) {
    let mut number = 0;
    let mut answer = |message: &Message, control: &mut Control| match message {
        Message::Postcopy => {
            number += 1;
            if number < checkpoints {
                control.tell("resume");
            }
            Some(1)
        }
        Message::Checkpoint => {
            append(stream, &record(libxl::types::CHECKPOINT_END));
            if number == checkpoints {
                return Some(0);
            }
            control.wait_for_steps(20);
            Some(1)
        }
        _ => None,
    };
    let outcome = Helper::save(home, stream, None, 1, REMUS).run(|message, control| {
        see(message, control);
        answer(message, control)
    });
    assert_eq!((outcome.retval, number), (0, checkpoints), "{outcome:?}");
    assert_eq!(outcome.count(|message| *message == Message::Suspend), checkpoints as usize);
}

/// Takes checkpoints until the stream stops.
pub fn take_over(home: &Home, stream: &Path, mut libxl: impl Read) -> u32 {
    let mut taken = 0;
    let outcome = Helper::restore(home, stream, None, REMUS).run(|message, _| match message {
        Message::Checkpoint => {
            let mut header = [0; 8];
            libxl.read_exact(&mut header).unwrap();
            assert_eq!(header, record(libxl::types::CHECKPOINT_END), "a byte too many, or too few, was read");
            taken += 1;
            Some(1)
        }
        _ => None,
    });
    assert_eq!(outcome.retval, 0, "{outcome:?}");
    taken
}

#[test]
#[ignore = "long"]
fn remus_goes_over_to_the_last_checkpoint_on_either_side() {
    for config in configs() {
        for (saving, restoring) in PAIRS {
            let primary = Home::of(&guest(&config, 50)).with(saving);
            let secondary = Home::empty(&config).with(restoring);
            let stream = fifo(&primary.path(""), "stream");
            thread::scope(|scope| {
                let protecting = scope.spawn(|| protect(&primary, &stream, 4));
                let reading = scope.spawn(|| File::open(&stream).unwrap());
                assert_eq!(take_over(&secondary, &stream, reading.join().unwrap()), 4);
                protecting.join().unwrap();
            });
            assert_restored(&primary.after(), &secondary.after());
        }
    }
}

#[test]
#[ignore = "long"]
fn colo_is_equal_at_each_checkpoint_on_either_side() {
    for config in configs() {
        for (saving, restoring) in PAIRS {
            let (here, there) = (Home::of(&guest(&config, 50)).with(saving), Home::empty(&config).with(restoring));
            crate::colo::equal_at_each_checkpoint(&here, &there);
        }
    }
}
