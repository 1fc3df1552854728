//! The start of a protection, as `host::xen` makes it, with each call to xenstored, QEMU, the network and the hypervisor failing once.

use super::cover::cover;
use super::devices::Watch;
use super::disks::{disks, replicated};
use super::emulator::{Emulator, Place};
use super::fake::{DOMID, FAULTS, FakeDomain, Plan, Qemu, SHORT, Shared, Xenstored, uuid};
use super::fake_network::{FakeNetwork, Wire};
use super::identity::{Identity, Kind};
use super::life::{Hypervisor, Life};
use super::netbuf::NetBuffer;
use super::store::Store;
use crate::hypervisor::{Replicated, Result};
use std::path::Path;
use std::sync::{Arc, Mutex};

const CARDS: [&str; 2] = ["vif7.0", "vif7.1"];
const REQUESTED: &str = "/local/domain/7/control/shutdown";

/// A HVM domain with two cards and a disk that it can only read.
struct World {
    folder: tempfile::TempDir,
    plan: Shared,
    suspended: Arc<Mutex<bool>>,
    wire: Arc<Mutex<Wire>>,
    store: Xenstored,
    qemu: Qemu,
}

struct Started {
    life: Life<FakeDomain>,
    watch: Watch,
    buffer: NetBuffer,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let plan = Plan::shared();
        let suspended = Arc::new(Mutex::new(false));
        let guest = Arc::clone(&suspended);
        let store = Xenstored::start(folder.path(), &plan, move |path, value| {
            if path == REQUESTED && value == "suspend" {
                *guest.lock().unwrap() = true;
            }
        });
        let wire = Arc::new(Mutex::new(Wire::default()));
        for (index, card) in CARDS.iter().enumerate() {
            let backend = format!("/local/domain/0/backend/vif/7/{index}");
            store.set(&format!("/libxl/7/device/vif/{index}/backend"), &backend);
            wire.lock().unwrap().devices.insert((*card).into(), index as u32 + 1);
        }
        for (key, value) in [
            ("/local/domain/7/name", "web"),
            ("/libxl/7/type", "hvm"),
            (REQUESTED, ""),
            ("/libxl/7/device/vbd/51712/backend", "/local/domain/0/backend/vbd/7/51712"),
            ("/local/domain/0/backend/vbd/7/51712/dev", "xvda"),
            ("/local/domain/0/backend/vbd/7/51712/params", "/dev/vg/web"),
            ("/local/domain/0/backend/vbd/7/51712/mode", "r"),
        ] {
            store.set(key, value);
        }
        let qemu = Qemu::start(folder.path(), DOMID, &plan);
        World { folder, plan, suspended, wire, store, qemu }
    }

    fn start(&self) -> Result<Started> {
        let server = || self.store.server.clone();
        let store = Store::at(server()).unwrap();
        let identity = Identity::find(&store, "web")?;
        assert_eq!((identity.domid, identity.kind), (DOMID, Kind::Hvm));
        let none = Path::new("/none/probe");
        assert!(replicated(&disks(&store, DOMID)?, none, true, false)?.is_empty());
        let domain = FakeDomain { plan: Arc::clone(&self.plan), suspended: Arc::clone(&self.suspended) };
        let place = Place { run: self.folder.path().into(), userdata: self.folder.path().into(), patience: SHORT };
        let emulator = Emulator::new(DOMID, domain.info()?.uuid, place, server())?;
        let life = Life::new(&identity, domain, Some(emulator), server(), SHORT)?;
        let network = FakeNetwork { wire: Arc::clone(&self.wire), plan: Arc::clone(&self.plan) };
        let buffer = NetBuffer::over(DOMID, None, store, Box::new(network))?;
        let watch = cover(DOMID, server(), Some(&buffer), false)?;
        Ok(Started { life, watch, buffer })
    }

    /// What the guest sends now leaves now, and nothing of the toolstack's stands in its way.
    fn is_as_before(&self, what: &str) {
        assert!(!*self.suspended.lock().unwrap() && *self.qemu.running.lock().unwrap(), "{what}: the guest");
        let keys = self.store.keys.lock().unwrap();
        assert_eq!(keys[REQUESTED], "", "{what}: it was asked for something");
        assert!(!keys.keys().any(|key| key.contains("remus")), "{what}: {keys:?}");
        let mut wire = self.wire.lock().unwrap();
        assert!(wire.devices.len() == CARDS.len() && wire.redirects.is_empty(), "{what}: {:?}", wire.devices);
        let sent = wire.out.len();
        CARDS.iter().for_each(|card| wire.send(card, 0));
        assert_eq!(wire.out.len(), sent + CARDS.len(), "{what}: its output is held");
    }
}

/// Fails each call of a start; gives how many cases there were, and how many of them the start got over.
fn matrix(step: usize) -> (usize, usize) {
    let world = World::new();
    world.start().unwrap();
    assert_eq!(uuid(), FakeDomain { plan: Plan::shared(), suspended: Arc::default() }.info().unwrap().uuid);
    let calls = world.plan.lock().unwrap().calls.clone();
    let (mut cases, mut well) = (0, 0);
    for (at, name) in calls.iter().enumerate().step_by(step) {
        for fault in FAULTS {
            let what = format!("{name}, {fault:?}");
            let world = World::new();
            world.plan.lock().unwrap().at = Some((at, fault));
            let started = world.start();
            assert!(world.plan.lock().unwrap().calls.len() > at, "{what}: it did not come to that");
            let mut started = match started {
                Ok(started) => {
                    well += 1;
                    started
                }
                Err(error) => {
                    let text = error.to_string();
                    let named = ["xenstore", "vif7.", "qmp", "getdomaininfo", "netlink"].iter();
                    assert!(named.clone().any(|part| text.contains(part)), "{what}: {text}");
                    world.is_as_before(&what);
                    // The next one, by the same command.
                    world.start().unwrap_or_else(|error| panic!("{what}, and the next start: {error}"))
                }
            };
            started.watch.begin(1).unwrap();
            started.life.suspend().unwrap();
            started.watch.suspended(1, 1).unwrap();
            started.life.resume().unwrap();
            started.buffer.remove();
            // A guest takes the request away when it has heard it.
            world.store.set(REQUESTED, "");
            world.is_as_before(&what);
            cases += 1;
        }
    }
    (cases, well)
}

#[test]
fn each_fifth_call_of_a_start_fails_once_and_the_guest_is_as_before() {
    let (cases, well) = matrix(5);
    println!("toolstack, a start: {cases} cases, {well} of them without effect");
    assert!(cases >= 30, "{cases}");
}

#[test]
#[ignore = "the whole matrix"]
fn each_call_of_a_start_fails_once_and_the_guest_is_as_before() {
    let (cases, well) = matrix(1);
    println!("toolstack, a start: {cases} cases, {well} of them without effect");
    assert!(cases >= 150, "{cases}");
}
