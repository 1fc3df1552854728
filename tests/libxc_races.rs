//! What a guest does to its own memory map while it is being saved: it gives pages back, takes others, and grows.

mod replicate_support;

use replicate_support::guest;
use std::cell::{Cell, RefCell};
use xen_replicate::hypervisor::bitmap::BoundMismatch;
use xen_replicate::hypervisor::sim::{Difference, SimConfig, SimDomain};
use xen_replicate::hypervisor::types::{CleanMode, CpuPolicy, DirtyStats, DomainInfo, PageType, Pfn, TscInfo};
use xen_replicate::hypervisor::{DirtyBitmap, Domain, Error, LogDirty, PvDomain, Result, SaveDomain};
use xen_replicate::libxc::restore::{Ending, Options};
use xen_replicate::libxc::{Restorer, Round, SaveError, Saver};
use xen_replicate::stream::Mode;
use xen_replicate::stream::check::{Checker, Parsed};
use xen_replicate::stream::framer::Options as Framing;
use xen_replicate::stream::handover::{Alone, LibxcReader, LibxcWriter};
use xen_replicate::stream::libxc::{PageEntry, Record};
use xen_replicate::stream::reader::SliceReader;

/// A guest whose memory map changes under its saver, by the saver's own calls.
struct Restless {
    guest: SimDomain,
    /// What the hypervisor says of the p2m's size; the guest has more.
    small: Option<u64>,
    /// The page that is given back when it has been looked up once, and that is there again once the guest stands still.
    restless: Option<Pfn>,
    gone: Cell<bool>,
    /// Whether it stays away.
    for_good: bool,
    /// Pages looked up, in calls.
    lookups: RefCell<Vec<usize>>,
}

impl Restless {
    fn new(guest: SimDomain) -> Self {
        let lookups = RefCell::default();
        Restless { guest, small: None, restless: None, gone: Cell::new(false), for_good: false, lookups }
    }

    fn is_gone(&self, pfn: Pfn) -> bool {
        self.restless == Some(pfn) && self.gone.get()
    }
}

impl Domain for Restless {
    fn info(&self) -> Result<DomainInfo> {
        let info = self.guest.info()?;
        Ok(DomainInfo { nr_pfns: self.small.unwrap_or(info.nr_pfns), ..info })
    }

    fn suspend(&mut self) -> Result<()> {
        self.gone.set(self.for_good && self.gone.get());
        self.guest.suspend()
    }

    fn resume(&mut self) -> Result<()> {
        self.guest.resume()
    }

    fn pause(&mut self) -> Result<()> {
        self.guest.pause()
    }

    fn unpause(&mut self) -> Result<()> {
        self.guest.unpause()
    }
}

impl LogDirty for Restless {
    fn enable_log_dirty(&mut self) -> Result<()> {
        self.guest.enable_log_dirty()
    }

    fn clean_log_dirty(&mut self, bitmap: &mut DirtyBitmap, mode: CleanMode) -> Result<DirtyStats> {
        // By now it has grown.
        self.small = None;
        let expected = self.guest.info()?.nr_pfns;
        if bitmap.nr_pfns() != expected {
            return Err(BoundMismatch { expected, found: bitmap.nr_pfns() }.into());
        }
        self.guest.clean_log_dirty(bitmap, mode)
    }

    fn peek_log_dirty(&mut self, bitmap: &mut DirtyBitmap) -> Result<DirtyStats> {
        self.guest.peek_log_dirty(bitmap)
    }

    fn disable_log_dirty(&mut self) -> Result<()> {
        self.guest.disable_log_dirty()
    }
}

impl PvDomain for Restless {}

impl SaveDomain for Restless {
    type Pages<'a> = <SimDomain as SaveDomain>::Pages<'a>;

    fn page_types(&self, pfns: &[Pfn], types: &mut [PageType]) -> Result<()> {
        self.lookups.borrow_mut().push(pfns.len());
        self.guest.page_types(pfns, types)?;
        for (&pfn, page_type) in pfns.iter().zip(types) {
            if self.is_gone(pfn) {
                *page_type = PageType::XTAB;
            }
        }
        Ok(())
    }

