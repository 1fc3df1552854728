//! An event channel to a domain.
#![allow(unsafe_code)]

use super::library::{Events, Handle};
use super::messages;
use crate::hypervisor::error::{Error, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// Bound to a port that a domain has opened for us; unbound when it is dropped.
pub struct EventChannel {
    library: &'static Events,
    handle: Handle,
    port: u32,
}

impl fmt::Debug for EventChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventChannel").field("port", &self.port).finish_non_exhaustive()
    }
}

// SAFETY: the handle is a descriptor, which is not tied to a thread, and without `Sync` only one thread at a time has it.
unsafe impl Send for EventChannel {}

impl EventChannel {
    /// Binds a port of ours to one of a domain. Xen has ours pending at once.
    ///
    /// # Errors
    /// The system's, for a port that the domain has not opened to this one among other things; [`Error::NoLibrary`].
    pub fn bind(domid: u32, remote: u32) -> Result<Self> {
        let library = Events::get()?;
        let failed = |operation| Error::Os { operation, source: io::Error::last_os_error() };
        // SAFETY: the logger is valid for as long as the program runs. 0 is no flag.
        let handle = unsafe { (library.open_handle)(messages::logger(), 0) };
        if handle.is_null() {
            return Err(failed("opening the event channels"));
        }
        // SAFETY: the handle is open. The rest are numbers.
        let port = unsafe { (library.bind_interdomain)(handle, domid, remote) };
        match u32::try_from(port) {
            Ok(port) => Ok(EventChannel { library, handle, port }),
            Err(_) => {
                let error = failed("binding to an event channel of the domain");
                // SAFETY: the handle was just opened, and is given to nobody else.
                unsafe { (library.close)(handle) };
                Err(error)
            }
        }
    }

    /// Sends an event.
    ///
    /// # Errors
    /// The system's.
    pub fn notify(&self) -> Result<()> {
        // SAFETY: the handle is open.
        match unsafe { (self.library.notify)(self.handle, self.port) } {
            0.. => Ok(()),
            _ => Err(Error::Os { operation: "sending an event", source: io::Error::last_os_error() }),
        }
    }

    /// Takes the event that has come, if one has, so that the next is heard. Does not wait.
    ///
    /// # Errors
    /// The system's.
    pub fn take(&self) -> Result<bool> {
        let failed = |source| Error::Os { operation: "taking an event", source };
        let fd = self.as_fd();
        let mut fds = [PollFd::new(&fd, PollFlags::IN)];
        if poll(&mut fds, Some(&Timespec::default())).map_err(|error| failed(error.into()))? == 0 {
            return Ok(false);
        }
        // SAFETY: the handle is open.
        let port = unsafe { (self.library.pending)(self.handle) };
        let port = u32::try_from(port).map_err(|_| failed(io::Error::last_os_error()))?;
        // SAFETY: the handle is open, and the port is one of it.
        match unsafe { (self.library.unmask)(self.handle, port) } {
            0.. => Ok(port == self.port),
            _ => Err(failed(io::Error::last_os_error())),
        }
    }
}

impl AsFd for EventChannel {
    /// Readable when an event has come.
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the handle, and with it its descriptor, is open for as long as `self` lives.
        unsafe { BorrowedFd::borrow_raw((self.library.fd)(self.handle)) }
    }
}

impl Drop for EventChannel {
    fn drop(&mut self) {
        // SAFETY: the handle is open, and nobody has it any more. The kernel unbinds its ports with it.
        unsafe { (self.library.close)(self.handle) };
    }
}
