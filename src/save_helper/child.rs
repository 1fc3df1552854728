//! The helper as a process: from a command line to an exit code.
//!
//! Whatever happens once libxl can be spoken to, it hears a line for its log and then `complete`, and the process ends
//! with 0. It ends with 254 when libxl is gone, and with 255 when the command line is no use.
#![allow(unsafe_code)]

use super::abort::{self, Abort, Waiting};
use super::arguments::{Command, Restore, Save, StreamType};
use super::callback_error::CallbackError;
use super::callbacks::{Libxl, Outbox, PROGRAM, PipeLog};
use super::failure::Failure;
use super::message::Level;
use super::supervised::Supervisor;
use super::{restore, save};
use crate::hypervisor::{RestoreDomain, SaveDomain};
use crate::libxc::precopy::Limits;
use crate::libxc::restore::Options;
use rustix::io::{Errno, fcntl_getfd};
use rustix::pipe::{fcntl_getpipe_size, fcntl_setpipe_size};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::process::ExitCode;
use std::sync::Arc;

/// Exit code when libxl can no longer be spoken to.
pub const EXIT_LIBXL_GONE: u8 = 254;
/// Exit code for a command line that is no use.
pub const EXIT_ARGUMENTS: u8 = 255;

/// A domain of some hypervisor.
#[derive(Debug)]
pub struct Opened<D> {
    /// The domain.
    pub domain: D,
    /// The hypervisor's version, major and minor, for the domain header.
    pub xen: (u32, u32),
    /// Bound for the pfns of a stream to restore, where the empty domain does not say itself how far its memory may
    /// reach ([`Options::nr_pfns`]).
    pub nr_pfns: Option<u64>,
    /// When the rounds of a live save end.
    pub live: Limits,
}

/// Everything that the helper inherits.
#[derive(Debug)]
pub struct Channels {
    /// libxl's replies: stdin.
    pub replies: File,
    /// Messages to libxl: stdout.
    pub messages: Outbox<File>,
    /// The stream.
    pub stream: File,
    /// The back channel.
    pub back: Option<File>,
}

/// The whole program. `arguments` are those behind its name; `open` gives the domain of a command.
pub fn child_main<D, I, O>(arguments: I, open: O) -> ExitCode
where
    D: SaveDomain + RestoreDomain,
    I: IntoIterator<Item = OsString>,
    O: FnOnce(&Command) -> Result<Opened<D>, Failure>,
{
    let arguments: Vec<_> = arguments.into_iter().map(|argument| argument.to_string_lossy().into_owned()).collect();
    let command = match Command::parse(&arguments) {
        Ok(command) => command,
        Err(error) => return refuse(&error),
    };
    let (replies, messages) = match own(io::stdin().as_fd()).and_then(|stdin| Ok((stdin, own(io::stdout().as_fd())?))) {
        Ok((stdin, stdout)) => (stdin, Outbox::new(stdout)),
        Err(error) => return refuse(&format!("stdin and stdout: {error}")),
    };
    // No other logger is set in this program; should one be, then it has the lines.
    if log::set_boxed_logger(Box::new(PipeLog(messages.clone()))).is_ok() {
        log::set_max_level(log::LevelFilter::Debug);
    }
    let fds = command.fds();
    let taken = take(fds.stream).and_then(|stream| Ok((stream, fds.back.map(take).transpose()?)));
    let (stream, back) = match taken {
        Ok((stream, back)) => {
            widen(&stream);
            (stream, back)
        }
        Err(failure) => {
            let replies = Waiting::new(replies, None);
            let mut libxl = Libxl::new(replies, messages, command.callbacks(), None);
            return ExitCode::from(finish(&mut libxl, &command, Err(failure)));
        }
    };
    let channels = Channels { replies, messages, stream, back };
    ExitCode::from(serve(&command, channels, open, |abort| match abort {
        Some(abort) => abort.on_sigterm(),
        None => abort::default_sigterm(),
    }))
}

/// Does what `command` says; gives the exit code. `on_sigterm` has SIGTERM call off a save, or is told that there is
/// nothing to call off.
pub fn serve<D, O>(
    command: &Command,
    channels: Channels,
    open: O,
    on_sigterm: impl FnOnce(Option<&Arc<Abort>>) -> io::Result<()>,
) -> u8
where
    D: SaveDomain + RestoreDomain,
    O: FnOnce(&Command) -> Result<Opened<D>, Failure>,
{
    let Channels { replies, messages, stream, back } = channels;
    let doing = match command {
        Command::Save(_) => "starting save",
        Command::Restore(_) => "starting restore",
    };
    // Should libxl be gone already, then that shows at the first question.
    let _ = messages.log(Level::Debug, 0, PROGRAM, doing);
    let signal = |error| Failure::Os { what: "preparing for SIGTERM", error };
    match command {
        Command::Save(save) => {
            let stream = Arc::new(stream);
            let prepared = Abort::new(Arc::clone(&stream)).and_then(|abort| {
                on_sigterm(Some(&abort))?;
                Ok(abort)
            });
            let (abort, failed) = match prepared {
                Ok(abort) => (Some(abort), None),
                Err(error) => (None, Some(signal(error))),
            };
            let mut libxl = Libxl::new(Waiting::new(replies, abort.clone()), messages, save.callbacks, abort.clone());
            let result = match failed {
                Some(failure) => Err(failure),
                None => run_save(command, save, &mut libxl, stream, back.map(|back| Waiting::new(back, abort)), open),
            };
            finish(&mut libxl, command, result)
        }
        Command::Restore(restore) => {
            let mut libxl = Libxl::new(Waiting::new(replies, None), messages, restore.callbacks, None);
            let result = match on_sigterm(None) {
                Err(error) => Err(signal(error)),
                Ok(()) => run_restore(command, restore, &mut libxl, stream, back, open),
            };
            finish(&mut libxl, command, result)
        }
    }
}

