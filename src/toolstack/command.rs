//! Programs of the toolstack, run with an end: a tool, or a script, that hangs is killed with all that it has started.
#![forbid(unsafe_code)]

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use std::io::{self, ErrorKind};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Runs a program, in a process group of its own, for at most so long. It reads nothing.
///
/// # Errors
/// It cannot be run; it has not ended in time, and was killed.
pub fn run(command: &mut Command, patience: Duration) -> io::Result<ExitStatus> {
    let mut child = command.stdin(Stdio::null()).process_group(0).spawn()?;
    match wait(&mut child, patience)? {
        Some(status) => Ok(status),
        None => {
            kill(&mut child);
            let name = command.get_program().to_string_lossy().into_owned();
            let text = format!("{name} has not ended in {patience:?} and was killed");
            Err(io::Error::new(ErrorKind::TimedOut, text))
        }
    }
}

/// Waits until a child ends, at most so long; `None` where it has not ended.
///
/// # Errors
/// The system's.
pub fn wait(child: &mut Child, patience: Duration) -> io::Result<Option<ExitStatus>> {
    if let Some(status) = child.try_wait()? {
        return Ok(Some(status));
    }
    let ended = pidfd_open(pid(child)?, PidfdFlags::empty())?;
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        };
        match poll(&mut [PollFd::new(&ended, PollFlags::IN)], Some(&left)) {
            Ok(0) => return child.try_wait(),
            Ok(_) => return child.wait().map(Some),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Kills a child that leads a process group, with the group, and takes its end. A stopped one is killed as well.
pub fn kill(child: &mut Child) {
    if let Ok(group) = pid(child) {
        // Gone already, or there is nothing to be done about it.
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = child.wait();
}

fn pid(child: &Child) -> io::Result<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or_else(|| ErrorKind::InvalidInput.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, Mode, OFlags, mkfifoat, openat};

    #[test]
    fn what_hangs_is_killed_with_what_it_has_started() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        mkfifoat(CWD, &pipe, Mode::RUSR | Mode::WUSR).unwrap();
        let held = openat(CWD, &pipe, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let comes = |what: &str| {
            let most = Timespec { tv_sec: 30, tv_nsec: 0 };
            assert_eq!(poll(&mut [PollFd::new(&held, PollFlags::IN)], Some(&most)), Ok(1), "{what}");
        };
        // The script's own child holds the pipe open until it is killed.
        let script = format!("(exec 3>'{}'; echo x >&3; exec sleep 1000) & wait", pipe.display());
        let error = run(Command::new("/bin/sh").args(["-c", &script]), Duration::from_secs(3)).unwrap_err();
        assert!(error.kind() == ErrorKind::TimedOut && error.to_string().contains("/bin/sh"), "{error}");
        comes("the child of the script");
        assert_eq!(rustix::io::read(&held, &mut [0; 8]), Ok(2));
        comes("its end");
        assert_eq!(rustix::io::read(&held, &mut [0; 8]), Ok(0), "nobody holds the pipe any more");
    }

    #[test]
    fn what_ends_gives_its_status() {
        let long = Duration::from_secs(60);
        assert_eq!(run(Command::new("/bin/sh").args(["-c", "exit 3"]), long).unwrap().code(), Some(3));
        assert_eq!(run(&mut Command::new("/none/tool"), long).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
