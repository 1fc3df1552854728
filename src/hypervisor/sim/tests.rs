//! Tests of the simulated guest as a whole, through the hypervisor's traits.

use std::num::NonZeroU32;
use std::time::Instant;

use proptest::prelude::*;

use super::workload::control::{CONTROL_PFN, RECEIVE_PFN, RESERVED_PFNS};
use super::*;
use crate::hypervisor::{
    CleanMode, DeviceModel, DirtyBitmap, Domain, DomainKind, Error, GrantSeed, GuestDamage,
    HvmParam, LogDirty, PAGE_SIZE, Packet, PageBatch, PageBatchMut, PageType, Pfn, RestoreDomain,
    Result, SaveDomain, VirtualNic, hvm_param,
};

const BATCH: usize = 64;

/// Copies the pages of `dirty` and their presence, as a save and a restore do.
fn copy_memory(
    from: &impl SaveDomain,
    to: &mut impl RestoreDomain,
    dirty: &DirtyBitmap,
) -> Result<()> {
    let (mut batch, mut next) = (Vec::new(), Some(0));
    while let Some(start) = next {
        next = dirty.next_batch(start, BATCH, &mut batch);
        let mut types = vec![PageType::XTab; batch.len()];
        from.page_types(&batch, &mut types)?;
        let mut keep = types.iter().map(|t| t.has_data());
        batch.retain(|_| keep.next().unwrap());
        let pages = from.map_pages(&batch)?;
        to.populate(&batch)?;
        let mut target = to.map_pages_mut(&batch)?;
        let mut index = 0;
        while let Some(run) = pages.run(index) {
            for page in run.chunks_exact(PAGE_SIZE) {
                target.page_mut(index).unwrap().copy_from_slice(page);
                index += 1;
            }
        }
        assert_eq!(index, batch.len());
    }
    Ok(())
}

/// Copies everything but memory.
fn copy_state(
    from: &(impl SaveDomain + DeviceModel),
    to: &mut (impl RestoreDomain + DeviceModel),
) -> Result<()> {
    let (mut context, mut device_model, mut params) = (Vec::new(), Vec::new(), Vec::new());
    from.hvm_context(&mut context)?;
    from.save_device_model(&mut device_model)?;
    from.hvm_params(&mut params)?;
    to.set_cpu_policy(&from.cpu_policy()?)?;
    to.set_tsc_info(from.tsc_info()?)?;
    for param in params {
        to.restore_hvm_param(param)?;
    }
    to.set_hvm_context(&context)?;
    to.load_device_model(&device_model)?;
    to.set_emulator_xenstore(from.emulator_xenstore()?)
}

fn full(domain: &impl Domain) -> DirtyBitmap {
    DirtyBitmap::full(domain.info().unwrap().nr_pfns)
}

/// A copy of a suspended guest, running.
fn restored(from: &SimDomain) -> SimDomain {
    let mut copy = SimDomain::empty(from.config()).unwrap();
    copy_memory(from, &mut copy, &full(from)).unwrap();
    copy_state(from, &mut copy).unwrap();
    copy.unpause().unwrap();
    copy
}

fn created(config: &SimConfig, steps: u64) -> SimDomain {
    let mut domain = SimDomain::create(config).unwrap();
    domain.run(steps).unwrap();
    domain
}

fn packets(domain: &mut SimDomain) -> Vec<Packet> {
    let mut packets = Vec::new();
    domain.take_packets(u64::MAX, &mut packets).unwrap();
    packets
}

