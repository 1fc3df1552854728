//! Our helper beside Debian's where they once differed: what a restore may cost, and what it needs of a guest.

use crate::bad::{insert, judge, place, without};
use crate::common::build::record;
use crate::helper::{Helper, PLAIN};
use crate::home::{Home, Program, assert_restored, fifo, guest};
use crate::message::Message;
use crate::plain::we_save;
use crate::pv_home;
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;
use std::thread;
use xen_replicate::hypervisor::sim::SimConfig;
use xen_replicate::hypervisor::{Domain, SaveDomain, hvm_param};
use xen_replicate::save_helper::save::COPY_AHEAD;
use xen_replicate::stream::check::{Checker, Parsed};
use xen_replicate::stream::framer::Options;
use xen_replicate::stream::libxc::{Record, types};
use xen_replicate::stream::reader::PullReader;
use xen_replicate::stream::{Mode, Start};

use Program::{Debians, Ours};

/// Bytes of the longest body that is given, nearly as many as a record may have.
const LONG: usize = 127 << 20;
/// What two runs of the same may differ by, in KiB.
const NOISE_KIB: u64 = 6 << 10;

/// A HVM context of a header, one entry of so many bytes, and END.
fn long_context(bytes: usize) -> Vec<u8> {
    let entry = |typecode: u16, data: &[u8]| -> Vec<u8> {
        [&typecode.to_le_bytes()[..], &[0; 2], &(data.len() as u32).to_le_bytes(), data].concat()
    };
    let mut header = [0x5438_1286u32.to_le_bytes(), 1u32.to_le_bytes()].concat();
    header.resize(24, 0);
    [entry(1, &header), entry(0x7f, &vec![0; bytes]), entry(0, &[])].concat()
}

/// The most memory that either helper had for a stream, theirs and ours, in KiB.
fn costs(path: &Path, home: impl Fn(Program) -> Home) -> [u64; 2] {
    [Debians, Ours].map(|program| {
        let home = home(program);
        let helper = Helper::restore_within(&home, path, PLAIN, 4 << 30);
        let made_up = |message: &Message, _: &mut _| matches!(message, Message::StaticDataDone { .. }).then_some(0);
        helper.try_run(std::time::Duration::from_secs(110), made_up).peak_kib
    })
}

