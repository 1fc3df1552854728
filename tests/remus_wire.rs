//! The framing: what is written is read back in any split, damage is found, and garbage is an error and never a panic.

use proptest::collection::vec;
use proptest::prelude::*;
use xen_replicate::remus::wire::{
    Body, Capabilities, Control, Decoder, Digest, Direction, Encoder, Farewell, FrameBuffer, HEADER_LEN, Hello, MAGIC,
    MAX_DATA, MAX_DETAIL, Peer, Seal, Step, WireError, recognise_primary, recognise_secondary,
};
use xen_replicate::remus::{Generation, RefuseReason, Rule, Session};

/// A frame with what it owns.
#[derive(Debug, Clone, PartialEq)]
enum Sent {
    Control(Control, Vec<u8>),
    Data(Vec<u8>),
}

fn hello() -> impl Strategy<Value = Control> {
    (0u32..128, 1u8..4, any::<u64>(), any::<u32>(), any::<u32>(), any::<u64>()).prop_map(
        |(bits, rule, generation, heartbeat, timeout, domain)| {
            Control::Hello(Hello {
                capabilities: Capabilities::from_bits_truncate(bits),
                rule: Rule::from_wire(rule).expect("1 to 3 exist"),
                generation: Generation(generation),
                heartbeat_ms: heartbeat,
                timeout_ms: timeout,
                domain,
            })
        },
    )
}

fn sent(direction: Direction) -> BoxedStrategy<Sent> {
    let number = any::<u64>;
    let plain = |control| Sent::Control(control, Vec::new());
    let both = prop_oneof![
        number().prop_map(|g| Control::Heartbeat { generation: Generation(g) }),
        (1u32..6).prop_map(|r| Control::Goodbye { reason: Farewell::from_wire(r).expect("1 to 5 exist") }),
    ]
    .prop_map(plain);
    match direction {
        Direction::Forward => prop_oneof![
            both,
            (any::<u32>(), number())
                .prop_map(move |(number, checkpoint)| plain(Control::Stream { number, checkpoint })),
            (number(), number(), any::<u128>()).prop_map(move |(number, bytes, checksum)| {
                plain(Control::Checkpoint(Seal { number, bytes, checksum }))
            }),
            (number(), number()).prop_map(move |(checkpoint, g)| {
                plain(Control::SwitchOver { checkpoint, generation: Generation(g) })
            }),
            number().prop_map(move |g| plain(Control::Begin { generation: Generation(g) })),
            vec(any::<u8>(), 1..600).prop_map(Sent::Data),
        ]
        .boxed(),
        Direction::Backward => prop_oneof![
            both,
            number().prop_map(move |checkpoint| plain(Control::Ack { checkpoint })),
            (number(), 1u32..8, vec(any::<u8>(), 0..MAX_DETAIL)).prop_map(|(checkpoint, reason, text)| {
                let reason = RefuseReason::from_wire(reason).expect("1 to 7 exist");
                Sent::Control(Control::Refuse { checkpoint, reason }, text)
            }),
            (number(), number())
                .prop_map(move |(checkpoint, g)| { plain(Control::Active { checkpoint, generation: Generation(g) }) }),
        ]
        .boxed(),
    }
}

fn row() -> impl Strategy<Value = (Direction, u64, Vec<Sent>)> {
    prop::sample::select(vec![Direction::Forward, Direction::Backward]).prop_flat_map(|direction| {
        (Just(direction), any::<u64>(), hello(), vec(sent(direction), 0..12)).prop_map(
            |(direction, session, hello, mut rest)| {
                rest.insert(0, Sent::Control(hello, Vec::new()));
                (direction, session, rest)
            },
        )
    })
}

/// The bytes of a row, and where each frame ends.
fn emit(direction: Direction, session: u64, row: &[Sent]) -> (Vec<u8>, Vec<usize>) {
    let mut encoder = Encoder::new(Session(session), direction);
    let mut bytes = MAGIC.to_vec();
    let mut ends = Vec::new();
    for sent in row {
        match sent {
            Sent::Control(control, text) => {
                bytes.extend(encoder.with_detail(*control, text).expect("it runs in this direction"));
            }
            Sent::Data(data) => {
                bytes.extend(encoder.data(data).expect("short enough"));
                bytes.extend(data);
            }
        }
        ends.push(bytes.len());
    }
    (bytes, ends)
}

