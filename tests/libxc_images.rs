//! Whole images of a simulated guest: saved, checked, restored, compared.

mod replicate_support;

use replicate_support::*;
use std::time::Duration;
use xen_replicate::hypervisor::sim::{MemoryLayout, Pace, Runner, SimConfig, SimDomain};
use xen_replicate::hypervisor::{Domain, GrantSeed, SaveDomain, hvm_param};
use xen_replicate::libxc::precopy::{Limits, RoundSent, Watch};
use xen_replicate::libxc::restore::Rings;
use xen_replicate::libxc::{self, RestoreError};
use xen_replicate::libxl::{self, Restorer, Saver, Started, Turn};
use xen_replicate::stream::Mode;
use xen_replicate::stream::framer::Options as Framing;
use xen_replicate::stream::handover::{LibxcReader, LibxcWriter};
use xen_replicate::stream::libxc::{DomainHeader, DomainType, ImageHeader, PAGE_SIZE, PageEntry, PageType, Record};

/// Restores a plain image into an empty domain; what stands behind it comes back too.
fn restored<'s>(
    stream: &'s [u8],
    config: &SimConfig,
    options: libxl::restore::Options,
) -> (SimDomain, Restorer, &'s [u8]) {
    let mut domain = SimDomain::empty(config).unwrap();
    let Started { mut restorer, reader, config } = Restorer::start(stream, &domain, options).unwrap();
    assert!(config.unwrap().starts_with(b"{\"c_info\""));
    let Turn::Ended(rest) = restorer.first_image(reader, &mut domain).unwrap() else { panic!("a checkpoint") };
    restorer.complete(&mut domain).unwrap();
    (domain, restorer, rest)
}

#[test]
fn a_plain_image_restores_equal_and_runs_on() {
    for layout in [MemoryLayout::Compact, MemoryLayout::Pc] {
        let config = SimConfig { layout, vcpus: 3, ..SimConfig::small(1) };
        let mut original = guest(&config, 50);
        let mut stream = Saver::new(&mut original, options()).unwrap().plain(&mut original, Vec::new(), false).unwrap();
        stream.extend_from_slice(b"behind");
        let state = original.snapshot().unwrap();
        let (mut copy, _, rest) = restored(&stream, &config, Default::default());
        assert_eq!(rest, b"behind");
        assert_eq!(copy.diff(&state, 5).unwrap(), []);
        original.resume().unwrap();
        copy.unpause().unwrap();
        original.run(40).unwrap();
        copy.run(40).unwrap();
        copy.self_check().unwrap();
        assert_eq!(copy.diff(&original.snapshot().unwrap(), 5).unwrap(), []);
    }
}

#[test]
fn the_records_are_those_of_xen_in_its_order() {
    let mut domain = guest(&SimConfig::small(1), 5);
    let stream = Saver::new(&mut domain, options()).unwrap().plain(&mut domain, Vec::new(), false).unwrap();
    let names: Vec<_> = records(&stream).into_iter().map(|(name, _)| name).collect();
    let expected = [
        "LIBXC_CONTEXT",
        "X86_CPUID_POLICY",
        "X86_MSR_POLICY",
        "STATIC_DATA_END",
        "PAGE_DATA",
        "X86_TSC_INFO",
        "HVM_CONTEXT",
        "HVM_PARAMS",
        "END",
        "EMULATOR_XENSTORE_DATA",
        "EMULATOR_CONTEXT",
        "END",
    ];
    assert_eq!(names, expected);
    let report = verified(&stream);
    assert!(report.valid && report.mode == "plain", "{report:?}");
    // The one thing to remark is Xen's own order of HVM_CONTEXT and HVM_PARAMS.
    assert_eq!(report.findings.len(), 1, "{report:?}");
}

