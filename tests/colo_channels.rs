//! Several connections in one session: a recorded session of QEMU 11.1 with two multifd channels, and what can be wrong with one.

use lzma_rust2::XzReader;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;
use xen_replicate::tap::recording::{Entry, Reader};
use xen_replicate::tap::{Direction, Event, Form, Session, What};

const AT: Duration = Duration::ZERO;
/// Bytes of a packet's header, and where the second packet of the first channel is: the first one with pages.
const HEADER: usize = 1344;
const PACKET: usize = 64 + HEADER;

type Piece = (Entry, Vec<u8>);

fn session(name: &str) -> Vec<Piece> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/colo/{name}.rec.xz"));
    let mut file = Vec::new();
    XzReader::new(File::open(path).unwrap(), true).read_to_end(&mut file).unwrap();
    let (mut reader, mut out) = (Reader::new(file.as_slice()).unwrap(), Vec::new());
    while let Some((entry, bytes)) = reader.next_entry().unwrap() {
        out.push((entry, bytes.to_vec()));
    }
    out
}

fn play(pieces: &[Piece]) -> (Session, Vec<Event>) {
    let mut session = Session::new(Form::Qemu);
    let mut events = Vec::new();
    for (entry, bytes) in pieces {
        events.extend(session.feed_on(entry.connection, entry.direction, bytes, AT));
        if entry.end {
            events.extend(session.end_on(entry.connection, entry.direction, AT));
        }
    }
    (session, events)
}

fn troubles(events: &[Event]) -> Vec<String> {
    events.iter().filter(|event| event.what.is_error()).map(|event| event.to_string()).collect()
}

/// Changes what the primary sends on a connection, at an offset of it.
fn changed(pieces: &[Piece], connection: u16, offset: usize, new: &[u8]) -> Vec<Piece> {
    let (mut pieces, mut at) = (pieces.to_vec(), 0_usize);
    let of = |entry: &Entry| entry.connection == connection && entry.direction == Direction::Forward;
    for (_, bytes) in pieces.iter_mut().filter(|(entry, _)| of(entry)) {
        for byte in bytes {
            if let Some(value) = at.checked_sub(offset).and_then(|at| new.get(at)) {
                *byte = *value;
            }
            at += 1;
        }
    }
    assert!(at >= offset + new.len());
    pieces
}

fn without(pieces: &[Piece], connections: &[u16]) -> Vec<Piece> {
    pieces.iter().filter(|(entry, _)| !connections.contains(&entry.connection)).cloned().collect()
}

#[test]
fn pieces_of_any_size_give_the_same_events() {
    for name in ["qemu111-mf2", "qemu111-mf2-zlib", "qemu111-plain"] {
        let pieces = session(name);
        let what = |events: Vec<Event>| {
            events.into_iter().map(|event| (event.channel, event.offset, event.bytes, event.what)).collect::<Vec<_>>()
        };
        let (whole, events) = play(&pieces);
        assert_eq!(troubles(&events), [""; 0], "{name}");
        for size in [1, 7, 1000] {
            let parts: Vec<Piece> = pieces
                .iter()
                .flat_map(|(entry, bytes)| {
                    let parts: Vec<_> =
                        bytes.chunks(size).map(|part| (Entry { end: false, ..*entry }, part.to_vec())).collect();
                    if entry.end { vec![(*entry, Vec::new())] } else { parts }
                })
                .collect();
            let (split, single) = play(&parts);
            assert_eq!(split.all_bytes(), whole.all_bytes(), "{name}");
            assert_eq!(split.channels(), whole.channels(), "{name}");
            assert_eq!(what(single), what(events.clone()), "{name} in pieces of {size}");
        }
    }
}

