//! The program as processes, and what they say of themselves.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use xen_replicate::control::{Client, Request, Status};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_xen-replicate");

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(arguments);
    // Unless the test says otherwise.
    let protects = matches!(arguments.first(), Some(&("remus" | "receive")));
    if protects && !arguments.iter().any(|argument| argument.starts_with("--backend")) {
        command.arg("--backend=sim");
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A process that does not outlive this value.
pub struct Guarded(pub Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn status(socket: &Path) -> Option<Status> {
    Some(*Client::connect(socket).ok()?.request(&Request::Status).ok()?.status?)
}

pub fn wait(socket: &Path, what: &str, there: impl Fn(&Status) -> bool) -> Status {
    let end = Instant::now() + PATIENCE;
    let mut last = None;
    while Instant::now() < end {
        last = status(socket);
        if let Some(status) = last.take_if(|status| there(status)) {
            return status;
        }
        // Asking all the time would be the processes' main occupation.
        std::thread::sleep(Duration::from_millis(2));
    }
    panic!("{what} did not come: {last:#?}");
}
