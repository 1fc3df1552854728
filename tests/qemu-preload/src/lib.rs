//! For `LD_PRELOAD` into QEMU 7.2 with `-accel tcg`, on glibc.
//!
//! QEMU's COLO thread waits on a condition variable with a mutex that it does not hold, QEMU's big lock: a fault of QEMU, told in
//! `docs/colo.md`. By then the wait is undefined; in glibc it comes back with the mutex locked by a thread that will never unlock
//! it. Here such a wait becomes what was meant: the mutex is taken for the time of the wait, and given back. The wake-up may
//! have come before it was taken, so the wait is short; whoever waits on a condition variable looks again anyway.

use libc::{c_char, c_int, c_void, pthread_cond_t, pthread_mutex_t, timespec};
use std::sync::OnceLock;

type Wait = unsafe extern "C" fn(*mut pthread_cond_t, *mut pthread_mutex_t) -> c_int;

/// How long a wait without the mutex lasts, in nanoseconds.
const SHORT: i64 = 5_000_000;
const SECOND: i64 = 1_000_000_000;

/// The first fields of glibc's `struct __pthread_mutex_s`, on every 64-bit architecture.
#[repr(C)]
struct MutexHead {
    lock: c_int,
    count: u32,
    owner: c_int,
}

const NAME: &[u8] = b"pthread_cond_wait\0";
/// glibc has an older function of that name besides, with another layout of the condition variable.
const VERSION: &[u8] = b"GLIBC_2.3.2\0";

fn real() -> Option<Wait> {
    static REAL: OnceLock<Option<Wait>> = OnceLock::new();
    *REAL.get_or_init(|| {
        // SAFETY: both names end with a NUL; the call touches nothing else of ours.
        let found: *mut c_void =
            unsafe { libc::dlvsym(libc::RTLD_NEXT, NAME.as_ptr().cast::<c_char>(), VERSION.as_ptr().cast::<c_char>()) };
        // SAFETY: what glibc exports under this name and version is a function of this type; `None` stands for null.
        unsafe { std::mem::transmute::<*mut c_void, Option<Wait>>(found) }
    })
}

/// Waits as POSIX says where the caller holds the mutex; else for a short time, holding it.
///
/// # Safety
/// As for `pthread_cond_wait`: both point to initialised objects that outlive the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_cond_wait(condition: *mut pthread_cond_t, mutex: *mut pthread_mutex_t) -> c_int {
    // SAFETY: takes nothing, gives the thread's number.
    let this = unsafe { libc::gettid() };
    // SAFETY: the caller vouches for the mutex, which begins with these fields; other threads write the owner, so it is read
    // as what may change. It equals our number only if we have written it.
    let owner = unsafe { (&raw const (*mutex.cast::<MutexHead>()).owner).read_volatile() };
    if owner == this
        && let Some(real) = real()
    {
        // SAFETY: the very call that was made, to the function that it was meant for.
        return unsafe { real(condition, mutex) };
    }
    let mut until = timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `until` is ours and of the right type.
    unsafe { libc::clock_gettime(libc::CLOCK_REALTIME, &raw mut until) };
    until.tv_nsec += SHORT;
    if until.tv_nsec >= SECOND {
        until.tv_nsec -= SECOND;
        until.tv_sec += 1;
    }
    // SAFETY: the caller vouches for both objects; the mutex is not ours yet, so taking it does not lock us against ourselves,
    // and it is given back by the one that took it.
    unsafe {
        libc::pthread_mutex_lock(mutex);
        libc::pthread_cond_timedwait(condition, mutex, &raw const until);
        libc::pthread_mutex_unlock(mutex);
    }
    0
}
