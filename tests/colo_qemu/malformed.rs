//! A real primary whose bytes are changed on their way to the tap, which is its secondary: the tap says what is malformed and
//! closes the connection, and the primary's guest runs on.

use super::failures::{HOUR, checkpoint, goes_on, three_checkpoints};
use super::tap::{Tap, primary, unix};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;
use xen_replicate::tap::{Direction, Form, Session, What};

/// What is changed: what is at hand from the changed place on. It is a message's number, or the size behind it: QEMU writes each
/// of the two by itself, so neither comes in pieces.
type Change = fn(&mut Vec<u8>);

/// Stands in front of the tap and changes the fourth message of a name.
struct Bender {
    session: Arc<Mutex<Session>>,
    name: &'static str,
    change: Change,
}

impl Bender {
    fn between(self, listener: &UnixListener, to: &PathBuf) {
        let (from, to) = (listener.accept().unwrap().0, UnixStream::connect(to).unwrap());
        let (answers, replies) = (to.try_clone().unwrap(), from.try_clone().unwrap());
        let session = Arc::clone(&self.session);
        let back = thread::spawn(move || {
            pass(answers, replies, |bytes| {
                session.lock().unwrap().feed(Direction::Back, bytes, Duration::ZERO);
            });
        });
        let mut seen = 0;
        pass(from, to, |bytes| {
            let mut session = self.session.lock().unwrap();
            let began = session.bytes(Direction::Forward);
            let events = session.feed(Direction::Forward, bytes, Duration::ZERO);
            for event in events {
                if !matches!(event.what, What::Message { name, .. } if name == self.name) {
                    continue;
                }
                seen += 1;
                if seen == 4 {
                    let number = if self.name == "vmstate-size" { 4 } else { 0 };
                    let at = (event.offset + number).checked_sub(began).expect("in one piece") as usize;
                    let mut behind = bytes.split_off(at);
                    (self.change)(&mut behind);
                    bytes.extend(behind);
                }
            }
        });
        back.join().unwrap();
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

#[test]
#[ignore = "needs QEMU 7.2"]
fn a_malformed_message_ends_the_session_and_the_primary_runs_on() {
    let cases: [(&str, Change, &str); 6] = [
        ("checkpoint-request", |bytes| bytes[3] = 7, "number 0x7 is outside 0x0 to 0x6"),
        ("checkpoint-request", |bytes| bytes[3] = 3, "where checkpoint-request is due"),
        ("checkpoint-request", |bytes| bytes[3] = 6, "where checkpoint-request is due"),
        ("vmstate-size", |bytes| resized(bytes, |_| 1 << 63), "vmstate-size 0x8000000000000000"),
        ("vmstate-size", |bytes| resized(bytes, |size| size - 1), "are not sections up to their end"),
        ("vmstate-size", |bytes| resized(bytes, |size| size + 1), "nothing more has come for 1s"),
    ];
    for (name, change, expected) in cases {
        println!("{name}: {expected}");
        let home = tempfile::tempdir().unwrap();
        let (ours, theirs) = (home.path().join("tap"), home.path().join("bender"));
        let tap = Tap::listening(&["--listen", &unix(&ours), "--patience", "1"]);
        let listener = UnixListener::bind(&theirs).unwrap();
        let bender = Bender { session: Arc::new(Mutex::new(Session::new(Form::Qemu))), name, change };
        let bending = thread::spawn(move || bender.between(&listener, &ours));
        let mut first = primary(home.path(), &theirs, HOUR);
        three_checkpoints(&tap, &mut first);
        let from = first.fresh_count();
        checkpoint(&mut first);
        let told = tap.sees_trouble();
        assert!(told["message"].as_str().unwrap().contains(expected), "{told}");
        assert!(told["due"] != "" && told["inside"] != "" && told["offset"].as_u64().unwrap() > 0, "{told}");
        let (code, said) = tap.ends();
        assert_eq!(code, Some(1), "{said}");
        goes_on(&mut first, from);
        bending.join().unwrap();
    }
}
