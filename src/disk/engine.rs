//! What `remus` and `receive` do with the daemons of a domain's disks.
#![forbid(unsafe_code)]

use super::control::{Client, Reply, Request, Role};
use super::error::KEPT;
use super::{Device, Error, Mark, Result};
use crate::hypervisor::{self, Replicated};
use std::thread;
use std::time::{Duration, Instant};

/// How long a session's begin may take: by then the other side's copy is complete again, or it is told how much of it is.
const BEGIN: Duration = Duration::from_secs(20);
/// How long the keeper may be out of reach of a primary that prepares.
const REACH: Duration = Duration::from_secs(30);
/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(500);
/// How long a keeper may take to apply what is committed, and to have the device appear, at a failover.
const PROMOTION: Duration = Duration::from_secs(600);
/// How long a keeper may take to be there again at a failover.
const AGAIN: Duration = Duration::from_secs(30);

/// A disk of a domain of this host, whose daemon is its primary.
#[derive(Debug)]
pub struct Primary {
    device: Device,
    client: Client,
    /// How many of the domain's disks are of this kind.
    disks: u32,
    /// A checkpoint that has been asked for and not been waited for.
    under_way: Option<u64>,
}

/// The disk behind this, where a daemon serves it; `None` where none does. With `lazy` its keeper may be set later.
///
/// # Errors
/// The daemon keeps another host's disk, or has no keeper.
pub fn find(behind: &str, lazy: bool) -> Result<Option<Primary>> {
    let Some(device) = Device::of(behind) else { return Ok(None) };
    let Some(mut client) = Client::call(device.name())? else { return Ok(None) };
    let status = client.status()?;
    if status.role != Role::Primary {
        return Err(Error::Role { is: "kept", wanted: "in service" });
    }
    if status.peer.is_none() && !lazy {
        return Err(Error::Gone(format!("{device} has none: xen-replicate disk to {device} ADDRESS")));
    }
    Ok(Some(Primary { device, client, disks: 1, under_way: None }))
}

impl Primary {
    /// Says how many of the domain's disks are of this kind, so that no keeper of one is forgotten.
    #[must_use]
    pub fn of(self, disks: usize) -> Self {
        Primary { disks: u32::try_from(disks).unwrap_or(u32::MAX), ..self }
    }

    /// Waits until the copy is complete. `keeps`: a keeper that will not let go of a checkpoint before a protection begins is in order.
    fn sync(&mut self, keeps: bool, most: Option<Duration>, give_up: &dyn Fn() -> bool) -> Result<()> {
        let begun = Instant::now();
        let mut reached = begun;
        let mut told = 0;
        let timeout_ms = u64::try_from(LOOK.as_millis()).unwrap_or_default();
        loop {
            let looked = Instant::now();
            let percent = match self.client.ask(&Request::Synced { timeout_ms }) {
                Ok(Reply { percent: Some(100), .. }) => return Ok(()),
                Ok(reply) => {
                    reached = Instant::now();
                    reply.percent.unwrap_or_default()
                }
                Err(error) if keeps && error.to_string().ends_with(KEPT) => {
                    log::info!("{}: {error}; it stays until the protection begins", self.device);
                    return Ok(());
                }
                Err(error) if reached.elapsed() >= most.unwrap_or(REACH) => return Err(error),
                Err(_) => told,
            };
            if percent >= told + 10 {
                told = percent;
                log::info!("{}: the copy on the other host: {percent} % in sync", self.device);
            }
            if give_up() || most.is_some_and(|most| begun.elapsed() >= most) {
                return Err(Error::NotInSync { percent });
            }
            thread::sleep(LOOK.saturating_sub(looked.elapsed()));
        }
    }

    fn named(&self, error: &Error) -> hypervisor::Error {
        match error {
            // It has the device's name in it.
            Error::Told(text) => hypervisor::Error::Toolstack(text.clone()),
            error => hypervisor::Error::Toolstack(format!("{}: {error}", self.device)),
        }
    }
}

impl Replicated for Primary {
    /// Announces nothing: what the keeper has of an earlier protection may yet be what the other host goes on from.
    fn prepare(&mut self, give_up: &dyn Fn() -> bool) -> hypervisor::Result<()> {
        self.sync(true, None, give_up).map_err(|error| self.named(&error))
    }

    fn begin(&mut self, session: u64) -> hypervisor::Result<()> {
        let begun = self.client.ask(&Request::Begin { session });
        begun.and_then(|_| self.sync(false, Some(BEGIN), &|| false)).map_err(|error| self.named(&error))
    }

    fn suspended(&mut self, session: u64, checkpoint: u64) -> hypervisor::Result<()> {
        let close = Request::Close { mark: Mark { session, checkpoint }, disks: self.disks };
        let reply = self.client.ask(&close).map_err(|error| self.named(&error))?;
        self.under_way = reply.seq;
        Ok(())
    }

    fn wait(&mut self) -> hypervisor::Result<()> {
        if let Some(seq) = self.under_way.take() {
            self.client.ask(&Request::Wait { seq }).map_err(|error| self.named(&error))?;
        }
        Ok(())
    }

    fn leave(&mut self) {
        if let Err(error) = self.client.ask(&Request::Leave) {
            log::warn!("{error}");
        }
    }
}

