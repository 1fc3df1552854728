//! What the other side says and must not, and ends that come anywhere: against either driver, byte by byte as libxl writes them.

mod colo_support;

use colo_support::{Kept, Wanted, guest, protect, receive};
use std::cell::RefCell;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::Rc;
use std::time::Duration;
use tempfile::TempDir;
use xen_replicate::colo::secondary::End;
use xen_replicate::host::sim::xl_config;
use xen_replicate::hypervisor::Domain;
use xen_replicate::hypervisor::sim::{Runner, SimDomain};
use xen_replicate::libxl::Saver;
use xen_replicate::libxl::save::Options;
use xen_replicate::remus::Rule;
use xen_replicate::replicate::colo::primary::Ending;
use xen_replicate::replicate::colo::secondary::{Outcome, Trouble};
use xen_replicate::stream::handshake::Message as Handshake;
use xen_replicate::transport::Address;

fn bare() -> Wanted {
    Wanted { bare: true, period: Duration::from_millis(20), ..Wanted::default() }
}

/// A CHECKPOINT_STATE record.
fn say(id: u32) -> Vec<u8> {
    record(5, 4, &[&id.to_le_bytes()[..], &[0; 4]].concat())
}

fn record(type_id: u32, length: u32, body: &[u8]) -> Vec<u8> {
    [&type_id.to_le_bytes(), &length.to_le_bytes(), body].concat()
}

const NEW: u32 = 0;
const SUSPENDED: u32 = 1;
const READY: u32 = 2;
const RESUMED: u32 = 3;

#[derive(Clone, Default)]
struct Sink(Rc<RefCell<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A primary's bytes: the first checkpoint, and the state of a second one behind NEW.
fn bytes() -> (Vec<u8>, Vec<u8>) {
    let sim = guest();
    let mut domain = SimDomain::create(&sim).unwrap();
    let options = Options { config: Some(xl_config(&sim)), ..Options::default() };
    let mut saver = Saver::new(&mut domain, options).unwrap();
    let sink = Sink::default();
    let mut out = saver.begin_colo(&mut domain, sink.clone()).unwrap();
    let mut parts = Vec::new();
    for _ in 0..2 {
        domain.run(3).unwrap();
        domain.suspend().unwrap();
        saver.collect(&mut domain).unwrap();
        let between = saver.send_direct(&domain, out).unwrap();
        parts.push(std::mem::take(&mut *sink.0.borrow_mut()));
        domain.resume().unwrap();
        out = between.out_of_sync().unwrap();
        assert_eq!(std::mem::take(&mut *sink.0.borrow_mut()), say(NEW));
    }
    let round = parts.pop().unwrap();
    (parts.pop().unwrap(), round)
}

fn read(socket: &mut UnixStream, bytes: usize) -> Vec<u8> {
    let mut read = vec![0; bytes];
    socket.read_exact(&mut read).unwrap();
    read
}

/// A secondary behind its first checkpoint, that runs.
struct Secondary {
    socket: UnixStream,
    receiving: std::thread::JoinHandle<Result<Outcome<Runner>, Trouble>>,
    _folder: TempDir,
}

impl Secondary {
    fn new(wanted: &Wanted) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (_, receiving, address) = receive(&folder, wanted, Kept::default());
        let Address::Unix(path) = address else { panic!("{address}") };
        let mut socket = UnixStream::connect(path).unwrap();
        let banner = Handshake::Banner.bytes();
        assert_eq!(read(&mut socket, banner.len()), banner);
        Secondary { socket, receiving, _folder: folder }
    }

    fn ready(wanted: &Wanted, image: &[u8]) -> Self {
        let mut secondary = Secondary::new(wanted);
        secondary.socket.write_all(image).unwrap();
        assert_eq!(read(&mut secondary.socket, 32), [say(READY), say(RESUMED)].concat());
        secondary
    }

    /// Has it stand still for the next state.
    fn new_checkpoint(&mut self) {
        self.socket.write_all(&say(NEW)).unwrap();
        assert_eq!(read(&mut self.socket, 16), say(SUSPENDED));
        let head = read(&mut self.socket, 8);
        assert_eq!(head[..4], 0x0f_u32.to_le_bytes());
        let list = u32::from_le_bytes(head[4..].try_into().unwrap());
        read(&mut self.socket, list as usize);
    }

    fn outcome(self) -> Outcome<Runner> {
        let Secondary { socket, receiving, .. } = self;
        // It may have ended already.
        let _ = socket.shutdown(std::net::Shutdown::Write);
        receiving.join().unwrap().unwrap()
    }

    #[track_caller]
    fn fault(mut self, bytes: &[u8], parts: &[&str]) {
        // It may end before it has read them all.
        let _ = self.socket.write_all(bytes);
        match self.outcome() {
            Outcome::Ended(End::Fault(fault)) => {
                let text = fault.to_string();
                assert!(parts.iter().all(|part| text.contains(part)), "{text}");
            }
            other => panic!("{parts:?}: {other:?}"),
        }
    }
}

