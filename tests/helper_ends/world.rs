//! A helper on a thread of this process, with real pipes, and libxl on another: whoever plays it answers the
//! callbacks and has its own copies of the descriptors.

use crate::guest::Guest;
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use xen_replicate::hypervisor::sim::{SimConfig, Snapshot};
use xen_replicate::hypervisor::{DeviceModel, Domain, Error, LogDirty};
use xen_replicate::libxc::precopy::Limits;
use xen_replicate::save_helper::abort::Abort;
use xen_replicate::save_helper::arguments::{Restore, Save};
use xen_replicate::save_helper::callbacks::Outbox;
use xen_replicate::save_helper::message::Level;
use xen_replicate::save_helper::parent::answer;
use xen_replicate::save_helper::*;
use xen_replicate::stream::RecordHeader;
use xen_replicate::stream::libxl::types as xl;
use xen_replicate::stream::writer::RecordWriter;

/// A guest of 1 MiB. A real libxl of Xen 4.17 hands no keys of the device model over, as a rule.
pub fn small(seed: u64) -> SimConfig {
    SimConfig { emulator_xenstore: false, ..SimConfig::small(seed) }
}

/// A guest of 16 MiB on the layout of a PC, with holes.
pub fn big() -> SimConfig {
    SimConfig { emulator_xenstore: false, ..SimConfig::default() }
}

pub fn pipe() -> (File, File) {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    (read.into(), write.into())
}

pub fn save_command(flags: Flags, stream: StreamType) -> Command {
    let back = (stream == StreamType::Colo).then_some(4);
    let callbacks = Callbacks::from_bits_retain(match stream {
        StreamType::Plain => 136,
        StreamType::Remus => 136 + 48,
        StreamType::Colo => 136 + 112,
    });
    Command::Save(Save { fds: Fds { stream: 3, back }, domid: 1, flags, callbacks, stream })
}

pub fn restore_command(stream: StreamType) -> Command {
    let back = (stream == StreamType::Colo).then_some(4);
    let callbacks = Callbacks::from_bits_retain(match stream {
        StreamType::Plain => 768,
        StreamType::Remus => 768 + 32,
        StreamType::Colo => 768 + 8 + 112,
    });
    let rings = Default::default();
    Command::Restore(Restore { fds: Fds { stream: 3, back }, domid: 2, rings, callbacks, stream })
}

/// How a helper ended.
#[derive(Debug, PartialEq, Eq)]
pub struct End {
    pub completion: Completion,
    pub exit: u8,
}

/// Success.
pub const GOOD: End = End { completion: Completion { retval: 0, errno: 0 }, exit: 0 };

pub fn failed(errno: i32) -> End {
    End { completion: Completion { retval: -1, errno }, exit: 0 }
}

pub struct Child {
    pub thread: JoinHandle<u8>,
    pub messages: File,
    pub replies: File,
    /// Comes once it is ready, from a saving one.
    pub abort: mpsc::Receiver<Arc<Abort>>,
}

/// Starts a helper.
pub fn start(command: Command, guest: &Guest, stream: &File, back: Option<&File>) -> Child {
    start_with(command, stream, back, {
        let guest = guest.clone();
        move || Ok(guest)
    })
}

pub fn start_with(
    command: Command,
    stream: &File,
    back: Option<&File>,
    open: impl FnOnce() -> Result<Guest, Error> + Send + 'static,
) -> Child {
    start_within(Limits::default(), command, stream, back, open)
}

/// The same within limits of a live save.
pub fn start_within(
    live: Limits,
    command: Command,
    stream: &File,
    back: Option<&File>,
    open: impl FnOnce() -> Result<Guest, Error> + Send + 'static,
) -> Child {
    let (theirs, replies) = pipe();
    let (messages, ours) = pipe();
    let channels = Channels {
        replies: theirs,
        messages: Outbox::new(ours),
        stream: stream.try_clone().unwrap(),
        back: back.map(|back| back.try_clone().unwrap()),
    };
    let (send, abort) = mpsc::channel();
    let thread = thread::spawn(move || {
        let open = |_: &Command| Ok(Opened { domain: open()?, xen: (4, 17), nr_pfns: None, live });
        serve(&command, channels, open, |abort| {
            abort.into_iter().for_each(|abort| send.send(Arc::clone(abort)).unwrap());
            Ok(())
        })
    });
    Child { thread, messages, replies, abort }
}

impl Child {
    /// Answers it to its end.
    pub fn answer(mut self, libxl: &mut impl Answers) -> End {
        let completion = answer(&mut self.messages, &mut self.replies, libxl).unwrap();
        let mut rest = Vec::new();
        self.messages.read_to_end(&mut rest).unwrap();
        assert!(rest.is_empty(), "the helper goes on behind complete: {rest:?}");
        End { completion, exit: self.thread.join().unwrap() }
    }
}

