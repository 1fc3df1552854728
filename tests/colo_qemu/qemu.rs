//! A QEMU with a guest that counts, driven over QMP.

use super::boot;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::{Value, json};
use std::cell::Cell;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Longer than anything here takes; nothing waits for it to pass.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// A running QEMU, killed when dropped.
pub struct Qemu {
    child: Child,
    qmp: BufReader<UnixStream>,
    serial: UnixStream,
    counts: Arc<Counts>,
    /// Counts that the test has taken.
    taken: Cell<usize>,
    stderr: PathBuf,
}

/// Which QEMU, and what both sides of a session have to agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setup {
    /// The Debian suite whose QEMU it is, unpacked beside the build; `None` for the one that is installed.
    pub suite: Option<&'static str>,
    pub machine: &'static str,
    pub colo: bool,
    pub return_path: bool,
    pub channels: u8,
    pub compression: &'static str,
    /// How pages of zeros are found, where it is not the release's own way.
    pub zero_pages: Option<&'static str>,
    /// Capabilities beside those above.
    pub more: &'static [&'static str],
}

/// QEMU 7.2, as it is installed.
pub const INSTALLED: Setup = Setup {
    suite: None,
    machine: "pc",
    colo: true,
    return_path: false,
    channels: 0,
    compression: "none",
    zero_pages: None,
    more: &[],
};

impl Setup {
    /// The program; a suite's is fetched once, and kept beside the build.
    fn program(self) -> PathBuf {
        let Some(suite) = self.suite else { return "qemu-system-x86_64".into() };
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or(manifest.join("target"), PathBuf::from);
        let folder = target.join("qemu");
        let status = Command::new(manifest.join("tests/colo_qemu/fetch")).arg(suite).arg(&folder).status().unwrap();
        assert!(status.success(), "QEMU of {suite}: {status}");
        folder.join(suite).join("qemu")
    }

    /// Whether it needs the library that `tests/qemu-preload` makes.
    fn preloads(self) -> bool {
        self.suite != Some("sid")
    }
}

/// All that the guest has printed.
#[derive(Default)]
struct Counts {
    lines: Mutex<Vec<u32>>,
    more: Condvar,
}

impl Counts {
    /// Reads to the end. Nothing is taken from the port but with the lines locked, so what is not in the port any more is in them.
    fn read(&self, mut port: UnixStream) {
        let (mut chunk, mut rest) = ([0; 4096], String::new());
        loop {
            poll(&mut [PollFd::new(&port, PollFlags::IN)], None).unwrap();
            let mut lines = self.lines.lock().unwrap();
            let Ok(got @ 1..) = port.read(&mut chunk) else { return };
            rest += &String::from_utf8_lossy(&chunk[..got]);
            let whole = rest.rfind('\n').map_or(0, |end| end + 1);
            // A line may be torn where the guest was replaced.
            lines.extend(rest[..whole].lines().filter_map(|line| u32::from_str_radix(line, 16).ok()));
            rest.drain(..whole);
            self.more.notify_all();
        }
    }
}

/// Builds the library that a primary needs (`docs/colo.md`).
pub fn preload() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("qemu-preload");
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/qemu-preload/Cargo.toml");
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--locked", "--release", "--manifest-path"])
        .arg(manifest)
        .arg("--target-dir")
        .arg(&target)
        .status()
        .unwrap();
    assert!(status.success(), "tests/qemu-preload does not build");
    target.join("release/libqemu_preload.so")
}

/// What a QEMU has said on its standard error.
fn complaint(stderr: &Path) -> String {
    format!("{}: {}", stderr.display(), std::fs::read_to_string(stderr).unwrap_or_else(|error| error.to_string()))
}

/// The QEMU's connection to a socket of ours; no longer waited for than the QEMU lives, and not for ever.
fn connected(listener: &UnixListener, child: &Child, stderr: &Path) -> UnixStream {
    let process = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).unwrap();
    let mut fds = [PollFd::new(listener, PollFlags::IN), PollFd::new(&process, PollFlags::IN)];
    let patience = Timespec::try_from(PATIENCE).unwrap();
    let ready = poll(&mut fds, Some(&patience)).unwrap();
    let arrived = !fds[0].revents().is_empty();
    let why = if ready == 0 { "does not connect" } else { "has ended before it connected" };
    assert!(arrived, "QEMU {why}. {}", complaint(stderr));
    listener.accept().unwrap().0
}

impl Qemu {
    /// Starts one, with the files it needs in `home`. An incoming one waits for `migrate-incoming`.
    pub fn start(home: &Path, name: &str, incoming: bool, setup: Setup) -> Qemu {
        Qemu::start_with(home, name, if incoming { &["-incoming", "defer"] } else { &[] }, setup)
    }

