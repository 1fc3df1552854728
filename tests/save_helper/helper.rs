//! A save helper as libxl starts it, over the stand-in, and libxl's side of its pipe.

use crate::control::Control;
use crate::home::{CONSOLE_EVTCHN, Home, Program, STORE_EVTCHN};
use crate::message::Message;
use std::ffi::CStr;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{self, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use xen_replicate::libxc::restore::Rings;
use xen_replicate::save_helper::arguments::{Callbacks, Command, Fds, Flags, Restore, Save, StreamType};
use xen_replicate::save_helper::message::Level;
use xen_replicate::save_helper::parent::{self, Answers, Completion, ParentError};

/// Kinds of streams, by their numbers on the command line.
pub const PLAIN: u32 = 0;
pub const REMUS: u32 = 1;
pub const COLO: u32 = 2;

/// The domains that serve the rings.
pub const STORE_DOMID: u32 = 0;
pub const CONSOLE_DOMID: u32 = 3;

/// The folder that `tests/standin/setup` makes.
fn standin() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/standin/setup");
        let output = process::Command::new(script).stderr(Stdio::inherit()).output().unwrap();
        assert!(output.status.success(), "tests/standin/setup: {}", output.status);
        String::from_utf8(output.stdout).unwrap().trim_end().into()
    })
}

/// What became of a helper.
#[derive(Debug)]
pub struct Outcome {
    pub retval: i32,
    pub messages: Vec<Message>,
}

impl Outcome {
    pub fn logged(&self, words: &str) -> bool {
        self.messages.iter().any(|message| matches!(message, Message::Log { text } if text.contains(words)))
    }

    /// How often the helper said something that answers to a description.
    pub fn count(&self, of: impl Fn(&Message) -> bool) -> usize {
        self.messages.iter().filter(|message| of(message)).count()
    }

    /// The gfns of the xenstore and console rings that a restore told last.
    pub fn results(&self) -> Option<(u64, u64)> {
        self.messages.iter().rev().find_map(|message| match message {
            Message::RestoreResults { store_gfn, console_gfn } => Some((*store_gfn, *console_gfn)),
            _ => None,
        })
    }
}

/// How long a helper may take: one that hangs must not hang the tests.
const PATIENCE: Duration = Duration::from_secs(120);

/// How a helper ended that may do anything.
pub struct Ended {
    pub result: Result<(Completion, ExitStatus), ParentError>,
    pub messages: Vec<Message>,
    /// The most memory that it had when it last logged something, its mappings of the guest's included.
    pub peak_kib: u64,
}

/// A helper that runs.
pub struct Helper {
    helper: parent::Helper,
    control_path: PathBuf,
}

/// The helper of a home, as a program that works on its domain.
pub fn program(home: &Home) -> process::Command {
    let folder = standin();
    let (run, program) = match (home.program, home.xen) {
        (Program::Debians, "4.20") => ("run-13", folder.join("debian-13/usr/lib/xen-4.20/bin/libxl-save-helper")),
        (Program::Debians, _) => ("run", folder.join("debian/usr/lib/xen-4.17/bin/libxl-save-helper")),
        (Program::Ours, _) => ("run", env!("CARGO_BIN_EXE_xen-replicate-save-helper").into()),
    };
    let mut command = process::Command::new(folder.join(run));
    command.arg(program);
    command.env("XEN_STANDIN", home.configuration());
    command
}

/// The domain's rings.
pub fn rings() -> Rings {
    Rings {
        store_evtchn: STORE_EVTCHN as u32,
        store_domid: STORE_DOMID,
        console_evtchn: CONSOLE_EVTCHN as u32,
        console_domid: CONSOLE_DOMID,
    }
}

fn kind_of(kind: u32) -> StreamType {
    [StreamType::Plain, StreamType::Remus, StreamType::Colo][kind as usize]
}

/// The descriptors' numbers are those that they are inherited by.
const FDS: Fds = Fds { stream: 0, back: None };

impl Helper {
    /// Starts a helper to save the domain of a home onto a stream, a file (added to) or a FIFO. `flags`: 1 live, 2 verify.
    pub fn save(home: &Home, stream: &Path, back: Option<&Path>, flags: u32, kind: u32) -> Helper {
        // What libxl passes: suspend and switch_qemu_logdirty; postcopy and checkpoint; wait_checkpoint.
        let callbacks = Callbacks::from_bits_retain(136 + [0, 48, 112][kind as usize]);
        let flags = Flags::from_bits_retain(flags);
        let command = Command::Save(Save { fds: FDS, domid: 1, flags, callbacks, stream: kind_of(kind) });
        let stream = File::options().append(true).create(true).open(stream).unwrap();
        let back = back.map(|back| File::open(back).unwrap());
        Helper::start(home, program(home), &command, &stream, back.as_ref())
    }

    /// Saves a domain, live, with these words for the limits of that.
    pub fn save_within(home: &Home, stream: &Path, words: &str) -> Helper {
        let mut program = program(home);
        program.env(xen_replicate::save_helper::limits::ENVIRONMENT, words);
        Helper::save_by(program, home, stream)
    }

    /// Saves a domain, live, by a program.
    pub fn save_by(program: process::Command, home: &Home, stream: &Path) -> Helper {
        let flags = Flags::from_bits_retain(1);
        let callbacks = Callbacks::from_bits_retain(136);
        let command = Command::Save(Save { fds: FDS, domid: 1, flags, callbacks, stream: StreamType::Plain });
        let stream = File::options().append(true).create(true).open(stream).unwrap();
        Helper::start(home, program, &command, &stream, None)
    }