#[test]
fn the_first_round_lists_every_pfn_and_holes_as_xtab() {
    let config = SimConfig { layout: MemoryLayout::Pc, ..SimConfig::small(1) };
    let mut domain = guest(&config, 5);
    domain.memory_mut().break_page(0x30).unwrap();
    let info = domain.info().unwrap();
    let stream = Saver::new(&mut domain, options()).unwrap().plain(&mut domain, Vec::new(), false).unwrap();
    let mut listed = Vec::new();
    let mut batches = 0;
    for item in items(&stream) {
        use xen_replicate::stream::check::{Checker, Parsed};
        if let Some(Parsed::Libxc(Record::PageData(pages))) = Checker::new(None).item(&item, &mut |_| {}) {
            assert!(pages.count() <= 1024);
            listed.extend(pages.entries());
            batches += 1;
        }
    }
    assert_eq!(batches, info.nr_pfns.div_ceil(1024));
    assert!(listed.iter().map(|entry| entry.pfn).eq(0..info.nr_pfns));
    let of = |kind| listed.iter().filter(|entry| entry.page_type == kind).count() as u64;
    assert_eq!((of(PageType::NOTAB), of(PageType::BROKEN)), (info.populated - 1, 1));
    assert_eq!(of(PageType::XTAB), info.nr_pfns - info.populated);
}

#[test]
fn a_live_image_of_a_running_guest_restores_equal() {
    let config = SimConfig::small(3);
    let mut runner = Runner::start(SimDomain::create(&config).unwrap(), Pace::Free).unwrap();
    let mut saver = Saver::new(&mut runner, options()).unwrap();
    let stream = saver.plain(&mut runner, Vec::new(), true).unwrap();
    let original = runner.stop().unwrap();
    let (mut copy, ..) = restored(&stream, &config, Default::default());
    assert_eq!(copy.diff(&original.snapshot().unwrap(), 5).unwrap(), []);
    copy.unpause().unwrap();
    copy.run(30).unwrap();
    copy.self_check().unwrap();
    assert!(verified(&stream).valid);
}

/// Live rounds, and PAGE_DATA records in them, of a guest that has run `steps` since its writes are tracked.
fn live_rounds(steps: u64, options: libxc::save::Options) -> (u32, usize) {
    let mut domain = guest(&SimConfig::small(3), 0);
    let mut saver = libxc::Saver::new(&mut domain, options).unwrap();
    let sink = Shared::default();
    let mut out = LibxcWriter::start(sink.clone(), Mode::Plain, 3, saver.header()).unwrap();
    saver.static_data(&domain, &mut out).unwrap();
    saver.start_log(&mut domain).unwrap();
    domain.run(steps).unwrap();
    let sent = saver.precopy(&mut domain, &mut out).unwrap();
    (sent.rounds, records(&sink.take()).iter().filter(|(name, _)| *name == "PAGE_DATA").count())
}

#[test]
fn live_rounds_end_when_little_is_dirty_or_their_number_is_up() {
    let options = libxc::save::Options::default();
    assert_eq!(live_rounds(0, options), (1, 1));
    // Few dirty pages are read from the log, so they have to be sent all the same.
    assert_eq!(live_rounds(1, options), (2, 2));
    assert_eq!(live_rounds(20, options), (2, 2));
    assert_eq!(live_rounds(20, libxc::save::Options { live: Limits { rounds: 1, ..options.live }, ..options }), (1, 1));
}

/// A clock that goes on by a millisecond whenever it is looked at, and by what is waited.
#[derive(Debug, Default)]
struct Clock {
    now: Duration,
    waited: Duration,
    rounds: Vec<RoundSent>,
}

impl Watch for Clock {
    fn round(&mut self, sent: &RoundSent) {
        self.rounds.push(*sent);
    }

    fn now(&mut self) -> Duration {
        self.now += Duration::from_millis(1);
        self.now
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        self.waited += time;
    }
}

