//! Plain images of a guest that stands still: theirs, ours, and each with the other.

use crate::helper::{CONSOLE_DOMID, Helper, Outcome, PLAIN, STORE_DOMID};
use crate::home::{CONSOLE_EVTCHN, Home, STORE_EVTCHN, assert_go_on, assert_restored, guest};
use std::fs;
use std::path::{Path, PathBuf};
use xen_replicate::hypervisor::sim::{MemoryLayout, SimConfig, SimDomain};
use xen_replicate::hypervisor::{Domain, GrantSeed, SaveDomain, hvm_param};
use xen_replicate::libxc::restore::{Ending, Options, Rings};
use xen_replicate::libxc::save::STREAM_VERSION;
use xen_replicate::libxc::{self, Restorer, Saver};
use xen_replicate::stream::Mode;
use xen_replicate::stream::framer::Options as Framing;
use xen_replicate::stream::handover::{LibxcReader, LibxcWriter};

/// A PC with its holes, with three vCPUs and as many batches as take some time; and a small guest.
pub fn configs() -> [SimConfig; 2] {
    [SimConfig { vcpus: 3, ..SimConfig::default() }, SimConfig { layout: MemoryLayout::Compact, ..SimConfig::small(5) }]
}

/// Where the rings of restored domains go.
fn grants(domain: &SimDomain) -> GrantSeed {
    GrantSeed {
        console_gfn: domain.hvm_param(hvm_param::CONSOLE_PFN).unwrap(),
        console_domid: CONSOLE_DOMID,
        xenstore_gfn: domain.hvm_param(hvm_param::STORE_PFN).unwrap(),
        xenstore_domid: STORE_DOMID,
    }
}

/// Debian's helper saves; gives the domain as it is then, and the stream's file.
pub fn they_save(home: &Home, flags: u32) -> (SimDomain, PathBuf) {
    let stream = home.path("stream");
    let outcome = Helper::save(home, &stream, None, flags, PLAIN).run_well();
    assert!(outcome.logged("Saving domain 1, type x86 HVM"), "{outcome:?}");
    assert_eq!(home.failed_calls(), [""; 0]);
    let domain = home.after();
    assert!(domain.info().unwrap().is_suspended());
    (domain, stream)
}

/// Debian's helper restores, and finds all as it should be.
pub fn they_restore(config: &SimConfig, stream: &Path) -> SimDomain {
    let (domain, outcome) = try_restore(config, stream);
    assert!(!outcome.logged("verify pfn"), "{outcome:?}");
    domain
}

/// Debian's helper restores; a VERIFY pass may have found something.
pub fn try_restore(config: &SimConfig, stream: &Path) -> (SimDomain, Outcome) {
    let home = Home::empty(config);
    let outcome = Helper::restore(&home, stream, None, PLAIN).run_well();
    assert!(outcome.logged("Restore successful"), "{outcome:?}");
    assert_eq!(home.failed_calls(), [""; 0]);
    let domain = home.after();
    let store = domain.hvm_param(hvm_param::STORE_PFN).unwrap();
    let console = domain.hvm_param(hvm_param::CONSOLE_PFN).unwrap();
    assert_eq!(outcome.results(), Some((store, console)));
    assert_eq!(domain.grants(), grants(&domain));
    (domain, outcome)
}

/// Our half of libxc restores.
pub fn we_restore(config: &SimConfig, stream: &Path) -> (SimDomain, Restorer) {
    let mut domain = SimDomain::empty(config).unwrap();
    let rings = Rings {
        store_evtchn: STORE_EVTCHN as u32,
        store_domid: STORE_DOMID,
        console_evtchn: CONSOLE_EVTCHN as u32,
        console_domid: CONSOLE_DOMID,
    };
    let mut restorer = Restorer::new(&domain, Options { rings, ..Options::default() }).unwrap();
    let mut reader = LibxcReader::start(fs::File::open(stream).unwrap(), Framing::default());
    restorer.headers(&mut reader).unwrap();
    assert_eq!(restorer.first_image(&mut reader, &mut domain).unwrap(), Ending::End);
    restorer.complete(&mut domain).unwrap();
    assert_eq!(domain.grants(), grants(&domain));
    (domain, restorer)
}

/// Our half of libxc saves a suspended domain.
pub fn we_save(domain: &mut SimDomain) -> Vec<u8> {
    let mut saver = Saver::new(domain, libxc::save::Options::default()).unwrap();
    let mut out = LibxcWriter::start(Vec::new(), Mode::Plain, STREAM_VERSION, saver.header()).unwrap();
    saver.static_data(domain, &mut out).unwrap();
    saver.everything();
    saver.send_pages(domain, &mut out).unwrap();
    saver.send_state(domain, &mut out).unwrap();
    out.end().unwrap()
}

#[test]
#[ignore = "long"]
fn their_helper_restores_what_their_helper_saved() {
    for config in configs() {
        let home = Home::of(&guest(&config, 50));
        let (original, stream) = they_save(&home, 0);
        let copy = they_restore(&config, &stream);
        assert_restored(&original, &copy);
        assert_go_on(original, copy);
    }
}

#[test]
#[ignore = "long"]
fn we_restore_what_their_helper_saved() {
    for config in configs() {
        let home = Home::of(&guest(&config, 50));
        let (original, stream) = they_save(&home, 0);
        let (copy, _) = we_restore(&config, &stream);
        assert_restored(&original, &copy);
        assert_go_on(original, copy);
    }
}

#[test]
#[ignore = "long"]
fn their_helper_restores_what_we_saved() {
    for config in configs() {
        let mut original = guest(&config, 50);
        original.suspend().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let stream = folder.path().join("stream");
        fs::write(&stream, we_save(&mut original)).unwrap();
        let copy = they_restore(&config, &stream);
        assert_restored(&original, &copy);
        assert_go_on(original, copy);
    }
}

#[test]
#[ignore = "long"]
fn our_plain_stream_is_theirs_byte_for_byte() {
    for config in configs() {
        let home = Home::of(&guest(&config, 50));
        let (mut original, stream) = they_save(&home, 0);
        let (theirs, ours) = (fs::read(&stream).unwrap(), we_save(&mut original));
        let first = theirs.iter().zip(&ours).position(|(a, b)| a != b);
        assert_eq!((first, ours.len()), (None, theirs.len()), "{:?}", config.layout);
    }
}

#[test]
#[ignore = "long"]
fn a_page_that_is_broken_is_a_hole_in_every_copy() {
    let config = SimConfig::small(3);
    let mut domain = guest(&config, 0);
    // The last page of ordinary memory: the workload does not use it.
    let broken = 0x100;
    domain.memory_mut().break_page(broken).unwrap();
    let home = Home::of(&domain);
    let (mut original, stream) = they_save(&home, 0);
    assert_eq!(fs::read(&stream).unwrap(), we_save(&mut original));
    for copy in [they_restore(&config, &stream), we_restore(&config, &stream).0] {
        assert_eq!(copy.memory().slot(broken), None);
        assert_eq!(copy.memory().populated() + 1, original.memory().populated());
        copy.self_check().unwrap();
    }
}