fn read(direction: Direction, session: u64, pieces: &[&[u8]]) -> (Vec<Sent>, Result<(), WireError>) {
    let mut buffer = FrameBuffer::new(direction);
    let mut frames = Vec::new();
    for piece in pieces {
        buffer.push(piece);
        loop {
            match buffer.next() {
                Ok(None) => break,
                Err(error) => return (frames, Err(error)),
                Ok(Some(frame)) => {
                    assert_eq!(frame.session, Session(session));
                    frames.push(match frame.body {
                        Body::Data(data) => Sent::Data(data.to_vec()),
                        Body::Refuse { detail, .. } => {
                            Sent::Control(frame.body.control().expect("a refusal is one"), detail.to_vec())
                        }
                        Body::Control(control) => Sent::Control(control, Vec::new()),
                        Body::Unknown { type_id } => panic!("{type_id} was not sent"),
                    });
                }
            }
        }
    }
    (frames, buffer.finish())
}

proptest! {
    #[test]
    fn what_is_written_is_read_in_any_split((direction, session, row) in row(), cuts in vec(any::<prop::sample::Index>(), 0..8)) {
        let (bytes, _) = emit(direction, session, &row);
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
        at.extend([0, bytes.len()]);
        at.sort_unstable();
        let pieces: Vec<&[u8]> = at.windows(2).map(|w| &bytes[w[0]..w[1]]).collect();
        prop_assert_eq!(read(direction, session, &pieces), (row.clone(), Ok(())));
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        prop_assert_eq!(read(direction, session, &single), (row, Ok(())));
    }

    #[test]
    fn every_truncation_is_told((direction, session, row) in row()) {
        let (bytes, ends) = emit(direction, session, &row);
        for end in 1..bytes.len() {
            let (frames, finish) = read(direction, session, &[&bytes[..end]]);
            let whole = ends.iter().filter(|&&e| e <= end).count();
            prop_assert_eq!(&frames[..], &row[..whole]);
            if ends.contains(&end) {
                prop_assert_eq!(finish, Ok(()));
            } else {
                let offset = if whole == 0 { 0 } else { ends[whole - 1] };
                prop_assert_eq!(finish, Err(WireError::Truncated { offset: offset as u64, got: end - offset }));
            }
        }
    }

    /// One flipped bit never gives another frame than was sent: it is an error, unless it hit the bytes of the stream, which
    /// the checkpoint's checksum covers.
    #[test]
    fn a_flipped_bit_is_found((direction, session, row) in row(), place in any::<prop::sample::Index>(), bit in 0u8..8) {
        let (mut bytes, ends) = emit(direction, session, &row);
        let at = place.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let hit = ends.iter().position(|&end| at < end).expect("the last end is the length");
        let (frames, finish) = read(direction, session, &[&bytes]);
        match &row[hit] {
            Sent::Data(data) if at >= ends[hit] - data.len() => {
                prop_assert_eq!(finish, Ok(()));
                prop_assert_eq!(frames.len(), row.len());
                let (mut sent, mut got) = (Digest::default(), Digest::default());
                for (digest, row) in [(&mut sent, &row), (&mut got, &frames)] {
                    row.iter().for_each(|f| if let Sent::Data(data) = f { digest.update(data) });
                }
                prop_assert_eq!(got.verify(&sent.seal(1)), Err(RefuseReason::Checksum));
            }
            _ => {
                prop_assert_eq!(&frames[..], &row[..hit]);
                prop_assert!(finish.is_err());
            }
        }
    }

    #[test]
    fn garbage_is_an_error_and_stays_one(bytes in vec(any::<u8>(), 1..200), ours in any::<bool>()) {
        for direction in [Direction::Forward, Direction::Backward] {
            let mut bytes = bytes.clone();
            if ours {
                bytes.splice(0..0, MAGIC);
            }
            let mut decoder = Decoder::new(direction);
            match decoder.take(&bytes) {
                Ok(Step::Need(bytes_wanted)) => {
                    prop_assert!(bytes_wanted > bytes.len() && bytes_wanted <= MAGIC.len() + HEADER_LEN + MAX_DATA);
                }
                Ok(Step::Frame(frame, _)) => panic!("{frame:?}"),
                Err(error) => prop_assert_eq!(decoder.take(&bytes), Err(error)),
            }
        }
    }
}

