//! A simulated PV domain in a folder, and what of two such domains must be the same wherever their frames are.

use crate::helper::{CONSOLE_DOMID, STORE_DOMID};
use crate::home::{Home, Program};
use memmap2::MmapMut;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use xen_replicate::decode::pv_words::{self as words, p2m_entry};
use xen_replicate::hypervisor::pv::{PvDomain, VcpuRecord, Width};
use xen_replicate::hypervisor::sim::pv::{P2mKind, PvConfig, PvImage, PvSim};
use xen_replicate::hypervisor::{Domain, GrantSeed, PAGE_SIZE, SaveDomain, ZERO_PAGE};
use xen_replicate::libxc::pv::p2m::P2m;
use xen_replicate::libxc::pv::{context, table};

/// A guest of each width and kind of p2m.
pub fn configs() -> [PvConfig; 4] {
    [
        PvConfig { vcpus: 3, ..PvConfig::small(1, Width::Bits64, P2mKind::List) },
        PvConfig::small(2, Width::Bits64, P2mKind::Tree),
        PvConfig::small(3, Width::Bits32, P2mKind::List),
        PvConfig::small(4, Width::Bits32, P2mKind::Tree),
    ]
}

/// A guest that has run.
pub fn guest(config: &PvConfig) -> PvSim {
    let mut guest = PvSim::create(config).unwrap();
    guest.run(200).unwrap();
    guest
}

/// A folder with a domain in it.
pub fn home_of(domain: &PvSim, program: Program) -> Home {
    let home = Home::for_pv().with(program);
    let image = domain.image();
    fs::write(home.path("before.json"), serde_json::to_vec(&image).unwrap()).unwrap();
    let memory = File::create(home.path("memory")).unwrap();
    let mut m2p = vec![0xff; image.m2p_bytes()];
    for mfn in 0..domain.nr_mfns().unwrap() {
        let page = domain.page(mfn).unwrap();
        if *page != ZERO_PAGE {
            memory.write_all_at(page, mfn * PAGE_SIZE as u64).unwrap();
        }
        m2p[mfn as usize * 8..][..8].copy_from_slice(&domain.m2p(mfn).unwrap().to_le_bytes());
    }
    fs::write(home.path("m2p"), m2p).unwrap();
    home
}

/// A folder with a domain to restore into, whose machine gives other frames.
pub fn empty_home(config: &PvConfig, program: Program) -> Home {
    let config = PvConfig { seed: config.seed ^ 0xffff, width: Width::Bits64, ..config.clone() };
    home_of(&PvSim::empty(&config).unwrap(), program)
}

/// The domain as the process has left it.
pub fn after(home: &Home) -> PvSim {
    let image: PvImage = serde_json::from_slice(&fs::read(home.path("after.json")).unwrap()).unwrap();
    let pages = |name: &str| {
        let contents = fs::read(home.path(name)).unwrap();
        let mut pages = MmapMut::map_anon(contents.len()).unwrap();
        pages.copy_from_slice(&contents);
        pages
    };
    image.wake(pages("memory"), pages("m2p")).unwrap()
}

/// The page of a pfn as a stream has it, frames as pfns; `None` where there is none.
fn page(domain: &PvSim, pfn: u64) -> Option<Vec<u8>> {
    let mfn = domain.reach(pfn)?;
    let mut kind = [xen_replicate::hypervisor::PageType::XTAB];
    domain.page_types(&[mfn], &mut kind).unwrap();
    let mut page = domain.page(mfn).unwrap().to_vec();
    if let Some(level) = kind[0].table_level() {
        let compat = domain.compat_m2p_frame().unwrap();
        let width = domain.guest_width().unwrap();
        table::normalise(&mut page, level, width, compat, |mfn| domain.m2p(mfn)).unwrap();
    }
    Some(page)
}

fn part(domain: &PvSim, vcpu: u32, part: VcpuRecord) -> Vec<u8> {
    let mut blob = Vec::new();
    domain.vcpu_part(vcpu, part, &mut blob).unwrap();
    blob
}

