//! QEMU beside a HVM domain: stopped with the guest, saved, and let go on.
//!
//! Its socket takes one client at a time, and libxl is one too, in other processes. So the lock that libxl takes for a conversation
//! (`qmp-socket-lock`) is taken first. For a checkpoint that happens before the guest is asked to suspend ([`Emulator::attend`]): whatever keeps
//! the socket busy costs the guest nothing. The connection is kept until the guest runs again.
#![forbid(unsafe_code)]

use super::failed;
use super::qmp::Qmp;
use super::store::{Server, Store};
use crate::hypervisor::{DeviceModel, EmulatorHeader, Error, Result, Uuid};
use crate::stream::libxl::EmulatorId;
use rustix::fs::{FlockOperation, flock, fstat, stat};
use serde_json::json;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// libxl's name for the lock of an emulator's socket, in its folder of domains' files.
const LOCK: &str = "qmp-socket-lock";
/// Between two attempts to take it.
const AGAIN: Duration = Duration::from_millis(10);
/// Most bytes of a state that are taken.
const MOST_STATE: u64 = 256 << 20;
/// What of a remapped region of memory has to be known on the other side.
const REGION: [&str; 3] = ["start_addr", "size", "name"];

/// Where libxl and QEMU have what concerns emulators, and how long they may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// libxl's sockets to emulators; QEMU leaves its state there for a moment, in memory and not on a disk.
    pub run: PathBuf,
    /// libxl's files of domains, and their locks.
    pub userdata: PathBuf,
    /// How long QEMU may take for an answer, and another process with its socket.
    pub patience: Duration,
}

impl Default for Place {
    fn default() -> Self {
        Place { run: "/var/run/xen".into(), userdata: "/var/lib/xen".into(), patience: Duration::from_secs(10) }
    }
}

/// The emulator of one domain, shared by who suspends the guest and who saves it.
#[derive(Debug, Clone)]
pub struct Emulator(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    domid: u32,
    uuid: Uuid,
    place: Place,
    store: Store,
    /// From before the guest is asked to suspend until it runs again.
    held: Option<Conversation>,
}

/// A connection, and the right to it.
#[derive(Debug)]
struct Conversation {
    qmp: Qmp,
    _lock: SocketLock,
}

impl Inner {
    fn connect(&self) -> Result<Conversation> {
        let Inner { domid, uuid, place, .. } = self;
        let lock = place.userdata.join(format!("userdata-l.{domid}.{uuid}.{LOCK}"));
        let _lock = SocketLock::take(&lock, place.patience).map_err(|error| failed(lock.display(), error))?;
        let socket = place.run.join(format!("qmp-libxl-{domid}"));
        let qmp = Qmp::connect(&socket, place.patience).map_err(|error| failed(socket.display(), error))?;
        Ok(Conversation { qmp, _lock })
    }

    fn command(&mut self, command: &'static str, arguments: serde_json::Value) -> Result<()> {
        let told = match &mut self.held {
            Some(held) => held.qmp.execute(command, arguments),
            None => self.connect()?.qmp.execute(command, arguments),
        };
        // What comes over it later would be the answer to this.
        if told.as_ref().is_err_and(|error| error.kind() != ErrorKind::Other) {
            self.held = None;
        }
        told.map(drop).map_err(|error| failed(format_args!("domain {}: {command} of its emulator", self.domid), error))
    }
}

impl Emulator {
    /// The emulator of a domain.
    ///
    /// # Errors
    /// It does not answer; it is not qemu-xen.
    pub fn new(domid: u32, uuid: Uuid, place: Place, server: Server) -> Result<Self> {
        let store = Store::at(server).map_err(|error| failed("xenstore", error))?;
        let inner = Inner { domid, uuid, place, store, held: None };
        drop(inner.connect()?);
        Ok(Emulator(Arc::new(Mutex::new(inner))))
    }

    /// Takes hold of its socket, while the guest runs.
    ///
    /// # Errors
    /// Another process has it for too long; QEMU does not answer.
    pub fn attend(&self) -> Result<()> {
        let mut inner = self.inner();
        if inner.held.is_none() {
            inner.held = Some(inner.connect()?);
        }
        Ok(())
    }

