//! The tap's eyes on sessions of libxl's records: an `xl migrate` stream with COLO and its back channel, whole, cut and malformed.

mod common;

use common::build;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::time::Duration;
use xen_replicate::tap::recording::{Entry, Recorder};
use xen_replicate::tap::{Direction, Event, Form, Session, What};

const F: Direction = Direction::Forward;
const B: Direction = Direction::Back;
const NOW: Duration = Duration::ZERO;

fn records() -> Vec<u8> {
    let page = build::record(1, &build::pages(&[7, 0xf << 60 | 1], 1));
    [page, build::hvm_state(), build::record(14, &[]), build::libxl_checkpoint()].concat()
}

fn image() -> Vec<u8> {
    let head = [build::xl_preamble(b"{}\0"), build::libxl_header(), build::record(1, &[])].concat();
    [head, build::libxc_headers(3, 2), build::hvm_static(), records()].concat()
}

fn dirty() -> Vec<u8> {
    build::record(15, &[7_u64.to_le_bytes(), 9_u64.to_le_bytes()].concat())
}

const BANNER: &[u8] = b"xl migration receiver ready, send binary domain data.\n";

/// What each side says at a stretch: NEW 0, SVM_SUSPENDED 1, SVM_READY 2, SVM_RESUMED 3.
fn session(checkpoints: usize) -> Vec<(Direction, Vec<u8>)> {
    let mut out = vec![(B, BANNER.to_vec()), (F, image()), (B, [build::state(2), build::state(3)].concat())];
    for _ in 0..checkpoints {
        out.extend(round());
    }
    out
}

fn round() -> [(Direction, Vec<u8>); 4] {
    [
        (F, build::state(0)),
        (B, [build::state(1), dirty()].concat()),
        (F, records()),
        (B, [build::state(2), build::state(3)].concat()),
    ]
}

fn play(session: &mut Session, parts: &[(Direction, Vec<u8>)]) -> Vec<Event> {
    parts.iter().flat_map(|(direction, bytes)| session.feed(*direction, bytes, NOW)).collect()
}

fn troubles(events: &[Event]) -> Vec<String> {
    events.iter().filter(|event| event.what.is_error()).map(ToString::to_string).collect()
}

fn names(events: &[Event]) -> Vec<&'static str> {
    let name = |event: &Event| match event.what {
        What::Message { name, .. } => name,
        What::Records { first: true, .. } => "image",
        What::Records { .. } => "records",
        _ => "?",
    };
    events.iter().map(name).collect()
}

#[test]
fn every_message_and_every_round_of_both_directions_is_seen() {
    let mut session_ = Session::new(Form::Libxl);
    let events = play(&mut session_, &session(2));
    assert_eq!(troubles(&events), [""; 0]);
    let round = ["NEW", "SVM_SUSPENDED", "CHECKPOINT_DIRTY_PFN_LIST", "records", "SVM_READY", "SVM_RESUMED"];
    let expected = [&["image", "SVM_READY", "SVM_RESUMED"][..], &round, &round].concat();
    assert_eq!(names(&events), expected);
    assert_eq!(session_.checkpoints(), 2);
    let What::Records { pages, emulator, .. } = events[0].what else { panic!("{}", events[0]) };
    assert_eq!((pages, emulator), (2, build::emulator(&build::qemu_state()).len() as u64));
    assert_eq!((events[0].offset, events[0].bytes), (0, image().len() as u64));
    // The list has two pages; the round's records are behind NEW.
    assert!(events[5].to_string().ends_with("CHECKPOINT_DIRTY_PFN_LIST 2"), "{}", events[5]);
    assert_eq!((events[6].offset, events[6].bytes), (image().len() as u64 + 16, records().len() as u64));
    assert!(matches!(session_.end(F, NOW).unwrap().what, What::End));
}

#[test]
fn bytes_one_by_one_give_the_same_and_an_end_anywhere_is_an_end() {
    let whole = play(&mut Session::new(Form::Libxl), &session(1));
    let mut session_ = Session::new(Form::Libxl);
    let mut events = Vec::new();
    for (direction, bytes) in session(1) {
        for byte in bytes {
            for direction in [F, B] {
                let event = session_.clone().end(direction, NOW).unwrap();
                assert!(matches!(event.what, What::End | What::Broken { .. }), "{event}");
            }
            events.extend(session_.feed(direction, &[byte], NOW));
        }
    }
    assert_eq!(names(&events), names(&whole));
    assert_eq!(troubles(&events), [""; 0]);
    // Inside of the round that begins.
    for length in 1..16 {
        let mut cut = session_.clone();
        cut.feed(F, &build::state(0)[..length], NOW);
        assert!(matches!(cut.end(F, NOW).unwrap().what, What::Broken { inside: "a record" }), "{length}");
    }
    session_.feed(F, &build::state(0), NOW);
    assert!(matches!(session_.end(F, NOW).unwrap().what, What::Broken { inside: "a checkpoint" }));
}

/// Behind a checkpoint in order, something else.
#[track_caller]
fn told(bad: &[(Direction, Vec<u8>)], parts: &[&str]) {
    let mut session_ = Session::new(Form::Libxl);
    assert_eq!(troubles(&play(&mut session_, &session(1))), [""; 0]);
    let found = troubles(&play(&mut session_, bad));
    let all = found.join("; ");
    for part in parts {
        assert!(all.contains(part), "{part}: {found:?}");
    }
}

