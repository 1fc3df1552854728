//! libxl's end: starts a save helper, ours or Xen's, and answers it.
#![allow(unsafe_code)]

use super::arguments::{Command, Fds};
use super::message::{Level, Message, MessageError, read_body};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::CStr;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, ExitStatus, Stdio};
use std::time::Instant;
use thiserror::Error;

/// What libxl does for its helper. What a caller does not provide in [`Command::callbacks`] is not asked for.
pub trait Answers {
    /// A line for the log. `errno` is `u32::MAX` where there is none.
    fn log(&mut self, level: Level, errno: u32, context: &CStr, text: &CStr) {
        let _ = (level, errno, context, text);
    }

    /// How far the work is; 0 of 0 is an event.
    fn progress(&mut self, context: &CStr, doing: &CStr, done: u64, total: u64) {
        let _ = (context, doing, done, total);
    }

    /// Suspends the guest; 1 for success.
    fn suspend(&mut self) -> i32 {
        0
    }

    /// Lets the guest run again; 1 for success.
    fn postcopy(&mut self) -> i32 {
        0
    }

    /// Has the stream for libxl's part of a checkpoint; 1 to go on, on the receiving side 2 to fail over.
    fn checkpoint(&mut self) -> i32 {
        0
    }

    /// Waits until the next checkpoint is due; 1 for success.
    fn wait_checkpoint(&mut self) -> i32 {
        0
    }

    /// Has the device model track its writes, or not; 0 for success.
    fn switch_qemu_logdirty(&mut self, domid: u32, enable: bool) -> i32 {
        let _ = (domid, enable);
        0
    }

    /// The static data is complete; 0 for success.
    fn static_data_done(&mut self, missing: u32) -> i32 {
        let _ = missing;
        0
    }

    /// Where the rings are.
    fn restore_results(&mut self, store_gfn: u64, console_gfn: u64) {
        let _ = (store_gfn, console_gfn);
    }
}

/// What the helper has to say at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// 0 for success, else -1.
    pub retval: i32,
    /// The system's error behind a failure.
    pub errno: i32,
}

/// Why a helper is of no use.
#[derive(Debug, Error)]
pub enum ParentError {
    /// It could not be started.
    #[error("starting the save helper '{program}': {error}")]
    Start {
        /// The program.
        program: String,
        /// The system's error.
        error: io::Error,
    },
    /// The pipe failed.
    #[error("the save helper's pipe: {0}")]
    Pipe(io::Error),
    /// It ended without `complete`.
    #[error("the save helper ended without saying that it has completed")]
    Ended,
    /// It has not completed in time.
    #[error("the save helper was given no more time")]
    TimedOut,
    /// What it says is no message.
    #[error("the save helper: {0}")]
    Message(#[from] MessageError),
}

/// Answers a helper over its pipe until it completes.
///
/// # Errors
/// [`ParentError`]; a source that gives [`io::ErrorKind::TimedOut`] has timed out.
pub fn answer(
    messages: &mut impl Read,
    replies: &mut impl Write,
    libxl: &mut impl Answers,
) -> Result<Completion, ParentError> {
    let mut body = Vec::new();
    loop {
        if !read_body(messages, &mut body).map_err(pipe_error)? {
            return Err(ParentError::Ended);
        }
        let mut completion = None;
        let reply = match Message::parse(&body)? {
            Message::Log { level, errno, context, text } => {
                libxl.log(level, errno, context, text);
                None
            }
            Message::Progress { context, doing, done, total } => {
                libxl.progress(context, doing, done, total);
                None
            }
            Message::RestoreResults { store_gfn, console_gfn } => {
                libxl.restore_results(store_gfn, console_gfn);
                None
            }
            Message::Suspend => Some(libxl.suspend()),
            Message::Postcopy => Some(libxl.postcopy()),
            Message::Checkpoint => Some(libxl.checkpoint()),
            Message::WaitCheckpoint => Some(libxl.wait_checkpoint()),
            Message::SwitchQemuLogdirty { domid, enable } => Some(libxl.switch_qemu_logdirty(domid, enable != 0)),
            Message::StaticDataDone { missing } => Some(libxl.static_data_done(missing)),
            Message::Complete { retval, errno } => {
                completion = Some(Completion { retval, errno });
                Some(0)
            }
        };
        if let Some(reply) = reply {
            match replies.write_all(&reply.to_ne_bytes()).and_then(|()| replies.flush()) {
                // It may have ended on a reply that it was owed from before.
                Err(error) if completion.is_some() && error.kind() == io::ErrorKind::BrokenPipe => {}
                result => result.map_err(pipe_error)?,
            }
        }
        if let Some(completion) = completion {
            return Ok(completion);
        }
    }
}

fn pipe_error(error: io::Error) -> ParentError {
    match error.kind() {
        io::ErrorKind::TimedOut => ParentError::TimedOut,
        io::ErrorKind::UnexpectedEof => ParentError::Ended,
        _ => ParentError::Pipe(error),
    }
}

/// A helper at work. Dropping it ends it by force.
#[derive(Debug)]
pub struct Helper {
    child: Child,
    replies: ChildStdin,
    messages: ChildStdout,
    /// Its exit has been waited for.
    over: bool,
}

impl Helper {
    /// Starts `program` with the arguments of `command`, except that its descriptors are those given here: it inherits
    /// both, and nothing else but stderr.
    ///
    /// # Errors
    /// [`ParentError::Start`].
    pub fn start(
        program: &Path,
        command: &Command,
        stream: BorrowedFd<'_>,
        back: Option<BorrowedFd<'_>>,
    ) -> Result<Self, ParentError> {
        Helper::start_as(std::process::Command::new(program), command, stream, back)
    }