#[test]
fn the_same_seed_gives_the_same_guest_and_another_seed_another() {
    let config = SimConfig::small(3);
    let (mut a, mut b) = (created(&config, 100), created(&config, 100));
    assert_eq!(a.snapshot().unwrap(), b.snapshot().unwrap());
    assert_eq!(packets(&mut a), packets(&mut b));
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
    assert_eq!(
        portions
            .diff(&created(&config, 50).snapshot().unwrap(), 1)
            .unwrap(),
        []
    );
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
        packets(&mut original);
        original.run(after).unwrap();
        copy.run(after).unwrap();
        prop_assert_eq!(copy.diff(&original.snapshot().unwrap(), 5).unwrap(), []);
        prop_assert_eq!(packets(&mut copy), packets(&mut original));
        prop_assert_eq!(copy.steps().unwrap(), before + after);
        copy.self_check().unwrap();
    }

    #[test]
    fn the_dirty_log_is_exactly_what_changed(seed: u64, before in 0u64..30, steps in 0u64..60) {
        let mut domain = created(&SimConfig::small(seed), before);
        let mut dirty = full(&domain);
        domain.enable_log_dirty().unwrap();
        domain.set_device_model_log_dirty(true).unwrap();
        domain.deliver(b"ping").unwrap();
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
            original
                .clean_log_dirty(&mut dirty, CleanMode::Final)
                .unwrap();
            assert!(dirty.count() < 129, "round {round}: {}", dirty.count());
        }
        copy_memory(&original, &mut copy, &dirty).unwrap();
        copy_state(&original, &mut copy).unwrap();
        assert_eq!(
            copy.diff(&original.snapshot().unwrap(), 5).unwrap(),
            [],
            "round {round}"
        );
        assert_eq!(
            copy.digest().unwrap(),
            original.snapshot().unwrap().digest()
        );
        original.resume().unwrap();
        original.deliver(&[round; 100]).unwrap();
        original.run(15).unwrap();
    }
    assert_ne!(
        copy.digest().unwrap().memory,
        original.digest().unwrap().memory
    );
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
    assert!(
        matches!(differences[..], [Difference::Memory { pfn: p, offset: 77, .. }] if p == pfn),
        "{differences:?}"
    );
    assert!(matches!(
        copy.self_check(),
        Err(Error::GuestDamaged(GuestDamage::WorkingSet { .. }))
    ));
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
    assert!(
        matches!(
            damage,
            Error::GuestDamaged(GuestDamage::Steps {
                registers: 50,
                memory: 51
            })
        ),
        "{damage}"
    );
}

#[test]
fn a_guest_without_a_workload_does_not_run() {
    let mut empty = SimDomain::empty(&SimConfig::small(1)).unwrap();
    assert!(matches!(
        empty.run(1),
        Err(Error::WrongState {
            state: "paused",
            ..
        })
    ));
    empty.unpause().unwrap();
    assert!(matches!(
        empty.run(1),
        Err(Error::GuestDamaged(GuestDamage::NoWorkload { found: 0 }))
    ));
}

#[test]
fn holes_are_xtab_and_cannot_be_mapped() {
    let mut domain = created(
        &SimConfig {
            layout: MemoryLayout::Pc,
            ..SimConfig::small(1)
        },
        0,
    );
    let info = domain.info().unwrap();
    assert_eq!(info.nr_pfns, 0xff000);
    domain.memory_mut().break_page(0x20).unwrap();
    let pfns: Vec<Pfn> = vec![
        0,
        0x20,
        0x9f,
        0xa0,
        0xbf,
        0xc0,
        0xfeff0,
        0xfefff,
        0xff000,
        u64::MAX,
    ];
    let mut types = vec![PageType::L1Tab; pfns.len()];
    domain.page_types(&pfns, &mut types).unwrap();
    use PageType::{Broken, NoTab, XTab};
    assert_eq!(
        types,
        [
            NoTab, Broken, NoTab, XTab, XTab, NoTab, NoTab, NoTab, XTab, XTab
        ]
    );
    assert!(matches!(
        domain.map_pages(&[0, 0xa0]),
        Err(Error::NotPopulated { pfn: 0xa0 })
    ));
    assert!(matches!(
        domain.map_pages(&[0x20]),
        Err(Error::NotPopulated { pfn: 0x20 })
    ));
    assert!(matches!(
        domain.map_pages_mut(&[0xbf]),
        Err(Error::NotPopulated { pfn: 0xbf })
    ));
    assert!(matches!(
        domain.page_types(&[0], &mut []),
        Err(Error::BatchLength { pfns: 1, types: 0 })
    ));
    let all: Vec<Pfn> = (0..info.nr_pfns).collect();
    let mut types = vec![PageType::XTab; all.len()];
    domain.page_types(&all, &mut types).unwrap();
    assert_eq!(
        types.iter().filter(|t| t.is_populated()).count() as u64,
        info.populated - 1
    );
}

