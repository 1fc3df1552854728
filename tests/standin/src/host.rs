//! The one domain of this process: taken up when the first library is opened, put down when the process exits.

use crate::abi::DOMID_XEN;
use crate::config::{Config, VARIABLE};
use crate::control;
use crate::errno::Errno;
use crate::failure::Pending;
use crate::guest::Guest;
use crate::kept::Kept;
use crate::machine::Machine;
use crate::pv::PvRunner;
use crate::release::Release;
use memmap2::{MmapMut, MmapOptions};
use std::fmt::Display;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use xen_replicate::hypervisor::PAGE_SIZE;
use xen_replicate::hypervisor::sim::pv::PvImage;
use xen_replicate::hypervisor::sim::{Pace, Runner, SimImage};

/// The domain, and what there is of a machine around it.
pub struct Host {
    /// `None` only once the process exits.
    guest: Option<Guest>,
    domid: u32,
    /// The guest's memory: page `n` of the file is the page in slot `n`, or a PV guest's frame `n`.
    memory: File,
    /// The m2p of a PV guest's machine, and bytes in it.
    m2p: Option<(File, usize)>,
    /// Whether the hypervisor tracks the guest's writes.
    pub log_dirty: bool,
    /// The domain's memory, where it is mapped once and for all.
    pub kept: Option<Kept>,
    log: Option<File>,
    folder: PathBuf,
    /// The release of Xen that this is.
    pub release: Release,
    /// A call that is to fail.
    failure: Pending,
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
        let (domid, memory, m2p, guest);
        if config.pv {
            let image: PvImage = serde_json::from_slice(&text).map_err(|error| fails("before.json", &error))?;
            let (file, pages) = open_pages(&config.folder, "memory", image.memory_bytes() as u64)?;
            let (m2p_file, entries) = open_pages(&config.folder, "m2p", image.m2p_bytes() as u64)?;
            let domain = image.wake(pages, entries).map_err(|error| fails("the domain", &error))?;
            let runner =
                PvRunner::start(domain, config.steps_per_second).map_err(|error| fails("the guest", &error))?;
            (domid, memory, m2p) = (image.domid, file, Some((m2p_file, image.m2p_bytes())));
            guest = Guest::Pv(runner);
        } else {
            let mut image: SimImage = serde_json::from_slice(&text).map_err(|error| fails("before.json", &error))?;
            image.config.logs_additions = config.xen.quirks().logs_p2m_additions;
            let bytes = image.config.budget() * PAGE_SIZE as u64;
            let (file, pages) = open_pages(&config.folder, "memory", bytes)?;
            let domain = image.wake(pages).map_err(|error| fails("the domain", &error))?;
            let pace = config.steps_per_second.map_or(Pace::Free, Pace::StepsPerSecond);
            let runner = Runner::start(domain, pace).map_err(|error| fails("the guest", &error))?;
            (domid, memory, m2p) = (image.config.domid, file, None);
            guest = Guest::Hvm(runner);
        }
        let kept = if config.kept_mappings { Some(Kept::new(&memory)) } else { None };
        let kept = kept.transpose().map_err(|error| fails("the memory", &error))?;
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
        Ok(Host {
            guest: Some(guest),
            domid,
            memory,
            m2p,
            log_dirty: false,
            kept,
            log,
            folder: config.folder,
            release: config.xen,
            failure: Pending::new(config.fail),
        })
    }

    /// Writes the domain's state at the end. Its memory is in the file already.
    fn stop(&mut self) -> Result<(), String> {
        let text = match self.guest.take() {
            None => return Ok(()),
            Some(Guest::Hvm(runner)) => {
                let domain = runner.stop().map_err(|error| error.to_string())?;
                serde_json::to_vec(&domain.image().map_err(|error| error.to_string())?)
            }
            Some(Guest::Pv(runner)) => {
                let domain = runner.stop().map_err(|error| error.to_string())?;
                serde_json::to_vec(&domain.image())
            }
        };
        let text = text.map_err(|error| error.to_string())?;
        std::fs::write(self.folder.join("after.json"), text).map_err(|error| error.to_string())
    }

    /// The domain of this number; `ESRCH` for any other.
    pub fn domain(&mut self, domid: u32) -> Result<&mut Guest, Errno> {
        self.own().ok_or(Errno(libc::ENODEV)).and_then(
            |(own, guest)| {
                if own == domid { Ok(guest) } else { Err(Errno(libc::ESRCH)) }
            },
        )
    }

    /// The domain and its number.
    pub fn own(&mut self) -> Option<(u32, &mut Guest)> {
        Some((self.domid, self.guest.as_mut()?))
    }

    /// The frames of the domain, which stands still meanwhile; or Xen's.
    pub fn frames(&self, domid: u32) -> Result<Machine<'_>, Errno> {
        if let (DOMID_XEN, Some((file, bytes))) = (domid, &self.m2p) {
            return Ok(Machine::M2p(*bytes, file));
        }
        if domid != self.domid {
            return Err(Errno(libc::ESRCH));
        }
        match self.guest.as_ref().ok_or(Errno(libc::ENODEV))? {
            Guest::Hvm(runner) => Ok(Machine::Hvm(runner.turn()?, &self.memory)),
            Guest::Pv(runner) => Ok(Machine::Pv(runner.turn()?, &self.memory)),
        }
    }

    /// Fails where this call is the one that is to fail.
    pub fn may(&mut self, call: &str, op: u64) -> Result<(), Errno> {
        let checked = self.failure.check(call, op);
        if let Err(errno) = checked {
            self.note(format_args!("{call} {op}: told to fail with {}", errno.0));
        }
        checked
    }

    /// Puts a line into the log, if there is one.
    pub fn note(&mut self, line: impl Display) {
        if let Some(log) = &mut self.log {
            // A log that cannot be written is no reason to fail a hypercall.
            let _ = writeln!(log, "{line}");
        }
    }
}

/// Opens a file of the domain's folder, makes it as long as that, and maps it.
fn open_pages(folder: &Path, name: &str, bytes: u64) -> Result<(File, MmapMut), String> {
    let fails = |error: std::io::Error| format!("{}: {name}: {error}", folder.display());
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false);
    let file = options.open(folder.join(name)).map_err(fails)?;
    file.set_len(bytes).map_err(fails)?;
    // SAFETY: nobody shortens the file while this process lives. Its bytes do change behind this mapping, as a guest's
    // memory does behind a hypervisor's: by the caller, through foreign mappings. The simulated guest is written to keep
    // its own pages consistent only with writes that come while it stands still, which is when a toolstack writes; it
    // takes every value in them, and checks what it reads.
    let pages = unsafe { MmapOptions::new().map_mut(&file) }.map_err(fails)?;
    Ok((file, pages))
}
