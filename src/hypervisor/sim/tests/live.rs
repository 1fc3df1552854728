//! A guest that runs on a thread of its own.

use super::*;
use crate::hypervisor::sim::workload::control::CONTROL_PFN;
use std::num::NonZeroU32;
use std::time::Instant;

fn wait_for_steps(runner: &Runner, steps: u64) {
    while runner.turn().unwrap().steps().unwrap() < steps {
        std::thread::yield_now();
    }
}

#[test]
fn a_live_guest_is_saved_while_it_runs() {
    let mut runner = Runner::start(SimDomain::create(&SimConfig::small(6)).unwrap(), Pace::Free).unwrap();
    let mut copy = SimDomain::empty(&SimConfig::small(6)).unwrap();
    let mut dirty = full(&runner);
    runner.enable_log_dirty().unwrap();
    runner.set_device_model_log_dirty(true).unwrap();
    // What it has done before is not in the log.
    let mut steps = runner.turn().unwrap().steps().unwrap();
    for _ in 0..5 {
        copy_memory(&runner, &mut copy, &dirty).unwrap();
        steps += 20;
        wait_for_steps(&runner, steps);
        runner.clean_log_dirty(&mut dirty, CleanMode::Ongoing).unwrap();
        assert!(!dirty.is_empty());
        // Counted behind the clean: the steps waited for next are all in the next log.
        steps = runner.turn().unwrap().steps().unwrap();
    }
    runner.suspend().unwrap();
    let mut last = DirtyBitmap::new(dirty.nr_pfns());
    runner.clean_log_dirty(&mut last, CleanMode::Final).unwrap();
    dirty.merge(&last).unwrap();
    copy_memory(&runner, &mut copy, &dirty).unwrap();
    copy_state(&runner, &mut copy).unwrap();
    let original = runner.turn().unwrap().snapshot().unwrap();
    assert_eq!(copy.diff(&original, 5).unwrap(), []);
    runner.resume().unwrap();
    wait_for_steps(&runner, steps + 10);
    let original = runner.stop().unwrap();
    copy.unpause().unwrap();
    copy.run(original.steps().unwrap() - copy.steps().unwrap()).unwrap();
    assert_eq!(copy.diff(&original.snapshot().unwrap(), 5).unwrap(), []);
}

#[test]
fn pages_of_a_suspended_guest_are_mapped_in_place_and_several_batches_may_live() {
    let mut runner = Runner::start(SimDomain::create(&SimConfig::small(6)).unwrap(), Pace::Free).unwrap();
    let running = runner.map_pages(&[CONTROL_PFN, 20]).unwrap();
    assert_eq!((running.len(), running.run(0).unwrap().len(), running.run(2)), (2, 2 * PAGE_SIZE, None));
    drop(running);
    runner.suspend().unwrap();
    let (first, second) = (runner.map_pages(&[20, 21]).unwrap(), runner.map_pages(&[21]).unwrap());
    assert!(std::ptr::eq(first.page(1).unwrap(), second.page(0).unwrap()));
    assert!(first.page(2).is_none());
    runner.page_types(&[20], &mut [PageType::XTAB]).unwrap();
    drop((first, second));
    runner.map_pages_mut(&[20]).unwrap().page_mut(0).unwrap().fill(9);
    assert_eq!(runner.map_pages(&[20]).unwrap().page(0), Some(&[9; PAGE_SIZE]));
    assert!(matches!(runner.map_pages_mut(&[1 << 40]), Err(Error::NotPopulated { .. })));
}

#[test]
fn damage_stops_a_running_guest_and_is_told_once() {
    let mut runner = Runner::start(SimDomain::create(&SimConfig::small(6)).unwrap(), Pace::Free).unwrap();
    runner.pause().unwrap();
    runner.clear_page(CONTROL_PFN).unwrap();
    runner.unpause().unwrap();
    let fault = loop {
        match runner.info() {
            Err(fault) => break fault,
            Ok(_) => std::thread::yield_now(),
        }
    };
    assert!(matches!(fault, Error::GuestDamaged(GuestDamage::NoWorkload { found: 0 })));
    assert!(runner.info().unwrap().paused);
    runner.stop().unwrap();
}

#[test]
fn a_paced_guest_keeps_its_pace_and_stops_at_once() {
    let domain = SimDomain::create(&SimConfig::small(6)).unwrap();
    let nic = domain.nic().clone();
    assert!(nic.deliver(b"ping"));
    let begin = Instant::now();
    let pace = Pace::StepsPerSecond(NonZeroU32::new(1).unwrap());
    let runner = Runner::start(domain, pace).unwrap();
    wait_for_steps(&runner, 1);
    let steps = runner.stop().unwrap().steps().unwrap();
    let seconds = begin.elapsed().as_secs();
    assert!((1..=seconds + 1).contains(&steps), "{steps} steps in {seconds} seconds");
    assert_eq!(nic.waiting(), 1);
}
