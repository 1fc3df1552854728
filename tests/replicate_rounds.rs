//! Checkpointed streams that stop or are damaged at every place, against the states that they were made of.

mod replicate_support;

use replicate_support::*;
use std::collections::BTreeSet;
use xen_replicate::hypervisor::Domain;
use xen_replicate::hypervisor::sim::{MemoryLayout, SimConfig, SimDomain};
use xen_replicate::libxc::{CopyAhead, RestoreError};
use xen_replicate::libxl::Saver;
use xen_replicate::libxl::restore::Options;
use xen_replicate::replicate::bare::{Outcome, Refusal, receive};
use xen_replicate::stream::check::{Checker, Parsed};
use xen_replicate::stream::contents::ContentProblem;
use xen_replicate::stream::framer::{Item, Options as Framing, record_name};
use xen_replicate::stream::libxc::Record;
use xen_replicate::stream::reader::{ReadError, SliceReader};
use xen_replicate::stream::{Problem, What};

/// What a secondary makes of a stream, and the domain that it is left with.
fn received(stream: &[u8], config: &SimConfig, options: Options) -> (Result<Outcome, Refusal>, SimDomain) {
    let mut domain = SimDomain::empty(config).unwrap();
    let outcome = receive(stream, &mut domain, options, &mut ());
    (outcome, domain)
}

fn config() -> SimConfig {
    SimConfig { working_set: 64, image_pages: 16, memory: 160, ..SimConfig::small(5) }
}

#[test]
fn every_checkpoint_restores_equal_and_the_survivor_runs_on() {
    for layout in [MemoryLayout::Compact, MemoryLayout::Pc] {
        let config = SimConfig { layout, vcpus: 2, ..config() };
        let (stream, states) = remus(&config, 6);
        let (outcome, mut domain) = received(&stream, &config, Options::default());
        assert!(matches!(outcome, Ok(Outcome::FailOver { checkpoint: 6, .. })), "{outcome:?}");
        assert_eq!(domain.diff(&states[5], 5).unwrap(), []);
        domain.unpause().unwrap();
        domain.run(50).unwrap();
        domain.self_check().unwrap();
    }
}

#[test]
fn what_is_copied_while_the_guest_runs_makes_the_same_checkpoints() {
    let config = SimConfig { working_set: 900, memory: 1000, ..config() };
    let mut domain = guest(&config, 20);
    let mut saver = Saver::new(&mut domain, replicate_support::options()).unwrap();
    let sink = Shared::default();
    let mut out = saver.begin(&mut domain, sink.clone()).unwrap();
    let mut states = Vec::new();
    for number in 1..=6 {
        domain.run(150).unwrap();
        saver.stage_ahead(&mut domain, CopyAhead::new(0, 10)).unwrap();
        assert_eq!(saver.staged_ahead(), 0, "more than it may be");
        saver.stage_ahead(&mut domain, CopyAhead::new(1, u64::MAX)).unwrap();
        let ahead = saver.staged_ahead();
        assert!(ahead > 256, "{ahead}");
        domain.run(2).unwrap();
        // As when the guest did not suspend itself the first time: what is there stays.
        saver.stage_ahead(&mut domain, CopyAhead::new(1, u64::MAX)).unwrap();
        assert_eq!(saver.staged_ahead(), ahead);
        domain.suspend().unwrap();
        let rest = saver.collect(&mut domain).unwrap();
        assert!(rest > 0 && rest < ahead / 2, "{rest} of {ahead}");
        states.push(domain.snapshot().unwrap());
        let between = if number % 2 == 0 {
            saver.send_direct(&domain, out).unwrap()
        } else {
            saver.stage(&domain).unwrap();
            assert!(saver.staged() >= ahead);
            domain.resume().unwrap();
            domain.run(3).unwrap();
            saver.send(out).unwrap()
        };
        if number % 2 == 0 {
            domain.resume().unwrap();
        }
        out = between.next_round();
        let whole = sink.0.borrow().clone();
        let (outcome, survivor) = received(&whole, &config, Options::default());
        assert!(matches!(outcome, Ok(Outcome::FailOver { checkpoint, .. }) if checkpoint == number), "{outcome:?}");
        assert_eq!(survivor.diff(&states[states.len() - 1], 5).unwrap(), [], "checkpoint {number}");
    }
    // Copied or not, a page is in a checkpoint once; in the first image it is as often as it was written.
    let whole = sink.0.borrow().clone();
    let (mut reader, mut checker) = (SliceReader::new(&whole, Framing::default()), Checker::new(None));
    let mut pages = BTreeSet::new();
    while let Ok(Some(item)) = reader.next_item() {
        if let Some(Parsed::Libxc(Record::PageData(data))) = checker.item(&item, &mut |_| {})
            && item.round > 0
        {
            for entry in data.entries() {
                assert!(pages.insert((item.round, entry.pfn)), "pfn {:#x} is in round {} twice", entry.pfn, item.round);
            }
        }
    }
    assert!(pages.len() > 1000, "{} pages", pages.len());
}

