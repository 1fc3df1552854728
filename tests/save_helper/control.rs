//! The control socket of the stand-in in a helper's process.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

pub struct Control(BufReader<UnixStream>);

impl Control {
    /// Connects. The stand-in listens from before the helper's first question on.
    pub fn connect(path: &Path) -> Control {
        Control(BufReader::new(UnixStream::connect(path).unwrap()))
    }

    /// Gives a command that must succeed; gives the words behind `ok`.
    pub fn tell(&mut self, command: &str) -> String {
        self.0.get_mut().write_all(format!("{command}\n").as_bytes()).unwrap();
        let mut reply = String::new();
        self.0.read_line(&mut reply).unwrap();
        let words = reply.trim_end().strip_prefix("ok");
        words.unwrap_or_else(|| panic!("{command}: {reply}")).trim_start().to_owned()
    }

    pub fn steps(&mut self) -> u64 {
        self.tell("steps").parse().unwrap()
    }

    /// What a command is answered; nothing where the process has ended.
    fn ask(&mut self, command: &str) -> Option<String> {
        self.0.get_mut().write_all(format!("{command}\n").as_bytes()).ok()?;
        let mut reply = String::new();
        self.0.read_line(&mut reply).ok()?;
        Some(reply.trim_end().strip_prefix("ok")?.trim_start().to_owned())
    }

    /// Waits until the guest has made so many steps more, or does not run.
    pub fn run_on(&mut self, more: u64) {
        let mut goal = None;
        while self.ask("state").as_deref() == Some("running")
            && let Some(steps) = self.ask("steps").and_then(|steps| steps.parse::<u64>().ok())
            && steps < *goal.get_or_insert(steps + more)
        {
            thread::yield_now();
        }
    }

    /// Waits until the running guest has made so many steps more.
    pub fn wait_for_steps(&mut self, more: u64) {
        let now = self.steps();
        self.wait_until(now + more);
    }

    /// Waits until the running guest has made so many steps in all.
    pub fn wait_until(&mut self, goal: u64) {
        let end = Instant::now() + Duration::from_secs(60);
        while self.steps() < goal {
            assert!(Instant::now() < end, "the guest does not run");
            thread::yield_now();
        }
    }
}
