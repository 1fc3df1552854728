//! The engine and its disks, in one process: when they are asked for what, and what comes of it when they cannot.

use std::io::Read;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use xen_replicate::control::{Request, Status};
use xen_replicate::host::sim::{Backend, Guest, SimTarget, xl_config};
use xen_replicate::hypervisor::sim::{Runner, SimConfig, SimDomain};
use xen_replicate::hypervisor::{Error, Replicated, Result};
use xen_replicate::libxl::{self, restore::Options};
use xen_replicate::remus::{Config, Generation, Rule, Session};
use xen_replicate::replicate::Handle;
use xen_replicate::replicate::failpoint::Failpoints;
use xen_replicate::replicate::primary::{self, Ended, Ending};
use xen_replicate::replicate::secondary::{self, Arrived, Copies, End, Outcome, Replica, Restored, Trouble, Unsound};
use xen_replicate::transport::{Address, Cancel, Listener};

/// What a disk, or its keeper, was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Begin(u64),
    Suspended(u64, u64),
    Wait,
    Leave,
    Commit(u64, u64),
    Activate,
}

type Log = Arc<Mutex<Vec<Asked>>>;

fn say(log: &Log, asked: Asked) {
    log.lock().unwrap().push(asked);
}

/// A disk that fails at one of these.
#[derive(Debug, Clone, Copy, Default)]
struct Faults {
    begin: bool,
    suspended_at: Option<u64>,
    wait_at: Option<u64>,
    commit_at: Option<u64>,
}

struct Disk {
    log: Log,
    faults: Faults,
    at: u64,
}

fn fails(fault: bool, what: &str) -> Result<()> {
    if fault { Err(Error::Toolstack(format!("the disk of the test: {what}"))) } else { Ok(()) }
}

impl Replicated for Disk {
    fn begin(&mut self, session: u64) -> Result<()> {
        say(&self.log, Asked::Begin(session));
        fails(self.faults.begin, "begin")
    }

    fn suspended(&mut self, session: u64, checkpoint: u64) -> Result<()> {
        self.at = checkpoint;
        say(&self.log, Asked::Suspended(session, checkpoint));
        fails(self.faults.suspended_at == Some(checkpoint), "suspended")
    }

    fn wait(&mut self) -> Result<()> {
        say(&self.log, Asked::Wait);
        fails(self.faults.wait_at == Some(self.at), "wait")
    }

    fn leave(&mut self) {
        say(&self.log, Asked::Leave);
    }
}

/// Copies whose host has a keeper of the disk.
struct Kept {
    target: SimTarget,
    log: Log,
    faults: Faults,
}

struct Copy<R> {
    inner: Restored<R, SimDomain>,
    log: Log,
    faults: Faults,
}

impl Copies for Kept {
    type Domain = SimDomain;
    type Copy<R: Read> = Copy<R>;

    fn image<R: Read>(&mut self, stream: R, options: Options) -> std::result::Result<Copy<R>, Unsound> {
        let inner = self.target.image(stream, options)?;
        Ok(Copy { inner, log: Arc::clone(&self.log), faults: self.faults })
    }
}

impl<R: Read> Replica for Copy<R> {
    type Domain = SimDomain;

    fn receive(&mut self) -> std::result::Result<Arrived, Unsound> {
        self.inner.receive()
    }

    fn commit(&mut self, session: Session, checkpoint: u64) -> std::result::Result<(), String> {
        say(&self.log, Asked::Commit(session.0, checkpoint));
        if self.faults.commit_at == Some(checkpoint) { Err("the keeper of the test".into()) } else { Ok(()) }
    }

    fn apply(&mut self) -> std::result::Result<(), String> {
        self.inner.apply()
    }

    fn memory(&self) -> u64 {
        0
    }

    fn activate(self) -> std::result::Result<SimDomain, String> {
        say(&self.log, Asked::Activate);
        self.inner.activate()
    }
}

struct Pair {
    log: Log,
    primary: Handle,
    protecting: thread::JoinHandle<std::result::Result<Ended<Runner>, primary::Trouble>>,
    receiving: thread::JoinHandle<std::result::Result<Outcome<SimDomain>, Trouble>>,
}

fn start(faults: Faults) -> Pair {
    let folder = tempfile::tempdir().unwrap();
    let log = Log::default();
    let timeout = Duration::from_secs(5);
    let config = Config { rule: Rule::Manual, interval: Duration::from_millis(10), timeout, ..Config::default() };
    let address = Address::Unix(folder.path().join("link"));
    let listener = Listener::bind(&address).unwrap();
    let settings = secondary::Settings {
        domain: "guest".into(),
        config,
        restore: Options::default(),
        fence: None,
        witness: None,
        record: None,
        on_checkpoint: None,
        on_replica: None,
        failpoints: Failpoints::default(),
    };
    let target = SimTarget { domain: "guest".into(), memory_budget: None };
    let kept = Kept { target, log: Arc::clone(&log), faults };
    let receiving = thread::spawn(move || {
        let (link, cancel) = listener.accept(&Cancel::new().unwrap()).unwrap();
        drop(folder);
        secondary::Driver::default().run(link, cancel, kept, settings)
    });
    let sim = SimConfig { name: "guest".into(), ..SimConfig::small(7) };
    let Guest { runner, output, wire } = Backend::default().house(SimDomain::create(&sim).unwrap()).unwrap();
    let driver = primary::Driver::default();
    let handle = driver.handle();
    let settings = primary::Settings {
        domain: "guest".into(),
        config,
        generation: Generation(0),
        pacing: None,
        staging_limit: 1 << 30,
        save: libxl::save::Options { config: Some(xl_config(&sim)), ..libxl::save::Options::default() },
        witness: None,
        output,
        disks: vec![Box::new(Disk { log: Arc::clone(&log), faults, at: 0 })],
        resolve: Box::new(|host, _, _| Address::parse(host, false).map_err(|error| error.to_string())),
        once: false,
        on_round: None,
        failpoints: Failpoints::default(),
    };
    let protecting = thread::spawn(move || {
        let ended = driver.run(runner, Some(address), (), settings);
        drop(wire);
        ended
    });
    Pair { log, primary: handle, protecting, receiving }
}

