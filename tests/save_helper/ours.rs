//! This project's own save helper in the place of Debian's, over Debian's libxenctrl, and each of the two with the other.

use crate::control::Control;
use crate::helper::{Helper, Outcome, PLAIN, REMUS};
use crate::home::{Home, Program, assert_go_on, assert_restored, fifo, guest};
use crate::message::Message;
use crate::plain::{configs, we_save};
use crate::remus::{append, record};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::thread;
use xen_replicate::hypervisor::Domain;
use xen_replicate::hypervisor::sim::{SimConfig, SimDomain};
use xen_replicate::stream::libxl;

use Program::{Debians, Ours};

const PAIRS: [(Program, Program); 3] = [(Ours, Debians), (Debians, Ours), (Ours, Ours)];

/// Saves a guest; gives it as it was then.
fn save(program: Program, home: Home, flags: u32) -> (SimDomain, Home) {
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
fn plain_images_go_either_way_and_ours_is_octet_for_octet_what_it_should_be() {
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

/// Takes so many checkpoints; libxl's part of each is written when libxl is told that libxc's is.
pub fn protect(home: &Home, stream: &Path, checkpoints: u32) {
    let mut number = 0;
    let outcome = Helper::save(home, stream, None, 1, REMUS).run(|message, control| match message {
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
            assert_eq!(header, record(libxl::types::CHECKPOINT_END), "an octet too many, or too few, was read");
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

/// What our helper makes of a stream: what it says at the end, and the errno. It must not ask for anything more.
fn refused(config: &SimConfig, stream: &[u8], kind: u32) -> (String, i32) {
    let home = Home::empty(config).with(Ours);
    let path = home.path("stream");
    fs::write(&path, stream).unwrap();
    let outcome = Helper::restore(&home, &path, None, kind).run(|message, _| match message {
        Message::Checkpoint => Some(1),
        _ => None,
    });
    assert_eq!(outcome.retval, -1, "{outcome:?}");
    let mut said = outcome.messages.iter().filter_map(|message| match message {
        Message::Log { text } => Some(text.clone()),
        _ => None,
    });
    let errno = outcome.messages.iter().find_map(|message| match message {
        Message::Complete { errno, .. } => Some(*errno),
        _ => None,
    });
    // The last line but one: the last says that it is over.
    (said.rfind(|text| !text.starts_with("complete")).unwrap_or_default(), errno.unwrap_or_default())
}

/// A stream of one checkpoint and what follows it, without libxl's records between.
fn behind_a_checkpoint(config: &SimConfig, octets: &[u8]) -> Vec<u8> {
    use xen_replicate::libxc::Saver;
    use xen_replicate::stream::Mode;
    use xen_replicate::stream::handover::LibxcWriter;
    let mut domain = guest(config, 50);
    let mut stream = Vec::new();
    let mut saver = Saver::new(&mut domain, Default::default()).unwrap();
    let mut out = LibxcWriter::start(&mut stream, Mode::Remus, 3, saver.header()).unwrap();
    saver.static_data(&domain, &mut out).unwrap();
    domain.suspend().unwrap();
    saver.everything();
    saver.send_pages(&domain, &mut out).unwrap();
    saver.send_state(&domain, &mut out).unwrap();
    out.checkpoint().unwrap();
    out.flush().unwrap();
    drop(out);
    stream.extend_from_slice(octets);
    stream
}

#[test]
#[ignore = "long"]
fn bad_streams_are_refused_and_never_a_failover() {
    let config = SimConfig::small(5);
    let mut original = guest(&config, 50);
    original.suspend().unwrap();
    let good = we_save(&mut original);
    let header = |type_id: u32, length: u32| [type_id.to_le_bytes(), length.to_le_bytes()].concat();
    // One page at pfn 2^34 - 1: Debian's gives 2 GiB for it.
    let static_data_end = good.windows(8).position(|window| window == header(0x10, 0)).unwrap() + 8;
    let mut far = good[..static_data_end].to_vec();
    far.extend(header(1, 16 + 4096));
    far.extend([1u32.to_le_bytes(), [0; 4]].concat());
    far.extend((((1u64 << 34) - 1) | 1 << 63).to_le_bytes());
    far.extend([0; 4096]);
    let garbage = [0xa5; 4096];
    let mut marker = good.clone();
    marker[0] = 0;
    for (stream, kind, part) in [
        (&good[..good.len() / 2], PLAIN, "stream"),
        (&marker[..], PLAIN, "marker"),
        (&far[..], PLAIN, "type"),
        (&[][..], PLAIN, "stream"),
        (&behind_a_checkpoint(&config, &garbage)[..], REMUS, "record"),
        // An unknown record that must not be skipped.
        (&behind_a_checkpoint(&config, &header(0x7f, 0))[..], REMUS, "0x0000007f"),
    ] {
        let (said, errno) = refused(&config, stream, kind);
        assert!(said.to_lowercase().contains(part) && errno != 0, "{part}: {said} ({errno})");
    }
    // And the stream's end behind a checkpoint is the primary's death: with an optional record before it, which is skipped.
    let home = Home::empty(&config).with(Ours);
    let path = home.path("stream");
    fs::write(&path, behind_a_checkpoint(&config, &header(0x8000_007f, 0))).unwrap();
    let outcome = Helper::restore(&home, &path, None, REMUS).run(|message, _| match message {
        Message::Checkpoint => Some(1),
        _ => None,
    });
    assert_eq!(outcome.retval, 0, "{outcome:?}");
    assert_restored(&original, &home.after());
}
