//! This host and this process, as a record names them.

use crate::claim::{Host, Process};
use rustix::process::getpid;
use rustix::system::uname;
use std::fs;
use std::path::PathBuf;
use xxhash_rust::xxh3::xxh3_128;

/// Names a file whose text is this host's identity, in place of the usual ones.
const VARIABLE: &str = "XEN_REPLICATE_HOST_ID";
/// Where the identity is looked for: first the operator's own, for hosts that were cloned from one image with one machine-id.
const FILES: [&str; 3] = ["/etc/xen-replicate/host-id", "/etc/machine-id", "/var/lib/dbus/machine-id"];

/// This host. The identity is a sum of the text in the first of these files that has one: that which `XEN_REPLICATE_HOST_ID` names,
/// `/etc/xen-replicate/host-id`, `/etc/machine-id`. It is empty where none has: then no record can be told to be this host's.
pub fn this_host() -> Host {
    let files = match std::env::var_os(VARIABLE) {
        Some(file) => vec![PathBuf::from(file)],
        None => FILES.map(PathBuf::from).to_vec(),
    };
    let text = files.iter().find_map(|file| {
        let text = fs::read_to_string(file).ok()?;
        let text = text.trim();
        // What systemd writes before a host has one.
        (!text.is_empty() && text != "uninitialized").then(|| text.to_owned())
    });
    let name = uname().nodename().to_string_lossy().into_owned();
    Host { id: text.map(|text| format!("{:032x}", xxh3_128(text.as_bytes()))).unwrap_or_default(), name }
}

/// This process; none where the system does not tell.
pub fn this_process() -> Option<Process> {
    let pid = getpid().as_raw_nonzero().get();
    Some(Process { boot: boot()?, pid, started: started(pid)? })
}

/// Whether a process that a record of this host names is still there. One that is stopped is.
pub fn is_alive(process: &Process) -> bool {
    boot().is_some_and(|boot| boot == process.boot) && started(process.pid) == Some(process.started)
}

fn boot() -> Option<String> {
    Some(fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned())
}

/// When a process began; none when it has ended, be it that nobody has waited for it yet.
fn started(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // A program's name may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    // Field 22 of proc(5); `state` is the third.
    if matches!(state, "Z" | "X") { None } else { fields.nth(18)?.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_process_is_found_again_and_not_taken_for_its_successor() {
        let ours = this_process().unwrap();
        assert!(is_alive(&ours));
        assert!(!is_alive(&Process { started: ours.started + 1, ..ours.clone() }));
        assert!(!is_alive(&Process { boot: "another".into(), ..ours.clone() }));
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let theirs = Process { pid, started: started(pid).unwrap(), ..ours };
        assert!(is_alive(&theirs));
        child.kill().unwrap();
        let state = rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
        let id = rustix::process::Pid::from_child(&child);
        rustix::process::waitid(rustix::process::WaitId::Pid(id), state).unwrap();
        assert!(!is_alive(&theirs), "nobody has waited for it yet");
        child.wait().unwrap();
        assert!(!is_alive(&theirs));
    }

    #[test]
    fn the_identity_is_no_text_of_this_host() {
        let host = this_host();
        assert!(host.id.is_empty() || host.id.len() == 32 && host.id.bytes().all(|digit| digit.is_ascii_hexdigit()));
        if let Ok(machine) = fs::read_to_string("/etc/machine-id") {
            assert_ne!(host.id, machine.trim(), "a machine-id is not to leave its host");
        }
        assert!(!host.name.is_empty());
    }
}
