//! PV domains: simulated guests saved and restored, and what Debian's libxl-save-helper and real hosts have saved, restored.

mod common;

use std::collections::BTreeMap;
use xen_replicate::decode::pv_words as words;
use xen_replicate::decode::shared_info::Width;
use xen_replicate::hypervisor::pv::{PvDomain, VcpuRecord};
use xen_replicate::hypervisor::sim::pv::{P2mKind, PvConfig, PvSim};
use xen_replicate::hypervisor::types::DomainKind;
use xen_replicate::hypervisor::{Domain, Error, SaveDomain};
use xen_replicate::libxc::pv::context::{ContextError, FrameProblem};
use xen_replicate::libxc::pv::p2m::P2mError;
use xen_replicate::libxc::pv::table;
use xen_replicate::libxc::restore::{Ending, Rings};
use xen_replicate::libxc::{PvError, RestoreError, Restorer, Round, SaveError, Saver};
use xen_replicate::stream::check::{Checker, Parsed};
use xen_replicate::stream::contents::ContentProblem;
use xen_replicate::stream::framer::Options;
use xen_replicate::stream::handover::{Alone, LibxcReader, LibxcWriter, LibxlReader};
use xen_replicate::stream::libxc::{PageEntry, PageType, Record};
use xen_replicate::stream::reader::{ReadError, SliceReader};
use xen_replicate::stream::{Mode, Problem, Start, libxl};

const KINDS: [(Width, P2mKind); 4] = [
    (Width::Bits64, P2mKind::List),
    (Width::Bits64, P2mKind::Tree),
    (Width::Bits32, P2mKind::List),
    (Width::Bits32, P2mKind::Tree),
];

/// A domain to restore into, its frames in another order.
fn empty(config: &PvConfig) -> PvSim {
    PvSim::empty(&PvConfig { seed: config.seed ^ 0xffff, width: Width::Bits64, ..config.clone() }).unwrap()
}

fn rings() -> Rings {
    Rings { store_evtchn: 7, store_domid: 0, console_evtchn: 8, console_domid: 0 }
}

fn restorer(domain: &PvSim) -> Restorer {
    let options = xen_replicate::libxc::restore::Options { rings: rings(), ..Default::default() };
    Restorer::new(domain, options).unwrap()
}

fn restore(stream: &[u8], domain: &mut PvSim) -> Result<Restorer, RestoreError> {
    let mut restorer = restorer(domain);
    let mut reader = LibxcReader::<_, Alone>::start(stream, Options::default());
    restorer.headers(&mut reader)?;
    assert_eq!(restorer.first_image(&mut reader, domain)?, Ending::End);
    restorer.complete(domain)?;
    Ok(restorer)
}

fn plain(guest: &mut PvSim) -> Vec<u8> {
    let mut saver = Saver::new(guest, Default::default()).unwrap();
    let mut out = LibxcWriter::start(Vec::new(), Mode::Plain, 3, saver.header()).unwrap();
    saver.image(guest, &mut out, false).unwrap();
    out.end().unwrap()
}

/// The two go on alike.
fn same_from_here_on(original: &mut PvSim, survivor: &mut PvSim) {
    for guest in [&*original, survivor] {
        guest.self_check().unwrap();
    }
    assert_eq!(survivor.steps(), original.steps());
    assert_eq!(survivor.data_sum(), original.data_sum());
    assert_eq!(survivor.types(), original.types());
    original.run(300).unwrap();
    survivor.run(300).unwrap();
    survivor.self_check().unwrap();
    assert_eq!(survivor.data_sum(), original.data_sum());
}

