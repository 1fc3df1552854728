//! Two guests in lock-step, in one process, over a real socket: equal and different outputs, the secondary's dirty pages, and who goes on.

mod colo_support;

use colo_support::{Pair, Wanted, guest};
use std::time::Duration;
use xen_replicate::colo::Mode;
use xen_replicate::colo::secondary::End;
use xen_replicate::control::Request;
use xen_replicate::hypervisor::sim::{PacketKind, SimConfig, WorkloadPacket};
use xen_replicate::remus::Rule;
use xen_replicate::replicate::colo::primary::Ending;
use xen_replicate::replicate::colo::secondary::Outcome;

fn lock_step(status: &xen_replicate::control::Status) -> xen_replicate::control::lock_step::LockStep {
    status.lock_step.expect("a primary's figures")
}

/// Ends a session: the primary goes on alone, its guest sound.
fn end(pair: &Pair) -> xen_replicate::replicate::colo::primary::Ended<xen_replicate::hypervisor::sim::Runner> {
    assert!(pair.primary.request(Request::Unprotect { force: false }).ok);
    let ended = pair.join_primary().unwrap();
    assert_eq!(ended.how, Ending::Unprotected);
    match pair.join_secondary() {
        Ok(Outcome::Ended(End::Dismissed)) => {}
        // libxl's dialect has no goodbye: the end of the connection is all that tells of it, and the witness denies.
        Ok(Outcome::Denied(held)) if pair.bare => assert!(held.facts.checkpoint > 0 && held.facts.memory > 0),
        outcome => panic!("{outcome:?}"),
    }
    ended
}

#[test]
fn guests_that_run_alike_need_no_checkpoint_and_their_output_leaves_at_once() {
    let pair = Pair::start(&Wanted::default());
    let status = pair.wait("a long run of equal output", |status| lock_step(status).agreed >= 500);
    assert_eq!((status.phase.as_str(), status.acknowledged, lock_step(&status).by_difference), ("protected", 1, 0));
    // What left is what one guest sends, without a gap.
    let left: Vec<_> = pair.leaves().iter().filter_map(|bytes| WorkloadPacket::parse(bytes)).collect();
    assert!(left.len() >= 500 && left.iter().zip(0..).all(|(packet, number)| packet.sequence == number));
    pair.assert_equal_states(1);
    end(&pair).domain.stop().unwrap().self_check().unwrap();
}

#[test]
fn what_differs_is_held_until_a_checkpoint_and_the_secondarys_pages_are_put_right() {
    let sim = SimConfig { noise_every: 200, ..guest() };
    let pair = Pair::start(&Wanted { sim, ..Wanted::default() });
    let status = pair.wait("checkpoints", |status| {
        lock_step(status).by_difference >= 8 && lock_step(status).agreed >= 50 && lock_step(status).waited > 0
    });
    assert_eq!(lock_step(&status).by_period, 0, "the period is far off: {status:#?}");
    pair.assert_equal_states(8);
    let left: Vec<_> = pair.leaves().iter().filter_map(|bytes| WorkloadPacket::parse(bytes)).collect();
    assert!(
        left.iter().zip(0..).all(|(packet, number)| packet.sequence == number),
        "a packet is missing or out of order"
    );
    end(&pair).domain.stop().unwrap().self_check().unwrap();
    pair.assert_equal_states(8);
}

#[test]
fn what_comes_for_the_guest_comes_to_both_and_both_answer_alike() {
    let sim = SimConfig { packets_every: 0, ..guest() };
    let pair = Pair::start(&Wanted { sim, ..Wanted::default() });
    pair.wait("protection", |status| status.phase == "protected");
    let mut answers = Vec::new();
    for number in 0..50u8 {
        assert!(pair.nic.deliver(&[number]));
        pair.wait("agreement", |status| {
            lock_step(status).agreed > u64::from(number) || lock_step(status).by_difference > 0
        });
        answers.extend(pair.leaves());
    }
    assert_eq!(lock_step(&pair.status()).by_difference, 0);
    let answers: Vec<_> = answers.iter().filter_map(|bytes| WorkloadPacket::parse(bytes)).collect();
    let told = answers.iter().map(|answer| (answer.kind, answer.connection, answer.payload.clone()));
    assert!(told.eq((0..50).map(|number| (PacketKind::Echo, 1, vec![number]))));
    end(&pair);
}

