//! A domain's buffer over a network that counts packets as `sch_plug` does, with each call failing once.

use super::super::fake::{FAULTS, Fault, Plan, Shared, Xenstored};
use super::super::fake_network::{FakeNetwork, Wire};
use super::*;
use crate::claim::{Action, Decision, Event, Facts, Generation, Host, Named, Newest, Record, Start, Verdict};

/// A domain with two cards.
struct World {
    _folder: tempfile::TempDir,
    plan: Shared,
    wire: Arc<Mutex<Wire>>,
    store: Xenstored,
}

const CARDS: [&str; 2] = ["vif7.0", "vif7.1"];

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let plan = Plan::shared();
        let store = Xenstored::start(folder.path(), &plan, |_, _| {});
        let wire = Arc::new(Mutex::new(Wire::default()));
        for (index, card) in CARDS.iter().enumerate() {
            store.set(
                &format!("/libxl/7/device/vif/{index}/backend"),
                &format!("/local/domain/0/backend/vif/7/{index}"),
            );
            wire.lock().unwrap().devices.insert((*card).into(), index as u32 + 1);
        }
        World { _folder: folder, plan, wire, store }
    }

    /// Another process's.
    fn buffer(&self) -> NetBuffer {
        let network = FakeNetwork { wire: Arc::clone(&self.wire), plan: Arc::clone(&self.plan) };
        NetBuffer::over(7, None, Store::at(self.store.server.clone()).unwrap(), Box::new(network)).unwrap()
    }

    fn send(&self, epoch: u64) {
        CARDS.iter().for_each(|card| self.wire.lock().unwrap().send(card, epoch));
    }

    fn out(&self, card: &str) -> Vec<u64> {
        let wire = self.wire.lock().unwrap();
        wire.out.iter().filter(|(name, _)| name == card).map(|(_, epoch)| *epoch).collect()
    }

    fn newest_out(&self) -> Option<u64> {
        self.wire.lock().unwrap().out.iter().map(|(_, epoch)| *epoch).max()
    }

    fn is_clean(&self) -> bool {
        let wire = self.wire.lock().unwrap();
        let keys = self.store.keys.lock().unwrap();
        wire.devices.len() <= CARDS.len() && wire.redirects.is_empty() && !keys.keys().any(|key| key.contains("remus"))
    }

    fn fail_next(&self, fault: Fault, after: usize) {
        let mut plan = self.plan.lock().unwrap();
        plan.at = Some((plan.calls.len() + after, fault));
    }
}

/// Tries again what has failed once. `check` is for what must hold in between.
fn again<T>(mut act: impl FnMut() -> Result<T>, check: impl FnOnce()) -> T {
    match act() {
        Ok(done) => done,
        Err(_) => {
            check();
            act().unwrap()
        }
    }
}

/// A protection from its start to its end.
fn protection(world: &World) {
    let mut buffer = world.buffer();
    let set_up = buffer.clone();
    again(|| set_up.set_up(), || assert!(world.is_clean(), "something is left of a buffer that was not set up"));
    world.send(0);
    assert_eq!(world.newest_out(), Some(0), "a buffer starts free");
    again(
        || buffer.hold(),
        || {
            world.send(0);
            assert_eq!(world.out(CARDS[0]), world.out(CARDS[1]), "output is held by half");
        },
    );
    for epoch in 1..=4 {
        again(|| buffer.begin_epoch(epoch), || {});
        world.send(epoch);
        assert!(
            world.newest_out() < Some(epoch.max(2) - 1),
            "epoch {epoch} has begun: {:?} is out",
            world.newest_out()
        );
        again(|| buffer.release(epoch - 1), || {});
        assert!(world.newest_out() < Some(epoch), "{:?} is out, {} is acknowledged", world.newest_out(), epoch - 1);
    }
    again(|| buffer.free(), || assert!(set_up.is_holding()));
    world.send(9);
    for card in CARDS {
        let out = world.out(card);
        let expected: Vec<u64> = (1..=4).chain([9]).collect();
        assert!(out.ends_with(&expected), "{card}: {out:?}");
    }
    buffer.remove();
    assert!(world.is_clean(), "something is left at the end");
    world.send(10);
    assert_eq!(world.newest_out(), Some(10));
}