#[test]
fn every_wrong_field_of_a_channel_is_told() {
    let pieces = session("qemu111-mf2");
    let word = |value: u32| value.to_be_bytes().to_vec();
    let cases = [
        (4, word(2), "multifd version 2, expected 1"),
        (64, word(0x1122_3345), "magic 0x11223345"),
        (64 + 4, word(7), "multifd version 7"),
        (PACKET + 8, word(8), "qpl on a multifd channel is not followed"),
        (PACKET + 8, word(0x10), "uadk on"),
        (PACKET + 8, word(0x20), "qatzip on"),
        (PACKET + 8, word(0x40), "device state (VFIO) on"),
        (PACKET + 8, word(0x80), "packet flags 0x80"),
        (PACKET + 8, word(6), "packet flags 0x6"),
        (PACKET + 12, word(129), "pages_alloc 0x81, at most 0x80"),
        (PACKET + 12, word(2), "normal_pages 0x3, at most 0x2"),
        (PACKET + 16, word(u32::MAX), "normal_pages 0xffffffff"),
        (PACKET + 20, word(u32::MAX), "next_packet_size 0xffffffff, at most"),
        (PACKET + 20, word(12_287), "next_packet_size 0x2fff for 3 pages"),
        (PACKET + 24, vec![0; 8], "packet number 0, after 0 on the same channel"),
        (PACKET + 32, word(126), "zero_pages 0x7e, at most 0x7d"),
    ];
    for (offset, bytes, expected) in cases {
        let found = troubles(&play(&changed(&pieces, 1, offset, &bytes)).1);
        assert!(found.first().is_some_and(|first| first.contains(expected)), "{expected}: {found:?}");
    }
}

/// The list of RAM blocks is there when the second checkpoint's pages come.
#[test]
fn a_page_that_no_block_has_is_told() {
    let pieces = session("qemu111-mf2");
    let (_, events) = play(&pieces);
    let last = events.iter().rfind(|event| matches!(&event.what, What::Sync { ram, .. } if ram.full > 0)).unwrap();
    let (connection, offset) = (last.channel.unwrap().connection, last.offset as usize);
    for (at, bytes, expected) in [
        (
            320,
            [0, 0, 0, 0, 1, 0, 0, 0].as_slice(),
            "page at 0x1000000 of RAM block \"pc.ram\", which has 0x1000000 bytes",
        ),
        (320, &[0, 0, 0, 0, 0, 0, 0x70, 1], "page at 0x7001"),
        (64, b"pc.rum\0", "RAM block \"pc.rum\", which has 0x0 bytes"),
    ] {
        let found = troubles(&play(&changed(&pieces, connection, offset + at, bytes)).1);
        assert!(found.first().is_some_and(|first| first.contains(expected)), "{expected}: {found:?}");
    }
}

#[test]
fn channels_that_do_not_fit_together_are_told() {
    let pieces = session("qemu111-mf2");
    let ready = pieces.iter().position(|(_, bytes)| bytes.ends_with(&[0, 0, 0, 0]) && bytes.len() == 4).unwrap();
    let hello = pieces.iter().find(|(entry, _)| entry.connection == 1).unwrap().1[..64].to_vec();
    let entry = |connection, direction| Entry { connection, direction, end: false, at: AT };
    let forward = |connection| entry(connection, Direction::Forward);
    let with = |at: usize, entry, bytes: Vec<u8>| {
        let mut pieces = pieces.clone();
        pieces.insert(at, (entry, bytes));
        pieces
    };
    let third = |id: u8| [&hello[..24], &[id], &hello[25..]].concat();
    let cases = [
        (without(&pieces, &[1, 2]), "channel 0 is missing (there are 0)"),
        (without(&pieces, &[1]), "channel 0 is missing (there are 1)"),
        (without(&pieces, &[2]), "packets or a whole channel are missing"),
        (changed(&pieces, 2, 24, &[0]), "channel 0 is there twice"),
        (changed(&pieces, 2, 24, &[2]), "channel 1 is missing (there are 2)"),
        (changed(&pieces, 2, 8, &[9]), "channel 1 is of another session: UUID 09000000-0000-0000-0000-000000000000"),
        (with(ready + 1, forward(3), third(2)), "channel 2 is late"),
        (with(ready, forward(3), third(2)), "channel 2 has had 0 SYNCs"),
        (with(ready, forward(3), b"GET / HTTP/1.1".to_vec()), "connection 3 begins with"),
        (with(ready, forward(300), hello.clone()), "connection 300: a session has"),
        (with(ready, entry(1, Direction::Back), vec![0; 4]), "4 bytes from the secondary on a multifd channel"),
    ];
    for (pieces, expected) in cases {
        let found = troubles(&play(&pieces).1);
        assert!(found.iter().any(|found| found.contains(expected)), "{expected}: {found:?}");
    }
}

/// Not one byte of a channel may be missing when its secondary says that it has all.
#[test]
fn an_answer_before_a_channel_is_whole_is_told() {
    let pieces = session("qemu111-mf2");
    let received = pieces.iter().position(|(_, bytes)| bytes.as_slice() == [0, 0, 0, 5]).unwrap();
    let sync = pieces[..received].iter().rposition(|(entry, _)| entry.connection == 1).unwrap();
    let mut late = pieces.clone();
    let (entry, bytes) = &mut late[sync];
    let rest = bytes.split_off(bytes.len() - 1);
    let entry = *entry;
    late.insert(received + 1, (entry, rest));
    let found = troubles(&play(&late).1);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("channel 0 has had") && found[0].contains("due: vmstate-received"), "{found:?}");
}

