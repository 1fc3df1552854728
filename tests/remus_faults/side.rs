//! One process of the program, which is asked over its control socket and never waited for without a limit.

use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use xen_replicate::control::status::{Guest, Role};
use xen_replicate::control::{Client, Reply, Request, Status};

/// How long anything may take that must come, on a machine that is busy with something else.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A running `remus` or `receive`. Dropped, it is killed; while the test fails, its log is shown.
#[derive(Debug)]
pub struct Side {
    name: &'static str,
    child: Child,
    control: PathBuf,
    log: PathBuf,
    digests: PathBuf,
    exit: Option<ExitStatus>,
    /// Where its files are.
    _folder: Arc<TempDir>,
}

impl Side {
    /// Starts the program with `args`, by a command that becomes it if there is a prefix; its files go to `folder` under its name.
    pub fn start<S: AsRef<std::ffi::OsStr>>(
        name: &'static str,
        folder: &Arc<TempDir>,
        prefix: &[String],
        args: &[S],
    ) -> Side {
        let path = folder.path();
        let [control, log, digests] = ["sock", "log", "digests"].map(|end| path.join(format!("{name}.{end}")));
        let program = env!("CARGO_BIN_EXE_xen-replicate");
        let words: Vec<&str> = prefix.iter().map(String::as_str).chain([program]).collect();
        let child = Command::new(words[0])
            .args(&words[1..])
            .args(args)
            .arg("--control")
            .arg(&control)
            .arg("--keep-digests")
            .arg(&digests)
            .env("RUST_LOG", "debug")
            .env("XEN_REPLICATE_RUN", path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Side { name, child, control, log, digests, exit: None, _folder: Arc::clone(folder) }
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub fn signal(&self, signal: Signal) {
        // It may have died of its failpoint a moment ago; who needs it alive will find out.
        let _ = kill_process(self.pid(), signal);
    }

    /// SIGKILL, and its end.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.end();
    }

    /// Waits for its end.
    pub fn end(&mut self) -> ExitStatus {
        let child = &mut self.child;
        let exit = self.exit.or_else(|| until(PATIENCE, || child.try_wait().unwrap()));
        self.exit = exit;
        exit.unwrap_or_else(|| panic!("{} does not end", self.name))
    }

    /// SIGTERM, and the exit code.
    pub fn terminate(&mut self) -> i32 {
        self.signal(Signal::TERM);
        let exit = self.end();
        exit.code().unwrap_or_else(|| panic!("{}: {exit}", self.name))
    }

    pub fn is_gone(&mut self) -> bool {
        self.exit = self.exit.or_else(|| self.child.try_wait().unwrap());
        self.exit.is_some()
    }

    /// Whether every thread of it stands still because of SIGSTOP.
    pub fn is_stopped(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        // Behind the command's name, which stands in brackets.
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    }

    pub fn request(&self, request: &Request) -> Option<Reply> {
        let mut client = Client::connect(&self.control).ok()?;
        // One that is stopped never answers.
        client.set_timeout(Duration::from_secs(5)).ok()?;
        client.request(request).ok()
    }

    /// Asks for something that must be granted.
    #[track_caller]
    pub fn order(&self, request: &Request) {
        let reply = self.request(request).unwrap_or_else(|| panic!("{} does not answer", self.name));
        assert!(reply.ok, "{}: {request:?}: {reply:?}", self.name);
    }

    /// None from a process that is gone or has no socket yet.
    pub fn status(&self) -> Option<Status> {
        self.request(&Request::Status)?.status.map(|status| *status)
    }

    /// Waits until its status is as wished.
    #[track_caller]
    pub fn wait(&mut self, what: &str, wished: impl Fn(&Status) -> bool) -> Status {
        let mut last = None;
        let found = until(PATIENCE, || {
            assert!(!self.is_gone(), "{} has ended before it was {what}: {:?}; {last:?}", self.name, self.exit);
            last = self.status().or_else(|| last.take());
            last.clone().filter(&wished)
        });
        found.unwrap_or_else(|| panic!("{} is not {what}: {last:#?}", self.name))
    }

    /// No session any more: it waits for a primary, and may keep a replica that was denied.
    pub fn wait_until_idle(&mut self) -> Status {
        self.wait("idle", |status| matches!(status.phase.as_str(), "waiting" | "denied"))
    }

    #[track_caller]
    pub fn wait_for_phase(&mut self, phase: &str) -> Status {
        self.wait(phase, |status| status.phase == phase)
    }

    /// Waits until it goes on with the guest on its own.
    #[track_caller]
    pub fn wait_for_active(&mut self) -> Status {
        self.wait("the active one", |status| status.phase == "alone" && status.guest == Guest::Running)
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Whether a line of its log has this text, and is one of the loudest.
    pub fn says_critically(&self, text: &str) -> bool {
        self.log().lines().any(|line| line.contains("ERROR") && line.contains(text))
    }

    /// Waits until a line with this text is in its log.
    #[track_caller]
    pub fn wait_for_log(&self, text: &str) {
        let found = until(PATIENCE, || self.log().contains(text).then_some(()));
        found.unwrap_or_else(|| panic!("{} does not say {text:?}", self.name));
    }

    /// The sums of this checkpoint, as this side took it.
    pub fn checkpoint(&self, number: u64) -> Option<String> {
        self.sums("checkpoint").into_iter().find(|(found, _)| *found == number).map(|(_, sums)| sums)
    }

    /// The checkpoint that this side has gone on from, and the sums of what it had then.
    pub fn survivor(&self) -> Option<(u64, String)> {
        self.sums("survivor").pop()
    }

    fn sums(&self, what: &str) -> Vec<(u64, String)> {
        let text = fs::read_to_string(&self.digests).unwrap_or_default();
        let lines = text.lines().filter_map(|line| line.strip_prefix(what)?.trim_start().split_once(' '));
        lines.map(|(number, sums)| (number.parse().unwrap(), sums.to_owned())).collect()
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        if self.exit.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if thread::panicking() {
            // In one piece, for other cases fail at the same time.
            eprintln!("---- {} ----\n{}\n---- end of {} ----", self.name, self.log(), self.name);
        }
    }
}

/// Whether a side of this status lets output of the guest's out, or would as soon as it is acknowledged.
pub fn is_active(status: &Status) -> bool {
    let active = ["alone", "claiming", "connecting", "greeting", "protected"].contains(&status.phase.as_str());
    status.role == Role::Primary && status.guest == Guest::Running && active
}

/// Asks again and again, without haste, until there is an answer.
pub fn until<T>(patience: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + patience;
    loop {
        let answer = ask();
        if answer.is_some() || Instant::now() >= end {
            return answer;
        }
        // What is asked for are other processes' states: leave them the processor.
        thread::park_timeout(Duration::from_millis(2));
    }
}
