//! How long a guest stays suspended for a checkpoint of 10,000 scattered dirty pages, against a bare copy of the same pages.

use crate::Result;
use crate::helper::{Moment, Program, Stream, Timed, Tools};
use crate::home::{Home, Homes};
use crate::table::{Table, median};
use memmap2::{Mmap, MmapOptions};
use std::ffi::CStr;
use std::fs::File;
use std::hint::black_box;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};
use xen_replicate::hypervisor::PAGE_SIZE;
use xen_replicate::save_helper::message::Level;
use xen_replicate::save_helper::{Answers, StreamType};
use xen_replicate::stream::Mode;
use xen_replicate::stream::framer::Options;
use xen_replicate::stream::handover::{Alone, LibxcReader};
use xen_replicate::stream::libxc::{BATCH, Record};

/// Checkpoints in one process behind the first image; the first of them does not count.
const CHECKPOINTS: usize = 4;
/// Longest that anything here may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// When the guest writes the pages of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writes {
    /// In the interval that libxl lets pass before it answers `checkpoint`.
    Interval,
    /// All of them behind that, until `suspend` is answered: the worst case, for which the guest stands still in the interval.
    Suspending,
}

/// The times of some checkpoints.
#[derive(Debug, Default)]
struct Times {
    suspended: Vec<Duration>,
    copies: Vec<Duration>,
    /// Mapping and unmapping the same pages as the stand-in does.
    mappings: Vec<Duration>,
    pages: Vec<usize>,
}

/// What the control socket of the stand-in is for: a guest that makes one step between two checkpoints.
struct Guest {
    control: BufReader<UnixStream>,
}

impl Guest {
    fn tell(&mut self, command: &str) -> Result<String> {
        self.control.get_mut().write_all(format!("{command}\n").as_bytes())?;
        let mut reply = String::new();
        self.control.read_line(&mut reply)?;
        let words = reply.trim_end().strip_prefix("ok").ok_or_else(|| format!("{command}: {reply}"))?;
        Ok(words.trim_start().to_owned())
    }

    fn steps(&mut self) -> Result<u64> {
        Ok(self.tell("steps")?.parse()?)
    }
}

/// libxl, which lets the guest run only when the copy has been timed.
struct Protecting<'a> {
    home: &'a Home,
    homes: &'a Homes,
    guest: Option<Guest>,
    steps: u64,
    rounds: Receiver<Vec<u64>>,
    memory: Mmap,
    copy: Vec<u8>,
    suspended: Option<Instant>,
    number: usize,
    writes: Writes,
    times: Times,
    complaint: String,
}

impl Protecting<'_> {
    fn guest(&mut self) -> Result<&mut Guest> {
        match &mut self.guest {
            Some(guest) => Ok(guest),
            none => {
                let control = BufReader::new(UnixStream::connect(self.home.path("control"))?);
                Ok(none.insert(Guest { control }))
            }
        }
    }

    fn try_suspend(&mut self) -> Result<()> {
        if self.writes == Writes::Suspending && self.number > 0 {
            self.step()?;
        }
        self.guest()?.tell("suspend")?;
        self.steps = self.guest()?.steps()?;
        self.suspended = Some(Instant::now());
        Ok(())
    }

    /// Lets the guest run, until it has made a step.
    fn step(&mut self) -> Result<()> {
        self.guest()?.tell("resume")?;
        let (before, end) = (self.steps, Instant::now() + PATIENCE);
        let guest = self.guest()?;
        while guest.steps()? <= before {
            if Instant::now() > end {
                return Err("the guest does not run".into());
            }
            thread::yield_now();
        }
        Ok(())
    }

    /// The stream is at a checkpoint. The guest still stands.
    fn try_checkpoint(&mut self) -> Result<bool> {
        let pfns = self.rounds.recv_timeout(PATIENCE)?;
        if self.number > 1 {
            let time = self.time_copy(&pfns)?;
            self.times.copies.push(time);
            let time = self.time_mapping(&pfns)?;
            self.times.mappings.push(time);
            self.times.pages.push(pfns.len());
        }
        self.number += 1;
        if self.number > CHECKPOINTS {
            return Ok(false);
        }
        if self.writes == Writes::Interval {
            self.step()?;
        }
        Ok(true)
    }

    fn time_copy(&mut self, pfns: &[u64]) -> Result<Duration> {
        let places: Option<Vec<usize>> = pfns.iter().map(|&pfn| Some(self.homes.slot(pfn)? * PAGE_SIZE)).collect();
        let places = places.ok_or("a dirty page that the guest does not have")?;
        self.copy.resize(self.copy.len().max(places.len() * PAGE_SIZE), 1);
        let start = Instant::now();
        for (page, &at) in self.copy.chunks_exact_mut(PAGE_SIZE).zip(&places) {
            page.copy_from_slice(self.memory.get(at..at + PAGE_SIZE).ok_or("a page beyond the memory")?);
        }
        let time = start.elapsed();
        black_box(&self.copy);
        Ok(time)
    }

    /// The stand-in maps adjacent pages of the file at once, and what lies apart with a call each.
    fn time_mapping(&self, pfns: &[u64]) -> Result<Duration> {
        let file = File::open(self.home.path("memory"))?;
        let slots: Option<Vec<usize>> = pfns.iter().map(|&pfn| self.homes.slot(pfn)).collect();
        let slots = slots.ok_or("a dirty page that the guest does not have")?;
        let start = Instant::now();
        for batch in slots.chunks(BATCH) {
            let mut maps = Vec::with_capacity(batch.len());
            for run in batch.chunk_by(|&slot, &next| slot + 1 == next) {
                let Some(&first) = run.first() else { continue };
                let (offset, length) = ((first * PAGE_SIZE) as u64, run.len() * PAGE_SIZE);
                // SAFETY: as for the mapping of the whole; this one is not even looked at.
                maps.push(unsafe { MmapOptions::new().offset(offset).len(length).populate().map(&file)? });
            }
            black_box(&maps);
        }
        Ok(start.elapsed())
    }

    fn answered<T>(&mut self, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.complaint = error.to_string()).ok()
    }
}