    /// Gives the socket up again.
    pub fn let_be(&self) {
        self.inner().held = None;
    }

    /// Stops it, after the guest.
    ///
    /// # Errors
    /// QEMU's.
    pub fn stop(&self) -> Result<()> {
        self.inner().command("stop", json!({}))
    }

    /// Lets it go on, before the guest does, over a new connection where the one that is held has failed.
    ///
    /// # Errors
    /// QEMU's.
    pub fn resume(&self) -> Result<()> {
        let mut inner = self.inner();
        let told = inner.command("cont", json!({}));
        inner.held = None;
        told.or_else(|_| inner.command("cont", json!({})))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DeviceModel for Emulator {
    fn emulator(&self) -> EmulatorHeader {
        EmulatorHeader { id: EmulatorId::QemuUpstream, index: 0 }
    }

    fn save_device_model(&self, blob: &mut Vec<u8>) -> Result<()> {
        let mut inner = self.inner();
        let run = inner.place.run.clone();
        let file = tempfile::Builder::new().prefix("xen-replicate-").tempfile_in(&run);
        let file = file.map_err(|error| failed(run.display(), error))?;
        // Not a live migration of QEMU's own, after which it would have to be told that the images of disks are its again.
        inner.command("xen-save-devices-state", json!({ "filename": file.path(), "live": false }))?;
        blob.clear();
        let saved = file.reopen().and_then(|saved| saved.take(MOST_STATE).read_to_end(blob));
        match saved {
            Ok(0) => Err(Error::Toolstack(format!("domain {}: its emulator has saved nothing", inner.domid))),
            Ok(_) => Ok(()),
            Err(error) => Err(failed(file.path().display(), error)),
        }
    }

    /// libxl gives an emulator its state when it starts it.
    fn load_device_model(&mut self, _blob: &[u8]) -> Result<()> {
        Err(Error::Unsupported { backend: "xen", what: "loading state into an emulator that runs" })
    }

    fn emulator_xenstore(&self) -> Result<Vec<(String, String)>> {
        let inner = self.inner();
        let root = format!("/local/domain/0/device-model/{}", inner.domid);
        let asked = |error| failed("xenstore", error);
        let mut pairs = Vec::new();
        for region in inner.store.list(&format!("{root}/physmap")).map_err(asked)? {
            for name in REGION {
                let key = format!("physmap/{region}/{name}");
                let value = inner.store.get(&format!("{root}/{key}")).map_err(asked)?;
                let value = value.ok_or_else(|| failed(format_args!("{root}/{key}"), "not there"))?;
                pairs.push((key, value));
            }
        }
        Ok(pairs)
    }

    fn set_emulator_xenstore(&mut self, _pairs: Vec<(String, String)>) -> Result<()> {
        Err(Error::Unsupported { backend: "xen", what: "loading state into an emulator that runs" })
    }

    fn set_device_model_log_dirty(&mut self, enable: bool) -> Result<()> {
        self.inner().command("xen-set-global-dirty-log", json!({ "enable": enable }))
    }
}

/// A locked file, which goes with the lock, as libxl has it.
#[derive(Debug)]
struct SocketLock {
    path: PathBuf,
    /// Closed after the removal, which ends the lock.
    _file: File,
}

impl SocketLock {
    fn take(path: &Path, patience: Duration) -> io::Result<Self> {
        let deadline = Instant::now() + patience;
        loop {
            let file = File::options().create(true).truncate(false).read(true).write(true).open(path)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {
                    // Who had it before may have removed the file since it was opened.
                    let ours = fstat(&file)?;
                    if stat(path).is_ok_and(|there| there.st_ino == ours.st_ino) {
                        return Ok(SocketLock { path: path.into(), _file: file });
                    }
                }
                Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => thread::sleep(AGAIN),
                Err(error) => return Err(error.into()),
            }
            if Instant::now() >= deadline {
                let text = format!("another process has had the emulator's socket for {patience:?}");
                return Err(io::Error::new(ErrorKind::TimedOut, text));
            }
        }
    }
}

impl Drop for SocketLock {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            log::warn!("{}: {error}", self.path.display());
        }
    }
}
