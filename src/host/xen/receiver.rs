//! The stock `xl migrate-receive -r`, fed by this program: libxl builds the domain, this program decides what it may see and when it
//! shall take over.
//!
//! Whatever ends the stream makes xl fail over, so our save helper is inside, under supervision: without the file that permits it, the
//! end of the stream is no failover but an error, and libxl destroys what it has built. That holds for the death of this program too.
//!
//! It is another process, and may hang or be stopped: each wait for it ends at a deadline, with an error that says so. One that does not
//! take over in time is killed with all that it has started, so that it cannot start a second copy of the domain later.
#![forbid(unsafe_code)]

use crate::save_helper::supervised::{Applied, ENVIRONMENT};
use crate::stream::handshake::Message;
use crate::toolstack::command;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::ioctl_fionbio;
use rustix::process::{Pid, Signal, kill_process_group};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// What tells xl-plugin/xl that the stock xl is meant. Else it would run this program in the place of that.
const STOCK: (&str, &str) = ("XEN_REPLICATE_XL", "stock");

/// How long a receiver is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waits {
    /// Until it has begun, or applied a checkpoint.
    pub answer: Duration,
    /// Until it has taken over.
    pub take_over: Duration,
    /// Until it takes something of what it is given.
    pub feed: Duration,
    /// Until it has destroyed its domain, once its stream has ended.
    pub end: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        let (long, short) = (Duration::from_secs(120), Duration::from_secs(30));
        Waits { answer: long, take_over: long, feed: short, end: short }
    }
}

/// How to run it.
#[derive(Debug, Clone)]
pub struct Way {
    /// The command, for sh.
    pub command: String,
    /// This project's save helper.
    pub helper: PathBuf,
    /// How long it is waited for.
    pub waits: Waits,
}

/// A receiver that is running.
#[derive(Debug)]
pub struct Receiver {
    child: Child,
    stream: Option<ChildStdin>,
    /// Until it is dropped.
    back: Option<ChildStdout>,
    /// Where the file that permits a failover would be.
    folder: TempDir,
    waits: Waits,
}

impl Receiver {
    /// Starts it, and waits until it says that it is ready.
    ///
    /// # Errors
    /// It cannot be run, or says something else.
    pub fn start(way: &Way) -> io::Result<Self> {
        if !way.helper.is_file() {
            let text = format!("the save helper {} is not there", way.helper.display());
            return Err(io::Error::new(ErrorKind::NotFound, text));
        }
        let folder = tempfile::Builder::new().prefix("xen-replicate-").tempdir()?;
        let mut child = Command::new("/bin/sh")
            .args(["-c", &format!("exec {}", way.command)])
            .env("LIBXL_SAVE_HELPER", &way.helper)
            .env(ENVIRONMENT, permit(folder.path()))
            .env(STOCK.0, STOCK.1)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let (Some(stream), Some(back)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(ErrorKind::BrokenPipe.into());
        };
        ioctl_fionbio(&stream, true)?;
        let (stream, back) = (Some(stream), Some(back));
        let mut receiver = Receiver { child, stream, back, folder, waits: way.waits };
        let expected = Message::Banner.bytes();
        let mut banner = vec![0; expected.len()];
        receiver.read(|back| back.read_exact(&mut banner))?;
        if banner != expected {
            let said = String::from_utf8_lossy(&banner).into_owned();
            return Err(io::Error::new(ErrorKind::InvalidData, format!("{} says {said:?}", way.command)));
        }
        Ok(receiver)
    }

    /// Gives it bytes of the stream.
    ///
    /// # Errors
    /// It does not read any more, or takes nothing for too long.
    pub fn feed(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let Some(stream) = &mut self.stream else { return Err(ErrorKind::BrokenPipe.into()) };
            match stream.write(rest) {
                Ok(taken) => rest = rest.get(taken..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if !ready(&PollFd::new(stream, PollFlags::OUT), self.waits.feed)? {
                        return Err(self.hangs("has taken nothing", self.waits.feed));
                    }
                }
                Err(error) => return Err(self.ended(error)),
            }
        }
        Ok(())
    }

    /// Waits until its domain is at the next checkpoint.
    ///
    /// # Errors
    /// It has ended, or takes too long.
    pub fn applied(&mut self) -> io::Result<Applied> {
        self.read(Applied::read)
    }

    /// Has it take over, and waits until its domain runs.
    ///
    /// # Errors
    /// It did not succeed. One that hangs is killed: it does not take over later, but what it has built is still there.
    pub fn fail_over(mut self) -> io::Result<()> {
        File::create(permit(self.folder.path()))?;
        self.stream = None;
        match command::wait(&mut self.child, self.waits.take_over)? {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(unsuccessful(status)),
            None => {
                let error = self.hangs("has not taken over", self.waits.take_over);
                // It may be about to look for it.
                let _ = std::fs::remove_file(permit(self.folder.path()));
                command::kill(&mut self.child);
                Err(io::Error::new(error.kind(), format!("{error}; it was killed")))
            }
        }
    }

    /// What to say of one that does nothing.
    fn hangs(&self, what: &str, patience: Duration) -> io::Error {
        let pid = self.child.id();
        let state = match state(pid) {
            Some('T' | 't') => format!(": process {pid} is STOPPED, `kill -CONT -{pid}` lets it go on"),
            Some(state) => format!(" (process {pid}, state {state})"),
            None => String::new(),
        };
        io::Error::new(ErrorKind::TimedOut, format!("xl migrate-receive {what} for {patience:?}{state}"))
    }

    fn read<T>(&mut self, read: impl FnOnce(&mut ChildStdout) -> io::Result<T>) -> io::Result<T> {
        let Some(back) = &mut self.back else { return Err(ErrorKind::BrokenPipe.into()) };
        if !ready(&PollFd::new(back, PollFlags::IN), self.waits.answer)? {
            return Err(self.hangs("has said nothing", self.waits.answer));
        }
        let Some(back) = &mut self.back else { return Err(ErrorKind::BrokenPipe.into()) };
        read(back).map_err(|error| self.ended(error))
    }

    /// The same error, or how it ended where that is why.
    fn ended(&mut self, error: io::Error) -> io::Error {
        if !matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof) {
            return error;
        }
        self.stream = None;
        match command::wait(&mut self.child, self.waits.end) {
            Ok(Some(status)) => unsuccessful(status),
            Ok(None) | Err(_) => error,
        }
    }
}

