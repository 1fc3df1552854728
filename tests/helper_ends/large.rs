//! Checkpoints of more pages than are copied while the guest runs.

use crate::guest::Guest;
use crate::world::*;
use std::collections::HashSet;
use std::io::{Read, Seek};
use xen_replicate::hypervisor::Domain;
use xen_replicate::hypervisor::sim::SimConfig;
use xen_replicate::save_helper::save::COPY_AHEAD;
use xen_replicate::save_helper::*;
use xen_replicate::stream::check::{Checker, Parsed};
use xen_replicate::stream::libxc::Record;
use xen_replicate::stream::reader::SliceReader;
use xen_replicate::stream::{Mode, Start, framer};

/// A guest that writes to more pages in an interval than are copied ahead of a checkpoint.
fn writes_much() -> SimConfig {
    let pages = COPY_AHEAD.most() + 6000;
    let much = SimConfig { memory: pages + 3000, working_set: pages, writes_per_step: 60_000, ..small(5) };
    SimConfig { hot_permille: 0, whole_page_permille: 0, ..much }
}

/// The pfns of each round's PAGE_DATA records, in order.
fn rounds(stream: &[u8]) -> Vec<Vec<u64>> {
    let options = framer::Options { start: Some(Start::Libxc), mode: Some(Mode::Remus), ..Default::default() };
    // libxl's records of the checkpoint lie between libxc's.
    let (mut reader, mut checker) = (SliceReader::new(stream, options), Checker::new(Some(Mode::Remus)));
    let mut rounds = vec![Vec::new()];
    while let Ok(Some(item)) = reader.next_item() {
        match checker.item(&item, &mut |_| {}) {
            Some(Parsed::Libxc(Record::PageData(data))) => {
                rounds.last_mut().unwrap().extend(data.entries().map(|entry| entry.pfn))
            }
            Some(Parsed::Libxc(Record::Checkpoint)) => rounds.push(Vec::new()),
            _ => {}
        }
    }
    rounds
}

#[test]
fn no_page_is_in_a_checkpoint_twice_however_much_the_guest_writes() {
    let config = writes_much();
    let file = tempfile::tempfile().unwrap();
    let guest = Guest::running(&config, 1);
    let mut primary = Primary::new(&guest, &file, None);
    primary.steps = 4;
    primary.on_checkpoint = Box::new(|_, round| (round < 4).into());
    let command = save_command(Flags::LIVE, StreamType::Remus);
    assert_eq!(start(command, &guest, &file, None).answer(&mut primary), GOOD);
    let mut stream = Vec::new();
    file.try_clone().unwrap().rewind().unwrap();
    file.try_clone().unwrap().read_to_end(&mut stream).unwrap();
    let rounds = rounds(&stream);
    assert_eq!(rounds.len(), 5);
    for round in &rounds[1..4] {
        let distinct: HashSet<_> = round.iter().collect();
        assert!(distinct.len() as u64 > COPY_AHEAD.most(), "{} pages are not many", distinct.len());
        assert_eq!(round.len(), distinct.len());
    }
    // And whoever has no more memory than the guest has takes it.
    drop(stream);
    file.try_clone().unwrap().rewind().unwrap();
    let copy = Guest::empty(&config);
    let mut secondary = Secondary::new(&copy, &file, None);
    assert_eq!(start(restore_command(StreamType::Remus), &copy, &file, None).answer(&mut secondary), GOOD);
    assert_eq!(secondary.checkpoints, 3);
    let states = primary.states.lock().unwrap();
    assert_eq!(copy.lock().diff(&states[2], 5).unwrap(), []);
    assert!(copy.info().unwrap().paused);
}