#[test]
fn a_bandwidth_is_kept_and_does_not_count_for_the_estimate() {
    let config = SimConfig { memory: 4096, ..SimConfig::small(3) };
    for bandwidth in [None, Some(1 << 20)] {
        let mut domain = guest(&config, 0);
        let options = libxc::save::Options { live: Limits { bandwidth, ..Limits::default() }, ..Default::default() };
        let mut saver = libxc::Saver::new(&mut domain, options).unwrap();
        let mut out = LibxcWriter::start(std::io::sink(), Mode::Plain, 3, saver.header()).unwrap();
        saver.static_data(&domain, &mut out).unwrap();
        saver.start_log(&mut domain).unwrap();
        domain.run(20).unwrap();
        let mut clock = Clock::default();
        saver.precopy_watched(&mut domain, &mut out, &mut clock).unwrap();
        let sent = clock.rounds[0];
        let least = Duration::from_secs(sent.pages * PAGE_SIZE as u64 / (1 << 20));
        assert!(least > Duration::from_secs(10) && sent.dirty > 0, "{sent}");
        match bandwidth {
            None => assert_eq!((sent.held, clock.waited), (Duration::ZERO, Duration::ZERO)),
            // Held back before each part but the first, of which there are four to a window.
            Some(_) => assert!(sent.took >= least && sent.held > least * 9 / 10, "{sent}"),
        }
        assert!(sent.downtime() < Duration::from_secs(1), "{sent}");
    }
}

#[test]
fn a_verify_pass_compares_and_counts() {
    let config = SimConfig::small(3);
    let mut domain = guest(&config, 10);
    let mut save = options();
    save.libxc.verify = true;
    let stream = Saver::new(&mut domain, save).unwrap().plain(&mut domain, Vec::new(), true).unwrap();
    assert!(verified(&stream).valid);
    let populated = domain.info().unwrap().populated;
    let (_, restorer, _) = restored(&stream, &config, Default::default());
    let found = restorer.verified().unwrap();
    assert_eq!((found.pages, found.different, found.first), (populated, 0, None));
    // A byte of a page in the second pass.
    let verify = items(&stream).into_iter().find(|item| is_record(item, 0x0d)).unwrap();
    let mut changed = stream.clone();
    let pfn = 5;
    changed[(verify.offset + 8 + 8 + 8) as usize + 268 * 8 + pfn * PAGE_SIZE + 17] ^= 1;
    let (copy, restorer, _) = restored(&changed, &config, Default::default());
    let found = restorer.verified().unwrap();
    assert_eq!((found.pages, found.different), (populated, 1), "{found:?}");
    assert_eq!(copy.diff(&domain.snapshot().unwrap(), 1).unwrap(), []);
}

fn is_record(item: &xen_replicate::stream::Item<'_>, type_id: u32) -> bool {
    matches!(item.what, xen_replicate::stream::What::Record(frame) if frame.header.type_id == type_id)
}

#[test]
fn rings_get_this_hosts_channels_and_grants() {
    let config = SimConfig::small(3);
    let mut domain = guest(&config, 10);
    let stream = Saver::new(&mut domain, options()).unwrap().plain(&mut domain, Vec::new(), false).unwrap();
    let rings = Rings { store_evtchn: 3, store_domid: 7, console_evtchn: 4, console_domid: 8 };
    let mut options = libxl::restore::Options::default();
    options.libxc.rings = rings;
    let (copy, ..) = restored(&stream, &config, options);
    let param = |index| copy.hvm_param(index).unwrap();
    assert_eq!((param(hvm_param::STORE_EVTCHN), param(hvm_param::CONSOLE_EVTCHN)), (3, 4));
    let seed = GrantSeed {
        console_gfn: param(hvm_param::CONSOLE_PFN),
        console_domid: 8,
        xenstore_gfn: param(hvm_param::STORE_PFN),
        xenstore_domid: 7,
    };
    assert_eq!(copy.grants(), seed);
    assert_ne!(seed.console_gfn, seed.xenstore_gfn);
}

/// A bare libxc stream with these pages, into an empty domain.
fn pages(entries: &[PageEntry], domain: &mut SimDomain) -> Result<(), RestoreError> {
    let header = DomainHeader::new(DomainType::Hvm, 4, 17);
    let mut out = LibxcWriter::start(Vec::new(), Mode::Plain, 3, header).unwrap();
    out.record(&Record::StaticDataEnd).unwrap();
    let contents = vec![7; entries.iter().filter(|entry| entry.page_type.has_contents()).count() * PAGE_SIZE];
    out.page_data(entries.iter().copied(), [&contents[..]]).unwrap();
    restore_bare(&out.end().unwrap(), domain)
}

