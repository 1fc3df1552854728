//! Between libxl and a save helper, to tell when what was asked and answered. libxl starts it as the helper; it starts the helper that
//! `TAP_HELPER` names, with libxl's descriptors, passes everything on, and writes to the file that `TAP_LOG` names:
//!
//! ```text
//! MICROSECONDS ask NUMBER
//! MICROSECONDS answer VALUE
//! ```
//!
//! Numbers are those of libxl's messages: 3 suspend, 4 postcopy (the guest runs again), 5 checkpoint. Messages without an answer are not
//! told of.

use std::fs::File;
use std::io::{self, Read, Write};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// log, progress, restore_results: nobody answers them.
const UNANSWERED: [u16; 3] = [1, 2, 9];

fn note(log: &File, what: &str, value: i64) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_micros());
    // One write, so that the two directions' lines stay whole. A full disk shows in the missing figures.
    let _ = (&mut &*log).write_all(format!("{now} {what} {value}\n").as_bytes());
}

/// The helper's messages, as long as it has any.
fn messages(mut from: impl Read, mut to: impl Write, log: &File) -> io::Result<()> {
    loop {
        let mut length = [0; 2];
        from.read_exact(&mut length)?;
        let mut message = length.to_vec();
        message.resize(2 + usize::from(u16::from_ne_bytes(length)), 0);
        from.read_exact(&mut message[2..])?;
        if let [_, _, low, high, ..] = message[..] {
            let number = u16::from_ne_bytes([low, high]);
            if !UNANSWERED.contains(&number) {
                note(log, "ask", number.into());
            }
        }
        to.write_all(&message)?;
    }
}

/// libxl's answers, as long as it gives any.
fn answers(mut from: impl Read, mut to: impl Write, log: &File) -> io::Result<()> {
    loop {
        let mut answer = [0; 4];
        from.read_exact(&mut answer)?;
        note(log, "answer", i32::from_ne_bytes(answer).into());
        to.write_all(&answer)?;
    }
}

fn run() -> io::Result<ExitCode> {
    let variable = |name| std::env::var_os(name).ok_or_else(|| io::Error::other(format!("{name} is not set")));
    let log = Arc::new(File::options().create(true).append(true).open(variable("TAP_LOG")?)?);
    let mut helper = Command::new(variable("TAP_HELPER")?)
        .args(std::env::args_os().skip(1))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    if let Some(stdin) = helper.stdin.take() {
        let log = Arc::clone(&log);
        // Ends with libxl's end of the pipe, or with this process.
        std::thread::spawn(move || answers(io::stdin(), stdin, &log));
    }
    if let Some(stdout) = helper.stdout.take() {
        // The standard output would keep what has no line end.
        match messages(stdout, File::from(std::os::fd::AsFd::as_fd(&io::stdout()).try_clone_to_owned()?), &log) {
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error),
            _ => {}
        }
    }
    let code = helper.wait()?.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(255)))
}

fn main() -> ExitCode {
    run().unwrap_or_else(|error| {
        eprintln!("tap: {error}");
        ExitCode::from(255)
    })
}
