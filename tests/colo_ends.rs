//! The tap as an end of a session: as the secondary of scripted primaries, and as the primary of scripted secondaries, in order,
//! malformed, and cut at every byte; and the same in recordings.

#[path = "colo_ends/script.rs"]
mod script;

use script::{Answered, answered, checkpoint, devices, numbers, pair, primary, recording, watch, word};
use std::io::{Read, Write};
use std::process::Command;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;
use xen_replicate::tap::recording::Reader;
use xen_replicate::tap::replay::{ReplayError, plan, replay};
use xen_replicate::tap::{Direction, Form, Session, What};

/// The wire forms, QEMU's with both layouts of vmstate-size: whether RAM is in the sized state.
const FORMS: [(Form, bool); 3] = [(Form::Qemu, false), (Form::Qemu, true), (Form::FrameV8, false)];
const LONG: Duration = Duration::from_secs(60);

fn answers(form: Form, checkpoints: usize) -> Vec<u8> {
    let n = numbers(form);
    let round = [n.suspended, n.received, n.loaded].map(|number| word(form, number)).concat();
    [word(form, n.ready), round.repeat(checkpoints)].concat()
}

#[test]
fn a_secondary_answers_every_dialect_and_layout() {
    for (form, whole) in FORMS {
        let done = answered(form, &primary(form, whole, 3), true, LONG);
        assert_eq!(done.troubles(), [""; 0], "{form:?} {whole}");
        assert_eq!(done.answers, answers(form, 3), "{form:?} {whole}");
        assert_eq!(*done.last_forward(), What::End);
        let states = done.events.iter().filter_map(|event| match &event.what {
            What::State { devices, .. } => Some((devices.sections.len(), devices.complete)),
            _ => None,
        });
        assert_eq!(states.collect::<Vec<_>>(), [(1, true); 3], "{form:?} {whole}");
    }
}

/// Nothing on the wire says whether it waits, but that it goes round and round.
#[test]
fn a_primary_that_waits_for_an_acknowledgement_gets_one_and_no_more() {
    let (pong, ack, shut) = ([0, 2, 0, 4, 0, 0, 0, 9], [0, 7, 0, 0], [0, 1, 0, 4, 0, 0, 0, 0]);
    let [begin, round, end] = script::waiting();
    for (rounds, acks) in [(200, 0), (300, 1), (700, 1)] {
        let part = [(begin.clone(), 8), (round.repeat(rounds), acks * ack.len()), (end.clone(), 12)];
        let done = answered(Form::Qemu, &part, true, LONG);
        // It goes away after its image.
        one_trouble(&done, &["the primary ended without any checkpoint"]);
        let answers: [&[u8]; 4] = [&pong, &ack[..acks * ack.len()], &shut, &[0; 4]];
        assert_eq!(done.answers, answers.concat(), "{rounds}");
    }
    let mut between = Session::new(Form::Qemu);
    between.feed(Direction::Forward, &begin, LONG);
    between.feed(Direction::Back, &pong, LONG);
    assert_eq!(between.feed(Direction::Forward, &round.repeat(511), LONG), []);
    let told = between.feed(Direction::Forward, &round, LONG);
    assert!(
        told[0].to_string().contains("512 rounds in a row had next to no pages, after 0 SWITCHOVER_ACKs"),
        "{told:?}"
    );
    assert_eq!(between.feed(Direction::Forward, &round.repeat(600), LONG), []);
    // The acknowledgement has come, and it waits all the same.
    let mut between = Session::new(Form::Qemu);
    between.feed(Direction::Forward, &begin, LONG);
    between.feed(Direction::Back, &[pong.as_slice(), &ack].concat(), LONG);
    assert_eq!(between.feed(Direction::Forward, &round.repeat(511), LONG), []);
    let told = between.feed(Direction::Forward, &round, LONG);
    assert!(told[0].to_string().contains("after 1 SWITCHOVER_ACKs"), "{told:?}");
}

/// A state of COLO-Frame v8 has no size. No part of it is taken for all of it, wherever its primary pauses.
#[test]
fn a_state_without_a_size_is_whole_at_its_end_and_not_before() {
    let form = Form::FrameV8;
    let mut session = Session::new(form);
    session.feed(Direction::Forward, &script::image(), LONG);
    assert!(matches!(session.close_image(LONG).first().unwrap().what, What::Image { .. }));
    session.feed(Direction::Back, &word(form, 0x46), LONG);
    session.feed(Direction::Forward, &word(form, 0x47), LONG);
    session.feed(Direction::Back, &word(form, 0x48), LONG);
    let bytes = checkpoint(form, false, 0);
    for byte in &bytes {
        assert_eq!(session.close_state(LONG), None);
        session.feed(Direction::Forward, &[*byte], LONG);
    }
    let event = session.close_state(LONG).unwrap();
    assert!(matches!(&event.what, What::State { devices, .. } if devices.complete), "{event}");
    assert_eq!(event.bytes, bytes.len() as u64 - 8);
}

