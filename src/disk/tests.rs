//! A primary and a keeper in one process, over a socket; and others in the place of either.

use super::error::Error;
use super::folder::{Folder, Stage};
use super::image::Image;
use super::keeper::Keeper;
use super::source::{Limits, Source};
use super::store::Store;
use super::wire::{self, Frame, HEADER_LEN, Hello, MAGIC};
use super::{Device, Mark, source_link};
use crate::transport::{Address, Listener};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const SIZE: usize = 5 << 20;
const NAME: &str = "/dev/nbd0";
/// How long anything may take on a busy machine.
const LONG: Duration = Duration::from_secs(120);

fn mark(session: u64, checkpoint: u64) -> Mark {
    Mark { session, checkpoint }
}

/// Bytes that are different everywhere.
fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..bytes)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

struct Hosts {
    folder: TempDir,
}

impl Hosts {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let mut content = noise(1, SIZE);
        content[1 << 20..3 << 20].fill(0);
        fs::write(folder.path().join("a"), &content).unwrap();
        fs::write(folder.path().join("b"), vec![0xaa; SIZE]).unwrap();
        Hosts { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn link(&self) -> Address {
        Address::Unix(self.path("link"))
    }

    fn content(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    fn keeper(&self, journal: u64) -> Arc<Keeper> {
        let image = Image::open(&self.path("b")).unwrap();
        let store = Store::open(image, Folder::open(&self.path("b.state")).unwrap(), NAME, journal, false).unwrap();
        let keeper = Arc::new(Keeper::new(store, NAME));
        keeper.listen(Listener::bind(&self.link()).unwrap()).unwrap();
        keeper
    }

    fn source(&self, patience: Duration) -> Arc<Source> {
        let image = Arc::new(Image::open(&self.path("a")).unwrap());
        let state = Folder::open(&self.path("a.state")).unwrap();
        let limits = Limits { buffer: 1 << 20, patience };
        let source = Arc::new(Source::new(image, state, NAME, limits, Some(self.link())));
        source_link::start(Arc::clone(&source)).unwrap();
        source
    }
}

/// Waits until the copy is complete.
#[track_caller]
fn sync(source: &Source) {
    let begun = Instant::now();
    let mut last = None;
    while begun.elapsed() < LONG {
        last = Some(source.synced(Duration::from_millis(50)));
        if matches!(last, Some(Ok(100))) {
            return;
        }
        thread::yield_now();
    }
    panic!("not in sync: {last:?}");
}

/// Waits until the connection has ended, and gives why.
#[track_caller]
fn lost(source: &Source) -> String {
    let begun = Instant::now();
    while begun.elapsed() < LONG {
        let figures = source.figures();
        if let (false, Some(trouble)) = (figures.up, figures.trouble) {
            return trouble;
        }
        thread::yield_now();
    }
    panic!("it is there still");
}

#[test]
fn devices_are_of_two_kinds() {
    let name = |behind: &str| Device::of(behind).map(|device| device.name().to_owned());
    for behind in ["/dev/nbd0", "phy:/dev/nbd0", "raw:/dev/nbd0"] {
        assert_eq!(name(behind).as_deref(), Some("/dev/nbd0"));
    }
    assert_eq!(name("raw:nbd:unix:/run/x").as_deref(), Some("nbd:unix:/run/x"));
    assert_eq!(Device::of("nbd:unix:/run/x").unwrap().socket().unwrap(), std::path::Path::new("/run/x"));
    for other in ["", "/dev/nbd", "/dev/nbdx", "/dev/vg/nbd0", "/dev/nbd0p1", "nbd:unix:x", "nbd:host:10809"] {
        assert_eq!(name(other), None, "{other}");
    }
}

#[test]
fn the_copy_is_the_disk_at_each_checkpoint_while_the_guest_writes() {
    let hosts = Hosts::new();
    let keeper = hosts.keeper(64 << 20);
    let source = hosts.source(LONG);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        // Before, while and after the copy is brought into sync.
        let writing = scope.spawn(|| {
            let mut written = 0u64;
            while !stop.load(Ordering::SeqCst) {
                written += 1;
                let offset = written * 12_345 % (SIZE as u64 - 5_000);
                match written % 5 {
                    0 => source.zero(offset, 5_000, true).unwrap(),
                    _ => source.write(offset, noise(written, 3_000)).unwrap(),
                }
            }
            written
        });
        sync(&source);
        stop.store(true, Ordering::SeqCst);
        assert!(writing.join().unwrap() > 0);
    });
    assert!(matches!(source.close(mark(7, 1), 1), Err(Error::Protocol(_))));
    source.begin(7).unwrap();
    let mut at = Vec::new();
    for checkpoint in 1..=4 {
        source.write(checkpoint * 70_000, noise(checkpoint, 2 << 20)).unwrap();
        source.zero(checkpoint * 90_001, 10_000, true).unwrap();
        at.push(hosts.content("a"));
        let seq = source.close(mark(7, checkpoint), 1).unwrap();
        source.write(0, noise(checkpoint + 50, 4_096)).unwrap();
        source.wait(seq, LONG).unwrap();
    }
    // One is left out, as a checkpoint that was refused.
    for checkpoint in [1, 3] {
        assert_eq!(keeper.commit(mark(7, checkpoint)).unwrap(), 1);
        assert_eq!(hosts.content("b"), at[checkpoint as usize - 1], "checkpoint {checkpoint}");
    }
    assert!(matches!(keeper.commit(mark(7, 2)), Err(Error::NotThere { .. })));
    assert!(matches!(keeper.promote(mark(7, 5)), Err(Error::NotThere { .. })));
    keeper.promote(mark(7, 4)).unwrap();
    assert_eq!(hosts.content("b"), at[3]);
    assert!(!lost(&source).is_empty());
    assert!(matches!(source.close(mark(7, 5), 1), Err(Error::Gone(_))));
    source.write(0, vec![1; 100]).unwrap();
    assert_eq!(hosts.content("b"), at[3]);
}