#[test]
fn suspending_resuming_and_pausing_keep_their_rules() {
    let mut domain = created(&SimConfig::small(1), 1);
    assert!(matches!(
        domain.resume(),
        Err(Error::WrongState {
            state: "running",
            ..
        })
    ));
    assert!(matches!(
        domain.hvm_context(&mut Vec::new()),
        Err(Error::WrongState {
            state: "running",
            ..
        })
    ));
    domain.suspend().unwrap();
    assert!(domain.info().unwrap().is_suspended());
    assert!(matches!(
        domain.run(1),
        Err(Error::WrongState {
            operation: "run",
            state: "suspended",
            ..
        })
    ));
    assert!(matches!(
        domain.suspend(),
        Err(Error::WrongState {
            state: "suspended",
            ..
        })
    ));
    domain.pause().unwrap();
    domain.resume().unwrap();
    assert!(matches!(
        domain.run(1),
        Err(Error::WrongState {
            state: "paused",
            ..
        })
    ));
    assert!(matches!(
        domain.suspend(),
        Err(Error::SuspendNotAcknowledged { shutdown: None, .. })
    ));
    domain.unpause().unwrap();
    domain.run(1).unwrap();
    domain.set_acknowledge_suspend(false);
    assert!(matches!(
        domain.suspend(),
        Err(Error::SuspendNotAcknowledged {
            domid: 1,
            shutdown: None
        })
    ));
    domain.run(1).unwrap();
    assert_eq!(domain.steps().unwrap(), 3);
}

#[test]
fn the_dirty_log_keeps_its_rules() {
    let mut domain = created(&SimConfig::small(1), 1);
    let mut dirty = full(&domain);
    assert!(matches!(
        domain.peek_log_dirty(&mut dirty),
        Err(Error::LogDirtyOff { domid: 1 })
    ));
    domain.enable_log_dirty().unwrap();
    assert!(matches!(
        domain.clean_log_dirty(&mut dirty, CleanMode::Final),
        Err(Error::WrongState { .. })
    ));
    assert!(matches!(
        domain.clean_log_dirty(&mut DirtyBitmap::new(1), CleanMode::Ongoing),
        Err(Error::BitmapBound(_))
    ));
    domain.run(1).unwrap();
    domain.enable_log_dirty().unwrap();
    assert_eq!(
        domain
            .clean_log_dirty(&mut dirty, CleanMode::Ongoing)
            .unwrap()
            .dirty_count,
        0
    );
    domain.disable_log_dirty().unwrap();
    domain.disable_log_dirty().unwrap();
    assert!(matches!(
        domain.clean_log_dirty(&mut dirty, CleanMode::Ongoing),
        Err(Error::LogDirtyOff { .. })
    ));
}