/// Writes a record of libxl's.
pub fn write_record(file: &mut File, type_id: u32, parts: &[&[u8]]) -> io::Result<()> {
    RecordWriter::new(file).record(type_id, parts)
}

/// Reads a record, byte for byte; `None` where the source ends.
pub fn read_record(file: &mut File) -> Option<(u32, Vec<u8>)> {
    let mut header = [0; 8];
    match file.read_exact(&mut header) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return None,
        result => result.unwrap(),
    }
    let header = RecordHeader::parse(&header).unwrap();
    let mut body = vec![0; header.length as usize + header.padding() as usize];
    match file.read_exact(&mut body) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return None,
        result => result.unwrap(),
    }
    body.truncate(header.length as usize);
    Some((header.type_id, body))
}

/// What the primary was at each checkpoint.
pub type States = Arc<Mutex<Vec<Snapshot>>>;

type Hook<T> = Box<dyn FnMut(&mut T, u32) -> i32 + Send>;

/// libxl of the primary.
pub struct Primary {
    pub guest: Guest,
    pub stream: File,
    pub back: Option<File>,
    pub states: States,
    /// Callbacks and events, in order.
    pub calls: Vec<String>,
    pub log: Vec<String>,
    /// Steps that the guest makes whenever it has the time.
    pub steps: u64,
    pub device_model: Vec<u8>,
    rounds: u32,
    /// Replies to `postcopy`, `checkpoint` and `wait_checkpoint`, after what libxl does for the round given.
    pub on_postcopy: Hook<Primary>,
    pub on_checkpoint: Hook<Primary>,
    pub on_wait: Hook<Primary>,
    pub on_suspend: Hook<Primary>,
    pub on_progress: Hook<Primary>,
}

impl Primary {
    pub fn new(guest: &Guest, stream: &File, back: Option<&File>) -> Self {
        Primary {
            guest: guest.clone(),
            stream: stream.try_clone().unwrap(),
            back: back.map(|back| back.try_clone().unwrap()),
            states: States::default(),
            calls: Vec::new(),
            log: Vec::new(),
            steps: 5,
            device_model: Vec::new(),
            rounds: 0,
            on_postcopy: Box::new(|_, _| 1),
            on_checkpoint: Box::new(|_, _| 1),
            on_wait: Box::new(|_, _| 1),
            on_suspend: Box::new(|_, _| 1),
            on_progress: Box::new(|_, _| 1),
        }
    }

    pub fn run_guest(&self) {
        let mut guest = self.guest.lock();
        if guest.is_running() {
            guest.run(self.steps).unwrap();
        }
    }

    fn hook(&mut self, which: fn(&mut Primary) -> &mut Hook<Primary>) -> i32 {
        let mut hook = std::mem::replace(which(self), Box::new(|_, _| 1));
        let reply = hook(self, self.rounds);
        *which(self) = hook;
        reply
    }

    fn expect_state(&mut self, state: u32) {
        let back = self.back.as_mut().unwrap();
        assert_eq!(read_record(back), Some((xl::CHECKPOINT_STATE, state.to_le_bytes().to_vec())));
    }
}

impl Answers for Primary {
    fn log(&mut self, level: Level, _: u32, _: &CStr, text: &CStr) {
        self.log.push(format!("{level:?} {}", text.to_string_lossy()));
    }

    fn progress(&mut self, _: &CStr, doing: &CStr, done: u64, total: u64) {
        let doing = doing.to_str().unwrap();
        assert!(done <= total);
        if self.calls.last().is_none_or(|last| last != doing) {
            self.calls.push(doing.into());
        }
        self.hook(|primary| &mut primary.on_progress);
    }

    fn suspend(&mut self) -> i32 {
        self.calls.push("suspend".into());
        {
            let mut guest = self.guest.lock();
            guest.suspend().unwrap();
            guest.save_device_model(&mut self.device_model).unwrap();
            self.states.lock().unwrap().push(guest.snapshot().unwrap());
        }
        if self.back.is_some() && self.rounds > 0 {
            self.expect_state(1);
        }
        self.hook(|primary| &mut primary.on_suspend)
    }

    fn postcopy(&mut self) -> i32 {
        self.calls.push("postcopy".into());
        if self.back.is_some() {
            self.expect_state(2);
        }
        self.guest.lock().resume().unwrap();
        self.run_guest();
        if self.back.is_some() {
            self.expect_state(3);
        }
        self.hook(|primary| &mut primary.on_postcopy)
    }

