//! The fencing command: makes sure that the other host is dead, or says that it cannot.

use crate::remus::{Generation, Session};
use rustix::process::{Pid, Signal, kill_process_group};
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

/// A command, run by `sh -c`, that exits with 0 when the other host is dead for sure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    /// The command. It finds `XEN_REPLICATE_DOMAIN`, `_PEER`, `_GENERATION` and `_SESSION` in its environment.
    pub command: String,
    /// How long it may take. It is killed then, with what it has started, and counts as failed.
    pub timeout: Duration,
}

/// What the command is told.
#[derive(Debug, Clone)]
pub struct FenceContext {
    /// The domain's name.
    pub domain: String,
    /// Where the other side was connected from.
    pub peer: String,
    /// The generation that this side holds or would have.
    pub generation: Generation,
    /// The session that was lost.
    pub session: Session,
}

/// Why the other host may be alive.
#[derive(Debug, thiserror::Error)]
pub enum FenceError {
    /// The command could not be run.
    #[error("{command:?} could not be run: {error}")]
    Start {
        /// The command.
        command: String,
        /// Why.
        error: io::Error,
    },
    /// It says so.
    #[error("{command:?} exited with {status}")]
    Status {
        /// The command.
        command: String,
        /// Its exit code.
        status: i32,
    },
    /// It was killed.
    #[error("{command:?} was killed by signal {signal}")]
    Killed {
        /// The command.
        command: String,
        /// By which signal.
        signal: i32,
    },
    /// It took too long.
    #[error("{command:?} took longer than {timeout:?} and was killed")]
    Timeout {
        /// The command.
        command: String,
        /// What it had.
        timeout: Duration,
    },
}

impl Fence {
    /// Runs it on a thread of its own; `tell` is given whether the other host is dead.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub(super) fn start(self, context: FenceContext, tell: impl FnOnce(bool) + Send + 'static) -> io::Result<()> {
        let run = move || {
            let fenced = self.run(&context);
            if let Err(error) = &fenced {
                log::error!("{}: fencing: {error}", context.domain);
            }
            tell(fenced.is_ok());
        };
        thread::Builder::new().name("fence".into()).spawn(run).map(drop)
    }

    /// Runs it and waits for its end.
    ///
    /// # Errors
    /// [`FenceError`]: anything but an exit with 0 in time.
    pub fn run(&self, context: &FenceContext) -> Result<(), FenceError> {
        let command = || self.command.clone();
        let start = |error| FenceError::Start { command: command(), error };
        let mut child = Command::new("sh")
            .args(["-c", &self.command])
            .env("XEN_REPLICATE_DOMAIN", &context.domain)
            .env("XEN_REPLICATE_PEER", &context.peer)
            .env("XEN_REPLICATE_GENERATION", context.generation.0.to_string())
            .env("XEN_REPLICATE_SESSION", format!("{:016x}", context.session.0))
            .stdin(Stdio::null())
            // Standard output may be the connection to the primary.
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(start)?;
        let group = Pid::from_child(&child);
        let (ended, end) = channel();
        let waiter = thread::Builder::new()
            .name("fence-wait".into())
            .spawn(move || {
                let _ = ended.send(child.wait());
            })
            .map_err(start)?;
        let (status, late) = match end.recv_timeout(self.timeout) {
            Ok(status) => (status, false),
            Err(RecvTimeoutError::Timeout) => {
                // Its number is its own until it is waited for, which the signal brings about.
                let _ = kill_process_group(group, Signal::KILL);
                (end.recv().unwrap_or_else(|_| Err(io::ErrorKind::Other.into())), true)
            }
            Err(RecvTimeoutError::Disconnected) => (Err(io::ErrorKind::Other.into()), false),
        };
        let _ = waiter.join();
        let status = status.map_err(start)?;
        match (late, status.code(), status.signal()) {
            (true, ..) => Err(FenceError::Timeout { command: command(), timeout: self.timeout }),
            (_, Some(0), _) => Ok(()),
            (_, Some(status), _) => Err(FenceError::Status { command: command(), status }),
            (_, None, signal) => Err(FenceError::Killed { command: command(), signal: signal.unwrap_or_default() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn run(command: &str, timeout: Duration) -> Result<(), FenceError> {
        let context =
            FenceContext { domain: "g".into(), peer: "p".into(), generation: Generation(7), session: Session(255) };
        Fence { command: command.into(), timeout }.run(&context)
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn only_an_exit_with_0_is_success() {
        run("true", LONG).unwrap();
        assert!(matches!(run("exit 7", LONG), Err(FenceError::Status { status: 7, .. })));
        assert!(matches!(run("kill -9 $$", LONG), Err(FenceError::Killed { signal: 9, .. })));
        assert!(matches!(run("/no/such/command", LONG), Err(FenceError::Status { status: 127, .. })));
    }

    #[test]
    fn it_is_told_whom_to_fence() {
        run(
            "test $XEN_REPLICATE_DOMAIN$XEN_REPLICATE_PEER$XEN_REPLICATE_GENERATION$XEN_REPLICATE_SESSION = \
             gp700000000000000ff",
            LONG,
        )
        .unwrap();
    }

    #[test]
    fn what_takes_too_long_is_killed_with_all_it_started() {
        let (reader, writer) = std::os::unix::net::UnixStream::pair().unwrap();
        // The grandchild holds the writing end until it is dead.
        rustix::io::fcntl_setfd(&writer, rustix::io::FdFlags::empty()).unwrap();
        let started = Instant::now();
        let result = run("sleep 1000 & sleep 1000", Duration::from_millis(50));
        assert!(matches!(result, Err(FenceError::Timeout { .. })), "{result:?}");
        drop(writer);
        assert_eq!(io::Read::read(&mut &reader, &mut [0; 1]).unwrap(), 0);
        assert!(started.elapsed() < LONG);
    }
}