/// One checkpoint in order, then the bytes given, where the tap is due to close.
fn after_one(form: Form, whole: bool, bad: &[(Vec<u8>, usize)], closes: bool, patience: Duration) -> Answered {
    let mut part = primary(form, whole, 1);
    part.extend_from_slice(bad);
    answered(form, &part, closes, patience)
}

#[track_caller]
fn one_trouble(done: &Answered, parts: &[&str]) {
    let troubles = done.troubles();
    assert_eq!(troubles.len(), 1, "{troubles:?}");
    for part in parts {
        assert!(troubles[0].contains(part), "{part}: {troubles:?}");
    }
}

#[test]
fn a_secondary_leaves_at_a_malformed_message_and_says_where() {
    for (form, whole) in FORMS {
        let n = numbers(form);
        let answer = word(form, 0).len();
        let at = script::image().len() + answer + checkpoint(form, whole, 0).len();
        let place = format!("offset {at}");
        let new = if form == Form::FrameV8 { "checkpoint-new" } else { "checkpoint-request" };
        let send = if form == Form::FrameV8 { "checkpoint-send" } else { "vmstate-send" };
        let reply = if form == Form::FrameV8 { "checkpoint-suspended" } else { "checkpoint-reply" };
        let request = (word(form, n.new), answer);
        let over = if form == Form::FrameV8 { "number 0x4c is outside 0x46 to 0x4b" } else { "number 0x7 is outside" };
        let due = format!("due: {new}");
        let alone = |number| vec![(word(form, number), 1)];
        let one = |bad: &[(Vec<u8>, usize)], parts: &[&str]| {
            let done = after_one(form, whole, bad, false, LONG);
            one_trouble(&done, parts);
            done
        };
        // Over the end of the enumeration, far over it, and below its beginning.
        one(&alone(n.loaded + 1), &[over, &place, &due, "inside of: messages"]);
        one(&alone(u64::from(u32::MAX)), &["number 0xffffffff is outside", &place, &due]);
        // Another step, and the other side's.
        one(&alone(n.send), &[send, &place, &due]);
        let done = one(&alone(n.suspended), &[reply, &place, &due]);
        assert_eq!(done.answers, answers(form, 1), "{form:?}: nothing is answered to it");
        // The same once more.
        let again = [request.clone(), (word(form, n.new), 1)];
        one(&again, &[new, &format!("offset {}", at + answer), &format!("where {send} is due")]);
        if form == Form::FrameV8 {
            continue;
        }
        let sized = |off| [request.clone(), (checkpoint(form, whole, off), 1)];
        let huge = if whole { i64::MIN } else { i64::MIN.wrapping_sub(devices().len() as i64) };
        let done = after_one(form, whole, &sized(huge), false, LONG);
        assert!(done.troubles()[0].contains("vmstate-size 0x80000000000000"), "{:?}", done.troubles());
        let done = after_one(form, whole, &sized(-1), false, LONG);
        let trouble = &done.troubles()[0];
        assert!(trouble.contains("bytes of state are not sections up to their end"), "{trouble}");
        assert!(trouble.contains("inside of: the state"), "{trouble}");
        // One longer: nobody can tell, but that nothing more comes.
        let done = after_one(form, whole, &sized(1), false, Duration::from_millis(20));
        let end = at + answer + checkpoint(form, whole, 1).len();
        one_trouble(&done, &[&format!("offset {end}: nothing more has come for 20ms"), "inside of: the state"]);
    }
}

/// As when the primary dies there. The tap calls nothing malformed, and says inside of what the end came.
#[test]
fn an_end_at_every_byte_of_a_round_is_an_end() {
    for (form, whole) in FORMS {
        let session = primary(form, whole, 2);
        let (before, round) = session.split_at(3);
        for (step, (bytes, _)) in round.iter().enumerate() {
            for length in 0..bytes.len() {
                let part = [before, &round[..step], &[(bytes[..length].to_vec(), 0)]].concat();
                let done = answered(form, &part, true, LONG);
                assert_eq!(done.troubles(), [""; 0], "{form:?} {step} {length}");
                let ended = matches!(done.last_forward(), What::End);
                assert_eq!(ended, step == 0 && length == 0, "{form:?} {step} {length}: {:?}", done.last_forward());
            }
        }
    }
}

