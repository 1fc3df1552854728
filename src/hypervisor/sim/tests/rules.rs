//! The rules of each call: states, holes, budgets, parameters, failed loads.

use super::*;

#[test]
fn a_guest_without_a_workload_does_not_run() {
    let mut empty = SimDomain::empty(&SimConfig::small(1)).unwrap();
    assert!(matches!(empty.run(1), Err(Error::WrongState { state: "paused", .. })));
    empty.unpause().unwrap();
    assert!(matches!(empty.run(1), Err(Error::GuestDamaged(GuestDamage::NoWorkload { found: 0 }))));
}

#[test]
fn holes_are_xtab_and_cannot_be_mapped() {
    let mut domain = created(&SimConfig { layout: MemoryLayout::Pc, ..SimConfig::small(1) }, 0);
    let info = domain.info().unwrap();
    assert_eq!(info.nr_pfns, 0xff000);
    domain.memory_mut().break_page(0x20).unwrap();
    let pfns: Vec<Pfn> = vec![0, 0x20, 0x9f, 0xa0, 0xbf, 0xc0, 0xfeff0, 0xfefff, 0xff000, u64::MAX];
    let mut types = [PageType::L1TAB; 10];
    domain.page_types(&pfns, &mut types).unwrap();
    let names = types.map(PageType::name);
    assert_eq!(names, ["NOTAB", "BROKEN", "NOTAB", "XTAB", "XTAB", "NOTAB", "NOTAB", "NOTAB", "XTAB", "XTAB"]);
    assert!(matches!(domain.map_pages(&[0, 0xa0]), Err(Error::NotPopulated { pfn: 0xa0 })));
    assert!(matches!(domain.map_pages(&[0x20]), Err(Error::NotPopulated { pfn: 0x20 })));
    assert!(matches!(domain.map_pages_mut(&[0xbf]), Err(Error::NotPopulated { pfn: 0xbf })));
    assert!(matches!(domain.page_types(&[0], &mut []), Err(Error::BatchLength { pfns: 1, types: 0 })));
    let all: Vec<Pfn> = (0..info.nr_pfns).collect();
    let mut types = vec![PageType::XTAB; all.len()];
    domain.page_types(&all, &mut types).unwrap();
    assert_eq!(types.iter().filter(|t| t.is_populated()).count() as u64, info.populated - 1);
}

#[test]
fn suspending_resuming_and_pausing_keep_their_rules() {
    let mut domain = created(&SimConfig::small(1), 1);
    assert!(matches!(domain.resume(), Err(Error::WrongState { state: "running", .. })));
    assert!(matches!(domain.hvm_context(&mut Vec::new()), Err(Error::WrongState { state: "running", .. })));
    domain.suspend().unwrap();
    assert!(domain.info().unwrap().is_suspended());
    assert!(matches!(domain.run(1), Err(Error::WrongState { operation: "run", state: "suspended", .. })));
    assert!(matches!(domain.suspend(), Err(Error::WrongState { state: "suspended", .. })));
    domain.pause().unwrap();
    domain.resume().unwrap();
    assert!(matches!(domain.run(1), Err(Error::WrongState { state: "paused", .. })));
    assert!(matches!(domain.suspend(), Err(Error::SuspendNotAcknowledged { shutdown: None, .. })));
    domain.unpause().unwrap();
    domain.run(1).unwrap();
    domain.set_acknowledge_suspend(false);
    assert!(matches!(domain.suspend(), Err(Error::SuspendNotAcknowledged { domid: 1, shutdown: None })));
    domain.run(1).unwrap();
    assert_eq!(domain.steps().unwrap(), 3);
}

#[test]
fn the_dirty_log_keeps_its_rules() {
    let mut domain = created(&SimConfig::small(1), 1);
    let mut dirty = full(&domain);
    assert!(matches!(domain.peek_log_dirty(&mut dirty), Err(Error::LogDirtyOff { domid: 1 })));
    domain.enable_log_dirty().unwrap();
    assert!(matches!(domain.clean_log_dirty(&mut dirty, CleanMode::Final), Err(Error::WrongState { .. })));
    assert!(matches!(domain.clean_log_dirty(&mut DirtyBitmap::new(1), CleanMode::Ongoing), Err(Error::BitmapBound(_))));
    domain.run(1).unwrap();
    domain.enable_log_dirty().unwrap();
    assert_eq!(domain.clean_log_dirty(&mut dirty, CleanMode::Ongoing).unwrap().dirty_count, 0);
    domain.disable_log_dirty().unwrap();
    domain.disable_log_dirty().unwrap();
    assert!(matches!(domain.clean_log_dirty(&mut dirty, CleanMode::Ongoing), Err(Error::LogDirtyOff { .. })));
}

