//! Any bytes as what a COLO session says, and as the recording of one.
//!
//! A session is one byte that picks the dialect, then pieces: two bytes, of which the highest bit is the direction, the next two the
//! connection, and the others how many bytes follow. A piece may be cut short by the end.

use std::time::Duration;
use xen_replicate::inspect::recording::{dump, events, verify};
use xen_replicate::tap::recording::{Entry, Reader, Recorder};
use xen_replicate::tap::{Direction, Event, Form, Session, What};

/// Most bytes of a piece.
const MOST: usize = 0x1fff;
const FORMS: [Form; 3] = [Form::Qemu, Form::FrameV8, Form::Libxl];

/// The pieces of a session, as [`session`] reads them.
pub fn pieces(form: Form, session: &[(u16, Direction, Vec<u8>)]) -> Vec<u8> {
    let mut out = vec![FORMS.iter().position(|other| *other == form).unwrap_or_default() as u8];
    for (connection, direction, bytes) in session {
        let back = if *direction == Direction::Back { 0x80 } else { 0 } | (*connection as u8 & 3) << 5;
        for part in bytes.chunks(MOST) {
            out.push(back | (part.len() >> 8) as u8);
            out.push(part.len() as u8);
            out.extend(part);
        }
    }
    out
}

type Piece<'a> = (u16, Direction, &'a [u8]);

/// The dialect and the pieces of an input.
fn parse(bytes: &[u8]) -> Option<(Form, Vec<Piece<'_>>)> {
    let (&pick, mut rest) = bytes.split_first()?;
    let mut parts = Vec::new();
    while let Some((&[head, low], after)) = rest.split_first_chunk::<2>() {
        let direction = if head & 0x80 == 0 { Direction::Forward } else { Direction::Back };
        let length = usize::from(head & 0x1f) << 8 | usize::from(low);
        let (part, after) = after.split_at(length.min(after.len()));
        rest = after;
        parts.push((u16::from(head >> 5 & 3), direction, part));
    }
    Some((FORMS[usize::from(pick) % FORMS.len()], parts))
}

/// Follows the bytes as a session, in one way and byte by byte: up to where something is malformed, the same is seen. And as a
/// recording of that session.
pub fn session(bytes: &[u8]) {
    let Some((form, parts)) = parse(bytes) else { return };
    let (mut whole, mut single) = (Session::new(form), Session::new(form));
    let (mut by_piece, mut by_byte) = (Vec::new(), Vec::new());
    let mut recorder = Recorder::new(Vec::new(), form).unwrap();
    for (connection, direction, piece) in parts {
        by_piece.extend(whole.feed_on(connection, direction, piece, Duration::ZERO));
        for byte in piece {
            by_byte.extend(single.feed_on(connection, direction, &[*byte], Duration::ZERO));
        }
        for (session, seen) in [(&mut whole, &mut by_piece), (&mut single, &mut by_byte)] {
            seen.extend(session.close_image(Duration::ZERO));
            seen.extend(session.close_state(Duration::ZERO));
        }
        recorder.write(Entry { connection, direction, end: false, at: Duration::ZERO }, piece).unwrap();
    }
    assert_eq!(before_trouble(&by_piece), before_trouble(&by_byte));
    assert_eq!(whole.all_bytes(), single.all_bytes());
    for session in [&mut whole, &mut single] {
        session.idle(Duration::ZERO, Duration::ZERO);
        for connection in 1..4 {
            session.end_on(connection, Direction::Forward, Duration::ZERO);
        }
    }
    for direction in [Direction::Forward, Direction::Back] {
        for session in [&mut whole, &mut single] {
            let end = session.end(direction, Duration::ZERO);
            assert!(matches!(end.map(|end| end.what), None | Some(What::End | What::Broken { .. })));
        }
        recorder.write(Entry { connection: 0, direction, end: true, at: Duration::ZERO }, &[]).unwrap();
    }
    recording(&recorder.into_inner());
}

type Seen<'a> = (Direction, u64, u64, &'a What);

/// What was seen before the first trouble, and whether there was one.
fn before_trouble(events: &[Event]) -> (Vec<Seen<'_>>, bool) {
    let good = events.iter().take_while(|event| !event.what.is_error());
    let good: Vec<_> = good.map(|event| (event.direction, event.offset, event.bytes, &event.what)).collect();
    let troubled = good.len() < events.len();
    (good, troubled)
}

/// Reads the bytes as a recording's file: `dump` and `verify` agree on it, and no line has a control character.
pub fn recording(bytes: &[u8]) {
    let Ok(mut reader) = Reader::new(bytes) else { return };
    let report = verify(&mut reader).unwrap();
    let mut text = Vec::new();
    let good = dump(&mut Reader::new(bytes).unwrap(), false, true, &mut text).unwrap();
    assert_eq!(good, report.valid);
    let text = String::from_utf8(text).unwrap();
    assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
    let mut json = Vec::new();
    assert_eq!(dump(&mut Reader::new(bytes).unwrap(), true, false, &mut json).unwrap(), good);
    let mut seen = 0;
    let mut count = |_: &Event| {
        seen += 1;
        Ok(())
    };
    events(&mut Reader::new(bytes).unwrap(), &mut count).unwrap();
    let lines = json.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let objects = lines.map(|line| serde_json::from_slice::<serde_json::Value>(line).unwrap());
    assert_eq!(objects.count(), seen);
}

/// Both.
pub fn read(bytes: &[u8]) {
    session(bytes);
    recording(bytes);
}