#[test]
fn a_restore_beyond_the_memory_budget_fails_and_stays_bounded() {
    let mut original = created(&SimConfig::small(1), 1);
    original.suspend().unwrap();
    let mut copy = SimDomain::empty(&SimConfig {
        memory_budget: Some(100),
        ..SimConfig::small(1)
    })
    .unwrap();
    let failed = copy_memory(&original, &mut copy, &full(&original)).unwrap_err();
    assert!(
        matches!(
            failed,
            Error::OutOfMemory {
                pfn: 100,
                populated: 100,
                budget: 100
            }
        ),
        "{failed}"
    );
    assert_eq!(copy.info().unwrap().populated, 100);
    let nr_pfns = copy.info().unwrap().nr_pfns;
    assert!(
        matches!(copy.populate(&[(1 << 34) - 1]), Err(Error::PfnOutOfRange { nr_pfns: n, .. }) if n == nr_pfns)
    );
    let create = SimDomain::create(copy.config()).map(|_| ()).unwrap_err();
    assert!(matches!(create, Error::OutOfMemory { budget: 100, .. }));
}

#[test]
fn restored_ring_pages_are_cleared_and_parameters_keep_their_rules() {
    let original = created(&SimConfig::small(1), 1);
    let mut params = Vec::new();
    original.hvm_params(&mut params).unwrap();
    assert_eq!(params[0].index, hvm_param::STORE_PFN);
    assert!(params.iter().all(|p| p.value != 0) && params.len() == 12);
    let mut copy = SimDomain::empty(original.config()).unwrap();
    for &HvmParam { index, value } in &params {
        let cleared = hvm_param::names_cleared_page(index);
        let pfn = if index == hvm_param::IDENT_PT {
            value >> 12
        } else {
            value
        };
        if cleared {
            assert!(
                matches!(copy.restore_hvm_param(HvmParam { index, value }), Err(Error::NotPopulated { pfn: p }) if p == pfn)
            );
        }
        if cleared || index == hvm_param::IDENT_PT {
            copy.populate(&[pfn]).unwrap();
            copy.map_pages_mut(&[pfn])
                .unwrap()
                .page_mut(0)
                .unwrap()
                .fill(0xee);
        }
        copy.restore_hvm_param(HvmParam { index, value }).unwrap();
        assert_eq!(copy.hvm_param(index).unwrap(), value);
        if cleared {
            assert_eq!(copy.memory().page(pfn), Some(&crate::hypervisor::ZERO_PAGE));
        }
        if index == hvm_param::IDENT_PT {
            assert_eq!(copy.memory().page(pfn), Some(&[0xee; PAGE_SIZE]));
        }
    }
    copy.restore_hvm_param(HvmParam {
        index: hvm_param::PAE_ENABLED,
        value: 1,
    })
    .unwrap();
    assert_eq!(copy.hvm_param(hvm_param::PAE_ENABLED).unwrap(), 0);
    assert!(matches!(
        copy.set_hvm_param(HvmParam {
            index: 39,
            value: 5
        }),
        Err(Error::HvmParam {
            index: 39,
            value: 5
        })
    ));
    assert!(matches!(
        copy.hvm_param(u64::MAX),
        Err(Error::HvmParam { .. })
    ));
    let seed = GrantSeed {
        console_gfn: 1,
        console_domid: 0,
        xenstore_gfn: 2,
        xenstore_domid: 0,
    };
    copy.seed_grant_table(seed).unwrap();
    assert_eq!(copy.grants(), seed);
}

#[test]
fn failed_loads_leave_the_state_as_it_was() {
    let mut domain = created(&SimConfig::small(1), 9);
    domain.suspend().unwrap();
    let before = domain.snapshot().unwrap();
    let mut context = Vec::new();
    domain.hvm_context(&mut context).unwrap();
    assert!(matches!(
        domain.set_hvm_context(&context[..context.len() - 1]),
        Err(Error::HvmContext { .. })
    ));
    assert!(matches!(
        domain.load_device_model(b"QEVM"),
        Err(Error::DeviceModel { .. })
    ));
    let mut policy = domain.cpu_policy().unwrap();
    policy.msrs.push(0);
    assert!(matches!(
        domain.set_cpu_policy(&policy),
        Err(Error::CpuPolicyLength {
            part: "MSR",
            length: 33,
            entry: 16
        })
    ));
    assert_eq!(domain.diff(&before, 5).unwrap(), []);
}

