//! A client that says anything, over a socket.

use super::super::folder::Folder;
use super::super::image::Image;
use super::super::source::{Limits, Source};
use super::*;
use crate::transport::Address;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Duration;
use tempfile::TempDir;

const SIZE: u64 = 1 << 20;
const NAME: &str = "/dev/nbd7";

struct Session {
    stream: UnixStream,
    _folder: TempDir,
}

impl Session {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("image");
        std::fs::File::create(&path).unwrap().set_len(SIZE).unwrap();
        let image = Arc::new(Image::open(&path).unwrap());
        let limits = Limits { buffer: 1 << 20, patience: Duration::from_secs(10) };
        let state = Folder::open(&folder.path().join("state")).unwrap();
        let source = Arc::new(Source::new(image, state, NAME, limits, None));
        let socket = folder.path().join("nbd");
        start(source, Listener::bind(&Address::Unix(socket.clone())).unwrap()).unwrap();
        let stream = UnixStream::connect(&socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut session = Session { stream, _folder: folder };
        assert_eq!(session.take(18), [b"NBDMAGICIHAVEOPT".as_slice(), &[0, 3]].concat());
        session
    }

    fn take(&mut self, bytes: usize) -> Vec<u8> {
        let mut taken = vec![0; bytes];
        self.stream.read_exact(&mut taken).unwrap();
        taken
    }

    fn say(&mut self, parts: &[&[u8]]) {
        self.stream.write_all(&parts.concat()).unwrap();
    }

    fn option(&mut self, option: u32, data: &[u8]) {
        self.say(&[b"IHAVEOPT", &option.to_be_bytes(), &(data.len() as u32).to_be_bytes(), data]);
    }

    fn reply(&mut self, option: u32) -> (u32, Vec<u8>) {
        let head = self.take(20);
        assert_eq!(head[..8], OPTION_REPLY.to_be_bytes());
        assert_eq!(head[8..12], option.to_be_bytes());
        let length = u32::from_be_bytes(head[16..].try_into().unwrap());
        (u32::from_be_bytes(head[12..16].try_into().unwrap()), self.take(length as usize))
    }

    /// In the transmission.
    fn ready() -> Self {
        let mut session = Session::new();
        session.say(&[&3u32.to_be_bytes()]);
        session.option(opt::GO, &[&0u32.to_be_bytes()[..], &0u16.to_be_bytes()].concat());
        let (kind, export) = session.reply(opt::GO);
        assert_eq!((kind, &export[..10]), (rep::INFO, &[&[0, 0], &SIZE.to_be_bytes()[..]].concat()[..]));
        assert_eq!(session.reply(opt::GO).0, rep::INFO);
        assert_eq!(session.reply(opt::GO).0, rep::ACK);
        session
    }

    fn request(&mut self, flags: u16, command: u16, offset: u64, length: u32, payload: &[u8]) {
        let cookie = 0xc00c_1e00_0000_0000 | u64::from(command);
        self.say(&[
            &REQUEST.to_be_bytes(),
            &flags.to_be_bytes(),
            &command.to_be_bytes(),
            &cookie.to_be_bytes(),
            &offset.to_be_bytes(),
            &length.to_be_bytes(),
            payload,
        ]);
    }

    /// The error number.
    fn answer(&mut self, command: u16) -> u32 {
        let head = self.take(16);
        assert_eq!(head[..4], REPLY.to_be_bytes());
        assert_eq!(head[8..], (0xc00c_1e00_0000_0000 | u64::from(command)).to_be_bytes());
        u32::from_be_bytes(head[4..8].try_into().unwrap())
    }

    fn asked(&mut self, flags: u16, command: u16, offset: u64, length: u32, payload: &[u8]) -> u32 {
        self.request(flags, command, offset, length, payload);
        self.answer(command)
    }

    #[track_caller]
    fn ends(mut self) {
        assert_eq!(self.stream.read(&mut [0; 64]).unwrap_or(0), 0);
    }
}

#[test]
fn every_option_has_its_answer() {
    let mut session = Session::new();
    session.say(&[&3u32.to_be_bytes()]);
    session.option(opt::LIST, &[]);
    assert_eq!(session.reply(opt::LIST), (rep::SERVER, [&[0, 0, 0, 9], NAME.as_bytes()].concat()));
    assert_eq!(session.reply(opt::LIST), (rep::ACK, vec![]));
    session.option(opt::LIST, &[1]);
    assert_eq!(session.reply(opt::LIST).0, rep::ERR_INVALID);
    // STARTTLS, STRUCTURED_REPLY and what does not exist.
    for option in [5, 8, 99] {
        session.option(option, &[]);
        assert_eq!(session.reply(option).0, rep::ERR_UNSUP);
    }
    session.option(opt::INFO, &[&9u32.to_be_bytes()[..], NAME.as_bytes(), &[0, 1, 0, 3]].concat());
    assert_eq!((session.reply(opt::INFO).0, session.reply(opt::INFO).0), (rep::INFO, rep::INFO));
    assert_eq!(session.reply(opt::INFO).0, rep::ACK);
    session.option(opt::GO, &[&2u32.to_be_bytes()[..], b"xy", &[0, 0]].concat());
    assert_eq!(session.reply(opt::GO).0, rep::ERR_UNKNOWN);
    for bad in [&[][..], &[0, 0, 0, 9, 1], &[0xff; 6], &[0, 0, 0, 0, 0, 1]] {
        session.option(opt::GO, bad);
        assert_eq!(session.reply(opt::GO).0, rep::ERR_INVALID, "{bad:?}");
    }
    session.option(opt::ABORT, &[]);
    assert_eq!(session.reply(opt::ABORT).0, rep::ACK);
    session.ends();
}