#[test]
fn a_secondary_ends_for_what_is_no_message_of_its_step() {
    let (image, round) = bytes();
    let wanted = bare();
    let run = "step: between checkpoints; guest: running";
    let ready = || Secondary::ready(&wanted, &image);
    ready().fault(&say(4), &["number 0x4 is outside 0x0 to 0x3", run]);
    ready().fault(&say(u32::MAX), &["number 0xffffffff", run]);
    ready().fault(&say(READY), &["SVM_READY is of the other direction", "expected NEW", run]);
    ready().fault(&say(SUSPENDED), &["SVM_SUSPENDED is of the other direction", run]);
    ready().fault(&record(5, 12, &[0; 16]), &["type 0x5 with a body of 12 bytes", run]);
    ready().fault(&record(1, 4, &[0; 8]), &["type 0x1 is no sync point", run]);
    // The state before it is asked for.
    ready().fault(&round, &["is no sync point", run]);
    let asked = || {
        let mut secondary = ready();
        secondary.new_checkpoint();
        secondary
    };
    let state = "step: receiving the state; guest: suspended";
    asked().fault(&say(NEW), &["NEW is a duplicate", state]);
    asked().fault(&say(RESUMED), &["SVM_RESUMED is of the other direction", state]);
    asked().fault(&say(9), &["number 0x9", state]);
    let mut damaged = round.clone();
    damaged[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    asked().fault(&damaged, &["the state received is unsound", state]);
    // Behind a whole state, while that is being loaded or when it is.
    let mut secondary = asked();
    let _ = secondary.socket.write_all(&[&round[..], &say(READY)].concat());
    assert!(matches!(secondary.outcome(), Outcome::Ended(End::Fault(_))));
    let mut first = image.clone();
    first[3] ^= 1;
    Secondary::new(&wanted).fault(&first, &["the state received is unsound (step: first image; guest: absent)"]);
}

#[test]
fn an_end_anywhere_is_a_death_and_the_survivor_is_at_one_checkpoint() {
    let (image, round) = bytes();
    let wanted = bare();
    let cuts = |length: usize| {
        let near = 40.min(length);
        (0..near).chain((near..length - near).step_by(length / 24)).chain(length - near..length)
    };
    // Of the first image a copy comes about only when it is whole.
    for cut in cuts(image.len()).step_by(4) {
        let mut secondary = Secondary::new(&wanted);
        secondary.socket.write_all(&image[..cut]).unwrap();
        let outcome = secondary.outcome();
        assert!(matches!(outcome, Outcome::Ended(End::Empty)), "{cut}: {outcome:?}");
    }
    let survivor = |secondary: Secondary, cut: usize| match secondary.outcome() {
        Outcome::Survivor(survivor) => {
            let domain = survivor.domain.stop().unwrap_or_else(|error| panic!("{cut}: {error}"));
            assert!(domain.is_running());
            // These bytes are a primary's that has not looked at the list of dirty pages: behind them the copy is no guest of its.
            if survivor.checkpoint == 1 {
                domain.self_check().unwrap_or_else(|error| panic!("{cut}: {error}"));
            }
            survivor.checkpoint
        }
        other => panic!("{cut}: {other:?}"),
    };
    for cut in 0..16 {
        let mut secondary = Secondary::ready(&wanted, &image);
        secondary.socket.write_all(&say(NEW)[..cut]).unwrap();
        assert_eq!(survivor(secondary, cut), 1);
    }
    for cut in cuts(round.len()).chain([round.len()]) {
        let mut secondary = Secondary::ready(&wanted, &image);
        secondary.new_checkpoint();
        secondary.socket.write_all(&round[..cut]).unwrap();
        assert_eq!(survivor(secondary, cut), 1 + u64::from(cut == round.len()), "{cut} of {}", round.len());
    }
}

/// Plays the secondary of a primary: answers with these bytes, the first ones as soon as there is a stream, the others each when
/// NEW has been said; the last may be followed by its end. Gives how the primary ended and what it said.
fn primary(answers: &[Vec<u8>], ends: bool) -> (Ending, String) {
    primary_of(&Wanted { rule: Rule::Manual, ..bare() }, answers, ends)
}

fn primary_of(wanted: &Wanted, answers: &[Vec<u8>], ends: bool) -> (Ending, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("link");
    let listener = UnixListener::bind(&path).unwrap();
    let (_, protecting, _) = protect(&folder, wanted, Address::Unix(path), Kept::default());
    let (mut socket, _) = listener.accept().unwrap();
    socket.write_all(Handshake::Banner.bytes()).unwrap();
    let mut reading = socket.try_clone().unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        // Checkpoints end with a CHECKPOINT_END record; NEW is all that follows one.
        let mut bytes = vec![0; 1 << 16];
        let mut last = Vec::new();
        while let Ok(got @ 1..) = reading.read(&mut bytes) {
            last.extend_from_slice(&bytes[..got]);
            last.drain(..last.len().saturating_sub(16));
            if last == say(NEW) || last.ends_with(&record(4, 0, &[])) {
                let _ = tell.send(());
            }
        }
    });
    for answer in answers {
        told.recv().unwrap();
        socket.write_all(answer).unwrap();
    }
    if ends {
        socket.shutdown(std::net::Shutdown::Write).unwrap();
    }
    let ended = protecting.join().unwrap().unwrap();
    drop(socket);
    reader.join().unwrap();
    assert!(ended.domain.turn().unwrap().is_running(), "the guest runs on");
    ended.domain.stop().unwrap().self_check().unwrap();
    let texts: Vec<_> = ended.status.notices.iter().map(|notice| notice.text.as_str()).collect();
    (ended.how, texts.join("\n"))
}