impl Answers for Protecting<'_> {
    fn log(&mut self, level: Level, _: u32, _: &CStr, text: &CStr) {
        if level >= Level::Error && self.complaint.is_empty() {
            self.complaint = text.to_string_lossy().into_owned();
        }
    }

    fn suspend(&mut self) -> i32 {
        let result = self.try_suspend();
        self.answered(result).map_or(0, |()| 1)
    }

    fn postcopy(&mut self) -> i32 {
        if let (Some(suspended), true) = (self.suspended, self.number > 1) {
            self.times.suspended.push(suspended.elapsed());
        }
        1
    }

    fn checkpoint(&mut self) -> i32 {
        let result = self.try_checkpoint();
        self.answered(result).map_or(-1, i32::from)
    }
}

impl Timed for Protecting<'_> {
    fn started(&self) -> Option<Moment> {
        None
    }

    fn complaint(&self) -> &str {
        &self.complaint
    }
}

/// Tells the pfns of each checkpoint, until the stream ends.
fn read(path: &Path, rounds: Sender<Vec<u64>>) -> Result<()> {
    let options = Options { mode: Some(Mode::Remus), ..Options::default() };
    let mut reader = LibxcReader::<_, Alone>::start(File::open(path)?, options);
    reader.headers()?;
    let mut pfns = Vec::new();
    loop {
        match reader.next_record() {
            Ok(Some((_, Record::PageData(pages)))) => pfns.extend(pages.entries().map(|entry| entry.pfn)),
            // Nobody listens when the helper has failed.
            Ok(Some((_, Record::Checkpoint))) => rounds.send(std::mem::take(&mut pfns))?,
            Ok(Some(_)) => {}
            // The end of the stream, which is that of the protection.
            Ok(None) | Err(_) => return Ok(()),
        }
    }
}

fn protect(tools: &Tools, homes: &Homes, program: Program, writes: Writes, times: &mut Times) -> Result<()> {
    let (path, home) = (homes.fifo(), homes.fresh()?);
    let (sender, rounds) = channel();
    // SAFETY: the file is in a folder of this program's own. The guest writes to it, and only while it runs; it is read only
    // while the guest stands still.
    let memory = unsafe { MmapOptions::new().populate().map(&File::open(home.path("memory"))?)? };
    let mut libxl = Protecting {
        home,
        homes,
        guest: None,
        steps: 0,
        rounds,
        memory,
        copy: Vec::new(),
        suspended: None,
        number: 0,
        writes,
        times: Times::default(),
        complaint: String::new(),
    };
    thread::scope(|scope| {
        // Its errors show as a helper that fails.
        scope.spawn(|| read(&path, sender).map_err(|error| error.to_string()));
        tools.save(program, home, Stream::To(&path), StreamType::Remus)?.answer(&mut libxl)
    })?;
    times.suspended.append(&mut libxl.times.suspended);
    times.copies.append(&mut libxl.times.copies);
    times.mappings.append(&mut libxl.times.mappings);
    times.pages.append(&mut libxl.times.pages);
    Ok(())
}

/// Checkpoints of both, in turns.
pub fn all(tools: &Tools, homes: &Homes, rounds: u64, table: &mut Table) -> Result<()> {
    for (when, writes) in [("in the interval", Writes::Interval), ("while it is suspended", Writes::Suspending)] {
        let (mut theirs, mut ours) = (Times::default(), Times::default());
        for _ in 0..rounds.div_ceil(CHECKPOINTS as u64 - 1) {
            protect(tools, homes, Program::Debians, writes, &mut theirs)?;
            protect(tools, homes, Program::Ours, writes, &mut ours)?;
        }
        for (whose, times) in [("theirs", &theirs), ("ours", &ours)] {
            println!("Remus, written {when}, {whose}: {times:.1?}");
            let (Some(suspended), Some(copy), Some(mapping)) =
                (median(&times.suspended), median(&times.copies), median(&times.mappings))
            else {
                continue;
            };
            let ms = |time: Duration| time.as_secs_f64() * 1e3;
            let bound = copy.mul_f64(1.3) + Duration::from_millis(1);
            let pages = times.pages.iter().sum::<usize>() / times.pages.len().max(1);
            let figure = format!("{:.1} ms", ms(suspended));
            let demand = if whose == "ours" { format!("{:.1} ms", ms(bound)) } else { String::new() };
            table.figure(&format!("suspended, {whose}, {pages} pages written {when}"), figure, &demand);
            table.figure("    a copy of the same pages", format!("{:.1} ms", ms(copy)), "");
            table.figure("    mapping the same pages one by one", format!("{:.1} ms", ms(mapping)), "");
        }
    }
    Ok(())
}
