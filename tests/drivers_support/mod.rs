//! A primary and a secondary on threads of this process, a socket between them.
#![allow(dead_code)] // Each test program uses its own part of it.

use std::path::Path;
use std::sync::Mutex;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use xen_replicate::control::{Request, Status};
use xen_replicate::host::sim::{Backend, Guest, SimTarget, xl_config};
use xen_replicate::hypervisor::OutputBuffer;
use xen_replicate::hypervisor::sim::{Runner, SimConfig, SimDomain};
use xen_replicate::libxl;
use xen_replicate::remus::pacing::Pacing;
use xen_replicate::remus::{Config, Generation, Rule};
use xen_replicate::replicate::Handle;
use xen_replicate::replicate::failpoint::Failpoints;
use xen_replicate::replicate::primary::{self, Ended};
use xen_replicate::replicate::secondary::{self, Outcome, Trouble};
use xen_replicate::transport::{Address, Cancel, Listener};
use xen_replicate::witness::{DirectoryWitness, Holder, Witness};

/// How long anything may take on a busy machine.
pub fn patience() -> Duration {
    Duration::from_secs(60)
}

pub struct Wanted {
    pub rule: Rule,
    pub other_rule: Option<Rule>,
    pub interval: Duration,
    pub pacing: Option<Pacing>,
    pub staging_limit: u64,
    /// The secondary's, if it is another.
    pub other_timeout: Option<Duration>,
    /// The secondary sees another folder than the primary's witness.
    pub other_witness: bool,
    /// The guest answers when it is asked to suspend.
    pub suspends: bool,
    /// The hypervisor resumes it.
    pub resumes: bool,
    /// Somebody destroys the domain while it is suspended for this time.
    pub lives: Option<u32>,
    /// What becomes of the guest's output buffer before the primary has it.
    pub output: Option<Wrap>,
}

pub type Wrap = fn(Box<dyn OutputBuffer>) -> Box<dyn OutputBuffer>;

impl Default for Wanted {
    fn default() -> Self {
        Wanted {
            rule: Rule::Witness,
            other_rule: None,
            interval: Duration::from_millis(10),
            pacing: None,
            staging_limit: 1 << 30,
            other_timeout: None,
            other_witness: false,
            suspends: true,
            resumes: true,
            lives: None,
            output: None,
        }
    }
}

pub struct Pair {
    folder: TempDir,
    wanted: Wanted,
    pub primary: Handle,
    pub secondary: Handle,
    protecting: Mutex<Option<Protecting>>,
    receiving: Mutex<Option<Receiving>>,
}

fn config(rule: Rule, interval: Duration) -> Config {
    Config { rule, interval, timeout: Duration::from_secs(5), ..Config::default() }
}