#[test]
fn the_data_is_the_stream_byte_for_byte_and_is_not_copied() {
    let stream: Vec<u8> = (0..3 * MAX_DATA + 5).map(|i| ((i * 7) >> 3) as u8).collect();
    let mut row: Vec<Sent> = stream.chunks(MAX_DATA).map(|data| Sent::Data(data.to_vec())).collect();
    row.insert(2, Sent::Control(Control::Heartbeat { generation: Generation(1) }, Vec::new()));
    row.insert(0, Sent::Control(Control::Stream { number: 1, checkpoint: 1 }, Vec::new()));
    let hello = Hello {
        capabilities: Capabilities::OFFERED,
        rule: Rule::Witness,
        generation: Generation(1),
        heartbeat_ms: 100,
        timeout_ms: 1000,
        domain: 0,
    };
    row.insert(0, Sent::Control(Control::Hello(hello), Vec::new()));
    let (bytes, _) = emit(Direction::Forward, 9, &row);
    let mut decoder = Decoder::new(Direction::Forward);
    let (mut rest, mut got) = (bytes.as_slice(), Vec::new());
    while !rest.is_empty() {
        let Ok(Step::Frame(frame, bytes)) = decoder.take(rest) else { panic!("a whole frame is there") };
        if let Body::Data(data) = frame.body {
            assert!(bytes_within(data, rest));
            got.extend_from_slice(data);
        }
        rest = &rest[bytes..];
    }
    assert_eq!(got, stream);
    let mut encoder = Encoder::new(Session(9), Direction::Forward);
    assert_eq!(encoder.data(&vec![0; MAX_DATA + 1]), None);
    assert_eq!(encoder.data(&[]), None);
    assert_eq!(encoder.control(Control::Ack { checkpoint: 1 }), None);
}

fn bytes_within(part: &[u8], whole: &[u8]) -> bool {
    whole.as_ptr_range().contains(&part.as_ptr()) && part.as_ptr_range().end <= whole.as_ptr_range().end
}

/// The layout, number by number: what another implementation must write.
#[test]
fn the_bytes_of_an_acknowledgement() {
    let mut encoder = Encoder::new(Session(0x1122_3344_5566_7788), Direction::Backward);
    let frame = encoder.control(Control::Ack { checkpoint: 0x0a0b }).expect("runs backward");
    let head = [8, 0, 0, 0, 8, 0, 0, 0, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0, 0, 0, 0];
    assert_eq!(frame[..20], head);
    assert_eq!(frame[24..], [0x0b, 0x0a, 0, 0, 0, 0, 0, 0]);
    let covered: Vec<u8> = frame[..20].iter().chain(&frame[24..]).copied().collect();
    assert_eq!(frame[20..24], (xxhash_rust::xxh3::xxh3_64(&covered) as u32).to_le_bytes());
    assert_eq!(encoder.control(Control::Ack { checkpoint: 1 }).expect("runs backward")[16..20], [1, 0, 0, 0]);
}

fn frame(type_id: u8, sequence: u32, payload: &[u8], length: u32) -> Vec<u8> {
    let mut bytes = vec![type_id, 0, 0, 0];
    bytes.extend(length.to_le_bytes());
    bytes.extend(1u64.to_le_bytes());
    bytes.extend(sequence.to_le_bytes());
    let covered: Vec<u8> = bytes.iter().chain(payload.iter().filter(|_| type_id != 2)).copied().collect();
    bytes.extend((xxhash_rust::xxh3::xxh3_64(&covered) as u32).to_le_bytes());
    bytes.extend(payload);
    bytes
}

