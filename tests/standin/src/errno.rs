//! Failures as the toolstack sees them.

use xen_replicate::hypervisor::Error;

/// An error number of `errno.h`, positive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

/// What a hypercall gives: a number that is not negative, or a failure.
pub type Answer = Result<i64, Errno>;

impl From<Error> for Errno {
    /// What Xen answers in the same situation.
    fn from(error: Error) -> Self {
        Errno(match error {
            Error::Unsupported { .. } => libc::EOPNOTSUPP,
            Error::OutOfMemory { .. } => libc::ENOMEM,
            Error::NotPopulated { .. } => libc::ENOENT,
            _ => libc::EINVAL,
        })
    }
}

/// Puts a failure where C looks for it.
pub fn set(Errno(number): Errno) {
    // SAFETY: the C library gives the address of the calling thread's own errno, which is valid while the thread lives.
    unsafe { *libc::__errno_location() = number }
}

/// The failure of the system call before.
pub fn last() -> Errno {
    Errno(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}