#[test]
fn the_end_of_a_channel_is_told_as_what_it_is() {
    let pieces = session("qemu111-mf2");
    let channel: Vec<u8> =
        pieces.iter().filter(|(entry, _)| entry.connection == 1).flat_map(|(_, o)| o.clone()).collect();
    for (length, inside) in [
        (3, Some("the beginning of a connection")),
        (63, Some("the beginning of a multifd channel")),
        (64, None),
        (PACKET - 1, Some("a packet")),
        (PACKET, None),
        (PACKET + HEADER, Some("a packet")),
        (PACKET + HEADER + 3 * 4096, Some("packets without their SYNC")),
    ] {
        let mut session = Session::new(Form::Qemu);
        session.feed_on(1, Direction::Forward, &channel[..length], AT);
        let end = session.end_on(1, Direction::Forward, AT);
        let expected = inside.map_or(What::End, |inside| What::Broken { inside });
        assert_eq!(end.last().unwrap().what, expected, "{length}");
    }
}

/// The main connection of a session without channels, up to before the first answer, and that answer on.
fn plain() -> (Vec<Piece>, Vec<Piece>) {
    let pieces = session("qemu111-plain");
    let request = pieces.iter().position(|(_, bytes)| bytes.as_slice() == [0, 0, 0, 1]).unwrap();
    let (image, rest) = pieces.split_at(request);
    (image.to_vec(), rest.to_vec())
}

#[test]
fn silence_where_something_is_due_is_told_once() {
    let (image, _) = plain();
    let span = Duration::from_secs(10);
    let forward: Vec<_> = image.iter().filter(|(entry, _)| entry.direction == Direction::Forward).cloned().collect();
    let (mut asked, events) = play(&forward);
    assert_eq!(troubles(&events), [""; 0]);
    let told = asked.idle(AT, span).unwrap().to_string();
    assert!(told.contains("PING was not answered within 10s"), "{told}");
    assert_eq!(asked.idle(AT, span), None);
    // PONG and SHUT, as an older secondary answers, and nothing more.
    asked.close_image(AT);
    let shut = [0, 2, 0, 4, 0, 0, 0, 1, 0, 1, 0, 4, 0, 0, 0, 0];
    assert_eq!(troubles(&asked.feed(Direction::Back, &shut, AT)), [""; 0]);
    let told = asked.idle(AT, span).unwrap().to_string();
    assert!(told.contains("two running guests"), "{told}");
    let end = asked.end_on(0, Direction::Forward, AT);
    assert!(troubles(&end)[0].contains("ended after SHUT without checkpoint-ready"), "{end:?}");
    // A whole session is silent between its checkpoints, and nothing is due from anybody.
    let (mut whole, _) = play(&session("qemu111-plain")[..image.len()]);
    assert_eq!(whole.idle(AT, span), None);
    let end = whole.end_on(0, Direction::Forward, AT);
    assert!(troubles(&end)[0].contains("ended without any checkpoint"), "{end:?}");
}

#[test]
fn wrong_answers_on_the_return_path_are_told() {
    let (image, _) = plain();
    let forward: Vec<_> = image.iter().filter(|(entry, _)| entry.direction == Direction::Forward).cloned().collect();
    let cases: [(&[u8], &str); 4] = [
        (&[0, 2, 0, 4, 0, 0, 0, 2], "PONG 0x2, the last PING was Some(1)"),
        (&[0, 1, 0, 4, 0, 0, 0, 1], "SHUT 0x1: the secondary could not load"),
        (&[0, 9, 0, 0], "return path message of type 0x9"),
        (&[0, 0, 0, 0], "without SHUT"),
    ];
    for (bytes, expected) in cases {
        let (session, _) = play(&forward);
        let whole = session.clone().feed(Direction::Back, bytes, AT);
        assert!(troubles(&whole)[0].contains(expected), "{expected}: {whole:?}");
        let mut single = session;
        let events: Vec<_> = bytes.iter().flat_map(|byte| single.feed(Direction::Back, &[*byte], AT)).collect();
        assert_eq!(troubles(&events), troubles(&whole));
    }
}