/// The keepers, on this host, of the disks of another host's domain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keepers(Vec<Device>);

impl Keepers {
    /// Finds them.
    ///
    /// # Errors
    /// A disk has none.
    pub fn find(disks: Vec<Device>) -> Result<Self> {
        for device in &disks {
            match Client::call(device.name())?.map(|mut client| client.status()).transpose()? {
                None => return Err(Error::Told(format!("nobody on this host keeps a copy of the disk {device}"))),
                Some(status) if status.role != Role::Keeper => {
                    return Err(Error::Told(format!("{device}: {}", Error::Role { is: "in service", wanted: "kept" })));
                }
                Some(_) => {}
            }
        }
        Ok(Keepers(disks))
    }

    /// Whether there is nothing to be kept.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The checkpoint was acknowledged to the primary.
    ///
    /// # Errors
    /// A keeper does not have it, or cannot apply it; the checkpoint is of more disks.
    pub fn commit(&self, mark: Mark) -> Result<()> {
        for device in &self.0 {
            let mut client =
                Client::call(device.name())?.ok_or_else(|| Error::Told(format!("{device}: its keeper has ended")))?;
            let disks = client.ask(&Request::Commit { mark })?.disks.unwrap_or_default();
            if usize::try_from(disks).ok() != Some(self.0.len()) {
                let kept = self.0.len();
                return Err(Error::Told(format!("the checkpoint is of {disks} disks, copies of {kept} are here")));
            }
        }
        Ok(())
    }

    /// Puts the copies into service at this checkpoint: all of them, or none where one cannot. A keeper that has just ended may be started
    /// again meanwhile.
    ///
    /// # Errors
    /// One has no such checkpoint, or cannot serve it. Where it is found only when others are in service already, the error names both.
    pub fn promote(&self, mark: Mark) -> Result<()> {
        // What can be wrong with a checkpoint is found before any copy is changed for good.
        for device in &self.0 {
            let mut client = reach(device)?;
            if client.status()?.role == Role::Keeper {
                client.ask(&Request::Commit { mark })?;
            }
        }
        for (index, device) in self.0.iter().enumerate() {
            let promoted = reach(device).and_then(|mut client| client.ask(&Request::Promote { mark: Some(mark) }));
            if let Err(error) = promoted {
                let (done, rest) = self.0.split_at(index);
                return Err(if done.is_empty() { error } else { Error::Told(halfway(mark, done, rest, &error)) });
            }
        }
        Ok(())
    }
}

/// A keeper, also one that is started again only now.
fn reach(device: &Device) -> Result<Client> {
    let begun = Instant::now();
    loop {
        match Client::call(device.name())? {
            Some(client) => {
                client.be_patient(PROMOTION)?;
                return Ok(client);
            }
            None if begun.elapsed() >= AGAIN => {
                return Err(Error::Told(format!("{device}: its keeper has ended")));
            }
            None => thread::sleep(LOOK),
        }
    }
}

/// What is where when some disks are in service and another one is not.
fn halfway(mark: Mark, done: &[Device], rest: &[Device], error: &Error) -> String {
    let names = |devices: &[Device]| devices.iter().map(Device::name).collect::<Vec<_>>().join(", ");
    format!(
        "{error}; at checkpoint {mark}: in service are {}, still copies are {}, which `xen-replicate disk promote DEVICE` puts into \
         service",
        names(done),
        names(rest)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Server;
    use std::sync::{Arc, Mutex};

    #[test]
    fn preparing_leaves_what_the_keeper_has_of_an_earlier_protection() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.sock");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        let handler = move |request: Request| {
            let begun = log.lock().unwrap().iter().any(|request| matches!(request, Request::Begin { .. }));
            let reply = match &request {
                Request::Synced { .. } if !begun => {
                    Err::<(), _>(Error::Gone(Error::Holds(Mark { session: 1, checkpoint: 8 }).to_string())).into()
                }
                Request::Synced { .. } => Reply { percent: Some(100), ..Reply::done() },
                _ => Reply::done(),
            };
            log.lock().unwrap().push(request);
            reply
        };
        let _server = Server::answer(&path, Arc::new(handler)).unwrap();
        let device = Device::of("/dev/nbd0").unwrap();
        let mut disk = Primary { client: Client::at(&path, device.name()), device, disks: 1, under_way: None };
        disk.prepare(&|| false).unwrap();
        assert!(asked.lock().unwrap().iter().all(|request| matches!(request, Request::Synced { .. })));
        disk.begin(9).unwrap();
        assert!(asked.lock().unwrap().contains(&Request::Begin { session: 9 }));
    }

    #[test]
    fn a_promotion_that_stops_halfway_says_what_is_where() {
        let devices: Vec<Device> = ["/dev/nbd0", "/dev/nbd1"].iter().filter_map(|name| Device::of(name)).collect();
        let (done, rest) = devices.split_at(1);
        let mark = Mark { session: 1, checkpoint: 4 };
        let text = halfway(mark, done, rest, &Error::Told("no room".into()));
        assert!(text.starts_with("no room; at checkpoint 4"), "{text}");
        assert!(text.contains("in service are /dev/nbd0, still copies are /dev/nbd1"), "{text}");
    }
}