    fn map_pages<'a>(&'a self, pfns: &'a [Pfn]) -> Result<Self::Pages<'a>> {
        match self.restless.filter(|pfn| pfns.contains(pfn)) {
            Some(pfn) if self.for_good || !self.guest.info()?.is_suspended() => {
                self.gone.set(true);
                Err(Error::NotPopulated { pfn })
            }
            _ => self.guest.map_pages(pfns),
        }
    }

    fn cpu_policy(&self) -> Result<CpuPolicy> {
        self.guest.cpu_policy()
    }

    fn tsc_info(&self) -> Result<TscInfo> {
        self.guest.tsc_info()
    }

    fn hvm_context(&self, blob: &mut Vec<u8>) -> Result<()> {
        self.guest.hvm_context(blob)
    }

    fn hvm_param(&self, index: u64) -> Result<u64> {
        self.guest.hvm_param(index)
    }
}

fn save(domain: &mut Restless, live: bool) -> std::result::Result<Vec<u8>, SaveError> {
    let mut saver = Saver::new(domain, Default::default())?;
    let mut out = LibxcWriter::<_, Alone>::start(Vec::new(), Mode::Plain, 3, saver.header())?;
    saver.image(domain, &mut out, live)?;
    Ok(out.end()?)
}

fn restored(stream: &[u8], config: &SimConfig) -> SimDomain {
    let mut domain = SimDomain::empty(config).unwrap();
    let mut restorer = Restorer::new(&domain, Options::default()).unwrap();
    let mut reader = LibxcReader::<_, Alone>::start(stream, Framing::default());
    restorer.headers(&mut reader).unwrap();
    assert_eq!(restorer.first_image(&mut reader, &mut domain).unwrap(), Ending::End);
    restorer.complete(&mut domain).unwrap();
    domain
}

/// What the stream says of a page, in order.
fn said_of(stream: &[u8], pfn: Pfn) -> Vec<PageType> {
    let mut reader = SliceReader::new(stream, Framing::default());
    let mut said = Vec::new();
    while let Ok(Some(item)) = reader.next_item() {
        if let Some(Parsed::Libxc(Record::PageData(data))) = Checker::new(None).item(&item, &mut |_| {}) {
            said.extend(data.entries().filter(|entry| entry.pfn == pfn).map(|PageEntry { page_type, .. }| page_type));
        }
    }
    said
}

/// A page with contents that the guest does not write, so that nothing but the saver's own memory of it has it sent again.
fn quiet_page(domain: &SimDomain) -> Pfn {
    let mut later = guest(domain.config(), 50);
    later.enable_log_dirty().unwrap();
    later.run(100).unwrap();
    let mut dirty = DirtyBitmap::new(later.info().unwrap().nr_pfns);
    later.peek_log_dirty(&mut dirty).unwrap();
    let has_contents = |pfn: &Pfn| domain.memory().page(*pfn).is_some_and(|page| page.iter().any(|&byte| byte != 0));
    let quiet = domain.memory().populated_pfns().find(|pfn| !dirty.contains(*pfn) && has_contents(pfn));
    quiet.expect("the guest writes all of its pages")
}

#[test]
fn a_page_that_goes_while_it_is_sent_is_left_out_and_sent_when_the_guest_stands_still() {
    let config = SimConfig::small(5);
    let mut domain = Restless::new(guest(&config, 50));
    let pfn = quiet_page(&domain.guest);
    domain.restless = Some(pfn);
    let stream = save(&mut domain, true).unwrap();
    assert_eq!(said_of(&stream, pfn), [PageType::XTAB, PageType::NOTAB]);
    let copy = restored(&stream, &config);
    let (original, copied) = (domain.guest.memory().page(pfn).unwrap(), copy.memory().page(pfn).unwrap());
    assert_eq!(copied, original);
    // Looked up twice, and no other batch.
    let lookups = domain.lookups.borrow();
    assert_eq!(lookups[0], lookups[1]);
}