#[test]
fn packets_carry_epochs_and_inbound_ones_are_answered_from_guest_memory() {
    let mut domain = created(&SimConfig::small(1), 10);
    domain.set_epoch(1).unwrap();
    assert!(domain.deliver(b"how far?").unwrap());
    domain.run(10).unwrap();
    let sent = packets(&mut domain);
    assert_eq!(sent.iter().map(|p| p.epoch).collect::<Vec<_>>(), [0, 1, 1]);
    let parsed: Vec<_> = sent
        .iter()
        .map(|p| WorkloadPacket::parse(&p.octets).unwrap())
        .collect();
    assert_eq!(
        parsed.iter().map(|p| p.sequence).collect::<Vec<_>>(),
        [0, 1, 2]
    );
    assert_eq!(
        parsed.iter().map(|p| p.kind).collect::<Vec<_>>(),
        [PacketKind::Beacon, PacketKind::Echo, PacketKind::Beacon]
    );
    assert_eq!(
        parsed.iter().map(|p| p.step).collect::<Vec<_>>(),
        [10, 10, 20]
    );
    assert_eq!(parsed[1].payload, b"how far?");
    assert_eq!(
        &domain.memory().page(RECEIVE_PFN).unwrap()[..12],
        b"\x08\0\0\0how far?"
    );
    let counters = domain.devices().nic;
    assert_eq!(
        (counters.tx_packets, counters.rx_packets, counters.rx_octets),
        (3, 1, 8)
    );
    assert_eq!(counters.tx_octets, 64 + 40 + 64);
}

#[test]
fn device_writes_escape_the_log_unless_the_device_model_reports_them() {
    let mut dirty = DirtyBitmap::new(
        SimDomain::empty(&SimConfig::small(1))
            .unwrap()
            .memory()
            .nr_pfns(),
    );
    for reports in [false, true] {
        let mut domain = created(&SimConfig::small(1), 0);
        domain.enable_log_dirty().unwrap();
        domain.set_device_model_log_dirty(reports).unwrap();
        domain.deliver(b"ping").unwrap();
        domain.run(1).unwrap();
        domain.peek_log_dirty(&mut dirty).unwrap();
        assert_eq!(dirty.contains(RECEIVE_PFN), reports);
    }
}

#[test]
fn pv_guests_are_not_supported() {
    let config = SimConfig {
        kind: DomainKind::Pv,
        ..SimConfig::small(1)
    };
    assert!(matches!(
        SimDomain::create(&config),
        Err(Error::Unsupported {
            backend: "sim",
            what: "a PV guest"
        })
    ));
}

/// Resident octets of the mapping that an address of ours is in.
fn resident_octets(address: usize) -> usize {
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut inside = false;
    for line in smaps.lines() {
        let first = line.split(' ').next().unwrap();
        if let Some((start, end)) = first.split_once('-') {
            let address_of = |text| usize::from_str_radix(text, 16).unwrap();
            inside = (address_of(start)..address_of(end)).contains(&address);
        } else if inside && let Some(rest) = line.strip_prefix("Rss:") {
            return rest
                .trim()
                .trim_end_matches(" kB")
                .parse::<usize>()
                .unwrap()
                * 1024;
        }
    }
    panic!("no mapping at {address:#x}");
}

#[test]
fn a_big_guest_costs_only_the_pages_it_touches() {
    let domain = created(
        &SimConfig {
            memory: 1 << 18,
            ..SimConfig::default()
        },
        10,
    );
    assert_eq!(domain.info().unwrap().populated, (1 << 18) + 28);
    let resident = resident_octets(domain.memory().address());
    assert!(
        (1 << 20..256 << 20).contains(&resident),
        "{resident} octets of 1 GiB are resident"
    );
}

fn wait_for_steps(runner: &Runner, steps: u64) {
    while runner.turn().unwrap().steps().unwrap() < steps {
        std::thread::yield_now();
    }
}