#[test]
fn a_plain_image_goes_on_in_other_frames() {
    for (seed, (width, p2m)) in (1..).zip(KINDS) {
        let config = PvConfig::small(seed, width, p2m);
        let mut original = PvSim::create(&config).unwrap();
        original.self_check().unwrap();
        original.run(500).unwrap();
        let stream = plain(&mut original);
        let mut survivor = empty(&config);
        let restored = restore(&stream, &mut survivor).unwrap();
        assert!(survivor.info().unwrap().paused && survivor.info().unwrap().kind == DomainKind::Pv);
        assert_eq!(survivor.guest_width().unwrap(), width);
        let grants = survivor.grants();
        assert_eq!(restored.ring_gfns(), (grants.xenstore_gfn, grants.console_gfn));
        assert_eq!(survivor.pinned().len(), 1);
        survivor.wake(&config).unwrap();
        original.resume().unwrap();
        same_from_here_on(&mut original, &mut survivor);
        // And once more, from where it went.
        let stream = plain(&mut survivor);
        let mut third = empty(&config);
        restore(&stream, &mut third).unwrap();
        third.wake(&config).unwrap();
        survivor.resume().unwrap();
        same_from_here_on(&mut survivor, &mut third);
    }
}

/// The entries of all PAGE_DATA records, in order.
fn entries(stream: &[u8]) -> Vec<PageEntry> {
    let mut reader = SliceReader::new(stream, Options::default());
    let mut entries = Vec::new();
    while let Ok(Some(item)) = reader.next_item() {
        if let Some(Parsed::Libxc(Record::PageData(data))) = Checker::new(None).item(&item, &mut |_| {}) {
            entries.extend(data.entries());
        }
    }
    entries
}

#[test]
fn what_changes_while_it_is_sent_is_sent_again() {
    for (width, p2m) in KINDS {
        let config = PvConfig::small(11, width, p2m);
        let mut original = PvSim::create(&config).unwrap();
        original.run(200).unwrap();
        let mut saver = Saver::new(&mut original, Default::default()).unwrap();
        let mut out = LibxcWriter::start(Vec::new(), Mode::Plain, 3, saver.header()).unwrap();
        saver.static_data(&original, &mut out).unwrap();
        saver.start_log(&mut original).unwrap();
        // An update of a page table is half done when the table is looked at.
        original.tear_alias(true).unwrap();
        saver.precopy(&mut original, &mut out).unwrap();
        original.tear_alias(false).unwrap();
        original.run(200).unwrap();
        // And a page goes, whose contents have been sent.
        original.balloon_out(100).unwrap();
        original.suspend().unwrap();
        let dirty = saver.collect(&mut original).unwrap();
        assert!(dirty > 0 && dirty < config.pages);
        saver.send_pages(&original, &mut out).unwrap();
        saver.send_state(&original, &mut out).unwrap();
        let stream = out.end().unwrap();
        let sent = entries(&stream);
        let types = |pfn: u64| -> Vec<_> { sent.iter().filter(|e| e.pfn == pfn).map(|e| e.page_type).collect() };
        let torn: Vec<_> = sent.iter().filter(|entry| entry.page_type == PageType::XTAB).map(|e| e.pfn).collect();
        let table = *torn.iter().find(|&&pfn| types(pfn).contains(&PageType::L1TAB)).expect("no table was deferred");
        assert_eq!(types(table).last(), Some(&PageType::L1TAB), "{:?}", types(table));
        assert_eq!(types(100), [PageType::NOTAB, PageType::XTAB]);
        let mut survivor = empty(&config);
        restore(&stream, &mut survivor).unwrap();
        survivor.wake(&config).unwrap();
        original.resume().unwrap();
        // A frame that left meanwhile is the restored guest's nevertheless, as with Xen's own tools; its tables do not lead there.
        survivor.self_check().unwrap_err();
        assert_eq!(survivor.data_sum(), original.data_sum());
        original.run(100).unwrap();
        survivor.run(100).unwrap();
        assert_eq!(survivor.data_sum(), original.data_sum());
    }
}