fn matrix(step: usize) -> usize {
    let world = World::new();
    drop(world.buffer());
    let first = world.plan.lock().unwrap().calls.len();
    let world = World::new();
    protection(&world);
    let calls = world.plan.lock().unwrap().calls.len();
    let mut cases = 0;
    for at in (first..calls).step_by(step) {
        for fault in FAULTS {
            let world = World::new();
            world.plan.lock().unwrap().at = Some((at, fault));
            protection(&world);
            cases += 1;
        }
    }
    cases
}

#[test]
fn each_seventh_call_of_a_protection_fails_once_and_output_is_neither_early_nor_held_for_ever() {
    let cases = matrix(7);
    println!("output buffer, a protection: {cases} cases");
    assert!(cases >= 30, "{cases}");
}

#[test]
#[ignore = "the whole matrix"]
fn each_call_of_a_protection_fails_once_and_output_is_neither_early_nor_held_for_ever() {
    let cases = matrix(1);
    println!("output buffer, a protection: {cases} cases");
    assert!(cases >= 200, "{cases}");
}

#[test]
fn a_card_that_is_gone_keeps_no_other_one_held() {
    let world = World::new();
    let mut buffer = world.buffer();
    buffer.set_up().unwrap();
    buffer.hold().unwrap();
    buffer.begin_epoch(1).unwrap();
    world.send(1);
    // `xl network-detach` of the first, which takes its IFB along.
    let mut wire = world.wire.lock().unwrap();
    wire.devices.remove(CARDS[0]);
    wire.plugs.remove(&102);
    drop(wire);
    buffer.free().unwrap();
    assert_eq!(world.out(CARDS[1]), [1]);
    assert!(!buffer.is_holding());
}

#[test]
fn freeing_goes_on_to_the_next_card_and_may_be_tried_again() {
    let world = World::new();
    let mut buffer = world.buffer();
    buffer.set_up().unwrap();
    buffer.hold().unwrap();
    world.send(1);
    world.fail_next(Fault::Refused, 0);
    assert!(buffer.free().is_err());
    assert_eq!((world.out(CARDS[0]).len(), world.out(CARDS[1]).len()), (0, 1));
    assert!(buffer.is_holding());
    buffer.free().unwrap();
    buffer.free().unwrap();
    assert_eq!(world.out(CARDS[0]), [1]);
    // Somebody removes an IFB: its card is not cut off.
    let ifb = world.wire.lock().unwrap().devices.remove("xr7.1").unwrap();
    world.wire.lock().unwrap().plugs.remove(&ifb);
    buffer.free().unwrap();
    world.send(2);
    assert_eq!(world.out(CARDS[1]), [1, 2]);
}

#[test]
fn what_a_killed_process_held_is_taken_over_and_stays_held_until_it_is_decided() {
    for free in [true, false] {
        let world = World::new();
        let mut killed = world.buffer();
        killed.set_up().unwrap();
        killed.hold().unwrap();
        killed.begin_epoch(1).unwrap();
        world.send(1);
        killed.begin_epoch(2).unwrap();
        world.send(2);
        drop(killed);
        let mut buffer = world.buffer();
        buffer.set_up().unwrap();
        world.send(3);
        assert!(buffer.is_holding());
        assert_eq!(world.newest_out(), None, "held output was released before the decision");
        if free {
            buffer.free().unwrap();
            assert_eq!(world.out(CARDS[0]), [1, 2, 3]);
        } else {
            assert_eq!(buffer.discard().unwrap(), 6);
            buffer.free().unwrap();
            assert_eq!(world.newest_out(), None);
        }
        buffer.hold().unwrap();
        buffer.begin_epoch(4).unwrap();
        world.send(4);
        buffer.begin_epoch(5).unwrap();
        buffer.release(4).unwrap();
        assert_eq!(world.newest_out(), Some(4));
    }
}

/// A start on this host over a buffer that a killed process has left: looked at, then decided by the witness.
fn start_over(world: &World, here: &str, verdict: Verdict) -> (NetBuffer, Decision) {
    let host = |id: &str| Host { id: id.into(), name: id.into() };
    let record = Record {
        domain: "web".into(),
        generation: 3,
        holder: "a/1/00".into(),
        taken: 0,
        host: Some(host("a")),
        process: None,
        uuid: Some("u".into()),
        session: None,
    };
    let newest = Newest { generation: Generation(3), named: Named::Holder { record: Box::new(record), alive: false } };
    let buffer = world.buffer();
    let output_left = buffer.is_left().unwrap();
    let (mut start, mut action) =
        Start::new(Facts { host: host(here), uuid: "u".into(), output_left, witness: true, force: None });
    loop {
        world.send(2);
        assert_eq!(world.newest_out(), None, "{action:?}: it left before the decision");
        let event = match action {
            Action::Decided(decision) => return (buffer, decision),
            Action::Look => Event::Newest(Some(newest.clone())),
            Action::Acquire { .. } => Event::Answer(verdict),
        };
        action = start.handle(event);
    }
}

