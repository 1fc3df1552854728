//! The devices of a domain while it is protected: what was covered at the start must be what there is at each checkpoint.
//!
//! A network card that is attached later sends without being held, a disk that is attached later is written on this host alone. So the
//! list is watched: where it has changed, the next checkpoint is refused with the reason, and protection ends.
#![forbid(unsafe_code)]

use super::failed;
use super::netbuf::NetBuffer;
use super::store::{Server, Session};
use crate::hypervisor::{Error, Replicated, Result};
use std::time::Instant;

/// Kinds of devices that protection has to do with.
const KINDS: [(&str, &str); 2] = [("vif", "network card"), ("vbd", "disk")];

/// The watch over one domain's devices. It takes its place among the disks: it is asked at each checkpoint as they are.
#[derive(Debug)]
pub struct Watch {
    domid: u32,
    server: Server,
    session: Session,
    known: Vec<String>,
    /// Where output is held; it is set up when a protection begins, if it could not be before.
    buffer: Option<NetBuffer>,
}

impl Watch {
    /// Watches, with what there is now as what is covered. `buffer` is set up when a protection begins, if it is not.
    ///
    /// # Errors
    /// xenstore's.
    pub fn new(domid: u32, server: Server, buffer: Option<NetBuffer>) -> Result<Self> {
        let mut session = watching(domid, &server)?;
        let known = list(&mut session, domid)?;
        Ok(Watch { domid, server, session, known, buffer })
    }

    /// What has come and gone since.
    fn changes(&mut self) -> Result<Option<String>> {
        let asked = |error| failed("xenstore", error);
        let mut changed = false;
        if self.session.is_broken() {
            self.session = watching(self.domid, &self.server)?;
            changed = true;
        }
        let now = Instant::now();
        while self.session.next_event(now).map_err(asked)?.is_some() {
            changed = true;
        }
        if changed { self.differences() } else { Ok(None) }
    }

    /// The same, whether or not xenstored has told of any.
    fn differences(&mut self) -> Result<Option<String>> {
        let there = list(&mut self.session, self.domid)?;
        let come =
            there.iter().filter(|device| !self.known.contains(device)).map(|device| format!("{device} was attached"));
        let gone =
            self.known.iter().filter(|device| !there.contains(device)).map(|device| format!("{device} was detached"));
        let all: Vec<String> = come.chain(gone).collect();
        Ok((!all.is_empty()).then(|| all.join(", ")))
    }
}

fn watching(domid: u32, server: &Server) -> Result<Session> {
    let asked = |error| failed("xenstore", error);
    let mut session = Session::at(server).map_err(asked)?;
    session.watch(&format!("/libxl/{domid}/device"), "devices").map_err(asked)?;
    Ok(session)
}

fn list(session: &mut Session, domid: u32) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for (kind, name) in KINDS {
        let entries = session.list(&format!("/libxl/{domid}/device/{kind}"));
        all.extend(entries.map_err(|error| failed("xenstore", error))?.iter().map(|entry| format!("{name} {entry}")));
    }
    Ok(all)
}

impl Replicated for Watch {
    /// The domain must be as it was taken hold of: its configuration, which the replica is made by, is of then.
    fn begin(&mut self, _session: u64) -> Result<()> {
        // One that was told of may have been refused already.
        self.session = watching(self.domid, &self.server)?;
        if let Some(text) = self.differences()? {
            return Err(self.refused(&text));
        }
        // A survivor's could not be set up before.
        self.buffer.as_ref().map_or(Ok(()), NetBuffer::set_up)
    }

    fn suspended(&mut self, _session: u64, _checkpoint: u64) -> Result<()> {
        match self.changes()? {
            None => Ok(()),
            Some(text) => Err(self.refused(&text)),
        }
    }

    fn wait(&mut self) -> Result<()> {
        Ok(())
    }
}

impl Watch {
    fn refused(&self, changes: &str) -> Error {
        let text = "its replica does not have that: end `remus` and start it again";
        Error::Toolstack(format!("domain {}: {changes} while it was protected; {text}", self.domid))
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::{Fault, Plan, Xenstored};
    use super::*;

    #[test]
    fn a_card_or_a_disk_that_comes_or_goes_refuses_the_next_checkpoint() {
        for (key, what) in [("vif/1", "network card 1"), ("vbd/51728", "disk 51728")] {
            let folder = tempfile::tempdir().unwrap();
            let plan = Plan::shared();
            let store = Xenstored::start(folder.path(), &plan, |_, _| {});
            store.set("/libxl/7/device/vif/0/frontend", "");
            store.set("/libxl/7/device/vbd/51712/frontend", "");
            let mut watch = Watch::new(7, store.server.clone(), None).unwrap();
            watch.begin(1).unwrap();
            watch.suspended(1, 1).unwrap();
            let key = format!("/libxl/7/device/{key}");
            store.set(&key, "");
            store.fire();
            let error = watch.suspended(1, 2).unwrap_err().to_string();
            assert!(error.contains(&format!("{what} was attached")), "{error}");
            assert!(watch.begin(2).unwrap_err().to_string().contains("start it again"));
            store.keys.lock().unwrap().remove(&key);
            watch.begin(3).unwrap();
            watch.suspended(3, 1).unwrap();
            store.keys.lock().unwrap().remove("/libxl/7/device/vif/0/frontend");
            store.fire();
            assert!(watch.suspended(3, 2).unwrap_err().to_string().contains("network card 0 was detached"));
        }
    }

    #[test]
    fn a_xenstored_that_fails_refuses_the_checkpoint_and_is_asked_again() {
        let folder = tempfile::tempdir().unwrap();
        let plan = Plan::shared();
        let store = Xenstored::start(folder.path(), &plan, |_, _| {});
        let mut watch = Watch::new(7, store.server.clone(), None).unwrap();
        let calls = plan.lock().unwrap().calls.len();
        plan.lock().unwrap().at = Some((calls, Fault::Stall));
        store.fire();
        assert!(watch.suspended(1, 1).is_err());
        watch.suspended(1, 2).unwrap();
    }
}
