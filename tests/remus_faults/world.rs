//! A case: two sides or more, a client outside, and the referee who says whether what came of it may be.

use crate::cases::{Outcome, Permit};
use crate::hosts::Hosts;
use crate::side::{PATIENCE, Side, is_active, until};
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use xen_replicate::control::Status;
use xen_replicate::control::status::Output;
use xen_replicate::outside::{ClientConfig, ClientThread, Progress, Seen};

/// The guest: 1 MiB, one vCPU.
pub const SMALL: &str =
    r#"{"memory":256,"layout":"compact","vcpus":1,"image_pages":32,"working_set":128,"hot_pages":16}"#;

/// 256 KiB of memory, of which little is written to: an image takes seconds at 1 Mbit/s.
pub const TINY: &str =
    r#"{"memory":64,"layout":"compact","vcpus":1,"image_pages":8,"working_set":8,"hot_pages":2,"writes_per_step":1}"#;

/// What a case is made of.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Milliseconds from checkpoint to checkpoint.
    pub interval: u64,
    /// Milliseconds.
    pub heartbeat: u64,
    /// Milliseconds of silence.
    pub timeout: u64,
    /// Milliseconds that an answer may take.
    pub answer: u64,
    /// Over TCP instead of a Unix socket.
    pub tcp: bool,
    /// The guest.
    pub sim: String,
    /// Further arguments of `remus`.
    pub remus: Vec<String>,
    /// Further arguments of `receive`.
    pub receive: Vec<String>,
}

impl Default for Wanted {
    fn default() -> Self {
        Wanted {
            interval: 10,
            heartbeat: 100,
            timeout: 800,
            answer: 4000,
            tcp: false,
            sim: SMALL.into(),
            remus: Vec::new(),
            receive: Vec::new(),
        }
    }
}

