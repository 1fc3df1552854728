//! The tap's eyes on recorded sessions of a real QEMU (`fixtures/colo`), whole, cut and changed.

use lzma_rust2::XzReader;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use xen_replicate::inspect::recording::{dump, verify, verify_primary};
use xen_replicate::tap::recording::{Entry, Reader, Recorder};
use xen_replicate::tap::{Direction, Event, Form, Session, What};

const RECORDINGS: [&str; 9] = [
    "qemu72-between",
    "qemu72-answered",
    "qemu100-plain",
    "qemu100-between",
    "qemu111-plain",
    "qemu111-between",
    "qemu111-nic",
    "qemu111-mf2",
    "qemu111-mf2-zlib",
];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/colo").join(format!("{name}.rec.xz"))
}

fn bytes(name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    XzReader::new(File::open(fixture(name)).unwrap(), true).read_to_end(&mut out).unwrap();
    out
}

fn entries(recording: &[u8]) -> Vec<(Entry, Vec<u8>)> {
    let mut reader = Reader::new(recording).unwrap();
    let mut out = Vec::new();
    while let Some((entry, bytes)) = reader.next_entry().unwrap() {
        out.push((entry, bytes.to_vec()));
    }
    out
}

fn name(event: &Event) -> Option<&'static str> {
    match event.what {
        What::Message { name, .. } => Some(name),
        _ => None,
    }
}

/// The session up to behind its second checkpoint, and the bytes of the third round in order: what a side sent at a stretch in
/// one piece.
fn third_round() -> (Session, Vec<(Direction, Vec<u8>)>) {
    let mut session = Session::new(Form::Qemu);
    let (mut loaded, mut start) = (0, None);
    let mut round: Vec<(Direction, Vec<u8>)> = Vec::new();
    for (entry, bytes) in entries(&bytes(RECORDINGS[0])) {
        let events = session.feed(entry.direction, &bytes, entry.at);
        if start.is_some() {
            match round.last_mut().filter(|(direction, _)| *direction == entry.direction) {
                Some((_, before)) => before.extend(bytes),
                None => round.push((entry.direction, bytes)),
            }
        }
        loaded += events.iter().filter(|event| name(event) == Some("vmstate-loaded")).count();
        match loaded {
            2 => start = start.or_else(|| Some(session.clone())),
            3 => return (start.expect("one checkpoint at a time"), round),
            _ => {}
        }
    }
    panic!("fewer than three checkpoints");
}

fn play(session: &mut Session, round: &[(Direction, Vec<u8>)]) -> Vec<Event> {
    round.iter().flat_map(|(direction, bytes)| session.feed(*direction, bytes, Duration::ZERO)).collect()
}

fn troubles(events: &[Event]) -> Vec<String> {
    let trouble = |event: &Event| match &event.what {
        What::Trouble { message, .. } => Some(message.clone()),
        _ => None,
    };
    events.iter().filter_map(trouble).collect()
}

/// Replaces bytes of the primary's in the round. `find` gives the place from the round's forward bytes.
fn changed(round: &[(Direction, Vec<u8>)], change: impl FnOnce(&mut Vec<u8>)) -> Vec<(Direction, Vec<u8>)> {
    let is_state =
        |(direction, bytes): &&mut (Direction, Vec<u8>)| *direction == Direction::Forward && bytes.len() > 100;
    let mut round = round.to_vec();
    let (_, bytes) = round.iter_mut().find(is_state).expect("the state");
    change(bytes);
    round
}

/// Where vmstate-size stands in the chunk that has RAM, size and state: the state is what is behind it.
fn size_at(bytes: &[u8]) -> usize {
    let is_size = |at: &usize| {
        bytes[*at..].starts_with(&[0, 0, 0, 4])
            && bytes
                .get(at + 4..at + 12)
                .is_some_and(|size| u64::from_be_bytes(size.try_into().unwrap()) == (bytes.len() - at - 12) as u64)
    };
    (0..bytes.len() - 12).find(is_size).expect("vmstate-size and all of its state in one piece")
}

