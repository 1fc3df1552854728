//! The suspend event channel: a guest that has opened one is asked to suspend by an event, and Xen answers by another when it has. Neither
//! goes through xenstored.
//!
//! The guest writes the number of the port to `device/suspend/event-channel`. Whoever asks through it holds the lock that libxl and every
//! other user of `xc_suspend_evtchn_init_exclusive` takes, for there is one channel and one listener. Linux guests offer none.
//!
//! Unlike the key `control/shutdown`, an event cannot be taken back: a guest that obeys it behind the time-out suspends itself then. libxl has no
//! other way either.
#![forbid(unsafe_code)]

use super::failed;
use super::store::Session;
use crate::hypervisor::Result;
use crate::hypervisor::xen::{EventChannel, XenDomain};
use rustix::fs::{FlockOperation, fcntl_lock, fstat, stat};
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

/// A way to ask a guest that is not xenstore. It is readable when the guest may have suspended.
pub trait Channel: AsFd + Send {
    /// Asks the guest to suspend.
    ///
    /// # Errors
    /// The system's.
    fn ask(&self) -> Result<()>;

    /// Takes what has come, so that the next is heard.
    ///
    /// # Errors
    /// The system's.
    fn heard(&self) -> Result<()>;
}

/// Where Xen's tools have their locks (`XEN_RUN_DIR`).
const RUN: &str = "/var/run/xen";

/// The channel of one guest.
#[derive(Debug)]
pub(super) struct SuspendChannel {
    channel: EventChannel,
    _lock: Lock,
}

impl SuspendChannel {
    /// Binds the channel that the guest offers; `None` where it offers none.
    ///
    /// # Errors
    /// It cannot be used: another tool does, or the guest has closed it.
    pub(super) fn open(domain: &XenDomain, session: &mut Session) -> Result<Option<Self>> {
        let domid = domain.domid();
        let offered = session.get(&format!("/local/domain/{domid}/device/suspend/event-channel"));
        let Some(port) = offered.map_err(|error| failed("xenstore", error))?.and_then(|port| port.trim().parse().ok())
        else {
            return Ok(None);
        };
        let lock = Lock::take(&Path::new(RUN).join(format!("suspend-evtchn-{domid}.lock")))
            .map_err(|error| failed("the lock of the suspend event channel", error))?;
        let channel = EventChannel::bind(domid, port)?;
        domain.subscribe_for_suspend(port)?;
        log::info!("domain {domid} is asked to suspend by its suspend event channel, port {port}");
        Ok(Some(SuspendChannel { channel, _lock: lock }))
    }
}

impl Channel for SuspendChannel {
    fn ask(&self) -> Result<()> {
        self.channel.notify()
    }

    fn heard(&self) -> Result<()> {
        while self.channel.take()? {}
        Ok(())
    }
}

impl AsFd for SuspendChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

/// A locked file, which goes with the lock.
#[derive(Debug)]
struct Lock {
    path: PathBuf,
    /// Closed after the removal, which ends the lock.
    _file: File,
}

impl Lock {
    /// Takes the lock, or fails where somebody has it.
    fn take(path: &Path) -> io::Result<Self> {
        loop {
            let file = File::options().create(true).truncate(false).read(true).write(true).open(path)?;
            fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive)?;
            // Who had it before may have removed the file since it was opened.
            let ours = fstat(&file)?;
            match stat(path) {
                Ok(there) if there.st_ino == ours.st_ino => return Ok(Lock { path: path.into(), _file: file }),
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            log::warn!("{}: {error}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// The path for another process, which finds it locked.
    const LOCKED: &str = "XEN_REPLICATE_TEST_LOCKED";

    #[test]
    fn the_lock_is_for_one_process_and_leaves_nothing() {
        if let Some(path) = std::env::var_os(LOCKED) {
            assert_eq!(Lock::take(Path::new(&path)).unwrap_err().kind(), ErrorKind::WouldBlock);
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("suspend-evtchn-7.lock");
        let lock = Lock::take(&path).unwrap();
        // Locks of this kind are between processes.
        let name = "toolstack::suspend_channel::tests::the_lock_is_for_one_process_and_leaves_nothing";
        let mut another = Command::new(std::env::current_exe().unwrap());
        let output = another.args(["--exact", name]).env(LOCKED, &path).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
        drop(lock);
        assert!(!path.exists());
        drop(Lock::take(&path).unwrap());
    }
}