impl Wanted {
    pub fn remus(mut self, args: &[&str]) -> Self {
        self.remus.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    pub fn receive(mut self, args: &[&str]) -> Self {
        self.receive.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    /// Time-out and answer: after this a side that lost the other knows what it may do.
    pub fn decision(&self) -> Duration {
        Duration::from_millis(self.timeout + self.answer)
    }
}

/// A case's place: its folder, its addresses, its client.
#[derive(Debug)]
pub struct World {
    pub wanted: Wanted,
    pub folder: Arc<TempDir>,
    client: Option<ClientThread>,
    pub hosts: Hosts,
    _permit: Permit,
}

/// Places of sides, in the order in which they come into play.
pub const PRIMARY: u8 = 2;
pub const SECONDARY: u8 = 3;
pub const THIRD: u8 = 4;

impl World {
    /// Starts the client; nobody answers it yet.
    pub fn new(wanted: Wanted) -> World {
        World::on(Hosts::loopback(), Permit::wait(), wanted)
    }

    /// On hosts that have been made.
    pub fn on(hosts: Hosts, permit: Permit, wanted: Wanted) -> World {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        std::fs::create_dir(folder.path().join("witness")).unwrap();
        let config = ClientConfig {
            bind: SocketAddr::from(([0, 0, 0, 0], 0)),
            to: Vec::new(),
            rate: 500,
            outstanding: 16,
            retry: Duration::from_millis(100),
        };
        let client = Some(hosts.start_client(config));
        World { wanted, folder, client, hosts, _permit: permit }
    }

    /// With a pair: `remus` and `receive`, the first on its way to the second.
    pub fn pair(wanted: Wanted) -> (World, Side, Side) {
        let world = World::new(wanted);
        let mut secondary = world.receive("secondary", SECONDARY, &world.wanted.receive);
        secondary.wait_until_idle();
        let primary = world.remus(&world.link(SECONDARY));
        (world, primary, secondary)
    }

    /// With a pair that has acknowledged so many checkpoints, and a client that was answered.
    pub fn protected(wanted: Wanted, checkpoints: u64) -> (World, Side, Side) {
        let (world, mut primary, secondary) = World::pair(wanted);
        primary.wait("protected", |status| status.protected && status.acknowledged >= checkpoints);
        let client = world.client();
        assert!(client.wait_until(PATIENCE, |progress| progress.acknowledged >= 10), "{:?}", world.progress());
        (world, primary, secondary)
    }

    /// The guest's network card at a place.
    pub fn nic(&self, place: u8) -> SocketAddr {
        self.hosts.nic(place)
    }

    /// Where a proxy listens.
    pub fn proxy(&self) -> SocketAddr {
        self.socket(5)
    }

    /// A TCP address of a place.
    pub fn socket(&self, place: u8) -> SocketAddr {
        self.hosts.socket(place)
    }

    /// Where the receiver of a place listens.
    pub fn link(&self, place: u8) -> String {
        if self.wanted.tcp {
            format!("tcp:{}", self.socket(place))
        } else {
            format!("unix:{}", self.folder.path().join(format!("link{place}")).display())
        }
    }

    /// A receiver.
    pub fn receive<S: AsRef<str>>(&self, name: &'static str, place: u8, more: &[S]) -> Side {
        let mut args = vec![
            "receive".to_owned(),
            "--backend=sim".into(),
            "--domain=web".into(),
            format!("--listen={}", self.link(place)),
        ];
        args.push(format!("--interval={}", self.wanted.interval));
        self.side(name, place, args, more)
    }

    /// A primary with a new guest.
    pub fn remus(&self, to: &str) -> Side {
        let mut args = vec![
            "remus".to_owned(),
            "--backend=sim".into(),
            "web".into(),
            to.into(),
            format!("--sim={}", self.wanted.sim),
        ];
        args.push(format!("--interval={}", self.wanted.interval));
        self.side("primary", PRIMARY, args, &self.wanted.remus)
    }

    fn side<S: AsRef<str>>(&self, name: &'static str, place: u8, mut args: Vec<String>, more: &[S]) -> Side {
        let Wanted { heartbeat, timeout, answer, .. } = self.wanted;
        let witness = self.folder.path().join("witness");
        args.extend([
            format!("--nic={}", self.nic(place)),
            format!("--nic-peer={}", self.hosts.peer(place, self.client().address())),
            format!("--heartbeat={heartbeat}"),
            format!("--timeout={timeout}"),
            format!("--answer-timeout={answer}"),
            "--retry=50".into(),
        ]);
        // Unless the case has another rule.
        if !more.iter().any(|arg| arg.as_ref().starts_with("--rule")) {
            args.push(format!("--witness={}", witness.display()));
        }
        args.extend(more.iter().map(|arg| arg.as_ref().to_owned()));
        if self.hosts.are_private() {
            args.push("--allow-private".into());
        }
        Side::start(name, &self.folder, &self.hosts.prefix(place), &args)
    }

    pub fn client(&self) -> &ClientThread {
        self.client.as_ref().expect("the client runs until the case is over")
    }

    pub fn progress(&self) -> Progress {
        let mut now = Progress::default();
        self.client().wait_until(Duration::ZERO, |progress| {
            now = *progress;
            true
        });
        now
    }

    /// Waits until so many more packets have come from whomever.
    #[track_caller]
    pub fn wait_for_packets(&self, more: u64) {
        let wanted = self.progress().packets + more;
        assert!(self.client().wait_until(PATIENCE, |now| now.packets >= wanted), "{:?}", self.progress());
    }

    /// Waits until the client is answered by the guest at this place, again and again, from now on.
    #[track_caller]
    pub fn goes_on(&self, place: u8) {
        let host = self.nic(place);
        let mut before: Option<Progress> = None;
        let answered = self.client().wait_until(PATIENCE, |now| {
            if now.host != Some(host) {
                return false;
            }
            let before = *before.get_or_insert(*now);
            now.acknowledged >= before.acknowledged + 20 && now.packets >= before.packets + 20
        });
        assert!(answered, "nobody answers at {host}: {:?}", self.progress());
    }

    /// Waits for the failover from `dead`, which is gone or stands still, to `survivor` at `place`; `acknowledged` is what the
    /// primary told last. The survivor must be the checkpoint that it says it is, byte for byte.
    #[track_caller]
    pub fn survives(&self, dead: &Side, survivor: &mut Side, place: u8, acknowledged: u64) -> u64 {
        let status = survivor.wait_for_active();
        assert_eq!(status.output, Output::Free, "{status:?}");
        self.goes_on(place);
        self.is_its_checkpoint(dead, survivor, acknowledged)
    }

    /// The survivor has what the primary had at the checkpoint, and that is none before `acknowledged`.
    #[track_caller]
    pub fn is_its_checkpoint(&self, dead: &Side, survivor: &Side, acknowledged: u64) -> u64 {
        let (number, sums) = survivor.survivor().expect("the survivor has kept its sums");
        assert!(number >= acknowledged, "gone on from {number}, {acknowledged} was acknowledged");
        assert_eq!(dead.checkpoint(number).as_ref(), Some(&sums), "checkpoint {number}");
        number
    }

    /// The primary runs on by itself, soon enough, and its output is free.
    #[track_caller]
    pub fn runs_on(&self, primary: &mut Side, since: Instant) {
        let status = primary.wait_for_active();
        let took = since.elapsed();
        assert_eq!(status.output, Output::Free, "{status:?}");
        assert!(!status.protected, "{status:?}");
        assert!(took <= self.wanted.decision(), "free after {took:?}");
        self.goes_on(PRIMARY);
    }

    /// Not more than one of these is active.
    #[track_caller]
    pub fn one_active_at_most(&self, sides: &mut [&mut Side]) {
        let statuses: Vec<Status> =
            sides.iter_mut().filter_map(|side| if side.is_gone() { None } else { side.status() }).collect();
        assert!(statuses.iter().filter(|status| is_active(status)).count() <= 1, "{statuses:#?}");
    }

    /// Asks until the process is gone. Gives the last checkpoint that it said was acknowledged.
    pub fn last_words(&self, side: &mut Side) -> u64 {
        let mut acknowledged = 0;
        let gone = until(PATIENCE, || {
            acknowledged = side.status().map_or(acknowledged, |status| status.acknowledged);
            side.is_gone().then_some(())
        });
        assert!(gone.is_some(), "its failpoint was not passed");
        acknowledged
    }

    /// Ends the client, and the side whose guest runs, if there is one; the guest must be sound, and the client must have heard
    /// one history.
    #[track_caller]
    pub fn over(self, what: &'static str, running: Option<&mut Side>) -> Outcome {
        let seen = self.verdict();
        if let Some(side) = running {
            let code = side.terminate();
            let log = side.log();
            assert!(log.contains("running and sound after"), "exit code {code}");
        }
        Outcome { what, seen }
    }

    /// Ends the client. Gives what it has seen, whatever that is.
    pub fn seen(mut self) -> Seen {
        self.client.take().expect("the client runs until the case is over").stop().unwrap()
    }

    #[track_caller]
    fn verdict(self) -> Seen {
        let seen = self.seen();
        assert!(seen.is_sound() && seen.duplicates == 0 && seen.foreign == 0, "{seen:#?}");
        seen
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if thread::panicking() {
            let seen = self.client.take().map(ClientThread::stop);
            eprintln!("---- the client ----\n{seen:#?}");
        }
    }
}
