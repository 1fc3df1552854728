//! The one domain of this process: taken up when the first library is opened, put down when the process exits.

use crate::config::{Config, VARIABLE};
use crate::control;
use crate::errno::Errno;
use memmap2::MmapOptions;
use std::fmt::Display;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use xen_replicate::hypervisor::PAGE_SIZE;
use xen_replicate::hypervisor::sim::{Pace, Runner, SimImage, Turn};

/// The domain, and what there is of a machine around it.
pub struct Host {
    /// `None` only once the process exits.
    runner: Option<Runner>,
    domid: u32,
    /// The guest's memory: page `n` of the file is the page in slot `n`.
    memory: File,
    /// Whether the hypervisor tracks the guest's writes.
    pub log_dirty: bool,
    log: Option<File>,
    folder: PathBuf,
}

static HOST: OnceLock<Option<Mutex<Host>>> = OnceLock::new();

/// Takes the domain up, unless that is done. False when it cannot be; the reason is on standard error then.
pub fn open() -> bool {
    HOST.get_or_init(|| match Host::start() {
        Ok(host) => Some(Mutex::new(host)),
        Err(error) => {
            eprintln!("xen-standin: {error}");
            None
        }
    })
    .is_some()
}

/// The host, for one call. `ENODEV` where there is none.
pub fn host() -> Result<MutexGuard<'static, Host>, Errno> {
    let host = HOST.get().and_then(Option::as_ref).ok_or(Errno(libc::ENODEV))?;
    Ok(host.lock().unwrap_or_else(PoisonError::into_inner))
}

extern "C" fn put_down() {
    if let Ok(mut host) = host()
        && let Err(error) = host.stop()
    {
        eprintln!("xen-standin: {error}");
    }
}

impl Host {
    fn start() -> Result<Self, String> {
        let config = Config::from_environment()?;
        let fails = |what: &str, error: &dyn Display| format!("{}: {what}: {error}", config.folder.display());
        let text = std::fs::read(config.folder.join("before.json")).map_err(|error| fails("before.json", &error))?;
        let image: SimImage = serde_json::from_slice(&text).map_err(|error| fails("before.json", &error))?;
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let memory = options.open(config.folder.join("memory")).map_err(|error| fails("memory", &error))?;
        let octets = image.config.budget() * PAGE_SIZE as u64;
        memory.set_len(octets).map_err(|error| fails("memory", &error))?;
        // SAFETY: nobody shortens the file while this process lives. Its octets do change behind this mapping, as a guest's
        // memory does behind a hypervisor's: by the caller, through foreign mappings. The simulated guest is written to keep
        // its own pages consistent only with writes that come while it stands still, which is when a toolstack writes; it
        // takes every value in them, and checks what it reads.
        let pages = unsafe { MmapOptions::new().map_mut(&memory) }.map_err(|error| fails("memory", &error))?;
        let domain = image.wake(pages).map_err(|error| fails("the domain", &error))?;
        let domid = image.config.domid;
        let pace = config.steps_per_second.map_or(Pace::Free, Pace::StepsPerSecond);
        let runner = Runner::start(domain, pace).map_err(|error| fails("the guest", &error))?;
        let log = config.log.as_deref().map(|path| File::options().append(true).create(true).open(path));
        let log = log.transpose().map_err(|error| fails("the log", &error))?;
        if let Some(path) = &config.control {
            control::listen(path).map_err(|error| fails("the control socket", &error))?;
        }
        // SAFETY: the function is there until the process ends, for this library is never unloaded before it: Rust's static
        // data and threads of it are in use.
        if unsafe { libc::atexit(put_down) } != 0 {
            return Err(format!("{VARIABLE}: no room for an exit handler"));
        }
        Ok(Host { runner: Some(runner), domid, memory, log_dirty: false, log, folder: config.folder })
    }

    /// Writes the domain's state at the end. Its memory is in the file already.
    fn stop(&mut self) -> Result<(), String> {
        let Some(runner) = self.runner.take() else {
            return Ok(());
        };
        let domain = runner.stop().map_err(|error| error.to_string())?;
        let image = domain.image().map_err(|error| error.to_string())?;
        let text = serde_json::to_vec(&image).map_err(|error| error.to_string())?;
        std::fs::write(self.folder.join("after.json"), text).map_err(|error| error.to_string())
    }

    /// The domain of this number; `ESRCH` for any other.
    pub fn domain(&mut self, domid: u32) -> Result<&mut Runner, Errno> {
        self.own().ok_or(Errno(libc::ENODEV)).and_then(
            |(own, runner)| {
                if own == domid { Ok(runner) } else { Err(Errno(libc::ESRCH)) }
            },
        )
    }

    /// The domain and its number.
    pub fn own(&mut self) -> Option<(u32, &mut Runner)> {
        Some((self.domid, self.runner.as_mut()?))
    }

    /// The domain standing still, and the file of its memory.
    pub fn frames(&self, domid: u32) -> Result<(Turn<'_>, &File), Errno> {
        if domid != self.domid {
            return Err(Errno(libc::ESRCH));
        }
        let runner = self.runner.as_ref().ok_or(Errno(libc::ENODEV))?;
        Ok((runner.turn()?, &self.memory))
    }

    /// Puts a line into the log, if there is one.
    pub fn note(&mut self, line: impl Display) {
        if let Some(log) = &mut self.log {
            // A log that cannot be written is no reason to fail a hypercall.
            let _ = writeln!(log, "{line}");
        }
    }
}