    /// The same with a program that has an environment, or arguments before those of `command`: one that becomes the helper
    /// in its turn.
    ///
    /// # Errors
    /// [`ParentError::Start`].
    pub fn start_as(
        mut starter: std::process::Command,
        command: &Command,
        stream: BorrowedFd<'_>,
        back: Option<BorrowedFd<'_>>,
    ) -> Result<Self, ParentError> {
        let program = starter.get_program().display().to_string();
        let failed = |error| ParentError::Start { program: program.clone(), error };
        // Duplicates have numbers above stderr's, and are closed in any other program started meanwhile.
        let stream = stream.try_clone_to_owned().map_err(failed)?;
        let back = back.map(|back| back.try_clone_to_owned()).transpose().map_err(failed)?;
        let inherited: Vec<RawFd> =
            [Some(&stream), back.as_ref()].into_iter().flatten().map(AsRawFd::as_raw_fd).collect();
        let fds = Fds { stream: stream.as_raw_fd(), back: back.as_ref().map(OwnedFd::as_raw_fd) };
        starter.args(command.with_fds(fds).emit()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let keep = move || {
            for &number in &inherited {
                // SAFETY: `stream` and `back` live until the child has been started, and the child has copies of them
                // under the same numbers.
                fcntl_setfd(unsafe { BorrowedFd::borrow_raw(number) }, FdFlags::empty())?;
            }
            Ok(())
        };
        // SAFETY: between fork and exec the closure makes system calls only; it neither allocates nor locks.
        unsafe { starter.pre_exec(keep) };
        let mut child = starter.spawn().map_err(failed)?;
        drop((stream, back));
        match (child.stdin.take(), child.stdout.take()) {
            (Some(replies), Some(messages)) => Ok(Helper { child, replies, messages, over: false }),
            _ => Err(failed(Errno::PIPE.into())),
        }
    }

    /// Its process id, of no meaning once it has been waited for.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Answers it until it completes, and waits for its end, no longer than until `deadline`.
    ///
    /// # Errors
    /// [`ParentError`]; the helper still runs unless it is [`ParentError::Ended`].
    pub fn answer(
        &mut self,
        libxl: &mut impl Answers,
        deadline: Option<Instant>,
    ) -> Result<(Completion, ExitStatus), ParentError> {
        let mut messages = UntilDeadline { source: &mut self.messages, deadline };
        let completion = answer(&mut messages, &mut self.replies, libxl)?;
        // Its end closes the pipe.
        let mut rest = [0; 64];
        while messages.read(&mut rest).map_err(pipe_error)? > 0 {}
        Ok((completion, self.wait()?))
    }

    /// Waits for its end. Without an answer to `complete`, or with the stream in its way, it may have none.
    ///
    /// # Errors
    /// [`ParentError::Pipe`].
    pub fn wait(&mut self) -> Result<ExitStatus, ParentError> {
        let status = self.child.wait().map_err(ParentError::Pipe)?;
        self.over = true;
        Ok(status)
    }

    /// Asks it to stop (SIGTERM): a save is then called off in good order, and still completes.
    ///
    /// # Errors
    /// [`ParentError::Pipe`].
    pub fn terminate(&self) -> Result<(), ParentError> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).filter(|_| !self.over);
        pid.map_or(Ok(()), |pid| kill_process(pid, Signal::TERM)).map_err(|error| ParentError::Pipe(error.into()))
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        if !self.over {
            // It may have ended by itself; either way nothing is left of it.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// A source that is read until a moment and no longer.
struct UntilDeadline<'a, R> {
    source: &'a mut R,
    deadline: Option<Instant>,
}

impl<R: Read + AsFd> Read for UntilDeadline<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(deadline) = self.deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            match poll(&mut [PollFd::new(&*self.source, PollFlags::IN)], Some(&timeout)) {
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(_) => break,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.source.read(buffer)
    }
}