#[test]
fn the_stream_is_valid_and_has_the_records_of_xen() {
    let (stream, _) = remus(&config(), 3);
    let report = verified(&stream);
    assert!(report.valid && report.mode == "remus" && report.checkpoints == 3, "{report:?}");
    let remarks: Vec<_> = report.findings.iter().map(|finding| finding.message.as_str()).collect();
    assert_eq!(remarks.len(), 2, "{remarks:?}");
    assert_eq!(remarks[1], "the stream stops after checkpoint 3; 0 bytes of a torn one follow");
    let of_round = |round| {
        let mut names: Vec<_> = records(&stream).iter().filter(|(_, r)| *r == round).map(|(name, _)| *name).collect();
        names.dedup();
        names
    };
    let state = ["X86_TSC_INFO", "HVM_CONTEXT", "HVM_PARAMS", "CHECKPOINT"];
    let emulator = ["EMULATOR_XENSTORE_DATA", "EMULATOR_CONTEXT", "CHECKPOINT_END"];
    let first = ["LIBXC_CONTEXT", "X86_CPUID_POLICY", "X86_MSR_POLICY", "STATIC_DATA_END", "PAGE_DATA"];
    assert_eq!(of_round(0), [&first[..], &state, &emulator].concat());
    assert_eq!(of_round(2), [&["PAGE_DATA"][..], &state, &emulator].concat());
}

/// CHECKPOINT_END records that are whole in the first `bytes` of a stream.
fn whole_checkpoints(items: &[Item<'_>], bytes: u64) -> u64 {
    let name = |item: &Item<'_>| match item.what {
        What::Record(frame) => record_name(item.layer, frame.header.type_id),
        _ => "",
    };
    items.iter().filter(|item| name(item) == "CHECKPOINT_END" && item.offset + item.size <= bytes).count() as u64
}

#[test]
fn a_stream_that_stops_anywhere_leaves_the_last_whole_checkpoint() {
    let config = config();
    let (stream, states) = remus(&config, 3);
    let items = items(&stream);
    let mut failovers = 0;
    for item in &items {
        for cut in
            [item.offset, item.offset + 1, item.offset + 8, item.offset + item.size / 2, item.offset + item.size - 1]
        {
            let whole = whole_checkpoints(&items, cut);
            let (outcome, domain) = received(&stream[..cut as usize], &config, Options::default());
            match outcome {
                Err(Refusal::TooEarly(_)) => assert_eq!(whole, 0, "cut at {cut}"),
                Ok(Outcome::FailOver { checkpoint, .. }) => {
                    assert_eq!(checkpoint, whole, "cut at {cut}");
                    assert_eq!(domain.diff(&states[whole as usize - 1], 3).unwrap(), [], "cut at {cut}");
                    failovers += 1;
                }
                other => panic!("cut at {cut}: {other:?}"),
            }
        }
    }
    assert!(failovers > 60, "{failovers}");
}

/// Damages the third checkpoint at a byte; checks that the domain is left at the second. Gives whether the stream was
/// refused; otherwise it seemed to stop.
fn damaged(good: &[u8], states: &[xen_replicate::hypervisor::sim::Snapshot], at: usize, bit: u32, what: &str) -> bool {
    let mut stream = good.to_vec();
    stream[at] ^= 1 << bit;
    let (outcome, domain) = received(&stream, &config(), Options::default());
    let refused = match &outcome {
        Err(Refusal::Refused { checkpoint: 2, .. }) => true,
        // A length that claims more than there is looks like the primary's death.
        Ok(Outcome::FailOver { checkpoint: 2, stopped }) if stopped.is_sender_gone() => false,
        other => panic!("{what}, byte {at}, bit {bit}: {other:?}"),
    };
    assert_eq!(domain.diff(&states[1], 3).unwrap(), [], "{what}, byte {at}, bit {bit}");
    refused
}