impl Drop for Receiver {
    /// Without a permit the end of its stream has it destroy its domain. One that is stopped is let go on for that; one that hangs is
    /// killed.
    fn drop(&mut self) {
        self.stream = None;
        self.back = None;
        if let Ok(Some(_)) = self.child.try_wait() {
            return;
        }
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // It may have ended meanwhile.
            let _ = kill_process_group(group, Signal::CONT);
        }
        match command::wait(&mut self.child, self.waits.end) {
            Ok(Some(status)) => log::debug!("xl migrate-receive: {status}"),
            Ok(None) => {
                log::error!(
                    "{}; it is killed, `xl list` shows what it leaves",
                    self.hangs("has not ended", self.waits.end)
                );
                command::kill(&mut self.child);
            }
            Err(error) => log::warn!("xl migrate-receive: {error}"),
        }
    }
}

/// A process' state, as `ps` has it.
fn state(pid: u32) -> Option<char> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(')')?.1.trim_start().chars().next()
}

/// Waits until a descriptor is ready; false where it is not in time.
fn ready(fd: &PollFd<'_>, patience: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [fd.clone()], Some(&left)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn permit(folder: &Path) -> PathBuf {
    folder.join("fail-over")
}

fn unsuccessful(status: ExitStatus) -> io::Error {
    io::Error::other(format!("xl migrate-receive has ended: {status}; what it says stands above"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A receiver that is a script. It has the helper's name in its environment, as xl would.
    fn start(script: &str) -> io::Result<Receiver> {
        let banner = "printf 'xl migration receiver ready, send binary domain data.\\n'";
        let command = format!("sh -c '{}; {script}'", banner.replace('\'', "'\\''"));
        Receiver::start(&Way { command, helper: "/bin/sh".into(), waits: Waits::default() })
    }

    /// A receiver that is stopped as soon as it has said that it is ready.
    fn stopped() -> Receiver {
        let mut receiver = start("echo up >&2; kill -STOP $$; cat >/dev/null").unwrap();
        while state(receiver.child.id()) != Some('T') {
            std::thread::yield_now();
        }
        let short = Duration::from_millis(200);
        receiver.waits = Waits { answer: short, take_over: short, feed: short, end: Duration::from_secs(60) };
        receiver
    }

    #[test]
    fn a_stopped_one_is_noticed_at_each_wait_and_named_with_what_helps() {
        let mut receiver = stopped();
        let pid = receiver.child.id();
        let help = format!("kill -CONT -{pid}");
        for error in [receiver.feed(&vec![0; 1 << 20]).unwrap_err(), receiver.applied().unwrap_err()] {
            assert!(error.kind() == ErrorKind::TimedOut && error.to_string().contains(&help), "{error}");
        }
        // It is let go on, and ends.
        drop(receiver);
        assert_eq!(state(pid), None);
        let receiver = stopped();
        let pid = receiver.child.id();
        let error = receiver.fail_over().unwrap_err();
        assert!(error.to_string().contains("STOPPED") && error.to_string().contains("was killed"), "{error}");
        assert_eq!(state(pid), None, "it could take over later");
    }

    #[test]
    fn it_takes_over_only_with_the_permit() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let script =
            format!("cat >{0}.stream; test -e $XEN_REPLICATE_FAILOVER; echo $? $XEN_REPLICATE_XL >{0}", out.display());
        let mut receiver = start(&script).unwrap();
        receiver.feed(b"checkpoint").unwrap();
        receiver.fail_over().unwrap();
        assert_eq!(std::fs::read_to_string(&out).unwrap(), "0 stock\n");
        assert_eq!(std::fs::read(folder.path().join("out.stream")).unwrap(), b"checkpoint");
        drop(start(&script).unwrap());
        assert_eq!(std::fs::read_to_string(&out).unwrap(), "1 stock\n");
    }

    #[test]
    fn what_ends_early_or_says_something_else_is_told() {
        let error = start("exit 3").unwrap().applied().unwrap_err();
        assert!(error.to_string().contains("exit status: 3"), "{error}");
        let other = Way { command: "yes".into(), helper: "/bin/sh".into(), waits: Waits::default() };
        assert_eq!(Receiver::start(&other).unwrap_err().kind(), ErrorKind::InvalidData);
        let without = Way { command: "true".into(), helper: "/nowhere/helper".into(), waits: Waits::default() };
        assert!(Receiver::start(&without).unwrap_err().to_string().contains("/nowhere/helper"));
        assert!(start("exit 1").unwrap().fail_over().is_err());
    }
}