#[test]
fn checkpoints_follow_one_another_and_the_last_whole_one_survives() {
    for (width, p2m) in KINDS {
        let config = PvConfig::small(21, width, p2m);
        let mut original = PvSim::create(&config).unwrap();
        let mut saver = Saver::new(&mut original, Default::default()).unwrap();
        let mut stream = Vec::new();
        let mut out = LibxcWriter::start(&mut stream, Mode::Remus, 3, saver.header()).unwrap();
        saver.static_data(&original, &mut out).unwrap();
        saver.start_log(&mut original).unwrap();
        saver.precopy(&mut original, &mut out).unwrap();
        let (mut round, mut sums) = (Round::default(), Vec::new());
        for number in 0..6 {
            original.run(150).unwrap();
            original.suspend().unwrap();
            saver.collect(&mut original).unwrap();
            sums.push(original.data_sum());
            if number % 2 == 0 {
                saver.send_pages(&original, &mut out).unwrap();
                saver.send_state(&original, &mut out).unwrap();
                original.resume().unwrap();
            } else {
                // From a copy, while the guest has gone on.
                saver.stage(&original, &mut round).unwrap();
                original.resume().unwrap();
                original.run(40).unwrap();
                round.write(&mut out).unwrap();
            }
            out.checkpoint().unwrap();
        }
        out.flush().unwrap();
        drop(out);
        stream.truncate(stream.len() - 9);
        let mut survivor = empty(&config);
        let mut restorer = restorer(&survivor);
        let mut reader = LibxcReader::<_, Alone>::start(&stream[..], Options::default());
        restorer.headers(&mut reader).unwrap();
        let mut ending = restorer.first_image(&mut reader, &mut survivor).unwrap();
        let mut whole = 0;
        let stopped = loop {
            assert_eq!(ending, Ending::Checkpoint);
            whole += 1;
            ending = match restorer.receive(&mut reader, &mut round) {
                Ok(ending) => ending,
                Err(stopped) => break stopped,
            };
            restorer.prepare(&round, &mut survivor).unwrap();
            restorer.commit(&mut round, &mut survivor).unwrap();
        };
        assert!(stopped.is_sender_gone(), "{stopped}");
        assert_eq!(whole, 5);
        restorer.complete(&mut survivor).unwrap();
        survivor.wake(&config).unwrap();
        survivor.self_check().unwrap();
        assert_eq!(survivor.data_sum(), sums[4]);
        survivor.run(100).unwrap();
        survivor.self_check().unwrap();
    }
}

/// What a stream says of a PV guest in the end.
struct Replay {
    width: Width,
    nr_pfns: u64,
    pages: BTreeMap<u64, (PageType, Vec<u8>)>,
    frames: Vec<u64>,
    start_info: u64,
    vcpus: u32,
    remus: bool,
}

fn replay(stream: &[u8]) -> Replay {
    let mut reader = SliceReader::new(stream, Options::default());
    let mut replay = Replay {
        width: Width::Bits64,
        nr_pfns: 0,
        pages: BTreeMap::new(),
        frames: Vec::new(),
        start_info: 0,
        vcpus: 0,
        remus: false,
    };
    // Pages of a round that is not whole do not count.
    let mut round: Vec<(PageEntry, Option<Vec<u8>>)> = Vec::new();
    let mut first = true;
    while let Ok(Some(item)) = reader.next_item() {
        match Checker::new(None).item(&item, &mut |_| {}) {
            Some(Parsed::Libxc(Record::X86PvInfo(info))) => {
                replay.width = Width::from_bytes(info.guest_width).unwrap();
            }
            Some(Parsed::Libxc(Record::X86PvP2mFrames(frames))) => {
                replay.nr_pfns = u64::from(frames.end) + 1;
                replay.frames = frames.pfns().collect();
            }
            Some(Parsed::Libxc(Record::PageData(data))) => {
                round.extend(data.pages().map(|(entry, page)| (entry, page.map(<[u8]>::to_vec))));
            }
            Some(Parsed::Libxc(Record::X86PvVcpu(part))) if part.part == VcpuRecord::Basic => {
                replay.vcpus = replay.vcpus.max(part.vcpu_id + 1);
                if part.vcpu_id == 0 {
                    replay.start_info = words::EDX.get(part.context, replay.width);
                }
            }
            Some(Parsed::Libxc(Record::Checkpoint)) => {
                replay.remus = true;
                replay.keep(&mut round);
                first = false;
            }
            Some(Parsed::Libxc(Record::End)) => replay.keep(&mut round),
            _ => {}
        }
    }
    assert!(!first || !replay.remus);
    replay
}

impl Replay {
    fn keep(&mut self, round: &mut Vec<(PageEntry, Option<Vec<u8>>)>) {
        for (entry, page) in round.drain(..) {
            if let Some(page) = page {
                self.pages.insert(entry.pfn, (entry.page_type, page));
            }
        }
    }