/// The first error of a forward row whose HELLO is sound and whose second frame is `second`.
fn second(second: Vec<u8>) -> Result<usize, WireError> {
    let mut hello = vec![2, 0, 1, 0];
    hello.extend(0x7fu32.to_le_bytes());
    hello.extend([0; 16]);
    let mut bytes = MAGIC.to_vec();
    bytes.extend(frame(1, 0, &hello, hello.len() as u32));
    bytes.extend(second);
    let (frames, end) = {
        let mut buffer = FrameBuffer::new(Direction::Forward);
        buffer.push(&bytes);
        let mut frames = 0;
        let end = loop {
            match buffer.next() {
                Ok(Some(_)) => frames += 1,
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        (frames, end)
    };
    end.map(|()| frames)
}

#[test]
fn a_hello_may_grow_and_may_be_of_before_it_grew() {
    let mut payload = vec![2, 0, 1, 0];
    payload.extend(0x7fu32.to_le_bytes());
    payload.extend([0; 16]);
    for (more, domain) in [(&[][..], 0), (&[7; 8], 0x0707_0707_0707_0707), (&[7; 40], 0x0707_0707_0707_0707)] {
        let hello = [&payload[..], more].concat();
        let bytes = [&MAGIC[..], &frame(1, 0, &hello, hello.len() as u32)].concat();
        let mut buffer = FrameBuffer::new(Direction::Forward);
        buffer.push(&bytes);
        let hello = buffer.next().unwrap().and_then(|frame| frame.body.control());
        assert!(matches!(hello, Some(Control::Hello(hello)) if hello.domain == domain), "{hello:?}");
    }
}

#[test]
fn each_fault_has_its_name_place_and_value() {
    let offset = (MAGIC.len() + HEADER_LEN + 24) as u64;
    let goodbye = [1, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(second(frame(7, 1, &goodbye, 8)), Ok(2));
    assert_eq!(second(frame(0x91, 1, &[1, 2, 3], 3)), Ok(2), "an optional frame is skipped");
    assert_eq!(second(frame(0x11, 1, &[], 0)), Err(WireError::Type { offset, type_id: 0x11 }));
    assert_eq!(second(frame(8, 1, &goodbye, 8)), Err(WireError::Type { offset, type_id: 8 }));
    assert_eq!(second(frame(7, 2, &goodbye, 8)), Err(WireError::Sequence { offset, got: 2, expected: 1 }));
    assert_eq!(second(frame(7, 1, &goodbye[..7], 7)), Err(WireError::Payload { offset, type_id: 7, got: 7 }));
    let wrong = [9, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(second(frame(7, 1, &wrong, 8)), Err(WireError::Value { offset, field: "farewell", value: 9 }));
    assert_eq!(second(frame(1, 1, &goodbye, 8)), Err(WireError::Greeting { offset, type_id: 1, first: false }));
    let length = MAX_DATA as u32 + 1;
    let limit = MAX_DATA as u32;
    assert_eq!(second(frame(2, 1, &[], length)), Err(WireError::Length { offset, type_id: 2, length, limit }));
    assert_eq!(
        second(frame(7, 1, &[], u32::MAX)),
        Err(WireError::Length { offset, type_id: 7, length: u32::MAX, limit: 512 })
    );
}

#[test]
fn who_is_there_is_told_by_the_first_bytes() {
    let banner = b"xl migration receiver ready, send binary domain data.\n";
    let preamble = b"Xen saved domain, xl format\n \0 \r";
    assert_eq!(recognise_secondary(b""), Err(1));
    assert_eq!(recognise_primary(b""), Err(1));
    for end in 1..banner.len() {
        assert_eq!(recognise_secondary(&banner[..end]), Err(banner.len()));
    }
    assert_eq!(recognise_secondary(banner), Ok(Peer::Bare));
    assert_eq!(recognise_primary(preamble), Ok(Peer::Bare));
    assert_eq!(recognise_primary(b"LibxlFmt\0\0"), Ok(Peer::Bare));
    assert_eq!(recognise_primary(&MAGIC[..7]), Err(8));
    for recognise in [recognise_primary, recognise_secondary] {
        assert_eq!(recognise(&MAGIC), Ok(Peer::Framed));
        assert_eq!(recognise(b"Password: "), Ok(Peer::Unknown));
        assert_eq!(recognise(b"\x89XRemus\r"), Ok(Peer::Unknown));
    }
    assert_eq!(Capabilities::OFFERED.cost().count(), 0);
    assert_eq!(Capabilities::BARE.cost().count(), 4);
    let names: Vec<_> = Capabilities::OFFERED.names().collect();
    assert_eq!(names, ["mc", "local-copy", "heartbeat", "checkpoint-ack", "checksum", "generation"]);
}
