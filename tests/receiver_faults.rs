//! The stock receiver fails once, at each of its steps and in each way: what it has built does not come to life by itself, what is said names
//! what helps, and no process is left.

mod common;

use std::fs;
use std::io::Read;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use xen_replicate::host::xen::incoming::{Disks, Incoming};
use xen_replicate::host::xen::receiver::{Waits, Way};
use xen_replicate::libxl::restore::Options;
use xen_replicate::replicate::secondary::{Copies, Replica};

/// Where it fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Banner,
    /// Instead of saying that it is at this checkpoint.
    Applied(u64),
    FailOver,
}

const STEPS: [Step; 5] = [Step::Banner, Step::Applied(1), Step::Applied(2), Step::Applied(3), Step::FailOver];

/// How.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// It ends with an error.
    Exit,
    /// It ends as if all were well.
    End,
    /// It is stopped, and reads nothing.
    Stopped,
    /// It goes on reading, and says nothing.
    Mute,
    /// It says something else.
    Nonsense,
}

const FAULTS: [Fault; 5] = [Fault::Exit, Fault::End, Fault::Stopped, Fault::Mute, Fault::Nonsense];

const LONG: Duration = Duration::from_secs(300);

fn stream() -> Vec<u8> {
    let mut bytes = Vec::new();
    let file = fs::File::open(common::fixture("xen/4.17.7stock-pvh40-remus.xz")).unwrap();
    lzma_rust2::XzReader::new(file, true).read_to_end(&mut bytes).unwrap();
    bytes
}

/// A script in its place. It writes `failed-over` where it comes to life.
fn receiver(folder: &Path, step: Step, fault: Fault) -> Way {
    let said = match step {
        Step::Banner => 0,
        Step::Applied(checkpoint) => checkpoint,
        Step::FailOver => 100,
    };
    let mut says = Vec::new();
    if said > 0 {
        says.extend(b"xl migration receiver ready, send binary domain data.\n");
    }
    for checkpoint in 1..said {
        says.extend([0x8000_5852u32, 16, 7, 0].map(u32::to_le_bytes).as_flattened());
        says.extend(checkpoint.to_le_bytes());
    }
    let at_end = step == Step::FailOver;
    if fault == Fault::Nonsense && !at_end {
        says.extend([b'?'; 64]);
    }
    fs::write(folder.join("says"), says).unwrap();
    let fails = match fault {
        Fault::Exit => "exit 3",
        Fault::End => "exit 0",
        Fault::Stopped => "kill -STOP $$",
        Fault::Mute | Fault::Nonsense if at_end => "exec sleep 1000",
        Fault::Mute | Fault::Nonsense => "",
    };
    let lives = "test -e $XEN_REPLICATE_FAILOVER && touch $0/failed-over";
    let script = match at_end {
        true => format!("cat >$0/stream; test -e $XEN_REPLICATE_FAILOVER && {fails}"),
        false => format!("{fails}; cat >$0/stream; {lives}"),
    };
    let script = format!("echo $$ >$0/pid; cat $0/says; {}", script.trim_start_matches("; "));
    // Only what is to hang is not waited for.
    let (short, all) = (Duration::from_millis(150), Waits { answer: LONG, take_over: LONG, feed: LONG, end: LONG });
    let waits = match (fault, at_end) {
        (Fault::Exit | Fault::End, _) | (Fault::Nonsense, false) => all,
        (_, true) => Waits { take_over: short, ..all },
        (_, false) => Waits { answer: short, feed: short, ..all },
    };
    Way { command: format!("sh -c '{script}' {}", folder.display()), helper: "/bin/sh".into(), waits }
}

fn is_gone(folder: &Path) -> bool {
    let pid = fs::read_to_string(folder.join("pid")).unwrap();
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.is_empty() || stat.contains(") Z ")
}

/// What the failure says, and whether the domain has come to life.
fn failover(stream: &[u8], step: Step, fault: Fault) -> (Result<u32, String>, bool) {
    let folder = TempDir::new().unwrap();
    let way = receiver(folder.path(), step, fault);
    let mut incoming = Incoming::new("pvh".into(), way, Disks::Kept);
    let mut options = Options::default();
    options.libxc.round_limit = Some(1 << 30);
    let outcome = incoming.image(stream, options).map_err(|unsound| {
        assert!(!unsound.is_sender_gone(), "{step:?}, {fault:?}: {unsound}");
        unsound.to_string()
    });
    let outcome = outcome.and_then(|mut copy| {
        for _ in 0..4 {
            copy.receive().map_err(|unsound| unsound.to_string())?;
            copy.apply()?;
        }
        copy.activate().map(|active| active.domid)
    });
    let begun = Instant::now();
    while !is_gone(folder.path()) {
        assert!(begun.elapsed() < LONG, "{step:?}, {fault:?}: it stays");
        thread::yield_now();
    }
    (outcome, folder.path().join("failed-over").exists())
}

#[test]
fn each_step_of_a_failover_fails_in_each_way_and_nothing_comes_to_life_by_itself() {
    let stream = stream();
    let mut cases = 0;
    for step in STEPS {
        for fault in FAULTS {
            let (outcome, lives) = failover(&stream, step, fault);
            cases += 1;
            // One that ends well after it was told to take over has done so.
            if (step, fault) == (Step::FailOver, Fault::End) {
                assert_eq!(outcome, Ok(7));
                continue;
            }
            let error = outcome.expect_err(&format!("{step:?}, {fault:?}"));
            assert!(!lives, "{step:?}, {fault:?}: it came to life: {error}");
            let part = match (step, fault) {
                (Step::FailOver, Fault::Exit) => "exit status: 3",
                (Step::FailOver, _) => "was killed",
                (Step::Banner, Fault::Nonsense) => "????",
                (_, Fault::Exit) => "exit status: 3",
                (_, Fault::Stopped) => "migrate-receive",
                (_, Fault::Mute) => "has said nothing",
                _ => "",
            };
            assert!(!error.is_empty() && error.contains(part), "{step:?}, {fault:?}: {error}");
            if step == Step::FailOver {
                assert!(error.contains("xl destroy 7"), "{error}");
            }
        }
    }
    println!("stock receiver, a failover: {cases} cases");
    assert_eq!(cases, STEPS.len() * FAULTS.len());
}