#[test]
fn recordings_of_a_real_qemu_are_walked_end_to_end() {
    for name in RECORDINGS {
        let bytes = bytes(name);
        let report = verify(&mut Reader::new(bytes.as_slice()).unwrap()).unwrap();
        assert!(report.valid, "{name}: {:?}", report.findings);
        assert!(report.checkpoints >= if name.starts_with("qemu72") { 10 } else { 5 }, "{name}");
        // Six messages a checkpoint, and checkpoint-ready.
        assert!(report.records > 6 * report.checkpoints, "{name}: {report:?}");
        let mut text = Vec::new();
        assert!(dump(&mut Reader::new(bytes.as_slice()).unwrap(), false, true, &mut text).unwrap());
        let text = String::from_utf8(text).unwrap();
        let golden = fixture(name).with_extension("").with_extension("dump");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&golden, &text).unwrap();
        }
        assert_eq!(text, std::fs::read_to_string(&golden).unwrap(), "{name}");
        assert!(text.contains("device sections by description"), "{name}");
    }
}

/// A primary's bytes alone: its checkpoints are counted, and nothing is missing.
#[test]
fn a_primary_alone_has_as_many_checkpoints_as_its_session() {
    for name in RECORDINGS {
        let recording = bytes(name);
        let session = verify(&mut Reader::new(recording.as_slice()).unwrap()).unwrap();
        let entries = entries(&recording);
        // The main connection is the first one in all of them.
        let main = entries.iter().filter(|(entry, _)| entry.connection == 0 && entry.direction == Direction::Forward);
        let alone: Vec<u8> = main.flat_map(|(_, bytes)| bytes.clone()).collect();
        let report = verify_primary(&mut alone.as_slice()).unwrap();
        assert!(report.valid, "{name}: {:?}", report.findings);
        assert_eq!(report.checkpoints, session.checkpoints, "{name}");
    }
}

#[test]
fn what_a_session_lacks_is_told() {
    let cases = [
        ("return-path-unanswered", "the return path is open, and the secondary sends COLO's messages without SHUT"),
        ("primary-without-x-colo", "the primary is not in COLO"),
    ];
    for (name, expected) in cases {
        let bytes = bytes(name);
        let report = verify(&mut Reader::new(bytes.as_slice()).unwrap()).unwrap();
        assert!(!report.valid, "{name}");
        assert!(
            report.findings.iter().any(|finding| finding.message.contains(expected)),
            "{name}: {:?}",
            report.findings
        );
    }
}

