//! The driver's end: what xenstore and the hypervisor's other users do to a domain, said in lines on a Unix socket.
//!
//! | command | reply |
//! |---|---|
//! | `suspend` | `ok`: the guest was asked to suspend, and has |
//! | `resume` | `ok`: the suspended guest runs on in place |
//! | `pause`, `unpause` | `ok` |
//! | `log-dirty on`, `log-dirty off` | `ok`: as COLO's secondary has it from libxl |
//! | `device-log on`, `device-log off` | `ok`: whether the device model reports its writes |
//! | `steps` | `ok N`: steps that the guest has made |
//! | `state` | `ok running`, `ok paused`, or `ok suspended` |
//!
//! Everything else, and whatever fails, is answered by `error` and a reason.
#![forbid(unsafe_code)]

use crate::guest::Guest;
use crate::host::host;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use xen_replicate::hypervisor::{DeviceModel, Domain, Error, LogDirty, Result};

/// Listens for as long as the process lives.
pub fn listen(path: &Path) -> std::io::Result<()> {
    let listener = UnixListener::bind(path)?;
    let thread = std::thread::Builder::new().name("control".into());
    thread.spawn(move || {
        for connection in listener.incoming().flatten() {
            // A connection ends when its other end is gone, whatever the error that says so. One that finds no thread is
            // closed.
            let _ = std::thread::Builder::new().spawn(move || drop(serve(&connection)));
        }
    })?;
    Ok(())
}

fn serve(connection: &UnixStream) -> std::io::Result<()> {
    for line in BufReader::new(connection).lines() {
        let mut reply = answer(&line?);
        reply.push('\n');
        (&mut &*connection).write_all(reply.as_bytes())?;
    }
    Ok(())
}

fn answer(command: &str) -> String {
    let Ok(mut host) = host() else {
        return "error no host".into();
    };
    host.note(format_args!("control: {command}"));
    if let Some(switch) = command.strip_prefix("log-dirty ") {
        host.log_dirty = switch == "on";
    }
    let done = match host.own() {
        Some((_, Guest::Hvm(runner))) => match command {
            "device-log on" => runner.set_device_model_log_dirty(true).map(|()| None),
            "device-log off" => runner.set_device_model_log_dirty(false).map(|()| None),
            "steps" => runner.turn().and_then(|turn| turn.steps()).map(|steps| Some(steps.to_string())),
            _ => obey(runner, command),
        },
        Some((_, Guest::Pv(runner))) => runner.turn().and_then(|mut domain| match command {
            // It has no device model.
            "device-log on" | "device-log off" => Ok(None),
            "steps" => Ok(Some(domain.steps().to_string())),
            _ => obey(&mut *domain, command),
        }),
        None => return "error the process is ending".into(),
    };
    match done {
        Ok(None) => "ok".into(),
        Ok(Some(words)) => format!("ok {words}"),
        Err(error) => format!("error {error}"),
    }
}

fn obey<D: Domain + LogDirty>(runner: &mut D, command: &str) -> Result<Option<String>> {
    match command {
        "suspend" => runner.suspend()?,
        "resume" => runner.resume()?,
        "pause" => runner.pause()?,
        "unpause" => runner.unpause()?,
        "log-dirty on" => runner.enable_log_dirty()?,
        "log-dirty off" => runner.disable_log_dirty()?,
        "state" => {
            let info = runner.info()?;
            let state = match (info.is_suspended(), info.paused) {
                (true, _) => "suspended",
                (false, true) => "paused",
                (false, false) => "running",
            };
            return Ok(Some(state.into()));
        }
        _ => return Err(Error::Unsupported { backend: "xen-standin", what: "this command" }),
    }
    Ok(None)
}
