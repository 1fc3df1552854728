//! For `LD_PRELOAD` into QEMU 7.2 with `-accel tcg`, on glibc.
//!
//! QEMU's COLO thread gives work to the vCPU's thread without QEMU's big lock, which both must hold for it: a fault of QEMU, told
//! in `docs/colo.md`. Two things come of it, and both are mended here, in `pthread_cond_wait`:
//!
//! * The COLO thread waits for the work with a mutex that it does not hold. That is undefined; in glibc the wait comes back with
//!   the mutex locked by a thread that will never unlock it. Here it is what was meant: the mutex is taken for the time of the
//!   wait, and given back.
//! * A wake-up is lost where it comes between a look at what is waited for and the wait: the vCPU's thread, which has looked and
//!   found no work, sleeps on. So no wait here is longer than a few milliseconds. Whoever waits on a condition variable looks
//!   again when it returns, for POSIX lets it return for nothing.

use libc::{c_int, clockid_t, pthread_cond_t, pthread_mutex_t, timespec};

/// How long a wait lasts at most, in nanoseconds.
const SHORT: i64 = 5_000_000;
const SECOND: i64 = 1_000_000_000;

/// The first fields of glibc's `struct __pthread_mutex_s`, on every 64-bit architecture.
#[repr(C)]
struct MutexHead {
    lock: c_int,
    count: u32,
    owner: c_int,
}

unsafe extern "C" {
    /// glibc, from 2.30 on; it goes by the clock it is given and not by the condition variable's.
    fn pthread_cond_clockwait(
        condition: *mut pthread_cond_t,
        mutex: *mut pthread_mutex_t,
        clock: clockid_t,
        until: *const timespec,
    ) -> c_int;
}

/// Waits for a short time, holding the mutex even where the caller does not.
///
/// # Safety
/// As for `pthread_cond_wait`: both point to initialised objects that outlive the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_cond_wait(condition: *mut pthread_cond_t, mutex: *mut pthread_mutex_t) -> c_int {
    // SAFETY: takes nothing, gives the thread's number.
    let this = unsafe { libc::gettid() };
    // SAFETY: the caller vouches for the mutex, which begins with these fields; other threads write the owner, so it is read
    // as what may change. It equals our number only if we have written it.
    let held = unsafe { (&raw const (*mutex.cast::<MutexHead>()).owner).read_volatile() } == this;
    let mut until = timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `until` is ours and of the right type.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut until) };
    until.tv_nsec += SHORT;
    if until.tv_nsec >= SECOND {
        until.tv_nsec -= SECOND;
        until.tv_sec += 1;
    }
    if !held {
        // SAFETY: the caller vouches for the mutex; it is not ours, so taking it does not lock us against ourselves.
        unsafe { libc::pthread_mutex_lock(mutex) };
    }
    // SAFETY: the caller vouches for both objects, and the mutex is held now.
    let result = unsafe { pthread_cond_clockwait(condition, mutex, libc::CLOCK_MONOTONIC, &raw const until) };
    if !held {
        // SAFETY: it was taken above, and the wait has taken it again.
        unsafe { libc::pthread_mutex_unlock(mutex) };
    }
    if result == libc::ETIMEDOUT { 0 } else { result }
}