#[track_caller]
fn left(answers: &[Vec<u8>], parts: &[&str]) {
    let (how, texts) = primary(answers, false);
    assert_eq!(how, Ending::Unprotected);
    assert!(parts.iter().all(|part| texts.contains(part)), "{parts:?}: {texts}");
}

#[test]
fn a_primarys_guest_runs_on_whatever_the_secondary_says() {
    let load = "step: loading the state";
    left(&[say(RESUMED)], &["SVM_RESUMED is early; expected SVM_READY", load]);
    left(&[say(NEW)], &["NEW is of the other direction; expected SVM_READY", load]);
    left(&[say(4)], &["number 0x4 is outside", load]);
    left(&[record(5, 0, &[])], &["type 0x5 with a body of 0 bytes", load]);
    left(&[record(0x0f, 8, &[0; 8])], &["CHECKPOINT_DIRTY_PFN_LIST is early; expected SVM_READY", load]);
    let up = [say(READY), say(RESUMED)].concat();
    let suspend = "step: suspending the secondary; guest: running";
    left(&[up.clone(), say(READY)], &["SVM_READY is late; expected SVM_SUSPENDED", suspend]);
    left(&[up.clone(), say(RESUMED)], &["SVM_RESUMED is a duplicate; expected SVM_SUSPENDED", suspend]);
    let list = |pfns: &[u64]| {
        let body: Vec<u8> = pfns.iter().flat_map(|pfn| pfn.to_le_bytes()).collect();
        [say(SUSPENDED), record(0x0f, body.len() as u32, &body)].concat()
    };
    let dirty = "step: list of dirty pages; guest: running";
    left(&[up.clone(), list(&[3, 1 << 40])], &["names pfn 0x10000000000", dirty]);
    left(&[up.clone(), [say(SUSPENDED), record(0x0f, 7, &[0; 8])].concat()], &["a body of 7 bytes", dirty]);
    left(
        &[up.clone(), [say(SUSPENDED), say(READY)].concat()],
        &["SVM_READY is early; expected CHECKPOINT_DIRTY_PFN_LIST", dirty],
    );
    left(&[up, list(&[16]), say(SUSPENDED)], &["SVM_SUSPENDED is late; expected SVM_READY", load]);
}

#[test]
fn an_end_anywhere_on_the_back_channel_leaves_the_guest_running() {
    let up = [say(READY), say(RESUMED)].concat();
    let list = [say(SUSPENDED), record(0x0f, 16, &[16, 0, 0, 0, 0, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0, 0])].concat();
    for (before, whole) in [(None, up.clone()), (Some(up), list)] {
        for cut in 0..whole.len() {
            let answers: Vec<_> = before.iter().cloned().chain([whole[..cut].to_vec()]).collect();
            let (how, texts) = primary(&answers, true);
            assert_eq!(how, Ending::Unprotected);
            assert!(texts.contains("the connection to the secondary has ended"), "{cut}: {texts}");
        }
    }
}

#[test]
fn what_does_not_come_in_time_is_not_waited_for() {
    let (image, _) = bytes();
    let wanted = Wanted { answer: Duration::from_millis(50), rule: Rule::Manual, ..bare() };
    // Half an image, and the connection stays open.
    let mut secondary = Secondary::new(&wanted);
    secondary.socket.write_all(&image[..image.len() / 2]).unwrap();
    let Secondary { socket, receiving, .. } = secondary;
    let outcome = receiving.join().unwrap();
    assert!(matches!(outcome, Ok(Outcome::Ended(End::Empty))), "{outcome:?}");
    drop(socket);
    // An image, and no word that it is loaded.
    let (how, texts) = primary_of(&wanted, &[], false);
    assert!(how == Ending::Unprotected && texts.contains("SVM_READY has not come in time"), "{texts}");
}
