//! One domain, read through libxenctrl and through this project's own hypercalls, both over the stand-in's libraries: equal field by
//! field. `run` has the stand-in in the library path.

#![allow(clippy::unnecessary_cast)]

use std::ffi::c_int;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use xen_oracle::c;
use xen_replicate::hypervisor::sim::{SimConfig, SimDomain};
use xen_replicate::hypervisor::xen::Host;
use xen_replicate::hypervisor::{
    Domain, DomainKind, PAGE_SIZE, PageBatch, PageType, SaveDomain, ShutdownReason, ZERO_PAGE, hvm_param,
};

/// The domain's number.
const DOMID: u32 = 1;

/// A suspended domain where the stand-in takes it up, in a folder.
fn prepare(folder: &std::path::Path) -> SimDomain {
    let mut domain = SimDomain::create(&SimConfig { vcpus: 3, domid: DOMID, ..SimConfig::default() }).unwrap();
    domain.run(50).unwrap();
    domain.suspend().unwrap();
    let path = |name: &str| folder.join(name);
    fs::write(path("before.json"), serde_json::to_vec(&domain.image().unwrap()).unwrap()).unwrap();
    let file = File::create(path("memory")).unwrap();
    for pfn in domain.memory().populated_pfns() {
        let page = domain.memory().page(pfn).unwrap();
        if *page != ZERO_PAGE {
            file.write_all_at(page, (domain.memory().slot(pfn).unwrap() * PAGE_SIZE) as u64).unwrap();
        }
    }
    let release = std::env::var("XEN_ORACLE_RELEASE").unwrap();
    let config = serde_json::json!({ "folder": folder, "xen": release });
    fs::write(path("standin.json"), config.to_string()).unwrap();
    // SAFETY: there is no other thread that could read the environment: this program has one test.
    unsafe { std::env::set_var("XEN_STANDIN", path("standin.json")) };
    domain
}

#[test]
fn one_domain_is_the_same_through_libxenctrl_and_through_ours() {
    let folder = tempfile::tempdir().unwrap();
    let original = prepare(folder.path());
    let host = Host::open().unwrap();
    let ours = host.domain(DOMID).unwrap();
    // SAFETY: no loggers, no flags.
    let theirs = unsafe { c::xc_interface_open(std::ptr::null_mut(), std::ptr::null_mut(), 0) };
    assert!(!theirs.is_null());

    // SAFETY: this question has no argument.
    let version = unsafe { c::xc_version(theirs, c::XENVER_version as c_int, std::ptr::null_mut()) };
    assert_eq!(host.version(), ((version >> 16) as u32, (version & 0xffff) as u32));
    assert_eq!(format!("{}.{}", host.version().0, host.version().1), std::env::var("XEN_ORACLE_RELEASE").unwrap());

    let info = ours.info().unwrap();
    let mut found = c::xc_domaininfo_t::default();
    // SAFETY: there is room for the one that is asked for.
    assert_eq!(unsafe { c::xc_domain_getinfolist(theirs, DOMID, 1, &mut found) }, 1);
    assert_eq!(u32::from(found.domain), info.domid);
    assert_eq!((found.tot_pages as u64, found.max_pages as u64), (info.populated, info.max_pages));
    assert_eq!((found.max_vcpu_id + 1, found.handle), (info.nr_vcpus, info.uuid.0));
    let flag = |flag| found.flags & flag as u32 != 0;
    assert_eq!(flag(c::XEN_DOMINF_hvm_guest), info.kind == DomainKind::Hvm);
    assert_eq!((flag(c::XEN_DOMINF_paused), flag(c::XEN_DOMINF_shutdown)), (info.paused, info.shutdown.is_some()));
    let reason = found.flags >> c::XEN_DOMINF_shutdownshift & c::XEN_DOMINF_shutdownmask;
    assert_eq!((reason, info.shutdown), (c::SHUTDOWN_suspend as u32, Some(ShutdownReason::Suspend)));

    let mut highest = 0;
    // SAFETY: a place for the number.
    assert_eq!(unsafe { c::xc_domain_maximum_gpfn(theirs, DOMID, &mut highest) }, 0);
    assert_eq!(highest as u64 + 1, info.nr_pfns);

    let (mut mode, mut nsec, mut khz, mut incarnation) = (0, 0, 0, 0);
    // SAFETY: four places for four numbers.
    let done = unsafe { c::xc_domain_get_tsc_info(theirs, DOMID, &mut mode, &mut nsec, &mut khz, &mut incarnation) };
    assert_eq!(done, 0);
    let tsc = ours.tsc_info().unwrap();
    assert_eq!((tsc.mode, tsc.nsec, tsc.khz, tsc.incarnation), (mode, nsec, khz, incarnation));
    assert_ne!(khz, 0);

    let mut context = Vec::new();
    ours.hvm_context(&mut context).unwrap();
    // SAFETY: without a buffer it is the size that is asked for.
    let size = unsafe { c::xc_domain_hvm_getcontext(theirs, DOMID, std::ptr::null_mut(), 0) };
    let mut blob = vec![0u8; usize::try_from(size).unwrap()];
    // SAFETY: the buffer has the room that is said.
    let got = unsafe { c::xc_domain_hvm_getcontext(theirs, DOMID, blob.as_mut_ptr(), blob.len() as u32) };
    blob.truncate(usize::try_from(got).unwrap());
    assert!(context == blob && blob.len() > 1000, "{} bytes of context, {got} theirs", context.len());

    let mut set = 0;
    for index in 0..hvm_param::COUNT {
        let mut value = 0;
        // SAFETY: a place for the number.
        let done = unsafe { c::xc_hvm_param_get(theirs, DOMID as _, index as u32, &mut value) };
        match ours.hvm_param(index) {
            Ok(found) => assert_eq!((done, value), (0, found), "parameter {index}"),
            Err(error) => assert_ne!(done, 0, "parameter {index}: {error}"),
        }
        set += u32::from(value != 0);
    }
    assert!(set > 5, "{set} parameters");

    let mut populated = 0;
    let all: Vec<u64> = (0..info.nr_pfns).collect();
    for pfns in all.chunks(1024) {
        let mut types = vec![PageType::XTAB; pfns.len()];
        ours.page_types(pfns, &mut types).unwrap();
        let mapped: Vec<u64> =
            pfns.iter().zip(&types).filter(|(_, kind)| kind.has_contents()).map(|(&pfn, _)| pfn).collect();
        if mapped.is_empty() {
            continue;
        }
        let pages = ours.map_pages(&mapped).unwrap();
        for (index, &pfn) in mapped.iter().enumerate() {
            let read = libc::PROT_READ;
            // SAFETY: one page of the domain's, which is given back below.
            let base = unsafe { c::xc_map_foreign_range(theirs, DOMID, PAGE_SIZE as c_int, read, pfn as _) };
            assert!(!base.is_null(), "pfn {pfn:#x}");
            // SAFETY: the mapping is one page, readable, and the domain stands still.
            let page = unsafe { std::slice::from_raw_parts(base.cast::<u8>(), PAGE_SIZE) };
            assert!(page == pages.page(index).unwrap(), "pfn {pfn:#x}");
            // SAFETY: the whole of that mapping, of which nobody has a reference any more.
            unsafe { libc::munmap(base.cast(), PAGE_SIZE) };
            populated += 1;
        }
    }
    assert_eq!(populated, original.memory().populated());
    println!("{set} parameters, {populated} pages, {} bytes of context", context.len());
    // SAFETY: nobody uses it any more.
    assert_eq!(unsafe { c::xc_interface_close(theirs) }, 0);
}
