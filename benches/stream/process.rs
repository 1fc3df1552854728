//! Child processes: where they run, how long they take, what memory they hold.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_xen-replicate");

/// Which end of a pipe a process stands at.
#[derive(Clone, Copy)]
pub enum End {
    /// Writes into it.
    Front,
    /// Reads from it, or has no pipe.
    Back,
}

/// The CPUs that this program may use when it starts.
static CPUS: LazyLock<Vec<usize>> = LazyLock::new(|| {
    let set = sched_getaffinity(None).unwrap_or_else(|_| CpuSet::new());
    (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect()
});

/// The CPU for an end; `None` on a machine with a single one.
fn cpu(end: End) -> Option<usize> {
    let (first, last) = (*CPUS.first()?, *CPUS.last()?);
    (first != last).then_some(match end {
        End::Front => first,
        End::Back => last,
    })
}

/// Pins this thread, and the children that it starts from here on, to the CPU of `end`.
pub fn pin(end: End) {
    if let Some(cpu) = cpu(end) {
        let mut set = CpuSet::new();
        set.set(cpu);
        sched_setaffinity(None, &set).expect("a CPU of this program's own");
    }
}

/// How processes are placed, for the table.
pub fn placement() -> String {
    match (cpu(End::Front), cpu(End::Back)) {
        (Some(front), Some(back)) => format!("front ends of pipes on CPU {front}, back ends on CPU {back}"),
        _ => "one CPU, no placement".into(),
    }
}

/// A process on the CPU of its end.
pub fn spawn(end: End, command: &mut Command) -> Child {
    pin(end);
    let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    pin(End::Back);
    child
}

/// Runs a command without input and output and times it.
pub fn time(command: &mut Command) -> Duration {
    let since = Instant::now();
    succeed(spawn(End::Back, command.stdin(Stdio::null()).stdout(Stdio::null())));
    since.elapsed()
}

/// Times `front | back > /dev/null`.
pub fn time_pipe(front: &mut Command, back: &mut Command) -> Duration {
    let since = Instant::now();
    let (read, write) = io::pipe().expect("a pipe");
    let front_child = spawn(End::Front, front.stdout(write));
    // The command holds the writing end, too; the pipe must end when the child does.
    front.stdout(Stdio::null());
    let back_child = spawn_reader(back, read);
    succeed(front_child);
    succeed(back_child);
    since.elapsed()
}

fn spawn_reader(back: &mut Command, read: PipeReader) -> Child {
    let child = spawn(End::Back, back.stdin(read).stdout(Stdio::null()));
    back.stdin(Stdio::null());
    child
}

fn succeed(mut child: Child) {
    let status = child.wait().expect("a child's status");
    assert!(status.success(), "{status}");
}

/// Feeds `input` to the program's standard input and gives the most memory that it ever held, in KiB (`VmHWM`), at the
/// moment when it has taken everything but the end.
pub fn peak_memory(command: &mut Command, input: &mut File) -> io::Result<u64> {
    let (read, write) = io::pipe()?;
    let child = spawn_reader(command, read);
    let peak = feed(child.id(), input, write);
    succeed(child);
    peak
}

fn feed(process: u32, input: &mut File, mut write: PipeWriter) -> io::Result<u64> {
    io::copy(input, &mut write)?;
    while rustix::io::ioctl_fionread(&write)? > 0 {
        std::thread::yield_now();
    }
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok());
    number.ok_or_else(|| io::Error::other("no VmHWM"))
}
