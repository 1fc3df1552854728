//! Golden bytes of every sync point in every dialect, whole and in pieces, and what is wrong with the ones that are wrong.

use xen_replicate::colo::wire::{Decoder, WireError, encode};
use xen_replicate::colo::{Dialect, Layout, Message, Point};

const LIBXL: Dialect = Dialect::Libxl;
const QEMU: Dialect = Dialect::Qemu(Layout::Live);
const V8: Dialect = Dialect::FrameV8;

/// Written down by hand from the specifications' tables.
const GOLDEN: [(Dialect, Message, &str); 19] = [
    (LIBXL, Message::New, "05000000 04000000 00000000 00000000"),
    (LIBXL, Message::Suspended, "05000000 04000000 01000000 00000000"),
    (LIBXL, Message::Ready, "05000000 04000000 02000000 00000000"),
    (LIBXL, Message::Resumed, "05000000 04000000 03000000 00000000"),
    (LIBXL, Message::DirtyList { bytes: 0 }, "0f000000 00000000"),
    (LIBXL, Message::DirtyList { bytes: 0x0800_0000 }, "0f000000 00000008"),
    (QEMU, Message::Ready, "00000000"),
    (QEMU, Message::New, "00000001"),
    (QEMU, Message::Suspended, "00000002"),
    (QEMU, Message::Send, "00000003"),
    (QEMU, Message::Size { bytes: 0x0102_0304_0506 }, "00000004 0000010203040506"),
    (QEMU, Message::Received, "00000005"),
    (QEMU, Message::Loaded, "00000006"),
    (V8, Message::Ready, "0000000000000046"),
    (V8, Message::New, "0000000000000047"),
    (V8, Message::Suspended, "0000000000000048"),
    (V8, Message::Send, "0000000000000049"),
    (V8, Message::Received, "000000000000004a"),
    (V8, Message::Loaded, "000000000000004b"),
];

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// All messages in a row, given as a reader would: never more at once than the decoder wants.
fn decode(dialect: Dialect, mut input: &[u8]) -> Result<Vec<Message>, WireError> {
    let mut decoder = Decoder::new(dialect, 0);
    let mut out = Vec::new();
    while !input.is_empty() {
        let most = decoder.wanted();
        assert!(most > 0);
        let piece = &input[..most.min(input.len())];
        let (taken, message) = decoder.take(piece)?;
        assert_eq!(taken, piece.len(), "a decoder must not ask for what it does not take");
        input = &input[taken..];
        out.extend(message);
    }
    decoder.end()?;
    Ok(out)
}

#[test]
fn golden_bytes_both_ways() {
    for (dialect, message, golden) in GOLDEN {
        let golden = hex(golden);
        assert_eq!(encode(dialect, message).unwrap().as_slice(), golden, "{dialect}: {message:?}");
        assert_eq!(decode(dialect, &golden), Ok(vec![message]), "{dialect}");
    }
    for dialect in [LIBXL, QEMU, V8] {
        for point in Point::ALL {
            let golden = GOLDEN.iter().any(|(d, message, _)| *d == dialect && message.point() == point);
            assert_eq!(dialect.has(point), golden, "{dialect}: {point:?} has no golden bytes");
        }
    }
    let whole = Dialect::Qemu(Layout::Whole);
    for (_, message, golden) in GOLDEN.iter().filter(|(dialect, ..)| *dialect == QEMU) {
        assert_eq!(encode(whole, *message).unwrap().as_slice(), hex(golden), "both layouts have the same messages");
    }
}

#[test]
fn what_a_dialect_does_not_have_is_not_encoded() {
    for (dialect, message) in [
        (LIBXL, Message::Send),
        (LIBXL, Message::Size { bytes: 1 }),
        (LIBXL, Message::Received),
        (LIBXL, Message::Loaded),
        (QEMU, Message::Resumed),
        (QEMU, Message::DirtyList { bytes: 8 }),
        (V8, Message::Size { bytes: 1 }),
        (V8, Message::Resumed),
    ] {
        assert_eq!(encode(dialect, message), None, "{dialect}: {message:?}");
    }
}