#[test]
fn what_is_malformed_or_out_of_step_is_told_with_its_place() {
    let [new, suspended, whole, ready] = round();
    let at = format!("offset {}", image().len() + 16 + records().len());
    let back = format!("offset {}", BANNER.len() + 2 * 32 + 16 + dirty().len());
    // Over the end of the enumeration.
    told(&[(F, build::state(4))], &["control", "4", "due: NEW"]);
    told(&[(B, build::state(9))], &["control", "9"]);
    // Of another step, of the other side, and again.
    told(&[(B, build::state(1))], &["SVM_SUSPENDED at", &back, "where NEW is due"]);
    told(&[(F, build::state(1))], &["SVM_SUSPENDED at", &at, "where NEW is due"]);
    // Behind NEW the stream is libxc's, and its record of that number is another.
    told(&[new.clone(), new.clone()], &["X86_PV_VCPU_EXTENDED at", "where SVM_SUSPENDED is due"]);
    told(&[new.clone(), ready.clone()], &["SVM_READY at", "where SVM_SUSPENDED is due"]);
    told(&[new.clone(), (B, dirty())], &["CHECKPOINT_DIRTY_PFN_LIST at", "where SVM_SUSPENDED is due"]);
    // Records before the secondary has said that it stands still.
    told(&[new.clone(), whole.clone()], &["PAGE_DATA at", "where SVM_SUSPENDED is due"]);
    told(&[new.clone(), suspended, whole, (B, build::state(3))], &["SVM_RESUMED at", "where SVM_READY is due"]);
    // A list of pages that are none, a length that a record cannot have, and no record at all.
    told(&[new.clone(), (B, build::state(1)), (B, build::record(15, &[0; 9]))], &["CHECKPOINT_DIRTY_PFN_LIST"]);
    told(&[(F, [5_u32.to_le_bytes(), u32::MAX.to_le_bytes()].concat())], &["4294967295", "due: NEW"]);
}

/// A secondary that stands still between checkpoints does not say that it runs.
#[test]
fn periodic_mode_is_followed() {
    let mut session_ = Session::new(Form::Libxl);
    let round = [(F, build::state(0)), (B, [build::state(1), dirty()].concat()), (F, records()), (B, build::state(2))];
    let first = [(F, image()), (B, build::state(2))];
    let events = play(&mut session_, &[&first[..], &round, &round].concat());
    assert_eq!(troubles(&events), [""; 0]);
    assert_eq!(session_.checkpoints(), 2);
}

/// Through the program: unchanged, decoded while it runs, recorded; and the recording again.
#[test]
fn the_tap_passes_such_a_session_on_and_its_recording_is_read() {
    let home = tempfile::tempdir().unwrap();
    let path = |name: &str| home.path().join(name);
    let unix = |name: &str| format!("unix:{}", path(name).display());
    let listener = UnixListener::bind(path("secondary")).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_xen-replicate"))
        .args(["tap", "--dialect", "libxl", "--listen", &unix("tap"), "--forward", &unix("secondary"), "--record"])
        .arg(path("rec"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    stderr.read_line(&mut String::new()).unwrap();
    let mut primary = UnixStream::connect(path("tap")).unwrap();
    let (mut secondary, _) = listener.accept().unwrap();
    for socket in [&primary, &secondary] {
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    }
    for (direction, bytes) in session(3) {
        let (from, to) = if direction == F { (&mut primary, &mut secondary) } else { (&mut secondary, &mut primary) };
        from.write_all(&bytes).unwrap();
        let mut got = vec![0; bytes.len()];
        to.read_exact(&mut got).unwrap();
        assert!(got == bytes);
    }
    primary.shutdown(Shutdown::Write).unwrap();
    secondary.shutdown(Shutdown::Write).unwrap();
    let out = child.wait_with_output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.success(), "{text}");
    assert_eq!(text.matches("  SVM_READY").count(), 4, "{text}");
    assert!(text.contains("image: 2 pages in") && text.contains("checkpoint: 2 pages in"), "{text}");
    let command = |name: &str, file: &str| {
        let out = Command::new(env!("CARGO_BIN_EXE_xen-replicate")).arg(name).arg(path(file)).output().unwrap();
        (out.status.code(), String::from_utf8_lossy(&out.stdout).into_owned())
    };
    let (code, said) = command("verify", "rec");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("valid: colo libxl stream, 17 records, 3 checkpoints"), "{said}");
    let (code, said) = command("dump", "rec");
    assert!(code == Some(0) && said.contains("CHECKPOINT_DIRTY_PFN_LIST") && said.contains("PAGE_DATA"), "{said}");
    // The two directions are sound, each by itself; together they are not.
    let mut recorder = Recorder::new(std::fs::File::create(path("early")).unwrap(), Form::Libxl).unwrap();
    let mut parts = session(1);
    parts.swap(4, 5);
    for (direction, bytes) in parts {
        recorder.write(Entry { connection: 0, direction, end: false, at: NOW }, &bytes).unwrap();
    }
    let (code, said) = command("verify", "early");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("where SVM_SUSPENDED is due"), "{said}");
    assert_eq!(said.matches("NOT valid").count(), 1, "{said}");
}