    fn checkpoint(&mut self) -> i32 {
        self.calls.push("checkpoint".into());
        let header = self.guest.lock().emulator().emit();
        let blob = std::mem::take(&mut self.device_model);
        self.rounds += 1;
        let reply = self.hook(|primary| &mut primary.on_checkpoint);
        if reply == 1 {
            write_record(&mut self.stream, xl::EMULATOR_CONTEXT, &[&header, &blob]).unwrap();
            write_record(&mut self.stream, xl::CHECKPOINT_END, &[]).unwrap();
            self.run_guest();
        }
        reply
    }

    fn wait_checkpoint(&mut self) -> i32 {
        self.calls.push("wait_checkpoint".into());
        self.run_guest();
        let reply = self.hook(|primary| &mut primary.on_wait);
        if reply == 1 {
            write_record(&mut self.stream, xl::CHECKPOINT_STATE, &[&[0; 4]]).unwrap();
        }
        reply
    }

    fn switch_qemu_logdirty(&mut self, domid: u32, enable: bool) -> i32 {
        assert_eq!(domid, 1);
        self.calls.push(format!("switch_qemu_logdirty {enable}"));
        self.guest.lock().set_device_model_log_dirty(enable).unwrap();
        0
    }
}

/// libxl of the secondary.
pub struct Secondary {
    pub guest: Guest,
    pub stream: File,
    pub back: Option<File>,
    /// The primary's, to compare with before the guest runs in COLO.
    pub states: Option<States>,
    pub calls: Vec<String>,
    pub results: Vec<(u64, u64)>,
    pub checkpoints: usize,
    pub compared: usize,
    pub static_data_reply: i32,
    started: bool,
}

impl Secondary {
    pub fn new(guest: &Guest, stream: &File, back: Option<&File>) -> Self {
        Secondary {
            guest: guest.clone(),
            stream: stream.try_clone().unwrap(),
            back: back.map(|back| back.try_clone().unwrap()),
            states: None,
            calls: Vec::new(),
            results: Vec::new(),
            checkpoints: 0,
            compared: 0,
            static_data_reply: 0,
            started: false,
        }
    }

    fn tell_state(&mut self, state: u32) {
        // The primary may be dead.
        let _ = write_record(self.back.as_mut().unwrap(), xl::CHECKPOINT_STATE, &[&state.to_le_bytes()]);
    }
}

impl Answers for Secondary {
    fn checkpoint(&mut self) -> i32 {
        self.calls.push("checkpoint".into());
        let mut blob = Vec::new();
        loop {
            match read_record(&mut self.stream) {
                Some((xl::EMULATOR_CONTEXT, body)) => blob = body[8..].to_vec(),
                Some((xl::CHECKPOINT_END, body)) if body.is_empty() => break,
                Some(other) => panic!("{other:?}"),
                None => return 2,
            }
        }
        self.guest.lock().load_device_model(&blob).unwrap();
        self.checkpoints += 1;
        1
    }

    fn postcopy(&mut self) -> i32 {
        self.calls.push("postcopy".into());
        if let Some(states) = &self.states {
            let states = states.lock().unwrap();
            assert_eq!(self.guest.lock().diff(&states[self.checkpoints - 1], 5).unwrap(), []);
            self.compared += 1;
        }
        self.tell_state(2);
        {
            let mut guest = self.guest.lock();
            if std::mem::replace(&mut self.started, true) {
                guest.resume().unwrap();
            } else {
                guest.enable_log_dirty().unwrap();
                guest.set_device_model_log_dirty(true).unwrap();
                guest.unpause().unwrap();
            }
            // Not what the primary does meanwhile.
            guest.run(23).unwrap();
        }
        self.tell_state(3);
        1
    }

    fn wait_checkpoint(&mut self) -> i32 {
        self.calls.push("wait_checkpoint".into());
        match read_record(&mut self.stream) {
            Some((xl::CHECKPOINT_STATE, body)) if body == [0; 4] => 1,
            Some(other) => panic!("{other:?}"),
            None => 2,
        }
    }

    fn suspend(&mut self) -> i32 {
        self.calls.push("suspend".into());
        self.guest.lock().suspend().unwrap();
        self.tell_state(1);
        1
    }

    fn static_data_done(&mut self, missing: u32) -> i32 {
        self.calls.push(format!("static_data_done {missing}"));
        self.static_data_reply
    }

    fn restore_results(&mut self, store_gfn: u64, console_gfn: u64) {
        self.calls.push("restore_results".into());
        self.results.push((store_gfn, console_gfn));
    }
}
