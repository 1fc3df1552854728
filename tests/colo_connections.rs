//! The running tap on a recorded session of QEMU 11.1 with two channels, whole and with what can be wrong with its connections: told at
//! once, and by `dump` and `verify` of what was recorded. And what silent and slow channels cost it.

use lzma_rust2::XzReader;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;
use xen_replicate::tap::Direction;
use xen_replicate::tap::recording::{Entry, Reader};

/// Longer than anything here takes; nothing waits for it to pass.
const PATIENCE: Duration = Duration::from_secs(60);

type Piece = (Entry, Vec<u8>);

fn session(name: &str) -> Vec<Piece> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/colo/{name}.rec.xz"));
    let mut file = Vec::new();
    XzReader::new(File::open(path).unwrap(), true).read_to_end(&mut file).unwrap();
    let (mut reader, mut out) = (Reader::new(file.as_slice()).unwrap(), Vec::new());
    while let Some((entry, bytes)) = reader.next_entry().unwrap() {
        if !bytes.is_empty() {
            out.push((entry, bytes.to_vec()));
        }
    }
    out
}

/// The image, its channels and the answers to it.
fn image() -> Vec<Piece> {
    let mut pieces = session("qemu111-mf2");
    let request = pieces.iter().position(|(_, bytes)| bytes.as_slice() == [0, 0, 0, 1]).unwrap();
    pieces.truncate(request);
    pieces
}

/// A running tap, killed when dropped.
struct Tap {
    child: Child,
    home: tempfile::TempDir,
    lines: Receiver<String>,
}

impl Drop for Tap {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn unix(path: &Path) -> String {
    format!("unix:{}", path.display())
}

impl Tap {
    fn start(between: bool, patience: u32) -> (Tap, UnixListener) {
        let home = tempfile::tempdir().unwrap();
        let path = |name: &str| home.path().join(name);
        let listener = UnixListener::bind(path("secondary")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_xen-replicate"));
        command.args(["tap", "--listen", &unix(&path("tap")), "--patience", &patience.to_string(), "--record"]);
        command.arg(path("rec"));
        if between {
            command.args(["--forward", &unix(&path("secondary"))]);
        }
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        stderr.read_line(&mut line).unwrap();
        assert!(line.starts_with("listening on"), "{line}");
        thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
        let (sender, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        (Tap { child, home, lines }, listener)
    }

    fn recording(&self) -> PathBuf {
        self.home.path().join("rec")
    }

    fn connect(&self) -> UnixStream {
        let socket = UnixStream::connect(self.home.path().join("tap")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    /// Waits for an error, while the session goes on.
    fn tells(&self, expected: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(PATIENCE).unwrap_or_else(|error| panic!("no {expected:?}: {error}"));
            if line.contains("error: ") {
                assert!(line.contains(expected), "{expected}: {line}");
                return line;
            }
        }
    }

    /// Waits for its end, by itself; all that it has printed since.
    fn ends(&mut self, code: i32) -> String {
        let printed = self.lines.iter().collect::<Vec<_>>().join("\n");
        assert_eq!(self.child.wait().unwrap().code(), Some(code), "{printed}");
        printed
    }

    fn peak_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().strip_suffix("kB").unwrap().trim().parse().unwrap()
    }
}

/// What `dump` and `verify` say of a recording.
fn commands(recording: &Path, code: i32) -> [String; 2] {
    ["dump", "verify"].map(|command| {
        let out = Command::new(env!("CARGO_BIN_EXE_xen-replicate")).arg(command).arg(recording).output().unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        assert_eq!(out.status.code(), Some(code), "{command}: {text}");
        text
    })
}

/// Both ends of a session, with the tap between: what the one writes, the other has read before the next piece.
struct Ends<'a> {
    tap: &'a Tap,
    listener: UnixListener,
    connections: Vec<(u16, UnixStream, UnixStream)>,
}

impl Ends<'_> {
    fn play(&mut self, pieces: &[Piece]) {
        for (entry, bytes) in pieces {
            if !self.connections.iter().any(|(number, ..)| *number == entry.connection) {
                let primary = self.tap.connect();
                let (secondary, _) = self.listener.accept().unwrap();
                secondary.set_read_timeout(Some(PATIENCE)).unwrap();
                self.connections.push((entry.connection, primary, secondary));
            }
            let (_, primary, secondary) =
                self.connections.iter_mut().find(|(number, ..)| *number == entry.connection).unwrap();
            let (from, to) = match entry.direction {
                Direction::Forward => (primary, secondary),
                Direction::Back => (secondary, primary),
            };
            let mut got = vec![0; bytes.len()];
            thread::scope(|scope| {
                scope.spawn(move || from.write_all(bytes).unwrap());
                to.read_exact(&mut got).unwrap();
            });
            assert!(got == *bytes);
        }
    }