#[test]
fn damage_in_any_kind_of_record_is_refused_and_leaves_the_checkpoint_before() {
    let (stream, states) = remus(&config(), 3);
    let third: Vec<_> = items(&stream).into_iter().filter(|item| item.round == 2).collect();
    assert_eq!(third.len(), 8);
    for item in &third {
        let What::Record(frame) = item.what else { panic!("{item:?}") };
        let name = record_name(item.layer, frame.header.type_id);
        let start = item.offset as usize;
        // Bit 31 of the type makes a record one that may be skipped: nothing in a bare stream tells that it was not.
        for bit in 0..31 {
            assert!(damaged(&stream, &states, start + bit / 8, bit as u32 % 8, name), "{name}: type, bit {bit}");
        }
        for bit in 0..32 {
            damaged(&stream, &states, start + 4 + bit / 8, bit as u32 % 8, name);
        }
        // One place in each body where the format, the hypervisor or the device model can tell.
        let body = match name {
            "PAGE_DATA" => &[(8, 3), (8 + 8 + 7, 7)][..],
            "HVM_CONTEXT" => &[(8, 2), (8 + 4, 3), (8 + 32 + 4, 0)],
            "HVM_PARAMS" => &[(8, 0), (8 + 3, 7)],
            "EMULATOR_XENSTORE_DATA" => &[(8, 2), (8 + 8, 7)],
            "EMULATOR_CONTEXT" => &[(8, 3), (8 + 8, 0), (8 + 8 + 50, 1), (8 + 8 + 143, 6)],
            _ => &[],
        };
        for &(at, bit) in body {
            assert!(damaged(&stream, &states, start + at, bit, name), "{name}: byte {at}, bit {bit}");
        }
    }
}

#[test]
fn a_checkpoint_over_the_limit_is_refused_and_so_is_one_over_it_in_libxls_part() {
    let config = config();
    let (stream, states) = remus(&config, 2);
    let mut refused = 0;
    for limit in [0, 4096, 20_000, 1 << 20] {
        let mut options = Options::default();
        options.libxc.round_limit = Some(limit);
        let (outcome, domain) = received(&stream, &config, options);
        match outcome {
            Err(Refusal::Refused { checkpoint: 1, error: RestoreError::RoundLimit { needed, limit: l, .. } }) => {
                assert!(needed > limit && l == limit);
                assert_eq!(domain.diff(&states[0], 3).unwrap(), []);
                refused += 1;
            }
            // The first image is not buffered, but its device-model state is.
            Err(Refusal::Refused { checkpoint: 0, error: RestoreError::RoundLimit { .. } }) => assert_eq!(limit, 0),
            Ok(Outcome::FailOver { checkpoint: 2, .. }) => assert_eq!(limit, 1 << 20),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(refused, 2);
}

#[test]
fn a_checkpoint_without_vcpus_is_refused() {
    let config = config();
    let (stream, states) = remus(&config, 2);
    let context = items(&stream).into_iter().filter(|item| item.round == 1).nth(2).unwrap();
    let (from, to) = (context.offset as usize, (context.offset + context.size) as usize);
    let without = [&stream[..from], &stream[to..]].concat();
    let (outcome, domain) = received(&without, &config, Options::default());
    let Err(Refusal::Refused { checkpoint: 1, error: RestoreError::Read(ReadError::Stream(error)) }) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(
        error.problem,
        Problem::Contents(ContentProblem::CheckpointIncomplete { record: "HVM_CONTEXT" }),
        "{error}"
    );
    assert_eq!(domain.diff(&states[0], 3).unwrap(), []);
}

#[test]
fn a_stream_without_a_checkpoint_is_refused_and_the_copy_stays_paused() {
    let config = config();
    let mut original = guest(&config, 9);
    let mut saver = xen_replicate::libxl::Saver::new(&mut original, options()).unwrap();
    let stream = saver.plain(&mut original, Vec::new(), true).unwrap();
    let (outcome, domain) = received(&stream, &config, Options::default());
    assert!(matches!(outcome, Err(Refusal::NoCheckpoint)), "{outcome:?}");
    assert!(!domain.is_running());
}