#[test]
fn what_is_kept_stays_until_a_new_protection_and_then_the_rest_is_enough() {
    let hosts = Hosts::new();
    let keeper = hosts.keeper(64 << 20);
    let source = hosts.source(LONG);
    sync(&source);
    source.begin(1).unwrap();
    let seq = source.close(mark(1, 1), 1).unwrap();
    source.wait(seq, LONG).unwrap();
    keeper.commit(mark(1, 1)).unwrap();
    let at = hosts.content("a");
    source.write(5_000, noise(3, 300_000)).unwrap();
    source.leave();
    source.write(400_000, noise(4, 300_000)).unwrap();
    // It connects again, and is told that there is a checkpoint.
    let begun = Instant::now();
    while !source.figures().trouble.is_some_and(|trouble| trouble.contains("is kept here")) {
        assert!(begun.elapsed() < LONG, "{:?}", source.figures());
        thread::yield_now();
    }
    assert_eq!(hosts.content("b"), at);
    let run = keeper.figures().unwrap().state.run;
    source.begin(2).unwrap();
    sync(&source);
    assert_eq!(keeper.figures().unwrap().state.run, run, "all of it was sent again");
    assert_eq!(hosts.content("b"), hosts.content("a"));
    assert!(matches!(keeper.promote(mark(1, 1)), Err(Error::NotThere { .. })));
    // Without a break, too, what was kept of one protection is void in the next.
    for (session, checkpoint) in [(2, 1), (2, 2), (3, 1)] {
        source.begin(session).unwrap();
        source.write(checkpoint * 1_000_000, noise(session, 50_000)).unwrap();
        let seq = source.close(mark(session, checkpoint), 1).unwrap();
        source.wait(seq, LONG).unwrap();
    }
    assert!(matches!(keeper.commit(mark(2, 2)), Err(Error::NotThere { .. })));
    keeper.promote(mark(3, 1)).unwrap();
    assert_eq!(hosts.content("b"), hosts.content("a"));
}

#[test]
fn a_full_journal_ends_the_connection_and_not_the_guest() {
    let hosts = Hosts::new();
    let keeper = hosts.keeper(200_000);
    let source = hosts.source(LONG);
    sync(&source);
    source.begin(1).unwrap();
    let seq = source.close(mark(1, 1), 1).unwrap();
    source.wait(seq, LONG).unwrap();
    let at = hosts.content("a");
    for round in 0..4 {
        source.write(round * 100_000, noise(round, 100_000)).unwrap();
    }
    assert!(lost(&source).contains("journal of 200000 bytes is full"), "{:?}", source.figures());
    assert!(source.close(mark(1, 2), 1).unwrap_err().to_string().contains("full"));
    keeper.promote(mark(1, 1)).unwrap();
    assert_eq!(hosts.content("b"), at);
}

/// A keeper that greets as told, and what it is sent then.
fn greeting(hosts: &Hosts, hello: impl FnOnce(Hello) -> Hello) -> (Arc<Source>, UnixStream) {
    let listener = UnixListener::bind(hosts.path("link")).unwrap();
    let source = hosts.source(Duration::from_millis(300));
    let (mut stream, _) = listener.accept().unwrap();
    // There is no second chance.
    fs::remove_file(hosts.path("link")).unwrap();
    wire::read_magic(&mut stream).unwrap();
    let Some(Frame::Hello(theirs)) = wire::read(&mut stream, 0).unwrap() else { panic!("no greeting") };
    let greeting = Frame::Hello(hello(theirs));
    let (head, rest) = greeting.emit(0);
    stream.write_all(&[&MAGIC[..], &head, rest].concat()).unwrap();
    (source, stream)
}

#[test]
fn a_keeper_that_falls_silent_holds_nobody_up() {
    let hosts = Hosts::new();
    let (source, stream) = greeting(&hosts, |theirs| theirs);
    let begun = Instant::now();
    for round in 0..12u64 {
        source.write(round * 300_000, noise(round, 1 << 20)).unwrap();
    }
    assert!(begun.elapsed() < LONG);
    let trouble = lost(&source);
    assert!(
        trouble.contains("takes no bytes") || trouble.contains("to answer") || trouble.contains("link"),
        "{trouble}"
    );
    drop(stream);
}

