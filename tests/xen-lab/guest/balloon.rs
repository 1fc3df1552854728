//! Memory that the guest has given back and taken again. Its kernel does both, when the toolstack tells it to (`xl mem-set`); this fills what
//! is free as soon as it has been taken, and looks at each step whether it is still what was written.
//!
//! ```text
//! LAB balloon given=24576
//! LAB balloon pages=9210 wrong=0
//! ```

use crate::work::{PAGE, WORDS, word};

/// `struct sysinfo` of Linux on x86-64.
#[repr(C)]
#[derive(Default)]
struct Memory {
    uptime: i64,
    loads: [u64; 3],
    total: u64,
    free: u64,
    /// The rest, which nobody looks at here.
    rest: [u64; 10],
}

unsafe extern "C" {
    fn sysinfo(memory: *mut Memory) -> i32;
}

/// KiB by which the guest must have shrunk, and must grow again.
const LEAST: u64 = 8 << 10;
/// KiB that are left free: the kernel needs some.
const LEFT: u64 = 12 << 10;
/// KiB that are filled beyond what was taken: the kernel gives out first what was freed last, as a rule.
const MORE: u64 = 4 << 10;
/// What stands for a count in the contents of these pages.
const MARK: u64 = 0xba11;

pub struct Balloon {
    /// KiB that it had at first.
    whole: u64,
    /// KiB that it has given back.
    given: u64,
    filled: Vec<u64>,
}

/// KiB in all, and free.
fn memory() -> (u64, u64) {
    let mut memory = Memory::default();
    // SAFETY: the structure is as large as the kernel's, or larger.
    unsafe { sysinfo(&raw mut memory) };
    (memory.total >> 10, memory.free >> 10)
}

impl Balloon {
    pub fn new() -> Self {
        Balloon { whole: memory().0, given: 0, filled: Vec::new() }
    }

    /// What is to be said at this step.
    pub fn step(&mut self) -> Option<String> {
        let (total, free) = memory();
        if !self.filled.is_empty() {
            let filled = std::hint::black_box(&self.filled);
            let wrong = filled.chunks(WORDS).enumerate().filter(|(number, page)| {
                page.iter().enumerate().any(|(index, &found)| found != word(*number, MARK, index))
            });
            return Some(format!("LAB balloon pages={} wrong={}", filled.len() / WORDS, wrong.count()));
        }
        let given = self.whole.saturating_sub(total);
        if given >= LEAST {
            // It goes on giving for a while.
            let more = given > self.given;
            self.given = self.given.max(given);
            return more.then(|| format!("LAB balloon given={given}"));
        }
        if self.given == 0 || given >= LEAST / 8 || free < LEFT + LEAST {
            return None;
        }
        let pages = ((free - LEFT).min(self.given + MORE) * 1024) as usize / PAGE;
        self.filled = vec![0; pages * WORDS];
        for (number, page) in self.filled.chunks_mut(WORDS).enumerate() {
            for (index, place) in page.iter_mut().enumerate() {
                *place = word(number, MARK, index);
            }
        }
        Some(format!("LAB balloon filled={pages}"))
    }
}