#[test]
fn every_piece_and_every_end() {
    for dialect in [LIBXL, QEMU, V8] {
        let mine: Vec<_> = GOLDEN.into_iter().filter(|(d, ..)| *d == dialect).collect();
        let session: Vec<u8> = mine.iter().flat_map(|(.., golden)| hex(golden)).collect();
        let messages: Vec<Message> = mine.iter().map(|(_, message, _)| *message).collect();
        assert_eq!(decode(dialect, &session), Ok(messages.clone()));
        let starts: Vec<usize> =
            mine.iter().scan(0, |at, (.., golden)| Some(std::mem::replace(at, *at + hex(golden).len()))).collect();
        // One byte at a time, and the end behind each.
        let mut decoder = Decoder::new(dialect, 0);
        let mut got = Vec::new();
        for (at, byte) in session.iter().enumerate() {
            let began = starts.iter().rposition(|&start| start <= at).unwrap();
            if starts[began] == at {
                assert_eq!((decoder.end(), decoder.offset()), (Ok(()), at as u64));
            } else {
                let Err(WireError::Truncated { offset, got, missing }) = decoder.end() else {
                    panic!("{dialect}: the end at {at} is inside of a message");
                };
                assert_eq!((offset, got), (starts[began] as u64, at - starts[began]));
                assert!(missing > 0 && missing <= 16);
            }
            let (taken, message) = decoder.take(std::slice::from_ref(byte)).unwrap();
            assert_eq!(taken, 1);
            got.extend(message);
        }
        assert_eq!((got, decoder.end()), (messages, Ok(())));
    }
}

#[test]
fn what_follows_a_message_is_not_touched() {
    for (dialect, message, golden) in GOLDEN {
        let mut bytes = hex(golden);
        let len = bytes.len();
        bytes.extend([0xff; 40]);
        let mut decoder = Decoder::new(dialect, 100);
        assert_eq!(decoder.take(&bytes), Ok((len, Some(message))), "{dialect}");
        decoder.skip(40);
        assert_eq!(decoder.offset(), 140 + len as u64);
    }
}

#[test]
fn numbers_beyond_the_end_are_named_with_their_place() {
    let number = |number, first, last| WireError::Number { number, offset: 4096, first, last };
    for (dialect, bytes, error) in [
        (QEMU, "00000007", number(7, 0, 6)),
        (QEMU, "ffffffff", number(0xffff_ffff, 0, 6)),
        (QEMU, "01000000", number(0x0100_0000, 0, 6)),
        (V8, "0000000000000045", number(0x45, 0x46, 0x4b)),
        (V8, "000000000000004c", number(0x4c, 0x46, 0x4b)),
        (V8, "8000000000000046", number(0x8000_0000_0000_0046, 0x46, 0x4b)),
        (LIBXL, "05000000 04000000 04000000", number(4, 0, 3)),
        (LIBXL, "05000000 08000000 ffffffff", number(0xffff_ffff, 0, 3)),
        (LIBXL, "04000000 00000000", WireError::Record { type_id: 4, offset: 4096 }),
        (LIBXL, "05000080 04000000", WireError::Record { type_id: 0x8000_0005, offset: 4096 }),
        (LIBXL, "05000000 00000000", WireError::Length { type_id: 5, length: 0, offset: 4096 }),
        (LIBXL, "05000000 00000080", WireError::Length { type_id: 5, length: 1 << 31, offset: 4096 }),
        (LIBXL, "0f000000 07000000", WireError::Length { type_id: 15, length: 7, offset: 4096 }),
    ] {
        let mut decoder = Decoder::new(dialect, 4096);
        assert_eq!(decoder.take(&hex(bytes)), Err(error), "{dialect}: {bytes}");
        // It stays in front of the message.
        assert_eq!((decoder.offset(), decoder.end()), (4096, Ok(())));
    }
    let text = number(7, 0, 6).to_string();
    assert!(text.contains("0x7") && text.contains("4096"), "{text}");
}

#[test]
fn both_bodies_of_a_checkpoint_state_are_read() {
    // As the specification draws it, and with a padding that is not zero.
    assert_eq!(decode(LIBXL, &hex("05000000 08000000 02000000 00000000")), Ok(vec![Message::Ready]));
    assert_eq!(decode(LIBXL, &hex("05000000 04000000 02000000 ffffffff")), Ok(vec![Message::Ready]));
}

#[test]
fn sizes_pass_as_they_are() {
    for bytes in [0, 1 << 63, u64::MAX] {
        let message = Message::Size { bytes };
        assert_eq!(decode(QEMU, &encode(QEMU, message).unwrap()), Ok(vec![message]));
    }
}

#[test]
fn no_bytes_make_a_decoder_panic_or_stand_still() {
    use proptest::prelude::*;
    proptest!(|(bytes in proptest::collection::vec(any::<u8>(), 0..64), which in 0_usize..4, zeroes in any::<bool>())| {
        let dialect = Dialect::ALL[which];
        let bytes: Vec<u8> = if zeroes { bytes.iter().map(|byte| byte & 5).collect() } else { bytes };
        let mut decoder = Decoder::new(dialect, 0);
        let mut at = 0;
        while at < bytes.len() {
            match decoder.take(&bytes[at..]) {
                Ok((taken, message)) => {
                    prop_assert!(taken > 0);
                    prop_assert!(message.is_some() || at + taken == bytes.len());
                    at += taken;
                }
                Err(_) => break,
            }
        }
    });
}