    /// And waits until that was seen.
    fn primary_closes(&mut self) {
        let (_, primary, _) = self.connections.iter().find(|(number, ..)| *number == 0).unwrap();
        primary.shutdown(Shutdown::Write).unwrap();
        loop {
            let line = self.tap.lines.recv_timeout(PATIENCE).unwrap();
            if line.contains("->") && line.ends_with("  end") {
                return;
            }
        }
    }

    fn secondary_closes(&mut self) {
        self.connections.iter().for_each(|(_, _, secondary)| secondary.shutdown(Shutdown::Both).unwrap());
    }
}

fn between(patience: u32, test: impl FnOnce(&mut Ends<'_>)) -> Tap {
    let (tap, listener) = Tap::start(true, patience);
    let mut ends = Ends { tap: &tap, listener, connections: Vec::new() };
    test(&mut ends);
    drop(ends);
    tap
}

/// Plays a primary to the tap as its secondary, until that closes.
fn answered(pieces: &[Piece], patience: u32) -> Tap {
    let (tap, _) = Tap::start(false, patience);
    let mut connections: Vec<(u16, UnixStream)> = Vec::new();
    for (entry, bytes) in pieces {
        if !connections.iter().any(|(number, _)| *number == entry.connection) {
            connections.push((entry.connection, tap.connect()));
        }
        let (_, socket) = connections.iter_mut().find(|(number, _)| *number == entry.connection).unwrap();
        let went = match entry.direction {
            Direction::Forward => socket.write_all(bytes),
            Direction::Back => socket.read_exact(&mut vec![0; bytes.len()]),
        };
        // It leaves at what no secondary can take.
        if went.is_err() {
            break;
        }
    }
    // Nothing more comes from this primary, and its connections stay open until the tap closes the main one.
    let (_, main) = connections.iter_mut().find(|(number, _)| *number == 0).unwrap();
    match main.read_to_end(&mut Vec::new()) {
        Err(error) if error.kind() != ErrorKind::ConnectionReset => panic!("{error}"),
        _ => {}
    }
    tap
}

#[test]
fn a_whole_session_is_passed_on_and_told_by_channel() {
    let mut tap = between(60, |ends| ends.play(&session("qemu111-mf2")));
    let printed = tap.ends(0);
    for channel in ["channel 0: multifd, UUID", "channel 1: SYNC 23:"] {
        assert!(printed.contains(channel), "{printed}");
    }
    let [dump, verify] = commands(&tap.recording(), 0);
    assert!(dump.contains("channel 1: SYNC 23:") && dump.contains("multifd channels: 2 (none)"), "{dump}");
    assert!(verify.contains("channel 0: 119104 bytes, packets: 52, pages: 2758 (2746 zero), SYNCs: 23"), "{verify}");
    assert!(verify.contains("main: 188270 bytes, pages: 0 (0 zero), flush marks: 23"), "{verify}");
}

fn without(pieces: &[Piece], connection: u16) -> Vec<Piece> {
    pieces.iter().filter(|(entry, _)| entry.connection != connection).cloned().collect()
}

/// With bytes of a connection changed, all of them in its first piece.
fn changed(pieces: &[Piece], connection: u16, at: usize, bytes: &[u8]) -> Vec<Piece> {
    let mut pieces = pieces.to_vec();
    let first = pieces.iter_mut().find(|(entry, _)| entry.connection == connection).unwrap();
    first.1[at..at + bytes.len()].copy_from_slice(bytes);
    pieces
}

/// With a third channel's beginning before the last answer, or after it.
fn third(pieces: &[Piece], late: bool) -> Vec<Piece> {
    let mut pieces = pieces.to_vec();
    let (entry, bytes) = pieces.iter().find(|(entry, _)| entry.connection == 1).unwrap().clone();
    let hello = [&bytes[..24], &[2], &bytes[25..64]].concat();
    let at = if late { pieces.len() } else { pieces.len() - 1 };
    pieces.insert(at, (Entry { connection: 3, ..entry }, hello));
    pieces
}

#[test]
fn what_is_wrong_with_a_sessions_channels_is_told_in_every_way() {
    let pieces = image();
    let cases = [
        (without(&pieces, 1), "channel 0 is missing (there are 1)"),
        (without(&pieces, 2), "packets or a whole channel are missing"),
        (changed(&pieces, 2, 24, &[0]), "channel 0 is there twice: connections 1 and 2"),
        (changed(&pieces, 2, 8, &[9]), "channel 1 is of another session: UUID 09000000-0000-0000-0000-000000000000"),
        (changed(&pieces, 1, 7, &[2]), "multifd version 2, expected 1"),
        (third(&pieces, false), "channel 2 has had 0 SYNCs"),
        (third(&pieces, true), "channel 2 is late"),
    ];
    for (pieces, expected) in cases {
        println!("{expected}");
        let mut tap = between(60, |ends| {
            ends.play(&pieces);
            ends.tap.tells(expected);
        });
        tap.ends(1);
        for said in commands(&tap.recording(), 1) {
            assert!(said.contains(expected), "{expected}: {said}");
        }
        // The tap answers when all that has begun is whole: a third one is late then.
        let expected = if expected.starts_with("channel 2") { "channel 2 is late" } else { expected };
        let mut tap = answered(&pieces, 1);
        let printed = tap.ends(1);
        assert!(printed.contains(expected), "{expected}: {printed}");
        for said in commands(&tap.recording(), 1) {
            assert!(said.contains(expected), "{expected}: {said}");
        }
    }
}

#[test]
fn a_secondary_that_does_not_take_the_image_is_told_at_once() {
    let pieces = image();
    let shut = pieces.iter().position(|(entry, bytes)| entry.direction == Direction::Back && bytes[1] == 1).unwrap();
    // What comes back together is told apart by the sender's writes alone.
    let mut with_shut = pieces[..=shut].to_vec();
    with_shut[shut].1.truncate(8);
    let half = pieces.iter().position(|(entry, _)| entry.connection == 2).unwrap();
    for (pieces, expected) in [
        (with_shut, "two running guests"),
        (pieces[..=half].to_vec(), "the secondary ended before it had the first image (machine \"pc-i440fx-11.1\""),
    ] {
        let mut tap = between(60, |ends| {
            ends.play(&pieces);
            // Of a channel first: they are closed in any order.
            ends.connections.sort_by_key(|(number, ..)| u16::MAX - number);
            ends.secondary_closes();
            let mut told = ends.tap.tells("");
            if !told.contains(expected) {
                assert!(told.contains("the secondary closed channel"), "{told}");
                told = ends.tap.tells(expected);
            }
            // While its primary is there.
            assert!(told.contains("due: checkpoint-ready"), "{told}");
        });
        tap.ends(1);
        for said in commands(&tap.recording(), 1) {
            assert!(said.contains(expected), "{expected}: {said}");
        }
    }
}

#[test]
fn a_ping_that_nobody_answers_is_told_while_it_waits() {
    let forward: Vec<Piece> = image().into_iter().filter(|(entry, _)| entry.direction == Direction::Forward).collect();
    let expected = "PING was not answered within 1s: the secondary does not read. It waits for more connections than";
    let mut tap = between(1, |ends| {
        ends.play(&forward);
        let told = ends.tap.tells(expected);
        assert!(told.contains("(2 channels:"), "{told}");
        ends.primary_closes();
    });
    tap.ends(1);
    for said in commands(&tap.recording(), 1) {
        assert!(said.contains("PING was not answered"), "{said}");
    }
}

/// The first image up to its first page, from a primary with pages of 4 KiB.
fn head() -> Vec<u8> {
    let mut out = b"QEVM\0\0\0\x03\x01\0\0\0\x02\x03ram\0\0\0\0\0\0\0\x04".to_vec();
    out.extend(((1_u64 << 32) + 4).to_be_bytes());
    out.extend(b"\x06pc.ram");
    out.extend((1_u64 << 32).to_be_bytes());
    out
}

/// A channel's beginning, and packets of 512 KiB without an end.
fn packets(id: u8, packet: u64) -> Vec<u8> {
    let mut hello = vec![0; 64];
    hello[..8].copy_from_slice(b"\x11\x22\x33\x44\0\0\0\x01");
    hello[24] = id;
    if packet == 0 {
        return hello;
    }
    let mut header = hello[..8].to_vec();
    for word in [0_u32, 128, 128, 128 << 12] {
        header.extend(word.to_be_bytes());
    }
    header.extend((packet * 256 + u64::from(id)).to_be_bytes());
    header.resize(64, 0);
    header.extend(b"pc.ram");
    header.resize(320, 0);
    for page in 0..128_u64 {
        header.extend((page << 12).to_be_bytes());
    }
    header.resize(1344 + (128 << 12), 7);
    header
}

/// All channels that there can be: some stop inside of a header, the others send until nobody takes more, and the secondary reads nothing.
#[test]
fn channels_that_are_silent_or_slow_hold_no_more_than_their_buffers() {
    for between in [true, false] {
        let (mut tap, listener) = Tap::start(between, 60);
        let mut main = tap.connect();
        main.write_all(&head()).unwrap();
        let (mut sockets, mut far) = (vec![main], Vec::new());
        if between {
            far.push(listener.accept().unwrap().0);
        }
        let mut sent = 0;
        for id in 0..=254 {
            let mut socket = tap.connect();
            if between {
                far.push(listener.accept().unwrap().0);
            }
            socket.write_all(&packets(id, 0)).unwrap();
            if id % 4 == 0 {
                socket.write_all(&packets(id, 1)[..1000]).unwrap();
            } else {
                // What is not taken within this span waits for a buffer.
                socket.set_write_timeout(Some(Duration::from_millis(20))).unwrap();
                let mut packet = 1;
                while packet <= 4 && socket.write_all(&packets(id, packet)).is_ok() {
                    sent += 1;
                    packet += 1;
                }
            }
            sockets.push(socket);
        }
        // Every channel is known, and its beginning was taken.
        let mut begun = 0;
        while begun < 255 {
            let line = tap.lines.recv_timeout(PATIENCE).unwrap();
            assert!(!line.contains("error:"), "{line}");
            begun += u32::from(line.contains("multifd, UUID"));
        }
        // One buffer a direction, and the program itself.
        let (peak, most) = (tap.peak_kib(), 256 * (256 + 4) + (24 << 10));
        assert!(peak <= most, "{peak} KiB, {most} allowed; between: {between}");
        // As the secondary it takes all of it, 380 MiB, and keeps none.
        assert!(between || sent > 700, "{sent} packets");
        // The main connection first: whose secondary closes a channel before that, does not take the image.
        sockets[0].shutdown(Shutdown::Write).unwrap();
        while !tap.lines.recv_timeout(PATIENCE).unwrap().contains("end inside of the first image") {}
        drop((sockets, far));
        let printed = tap.ends(0);
        assert!(!printed.contains("error:"), "{printed}");
    }
}
