//! Suspending and resuming with each call to xenstored, QEMU and the hypervisor failing once, in each way.

use super::super::emulator::Place;
use super::super::fake::{DOMID, FAULTS, FakeDomain, Fault, Plan, Qemu, SHORT, Shared, Xenstored, uuid};
use super::*;
use crate::hypervisor::{DeviceModel, RunState};
use std::fs;
use std::sync::{Arc, Mutex};

const REQUESTED: &str = "/local/domain/7/control/shutdown";

/// A HVM domain whose guest suspends as soon as it is asked to.
struct World {
    folder: tempfile::TempDir,
    plan: Shared,
    suspended: Arc<Mutex<bool>>,
    store: Xenstored,
    qemu: Qemu,
    emulator: Emulator,
    life: Life<FakeDomain>,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let plan = Plan::shared();
        let suspended = Arc::new(Mutex::new(false));
        let guest = Arc::clone(&suspended);
        let store = Xenstored::start(folder.path(), &plan, move |path, value| {
            if path == REQUESTED && value == SUSPEND {
                *guest.lock().unwrap() = true;
            }
        });
        store.set(REQUESTED, "");
        let qemu = Qemu::start(folder.path(), DOMID, &plan);
        let place = Place { run: folder.path().into(), userdata: folder.path().into(), patience: SHORT };
        let emulator = Emulator::new(DOMID, uuid(), place, store.server.clone()).unwrap();
        let identity = Identity { domid: DOMID, name: "web".into(), kind: Kind::Hvm };
        let domain = FakeDomain { plan: Arc::clone(&plan), suspended: Arc::clone(&suspended) };
        let life = Life::new(&identity, domain, Some(emulator.clone()), store.server.clone(), SHORT).unwrap();
        plan.lock().unwrap().calls.clear();
        World { folder, plan, suspended, store, qemu, emulator, life }
    }

    /// A round; gives the state that it leaves the guest in, as it is reported.
    fn round(&mut self) -> RunState {
        if let Err(error) = self.life.suspend() {
            return error.guest_after();
        }
        // Whatever becomes of the state, the guest is let run.
        let _ = self.emulator.save_device_model(&mut Vec::new());
        match self.life.resume() {
            Ok(()) => RunState::Running,
            Err(error) => error.guest_after(),
        }
    }

    fn is_suspended(&self) -> bool {
        *self.suspended.lock().unwrap()
    }

    /// Files that are not the sockets.
    fn left(&self) -> Vec<String> {
        let names = fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let names = names.map(|name| name.into_string().unwrap());
        names.filter(|name| name != "xenstored" && !name.starts_with("qmp-libxl")).collect()
    }
}

#[test]
fn a_guest_whose_emulator_does_not_stop_runs_on() {
    for fault in FAULTS {
        let mut world = World::new();
        assert_eq!(world.round(), RunState::Running);
        let at = world.plan.lock().unwrap().calls.iter().position(|call| call == "qmp stop").unwrap();
        world.plan.lock().unwrap().calls.clear();
        world.plan.lock().unwrap().at = Some((at, fault));
        let error = world.life.suspend().unwrap_err();
        assert!(error.to_string().contains("stop of its emulator"), "{error}");
        assert_eq!((world.is_suspended(), error.guest_after()), (false, RunState::Running), "{fault:?}: {error}");
        assert!(*world.qemu.running.lock().unwrap());
    }
}

#[test]
fn a_socket_that_another_process_has_costs_the_guest_no_pause() {
    let mut world = World::new();
    let lock = world.folder.path().join(format!("userdata-l.{DOMID}.{}.qmp-socket-lock", uuid()));
    let file = fs::File::create(&lock).unwrap();
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let error = world.life.suspend().unwrap_err();
    assert!(error.to_string().contains("emulator's socket"), "{error}");
    let asked = |call: &String| call.contains(REQUESTED);
    assert!(!world.plan.lock().unwrap().calls.iter().any(asked), "the guest was asked to suspend");
    drop(file);
    fs::remove_file(lock).unwrap();
    assert_eq!(world.round(), RunState::Running);
    assert_eq!(world.left(), Vec::<String>::new());
}

#[test]
fn what_cannot_be_resumed_is_said_to_be_suspended_with_the_command_that_helps() {
    let mut world = World::new();
    world.life.suspend().unwrap();
    let calls = world.plan.lock().unwrap().calls.len();
    // QEMU first, then the hypervisor.
    world.plan.lock().unwrap().at = Some((calls, Fault::Refused));
    world.plan.lock().unwrap().lasting = true;
    let error = world.life.resume().unwrap_err();
    assert!(world.is_suspended() && error.guest_after() == RunState::Suspended, "{error}");
    assert!(error.to_string().contains("SUSPENDED") && error.to_string().contains("xen-replicate resume 7"), "{error}");
    world.plan.lock().unwrap().at = None;
    world.life.resume().unwrap();
    assert!(!world.is_suspended());
}

/// Fails each call of a round, once or from there on; gives how many cases there were.
fn matrix(step: usize, lasting: bool) -> (usize, usize) {
    let mut world = World::new();
    assert_eq!(world.round(), RunState::Running);
    let calls = world.plan.lock().unwrap().calls.clone();
    let (mut cases, mut suspended) = (0, 0);
    for (at, name) in calls.iter().enumerate().step_by(step) {
        for fault in FAULTS {
            let mut world = World::new();
            *world.plan.lock().unwrap() = Plan { calls: Vec::new(), at: Some((at, fault)), lasting };
            let said = world.round();
            let is = world.is_suspended();
            // Where the hypervisor does not answer any more, nobody knows that it is not.
            let unknown = lasting && name.starts_with("hypervisor");
            assert!(!is || said == RunState::Suspended, "{name}, {fault:?}: suspended, and said to be {said}");
            assert!(is || unknown || said == RunState::Running, "{name}, {fault:?}: running, and said to be {said}");
            assert!(lasting || !is, "{name}, {fault:?}, once: the guest is left suspended");
            assert!(is || *world.qemu.running.lock().unwrap(), "{name}, {fault:?}: a guest without its emulator");
            suspended += usize::from(is);
            // All is well again: so is the next round, and the request of this one is not followed then.
            world.plan.lock().unwrap().at = None;
            if is {
                world.life.resume().unwrap();
            }
            assert_eq!(world.round(), RunState::Running, "{name}, {fault:?}: the next round");
            assert!(!world.is_suspended());
            assert!(
                *world.store.resumed.lock().unwrap() > 0,
                "{name}, {fault:?}: xenstored was not told of the resume"
            );
            assert_eq!(world.left(), Vec::<String>::new(), "{name}, {fault:?}");
            cases += 1;
        }
    }
    (cases, suspended)
}

#[test]
fn each_third_call_of_a_round_fails_once_and_the_guest_runs() {
    let (cases, _) = matrix(3, false);
    println!("toolstack, a round: {cases} cases, each call once");
    assert!(cases >= 20, "{cases}");
}

#[test]
#[ignore = "the whole matrix"]
fn each_call_of_a_round_fails_once_or_for_good_and_the_guest_is_what_it_is_said_to_be() {
    let (once, _) = matrix(1, false);
    let (lasting, suspended) = matrix(1, true);
    println!("toolstack, a round: {once} cases once, {lasting} for good, of which {suspended} suspended and said so");
    assert!(once >= 60 && lasting == once && suspended > 0);
}