    /// Starts one with options of its own.
    pub fn start_with(home: &Path, name: &str, options: &[&str], setup: Setup) -> Qemu {
        let disk = home.join("boot.img");
        if !disk.exists() {
            std::fs::write(&disk, boot::disk()).unwrap();
        }
        let listen = |kind: &str| {
            let path = home.join(format!("{name}.{kind}"));
            (UnixListener::bind(&path).unwrap(), path)
        };
        let ((qmp, qmp_path), (serial, serial_path)) = (listen("qmp"), listen("serial"));
        let stderr = home.join(format!("{name}.err"));
        let mut command = Command::new(setup.program());
        if setup.preloads() {
            // Another suite's program is started by its own loader, which a shell runs.
            command.env(if setup.suite.is_some() { "QEMU_PRELOAD" } else { "LD_PRELOAD" }, preload());
        }
        let child = command
            .args(["-accel", "tcg", "-M", setup.machine, "-m", "16", "-display", "none", "-nodefaults", "-vga", "none"])
            .args(["-drive", &format!("if=floppy,format=raw,readonly=on,file={}", disk.display())])
            .args(["-serial", &format!("unix:{}", serial_path.display())])
            .args(["-chardev", &format!("socket,id=qmp,path={}", qmp_path.display())])
            .args(["-mon", "chardev=qmp,mode=control"])
            .args(options)
            .stdin(Stdio::null())
            .stderr(File::create(&stderr).unwrap())
            .spawn()
            .expect("qemu-system-x86_64 must be there: apt-get install qemu-system-x86");
        let counts = Arc::<Counts>::default();
        let port = connected(&serial, &child, &stderr);
        let serial = port.try_clone().unwrap();
        thread::spawn({
            let counts = Arc::clone(&counts);
            move || counts.read(port)
        });
        let qmp = connected(&qmp, &child, &stderr);
        qmp.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut qemu = Qemu { child, qmp: BufReader::new(qmp), serial, counts, taken: Cell::new(0), stderr };
        assert!(qemu.line().get("QMP").is_some());
        qemu.command("qmp_capabilities", json!({}));
        let names = [("x-colo", setup.colo), ("return-path", setup.return_path), ("multifd", setup.channels > 0)];
        let names = names.iter().filter(|(_, state)| *state).map(|(name, _)| *name);
        let names = names.chain(setup.more.iter().copied());
        let capabilities: Vec<_> = names.map(|name| json!({"capability": name, "state": true})).collect();
        qemu.command("migrate-set-capabilities", json!({"capabilities": capabilities}));
        if setup.channels > 0 {
            let parameters = json!({"multifd-channels": setup.channels, "multifd-compression": setup.compression});
            qemu.command("migrate-set-parameters", parameters);
        }
        if let Some(zero_pages) = setup.zero_pages {
            qemu.command("migrate-set-parameters", json!({"zero-page-detection": zero_pages}));
        }
        qemu
    }

    fn line(&mut self) -> Value {
        let mut line = String::new();
        let read = self.qmp.read_line(&mut line);
        let what = || format!("{read:?} from the monitor: {line:?}. {}", complaint(&self.stderr));
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("{}", what()))
    }

    /// Runs a command; its result. Events on the way are passed over.
    pub fn command(&mut self, name: &str, arguments: Value) -> Value {
        let command = json!({"execute": name, "arguments": arguments});
        writeln!(self.qmp.get_mut(), "{command}").unwrap();
        loop {
            let answer = self.line();
            if let Some(result) = answer.get("return") {
                return result.clone();
            }
            assert!(answer.get("event").is_some(), "{name}: {answer}");
        }
    }

    /// Asks until the guest runs: not for long, at any time but in the middle of a checkpoint.
    pub fn runs(&mut self) {
        let give_up = Instant::now() + PATIENCE;
        while self.command("query-status", json!({}))["running"] != true {
            assert!(Instant::now() < give_up, "the guest does not run. {}", complaint(&self.stderr));
            thread::yield_now();
        }
    }

    /// The next count that the guest prints.
    pub fn count(&self) -> u32 {
        let taken = self.taken.replace(self.taken.get() + 1);
        let lines = self.counts.lines.lock().unwrap();
        let (lines, _) = self.counts.more.wait_timeout_while(lines, PATIENCE, |lines| lines.len() <= taken).unwrap();
        *lines.get(taken).unwrap_or_else(|| panic!("the guest has ceased to count. {}", complaint(&self.stderr)))
    }

    /// The last count that the guest has printed so far.
    pub fn last_count(&self) -> u32 {
        let first = self.count();
        let lines = self.counts.lines.lock().unwrap();
        self.taken.set(lines.len().max(self.taken.get()));
        lines.last().copied().unwrap_or(first)
    }

    /// Forgets what the guest has printed.
    pub fn forget(&self) {
        loop {
            let lines = self.counts.lines.lock().unwrap();
            if rustix::io::ioctl_fionread(&self.serial).unwrap() == 0 {
                return self.taken.set(lines.len().max(self.taken.get()));
            }
            drop(lines);
            thread::yield_now();
        }
    }

    /// Another count than any so far, and whole: the first one may be torn where the guest was replaced.
    pub fn fresh_count(&self) -> u32 {
        self.forget();
        self.count();
        self.count()
    }

    /// How many counts the guest has printed, and how many of them the test has taken.
    pub fn counted(&self) -> usize {
        self.counts.lines.lock().unwrap().len()
    }

    pub fn taken(&self) -> usize {
        self.taken.get()
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "needs QEMU 7.2"]
fn a_qemu_that_ends_at_once_is_told_with_its_own_words() {
    let home = tempfile::tempdir().unwrap();
    let start = || Qemu::start_with(home.path(), "bad", &["-no-such-option"], INSTALLED);
    let panic = std::panic::catch_unwind(start).map(drop).unwrap_err();
    let said = panic.downcast_ref::<String>().unwrap();
    assert!(said.contains("has ended before it connected") && said.contains("no-such-option"), "{said}");
}
