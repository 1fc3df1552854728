//! Many cases, a few at a time, and what came of them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Instant;
use xen_replicate::outside::Seen;

/// Cases that run at the same time, those of all tests together.
const AT_ONCE: usize = 6;

static RUNNING: Mutex<usize> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();

/// The right to run a case.
#[derive(Debug)]
pub struct Permit(());

impl Permit {
    pub fn wait() -> Permit {
        let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let mut running = ENDED.wait_while(running, |n| *n >= AT_ONCE).unwrap_or_else(PoisonError::into_inner);
        *running += 1;
        Permit(())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        ENDED.notify_one();
    }
}

/// What came of a case that went as it must.
#[derive(Debug)]
pub struct Outcome {
    /// In a few words that are the same for all such cases.
    pub what: &'static str,
    pub seen: Seen,
}

/// Runs the cases, each to its end, until one fails: then this panics with its name. Prints the counts.
pub fn run<C: fmt::Debug + Sync>(suite: &str, cases: &[C], run: impl Fn(&C) -> Outcome + Sync) -> Counts {
    let begun = Instant::now();
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let counts = Mutex::new(Counts::default());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(cases.len()) {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::SeqCst)) {
                    if failed.load(Ordering::SeqCst) {
                        return;
                    }
                    let told = Told { suite, case: format!("{case:?}"), failed: &failed };
                    let outcome = run(case);
                    drop(told);
                    counts.lock().unwrap_or_else(PoisonError::into_inner).add(&outcome);
                }
            });
        }
    });
    let counts = counts.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("{suite}: {counts} ({:.1} s)", begun.elapsed().as_secs_f64());
    counts
}

/// Says which case it was.
struct Told<'a> {
    suite: &'a str,
    case: String,
    failed: &'a AtomicBool,
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.failed.store(true, Ordering::SeqCst);
            eprintln!("{}: failed: {}", self.suite, self.case);
        }
    }
}

/// What came of all.
#[derive(Debug, Default)]
pub struct Counts {
    pub cases: u64,
    pub what: BTreeMap<&'static str, u64>,
    pub acknowledged: u64,
    packets: u64,
    lost: u64,
    contradicted: u64,
    interleaved: u64,
    /// Nanoseconds without the guest, in each case that had a failover.
    away: Vec<u64>,
}

impl Counts {
    fn add(&mut self, outcome: &Outcome) {
        let Outcome { what, seen } = outcome;
        self.cases += 1;
        *self.what.entry(what).or_default() += 1;
        self.acknowledged += seen.acknowledged;
        self.packets += seen.packets;
        self.lost += seen.lost;
        self.contradicted += seen.contradicted;
        self.interleaved += seen.interleaved;
        self.away.extend(seen.fail_over_ns);
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cases:", self.cases)?;
        for (index, (what, count)) in self.what.iter().enumerate() {
            write!(f, "{} {count} {what}", if index == 0 { "" } else { "," })?;
        }
        let Counts { packets, acknowledged, lost, contradicted, interleaved, .. } = self;
        write!(f, "; packets {packets}, acknowledged {acknowledged}, lost {lost}, contradicted {contradicted}")?;
        write!(f, ", interleaved {interleaved}")?;
        let mut away = self.away.clone();
        away.sort_unstable();
        if let (Some(middle), Some(last)) = (away.get(away.len() / 2), away.last()) {
            let ms = |ns: &u64| *ns as f64 / 1e6;
            write!(f, "; away p50 {:.0} ms, max {:.0} ms", ms(middle), ms(last))?;
        }
        Ok(())
    }
}

/// Numbers that look random and are the same in every run: splitmix64.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    pub const fn new(seed: u64) -> Self {
        Dice(seed)
    }

    /// Below `end`.
    pub const fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}
