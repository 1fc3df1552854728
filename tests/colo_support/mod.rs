//! A COLO primary and its secondary on threads of this process, a socket between them, and what each guest was at each checkpoint.

#![allow(dead_code, reason = "each test program uses its part")]

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use xen_replicate::colo::{Config, Dialect, Mode};
use xen_replicate::control::{Request, Status};
use xen_replicate::host::colo::SimLockstep;
use xen_replicate::host::sim::{SimTarget, xl_config};
use xen_replicate::hypervisor::sim::{Digest, Nic, Pace, Runner, SimConfig, SimDomain, SimOutput};
use xen_replicate::libxl;
use xen_replicate::remus::{Generation, Rule};
use xen_replicate::replicate::Handle;
use xen_replicate::replicate::colo::primary::{self, Ended, Observer, Trouble};
use xen_replicate::replicate::colo::secondary::{self, Outcome};
use xen_replicate::transport::{Address, Cancel, Listener};
use xen_replicate::witness::{DirectoryWitness, Holder, Witness};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone)]
pub struct Wanted {
    pub mode: Mode,
    pub rule: Rule,
    pub sim: SimConfig,
    pub period: Duration,
    /// How long a packet waits.
    pub patience: Duration,
    /// How long a message may take.
    pub answer: Duration,
    /// Pages in one list of dirty pages.
    pub list: u64,
    /// No frames: as libxl speaks.
    pub bare: bool,
}

impl Default for Wanted {
    fn default() -> Self {
        Wanted {
            mode: Mode::LockStep,
            rule: Rule::Witness,
            sim: guest(),
            period: Duration::from_secs(50),
            patience: Duration::from_secs(30),
            answer: Duration::from_secs(30),
            list: xen_replicate::replicate::colo::lists::MOST,
            bare: false,
        }
    }
}

/// A guest that two hosts can run alike: what it sends does not tell when it was asked.
pub fn guest() -> SimConfig {
    SimConfig { name: "guest".into(), steady_answers: true, ..SimConfig::small(7) }
}

/// Two guests as fast as each other.
fn pace() -> Pace {
    Pace::StepsPerSecond(20_000.try_into().unwrap())
}

/// What a guest was at each checkpoint.
#[derive(Clone, Default)]
pub struct Kept(Arc<Mutex<Vec<(u64, Digest)>>>);

impl Observer<Runner> for Kept {
    fn suspended(&mut self, number: u64, domain: &Runner) {
        let digest = domain.turn().unwrap().digest_but_cleared().unwrap();
        self.0.lock().unwrap().push((number, digest));
    }
}

impl Kept {
    pub fn all(&self) -> Vec<(u64, Digest)> {
        self.0.lock().unwrap().clone()
    }
}

type Protecting = JoinHandle<Result<Ended<Runner>, Trouble>>;
type Receiving = JoinHandle<Result<Outcome<Runner>, secondary::Trouble>>;

pub struct Pair {
    _folder: TempDir,
    pub bare: bool,
    pub primary: Handle,
    pub secondary: Handle,
    /// The primary's card.
    pub nic: Nic,
    /// States at the primary's suspension, and at the secondary, loaded.
    pub sent: Kept,
    pub loaded: Kept,
    protecting: Mutex<Option<Protecting>>,
    receiving: Mutex<Option<Receiving>>,
}

pub fn witness(folder: &Path, rule: Rule) -> Option<Box<dyn Witness>> {
    (rule == Rule::Witness)
        .then(|| Box::new(DirectoryWitness::open(folder, "guest", Holder::new()).unwrap()) as Box<dyn Witness>)
}

pub fn config(wanted: &Wanted) -> Config {
    let Wanted { period, rule, answer, .. } = *wanted;
    Config { period, rule, answer, ..Config::new(Dialect::Libxl, wanted.mode) }
}

