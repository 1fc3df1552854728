//! A helper and the other end of its pipe on one CPU.

use crate::Result;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Runs `act` with this thread, and all threads and processes that it starts, on one CPU.
pub fn on_one_cpu<T>(act: impl FnOnce() -> Result<T>) -> Result<T> {
    let before = sched_getaffinity(None)?;
    let first = (0..CpuSet::MAX_CPU).find(|&cpu| before.is_set(cpu)).ok_or("no CPU")?;
    let mut one = CpuSet::new();
    one.set(first);
    sched_setaffinity(None, &one)?;
    let result = act();
    sched_setaffinity(None, &before)?;
    result
}