#[test]
fn packed_recordings_are_recognised_by_the_commands() {
    for command in ["dump", "verify"] {
        let output = Command::new(env!("CARGO_BIN_EXE_xen-replicate"))
            .arg(command)
            .arg(fixture(RECORDINGS[0]))
            .output()
            .unwrap();
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let expected = if command == "dump" { "vmstate-received" } else { "valid: colo qemu stream" };
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn bytes_one_by_one_give_the_same_events() {
    let (start, round) = third_round();
    let what = |events: Vec<Event>| {
        events.into_iter().map(|event| (event.offset, event.bytes, event.what)).collect::<Vec<_>>()
    };
    let whole = what(play(&mut start.clone(), &round));
    let single: Vec<_> = round.iter().flat_map(|(d, bytes)| bytes.iter().map(|byte| (*d, vec![*byte]))).collect();
    assert_eq!(what(play(&mut start.clone(), &single)), whole);
    assert_eq!(whole.len(), 8, "{whole:?}");
}

#[test]
fn an_end_at_every_byte_of_a_round_is_told_as_what_it_is() {
    let (mut session, round) = third_round();
    let last = round.iter().rposition(|(direction, _)| *direction == Direction::Forward).unwrap();
    let mut ends = 0;
    for (at, (direction, bytes)) in round.iter().enumerate() {
        for byte in bytes {
            if *direction == Direction::Forward && at <= last {
                let whole = ends == 0;
                let event = session.clone().end(Direction::Forward, Duration::ZERO).unwrap();
                assert_eq!(matches!(event.what, What::End), whole, "{event}");
                ends += 1;
            }
            let events = session.feed(*direction, &[*byte], Duration::ZERO);
            assert_eq!(troubles(&events), [""; 0]);
        }
    }
    assert!(ends > 10_000);
    assert!(matches!(session.end(Direction::Forward, Duration::ZERO).unwrap().what, What::End));
}

#[test]
fn a_wrong_size_is_told_and_the_next_round_is_understood_again() {
    let (start, round) = third_round();
    let cases = [
        (None, "vmstate-size 0x8000000000000000, at most"),
        (Some(1), "vmstate-received while 1 bytes of the state are still to come"),
        (Some(-1), "bytes of state are not sections up to their end"),
    ];
    for (by, expected) in cases {
        let mut session = start.clone();
        let bad = changed(&round, |bytes| {
            let at = size_at(bytes);
            let size = u64::from_be_bytes(bytes[at + 4..at + 12].try_into().unwrap());
            let wrong = by.map_or(1 << 63, |by| size.saturating_add_signed(by));
            bytes.splice(at + 4..at + 12, wrong.to_be_bytes());
        });
        let events = play(&mut session, &bad);
        let found = troubles(&events);
        assert!(found.first().is_some_and(|first| first.contains(expected)), "{expected}: {found:?}");
        assert!(events.iter().any(|event| matches!(event.what, What::Again)), "{expected}: {events:?}");
        assert_eq!(troubles(&play(&mut session, &round)), [""; 0], "{expected}");
        assert_eq!(session.checkpoints(), 4);
    }
}

#[test]
fn a_wrong_step_and_an_unknown_number_are_told() {
    let (start, _) = third_round();
    let mut session = start.clone();
    let events = session.feed(Direction::Forward, &[0, 0, 0, 3], Duration::ZERO);
    assert!(troubles(&events)[0].starts_with("vmstate-send at offset"), "{events:?}");
    let mut session = start.clone();
    let events = session.feed(Direction::Forward, &[0, 0, 0, 7], Duration::ZERO);
    assert!(troubles(&events)[0].contains("number 0x7 is outside 0x0 to 0x6"), "{events:?}");
    let mut session = start.clone();
    let events = session.feed(Direction::Back, &[0, 0, 0, 6], Duration::ZERO);
    assert!(troubles(&events)[0].contains("checkpoint-request is due"), "{events:?}");
    let mut session = start;
    let events = session.feed(Direction::Back, &[0, 0, 1, 0], Duration::ZERO);
    assert!(troubles(&events)[0].contains("number 0x100"), "{events:?}");
}

/// The older layout, and COLO-Frame v8, made from a round of the newer one: no release that Debian packages speaks them.
#[test]
fn the_older_layout_and_the_older_numbers_are_followed() {
    let (_, round) = third_round();
    let state = &round.iter().find(|(d, bytes)| *d == Direction::Forward && bytes.len() > 100).unwrap().1;
    let state = &state[size_at(state) + 12..];
    let first: Vec<_> = entries(&bytes(RECORDINGS[0]))
        .into_iter()
        .take_while(|(entry, _)| entry.direction == Direction::Forward)
        .flat_map(|(_, bytes)| bytes)
        .collect();
    let blob = [b"QEVM\0\0\0\x03", state].concat();
    let size = (blob.len() as u64).to_be_bytes();
    let (f, b) = (Direction::Forward, Direction::Back);
    let word = |number: u8| vec![0, 0, 0, number];
    let older = [
        (f, first.clone()),
        (b, word(0)),
        (f, word(1)),
        (b, word(2)),
        (f, [word(3), word(4), size.to_vec(), blob.clone()].concat()),
        (b, word(5)),
        (b, word(6)),
    ];
    let long = |number: u8| vec![0, 0, 0, 0, 0, 0, 0, number];
    let v8 = [
        (f, first),
        (b, long(0x46)),
        (f, long(0x47)),
        (b, long(0x48)),
        (f, [long(0x49), blob].concat()),
        (b, long(0x4a)),
        (b, long(0x4b)),
    ];
    for (form, session_bytes) in [(Form::Qemu, older), (Form::FrameV8, v8)] {
        let mut session = Session::new(form);
        let events = play(&mut session, &session_bytes);
        assert_eq!(troubles(&events), [""; 0], "{form:?}");
        assert_eq!(session.checkpoints(), 1);
        let sections = events.iter().find_map(|event| match &event.what {
            What::State { devices, .. } => Some(devices.sections.len()),
            _ => None,
        });
        assert!(sections.unwrap() > 5, "{form:?}: {events:?}");
    }
}

/// A tap that is killed when dropped.
struct Tap(Child);

impl Drop for Tap {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Bytes that are no session at all go through unchanged, both ways, and are recorded; the tap says that they are none.
#[test]
fn garbage_is_passed_on_recorded_and_told() {
    let home = tempfile::tempdir().unwrap();
    let path = |name: &str| home.path().join(name);
    let listener = UnixListener::bind(path("secondary")).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_xen-replicate"))
        .args(["tap", "--listen", &format!("unix:{}", path("tap").display())])
        .args(["--forward", &format!("unix:{}", path("secondary").display())])
        .arg("--record")
        .arg(path("rec"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = [0; 12];
    child.stderr.as_mut().unwrap().read_exact(&mut line).unwrap();
    assert_eq!(&line, b"listening on");
    let mut tap = Tap(child);
    let mut primary = UnixStream::connect(path("tap")).unwrap();
    let (mut secondary, _) = listener.accept().unwrap();
    let garbage: Vec<u8> = (0..3_000_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let sender = std::thread::spawn({
        let garbage = garbage.clone();
        move || {
            primary.write_all(&garbage).unwrap();
            primary.shutdown(std::net::Shutdown::Write).unwrap();
            let mut answer = Vec::new();
            primary.read_to_end(&mut answer).unwrap();
            answer
        }
    });
    let mut got = Vec::new();
    secondary.read_to_end(&mut got).unwrap();
    assert!(got == garbage);
    secondary.write_all(b"nonsense").unwrap();
    drop(secondary);
    assert_eq!(sender.join().unwrap(), b"nonsense");
    let mut told = String::new();
    tap.0.stdout.take().unwrap().read_to_string(&mut told).unwrap();
    assert_eq!(tap.0.wait().unwrap().code(), Some(1));
    assert!(told.contains("error: offset 0: magic"), "{told}");
    let recorded = entries(&std::fs::read(path("rec")).unwrap());
    let of = |direction| {
        let parts = recorded.iter().filter(|(entry, _)| entry.direction == direction);
        parts.flat_map(|(_, bytes)| bytes.clone()).collect::<Vec<_>>()
    };
    assert!(of(Direction::Forward) == garbage);
    assert_eq!(of(Direction::Back), b"nonsense");
    assert_eq!(recorded.iter().filter(|(entry, _)| entry.end).count(), 2);
}

/// A recording of libxl's records is taken apart by the walker for those, each direction by itself.
#[test]
fn a_recording_of_libxls_form_is_dumped_by_direction() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("rec");
    let mut recorder = Recorder::new(File::create(&path).unwrap(), Form::Libxl).unwrap();
    for (file, direction) in [("forward", Direction::Forward), ("back", Direction::Back)] {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/helper/hvm-colo-libxc-{file}.xz"));
        let mut bytes = Vec::new();
        XzReader::new(File::open(fixture).unwrap(), true).read_to_end(&mut bytes).unwrap();
        recorder.write(Entry { connection: 0, direction, end: false, at: Duration::ZERO }, &bytes).unwrap();
    }
    drop(recorder);
    let output = Command::new(env!("CARGO_BIN_EXE_xen-replicate")).arg("dump").arg(&path).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    // Both to their ends; the registers of that fixture are made up.
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("every Xen refuses it") && text.matches(" CHECKPOINT  ").count() == 3, "{text}");
    assert!(text.contains("PAGE_DATA") && text.matches("CHECKPOINT_DIRTY_PFN_LIST").count() == 3, "{text}");
}
