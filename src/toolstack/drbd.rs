//! A disk that DRBD replicates, with the patches that Remus needs: its protocol D, which keeps the writes of an epoch apart on the
//! secondary until the epoch is committed.
//!
//! As libxl drives it: a checkpoint is put into DRBD's own stream when the guest has suspended, and the guest is resumed when DRBD's
//! other side has acknowledged it; here it is waited for before that, for a guest that runs again can no longer be refused its checkpoint. Numbers of the two requests are those of the patched driver, as in libxl; no header has them.
#![allow(unsafe_code)]

use super::{command, failed};
use crate::hypervisor::{Replicated, Result};
use rustix::ioctl::{NoArg, ioctl};
use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Puts a checkpoint behind what has been written.
const SEND_CHECKPOINT: u32 = 20;
/// Waits until the other side has it.
const WAIT_CHECKPOINT_ACK: u32 = 30;
/// The stock tool's judgement of a device: 0 where it is DRBD's, in protocol D, and ready.
pub const PROBE: &str = "/etc/xen/scripts/block-drbd-probe";

/// How long the probe may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// One such disk.
#[derive(Debug)]
pub struct Drbd {
    device: String,
    file: File,
    /// A checkpoint has been sent and not been waited for.
    under_way: bool,
}

/// The disk behind `device` where the probe says that it is one; `None` where it says otherwise, or is not there.
///
/// # Errors
/// It is one and cannot be opened; the probe hangs.
pub fn probe(probe: &Path, device: &str) -> Result<Option<Drbd>> {
    probe_for(probe, device, PATIENCE)
}

fn probe_for(probe: &Path, device: &str, patience: Duration) -> Result<Option<Drbd>> {
    let mut command = Command::new(probe);
    command.arg(device).stdout(Stdio::null()).stderr(Stdio::null());
    match command::run(&mut command, patience) {
        // Nobody knows whether it is one.
        Err(error) if error.kind() == ErrorKind::TimedOut => Err(failed(device, error)),
        Ok(status) if status.success() => {
            let file = File::open(device).map_err(|error| failed(device, error))?;
            Ok(Some(Drbd { device: device.to_owned(), file, under_way: false }))
        }
        _ => Ok(None),
    }
}

impl Replicated for Drbd {
    fn suspended(&mut self, _session: u64, _checkpoint: u64) -> Result<()> {
        if !self.under_way {
            // SAFETY: the descriptor is open, and the patched driver's request takes no argument and writes to none of our memory.
            let sent = unsafe { ioctl(&self.file, NoArg::<SEND_CHECKPOINT>::new()) };
            sent.map_err(|error| self.failed("sending a checkpoint", error))?;
            self.under_way = true;
        }
        Ok(())
    }

    fn wait(&mut self) -> Result<()> {
        if std::mem::take(&mut self.under_way) {
            // SAFETY: as in `suspended`.
            let acknowledged = unsafe { ioctl(&self.file, NoArg::<WAIT_CHECKPOINT_ACK>::new()) };
            acknowledged.map_err(|error| self.failed("waiting for a checkpoint's acknowledgement", error))?;
        }
        Ok(())
    }
}

impl Drbd {
    fn failed(&self, what: &str, error: rustix::io::Errno) -> crate::hypervisor::Error {
        failed(format_args!("DRBD {}: {what}", self.device), io::Error::from(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_probe_that_hangs_is_an_error_and_not_a_wait() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("probe");
        fs::write(&script, "#!/bin/sh\nexec sleep 1000\n").unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let error = probe_for(&script, "/dev/some", Duration::from_millis(200)).unwrap_err().to_string();
        assert!(error.contains("/dev/some") && error.contains("not ended"), "{error}");
    }

    #[test]
    fn the_probe_decides_and_a_device_that_is_none_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("probe");
        let device = folder.path().join("device");
        fs::write(&device, "").unwrap();
        fs::write(&script, format!("#!/bin/sh\ntest $1 = {}\n", device.display())).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(probe(&script, "/dev/other").unwrap().is_none());
        assert!(probe(Path::new("/none/probe"), "/dev/other").unwrap().is_none());
        let mut disk = probe(&script, device.to_str().unwrap()).unwrap().unwrap();
        // An ordinary file knows no such request.
        let error = disk.suspended(1, 1).unwrap_err().to_string();
        assert!(error.contains("sending a checkpoint") && error.contains(device.to_str().unwrap()), "{error}");
        disk.wait().unwrap();
        disk.under_way = true;
        assert!(disk.wait().unwrap_err().to_string().contains("acknowledgement"));
    }
}