#[test]
fn a_request_on_its_way_at_a_checkpoint_is_answered_once() {
    let sim = SimConfig { packets_every: 0, noise_every: 0, ..guest() };
    let pair = Pair::start(&Wanted { sim, period: Duration::from_millis(20), ..Wanted::default() });
    pair.wait("protection", |status| status.phase == "protected");
    let (mut answers, mut asked) = (Vec::new(), 0u32);
    while asked < 100 || lock_step(&pair.status()).by_period < 5 {
        assert!(pair.nic.deliver(&asked.to_le_bytes()));
        asked += 1;
        pair.wait("an answer", |_| {
            answers.extend(pair.leaves());
            answers.len() >= asked as usize
        });
    }
    let numbers = answers.iter().filter_map(|bytes| WorkloadPacket::parse(bytes)).map(|packet| packet.payload);
    assert!(numbers.eq((0..asked).map(|number| number.to_le_bytes())));
    end(&pair);
    pair.assert_equal_states(2);
}

#[test]
fn one_that_lags_behind_counts_as_different_and_the_period_bounds_the_rest() {
    let pair = Pair::start(&Wanted { patience: Duration::from_nanos(1), ..Wanted::default() });
    pair.wait("checkpoints for want of an answer", |status| lock_step(status).by_difference >= 3);
    end(&pair);
    pair.assert_equal_states(3);
    let period = Duration::from_millis(20);
    let sim = SimConfig { packets_every: 0, ..guest() };
    let pair = Pair::start(&Wanted { sim, period, ..Wanted::default() });
    pair.wait("checkpoints of the period", |status| lock_step(status).by_period >= 5);
    assert_eq!(lock_step(&pair.status()).by_difference, 0);
    end(&pair);
    pair.assert_equal_states(5);
}

#[test]
fn in_periodic_mode_all_output_waits_and_the_copy_stands_still() {
    let sim = SimConfig { noise_every: 100, ..guest() };
    let wanted = Wanted { mode: Mode::Periodic, period: Duration::from_millis(20), sim, ..Wanted::default() };
    let pair = Pair::start(&wanted);
    let status = pair.wait("checkpoints", |status| status.acknowledged >= 6);
    let told = lock_step(&status);
    assert!(told.periodic && told.agreed == 0 && told.by_difference == 0 && told.waited > 0, "{status:#?}");
    // It stands at a checkpoint: it goes on from there.
    let refused = pair.secondary.request(Request::FailOver { force: false, generation: None });
    assert!(refused.error.is_some_and(|text| text.contains("the primary is alive")));
    assert!(pair.secondary.request(Request::FailOver { force: true, generation: None }).ok);
    let Ok(Outcome::Survivor(survivor)) = pair.join_secondary() else { panic!("no survivor") };
    pair.wait("the fence", |status| status.phase == "fenced");
    pair.primary.terminate();
    assert_eq!(pair.join_primary().unwrap().how, Ending::Fenced);
    pair.assert_equal_states(6);
    assert!(survivor.domain.turn().unwrap().is_running());
    survivor.domain.stop().unwrap().self_check().unwrap();
}

