//! A real primary whose bytes are changed on their way to the tap, which is its secondary: the tap says what is malformed and
//! closes the connection, and the primary's guest runs on.

use super::failures::{HOUR, checkpoint, goes_on, three_checkpoints};
use super::newer::SID;
use super::qemu::{INSTALLED, Setup};
use super::tap::{Tap, primary_as, unix};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;
use xen_replicate::tap::{Direction, Form, Session, What};

/// What is changed: what is at hand from the changed place on. It is a message's number, or the size behind it: QEMU writes each
/// of the two by itself, so neither comes in pieces.
type Change = fn(&mut Vec<u8>);

/// Stands in front of the tap and changes the fourth message of a name, or the SYNC that the first channel has for the first mark of the
/// fourth checkpoint.
struct Bender {
    /// And how many of that name have come.
    session: Mutex<(Session, u64)>,
    name: &'static str,
    change: Change,
}

const SYNC: &str = "channel-0-sync";
/// Bytes of a packet's header.
const HEADER: u64 = 1344;

impl Bender {
    /// Passes on so many connections, until the last of them is gone.
    fn between(&self, listener: &UnixListener, to: &PathBuf, connections: u16) {
        thread::scope(|scope| {
            for connection in 0..connections {
                let (from, to) = (listener.accept().unwrap().0, UnixStream::connect(to).unwrap());
                let (answers, replies) = (to.try_clone().unwrap(), from.try_clone().unwrap());
                scope.spawn(move || {
                    pass(answers, replies, |bytes| {
                        let mut locked = self.session.lock().unwrap();
                        locked.0.feed_on(connection, Direction::Back, bytes, Duration::ZERO);
                    });
                });
                scope.spawn(move || pass(from, to, |bytes| self.forward(connection, bytes)));
            }
        });
    }

    fn forward(&self, connection: u16, bytes: &mut Vec<u8>) {
        let mut locked = self.session.lock().unwrap();
        let (session, seen) = &mut *locked;
        let ready = session.due() != "checkpoint-ready";
        let began = session.bytes_on(connection, Direction::Forward);
        for event in session.feed_on(connection, Direction::Forward, bytes, Duration::ZERO) {
            let (inside, nth) = match event.what {
                What::Message { name, .. } if name == self.name => (if name == "vmstate-size" { 4 } else { 0 }, 4),
                // From behind the image on there are two for a checkpoint.
                What::Sync { .. } if self.name == SYNC && ready && event.channel.unwrap().id == Some(0) => {
                    (event.bytes - HEADER, 7)
                }
                _ => continue,
            };
            *seen += 1;
            if *seen == nth {
                let at = (event.offset + inside).checked_sub(began).expect("in one piece") as usize;
                let mut behind = bytes.split_off(at);
                (self.change)(&mut behind);
                bytes.extend(behind);
            }
        }
    }
}

/// Passes on until either end is gone.
fn pass(mut from: UnixStream, mut to: UnixStream, mut see: impl FnMut(&mut Vec<u8>)) {
    let mut chunk = vec![0; 1 << 18];
    while let Ok(got @ 1..) = from.read(&mut chunk) {
        let mut bytes = chunk[..got].to_vec();
        see(&mut bytes);
        if to.write_all(&bytes).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

fn resized(bytes: &mut [u8], size: impl FnOnce(u64) -> u64) {
    let old = u64::from_be_bytes(bytes[..8].try_into().unwrap());
    bytes[..8].copy_from_slice(&size(old).to_be_bytes());
}

fn ends_the_session(setup: Setup, cases: &[(&'static str, Change, &str)]) {
    for (name, change, expected) in cases {
        println!("{name}: {expected}");
        let home = tempfile::tempdir().unwrap();
        let (ours, theirs) = (home.path().join("tap"), home.path().join("bender"));
        let tap = Tap::listening(&["--listen", &unix(&ours), "--patience", "1"]);
        let listener = UnixListener::bind(&theirs).unwrap();
        let bender = Bender { session: Mutex::new((Session::new(Form::Qemu), 0)), name, change: *change };
        thread::scope(|scope| {
            let bending = scope.spawn(|| bender.between(&listener, &ours, 1 + u16::from(setup.channels)));
            let mut first = primary_as(home.path(), &theirs, HOUR, setup);
            three_checkpoints(&tap, &mut first);
            let from = first.fresh_count();
            checkpoint(&mut first);
            let told = tap.sees_trouble();
            assert!(told["message"].as_str().unwrap().contains(expected), "{told}");
            assert!(told["due"] != "" && told["inside"] != "", "{told}");
            assert!(told["offset"].as_u64().unwrap() > 0, "{told}");
            let (code, said) = tap.ends();
            assert_eq!(code, Some(1), "{said}");
            goes_on(&mut first, from);
            first.kill();
            bending.join().unwrap();
        });
    }
}

#[test]
#[ignore = "needs QEMU 7.2"]
fn a_malformed_message_ends_the_session_and_the_primary_runs_on() {
    ends_the_session(
        INSTALLED,
        &[
            ("checkpoint-request", |bytes| bytes[3] = 7, "number 0x7 is outside 0x0 to 0x6"),
            ("checkpoint-request", |bytes| bytes[3] = 3, "where checkpoint-request is due"),
            ("checkpoint-request", |bytes| bytes[3] = 6, "where checkpoint-request is due"),
            ("vmstate-size", |bytes| resized(bytes, |_| 1 << 63), "vmstate-size 0x8000000000000000"),
            ("vmstate-size", |bytes| resized(bytes, |size| size - 1), "are not sections up to their end"),
            ("vmstate-size", |bytes| resized(bytes, |size| size + 1), "nothing more has come for 1s"),
        ],
    );
}

#[test]
#[ignore = "fetches QEMU 11.1"]
fn a_malformed_packet_ends_the_session_and_the_primary_of_sid_runs_on() {
    ends_the_session(
        Setup { channels: 2, ..SID },
        &[
            (SYNC, |bytes| bytes[0] = 0, "magic 0x223344"),
            (SYNC, |bytes| bytes[7] = 2, "multifd version 2"),
            (SYNC, |bytes| bytes[11] = 0x81, "packet flags 0x81"),
            (SYNC, |bytes| bytes[11] = 0x21, "qatzip on a multifd channel is not followed"),
            (SYNC, |bytes| bytes[11] = 0, "channel 0 has had"),
            (SYNC, |bytes| bytes[16] = 1, "normal_pages 0x1000000"),
            (SYNC, |bytes| bytes[20..24].fill(0xff), "next_packet_size 0xffffffff, at most 0x0"),
            (SYNC, |bytes| bytes[24..32].fill(0), "packet number 0, after"),
            ("checkpoint-request", |bytes| bytes[3] = 7, "number 0x7 is outside 0x0 to 0x6"),
            ("vmstate-size", |bytes| resized(bytes, |size| size + 1), "nothing more has come for 1s"),
        ],
    );
}