impl Pair {
    pub fn start(wanted: &Wanted) -> Pair {
        let folder = tempfile::tempdir().unwrap();
        let wanted = Wanted { ..*wanted };
        let (secondary, receiving, address) = receive(&folder, &wanted);
        let sim = SimConfig { name: "guest".into(), ..SimConfig::small(7) };
        let mut domain = SimDomain::create(&sim).unwrap();
        domain.set_acknowledge_suspend(wanted.suspends);
        domain.set_resumes(wanted.resumes);
        if let Some(lives) = wanted.lives {
            domain.set_lives(lives);
        }
        let Guest { runner, output, wire } = Backend::default().house(domain).unwrap();
        let output = match wanted.output {
            Some(wrap) => wrap(output),
            None => output,
        };
        let driver = primary::Driver::default();
        let handle = driver.handle();
        let settings = primary::Settings {
            domain: "guest".into(),
            config: config(wanted.rule, wanted.interval),
            generation: Generation(0),
            pacing: wanted.pacing,
            staging_limit: wanted.staging_limit,
            save: libxl::save::Options { config: Some(xl_config(&sim)), ..libxl::save::Options::default() },
            witness: witness(folder.path(), wanted.rule),
            output,
            disks: Vec::new(),
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
        Pair {
            folder,
            wanted,
            primary: handle,
            secondary,
            protecting: Mutex::new(Some(protecting)),
            receiving: Mutex::new(Some(receiving)),
        }
    }

    /// The same primary with another secondary.
    pub fn again(self) -> Pair {
        let (secondary, receiving, address) = receive(&self.folder, &self.wanted);
        let reply = self.primary.request(Request::Protect { host: address.to_string(), rsh: None, remote: None });
        assert!(reply.ok, "{reply:?}");
        Pair { secondary, receiving: Mutex::new(Some(receiving)), ..self }
    }

    pub fn status(&self) -> Status {
        *self.primary.request(Request::Status).status.expect("a status")
    }

    /// Waits until the primary is in a phase.
    pub fn wait_for(&self, phase: &str) -> Status {
        self.wait(phase, |status| status.phase == phase)
    }

    /// Waits until a checkpoint is acknowledged.
    pub fn wait_for_checkpoint(&self, number: u64) -> Status {
        self.wait(&format!("checkpoint {number}"), |status| status.acknowledged >= number)
    }

    pub fn wait(&self, what: &str, there: impl Fn(&Status) -> bool) -> Status {
        let end = Instant::now() + patience();
        loop {
            let status = self.status();
            if there(&status) {
                return status;
            }
            assert!(Instant::now() < end, "{what} did not come: {status:#?}");
            thread::yield_now();
        }
    }

    pub fn join_secondary(&self) -> Result<Outcome<SimDomain>, Trouble> {
        self.receiving.lock().unwrap().take().unwrap().join().unwrap()
    }

    pub fn try_primary(&self) -> Result<Ended<Runner>, primary::Trouble> {
        self.protecting.lock().unwrap().take().unwrap().join().unwrap()
    }

    fn join_primary(&self) -> Ended<Runner> {
        self.try_primary().unwrap()
    }

    /// Tells the primary to end.
    pub fn end_primary(&self) -> Ended<Runner> {
        self.primary.terminate();
        self.join_primary()
    }

    pub fn join(&self) -> (Ended<Runner>, Result<Outcome<SimDomain>, Trouble>) {
        (self.join_primary(), self.join_secondary())
    }
}

fn witness(folder: &Path, rule: Rule) -> Option<Box<dyn Witness>> {
    (rule == Rule::Witness)
        .then(|| Box::new(DirectoryWitness::open(folder, "guest", Holder::new()).unwrap()) as Box<dyn Witness>)
}

type Protecting = JoinHandle<Result<Ended<Runner>, primary::Trouble>>;
type Receiving = JoinHandle<Result<Outcome<SimDomain>, Trouble>>;

fn receive(folder: &TempDir, wanted: &Wanted) -> (Handle, Receiving, Address) {
    let address = Address::Unix(folder.path().join("link"));
    let listener = Listener::bind(&address).unwrap();
    let driver = secondary::Driver::<SimTarget>::default();
    let handle = driver.handle();
    let rule = wanted.other_rule.unwrap_or(wanted.rule);
    let usual = config(rule, wanted.interval);
    let other = folder.path().join("elsewhere");
    std::fs::create_dir_all(&other).unwrap();
    let seen = if wanted.other_witness { &other } else { folder.path() };
    let settings = secondary::Settings {
        domain: "guest".into(),
        config: Config { timeout: wanted.other_timeout.unwrap_or(usual.timeout), ..usual },
        restore: libxl::restore::Options::default(),
        fence: None,
        witness: witness(seen, rule),
        record: None,
        on_checkpoint: None,
        on_replica: None,
        failpoints: Failpoints::default(),
    };
    let target = SimTarget { domain: "guest".into(), memory_budget: None };
    let receiving = thread::spawn(move || {
        let (link, cancel) = listener.accept(&Cancel::new().unwrap()).unwrap();
        driver.run(link, cancel, target, settings)
    });
    (handle, receiving, address)
}

/// Holds two domains that stand still against each other.
pub fn assert_same(primary: &SimDomain, survivor: &SimDomain) {
    let differences = survivor.diff(&primary.snapshot().unwrap(), 8).unwrap();
    assert!(differences.is_empty(), "{differences:?}");
}