    fn config(&self) -> PvConfig {
        let budget = self.nr_pfns + 4096;
        PvConfig { vcpus: self.vcpus, budget, ..PvConfig::small(3, self.width, P2mKind::List) }
    }

    /// The domain has what the stream says, frames apart.
    fn compare(&self, domain: &PvSim) {
        let mut mfns = BTreeMap::new();
        for mfn in 0..domain.nr_mfns().unwrap() {
            mfns.entry(domain.m2p(mfn).unwrap()).or_insert(mfn);
        }
        let (mut tables, per_frame) = (0, 4096 / self.width.bytes() as u64);
        for (&pfn, (page_type, expected)) in &self.pages {
            let mfn = *mfns.get(&pfn).unwrap_or_else(|| panic!("no frame for pfn {pfn:#x}"));
            let mut page = domain.page(mfn).unwrap().to_vec();
            let mut kind = [PageType::NOTAB];
            domain.page_types(&[mfn], &mut kind).unwrap();
            assert_eq!(kind[0].table_level(), page_type.table_level(), "pfn {pfn:#x}");
            if let Some(level) = page_type.table_level() {
                tables += 1;
                let compat = domain.compat_m2p_frame().unwrap();
                table::normalise(&mut page, level, self.width, compat, |mfn| domain.m2p(mfn)).unwrap();
            } else if let Some(index) = self.frames.iter().position(|&frame| frame == pfn) {
                for (at, named) in (0..per_frame).zip(index as u64 * per_frame..self.nr_pfns) {
                    let entry = words::word().nth(at as usize).get(&page, self.width);
                    let entry = words::p2m_entry(entry, self.width);
                    assert_eq!(entry, mfns.get(&named).copied(), "the p2m's entry of pfn {named:#x}");
                }
                continue;
            } else if pfn == self.start_info {
                let ring = |field: words::Field| mfns.get(&field.get(expected, self.width)).copied();
                let found = (words::STORE_MFN.get(&page, self.width), words::CONSOLE_MFN.get(&page, self.width));
                assert_eq!((Some(found.0), Some(found.1)), (ring(words::STORE_MFN), ring(words::CONSOLE_MFN)));
                continue;
            }
            assert!(page == *expected, "pfn {pfn:#x}, {}", page_type.name());
        }
        assert!(tables > 3 && !self.frames.is_empty(), "{tables} page tables");
    }
}

#[test]
fn what_debians_helper_has_saved_restores_to_what_its_stream_says() {
    for name in ["pv-plain-libxc", "pv-live-tree-libxc", "pv-remus-libxc"] {
        let stream = common::read(&common::fixture(&format!("helper/{name}.xz")));
        let expected = replay(&stream);
        let mut domain = empty(&expected.config());
        let mut restorer = restorer(&domain);
        let mut reader = LibxcReader::<_, Alone>::start(&stream[..], Options::default());
        restorer.headers(&mut reader).unwrap();
        let mut ending = restorer.first_image(&mut reader, &mut domain).unwrap();
        let mut round = Round::default();
        while ending == Ending::Checkpoint {
            ending = match restorer.receive(&mut reader, &mut round) {
                Ok(ending) => ending,
                Err(stopped) if stopped.is_sender_gone() => break,
                Err(error) => panic!("{name}: {error}"),
            };
            restorer.prepare(&round, &mut domain).unwrap();
            restorer.commit(&mut round, &mut domain).unwrap();
        }
        restorer.complete(&mut domain).unwrap();
        expected.compare(&domain);
    }
}

