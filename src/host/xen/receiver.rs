//! The stock `xl migrate-receive -r`, fed by this program: libxl builds the domain, this program decides what it may see and when it
//! shall take over.
//!
//! Whatever ends the stream makes xl fail over, so our save helper is inside, under supervision: without the file that permits it, the
//! end of the stream is no failover but an error, and libxl destroys what it has built. That holds for the death of this program too.
#![forbid(unsafe_code)]

use crate::save_helper::supervised::{Applied, ENVIRONMENT};
use crate::stream::handshake::Message;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// What tells xl-plugin/xl that the stock xl is meant. Else it would run this program in the place of that.
const STOCK: (&str, &str) = ("XEN_REPLICATE_XL", "stock");

/// How long xl may take to apply a checkpoint, or to begin.
const PATIENCE: Duration = Duration::from_secs(120);

/// How to run it.
#[derive(Debug, Clone)]
pub struct Way {
    /// The command, for sh.
    pub command: String,
    /// This project's save helper.
    pub helper: PathBuf,
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
    patience: Duration,
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
            .spawn()?;
        let (Some(stream), Some(back)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(ErrorKind::BrokenPipe.into());
        };
        let mut receiver = Receiver { child, stream: Some(stream), back: Some(back), folder, patience: PATIENCE };
        let expected = Message::Banner.octets();
        let mut banner = vec![0; expected.len()];
        receiver.read(|back| back.read_exact(&mut banner))?;
        if banner != expected {
            let said = String::from_utf8_lossy(&banner).into_owned();
            return Err(io::Error::new(ErrorKind::InvalidData, format!("{} says {said:?}", way.command)));
        }
        Ok(receiver)
    }

    /// Gives it octets of the stream.
    ///
    /// # Errors
    /// It does not read any more.
    pub fn feed(&mut self, octets: &[u8]) -> io::Result<()> {
        let fed = match &mut self.stream {
            Some(stream) => stream.write_all(octets),
            None => Err(ErrorKind::BrokenPipe.into()),
        };
        fed.map_err(|error| self.ended(error))
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
    /// It did not succeed.
    pub fn fail_over(mut self) -> io::Result<()> {
        File::create(permit(self.folder.path()))?;
        self.stream = None;
        let status = self.child.wait()?;
        if status.success() { Ok(()) } else { Err(unsuccessful(status)) }
    }

    fn read<T>(&mut self, read: impl FnOnce(&mut ChildStdout) -> io::Result<T>) -> io::Result<T> {
        let Some(back) = &mut self.back else { return Err(ErrorKind::BrokenPipe.into()) };
        let patience = Timespec { tv_sec: self.patience.as_secs().cast_signed(), tv_nsec: 0 };
        let ready = loop {
            match poll(&mut [PollFd::new(back, PollFlags::IN)], Some(&patience)) {
                Err(rustix::io::Errno::INTR) => {}
                other => break other?,
            }
        };
        if ready == 0 {
            let text = format!("xl migrate-receive has said nothing for {:?}", self.patience);
            return Err(io::Error::new(ErrorKind::TimedOut, text));
        }
        read(back).map_err(|error| self.ended(error))
    }

    /// The same error, or how it ended where that is why.
    fn ended(&mut self, error: io::Error) -> io::Error {
        if !matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof) {
            return error;
        }
        self.stream = None;
        match self.child.wait() {
            Ok(status) => unsuccessful(status),
            Err(_) => error,
        }
    }
}

impl Drop for Receiver {
    /// Without a permit the end of its stream has it destroy its domain.
    fn drop(&mut self) {
        self.stream = None;
        self.back = None;
        match self.child.wait() {
            Ok(status) => log::debug!("xl migrate-receive: {status}"),
            Err(error) => log::warn!("xl migrate-receive: {error}"),
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
        Receiver::start(&Way { command, helper: "/bin/sh".into() })
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
        let other = Way { command: "yes".into(), helper: "/bin/sh".into() };
        assert_eq!(Receiver::start(&other).unwrap_err().kind(), ErrorKind::InvalidData);
        let without = Way { command: "true".into(), helper: "/nowhere/helper".into() };
        assert!(Receiver::start(&without).unwrap_err().to_string().contains("/nowhere/helper"));
        assert!(start("exit 1").unwrap().fail_over().is_err());
    }
}