#[test]
fn a_restore_beyond_the_memory_budget_fails_and_stays_bounded() {
    let mut original = created(&SimConfig::small(1), 1);
    original.suspend().unwrap();
    let mut copy = SimDomain::empty(&SimConfig { memory_budget: Some(100), ..SimConfig::small(1) }).unwrap();
    let failed = copy_memory(&original, &mut copy, &full(&original)).unwrap_err();
    assert!(matches!(failed, Error::OutOfMemory { pfn: 100, populated: 100, budget: 100 }), "{failed}");
    assert_eq!(copy.info().unwrap().populated, 100);
    let nr_pfns = copy.info().unwrap().nr_pfns;
    assert!(matches!(copy.populate(&[(1 << 34) - 1]), Err(Error::PfnOutOfRange { nr_pfns: n, .. }) if n == nr_pfns));
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
        let pfn = if index == hvm_param::IDENT_PT { value >> 12 } else { value };
        if cleared {
            // The guest has given the page back.
            copy.restore_hvm_param(HvmParam { index, value }).unwrap();
            assert_eq!((copy.hvm_param(index).unwrap(), copy.memory().slot(pfn)), (value, None));
        }
        if cleared || index == hvm_param::IDENT_PT {
            copy.populate(&[pfn]).unwrap();
            copy.map_pages_mut(&[pfn]).unwrap().page_mut(0).unwrap().fill(0xee);
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
    copy.restore_hvm_param(HvmParam { index: hvm_param::PAE_ENABLED, value: 1 }).unwrap();
    assert_eq!(copy.hvm_param(hvm_param::PAE_ENABLED).unwrap(), 0);
    assert!(matches!(
        copy.set_hvm_param(HvmParam { index: 39, value: 5 }),
        Err(Error::HvmParam { index: 39, value: 5 })
    ));
    assert!(matches!(copy.hvm_param(u64::MAX), Err(Error::HvmParam { .. })));
    let seed = GrantSeed { console_gfn: 1, console_domid: 0, xenstore_gfn: 2, xenstore_domid: 0 };
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
    assert!(matches!(domain.set_hvm_context(&context[..context.len() - 1]), Err(Error::HvmContextChain(_))));
    assert!(matches!(domain.load_device_model(b"QEVM"), Err(Error::DeviceModel { .. })));
    let mut policy = domain.cpu_policy().unwrap();
    policy.msrs.push(0);
    assert!(matches!(
        domain.set_cpu_policy(&policy),
        Err(Error::CpuPolicyLength { part: "MSR", length: 33, entry: 16 })
    ));
    assert_eq!(domain.diff(&before, 5).unwrap(), []);
}

#[test]
fn pv_guests_are_not_supported() {
    let config = SimConfig { kind: DomainKind::Pv, ..SimConfig::small(1) };
    assert!(matches!(SimDomain::create(&config), Err(Error::Unsupported { backend: "sim", what: "a PV guest" })));
}

/// Resident bytes of the mapping that an address of ours is in.
fn resident_bytes(address: usize) -> usize {
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut inside = false;
    for line in smaps.lines() {
        let first = line.split(' ').next().unwrap();
        if let Some((start, end)) = first.split_once('-') {
            let address_of = |text| usize::from_str_radix(text, 16).unwrap();
            inside = (address_of(start)..address_of(end)).contains(&address);
        } else if inside && let Some(rest) = line.strip_prefix("Rss:") {
            return rest.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024;
        }
    }
    panic!("no mapping at {address:#x}");
}

#[test]
fn a_big_guest_costs_only_the_pages_it_touches() {
    let domain = created(&SimConfig { memory: 1 << 18, ..SimConfig::default() }, 10);
    assert_eq!(domain.info().unwrap().populated, (1 << 18) + 28);
    let resident = resident_bytes(domain.memory().address());
    assert!((1 << 20..256 << 20).contains(&resident), "{resident} bytes of 1 GiB are resident");
}