type Ours = Libxl<Waiting<File>, File>;

fn run_save<D: SaveDomain>(
    command: &Command,
    save: &Save,
    libxl: &mut Ours,
    stream: Arc<File>,
    back: Option<Waiting<File>>,
    open: impl FnOnce(&Command) -> Result<Opened<D>, Failure>,
) -> Result<(u64, u64), Failure> {
    let Opened { mut domain, xen, live, .. } = open(command)?;
    let ended = save::save(&mut domain, libxl, stream, back, save, xen, live)?;
    log::debug!("save: {ended:?}");
    Ok((0, 0))
}

fn run_restore<D: RestoreDomain>(
    command: &Command,
    restore: &Restore,
    libxl: &mut Ours,
    stream: File,
    back: Option<File>,
    open: impl FnOnce(&Command) -> Result<Opened<D>, Failure>,
) -> Result<(u64, u64), Failure> {
    let Opened { mut domain, nr_pfns, .. } = open(command)?;
    let options = Options { nr_pfns, rings: restore.rings, ..Options::default() };
    let supervisor = Supervisor::of_environment();
    let restored = restore::restore_supervised(&mut domain, libxl, stream, back, restore, options, supervisor)?;
    match restored.verified {
        Some(found) if found.different > 0 => {
            log::warn!("VERIFY: {} of {} pages differ", found.different, found.pages);
        }
        Some(found) => log::info!("VERIFY: {} pages are equal", found.pages),
        None => {}
    }
    Ok(restored.rings)
}

/// Tells libxl how it ended; gives the exit code.
fn finish(libxl: &mut Ours, command: &Command, result: Result<(u64, u64), Failure>) -> u8 {
    let (rings, retval, errno) = match &result {
        Ok(rings) => (*rings, 0, 0),
        Err(failure) => {
            let what = if matches!(command, Command::Save(_)) { "Save" } else { "Restore" };
            let kind = match command.stream() {
                StreamType::Plain => "",
                StreamType::Remus => " (Remus)",
                StreamType::Colo => " (COLO)",
            };
            log::error!("{what}{kind} of domain {} failed: {}", command.domid(), failure.story());
            ((0, 0), -1, failure.errno())
        }
    };
    if matches!(result, Err(Failure::Libxl(CallbackError::Gone(_)))) {
        return EXIT_LIBXL_GONE;
    }
    let told = match command {
        // libxl waits for this even where there is nothing to say.
        Command::Restore(_) => libxl.restore_results(rings.0, rings.1),
        Command::Save(_) => Ok(()),
    };
    match told.and_then(|()| libxl.complete(retval, errno)) {
        Ok(()) => 0,
        Err(_) => EXIT_LIBXL_GONE,
    }
}

fn refuse(error: &(impl std::fmt::Display + ?Sized)) -> ExitCode {
    let program = PROGRAM.to_string_lossy();
    eprintln!("{program}: {error}");
    eprintln!("{program}: libxl starts this program, see LIBXL_SAVE_HELPER; it is of no use by itself");
    ExitCode::from(EXIT_ARGUMENTS)
}

/// Bytes that a pipe is to hold: what Linux lets everybody have.
const PIPE_SIZE: usize = 1 << 20;

/// Has a stream that is a pipe hold more: its two ends wait for each other less often. A pipe may already hold more, and one
/// that cannot does well enough; so do a file and a socket.
fn widen(stream: &File) {
    if fcntl_getpipe_size(stream).is_ok_and(|size| size < PIPE_SIZE) {
        let _ = fcntl_setpipe_size(stream, PIPE_SIZE);
    }
}

fn own(fd: BorrowedFd<'_>) -> io::Result<File> {
    fd.try_clone_to_owned().map(File::from)
}

/// A descriptor that libxl has left open for us.
fn take(number: i32) -> Result<File, Failure> {
    let unusable = |error: Errno| Failure::Os { what: "an inherited descriptor", error: error.into() };
    if number <= 2 {
        return Err(unusable(Errno::BADF));
    }
    // SAFETY: only used to ask whether there is such a descriptor.
    let probe = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl_getfd(probe).map_err(unusable)?;
    // SAFETY: it is open, it was there when this program started (it is named on the command line), and the command
    // line is the only place that it is taken from, once.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(number) }))
}