#[test]
fn a_keeper_that_says_nonsense_or_has_another_disk_is_left() {
    let hosts = Hosts::new();
    let (source, mut stream) = greeting(&hosts, |theirs| theirs);
    stream.write_all(&[0x55; 100]).unwrap();
    let begun = Instant::now();
    while source.figures().trouble.is_none() {
        assert!(begun.elapsed() < LONG);
        thread::yield_now();
    }
    drop((source, stream));
    let hosts = Hosts::new();
    let (source, _stream) = greeting(&hosts, |theirs| Hello { size: 512, ..theirs });
    let begun = Instant::now();
    while source.figures().trouble.is_none() {
        assert!(begun.elapsed() < LONG);
        thread::yield_now();
    }
    assert!(!source.figures().up);
}

/// What a keeper answers to these bytes, until it ends the connection.
fn answers(hosts: &Hosts, bytes: &[u8]) -> Vec<Frame> {
    let mut stream = UnixStream::connect(hosts.path("link")).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    // It may be closed before all is taken.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all);
    let mut rest = all.strip_prefix(&MAGIC[..]).expect("no magic");
    let mut frames = Vec::new();
    while let Ok(Some(frame)) = wire::read(&mut rest, frames.len() as u64) {
        frames.push(frame);
    }
    frames
}

#[test]
fn a_primary_that_says_nonsense_changes_nothing() {
    let hosts = Hosts::new();
    let keeper = hosts.keeper(1 << 20);
    let source = hosts.source(LONG);
    sync(&source);
    source.begin(1).unwrap();
    let seq = source.close(mark(1, 1), 1).unwrap();
    source.wait(seq, LONG).unwrap();
    // Behind the mark, and before the others come.
    source.write(10_000, noise(9, 70_000)).unwrap();
    let hello = |size, name: &str| Frame::Hello(Hello { flag: false, size, run: 3, name: name.into() });
    let row = |frames: &[Frame]| {
        let mut row = MAGIC.to_vec();
        for (number, frame) in frames.iter().enumerate() {
            let (head, rest) = frame.emit(number as u64);
            row.extend([&head[..], rest].concat());
        }
        row
    };
    let size = SIZE as u64;
    let mut damaged = row(&[hello(size, NAME)]);
    damaged[MAGIC.len() + HEADER_LEN + 3] ^= 1;
    for (bytes, told) in [
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "begins with"),
        (row(&[Frame::Ping]), "for a greeting"),
        (damaged, "check"),
        (row(&[hello(512, NAME)]), "512 bytes"),
        (row(&[hello(size, "/dev/nbd1")]), "/dev/nbd1"),
        (row(&[hello(size, NAME)]), "is kept here"),
    ] {
        let answers = answers(&hosts, &bytes);
        assert!(matches!(&answers[..], [Frame::Refused { text }] if text.contains(told)), "{told}: {answers:?}");
    }
    // None of them has taken the place of the one who is there, or has lost what that one has sent.
    assert!(source.figures().up);
    let seq = source.close(mark(1, 2), 1).unwrap();
    source.wait(seq, LONG).unwrap();
    keeper.promote(mark(1, 2)).unwrap();
    assert_eq!(hosts.content("b"), hosts.content("a"));
    let told = answers(&hosts, &row(&[hello(size, NAME)]));
    assert!(matches!(&told[..], [Frame::Refused { text }] if text.contains("in service")), "{told:?}");
}

#[test]
fn a_frame_of_no_use_ends_the_connection_and_is_named() {
    for (frames, told) in [
        (vec![Frame::Write { offset: SIZE as u64, bytes: vec![1] }], "the disk has"),
        (vec![Frame::Zero { offset: 1, length: u64::MAX }], "the disk has"),
        (vec![Frame::Mark(wire::Point { seq: 1, mark: mark(1, 1), disks: 1 })], "before the copy is complete"),
        (vec![Frame::Held { seq: 1 }], "not a primary's"),
        (vec![Frame::Ping, Frame::Refused { text: "enough".into() }], "enough"),
    ] {
        let hosts = Hosts::new();
        let keeper = hosts.keeper(1 << 20);
        let hello = Frame::Hello(Hello { flag: false, size: SIZE as u64, run: 3, name: NAME.into() });
        let mut row = MAGIC.to_vec();
        for (number, frame) in [hello].iter().chain(&frames).enumerate() {
            let (head, rest) = frame.emit(number as u64);
            row.extend([&head[..], rest].concat());
        }
        let answers = answers(&hosts, &row);
        assert!(matches!(answers.first(), Some(Frame::Hello(_))), "{answers:?}");
        assert!(matches!(answers.last(), Some(Frame::Refused { text }) if text.contains(told)), "{told}: {answers:?}");
        assert_eq!(keeper.figures().unwrap().state.stage, Stage::Empty);
    }
}
