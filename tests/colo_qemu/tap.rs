//! A running tap, and what is put on either side of it.

use super::qemu::{INSTALLED, PATIENCE, Qemu, Setup};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

/// Killed when dropped.
pub struct Tap {
    child: Child,
    stderr: BufReader<ChildStderr>,
    events: Receiver<Value>,
}

impl Tap {
    pub fn start(arguments: &[&str]) -> Tap {
        let mut child = Command::new(env!("CARGO_BIN_EXE_xen-replicate"))
            .args(["tap", "--json"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, events) = channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(serde_json::from_str(&line).unwrap()).is_err() {
                    break;
                }
            }
        });
        Tap { child, stderr, events }
    }

    /// One that listens, and does so.
    pub fn listening(arguments: &[&str]) -> Tap {
        let mut tap = Tap::start(arguments);
        tap.says("listening on");
        tap
    }

    /// Waits for a line of its standard error that begins like this.
    pub fn says(&mut self, beginning: &str) -> String {
        let mut said = String::new();
        loop {
            let mut line = String::new();
            assert!(self.stderr.read_line(&mut line).unwrap() > 0, "no {beginning:?}, but {said}");
            if line.starts_with(beginning) {
                return line;
            }
            said += &line;
        }
    }

    /// Waits for an event.
    pub fn sees_event(&self, event: &str) -> Value {
        loop {
            let seen = self.events.recv_timeout(PATIENCE).unwrap_or_else(|error| panic!("no {event}: {error}"));
            if seen["event"] == event {
                return seen;
            }
            assert_ne!(seen["event"], "trouble", "{seen}");
        }
    }

    /// Waits for what is malformed.
    pub fn sees_trouble(&self) -> Value {
        loop {
            let seen = self.events.recv_timeout(PATIENCE).unwrap_or_else(|error| panic!("no trouble: {error}"));
            if seen["event"] == "trouble" {
                return seen;
            }
        }
    }

    /// Waits for so many messages of a name; none of the events on the way may be trouble.
    pub fn sees(&self, name: &str, times: usize) {
        let mut seen = 0;
        while seen < times {
            seen += usize::from(self.sees_event("message")["name"] == name);
        }
    }

    /// Its exit code, and what it said last.
    pub fn ends(mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        self.stderr.read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap().code(), said)
    }

    pub fn ends_well(self) {
        let trouble: Vec<_> = self.events.iter().filter(|event| event["event"] == "trouble").collect();
        let (code, said) = self.ends();
        assert_eq!(code, Some(0), "{said} {trouble:?}");
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn unix(path: &Path) -> String {
    format!("unix:{}", path.display())
}

/// A primary that connects to `to` for its migration and takes checkpoints so many milliseconds apart.
pub fn primary(home: &Path, to: &Path, delay: u32) -> Qemu {
    primary_as(home, to, delay, INSTALLED)
}

/// The same of any QEMU.
pub fn primary_as(home: &Path, to: &Path, delay: u32, setup: Setup) -> Qemu {
    let mut primary = Qemu::start(home, "primary", false, setup);
    primary.command("migrate-set-parameters", json!({"x-checkpoint-delay": delay}));
    primary.count();
    primary.command("migrate", json!({"uri": unix(to)}));
    primary
}

pub fn secondary(home: &Path, name: &str) -> (Qemu, PathBuf) {
    secondary_as(home, name, INSTALLED)
}

/// The same of any QEMU.
pub fn secondary_as(home: &Path, name: &str, setup: Setup) -> (Qemu, PathBuf) {
    let path = home.join(format!("{name}.in"));
    let mut secondary = Qemu::start(home, name, true, setup);
    secondary.command("migrate-incoming", json!({"uri": unix(&path)}));
    (secondary, path)
}

/// Tells a secondary that its primary is dead; its guest then counts on, from behind `count`.
pub fn counts_on(secondary: &mut Qemu, count: u32) {
    secondary.command("x-colo-lost-heartbeat", json!({}));
    // A line that was half printed when the guest was replaced may be missing, or wrong.
    let first = secondary.fresh_count();
    assert!(first >= count, "{first:#x} after {count:#x}");
    for next in 1..=5 {
        assert_eq!(secondary.count(), first + next);
    }
    secondary.runs();
}