    /// Starts it to restore the domain of a home.
    pub fn restore(home: &Home, stream: &Path, back: Option<&Path>, kind: u32) -> Helper {
        let source = File::open(stream).unwrap();
        let back = back.map(|back| File::options().write(true).open(back).unwrap());
        Helper::start(home, program(home), &restore_command(kind), &source, back.as_ref())
    }

    /// The same with so many bytes of address space.
    pub fn restore_within(home: &Home, stream: &Path, kind: u32, bytes: u64) -> Helper {
        let whole = program(home);
        let mut limited = process::Command::new("prlimit");
        limited.arg(format!("--as={bytes}")).arg(whole.get_program()).args(whole.get_args());
        limited.envs(whole.get_envs().filter_map(|(key, value)| Some((key, value?))));
        Helper::start(home, limited, &restore_command(kind), &File::open(stream).unwrap(), None)
    }

    fn start(home: &Home, program: process::Command, command: &Command, stream: &File, back: Option<&File>) -> Helper {
        let helper = parent::Helper::start_as(program, command, stream.as_fd(), back.map(AsFd::as_fd)).unwrap();
        Helper { helper, control_path: home.path("control") }
    }

    /// Its process number.
    pub fn id(&self) -> u32 {
        self.helper.id()
    }

    /// Answers the helper until it has completed. What `answer` does not answer (`None`) is answered as libxl does when all is
    /// well: the guest is suspended and resumed, the device model reports to the dirty log.
    pub fn run(self, answer: impl FnMut(&Message, &mut Control) -> Option<i32>) -> Outcome {
        let Ended { result, messages, .. } = self.try_run(PATIENCE, answer);
        let (completion, status) = result.unwrap_or_else(|error| panic!("{error}: {messages:?}"));
        let outcome = Outcome { retval: completion.retval, messages };
        assert!(status.success(), "{status}: {outcome:?}");
        outcome
    }

    /// The same for a helper that may do anything.
    pub fn try_run(mut self, patience: Duration, answer: impl FnMut(&Message, &mut Control) -> Option<i32>) -> Ended {
        let id = self.helper.id();
        let mut libxl =
            Libxl { answer, control: None, control_path: self.control_path, messages: Vec::new(), id, peak_kib: 0 };
        let result = self.helper.answer(&mut libxl, Some(Instant::now() + patience));
        let Libxl { mut messages, peak_kib, .. } = libxl;
        if let Ok((Completion { retval, errno }, _)) = result {
            messages.push(Message::Complete { retval, errno });
        }
        Ended { result, messages, peak_kib }
    }

    /// The same where nothing but the usual is asked, and all goes well.
    pub fn run_well(self) -> Outcome {
        let outcome = self.run(|_, _| None);
        assert_eq!(outcome.retval, 0, "{outcome:?}");
        outcome
    }
}

fn restore_command(kind: u32) -> Command {
    // static_data_done and restore_results; checkpoint; suspend, postcopy and wait_checkpoint.
    let callbacks = Callbacks::from_bits_retain(768 + [0, 32, 120][kind as usize]);
    Command::Restore(Restore { fds: FDS, domid: 1, rings: rings(), callbacks, stream: kind_of(kind) })
}

/// libxl's side, which keeps what it hears.
struct Libxl<F> {
    answer: F,
    control: Option<Control>,
    control_path: PathBuf,
    messages: Vec<Message>,
    id: u32,
    peak_kib: u64,
}

/// The most memory that a process has had.
fn peak_kib(id: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

impl<F: FnMut(&Message, &mut Control) -> Option<i32>> Libxl<F> {
    fn ask(&mut self, message: Message) -> i32 {
        let control = self.control.get_or_insert_with(|| Control::connect(&self.control_path));
        let reply = (self.answer)(&message, control).unwrap_or_else(|| usual(&message, control));
        self.messages.push(message);
        reply
    }
}

impl<F: FnMut(&Message, &mut Control) -> Option<i32>> Answers for Libxl<F> {
    fn log(&mut self, _: Level, _: u32, _: &CStr, text: &CStr) {
        self.peak_kib = peak_kib(self.id).unwrap_or(self.peak_kib);
        self.messages.push(Message::Log { text: text.to_string_lossy().into_owned() });
    }

    fn progress(&mut self, _: &CStr, doing: &CStr, done: u64, total: u64) {
        self.messages.push(Message::Progress { doing: doing.to_string_lossy().into_owned(), done, total });
    }

    fn suspend(&mut self) -> i32 {
        self.ask(Message::Suspend)
    }

    fn postcopy(&mut self) -> i32 {
        self.ask(Message::Postcopy)
    }

    fn checkpoint(&mut self) -> i32 {
        self.ask(Message::Checkpoint)
    }

    fn wait_checkpoint(&mut self) -> i32 {
        self.ask(Message::WaitCheckpoint)
    }

    fn switch_qemu_logdirty(&mut self, _: u32, enable: bool) -> i32 {
        self.ask(Message::SwitchQemuLogdirty { enable })
    }

    fn static_data_done(&mut self, missing: u32) -> i32 {
        self.ask(Message::StaticDataDone { missing })
    }

    fn restore_results(&mut self, store_gfn: u64, console_gfn: u64) {
        self.messages.push(Message::RestoreResults { store_gfn, console_gfn });
    }
}

fn usual(message: &Message, control: &mut Control) -> i32 {
    match message {
        Message::Suspend => {
            control.tell("suspend");
            1
        }
        Message::Postcopy => {
            control.tell("resume");
            1
        }
        Message::SwitchQemuLogdirty { enable } => {
            control.tell(if *enable { "device-log on" } else { "device-log off" });
            0
        }
        Message::StaticDataDone { missing } => {
            assert_eq!(*missing, 0);
            0
        }
        _ => panic!("{message:?} was not expected"),
    }
}
