//! What Debian's libxl-save-helper has saved: restored here, and saved again.

mod common;

use std::collections::BTreeMap;
use xen_replicate::hypervisor::sim::{SimConfig, SimDomain};
use xen_replicate::hypervisor::{Domain, SaveDomain, hvm_param};
use xen_replicate::libxc::restore::{Ending, Verified};
use xen_replicate::libxc::{Restorer, Round, Saver};
use xen_replicate::stream::Mode;
use xen_replicate::stream::check::{Checker, Parsed};
use xen_replicate::stream::framer::Options;
use xen_replicate::stream::handover::{Alone, LibxcReader, LibxcWriter};
use xen_replicate::stream::libxc::Record;
use xen_replicate::stream::reader::SliceReader;

fn helper(name: &str) -> Vec<u8> {
    common::read(&common::fixture(&format!("helper/{name}.xz")))
}

/// The pages of a stream, each as it was sent last, and how many entries there are.
fn replay(stream: &[u8]) -> (BTreeMap<u64, Vec<u8>>, u64) {
    let mut reader = SliceReader::new(stream, Options::default());
    let (mut pages, mut entries) = (BTreeMap::new(), 0);
    while let Ok(Some(item)) = reader.next_item() {
        if let Some(Parsed::Libxc(Record::PageData(data))) = Checker::new(None).item(&item, &mut |_| {}) {
            entries += data.count() as u64;
            pages.extend(data.pages().filter_map(|(entry, page)| Some((entry.pfn, page?.to_vec()))));
        }
    }
    (pages, entries)
}

/// An empty domain with at least so many pfns: as few as the layout allows.
fn empty(nr_pfns: u64) -> SimDomain {
    let mut domains = (150..).filter_map(|memory| {
        let config = SimConfig { memory, vcpus: 4, memory_budget: Some(1 << 16), ..SimConfig::small(1) };
        SimDomain::empty(&config).ok()
    });
    domains.find(|domain| domain.info().unwrap().nr_pfns >= nr_pfns).unwrap()
}

/// Restores the first image of a bare libxc stream.
fn restored(stream: &[u8], nr_pfns: u64) -> (SimDomain, Restorer, LibxcReader<&[u8], Alone>, Ending) {
    let mut domain = empty(nr_pfns);
    let mut reader = LibxcReader::start(stream, Options::default());
    let mut restorer = Restorer::new(&domain, Default::default()).unwrap();
    restorer.headers(&mut reader).unwrap();
    let ending = restorer.first_image(&mut reader, &mut domain).unwrap();
    (domain, restorer, reader, ending)
}

/// The domain's memory is what the stream has said last, but for the rings that a restore clears.
fn assert_memory(domain: &SimDomain, pages: &BTreeMap<u64, Vec<u8>>) {
    let rings = (0..hvm_param::COUNT).filter(|&index| hvm_param::names_cleared_page(index));
    let rings: Vec<_> = rings.map(|index| domain.hvm_param(index).unwrap()).collect();
    assert_eq!(domain.info().unwrap().populated, pages.len() as u64);
    for (&pfn, expected) in pages.iter().filter(|(pfn, _)| !rings.contains(pfn)) {
        assert_eq!(&domain.memory().page(pfn).unwrap()[..], &expected[..], "pfn {pfn:#x}");
    }
}

#[test]
fn a_plain_image_saved_again_is_identical_to_the_byte() {
    let theirs = helper("hvm-plain-libxc");
    let (pages, nr_pfns) = replay(&theirs);
    let (mut domain, mut restorer, _, ending) = restored(&theirs, nr_pfns);
    assert_eq!(ending, Ending::End);
    restorer.complete(&mut domain).unwrap();
    assert_memory(&domain, &pages);
    domain.unpause().unwrap();
    let mut saver = Saver::new(&mut domain, Default::default()).unwrap();
    let mut out = LibxcWriter::start(Vec::new(), Mode::Plain, 3, saver.header()).unwrap();
    saver.image(&mut domain, &mut out, false).unwrap();
    let ours = out.end().unwrap();
    let difference = ours.iter().zip(&theirs).position(|(a, b)| a != b);
    assert_eq!((ours.len(), difference), (theirs.len(), None));
}

#[test]
fn live_images_restore_and_a_verify_pass_agrees() {
    for (name, verified) in [("hvm-live-libxc", false), ("hvm-live-verify-libxc", true)] {
        let theirs = helper(name);
        let (pages, _) = replay(&theirs);
        let nr_pfns = pages.keys().last().unwrap() + 1;
        let (mut domain, mut restorer, _, ending) = restored(&theirs, nr_pfns);
        assert_eq!(ending, Ending::End);
        restorer.complete(&mut domain).unwrap();
        assert_memory(&domain, &pages);
        let expected = Verified { pages: pages.len() as u64, different: 0, first: None };
        assert_eq!(restorer.verified(), verified.then_some(expected), "{name}");
    }
}

#[test]
fn a_checkpointed_stream_restores_round_by_round() {
    let theirs = helper("hvm-remus-libxc");
    let (pages, _) = replay(&theirs);
    let nr_pfns = pages.keys().last().unwrap() + 1;
    let (mut domain, mut restorer, mut reader, mut ending) = restored(&theirs, nr_pfns);
    let (mut round, mut rounds) = (Round::default(), 0);
    let stopped = loop {
        assert_eq!(ending, Ending::Checkpoint);
        rounds += 1;
        ending = match restorer.receive(&mut reader, &mut round) {
            Ok(ending) => ending,
            Err(stopped) => break stopped,
        };
        restorer.prepare(&round, &mut domain).unwrap();
        restorer.commit(&mut round, &mut domain).unwrap();
    };
    assert!(stopped.is_sender_gone(), "{stopped}");
    assert_eq!(rounds, 4);
    restorer.complete(&mut domain).unwrap();
    assert_memory(&domain, &pages);
}