/// Plays a recording of two checkpoints to a secondary that answers with these bytes and then ends.
fn played(form: Form, whole: bool, answers: &[u8]) -> Result<(), ReplayError> {
    let file = recording(form, whole, 2);
    let plan = plan(&mut Reader::new(file.as_slice()).unwrap()).unwrap();
    let (link, mut secondary) = pair();
    let primary = thread::spawn(move || {
        let (mut watch, _) = watch(form);
        let open = || Reader::new(file.as_slice()).map_err(ReplayError::from);
        let link = Mutex::new(Some(link));
        let connect = || link.lock().unwrap().take().ok_or_else(|| std::io::Error::other("a second connection"));
        replay(&open, &plan, &connect, &mut watch, &mut |_| {})
    });
    // It answers ahead, so that the outcome does not hang on who is faster.
    secondary.write_all(answers).unwrap();
    secondary.shutdown(std::net::Shutdown::Write).unwrap();
    // A reset, where not all that it sent was read.
    let _ = secondary.read_to_end(&mut Vec::new());
    primary.join().unwrap()
}

#[test]
fn a_primary_goes_on_with_the_answers_it_expects_and_with_no_others() {
    for (form, whole) in FORMS {
        let good = answers(form, 2);
        played(form, whole, &good).unwrap();
        let (unit, n) = (word(form, 0).len(), numbers(form));
        let mut steps = vec![("checkpoint-ready", n.ready)];
        let reply = if form == Form::FrameV8 { "checkpoint-suspended" } else { "checkpoint-reply" };
        steps.extend([(reply, n.suspended), ("-received", n.received), ("-loaded", n.loaded)].repeat(2));
        for (at, (name, number)) in steps.iter().enumerate() {
            // Over the end, below it or of another step, the primary's own, and of the step before.
            for wrong in [n.loaded + 1, u64::from(u32::MAX), number + 1, n.new, number.wrapping_sub(1)] {
                let mut bad = good.clone();
                bad.splice(at * unit..(at + 1) * unit, word(form, wrong));
                match played(form, whole, &bad) {
                    // Received and loaded are waited for together, as they were recorded.
                    Err(ReplayError::Answer { due, offset, recorded, .. }) => {
                        let first = recorded.len() == unit;
                        let here = if first { offset == (at * unit) as u64 } else { due.ends_with("-received") };
                        assert!(here && (!first || due.ends_with(name)), "{form:?} {at} {due} {offset}");
                    }
                    other => panic!("{form:?} {at}: {other:?}"),
                }
            }
        }
        for length in 0..good.len() {
            match played(form, whole, &good[..length]) {
                Err(ReplayError::Gone { due, offset, .. }) => {
                    assert!(!due.is_empty() && offset <= length as u64, "{form:?} {length} {due} {offset}");
                }
                other => panic!("{form:?} {length}: {other:?}"),
            }
        }
    }
}

/// Runs a command on a recording: its exit code, and all that it said.
fn command(name: &str, file: &[u8]) -> (Option<i32>, String) {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("rec");
    std::fs::write(&path, file).unwrap();
    let out = Command::new(env!("CARGO_BIN_EXE_xen-replicate")).arg(name).arg(&path).output().unwrap();
    (out.status.code(), String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr))
}

#[test]
fn recordings_of_malformed_sessions_are_told_by_both_commands() {
    use xen_replicate::tap::recording::{Entry, Recorder};
    for (form, whole) in FORMS {
        for name in ["dump", "verify"] {
            let (code, said) = command(name, &recording(form, whole, 2));
            assert_eq!(code, Some(0), "{said}");
            assert!(said.contains(if name == "verify" { "2 checkpoints" } else { "checkpoint-ready" }), "{said}");
        }
        let n = numbers(form);
        let mut cases = vec![(word(form, n.loaded + 1), "is outside"), (word(form, n.send), "is due")];
        if form == Form::Qemu {
            let mut huge = word(form, n.new);
            huge.extend(checkpoint(form, whole, i64::MIN));
            cases.push((huge, "where checkpoint-reply is due"));
        }
        for (bytes, expected) in cases {
            let file = script::Shared::default();
            let mut recorder = Recorder::new(file.clone(), form).unwrap();
            let good = recording(form, whole, 1);
            let mut reader = Reader::new(good.as_slice()).unwrap();
            while let Some((entry, bytes)) = reader.next_entry().unwrap() {
                recorder.write(entry, bytes).unwrap();
            }
            let entry = Entry { connection: 0, direction: Direction::Forward, end: false, at: Duration::ZERO };
            recorder.write(entry, &bytes).unwrap();
            for name in ["dump", "verify"] {
                let (code, said) = command(name, &file.bytes());
                assert_eq!(code, Some(1), "{name}: {said}");
                assert!(said.contains(expected) && said.contains("(due: "), "{name}: {said}");
            }
        }
    }
}
