//! SIGTERM to a saving helper: the save must stop, wherever it is, and the guest be put back to sanity.
//!
//! A save stands still in one of two places: in a write to the stream, or waiting for something to read from libxl or
//! from the back channel. [`Abort::request`] ends both. It puts a descriptor that cannot be written in the place of the
//! stream: a write that the signal interrupts goes on with it and fails, and so does every later one. And it makes
//! an eventfd readable on which [`Waiting`] waits beside its source.
//!
//! Source: what the signal must achieve is said in `tools/libs/light/libxl_save_helper.c`.
#![allow(unsafe_code)]

use super::back_channel::BackChannel;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use signal_hook::consts::SIGTERM;
use std::fs::File;
use std::io::{self, Read};
use std::mem::{ManuallyDrop, MaybeUninit};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What a read fails with that was called off; inside an [`io::Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("called off")]
pub struct CalledOff;

impl CalledOff {
    /// Whether this is what an error is.
    pub fn is(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|inner| inner.is::<CalledOff>())
    }
}

/// Calls off a save.
#[derive(Debug)]
pub struct Abort {
    /// Kept open, so that its number stays ours.
    stream: Arc<File>,
    /// Open for reading only.
    unwritable: File,
    wake: OwnedFd,
    requested: AtomicBool,
    settled: AtomicBool,
}

impl Abort {
    /// For a save onto `stream`, which from then on must be written through this value only.
    ///
    /// # Errors
    /// The system's.
    pub fn new(stream: Arc<File>) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Abort {
            stream,
            unwritable: File::open("/dev/null")?,
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            requested: AtomicBool::new(false),
            settled: AtomicBool::new(false),
        }))
    }

    /// Has SIGTERM call the save off, for as long as this process lives.
    ///
    /// # Errors
    /// The system's.
    pub fn on_sigterm(self: &Arc<Self>) -> io::Result<()> {
        let abort = Arc::clone(self);
        unblock_sigterm()?;
        // SAFETY: the action only makes two system calls (dup3, write) and stores a flag, all of which a signal handler
        // may do; it neither allocates nor locks nor unwinds, and `abort` is never dropped by it.
        unsafe { signal_hook::low_level::register(SIGTERM, move || abort.request()) }.map(|_| ())
    }

    /// Calls the save off. May be called from a signal handler.
    pub fn request(&self) {
        self.requested.store(true, Ordering::SeqCst);
        // SAFETY: the number is that of `self.stream`, which is open for as long as `self` lives; `ManuallyDrop` leaves
        // it open. What it stands for changes at one stroke, which users of the stream see as a failing write.
        let mut target = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(self.stream.as_raw_fd()) });
        // Nobody is there to be told of a failure: the reads wake up in any case.
        let _ = rustix::io::dup2(&self.unwritable, &mut target);
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// Whether the save has been called off.
    pub fn is_requested(&self) -> bool {
        self.requested.load(Ordering::SeqCst)
    }

    /// Whether waiting is in vain: called off, and not yet told to be settled.
    pub fn is_pending(&self) -> bool {
        self.is_requested() && !self.settled.load(Ordering::SeqCst)
    }

    /// Waits; not longer than until the save is called off.
    pub fn wait(&self, time: Duration) {
        let end = Instant::now() + time;
        while !self.is_pending() {
            let left = end.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).ok();
            // An interrupted wait goes on.
            let waited = poll(&mut [PollFd::new(&self.wake, PollFlags::IN)], timeout.as_ref());
            if left.is_zero() || waited.is_err_and(|error| error != Errno::INTR) {
                return;
            }
        }
    }

    /// Lets reads wait again: the save has stopped, what follows is putting things in order.
    pub fn settle(&self) {
        self.settled.store(true, Ordering::SeqCst);
    }
}

/// Lets SIGTERM end this process at once, whatever it was told by the process that started it.
///
/// # Errors
/// The system's.
pub fn default_sigterm() -> io::Result<()> {
    // SAFETY: the default action is no handler of ours, so there is nothing for it to break.
    if unsafe { libc::signal(SIGTERM, libc::SIG_DFL) } == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    unblock_sigterm()
}

/// A mask of blocked signals is inherited, and libxl's program may have one.
fn unblock_sigterm() -> io::Result<()> {
    let mut set = MaybeUninit::uninit();
    // SAFETY: `set` is memory for a signal set; sigemptyset makes it one before anything else looks at it, and the mask
    // before is not asked for.
    let error = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), SIGTERM);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, set.as_ptr(), std::ptr::null_mut())
    };
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

/// A source whose reads end when the save is called off, with [`CalledOff`].
#[derive(Debug)]
pub struct Waiting<R> {
    source: R,
    abort: Option<Arc<Abort>>,
}

impl<R> Waiting<R> {
    /// A source; without `abort` nothing calls its reads off.
    pub const fn new(source: R, abort: Option<Arc<Abort>>) -> Self {
        Waiting { source, abort }
    }
}

impl<R: Read + AsFd> BackChannel for Waiting<R> {
    fn has_more_within(&mut self, time: Duration) -> io::Result<bool> {
        let end = Instant::now() + time;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).ok();
            let wake = self.abort.as_ref().filter(|abort| !abort.settled.load(Ordering::SeqCst));
            if wake.is_some_and(|abort| abort.is_requested()) {
                return Err(io::Error::other(CalledOff));
            }
            let mut fds = vec![PollFd::new(&self.source, PollFlags::IN)];
            fds.extend(wake.map(|abort| PollFd::new(&abort.wake, PollFlags::IN)));
            match poll(&mut fds, timeout.as_ref()) {
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
                Ok(0) => return Ok(false),
                Ok(_) if fds.first().is_some_and(|source| !source.revents().is_empty()) => return Ok(true),
                Ok(_) => {}
            }
        }
    }
}

impl<R: Read + AsFd> Read for Waiting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(abort) = &self.abort
            && !abort.settled.load(Ordering::SeqCst)
        {
            if abort.is_requested() {
                return Err(io::Error::other(CalledOff));
            }
            let mut fds = [PollFd::new(&self.source, PollFlags::IN), PollFd::new(&abort.wake, PollFlags::IN)];
            match poll(&mut fds, None) {
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
                // An end and an error make the source readable as well.
                Ok(_) if !fds[0].revents().is_empty() && !abort.is_requested() => break,
                Ok(_) => {}
            }
        }
        self.source.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::thread;

    fn pipe() -> (File, File) {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        (read.into(), write.into())
    }

    #[test]
    fn a_read_that_waits_ends_and_waits_again_when_settled() {
        let (read, mut write) = pipe();
        let abort = Abort::new(Arc::new(File::create("/dev/null").unwrap())).unwrap();
        let mut waiting = Waiting::new(read, Some(Arc::clone(&abort)));
        let mut byte = [0];
        write.write_all(b"a").unwrap();
        assert_eq!((waiting.read(&mut byte).unwrap(), byte[0]), (1, b'a'));
        let reader = thread::spawn(move || {
            let mut byte = [0];
            let error = waiting.read(&mut byte).unwrap_err();
            (waiting, error)
        });
        abort.request();
        let (mut waiting, error) = reader.join().unwrap();
        assert!(CalledOff::is(&error), "{error}");
        // Not even what is there is read before the abort is settled.
        write.write_all(b"b").unwrap();
        assert!(CalledOff::is(&waiting.read(&mut byte).unwrap_err()));
        abort.settle();
        assert_eq!((waiting.read(&mut byte).unwrap(), byte[0]), (1, b'b'));
        drop(write);
        assert_eq!(waiting.read(&mut byte).unwrap(), 0);
    }

    #[test]
    fn the_stream_cannot_be_written_any_more_and_keeps_its_number() {
        let (mut read, write) = pipe();
        let mut stream = Arc::new(write);
        let number = stream.as_raw_fd();
        let abort = Abort::new(Arc::clone(&stream)).unwrap();
        stream.write_all(b"before").unwrap();
        abort.request();
        assert_eq!(stream.write(b"behind").unwrap_err().raw_os_error(), Some(Errno::BADF.raw_os_error()));
        assert_eq!(stream.as_raw_fd(), number);
        let mut all = Vec::new();
        // The pipe has no writer left.
        read.read_to_end(&mut all).unwrap();
        assert_eq!(all, b"before");
    }

    #[test]
    fn a_source_without_abort_just_reads() {
        let (read, mut write) = pipe();
        write.write_all(b"abc").unwrap();
        drop(write);
        let mut all = Vec::new();
        Waiting::new(read, None).read_to_end(&mut all).unwrap();
        assert_eq!(all, b"abc");
    }
}