#[test]
fn a_copy_that_runs_already_runs_on() {
    let sim = SimConfig { noise_every: 500, ..guest() };
    let pair = Pair::start(&Wanted { sim, ..Wanted::default() });
    let mut left = Vec::new();
    pair.wait("checkpoints", |status| {
        left.extend(pair.leaves());
        status.acknowledged >= 3 && !left.is_empty()
    });
    assert!(pair.secondary.request(Request::FailOver { force: true, generation: None }).ok);
    let Ok(Outcome::Survivor(survivor)) = pair.join_secondary() else { panic!("no survivor") };
    let status = pair.wait("the fence", |status| status.phase == "fenced");
    assert_eq!(survivor.generation.0, status.generation);
    let left: Vec<_> = left.iter().filter_map(|bytes| WorkloadPacket::parse(bytes)).collect();
    pair.primary.terminate();
    assert_eq!(pair.join_primary().unwrap().how, Ending::Fenced);
    pair.assert_equal_states(3);
    // It has sent, or is behind, all that ever left.
    let survivor = survivor.domain.stop().unwrap();
    survivor.self_check().unwrap();
    let last = left.last().expect("some output");
    assert!(survivor.steps().unwrap() >= last.step, "at step {}, {last:?} has left", survivor.steps().unwrap());
}

#[test]
fn a_secondary_told_to_end_leaves_the_guest_running() {
    for mode in [Mode::LockStep, Mode::Periodic] {
        let pair = Pair::start(&Wanted { mode, period: Duration::from_millis(20), ..Wanted::default() });
        pair.wait("protection", |status| status.acknowledged >= 2);
        pair.secondary.terminate();
        assert!(matches!(pair.join_secondary(), Ok(Outcome::Ended(End::Stopped))));
        let ended = pair.join_primary().unwrap();
        assert_eq!((ended.how, ended.status.phase.as_str()), (Ending::Unprotected, "alone"));
        assert!(ended.domain.turn().unwrap().is_running());
        ended.domain.stop().unwrap().self_check().unwrap();
    }
}

#[test]
fn more_dirty_pages_than_one_list_names() {
    let sim = SimConfig { noise_every: 200, ..guest() };
    let pair = Pair::start(&Wanted { list: 3, sim: sim.clone(), ..Wanted::default() });
    pair.wait("checkpoints", |status| lock_step(status).by_difference >= 5);
    end(&pair);
    pair.assert_equal_states(5);
    // libxl takes one list.
    let wanted = Wanted { list: 3, bare: true, period: Duration::from_millis(20), sim, ..Wanted::default() };
    let pair = Pair::start(&wanted);
    let outcome = pair.join_secondary();
    assert!(matches!(outcome, Ok(Outcome::Ended(End::CopyLost))), "{outcome:?}");
    let ended = pair.join_primary().unwrap();
    assert_eq!(ended.how, Ending::Unprotected);
    ended.domain.stop().unwrap().self_check().unwrap();
}

#[test]
fn with_libxls_bytes_alone_nothing_is_compared_and_all_else_is_the_same() {
    let sim = SimConfig { noise_every: 100, ..guest() };
    let pair = Pair::start(&Wanted { bare: true, period: Duration::from_millis(20), sim, ..Wanted::default() });
    let status = pair.wait("checkpoints", |status| status.acknowledged >= 6);
    assert!(lock_step(&status).agreed == 0 && lock_step(&status).waited > 0);
    end(&pair);
    pair.assert_equal_states(6);
}

#[test]
fn two_rules_do_not_suit() {
    let wanted = Wanted { rule: Rule::Manual, ..Wanted::default() };
    let folder = tempfile::tempdir().unwrap();
    let (_, receiving, address) = colo_support::receive(&folder, &wanted, Default::default());
    let (_, protecting, _) = colo_support::protect(&folder, &Wanted::default(), address, Default::default());
    assert!(matches!(receiving.join().unwrap(), Ok(Outcome::Unsuited(_))));
    let ended = protecting.join().unwrap().unwrap();
    assert_eq!(ended.how, Ending::Unprotected);
    assert!(ended.status.notices.iter().any(|notice| notice.text.contains("rule manual there")), "{:#?}", ended.status);
}