/// A secondary that takes one connection.
pub fn receive(folder: &TempDir, wanted: &Wanted, loaded: Kept) -> (Handle, Receiving, Address) {
    let address = Address::Unix(folder.path().join("link"));
    let listener = Listener::bind(&address).unwrap();
    let driver = secondary::Driver::<SimLockstep>::default();
    let handle = driver.handle();
    let mut settings = secondary::Settings::new("guest".into(), config(wanted));
    settings.times.timeout = Duration::from_secs(20);
    settings.witness = witness(folder.path(), wanted.rule);
    settings.list = wanted.list;
    settings.bare = wanted.bare;
    let target = SimTarget { domain: "guest".into(), memory_budget: None };
    let target = SimLockstep { target, pace: pace() };
    let receiving = thread::spawn(move || {
        let (link, cancel) = listener.accept(&Cancel::new().unwrap()).unwrap();
        driver.run(link, cancel, target, loaded, settings)
    });
    (handle, receiving, address)
}

/// A primary of a new guest.
pub fn protect(folder: &TempDir, wanted: &Wanted, to: Address, sent: Kept) -> (Handle, Protecting, Nic) {
    let domain = SimDomain::create(&wanted.sim).unwrap();
    let runner = Runner::start(domain, pace()).unwrap();
    let nic = runner.nic();
    let driver = primary::Driver::default();
    let handle = driver.handle();
    let card = Box::new(SimOutput::new(nic.clone()));
    let mut settings = primary::Settings::new("guest".into(), config(wanted), Generation(0), card);
    settings.times.timeout = Duration::from_secs(20);
    settings.times.patience = wanted.patience;
    settings.save = libxl::save::Options { config: Some(xl_config(&wanted.sim)), ..libxl::save::Options::default() };
    settings.witness = witness(folder.path(), wanted.rule);
    settings.list = wanted.list;
    settings.bare = wanted.bare;
    let protecting = thread::spawn(move || driver.run(runner, to, sent, settings));
    (handle, protecting, nic)
}

impl Pair {
    pub fn start(wanted: &Wanted) -> Pair {
        let folder = tempfile::tempdir().unwrap();
        let (sent, loaded) = (Kept::default(), Kept::default());
        let (secondary, receiving, address) = receive(&folder, wanted, loaded.clone());
        let (primary, protecting, nic) = protect(&folder, wanted, address, sent.clone());
        Pair {
            _folder: folder,
            bare: wanted.bare,
            primary,
            secondary,
            nic,
            sent,
            loaded,
            protecting: Mutex::new(Some(protecting)),
            receiving: Mutex::new(Some(receiving)),
        }
    }

    pub fn status(&self) -> Status {
        *self.primary.request(Request::Status).status.expect("a status")
    }

    /// Waits until the primary's status is as wished.
    pub fn wait(&self, what: &str, mut wished: impl FnMut(&Status) -> bool) -> Status {
        let end = Instant::now() + PATIENCE;
        loop {
            let status = self.status();
            if wished(&status) {
                return status;
            }
            assert!(Instant::now() < end, "{what} did not come: {status:#?}");
            thread::yield_now();
        }
    }

    /// Everything that has left the primary's card.
    pub fn leaves(&self) -> Vec<Vec<u8>> {
        self.nic.take_ready()
    }

    pub fn join_primary(&self) -> Result<Ended<Runner>, Trouble> {
        self.protecting.lock().unwrap().take().unwrap().join().unwrap()
    }

    pub fn join_secondary(&self) -> Result<Outcome<Runner>, secondary::Trouble> {
        self.receiving.lock().unwrap().take().unwrap().join().unwrap()
    }

    /// The two had the same state at each checkpoint that both were at.
    pub fn assert_equal_states(&self, at_least: usize) {
        let (sent, loaded) = (self.sent.all(), self.loaded.all());
        assert!(loaded.len() >= at_least, "{} checkpoints", loaded.len());
        for (sent, loaded) in sent.iter().zip(&loaded) {
            assert_eq!(sent, loaded);
        }
    }
}
