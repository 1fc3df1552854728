//! The most memory that a helper has of its own: the guest's pages, which are mapped from files in memory, apart.

use crate::Result;
use crate::helper::{Program, Running, Stream, Tools};
use crate::home::Homes;
use crate::table::Table;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;
use xen_replicate::save_helper::StreamType;

/// Between two looks.
const PAUSE: Duration = Duration::from_micros(500);

/// Memory at one time, in KiB.
#[derive(Debug, Clone, Copy, Default)]
struct Resident {
    anonymous: u64,
    /// Programs and libraries.
    files: u64,
}

/// What the kernel says of a process; `None` when it has ended.
fn look(pid: u32) -> Option<Resident> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| -> Option<u64> {
        status.lines().find_map(|line| line.strip_prefix(name))?.trim_end_matches("kB").trim().parse().ok()
    };
    Some(Resident { anonymous: field("RssAnon:")?, files: field("RssFile:")? })
}

/// The most that it had at any look.
fn peak(helper: Running) -> Result<Resident> {
    let (pid, over) = (helper.id(), AtomicBool::new(false));
    thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let mut most = Resident::default();
            while !over.load(Ordering::Relaxed)
                && let Some(now) = look(pid)
            {
                most.anonymous = most.anonymous.max(now.anonymous);
                most.files = most.files.max(now.files);
                thread::sleep(PAUSE);
            }
            most
        });
        let result = helper.finish();
        over.store(true, Ordering::Relaxed);
        let most = looking.join().map_err(|_| "the looker has panicked")?;
        result.map(|_| most)
    })
}

/// One save and one restore of each.
pub fn all(tools: &Tools, homes: &Homes, table: &mut Table) -> Result<()> {
    let (to, from) = (homes.stream("ours"), homes.stream("theirs"));
    for (what, saving) in [("save", true), ("restore", false)] {
        let [theirs, ours] = [Program::Debians, Program::Ours].map(|program| {
            peak(match saving {
                true => tools.save(program, &homes.still, Stream::Over(&to), StreamType::Plain)?,
                false => tools.restore(program, &homes.empty, Stream::From(&from))?,
            })
        });
        let (theirs, ours) = (theirs?, ours?);
        let mib = |kib: u64| kib as f64 / 1024.0;
        let figure = format!("{:.1} / {:.1} MiB", mib(theirs.anonymous), mib(ours.anonymous));
        table.figure(&format!("most anonymous memory, {what}, theirs / ours"), figure, "no more");
        let figure = format!("{:.1} / {:.1} MiB", mib(theirs.files), mib(ours.files));
        table.figure(&format!("most of programs and libraries, {what}"), figure, "");
    }
    Ok(())
}