/// The streams of real hosts with their contents, where they are at hand: those in `fixtures` have blank pages, and a blank
/// page table leads nowhere.
#[test]
fn what_real_hosts_have_saved_restores_to_what_its_stream_says() {
    let Some(folder) = std::env::var_os("XEN_REPLICATE_STREAMS") else {
        println!("not run: XEN_REPLICATE_STREAMS names no folder with the streams");
        return;
    };
    for name in ["xen4.17.5shadow-pv48-save", "xen4.17.7stock-pv128-save", "xen4.17.5shadow-pv48-remus"] {
        let stream = common::read(&std::path::Path::new(&folder).join(format!("{name}.stream.zst")));
        let expected = replay(&stream);
        let mut domain = empty(&expected.config());
        let mut restorer = restorer(&domain);
        let options = Options { start: Some(Start::Xl), ..Options::default() };
        let (mut libxl, _) = LibxlReader::start(&stream[..], options).unwrap();
        let mut round = Round::default();
        let mut first = true;
        loop {
            match libxl.next_record() {
                Ok(Some((_, libxl::Record::LibxcContext | libxl::Record::CheckpointEnd))) => {}
                Ok(Some((_, libxl::Record::End))) => break,
                Ok(_) => continue,
                Err(_) => break,
            }
            let mut reader = libxl.into_libxc().unwrap();
            let ending = if std::mem::take(&mut first) {
                restorer.headers(&mut reader).unwrap();
                restorer.first_image(&mut reader, &mut domain).unwrap()
            } else {
                match restorer.receive(&mut reader, &mut round) {
                    Ok(ending) => {
                        restorer.prepare(&round, &mut domain).unwrap();
                        restorer.commit(&mut round, &mut domain).unwrap();
                        ending
                    }
                    Err(stopped) if stopped.is_sender_gone() => break,
                    Err(error) => panic!("{name}: {error}"),
                }
            };
            assert_eq!(ending == Ending::Checkpoint, expected.remus);
            libxl = reader.into_libxl().unwrap();
        }
        restorer.complete(&mut domain).unwrap();
        expected.compare(&domain);
        println!("{name}: {} pages of {} pfns", expected.pages.len(), expected.nr_pfns);
    }
}

