//! Checkpointed streams, libxl's records played by the test.

use crate::helper::{Helper, REMUS};
use crate::home::{Home, assert_restored, fifo, guest};
use crate::message::Message;
use crate::plain::configs;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::thread;
use xen_replicate::hypervisor::Domain;
use xen_replicate::hypervisor::sim::{SimConfig, SimDomain};
use xen_replicate::libxc::{self, restore::Rings};
use xen_replicate::libxl::{Restorer, Started, Turn, restore};
use xen_replicate::stream::framer::Options as Framing;
use xen_replicate::stream::{Mode, Start, libxl};

/// A record of libxl's without a body.
pub fn record(type_id: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&type_id.to_le_bytes());
    bytes
}

pub fn append(stream: &Path, bytes: &[u8]) {
    File::options().append(true).open(stream).unwrap().write_all(bytes).unwrap();
}

/// Debian's helper saves so many checkpoints; the guest stands suspended at the last one then.
fn they_protect(home: &Home, stream: &Path, checkpoints: u32) {
    let mut number = 0;
    let outcome = Helper::save(home, stream, None, 1, REMUS).run(|message, control| match message {
        Message::Postcopy => {
            number += 1;
            // As xl's Remus: libxl's part ends the checkpoint. After the last one the primary is gone.
            append(stream, &record(libxl::types::CHECKPOINT_END));
            if number == checkpoints {
                return Some(0);
            }
            control.tell("resume");
            Some(1)
        }
        Message::Checkpoint => {
            control.wait_for_steps(20);
            Some(1)
        }
        _ => None,
    });
    assert_eq!((outcome.retval, number), (0, checkpoints), "{outcome:?}");
    assert_eq!(outcome.count(|message| *message == Message::Suspend), checkpoints as usize);
    assert_eq!(home.failed_calls(), [""; 0]);
}

/// A guest's stream of so many checkpoints by Debian's helper, libxl's part around it.
pub fn their_stream(config: &SimConfig, checkpoints: u32) -> (Home, PathBuf) {
    let home = Home::of(&guest(config, 50));
    let stream = home.path("stream");
    let mut start = libxl::Header { options: 0 }.emit().to_vec();
    start.extend(record(libxl::types::LIBXC_CONTEXT));
    fs::write(&stream, start).unwrap();
    they_protect(&home, &stream, checkpoints);
    (home, stream)
}

/// Debian's helper takes checkpoints until the stream stops, and goes over to the last. `stream` is also read by libxl, in turn.
fn they_take_over(home: &Home, stream: &Path, mut libxl: impl Read) -> u32 {
    let mut taken = 0;
    let outcome = Helper::restore(home, stream, None, REMUS).run(|message, _| match message {
        Message::Checkpoint => {
            loop {
                let mut header = [0; 8];
                libxl.read_exact(&mut header).unwrap();
                if header == record(libxl::types::CHECKPOINT_END) {
                    break;
                }
                let length = u32::from_le_bytes(header[4..].try_into().unwrap()).next_multiple_of(8);
                libxl.read_exact(&mut vec![0; length as usize]).unwrap();
            }
            taken += 1;
            Some(1)
        }
        _ => None,
    });
    assert_eq!(outcome.retval, 0, "{outcome:?}");
    assert!(outcome.logged("Restore successful"), "{outcome:?}");
    assert_eq!(home.failed_calls(), [""; 0]);
    taken
}

#[test]
#[ignore = "long"]
fn their_secondary_goes_over_to_the_last_checkpoint_of_their_primary() {
    for config in configs() {
        let (primary, secondary) = (Home::of(&guest(&config, 50)), Home::empty(&config));
        let stream = fifo(primary.path("").as_path(), "stream");
        thread::scope(|scope| {
            let protecting = scope.spawn(|| they_protect(&primary, &stream, 4));
            // Opened for reading by libxl and its helper both: a pipe that they read in turn.
            let reading = scope.spawn(|| File::open(&stream).unwrap());
            assert_eq!(they_take_over(&secondary, &stream, reading.join().unwrap()), 4);
            protecting.join().unwrap();
        });
        assert_restored(&primary.after(), &secondary.after());
    }
}

#[test]
#[ignore = "long"]
fn we_go_over_to_the_last_checkpoint_of_their_primary() {
    for config in configs() {
        let (home, stream) = their_stream(&config, 4);
        let (copy, checkpoints) = we_take_over(&config, &stream);
        assert_eq!(checkpoints, 4);
        assert_restored(&home.after(), &copy);
    }
}

/// Restores a Remus stream as libxl and libxc of our own.
pub fn we_take_over(config: &SimConfig, stream: &Path) -> (SimDomain, u32) {
    let mut domain = SimDomain::empty(config).unwrap();
    let rings = Rings {
        store_evtchn: crate::home::STORE_EVTCHN as u32,
        console_evtchn: crate::home::CONSOLE_EVTCHN as u32,
        ..Rings::default()
    };
    let options = restore::Options {
        stream: Framing { start: Some(Start::Libxl), mode: Some(Mode::Remus), ..Framing::default() },
        libxc: libxc::restore::Options { rings, ..libxc::restore::Options::default() },
    };
    let started = Restorer::start(File::open(stream).unwrap(), &domain, options).unwrap();
    let Started { mut restorer, reader, .. } = started;
    let Turn::Checkpoint(mut reader) = restorer.first_image(reader, &mut domain).unwrap() else { panic!("an END") };
    let mut checkpoints = 1;
    while let Ok(turn) = restorer.receive(reader, &domain) {
        let Turn::Checkpoint(next) = turn else { panic!("an END") };
        restorer.apply(&mut domain).unwrap();
        checkpoints += 1;
        reader = next;
    }
    restorer.complete(&mut domain).unwrap();
    (domain, checkpoints)
}

#[test]
#[ignore = "long"]
fn their_secondary_goes_over_to_our_last_checkpoint() {
    for config in configs() {
        let mut primary = guest(&config, 50);
        let home = Home::empty(&config);
        let path = fifo(home.path("").as_path(), "stream");
        thread::scope(|scope| {
            let primary = &mut primary;
            let protecting = scope.spawn(|| we_protect(primary, File::options().write(true).open(&path).unwrap(), 4));
            // libxl reads its header and the record that hands over, then its helper starts.
            let mut libxl = File::open(&path).unwrap();
            let mut start = [0; 24];
            libxl.read_exact(&mut start).unwrap();
            assert_eq!(start[16..], record(libxl::types::LIBXC_CONTEXT));
            assert_eq!(they_take_over(&home, &path, libxl), 4);
            protecting.join().unwrap();
        });
        assert_restored(&primary, &home.after());
    }
}

fn we_protect(domain: &mut SimDomain, sink: File, checkpoints: u32) {
    use xen_replicate::libxl::Saver;
    let mut saver = Saver::new(domain, Default::default()).unwrap();
    let mut out = saver.begin(domain, sink).unwrap();
    for number in 1..=checkpoints {
        domain.run(20).unwrap();
        domain.suspend().unwrap();
        saver.collect(domain).unwrap();
        saver.stage(domain).unwrap();
        if number < checkpoints {
            domain.resume().unwrap();
        }
        out = saver.send(out).unwrap().next_round();
    }
    saver.stop(domain).unwrap();
}
