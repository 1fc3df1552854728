//! Two hosts: folders, daemons, and the way to them.

use serde_json::from_str;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use xen_replicate::disk::control::{Reply, Request, Status};

pub const DEVICE: &str = "/dev/nbd0";
pub const SIZE: usize = 8 << 20;
/// How long anything may take on a busy machine.
pub const LONG: Duration = Duration::from_secs(120);

/// Bytes that are different everywhere.
pub fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5555_5555_5555_5555;
    let step = |state: &mut u64| {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        (*state >> 32) as u8
    };
    (0..bytes).map(|_| step(&mut state)).collect()
}

/// A daemon that does not outlive this value.
pub struct Daemon(Child);

impl Daemon {
    /// As a host's death does.
    pub fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub struct Host {
    folder: Arc<TempDir>,
    name: &'static str,
    pub daemon: Option<Daemon>,
}

impl Host {
    fn new(folder: &Arc<TempDir>, name: &'static str, content: &[u8]) -> Self {
        let host = Host { folder: Arc::clone(folder), name, daemon: None };
        fs::create_dir(folder.path().join(name)).unwrap();
        fs::write(host.image(), content).unwrap();
        host
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(self.name).join(file)
    }

    pub fn image(&self) -> PathBuf {
        self.path("image")
    }

    pub fn socket(&self) -> PathBuf {
        self.path("run/nbd")
    }

    /// Where this host's keeper listens.
    pub fn link(&self) -> PathBuf {
        self.path("link")
    }

    pub fn state(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xen-replicate"));
        command.args(arguments).env("XEN_REPLICATE_RUN", self.path("run")).stdin(Stdio::null());
        command
    }

    /// Exit code and what is told of errors.
    pub fn run(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = self.command(arguments).env("RUST_LOG", "off").output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// A command that stays, and does not outlive what is given.
    pub fn spawn(&self, arguments: &[&str], log: &str) -> Daemon {
        let log = fs::File::create(self.path(log)).unwrap();
        Daemon(self.command(arguments).stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }

    /// How `remus` or `receive` of a domain is, if it is there.
    pub fn domain(&self, name: &str) -> Option<xen_replicate::control::Status> {
        let socket = self.path("run").join(format!("{name}.sock"));
        let mut client = xen_replicate::control::Client::connect(&socket).ok()?;
        Some(*client.request(&xen_replicate::control::Request::Status).ok()?.status?)
    }

    fn start(&mut self, arguments: &[&str]) {
        let (image, socket, state) = (self.image(), self.socket(), self.path("state"));
        let child = self
            .command(&["disk", arguments[0], "--device", DEVICE, "--attach=", "--socket"])
            .arg(socket)
            .arg("--state")
            .arg(state)
            .args(&arguments[1..])
            .arg(image)
            .stderr(fs::File::create(self.path("log")).unwrap())
            .spawn()
            .unwrap();
        self.daemon = Some(Daemon(child));
        let begun = Instant::now();
        while self.try_ask(&Request::Status).is_none() {
            let ended = self.daemon.as_mut().unwrap().0.try_wait().unwrap();
            let log = || fs::read_to_string(self.path("log")).unwrap_or_default();
            assert!(ended.is_none() && begun.elapsed() < LONG, "{ended:?}: {}", log());
            thread::yield_now();
        }
    }

    pub fn serve(&mut self, more: &[&str]) {
        self.start(&[&["serve"], more].concat());
    }

    pub fn keep(&mut self, more: &[&str]) {
        let listen = format!("unix:{}", self.link().display());
        self.start(&[&["keep", "--overwrite", "--listen", &listen], more].concat());
    }

    fn try_ask(&self, request: &Request) -> Option<Reply> {
        let mut stream = UnixStream::connect(self.path("run/disks/dev%2fnbd0.sock")).ok()?;
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.write_all(format!("{}\n", serde_json::to_string(request).unwrap()).as_bytes()).ok()?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).ok()?;
        from_str(&line).ok()
    }

    pub fn ask(&self, request: &Request) -> Result<Reply, String> {
        let reply = self.try_ask(request).ok_or("the daemon is gone")?;
        if reply.ok { Ok(reply) } else { Err(reply.error.unwrap()) }
    }

    pub fn status(&self) -> Status {
        self.ask(&Request::Status).unwrap().status.unwrap()
    }

    /// Waits until the other host's copy is complete.
    pub fn synced(&self) {
        let begun = Instant::now();
        while self.ask(&Request::Synced { timeout_ms: 100 }).ok().and_then(|reply| reply.percent) != Some(100) {
            assert!(begun.elapsed() < LONG, "{:?}", self.status());
        }
    }
}

/// A disk in sync on two hosts.
pub struct Pair {
    pub a: Host,
    pub b: Host,
    /// What it is at the beginning.
    pub content: Vec<u8>,
}

impl Pair {
    pub fn new() -> Self {
        let folder = Arc::new(TempDir::new().unwrap());
        let mut content = noise(1, SIZE);
        content[SIZE / 4..SIZE / 2].fill(0);
        let mut b = Host::new(&folder, "b", &vec![0x33; SIZE]);
        b.keep(&[]);
        let mut a = Host::new(&folder, "a", &content);
        a.serve(&["--to", &format!("unix:{}", b.link().display())]);
        a.synced();
        Pair { a, b, content }
    }
}
