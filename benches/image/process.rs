//! What a process costs.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_xen-replicate");

/// Of a process, from its start until it is gone.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// By the clock.
    pub clock: Duration,
    /// The processor's time, in the program and in the kernel.
    pub cpu: Duration,
    /// The most memory that it held, in KiB.
    pub kib: u64,
}

/// Runs a command, which must end with one of these codes.
#[expect(clippy::zombie_processes, reason = "wait4 waits for it")]
pub fn cost(command: &mut Command, codes: &[i32]) -> Cost {
    let since = Instant::now();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (mut status, mut usage) = (0, MaybeUninit::<libc::rusage>::zeroed());
    let pid = libc::pid_t::try_from(child.id()).expect("a process number");
    // SAFETY: both pointers are to memory of their types that outlives the call; nobody else waits for this child.
    let waited = unsafe { libc::wait4(pid, &mut status, 0, usage.as_mut_ptr()) };
    let clock = since.elapsed();
    assert_eq!(waited, pid, "{command:?}");
    let code = ExitStatus::from_raw(status).code();
    assert!(code.is_some_and(|code| codes.contains(&code)), "{command:?} ended with {code:?}");
    // SAFETY: zeros are a valid value, and wait4 has filled it.
    let usage = unsafe { usage.assume_init() };
    let time = |time: libc::timeval| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000);
    Cost { clock, cpu: time(usage.ru_utime) + time(usage.ru_stime), kib: usage.ru_maxrss as u64 }
}
