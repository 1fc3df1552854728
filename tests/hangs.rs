//! Something that is not the link hangs on one side, and nothing else does: who watches the peer goes on doing so, and a take-over is
//! not put off. All by the order of events, and by the clocks of the sides themselves.

mod commands_support;

use commands_support::{Guarded, command, status, wait};
use rustix::fs::{CWD, Mode, OFlags, mkfifoat, open};
use rustix::pipe::fcntl_setpipe_size;
use rustix::process::{Pid, Signal, kill_process_group};
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use xen_replicate::control::status::{Guest, Output};
use xen_replicate::control::{Request, Status};
use xen_replicate::host::xen::incoming::{Active, Disks, Incoming};
use xen_replicate::host::xen::receiver::{Waits, Way};
use xen_replicate::libxl;
use xen_replicate::remus::{Config, Rule};
use xen_replicate::replicate::Handle;
use xen_replicate::replicate::failpoint::Failpoints;
use xen_replicate::replicate::secondary::{self, Outcome, Trouble};
use xen_replicate::transport::{Address, Cancel, Listener};
use xen_replicate::witness::{DirectoryWitness, Holder};

/// How long anything may take on a busy machine.
const LONG: Duration = Duration::from_secs(300);
/// Silence after which a side counts as lost.
const TIMEOUT: Duration = Duration::from_secs(2);

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Place(TempDir::new().unwrap());
        fs::create_dir(place.path("w")).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn link(&self) -> String {
        format!("unix:{}", self.text("link"))
    }

    /// A side that waits for answers as long as it takes.
    fn side(&self, name: &str, arguments: &[&str]) -> Guarded {
        let (witness, control) = (self.text("w"), self.text(name));
        let timeout = format!("--timeout={}", TIMEOUT.as_millis());
        let usual = ["--witness", &witness, "--control", &control, &timeout, "--answer-timeout=600000"];
        let mut command = command(&[arguments, &usual].concat());
        let log = File::create(self.path(&format!("{name}.log"))).unwrap();
        Guarded(command.stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }

    /// The primary, of a guest that dirties more in an interval than a pipe holds.
    fn primary(&self) -> Guarded {
        let sim =
            r#"--sim={"memory":256,"layout":"compact","vcpus":1,"image_pages":32,"working_set":128,"hot_pages":64}"#;
        self.side("a", &["remus", "-i", "50", sim, "web", &self.link()])
    }

    fn wait(&self, side: &str, what: &str, there: impl Fn(&Status) -> bool) -> Status {
        wait(&self.path(side), what, there)
    }

    /// By the primary's own clock no checkpoint has been acknowledged for longer than the time-out; and it is protected still, so the
    /// secondary has been heard all the while.
    fn wait_until_nothing_is_acknowledged(&self) -> Status {
        let longer = (TIMEOUT + TIMEOUT / 2).as_millis() as u64;
        let status = self.wait("a", "a silence", |status| status.since_last_ms.is_some_and(|since| since > longer));
        assert!(status.protected, "{status:#?}");
        status
    }

    fn is_claimed(&self) -> bool {
        let names = fs::read_dir(self.path("w")).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter_map(|name| name.to_str()?.strip_prefix("web.")?.parse::<u64>().ok()).any(|given| given == 2)
    }
}

fn until(what: &str, there: impl Fn() -> bool) {
    let end = Instant::now() + LONG;
    while !there() {
        assert!(Instant::now() < end, "{what} did not come");
        thread::park_timeout(Duration::from_millis(2));
    }
}

fn kill(mut process: Guarded) {
    process.0.kill().unwrap();
    process.0.wait().unwrap();
}

/// Reads a pipe until it is told to stop; the pipe stays open and fills then.
struct Drain {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<File>,
}

