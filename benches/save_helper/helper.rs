//! A save helper as libxl starts it, theirs or ours.

use crate::Result;
use crate::home::{Home, Mappings};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};
use xen_replicate::libxc::restore::Rings;
use xen_replicate::save_helper::arguments::{Restore, Save};
use xen_replicate::save_helper::{Answers, Callbacks, Fds, Flags, StreamType, parent};

/// Whose helper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// Debian's `libxl-save-helper`.
    Debians,
    /// This project's.
    Ours,
}

impl Program {
    /// The file that it saves to, for [`Homes::stream`](crate::home::Homes::stream).
    pub const fn file(self) -> &'static str {
        match self {
            Program::Debians => "theirs",
            Program::Ours => "ours",
        }
    }
}

/// The stand-in with Debian's programs.
pub struct Tools {
    folder: PathBuf,
    mappings: Mappings,
}

/// How the stream is opened: as descriptor 3, before the shell becomes the helper.
#[derive(Debug, Clone, Copy)]
pub enum Stream<'a> {
    /// A file to be written over, which keeps its memory.
    Over(&'a Path),
    /// A pipe or device to be written.
    To(&'a Path),
    /// To be read.
    From(&'a Path),
}

impl Tools {
    /// Has the stand-in made, and finds it.
    pub fn set_up() -> Result<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/standin/setup");
        let output = Command::new(script).stderr(Stdio::inherit()).output()?;
        if !output.status.success() {
            return Err(format!("tests/standin/setup: {}", output.status).into());
        }
        Ok(Tools { folder: String::from_utf8(output.stdout)?.trim_end().into(), mappings: Mappings::AsAsked })
    }

    /// The same, with mappings that cost nothing.
    pub fn with_kept_mappings(&self) -> Self {
        Tools { folder: self.folder.clone(), mappings: Mappings::Kept }
    }

    /// Starts a helper to save the domain of a home.
    pub fn save(&self, program: Program, home: &Home, stream: Stream<'_>, kind: StreamType) -> Result<Running> {
        let checkpoints = Callbacks::POSTCOPY | Callbacks::CHECKPOINT;
        let (flags, more) = match kind {
            StreamType::Plain => (Flags::empty(), Callbacks::empty()),
            _ => (Flags::LIVE, checkpoints),
        };
        let callbacks = Callbacks::SUSPEND | Callbacks::SWITCH_QEMU_LOGDIRTY | more;
        let save = Save { fds: Fds { stream: 3, back: None }, domid: 1, flags, callbacks, stream: kind };
        self.start(program, home, stream, &xen_replicate::save_helper::Command::Save(save).emit())
    }

    /// Starts a helper to restore into the domain of a home.
    pub fn restore(&self, program: Program, home: &Home, stream: Stream<'_>) -> Result<Running> {
        let restore = Restore {
            fds: Fds { stream: 3, back: None },
            domid: 1,
            rings: Rings { store_evtchn: 21, console_evtchn: 22, ..Rings::default() },
            callbacks: Callbacks::STATIC_DATA_DONE | Callbacks::RESTORE_RESULTS,
            stream: StreamType::Plain,
        };
        self.start(program, home, stream, &xen_replicate::save_helper::Command::Restore(restore).emit())
    }

    fn start(&self, program: Program, home: &Home, stream: Stream<'_>, arguments: &[String]) -> Result<Running> {
        let (redirection, path) = match stream {
            Stream::Over(path) => ("<>", path),
            Stream::To(path) => (">", path),
            Stream::From(path) => ("<", path),
        };
        let helper = match program {
            Program::Debians => self.folder.join("debian/usr/lib/xen-4.17/bin/libxl-save-helper"),
            Program::Ours => env!("CARGO_BIN_EXE_xen-replicate-save-helper").into(),
        };
        let mut command = Command::new("sh");
        command.args(["-c", &format!(r#"exec 3{redirection}"$1"; shift; exec "$@""#), "sh"]).arg(path);
        command
            .arg(self.folder.join("run"))
            .arg(helper)
            .args(arguments)
            .env("XEN_STANDIN", home.configuration(self.mappings));
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        Ok(Running { child })
    }
}

/// A helper that runs. Dropping it ends it by force.
pub struct Running {
    child: Child,
}

impl Running {
    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Answers it for a guest that stands still.
    pub fn finish(self) -> Result<Time> {
        let mut libxl = Still::new(&self);
        self.answer(&mut libxl)
    }

    /// Answers it until it completes; gives the time from then back to what `libxl` takes for the start. Waits for its end, which
    /// is not part of the time: the stand-in puts its domain down there.
    pub fn answer(mut self, libxl: &mut impl Timed) -> Result<Time> {
        let (Some(mut messages), Some(pipe)) = (self.child.stdout.take(), self.child.stdin.take()) else {
            return Err("no pipe".into());
        };
        let mut replies = Replies { pipe, pid: self.id(), last: None };
        let completion = parent::answer(&mut messages, &mut replies, libxl)?;
        let end = replies.last;
        if completion.retval != 0 {
            return Err(format!("the helper has failed: {completion:?}: {}", libxl.complaint()).into());
        }
        std::io::copy(&mut messages, &mut std::io::sink())?;
        let status = self.child.wait()?;
        if !status.success() {
            return Err(format!("the helper has ended with {status}").into());
        }
        let (Some(start), Some(end)) = (libxl.started(), end) else { return Ok(Time::default()) };
        Ok(Time { wall: end.wall.duration_since(start.wall), cpu: end.cpu.saturating_sub(start.cpu) })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended where all went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How long something took, by the clock and of the helper's processor time.
#[derive(Debug, Clone, Copy, Default)]
pub struct Time {
    /// By the clock.
    pub wall: Duration,
    /// What its threads ran, in the kernel too.
    pub cpu: Duration,
}

/// A moment in a helper's life.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    wall: Instant,
    cpu: Duration,
}

impl Moment {
    /// Now. The helper must be waiting, or its processor time is that of a moment ago.
    pub fn now(pid: u32) -> Moment {
        let mut nanoseconds = 0;
        for thread in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            // A thread that has ended meanwhile is none of those that matter.
            let times = std::fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
            nanoseconds += times.split(' ').next().and_then(|ran| ran.parse::<u64>().ok()).unwrap_or(0);
        }
        Moment { wall: Instant::now(), cpu: Duration::from_nanos(nanoseconds) }
    }
}

/// The pipe to a helper, which waits while it has not got its reply: the last is the one to `complete`.
struct Replies {
    pipe: ChildStdin,
    pid: u32,
    last: Option<Moment>,
}

impl Write for Replies {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.last = Some(Moment::now(self.pid));
        self.pipe.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.pipe.flush()
    }
}

/// Who answers and keeps the time.
pub trait Timed: Answers {
    /// When the time began.
    fn started(&self) -> Option<Moment>;

    /// The last thing that the helper said was wrong.
    fn complaint(&self) -> &str;
}

/// libxl for a guest that stands still: the time is from the only question that there is, whose answer costs nothing.
#[derive(Debug)]
pub struct Still {
    pid: u32,
    started: Option<Moment>,
    complaint: String,
}

impl Still {
    /// For this helper.
    pub fn new(helper: &Running) -> Still {
        Still { pid: helper.id(), started: None, complaint: String::new() }
    }
}

impl Answers for Still {
    fn log(
        &mut self,
        level: xen_replicate::save_helper::message::Level,
        _: u32,
        _: &std::ffi::CStr,
        text: &std::ffi::CStr,
    ) {
        if level >= xen_replicate::save_helper::message::Level::Error {
            self.complaint = text.to_string_lossy().into_owned();
        }
    }

    fn suspend(&mut self) -> i32 {
        self.started = Some(Moment::now(self.pid));
        1
    }

    fn static_data_done(&mut self, _missing: u32) -> i32 {
        self.started = Some(Moment::now(self.pid));
        0
    }
}

impl Timed for Still {
    fn started(&self) -> Option<Moment> {
        self.started
    }

    fn complaint(&self) -> &str {
        &self.complaint
    }
}