#[test]
fn the_old_way_in_has_its_zeroes() {
    for (flags, zeroes) in [(1u32, 124), (3, 0)] {
        let mut session = Session::new();
        session.say(&[&flags.to_be_bytes()]);
        session.option(opt::EXPORT_NAME, NAME.as_bytes());
        assert_eq!(session.take(10 + zeroes)[..8], SIZE.to_be_bytes());
        assert_eq!(session.asked(0, command::FLUSH, 0, 0, &[]), 0);
    }
    let mut session = Session::new();
    session.say(&[&3u32.to_be_bytes()]);
    session.option(opt::EXPORT_NAME, b"other");
    session.ends();
}

#[test]
fn what_is_no_handshake_ends_the_connection() {
    for bytes in [
        &0xffu32.to_be_bytes()[..],
        &[&3u32.to_be_bytes()[..], b"GET / HTTP/1.1\r\n"].concat(),
        &[&3u32.to_be_bytes()[..], b"IHAVEOPT", &[0, 0, 0, 7], &[0xff; 4]].concat(),
    ] {
        let mut session = Session::new();
        session.say(&[bytes]);
        session.ends();
    }
    let mut session = Session::new();
    session.say(&[&3u32.to_be_bytes()]);
    for _ in 0..MAX_OPTIONS {
        session.option(99, &[]);
        assert_eq!(session.reply(99).0, rep::ERR_UNSUP);
    }
    session.ends();
}

#[test]
fn the_disk_is_written_read_and_bounded() {
    let mut session = Session::ready();
    assert_eq!(session.asked(0, command::WRITE, 4096, 8192, &[7; 8192]), 0);
    assert_eq!(session.asked(command::FUA, command::WRITE, 5000, 2, &[8, 9]), 0);
    assert_eq!(session.asked(command::FUA | command::NO_HOLE, command::WRITE_ZEROES, 4096, 10, &[]), 0);
    assert_eq!(session.asked(command::FUA, command::TRIM, 12000, 1 << 16, &[]), 0);
    assert_eq!(session.asked(0, command::WRITE, SIZE, 0, &[]), 0);
    session.request(0, command::READ, 4096, 8192, &[]);
    assert_eq!(session.answer(command::READ), 0);
    let mut expected = vec![7; 8192];
    expected[904..906].copy_from_slice(&[8, 9]);
    expected[..10].fill(0);
    expected[12000 - 4096..].fill(0);
    assert_eq!(session.take(8192), expected);
    for (flags, command, offset, length, number) in [
        (0, command::READ, SIZE, 1, EINVAL),
        (0, command::READ, u64::MAX, 1, EINVAL),
        (0, command::READ, 0, u32::MAX, EINVAL),
        (0, command::TRIM, SIZE - 1, 2, EINVAL),
        (0, command::WRITE_ZEROES, 0, u32::MAX, EINVAL),
        (command::NO_HOLE, command::TRIM, 0, 1, EINVAL),
        (0x80, command::READ, 0, 1, EINVAL),
        (0, 5, 0, 1, EINVAL),
        (0, 7, 0, 1, EINVAL),
    ] {
        assert_eq!(session.asked(flags, command, offset, length, &[]), number, "{command} {offset} {length}");
    }
    // Its bytes are read, so that the next request is one.
    assert_eq!(session.asked(0, command::WRITE, SIZE - 1, 2, &[1, 2]), ENOSPC);
    assert_eq!(session.asked(0, command::FLUSH, 0, 0, &[]), 0);
    session.request(0, command::DISC, 0, 0, &[]);
    session.ends();
}

#[test]
fn what_is_no_request_ends_the_connection() {
    let mut session = Session::ready();
    session.say(&[&[0x55; 28]]);
    session.ends();
    let mut session = Session::ready();
    session.request(0, command::WRITE, 0, MAX_REQUEST + 1, &[]);
    session.ends();
    let mut session = Session::ready();
    session.request(0, command::WRITE, 0, 100, &[1; 50]);
    session.stream.shutdown(std::net::Shutdown::Write).unwrap();
    session.ends();
}