impl Drain {
    fn start(pipe: &Path) -> Self {
        mkfifoat(CWD, pipe, Mode::RUSR | Mode::WUSR).unwrap();
        let mut end =
            File::from(open(pipe, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()).unwrap());
        // So that any checkpoint fills it.
        fcntl_setpipe_size(&end, 4096).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut bytes = vec![0; 1 << 16];
            while !stopped.load(Ordering::SeqCst) {
                match end.read(&mut bytes) {
                    // Nobody writes yet.
                    Ok(0) => thread::park_timeout(Duration::from_millis(2)),
                    Ok(_) => {}
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::WouldBlock);
                        thread::park_timeout(Duration::from_millis(2));
                    }
                }
            }
            end
        });
        Drain { stop, thread }
    }

    fn stop(self) -> File {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

#[test]
fn a_record_that_blocks_puts_nothing_off() {
    let place = Place::new();
    let drain = Drain::start(&place.path("pipe"));
    let pipe = place.text("pipe");
    let _secondary = place.side("b", &["receive", "--domain=web", "--listen", &place.link(), "--record", &pipe]);
    place.wait("b", "a receiver", |_| true);
    let primary = place.primary();
    place.wait("a", "protection", |status| status.acknowledged >= 3);
    let pipe = drain.stop();
    // Nobody reads any more, and checkpoints go on.
    let full = status(&place.path("a")).unwrap().acknowledged;
    place.wait("a", "checkpoints", |status| status.acknowledged >= full + 3);
    kill(primary);
    let survivor = place.wait("b", "the survivor", |status| status.phase == "alone");
    assert_eq!(survivor.generation, 2);
    drop(pipe);
}

/// A secondary in this process, whose replicas are a script's that takes all it is given.
struct Secondary {
    place: Place,
    handle: Handle,
    receiving: JoinHandle<Result<Outcome<Active>, Trouble>>,
}

impl Secondary {
    fn start(waits: Waits) -> Self {
        let place = Place::new();
        let mut records = Vec::new();
        for checkpoint in 1..10_000u64 {
            for word in [0x8000_5852u32, 16, 7, 0] {
                records.write_all(&word.to_le_bytes()).unwrap();
            }
            records.write_all(&checkpoint.to_le_bytes()).unwrap();
        }
        let banner: &[u8] = b"xl migration receiver ready, send binary domain data.\n";
        fs::write(place.path("says"), [banner, &records].concat()).unwrap();
        // What takes the stream is the process itself; its group has one more, which answers.
        let script = "cat $0/says & echo $$ >>$0/pids; cat >$0/stream; test -e $XEN_REPLICATE_FAILOVER";
        let command = format!("sh -c '{script}' {}", place.0.path().display());
        let way = Way { command, helper: "/bin/sh".into(), waits };
        let address = Address::Unix(place.path("link"));
        let listener = Listener::bind(&address).unwrap();
        let witness = DirectoryWitness::open(&place.path("w"), "web", Holder::new()).unwrap();
        let settings = secondary::Settings {
            domain: "web".into(),
            config: Config {
                rule: Rule::Witness,
                timeout: TIMEOUT,
                answer: Duration::from_secs(600),
                ..Config::default()
            },
            restore: libxl::restore::Options::default(),
            fence: None,
            witness: Some(Box::new(witness)),
            record: None,
            on_checkpoint: None,
            on_replica: None,
            failpoints: Failpoints::default(),
        };
        let driver = secondary::Driver::<Incoming>::default();
        let handle = driver.handle();
        let receiving = thread::spawn(move || {
            let (link, cancel) = listener.accept(&Cancel::new().unwrap()).unwrap();
            driver.run(link, cancel, Incoming::new("web".into(), way, Disks::Kept), settings)
        });
        Secondary { place, handle, receiving }
    }

    /// The process groups of its receivers, in order.
    fn receivers(&self) -> Vec<Pid> {
        let text = fs::read_to_string(self.place.path("pids")).unwrap_or_default();
        text.lines().map(|pid| Pid::from_raw(pid.parse().unwrap()).unwrap()).collect()
    }
}

fn state(process: Pid) -> Option<char> {
    let text = fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero())).ok()?;
    text.rsplit_once(')')?.1.trim_start().chars().next()
}

fn stop(process: Pid) {
    kill_process_group(process, Signal::STOP).unwrap();
    until("its stop", || state(process) == Some('T'));
}

#[test]
fn a_stopped_receiver_puts_no_claim_off_and_takes_over_when_it_goes_on() {
    let secondary = Secondary::start(Waits { feed: LONG, ..Waits::default() });
    let primary = secondary.place.primary();
    secondary.place.wait("a", "protection", |status| status.acknowledged >= 3);
    let receiver = secondary.receivers()[0];
    stop(receiver);
    let stuck = secondary.place.wait_until_nothing_is_acknowledged();
    kill(primary);
    until("the claim", || secondary.place.is_claimed());
    assert_eq!(state(receiver), Some('T'), "nothing but the claim has gone on");
    // It answers its operator, and knows of its claim as soon as the witness' answer is in.
    until("the generation", || {
        secondary.handle.request(Request::Status).status.is_some_and(|told| told.generation == 2)
    });
    assert_eq!(state(receiver), Some('T'));
    kill_process_group(receiver, Signal::CONT).unwrap();
    let Ok(Outcome::Survivor(survivor)) = secondary.receiving.join().unwrap() else { panic!("no survivor") };
    assert_eq!(survivor.domain, Active { domid: 7, name: "web".into() });
    assert!(survivor.checkpoint >= stuck.acknowledged, "{} of {}", survivor.checkpoint, stuck.acknowledged);
    until("its receiver's end", || state(receiver).is_none());
}

#[test]
fn a_receiver_that_stays_stopped_is_given_up_and_its_guest_runs_on_at_the_primary() {
    let secondary = Secondary::start(Waits { feed: Duration::from_secs(5), ..Waits::default() });
    let _primary = secondary.place.primary();
    secondary.place.wait("a", "protection", |status| status.acknowledged >= 3);
    let receiver = secondary.receivers()[0];
    stop(receiver);
    let status = secondary.place.wait("a", "the end of protection", |status| status.phase == "alone");
    assert_eq!((status.guest, status.output), (Guest::Running, Output::Free), "{status:#?}");
    let help = format!("kill -CONT -{}", receiver.as_raw_nonzero());
    assert!(status.notices.iter().any(|notice| notice.text.contains(&help)), "{status:#?}");
    assert!(matches!(secondary.receiving.join().unwrap(), Ok(Outcome::Ended(_))));
    // It was let go on, without the permit to take over, and ends.
    until("its receiver's end", || state(receiver).is_none());
    assert!(!secondary.place.is_claimed());
}