/// A basic context, frames as pfns.
fn context_of(domain: &PvSim, vcpu: u32) -> Vec<u8> {
    let mut blob = part(domain, vcpu, VcpuRecord::Basic);
    if !blob.is_empty() {
        context::normalise(&mut blob, domain.guest_width().unwrap(), vcpu, |mfn| domain.m2p(mfn)).unwrap();
    }
    blob
}

/// Holds a restored domain against the suspended one that was saved, has it wake up, and looks at it from within.
pub fn assert_restored(original: &mut PvSim, copy: &mut PvSim, config: &PvConfig) {
    let width = config.width;
    assert!(original.info().unwrap().is_suspended());
    assert_eq!(copy.guest_width().unwrap(), width);
    assert_eq!(copy.tsc_info().unwrap(), original.tsc_info().unwrap());
    assert_eq!(copy.cpu_policy().unwrap(), original.cpu_policy().unwrap());
    for vcpu in 0..config.vcpus {
        assert_eq!(copy.vcpu_is_online(vcpu).unwrap(), original.vcpu_is_online(vcpu).unwrap());
        assert_eq!(context_of(copy, vcpu), context_of(original, vcpu), "vCPU {vcpu}");
        for kind in [VcpuRecord::Extended, VcpuRecord::Xsave, VcpuRecord::Msrs] {
            assert_eq!(part(copy, vcpu, kind), part(original, vcpu, kind), "vCPU {vcpu}, {kind:?}");
        }
    }
    assert!(!part(original, 0, VcpuRecord::Msrs).is_empty());
    let mut shared_info = ZERO_PAGE;
    context::shared_info(&mut shared_info, original.shared_info().unwrap(), width);
    assert!(*copy.shared_info().unwrap() == shared_info, "shared info");

    assert_eq!(copy.types(), original.types());
    let p2m = P2m::find(original).unwrap();
    let start_info = words::EDX.get(&context_of(original, 0), width);
    let mut compared = 0;
    for pfn in 0..config.pages {
        let (found, expected) = (page(copy, pfn), page(original, pfn));
        let (Some(found), Some(expected)) = (&found, &expected) else {
            assert_eq!(found, expected, "pfn {pfn:#x}");
            continue;
        };
        if let Some(index) = p2m.frames().iter().position(|&frame| frame == pfn) {
            let per_frame = PAGE_SIZE / width.bytes();
            for at in 0..per_frame {
                let named = (index * per_frame + at) as u64;
                let entry = |page: &[u8]| p2m_entry(words::word().nth(at).get(page, width), width);
                let of = |domain: &PvSim, page: &[u8]| entry(page).and_then(|mfn| domain.m2p(mfn));
                if named < config.pages {
                    assert_eq!(of(copy, found), of(original, expected), "p2m entry of pfn {named:#x}");
                }
            }
        } else if pfn != start_info {
            assert!(found == expected, "pfn {pfn:#x}");
            compared += 1;
        }
    }
    assert!(compared > 1000, "{compared}");
    let moved = (0..config.pages).filter(|&pfn| copy.reach(pfn) != original.reach(pfn)).count();
    assert!(moved > 1000, "{moved} pages have other frames");

    let GrantSeed { console_domid, xenstore_domid, .. } = copy.grants();
    assert_eq!((console_domid, xenstore_domid), (CONSOLE_DOMID, STORE_DOMID));
    // The guest looks at its start info, its rings and its p2m.
    copy.wake(config).unwrap();
    copy.self_check().unwrap();
    assert_eq!((copy.steps(), copy.data_sum()), (original.steps(), original.data_sum()));
    assert!(copy.steps() >= 200);
}

/// Lets both go on for as long.
pub fn assert_go_on(mut original: PvSim, mut copy: PvSim) {
    original.resume().unwrap();
    for guest in [&mut original, &mut copy] {
        guest.run(300).unwrap();
        guest.self_check().unwrap();
    }
    assert_eq!((copy.steps(), copy.data_sum()), (original.steps(), original.data_sum()));
}
