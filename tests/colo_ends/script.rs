//! A session small enough to be cut at every byte: two pages of RAM, one device.

use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;
use xen_replicate::tap::recording::{Entry, Recorder};
use xen_replicate::tap::{Direction, Event, Form, Watch, What, answer};
use xen_replicate::transport::{Address, Cancel, Link, Listener};

const JSON: &str =
    r#"{"page_size":4096,"devices":[{"name":"timer","instance_id":0,"fields":[{"name":"a","size":3}]}]}"#;

fn ram(kind: u8, sizes: bool) -> Vec<u8> {
    let mut out = vec![kind, 0, 0, 0, 2];
    if kind == 1 {
        out.extend(b"\x03ram\0\0\0\0\0\0\0\x04");
    }
    if sizes {
        out.extend(0x2004_u64.to_be_bytes());
        out.extend(b"\x06pc.ram");
        out.extend(0x2000_u64.to_be_bytes());
    }
    // A page of zeros.
    out.extend(0x1002_u64.to_be_bytes());
    out.extend(b"\x06pc.ram\0");
    out.extend(0x10_u64.to_be_bytes());
    out.extend([0x7e, 0, 0, 0, 2]);
    out
}

/// The device, with the mark of the end.
pub fn devices() -> Vec<u8> {
    b"\x04\0\0\0\x09\x05timer\0\0\0\0\0\0\0\x01abc\x7e\0\0\0\x09\0".to_vec()
}

pub fn image() -> Vec<u8> {
    // ENABLE_COLO behind the header.
    let mut out = b"QEVM\0\0\0\x03\x08\0\x08\0\0".to_vec();
    out.extend(ram(1, true));
    out.extend(ram(3, false));
    out.extend(devices());
    out.push(6);
    out.extend((JSON.len() as u32).to_be_bytes());
    out.extend(JSON.as_bytes());
    out
}

pub fn word(form: Form, number: u64) -> Vec<u8> {
    let bytes = number.to_be_bytes();
    bytes[if form == Form::FrameV8 { 0 } else { 4 }..].to_vec()
}

/// The numbers of the messages of a round, from ready on, size apart.
pub struct Numbers {
    pub ready: u64,
    pub new: u64,
    pub suspended: u64,
    pub send: u64,
    pub received: u64,
    pub loaded: u64,
}

pub const fn numbers(form: Form) -> Numbers {
    match form {
        Form::FrameV8 => Numbers { ready: 0x46, new: 0x47, suspended: 0x48, send: 0x49, received: 0x4a, loaded: 0x4b },
        _ => Numbers { ready: 0, new: 1, suspended: 2, send: 3, received: 5, loaded: 6 },
    }
}

/// What the primary sends of a checkpoint behind checkpoint-reply, with vmstate-size off by so much.
pub fn checkpoint(form: Form, whole: bool, off: i64) -> Vec<u8> {
    let mut out = word(form, numbers(form).send);
    let blob = [b"QEVM\0\0\0\x03".to_vec(), ram(1, true), ram(3, false), devices()].concat();
    if form == Form::FrameV8 {
        out.extend(blob);
        return out;
    }
    let (before, sized) = if whole { (vec![], blob) } else { ([ram(2, false), vec![0]].concat(), devices()) };
    out.extend(before);
    out.extend(4_u32.to_be_bytes());
    out.extend((sized.len() as u64).wrapping_add_signed(off).to_be_bytes());
    out.extend(sized);
    out
}

/// A side's part of a session: what it sends, and how much it then waits for.
pub type Part = Vec<(Vec<u8>, usize)>;

/// The primary's part, with so many checkpoints.
pub fn primary(form: Form, whole: bool, checkpoints: usize) -> Part {
    let answer = word(form, 0).len();
    let mut part = vec![(image(), answer)];
    for _ in 0..checkpoints {
        part.push((word(form, numbers(form).new), answer));
        part.push((checkpoint(form, whole, 0), 2 * answer));
    }
    part
}

/// A file of such a session.
pub fn recording(form: Form, whole: bool, checkpoints: usize) -> Vec<u8> {
    let Numbers { ready, suspended, received, loaded, .. } = numbers(form);
    let file = Shared::default();
    let mut recorder = Recorder::new(file.clone(), form).unwrap();
    let mut write = |direction, bytes: &[u8]| {
        recorder.write(Entry { connection: 0, direction, end: false, at: Duration::ZERO }, bytes).unwrap();
    };
    let answers = [word(form, suspended), [word(form, received), word(form, loaded)].concat()];
    let answers = [word(form, ready)].into_iter().chain(answers.into_iter().cycle());
    for ((bytes, _), answer) in primary(form, whole, checkpoints).iter().zip(answers) {
        write(Direction::Forward, bytes);
        write(Direction::Back, &answer);
    }
    file.bytes()
}

/// A file in memory that two may hold.
#[derive(Clone, Default)]
pub struct Shared(Arc<Mutex<Vec<u8>>>);

impl Shared {
    pub fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().clone()
    }
}

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A watch that keeps its events.
pub fn watch(form: Form) -> (Watch, Arc<Mutex<Vec<Event>>>) {
    let events = Arc::<Mutex<Vec<Event>>>::default();
    let told = Arc::clone(&events);
    (Watch::new(form, None, Box::new(move |event| told.lock().unwrap().push(event.clone()))).unwrap(), events)
}

/// One end as a link, the other as a socket.
pub fn pair() -> (Link, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let link = Link::from_fds(ours.as_raw_fd(), ours.as_raw_fd(), Cancel::new().unwrap()).unwrap();
    // Nothing here takes as long.
    theirs.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    (link, theirs)
}

/// What has become of a session in which the tap is the secondary.
pub struct Answered {
    pub events: Vec<Event>,
    /// All that it has answered.
    pub answers: Vec<u8>,
}

impl Answered {
    /// The errors, as they are printed.
    pub fn troubles(&self) -> Vec<String> {
        let is = |event: &&Event| matches!(event.what, What::Trouble { .. });
        self.events.iter().filter(is).map(|event| event.to_string()).collect()
    }

    pub fn last_forward(&self) -> &What {
        &self.events.iter().rfind(|event| event.direction == Direction::Forward).unwrap().what
    }
}

/// Plays a primary to the tap as its secondary. Behind its last bytes the primary waits for the end, its own direction being
/// ended if `closes`.
pub fn answered(form: Form, part: &[(Vec<u8>, usize)], closes: bool, patience: Duration) -> Answered {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("tap");
    let listener = Listener::bind(&Address::Unix(path.clone())).unwrap();
    let mut primary = UnixStream::connect(path).unwrap();
    primary.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let (watch, events) = watch(form);
    let tap = thread::spawn(move || answer::answer(listener, form, patience, watch).1);
    let mut answers = Vec::new();
    for (bytes, expected) in part {
        primary.write_all(bytes).unwrap();
        let mut answer = vec![0; *expected];
        if primary.read_exact(&mut answer).is_err() {
            break;
        }
        answers.extend(answer);
    }
    if closes {
        primary.shutdown(std::net::Shutdown::Write).unwrap();
    }
    primary.read_to_end(&mut answers).unwrap();
    tap.join().unwrap().unwrap();
    Answered { events: std::mem::take(&mut events.lock().unwrap()), answers }
}