/// Calls of a plug, in order.
fn orders(world: &World, from: usize) -> Vec<String> {
    let plan = world.plan.lock().unwrap();
    plan.calls[from..].iter().filter(|call| call.starts_with("netlink plug")).cloned().collect()
}

#[test]
fn what_a_killed_process_held_leaves_after_the_decision_or_never() {
    for (here, verdict) in [
        ("a", Verdict::Granted),
        ("a", Verdict::Unreachable),
        ("a", Verdict::Held { newest: Generation(4) }),
        ("b", Verdict::Granted),
    ] {
        let world = World::new();
        let mut killed = world.buffer();
        assert!(!killed.is_left().unwrap());
        killed.set_up().unwrap();
        killed.hold().unwrap();
        world.send(1);
        drop(killed);
        let from = world.plan.lock().unwrap().calls.len();
        let (mut buffer, decision) = start_over(&world, here, verdict);
        assert_eq!(orders(&world, from), Vec::<String>::new(), "looking is not touching");
        let sent = world.wire.lock().unwrap().plugs.values().map(|queue| queue.packets.len()).sum::<usize>();
        match decision {
            Decision::Runs { generation, .. } => {
                assert_eq!((here, verdict, generation), ("a", Verdict::Granted, Generation(4)));
                buffer.set_up().unwrap();
                assert!(buffer.is_holding());
                assert_eq!(world.newest_out(), None, "it left when it was taken over");
                buffer.free().unwrap();
                assert_eq!(world.wire.lock().unwrap().out.len(), sent, "all of it leaves");
            }
            Decision::Superseded { .. } => {
                assert_eq!(here, "b");
                assert!(buffer.adopt().unwrap());
                world.send(3);
                assert_eq!(world.newest_out(), None);
            }
            Decision::Unknown { .. } => {
                assert_ne!(verdict, Verdict::Granted);
                world.send(3);
                assert_eq!(world.newest_out(), None);
            }
        }
    }
}

/// A process that was killed while its domain was unprotected has left a buffer that lets all pass: another host's takes that away.
#[test]
fn a_superseded_domain_whose_output_was_free_sends_no_more() {
    let world = World::new();
    world.buffer().set_up().unwrap();
    world.send(1);
    assert_eq!(world.newest_out(), Some(1));
    let buffer = world.buffer();
    assert!(buffer.is_left().unwrap());
    world.send(2);
    assert_eq!(world.newest_out(), Some(2), "looking is not touching");
    assert!(buffer.adopt().unwrap());
    world.send(3);
    assert_eq!(world.newest_out(), Some(2));
}

#[test]
fn what_was_held_is_let_out_and_taken_away_by_who_makes_no_buffer() {
    let world = World::new();
    assert!(!world.buffer().adopt().unwrap());
    assert!(world.is_clean());
    let mut killed = world.buffer();
    killed.set_up().unwrap();
    killed.hold().unwrap();
    world.send(1);
    drop(killed);
    let mut buffer = world.buffer();
    assert!(buffer.adopt().unwrap());
    assert_eq!(world.newest_out(), None);
    buffer.free().unwrap();
    buffer.remove();
    assert_eq!((world.out(CARDS[0]), world.out(CARDS[1])), (vec![1], vec![1]));
    assert!(world.is_clean());
}

#[test]
fn half_a_buffer_of_a_killed_process_is_made_again() {
    let world = World::new();
    world.store.set("/libxl/7/remus/netbuf/0/ifb", "xr7.0");
    world.wire.lock().unwrap().devices.insert("xr7.0".into(), 50);
    let buffer = world.buffer();
    buffer.set_up().unwrap();
    assert!(!buffer.is_holding());
    world.send(1);
    assert_eq!(world.newest_out(), Some(1));
    buffer.remove();
    assert!(world.is_clean());
}