#[test]
fn a_live_guest_is_saved_while_it_runs() {
    let mut runner =
        Runner::start(SimDomain::create(&SimConfig::small(6)).unwrap(), Pace::Free).unwrap();
    let mut copy = SimDomain::empty(&SimConfig::small(6)).unwrap();
    let mut dirty = full(&runner);
    runner.enable_log_dirty().unwrap();
    runner.set_device_model_log_dirty(true).unwrap();
    let mut steps = 0;
    for _ in 0..5 {
        copy_memory(&runner, &mut copy, &dirty).unwrap();
        steps += 20;
        wait_for_steps(&runner, steps);
        steps = runner.turn().unwrap().steps().unwrap();
        runner
            .clean_log_dirty(&mut dirty, CleanMode::Ongoing)
            .unwrap();
        assert!(!dirty.is_empty());
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
    copy.run(original.steps().unwrap() - copy.steps().unwrap())
        .unwrap();
    assert_eq!(copy.diff(&original.snapshot().unwrap(), 5).unwrap(), []);
}

#[test]
fn pages_of_a_suspended_guest_are_mapped_in_place_and_several_batches_may_live() {
    let mut runner =
        Runner::start(SimDomain::create(&SimConfig::small(6)).unwrap(), Pace::Free).unwrap();
    let running = runner.map_pages(&[CONTROL_PFN, 20]).unwrap();
    assert_eq!(
        (running.len(), running.run(0).unwrap().len(), running.run(2)),
        (2, 2 * PAGE_SIZE, None)
    );
    drop(running);
    runner.suspend().unwrap();
    let (first, second) = (
        runner.map_pages(&[20, 21]).unwrap(),
        runner.map_pages(&[21]).unwrap(),
    );
    assert!(std::ptr::eq(
        first.page(1).unwrap(),
        second.page(0).unwrap()
    ));
    assert!(first.page(2).is_none());
    runner.page_types(&[20], &mut [PageType::XTab]).unwrap();
    drop((first, second));
    runner
        .map_pages_mut(&[20])
        .unwrap()
        .page_mut(0)
        .unwrap()
        .fill(9);
    assert_eq!(
        runner.map_pages(&[20]).unwrap().page(0),
        Some(&[9; PAGE_SIZE])
    );
    assert!(matches!(
        runner.map_pages_mut(&[1 << 40]),
        Err(Error::NotPopulated { .. })
    ));
}

#[test]
fn damage_stops_a_running_guest_and_is_told_once() {
    let mut runner =
        Runner::start(SimDomain::create(&SimConfig::small(6)).unwrap(), Pace::Free).unwrap();
    runner.pause().unwrap();
    runner.clear_page(CONTROL_PFN).unwrap();
    runner.unpause().unwrap();
    let fault = loop {
        match runner.info() {
            Err(fault) => break fault,
            Ok(_) => std::thread::yield_now(),
        }
    };
    assert!(matches!(
        fault,
        Error::GuestDamaged(GuestDamage::NoWorkload { found: 0 })
    ));
    assert!(runner.info().unwrap().paused);
    runner.stop().unwrap();
}

#[test]
fn a_paced_guest_keeps_its_pace_and_stops_at_once() {
    let begin = Instant::now();
    let pace = Pace::StepsPerSecond(NonZeroU32::new(1).unwrap());
    let runner = Runner::start(SimDomain::create(&SimConfig::small(6)).unwrap(), pace).unwrap();
    let mut nic = runner.nic();
    assert!(nic.deliver(b"ping").unwrap());
    wait_for_steps(&runner, 1);
    let steps = runner.stop().unwrap().steps().unwrap();
    let seconds = begin.elapsed().as_secs();
    assert!(
        (1..=seconds + 1).contains(&steps),
        "{steps} steps in {seconds} seconds"
    );
    assert_eq!(nic.waiting(), 1);
}
