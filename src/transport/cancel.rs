//! A flag that wakes who waits for a descriptor.

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// Once cancelled, always cancelled. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Cancel(Arc<OwnedFd>);

impl Cancel {
    /// One that is not cancelled.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new() -> io::Result<Self> {
        Ok(Cancel(Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)))
    }

    /// Cancels. Never waits.
    pub fn cancel(&self) {
        // It fails only where the counter is full, which says the same.
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }

    /// Whether it is.
    pub fn is_cancelled(&self) -> bool {
        ready(self.as_fd(), PollFlags::IN)
    }

    /// Waits for `span`, or until it is cancelled, which is told.
    ///
    /// # Errors
    /// The system's.
    pub fn wait_for(&self, span: Duration) -> io::Result<bool> {
        let span = Timespec { tv_sec: span.as_secs().cast_signed(), tv_nsec: span.subsec_nanos().into() };
        let mut fds = [PollFd::from_borrowed_fd(self.as_fd(), PollFlags::IN)];
        match poll(&mut fds, Some(&span)) {
            // Shorter than asked for; who waits looks again.
            Err(rustix::io::Errno::INTR) => Ok(false),
            other => Ok(other? > 0),
        }
    }

    /// Waits until `fd` has something for `events`, or has failed. False when cancelled first, also when both hold.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn wait(&self, fd: BorrowedFd<'_>, events: PollFlags) -> io::Result<bool> {
        loop {
            let mut fds = [PollFd::from_borrowed_fd(self.as_fd(), PollFlags::IN), PollFd::from_borrowed_fd(fd, events)];
            match poll(&mut fds, None) {
                Ok(_) => {
                    let [cancelled, waited] = fds.map(|fd| !fd.revents().is_empty());
                    if cancelled || waited {
                        return Ok(!cancelled);
                    }
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for Cancel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Waits for `span`, or until `fd` can be read or has failed, which is told.
pub(super) fn wait_readable(fd: BorrowedFd<'_>, span: Duration) -> io::Result<bool> {
    let span = Timespec { tv_sec: span.as_secs().cast_signed(), tv_nsec: span.subsec_nanos().into() };
    match poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&span)) {
        Err(rustix::io::Errno::INTR) => Ok(false),
        other => Ok(other? > 0),
    }
}

/// Whether `fd` has something for `events` now.
pub(super) fn ready(fd: BorrowedFd<'_>, events: PollFlags) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut fds = [PollFd::from_borrowed_fd(fd, events)];
    matches!(poll(&mut fds, Some(&now)), Ok(1..)) && fds.iter().any(|fd| fd.revents().intersects(events))
}