fn restore_bare(stream: &[u8], domain: &mut SimDomain) -> Result<(), RestoreError> {
    let mut reader = LibxcReader::start(stream, Framing::default());
    let mut restorer = libxc::Restorer::new(domain, Default::default())?;
    restorer.headers(&mut reader)?;
    restorer.first_image(&mut reader, domain).map(|_| ())
}

#[test]
fn pages_beyond_the_domain_are_refused_before_any_memory_is_given() {
    let entry = |page_type, pfn| PageEntry { page_type, pfn };
    for (page_type, pfn) in [(PageType::NOTAB, (1 << 34) - 1), (PageType::XALLOC, (1 << 40) - 1)] {
        let mut domain = SimDomain::empty(&SimConfig::small(1)).unwrap();
        let nr_pfns = domain.info().unwrap().nr_pfns;
        let error = pages(&[entry(PageType::NOTAB, 0), entry(page_type, pfn)], &mut domain).unwrap_err();
        assert!(
            matches!(error, RestoreError::Pfn { pfn: p, nr_pfns: n, offset: 48 } if p == pfn && n == nr_pfns),
            "{error}"
        );
        assert!(!error.is_sender_gone());
        assert_eq!(domain.info().unwrap().populated, 0);
    }
    let mut domain = SimDomain::empty(&SimConfig::small(1)).unwrap();
    pages(&[entry(PageType::NOTAB, 1), entry(PageType::XTAB, 1 << 34)], &mut domain).unwrap();
    assert_eq!(domain.info().unwrap().populated, 1);
}

#[test]
fn a_record_longer_than_a_batch_is_applied_whole() {
    let config = SimConfig { memory: 3000, ..SimConfig::small(1) };
    let mut domain = SimDomain::empty(&config).unwrap();
    let entries: Vec<_> = (0..2500).map(|pfn| PageEntry { page_type: PageType::NOTAB, pfn }).collect();
    pages(&entries, &mut domain).unwrap();
    assert_eq!(domain.info().unwrap().populated, 2500);
    assert!((0..2500).all(|pfn| domain.memory().page(pfn).unwrap() == &[7; PAGE_SIZE]));
}

#[test]
fn more_memory_than_the_domain_may_have_is_an_error() {
    let mut domain = SimDomain::empty(&SimConfig { memory_budget: Some(3), ..SimConfig::small(1) }).unwrap();
    let entries: Vec<_> = (0..4).map(|pfn| PageEntry { page_type: PageType::NOTAB, pfn }).collect();
    let error = pages(&entries, &mut domain).unwrap_err();
    assert!(error.to_string().starts_with("restoring the record at offset 48: no memory for pfn 0x3"), "{error}");
}

#[test]
fn a_pv_stream_is_refused_by_value() {
    let mut domain = SimDomain::empty(&SimConfig::small(1)).unwrap();
    let stream = [&ImageHeader::new(3).emit()[..], &DomainHeader::new(DomainType::Pv, 4, 17).emit()].concat();
    let error = restore_bare(&stream, &mut domain).unwrap_err();
    assert!(matches!(error, RestoreError::Kind(DomainType::Pv)), "{error}");
}

#[test]
fn page_contents_go_out_from_where_the_guest_has_them() {
    let mut domain = guest(&SimConfig::small(1), 30);
    domain.suspend().unwrap();
    let mut saver = libxc::Saver::new(&mut domain, Default::default()).unwrap();
    let sink = Addresses::default();
    let mut out = LibxcWriter::start(sink.clone(), Mode::Plain, 3, saver.header()).unwrap();
    saver.static_data(&domain, &mut out).unwrap();
    sink.pieces.borrow_mut().clear();
    saver.everything();
    saver.send_pages(&domain, &mut out).unwrap();
    let pages = page_addresses(&domain);
    let (first, end) = (pages[0], pages[pages.len() - 1] + PAGE_SIZE);
    let pieces = sink.pieces.borrow();
    let of_guest: Vec<_> = pieces.iter().filter(|(at, _)| (first..end).contains(at)).collect();
    assert_eq!(of_guest.iter().map(|(_, bytes)| bytes).sum::<usize>(), pages.len() * PAGE_SIZE);
    // All of them lie next to each other, so one piece is enough; another holds the record's head.
    assert_eq!((of_guest.len(), pieces.len()), (1, 2));
}
