//! Determinism, restored copies, the dirty log: what a replicator relies on.

use super::*;
use crate::hypervisor::sim::config::RESERVED_PFNS;
use crate::hypervisor::sim::workload::control::{CONTROL_PFN, RECEIVE_PFN};
use proptest::prelude::*;

#[test]
fn the_same_seed_gives_the_same_guest_and_another_seed_another() {
    let config = SimConfig::small(3);
    let (a, b) = (created(&config, 100), created(&config, 100));
    assert_eq!(a.snapshot().unwrap(), b.snapshot().unwrap());
    assert_eq!(packets(&a), packets(&b));
    let other = created(&SimConfig::small(4), 100);
    assert!(!other.diff(&a.snapshot().unwrap(), 10).unwrap().is_empty());
}

#[test]
fn steps_may_be_run_in_any_portions() {
    let config = SimConfig::small(5);
    let mut portions = SimDomain::create(&config).unwrap();
    for steps in [1, 0, 7, 2, 40] {
        portions.run(steps).unwrap();
    }
    assert_eq!(portions.diff(&created(&config, 50).snapshot().unwrap(), 1).unwrap(), []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_restored_guest_goes_on_as_the_original(
        seed: u64, before in 0u64..200, after in 0u64..200, vcpus in 1u32..5, pc: bool, whole in 0u32..=1000
    ) {
        let layout = if pc { MemoryLayout::Pc } else { MemoryLayout::Compact };
        let config = SimConfig { vcpus, layout, whole_page_permille: whole, ..SimConfig::small(seed) };
        let mut original = created(&config, before);
        original.suspend().unwrap();
        let mut copy = restored(&original);
        prop_assert_eq!(copy.diff(&original.snapshot().unwrap(), 5).unwrap(), []);
        original.resume().unwrap();
        packets(&original);
        original.run(after).unwrap();
        copy.run(after).unwrap();
        prop_assert_eq!(copy.diff(&original.snapshot().unwrap(), 5).unwrap(), []);
        prop_assert_eq!(packets(&copy), packets(&original));
        prop_assert_eq!(copy.steps().unwrap(), before + after);
        copy.self_check().unwrap();
    }

    #[test]
    fn the_dirty_log_is_exactly_what_changed(seed: u64, before in 0u64..30, steps in 0u64..60) {
        let mut domain = created(&SimConfig::small(seed), before);
        let mut dirty = full(&domain);
        domain.enable_log_dirty().unwrap();
        domain.set_device_model_log_dirty(true).unwrap();
        assert!(domain.nic().deliver(b"ping"));
        let earlier = domain.snapshot().unwrap();
        domain.run(steps).unwrap();
        let later = domain.snapshot().unwrap();
        let peeked = domain.peek_log_dirty(&mut dirty).unwrap();
        let stats = domain.clean_log_dirty(&mut dirty, CleanMode::Ongoing).unwrap();
        prop_assert_eq!(peeked, stats);
        prop_assert_eq!(dirty.count(), stats.dirty_count);
        prop_assert_eq!(dirty.iter().collect::<Vec<_>>(), earlier.differing_pfns(&later));
        prop_assert_eq!(dirty.contains(CONTROL_PFN) && dirty.contains(RECEIVE_PFN), steps > 0);
        domain.clean_log_dirty(&mut dirty, CleanMode::Ongoing).unwrap();
        prop_assert!(dirty.is_empty());
    }
}

#[test]
fn checkpoints_of_dirty_pages_alone_keep_a_copy_up_to_date() {
    let mut original = created(&SimConfig::small(11), 20);
    let mut copy = SimDomain::empty(original.config()).unwrap();
    original.enable_log_dirty().unwrap();
    original.set_device_model_log_dirty(true).unwrap();
    let mut dirty = full(&original);
    for round in 0..8 {
        original.suspend().unwrap();
        if round > 0 {
            original.clean_log_dirty(&mut dirty, CleanMode::Final).unwrap();
            assert!(dirty.count() < 129, "round {round}: {}", dirty.count());
        }
        copy_memory(&original, &mut copy, &dirty).unwrap();
        copy_state(&original, &mut copy).unwrap();
        assert_eq!(copy.diff(&original.snapshot().unwrap(), 5).unwrap(), [], "round {round}");
        assert_eq!(copy.digest().unwrap(), original.snapshot().unwrap().digest());
        original.resume().unwrap();
        assert!(original.nic().deliver(&[round; 100]));
        original.run(15).unwrap();
    }
    assert_ne!(copy.digest().unwrap().memory, original.digest().unwrap().memory);
    copy.unpause().unwrap();
    copy.self_check().unwrap();
    assert_eq!(copy.steps().unwrap(), 20 + 7 * 15);
}

#[test]
fn a_lost_page_shows_in_the_self_check_and_in_the_comparison() {
    let mut original = created(&SimConfig::small(2), 50);
    original.suspend().unwrap();
    let mut copy = restored(&original);
    let pfn = RESERVED_PFNS + 3;
    copy.map_pages_mut(&[pfn]).unwrap().page_mut(0).unwrap()[77] ^= 4;
    let differences = copy.diff(&original.snapshot().unwrap(), 5).unwrap();
    assert!(matches!(differences[..], [Difference::Memory { pfn: p, offset: 77, .. }] if p == pfn), "{differences:?}");
    assert!(matches!(copy.self_check(), Err(Error::GuestDamaged(GuestDamage::WorkingSet { .. }))));
}

#[test]
fn registers_from_another_moment_show_in_the_self_check() {
    let mut original = created(&SimConfig::small(2), 50);
    let mut context = Vec::new();
    original.suspend().unwrap();
    original.hvm_context(&mut context).unwrap();
    original.resume().unwrap();
    original.run(1).unwrap();
    original.suspend().unwrap();
    original.set_hvm_context(&context).unwrap();
    let damage = original.self_check().unwrap_err();
    assert!(matches!(damage, Error::GuestDamaged(GuestDamage::Steps { registers: 50, memory: 51 })), "{damage}");
}

#[test]
fn memory_without_its_vcpus_does_not_run() {
    let mut original = created(&SimConfig::small(2), 5);
    original.suspend().unwrap();
    let mut copy = SimDomain::empty(original.config()).unwrap();
    copy_memory(&original, &mut copy, &full(&original)).unwrap();
    copy.unpause().unwrap();
    let damage = copy.run(1).unwrap_err();
    assert!(matches!(damage, Error::GuestDamaged(GuestDamage::Vcpus { online: 0, needed: 1 })), "{damage}");
}

#[test]
fn packets_belong_to_epochs_and_inbound_ones_are_answered_from_guest_memory() {
    let mut domain = created(&SimConfig::small(1), 10);
    domain.nic().hold();
    domain.nic().begin_epoch(1).unwrap();
    assert!(domain.nic().deliver(b"how far?"));
    domain.run(10).unwrap();
    let mut parsed = packets(&domain);
    assert_eq!((parsed.len(), domain.nic().release(1)), (1, 2));
    parsed.extend(packets(&domain));
    assert_eq!(parsed.iter().map(|p| p.sequence).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(
        parsed.iter().map(|p| p.kind).collect::<Vec<_>>(),
        [PacketKind::Beacon, PacketKind::Echo, PacketKind::Beacon]
    );
    assert_eq!(parsed.iter().map(|p| p.step).collect::<Vec<_>>(), [10, 10, 20]);
    assert_eq!(parsed[1].payload, b"how far?");
    assert_eq!(&domain.memory().page(RECEIVE_PFN).unwrap()[..12], b"\x08\0\0\0how far?");
    let counters = domain.devices().nic;
    assert_eq!((counters.tx_packets, counters.rx_packets, counters.rx_bytes), (3, 1, 8));
    assert_eq!(counters.tx_bytes, 64 + 40 + 64);
}

#[test]
fn device_writes_escape_the_log_unless_the_device_model_reports_them() {
    let mut dirty = DirtyBitmap::new(SimDomain::empty(&SimConfig::small(1)).unwrap().memory().nr_pfns());
    for reports in [false, true] {
        let mut domain = created(&SimConfig::small(1), 0);
        domain.enable_log_dirty().unwrap();
        domain.set_device_model_log_dirty(reports).unwrap();
        assert!(domain.nic().deliver(b"ping"));
        domain.run(1).unwrap();
        domain.peek_log_dirty(&mut dirty).unwrap();
        assert_eq!(dirty.contains(RECEIVE_PFN), reports);
    }
}
