//! QEMU beside a HVM domain: stopped with the guest, saved, and let go on.
#![forbid(unsafe_code)]

use super::failed;
use super::qmp::Qmp;
use super::store::Store;
use crate::hypervisor::{DeviceModel, EmulatorHeader, Error, Result};
use crate::stream::libxl::EmulatorId;
use serde_json::json;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Where libxl has its sockets to emulators, and where QEMU leaves its state for a moment: in memory, not on a disk.
const RUN: &str = "/var/run/xen";
/// How long QEMU may take for an answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Most octets of a state that are taken.
const MOST_STATE: u64 = 256 << 20;
/// What of a remapped region of memory has to be known on the other side.
const REGION: [&str; 3] = ["start_addr", "size", "name"];

/// The emulator of one domain, shared by who suspends the guest and who saves it.
#[derive(Debug, Clone)]
pub struct Emulator(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    domid: u32,
    store: Store,
    /// While the emulator stands still. Its socket takes one client at a time, and libxl is one too.
    qmp: Option<Qmp>,
}

impl Inner {
    fn command(&mut self, command: &'static str, arguments: serde_json::Value) -> Result<()> {
        let told = match &mut self.qmp {
            Some(qmp) => qmp.execute(command, arguments),
            None => connect(self.domid)?.execute(command, arguments),
        };
        told.map(drop).map_err(|error| failed(format_args!("domain {}: {command} of its emulator", self.domid), error))
    }
}

fn connect(domid: u32) -> Result<Qmp> {
    let socket = PathBuf::from(format!("{RUN}/qmp-libxl-{domid}"));
    Qmp::connect(&socket, PATIENCE).map_err(|error| failed(socket.display(), error))
}

impl Emulator {
    /// The emulator of a domain.
    ///
    /// # Errors
    /// It does not answer; it is not qemu-xen.
    pub fn new(domid: u32) -> Result<Self> {
        let store = Store::open().map_err(|error| failed("xenstore", error))?;
        drop(connect(domid)?);
        Ok(Emulator(Arc::new(Mutex::new(Inner { domid, store, qmp: None }))))
    }

    /// Stops it, behind the guest.
    ///
    /// # Errors
    /// QEMU's.
    pub fn stop(&self) -> Result<()> {
        let mut inner = self.inner();
        if inner.qmp.is_none() {
            inner.qmp = Some(connect(inner.domid)?);
        }
        inner.command("stop", json!({}))
    }

    /// Lets it go on, before the guest does. The connection is given up whatever comes.
    ///
    /// # Errors
    /// QEMU's.
    pub fn resume(&self) -> Result<()> {
        let mut inner = self.inner();
        let told = inner.command("cont", json!({}));
        inner.qmp = None;
        told
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
        let file = tempfile::Builder::new().prefix("xen-replicate-").tempfile_in(Path::new(RUN));
        let file = file.map_err(|error| failed(RUN, error))?;
        // Not a live migration of QEMU's own, behind which it would have to be told that the images of disks are its again.
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