#[test]
#[ignore = "long"]
fn one_long_record_costs_no_more_than_with_theirs() {
    let config = SimConfig::small(5);
    let mut original = guest(&config, 50);
    original.suspend().unwrap();
    let good = we_save(&mut original);
    let of = |name: &str| place(&good, name, 0);
    let instead = |name: &str, bytes: Vec<u8>| insert(&without(&good, of(name)), of(name).0, &bytes);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stream");
    let mut wrong = Vec::new();
    let mut check = |what: &str, [theirs, ours]: [u64; 2]| {
        println!("{what}: theirs {} MiB, ours {} MiB", theirs >> 10, ours >> 10);
        assert!(theirs > (LONG >> 10) as u64 && ours > 0, "{what}: {theirs} KiB");
        if ours > theirs + NOISE_KIB {
            wrong.push(format!("{what}: {theirs} KiB theirs, {ours} ours"));
        }
    };
    for (what, stream) in [
        ("X86_CPUID_POLICY", instead("X86_CPUID_POLICY", record(types::X86_CPUID_POLICY, &vec![0; LONG / 24 * 24]))),
        ("X86_MSR_POLICY", instead("X86_MSR_POLICY", record(types::X86_MSR_POLICY, &vec![0; LONG / 16 * 16]))),
        ("HVM_CONTEXT", instead("HVM_CONTEXT", record(types::HVM_CONTEXT, &long_context(LONG)))),
        ("an unknown optional record", insert(&good, of("HVM_CONTEXT").0, &record(0x8000_007f, &vec![0; LONG]))),
    ] {
        fs::write(&path, stream).unwrap();
        check(what, costs(&path, |program| Home::empty(&config).with(program)));
    }
    // Of a PV domain the state of a vCPU.
    let [config, ..] = pv_home::configs();
    let home = pv_home::home_of(&pv_home::guest(&config), Ours);
    Helper::save(&home, &home.path("stream"), None, 0, PLAIN).run_well();
    let good = fs::read(home.path("stream")).unwrap();
    for (name, type_id) in
        [("X86_PV_VCPU_XSAVE", types::X86_PV_VCPU_XSAVE), ("X86_PV_VCPU_MSRS", types::X86_PV_VCPU_MSRS)]
    {
        let stream = insert(&good, place(&good, "END", 0).0, &record(type_id, &vec![0; 8 + LONG / 16 * 16]));
        fs::write(&path, stream).unwrap();
        check(name, costs(&path, |program| pv_home::empty_home(&config, program)));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
#[ignore = "long"]
fn a_guest_that_has_given_back_its_rings_is_restored_by_either() {
    let config = SimConfig::small(5);
    let params = [hvm_param::STORE_PFN, hvm_param::CONSOLE_PFN, hvm_param::IOREQ_PFN, hvm_param::BUFIOREQ_PFN];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stream");
    for param in params {
        let mut original = guest(&config, 50);
        let pfn = original.hvm_param(param).unwrap();
        original.memory_mut().break_page(pfn).unwrap();
        original.suspend().unwrap();
        fs::write(&path, we_save(&mut original)).unwrap();
        for program in [Debians, Ours] {
            let home = Home::empty(&config).with(program);
            let outcome = Helper::restore(&home, &path, None, PLAIN).run_well();
            assert!(outcome.logged("Restore successful"), "{program:?}: {outcome:?}");
            let copy = home.after();
            assert_eq!((copy.hvm_param(param).unwrap(), copy.memory().slot(pfn)), (pfn, None), "{program:?}");
        }
    }
}

#[test]
#[ignore = "long"]
fn an_image_without_vcpus_is_refused_by_either() {
    let config = SimConfig::small(5);
    let mut original = guest(&config, 50);
    original.suspend().unwrap();
    let good = we_save(&mut original);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stream");
    fs::write(&path, without(&good, place(&good, "HVM_CONTEXT", 0))).unwrap();
    for program in [Debians, Ours] {
        let (seen, _) = judge(program, &config, PLAIN, &path, 1 << 30);
        assert_eq!(seen.what, "refused", "{program:?}: {seen:?}");
    }
}

#[test]
#[ignore = "long"]
fn a_domain_that_is_not_there_has_the_same_errno_with_either() {
    // The command line is of domain 1.
    let config = SimConfig { domid: 7, ..SimConfig::small(5) };
    let errnos = [Debians, Ours].map(|program| {
        let home = Home::of(&guest(&config, 50)).with(program);
        let outcome = Helper::save(&home, &home.path("stream"), None, 0, PLAIN).run(|_, _| Some(0));
        assert_eq!(outcome.retval, -1, "{outcome:?}");
        outcome.messages.iter().find_map(|message| match message {
            Message::Complete { errno, .. } => Some(*errno),
            _ => None,
        })
    });
    assert_eq!(errnos, [Some(rustix::io::Errno::SRCH.raw_os_error()); 2]);
}

/// A guest that writes to more pages in an interval than are copied ahead of a checkpoint.
fn writes_much() -> SimConfig {
    let pages = COPY_AHEAD.most() + 6000;
    let much = SimConfig { memory: pages + 3000, working_set: pages, writes_per_step: 60_000, ..SimConfig::small(5) };
    SimConfig { hot_permille: 0, whole_page_permille: 0, ..much }
}

/// Copies a stream of libxc, libxl's records in it, and gives how many pages each checkpoint has, and how many of them twice.
fn count_pages(from: File, to: File) -> Vec<(usize, usize)> {
    /// Passes on what is read.
    struct Tee(File, File);
    impl Read for Tee {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let read = self.0.read(buffer)?;
            self.1.write_all(&buffer[..read])?;
            Ok(read)
        }
    }
    let options = Options { start: Some(Start::Libxc), mode: Some(Mode::Remus), ..Options::default() };
    let mut reader = PullReader::new(Tee(from, to), options);
    let (mut checker, mut rounds, mut pfns) = (Checker::new(Some(Mode::Remus)), Vec::new(), Vec::new());
    while let Ok(Some(item)) = reader.next_item() {
        match checker.item(&item, &mut |_| {}) {
            Some(Parsed::Libxc(Record::PageData(data))) => pfns.extend(data.entries().map(|entry| entry.pfn)),
            Some(Parsed::Libxc(Record::Checkpoint)) => {
                let distinct = pfns.iter().collect::<HashSet<_>>().len();
                rounds.push((pfns.len(), pfns.len() - distinct));
                pfns.clear();
            }
            _ => {}
        }
    }
    rounds
}

/// Our primary's checkpoints of more than 256 MiB, into theirs and ours.
#[test]
#[ignore = "long"]
fn a_guest_that_writes_much_is_protected_into_either() {
    let config = writes_much();
    for program in [Debians, Ours] {
        let primary = Home::of(&guest(&config, 1)).with(Ours);
        let secondary = Home::empty(&config).with(program);
        let (stream, passed) = (fifo(&primary.path(""), "stream"), fifo(&primary.path(""), "passed"));
        let rounds = thread::scope(|scope| {
            let counting = scope.spawn(|| {
                let from = File::open(&stream).unwrap();
                count_pages(from, File::options().write(true).open(&passed).unwrap())
            });
            let protecting = scope.spawn(|| crate::ours::protect(&primary, &stream, 3));
            let reading = scope.spawn(|| File::open(&passed).unwrap());
            assert_eq!(crate::ours::take_over(&secondary, &passed, reading.join().unwrap()), 3);
            protecting.join().unwrap();
            counting.join().unwrap()
        });
        println!("{program:?}: {rounds:?}");
        assert!(rounds[1..].iter().all(|&(pages, _)| pages as u64 > COPY_AHEAD.most()), "{rounds:?}");
        assert!(rounds.iter().skip(1).all(|&(_, twice)| twice == 0), "{rounds:?}");
        assert_restored(&primary.after(), &secondary.after());
    }
}