/// A stream of the given records behind the static data of a 64-bit guest of 1,024 pfns whose p2m is in pfns 8 and 9.
fn stream(pages: &[(PageEntry, Vec<u8>)], records: &[Record<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    let header = xen_replicate::stream::libxc::DomainHeader::new(xen_replicate::stream::libxc::DomainType::Pv, 4, 17);
    let mut writer = LibxcWriter::start(&mut out, Mode::Plain, 3, header).unwrap();
    writer.record(&Record::X86PvInfo(xen_replicate::stream::libxc::PvInfo::GUEST_64)).unwrap();
    writer.record(&Record::StaticDataEnd).unwrap();
    let mut frames = Vec::new();
    xen_replicate::stream::libxc::emit_p2m_frames(0, 1023, &[8, 9], &mut frames);
    let frames = xen_replicate::stream::libxc::P2mFrames::parse(&frames).unwrap();
    writer.record(&Record::X86PvP2mFrames(frames)).unwrap();
    for (entry, contents) in pages {
        writer.page_data([*entry].into_iter(), [&contents[..]]).unwrap();
    }
    for record in records {
        writer.record(record).unwrap();
    }
    writer.end().unwrap();
    out
}

/// A page whose first word is `entry`.
fn page(page_type: PageType, pfn: u64, entry: u64) -> (PageEntry, Vec<u8>) {
    let mut contents = entry.to_le_bytes().to_vec();
    contents.resize(4096, 0);
    (PageEntry { page_type, pfn }, contents)
}

/// What of the contents the reader has refused.
fn contents(error: &RestoreError) -> Option<&ContentProblem> {
    match error {
        RestoreError::Read(ReadError::Stream(error)) => match &error.problem {
            Problem::Contents(problem) => Some(problem),
            _ => None,
        },
        _ => None,
    }
}

#[test]
fn bad_images_are_refused_with_what_is_wrong() {
    let config = PvConfig { budget: 200, ..PvConfig::small(5, Width::Bits64, P2mKind::List) };
    let shared = [0; 4096];
    let context = |edx: u64| {
        let mut context = vec![0; words::CONTEXT_64];
        words::EDX.set(&mut context, Width::Bits64, edx);
        context
    };
    let part = |part, vcpu, blob| Record::X86PvVcpu(xen_replicate::stream::libxc::VcpuBlob::new(part, vcpu, blob));
    let (good, far) = (context(0), context(1 << 40));
    let table = page(PageType::L1TAB, 1, (1024 << 12) | 1);
    let beyond = page(PageType::NOTAB, (1 << 34) - 1, 0);
    let plain = page(PageType::NOTAB, 0, 0);
    let refused = |page: &(PageEntry, Vec<u8>), records: &[Record<'_>]| {
        let mut domain = empty(&config);
        let error = restore(&stream(std::slice::from_ref(page), records), &mut domain).unwrap_err();
        assert!(!error.is_sender_gone(), "{error}");
        (error.to_string(), error)
    };
    let (text, error) = refused(&table, &[]);
    assert!(matches!(error, RestoreError::Pv { error: PvError::Table { pfn: 1, .. }, .. }), "{text}");
    assert!(text.contains("L1[0]") && text.contains("0x400 pfns"), "{text}");
    let (text, error) = refused(&beyond, &[]);
    assert!(
        matches!(contents(&error), Some(ContentProblem::PfnBeyondP2m { pfn: 0x3_ffff_ffff, last: 1023 })),
        "{text}"
    );
    let (text, error) = refused(&plain, &[]);
    assert!(matches!(contents(&error), Some(ContentProblem::PvIncomplete { record: "SHARED_INFO" })), "{text}");
    let (text, error) = refused(&plain, &[Record::SharedInfo(&shared)]);
    let without = ContentProblem::PvIncomplete { record: "X86_PV_VCPU_BASIC of vCPU 0" };
    assert_eq!(contents(&error), Some(&without), "{text}");
    let (text, error) = refused(&plain, &[Record::SharedInfo(&shared), part(VcpuRecord::Basic, 2, &good)]);
    assert!(matches!(error, RestoreError::Pv { error: PvError::Vcpu { vcpu: 2, nr_vcpus: 2 }, .. }), "{text}");
    let (text, error) = refused(&plain, &[Record::SharedInfo(&shared), part(VcpuRecord::Basic, 0, &good[..2800])]);
    assert!(matches!(error, RestoreError::Read(_)) && text.contains("X86_PV_VCPU_BASIC"), "{text}");
    let (text, error) = refused(&plain, &[Record::SharedInfo(&shared), part(VcpuRecord::Extended, 0, &[0; 129])]);
    assert!(matches!(contents(&error), Some(ContentProblem::PartTooLong { length: 129, most: 128, .. })), "{text}");
    let (text, error) = refused(&plain, &[Record::SharedInfo(&shared), part(VcpuRecord::Basic, 0, &far)]);
    let absent = ContextError::Frame {
        what: "the start info frame in vCPU 0's edx",
        frame: 1 << 40,
        problem: FrameProblem::Absent,
    };
    assert!(
        matches!(error, RestoreError::Pv { error: PvError::Context { vcpu: 0, error }, .. } if error == absent),
        "{text}"
    );
    // CR3 leads to a page of data.
    let (text, error) = refused(&plain, &[Record::SharedInfo(&shared), part(VcpuRecord::Basic, 0, &good)]);
    let wrong = |error: &RestoreError| {
        matches!(
            error,
            RestoreError::Pv {
                error: PvError::Context {
                    error: ContextError::Frame { what: "cr3", problem: FrameProblem::Type, .. },
                    ..
                },
                ..
            }
        )
    };
    assert!(wrong(&error), "{text}");
}

#[test]
fn a_p2m_that_moves_or_leads_nowhere_is_an_error() {
    let config = PvConfig::small(31, Width::Bits64, P2mKind::List);
    let mut guest = PvSim::create(&config).unwrap();
    let mut saver = Saver::new(&mut guest, Default::default()).unwrap();
    saver.start_log(&mut guest).unwrap();
    guest.suspend().unwrap();
    guest.move_p2m();
    let moved = saver.collect(&mut guest);
    assert!(matches!(moved, Err(SaveError::P2m(P2mError::Moved { before: 2, now: 3 }))), "{moved:?}");
    // Nothing has been published in a domain without memory.
    let mut nothing = empty(&config);
    let error = Saver::new(&mut nothing, Default::default()).unwrap_err();
    assert!(matches!(error, SaveError::P2m(P2mError::Size { nr_pfns: 0 })), "{error}");
    // A stream of the other kind.
    let hvm = common::read(&common::fixture("helper/hvm-plain-libxc.xz"));
    assert!(matches!(restore(&hvm, &mut empty(&config)), Err(RestoreError::Kind(_))));
    // More than the machine has.
    let mut small = PvSim::empty(&PvConfig { budget: 300, ..config.clone() }).unwrap();
    guest.resume().unwrap();
    let error = restore(&plain(&mut guest), &mut small).unwrap_err();
    assert!(matches!(error, RestoreError::Hypervisor { error: Error::OutOfMemory { .. }, .. }), "{error}");
}

/// Holes are named once, and once more when the guest stands still; not in every checkpoint.
#[test]
fn pages_that_a_guest_has_given_back_are_not_named_in_every_checkpoint() {
    for (width, p2m) in KINDS {
        let config = PvConfig::small(23, width, p2m);
        let mut original = PvSim::create(&config).unwrap();
        original.run(50).unwrap();
        let gone: Vec<u64> = (100..120).filter(|&pfn| original.balloon_out(pfn).is_ok()).collect();
        assert!(gone.len() > 5, "{gone:?}");
        let mut saver = Saver::new(&mut original, Default::default()).unwrap();
        let mut stream = Vec::new();
        let mut out = LibxcWriter::start(&mut stream, Mode::Remus, 3, saver.header()).unwrap();
        saver.static_data(&original, &mut out).unwrap();
        saver.start_log(&mut original).unwrap();
        saver.precopy(&mut original, &mut out).unwrap();
        let mut round = Round::default();
        for number in 0..4 {
            original.run(20).unwrap();
            original.suspend().unwrap();
            saver.collect(&mut original).unwrap();
            if number % 2 == 0 {
                saver.send_pages(&original, &mut out).unwrap();
                saver.send_state(&original, &mut out).unwrap();
            } else {
                saver.stage(&original, &mut round).unwrap();
                round.write(&mut out).unwrap();
            }
            out.checkpoint().unwrap();
            original.resume().unwrap();
        }
        out.flush().unwrap();
        drop(out);
        let sent = entries(&stream);
        let times = |pfn: u64| sent.iter().filter(|entry| entry.pfn == pfn).count();
        let named: Vec<usize> = gone.iter().map(|&pfn| times(pfn)).collect();
        assert_eq!(named, vec![2; gone.len()]);
    }
}

/// A PV guest's frames: no log tells of one that has come, and a guest may not have written to it yet.
#[test]
fn a_frame_that_comes_to_a_pv_guest_is_in_the_copy_though_nobody_wrote_to_it() {
    for (width, kind) in KINDS {
        let config = PvConfig::small(7, width, kind);
        let mut domain = PvSim::create(&config).unwrap();
        domain.run(20).unwrap();
        let pfn = (20..40).find(|&pfn| domain.reach(pfn).is_some()).unwrap();
        let mut saver = Saver::new(&mut domain, Default::default()).unwrap();
        domain.balloon_out(pfn).unwrap();
        let mut stream = Vec::new();
        let mut out = LibxcWriter::<_, Alone>::start(&mut stream, Mode::Remus, 3, saver.header()).unwrap();
        saver.static_data(&domain, &mut out).unwrap();
        saver.start_log(&mut domain).unwrap();
        saver.precopy(&mut domain, &mut out).unwrap();
        for checkpoint in 0..2 {
            domain.suspend().unwrap();
            let named = saver.collect(&mut domain).unwrap();
            saver.send_pages(&domain, &mut out).unwrap();
            saver.send_state(&domain, &mut out).unwrap();
            out.checkpoint().unwrap();
            if checkpoint == 0 {
                domain.resume().unwrap();
                domain.balloon_in(pfn).unwrap();
            } else {
                assert!(named > 0);
            }
        }
        drop(out);
        let mut said = Vec::new();
        let mut reader = SliceReader::new(&stream, Options { mode: Some(Mode::Remus), ..Options::default() });
        while let Ok(Some(item)) = reader.next_item() {
            if let Some(Parsed::Libxc(Record::PageData(data))) = Checker::new(None).item(&item, &mut |_| {}) {
                said.extend(data.entries().filter(|entry| entry.pfn == pfn).map(|entry| entry.page_type));
            }
        }
        assert_eq!(said.last(), Some(&PageType::NOTAB), "{kind:?}: {said:?}");
    }
}