impl Pair {
    fn wait(&self, what: &str, there: impl Fn(&Status) -> bool) -> Status {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let status = *self.primary.request(Request::Status).status.unwrap();
            if there(&status) {
                return status;
            }
            assert!(Instant::now() < end, "{what} did not come: {status:#?}");
            thread::yield_now();
        }
    }

    /// The guest runs unprotected, for this reason; then both sides end.
    fn ends_alone(self, why: &str) -> (Vec<Asked>, End) {
        let status = self.wait("alone", |status| status.phase == "alone" && !status.notices.is_empty());
        assert!(!status.protected);
        assert!(status.notices.iter().any(|notice| notice.text.contains(why)), "{:#?}", status.notices);
        self.primary.terminate();
        let ended = self.protecting.join().unwrap().unwrap();
        assert_eq!(ended.how, Ending::Stopped);
        let guest = ended.domain.stop().unwrap();
        guest.self_check().unwrap();
        let Outcome::Ended(end) = self.receiving.join().unwrap().unwrap() else { panic!("a survivor") };
        let log = self.log.lock().unwrap().clone();
        (log, end)
    }
}

/// The checkpoints that the disk was asked to close.
fn closed(log: &[Asked]) -> Vec<(u64, u64)> {
    let each = log.iter().filter_map(|asked| match *asked {
        Asked::Suspended(session, checkpoint) => Some((session, checkpoint)),
        _ => None,
    });
    each.collect()
}

fn committed(log: &[Asked]) -> Vec<(u64, u64)> {
    let each = log.iter().filter_map(|asked| match *asked {
        Asked::Commit(session, checkpoint) => Some((session, checkpoint)),
        _ => None,
    });
    each.collect()
}

#[test]
fn each_checkpoint_is_the_disks_first_and_committed_under_its_name() {
    let pair = start(Faults::default());
    pair.wait("five checkpoints", |status| status.acknowledged >= 5);
    assert!(pair.primary.request(Request::SwitchOver).ok);
    let ended = pair.protecting.join().unwrap().unwrap();
    assert_eq!(ended.how, Ending::SwitchedOver);
    let Outcome::Survivor(survivor) = pair.receiving.join().unwrap().unwrap() else { panic!("no survivor") };
    let log = pair.log.lock().unwrap().clone();
    let Some(Asked::Begin(session)) = log.first().copied() else { panic!("{log:?}") };
    let closed = closed(&log);
    assert_eq!(closed, (1..=survivor.checkpoint).map(|number| (session, number)).collect::<Vec<_>>());
    assert_eq!(committed(&log), closed);
    for (index, asked) in log.iter().enumerate() {
        // The disk has it before anybody acknowledges it.
        if let Asked::Commit(_, checkpoint) = *asked {
            let before = &log[..index];
            let waited = before.iter().filter(|asked| **asked == Asked::Wait).count() as u64;
            assert!(waited >= checkpoint, "checkpoint {checkpoint}: {before:?}");
        }
    }
    let activated = log.iter().position(|asked| *asked == Asked::Activate).unwrap();
    assert!(log[activated..].iter().all(|asked| !matches!(asked, Asked::Commit(..) | Asked::Suspended(..))), "{log:?}");
    assert!(log.contains(&Asked::Leave));
}

#[test]
fn a_disk_that_fails_ends_the_protection_and_not_the_guest() {
    for (faults, last, why) in [
        (Faults { begin: true, ..Faults::default() }, 0, "begin"),
        (Faults { suspended_at: Some(1), ..Faults::default() }, 0, "suspended"),
        (Faults { suspended_at: Some(4), ..Faults::default() }, 3, "suspended"),
        (Faults { wait_at: Some(4), ..Faults::default() }, 3, "wait"),
    ] {
        let (log, end) = start(faults).ends_alone(&format!("the disk of the test: {why}"));
        assert_eq!(committed(&log).last().map_or(0, |(_, checkpoint)| *checkpoint), last, "{faults:?}: {log:?}");
        assert!(matches!(end, End::Dismissed | End::Empty), "{end:?}");
        assert!(!log.contains(&Asked::Activate) && log.contains(&Asked::Leave), "{log:?}");
    }
}

#[test]
fn a_keeper_that_cannot_commit_costs_the_copy_and_not_the_guest() {
    for at in [1, 3] {
        let (log, end) = start(Faults { commit_at: Some(at), ..Faults::default() }).ends_alone("");
        assert_eq!(committed(&log).last().map(|(_, checkpoint)| *checkpoint), Some(at));
        assert_eq!(end, End::CopyLost);
        assert!(!log.contains(&Asked::Activate), "{log:?}");
    }
}