#[test]
fn a_page_that_goes_for_good_is_a_hole_in_the_copy() {
    let config = SimConfig::small(5);
    let mut domain = Restless::new(guest(&config, 50));
    let pfn = quiet_page(&domain.guest);
    (domain.restless, domain.for_good) = (Some(pfn), true);
    let stream = save(&mut domain, true).unwrap();
    assert_eq!(said_of(&stream, pfn), [PageType::XTAB, PageType::XTAB]);
    let copy = restored(&stream, &config);
    assert_eq!(copy.memory().slot(pfn), None);
    assert_eq!(copy.memory().populated() + 1, domain.guest.memory().populated());
}

#[test]
fn a_page_that_goes_while_the_guest_stands_still_is_an_error() {
    let mut domain = Restless::new(guest(&SimConfig::small(5), 50));
    let pfn = quiet_page(&domain.guest);
    (domain.restless, domain.for_good) = (Some(pfn), true);
    match save(&mut domain, false) {
        Err(SaveError::Hypervisor(Error::NotPopulated { pfn: gone })) => assert_eq!(gone, pfn),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_the_p2m_grows_by_is_sent() {
    let config = SimConfig::small(5);
    let mut domain = Restless::new(guest(&config, 50));
    let whole = domain.guest.info().unwrap().nr_pfns;
    // The last 70 pfns have come by the time that the log is read first.
    domain.small = Some(whole - 70);
    let there = domain.guest.memory().populated_pfns().filter(|&pfn| pfn >= whole - 70).count();
    assert!(there > 0, "the guest has no page there");
    let stream = save(&mut domain, true).unwrap();
    let copy = restored(&stream, &config);
    let differences = copy.diff(&domain.guest.snapshot().unwrap(), usize::MAX).unwrap();
    // The rings' pages are cleared and nothing else; the device model is libxl's.
    let memory = differences.iter().filter(|difference| matches!(difference, Difference::Memory { .. })).count();
    assert_eq!(memory, 0, "{differences:?}");
    assert_eq!(copy.memory().populated(), domain.guest.memory().populated());
}

/// A protected guest and its copy, which was the same when the log began.
fn protected(config: &SimConfig) -> (Restless, Saver, Restorer, SimDomain) {
    let mut domain = Restless::new(guest(config, 50));
    domain.enable_log_dirty().unwrap();
    let mut saver = Saver::new(&mut domain, Default::default()).unwrap();
    let mut stream = Vec::new();
    let mut out = LibxcWriter::<_, Alone>::start(&mut stream, Mode::Remus, 3, saver.header()).unwrap();
    saver.static_data(&domain, &mut out).unwrap();
    domain.suspend().unwrap();
    saver.everything();
    saver.send_pages(&domain, &mut out).unwrap();
    saver.send_state(&domain, &mut out).unwrap();
    domain.resume().unwrap();
    out.checkpoint().unwrap();
    drop(out);
    let mut copy = SimDomain::empty(config).unwrap();
    let mut restorer = Restorer::new(&copy, Options::default()).unwrap();
    let mut reader =
        LibxcReader::<_, Alone>::start(&stream[..], Framing { mode: Some(Mode::Remus), ..Framing::default() });
    restorer.headers(&mut reader).unwrap();
    assert_eq!(restorer.first_image(&mut reader, &mut copy).unwrap(), Ending::Checkpoint);
    (domain, saver, restorer, copy)
}

/// Pages in which the copy is not what the guest is.
fn pages_apart(domain: &Restless, copy: &SimDomain) -> Vec<Difference> {
    let mut differences = copy.diff(&domain.guest.snapshot().unwrap(), usize::MAX).unwrap();
    differences.retain(|difference| matches!(difference, Difference::Memory { .. }));
    differences
}

fn checkpoint(
    domain: &mut Restless,
    saver: &mut Saver,
    restorer: &mut Restorer,
    copy: &mut SimDomain,
    round: &mut Round,
) -> u64 {
    domain.suspend().unwrap();
    let rest = saver.collect(domain).unwrap();
    saver.stage_rest(domain, round).unwrap();
    restorer.prepare(round, copy).unwrap();
    restorer.commit(round, copy).unwrap();
    rest
}

#[test]
fn what_is_staged_ahead_and_written_again_is_as_it_was_when_the_guest_stood_still() {
    let config = SimConfig::small(5);
    let (mut domain, mut saver, mut restorer, mut copy) = protected(&config);
    let mut round = Round::default();
    for _ in 0..3 {
        domain.guest.run(40).unwrap();
        let written = saver.written(&mut domain).unwrap();
        saver.stage_ahead(&mut domain, &mut round).unwrap();
        let ahead = round.entries().to_vec();
        assert_eq!(ahead.len() as u64, written);
        assert_eq!(saver.written(&mut domain).unwrap(), 0, "what was copied is out of the log");
        domain.guest.run(20).unwrap();
        let rest = checkpoint(&mut domain, &mut saver, &mut restorer, &mut copy, &mut round);
        let again = rest - (round.entries().len() - ahead.len()) as u64;
        assert!(again > 0 && rest > again, "{again} of {rest} pages were staged already");
        assert_eq!(pages_apart(&domain, &copy), []);
        domain.resume().unwrap();
    }
}

#[test]
fn a_round_with_nothing_staged_ahead_is_what_is_staged_at_once() {
    let (mut domain, mut saver, ..) = protected(&SimConfig::small(5));
    domain.guest.run(40).unwrap();
    domain.suspend().unwrap();
    saver.collect(&mut domain).unwrap();
    let (mut whole, mut rest) = (Round::default(), Round::default());
    saver.stage(&domain, &mut whole).unwrap();
    saver.stage_rest(&domain, &mut rest).unwrap();
    assert!(!whole.entries().is_empty());
    assert!(whole.batches().eq(rest.batches()));
}

#[test]
fn a_page_that_goes_while_it_is_staged_ahead_is_staged_when_the_guest_stands_still() {
    let config = SimConfig::small(5);
    let (mut domain, mut saver, mut restorer, mut copy) = protected(&config);
    domain.guest.run(40).unwrap();
    let mut dirty = DirtyBitmap::new(domain.guest.info().unwrap().nr_pfns);
    domain.peek_log_dirty(&mut dirty).unwrap();
    let written: Vec<Pfn> = (0..dirty.nr_pfns()).filter(|&pfn| dirty.contains(pfn)).collect();
    let pfn = written[written.len() / 2];
    domain.restless = Some(pfn);
    let mut round = Round::default();
    saver.stage_ahead(&mut domain, &mut round).unwrap();
    assert_eq!(round.entries().len() + 1, written.len());
    assert!(round.entries().iter().all(|entry| entry.pfn != pfn));
    checkpoint(&mut domain, &mut saver, &mut restorer, &mut copy, &mut round);
    assert!(round.entries().contains(&PageEntry { page_type: PageType::NOTAB, pfn }));
    assert_eq!(pages_apart(&domain, &copy), []);
}

#[test]
fn a_page_that_goes_for_good_behind_its_staging_is_a_hole_in_the_round() {
    let config = SimConfig::small(5);
    let (mut domain, mut saver, mut restorer, mut copy) = protected(&config);
    domain.guest.run(40).unwrap();
    let mut round = Round::default();
    saver.stage_ahead(&mut domain, &mut round).unwrap();
    let ahead = round.entries().to_vec();
    domain.guest.run(40).unwrap();
    let mut dirty = DirtyBitmap::new(domain.guest.info().unwrap().nr_pfns);
    domain.peek_log_dirty(&mut dirty).unwrap();
    let pfn = ahead.iter().map(|entry| entry.pfn).find(|&pfn| dirty.contains(pfn)).expect("nothing is written twice");
    (domain.restless, domain.for_good) = (Some(pfn), true);
    domain.gone.set(true);
    checkpoint(&mut domain, &mut saver, &mut restorer, &mut copy, &mut round);
    let said: Vec<PageType> =
        round.entries().iter().filter(|entry| entry.pfn == pfn).map(|entry| entry.page_type).collect();
    assert_eq!(said, [PageType::XTAB]);
    let others: Vec<Difference> = pages_apart(&domain, &copy);
    assert!(others.len() <= 1, "{others:?}");
}
