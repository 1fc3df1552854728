//! What the tests of saving, restoring and replicating share.
#![allow(dead_code)] // Each test program uses its own part of it.

use std::cell::{Cell, RefCell};
use std::io::{self, Write};
use std::rc::Rc;
use xen_replicate::hypervisor::Domain;
use xen_replicate::hypervisor::sim::{SimConfig, SimDomain, Snapshot};
use xen_replicate::inspect::Input;
use xen_replicate::inspect::progress::Progress;
use xen_replicate::inspect::verify::{Options, Report, verify};
use xen_replicate::libxl::{Saver, save};
use xen_replicate::stream::framer::{Item, Options as Framing};
use xen_replicate::stream::libxc::PAGE_SIZE;
use xen_replicate::stream::reader::SliceReader;

/// A sink that can be looked at while a writer has it.
#[derive(Debug, Clone, Default)]
pub struct Shared(pub Rc<RefCell<Vec<u8>>>);

impl Shared {
    pub fn take(&self) -> Vec<u8> {
        self.0.take()
    }
}

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub fn guest(config: &SimConfig, steps: u64) -> SimDomain {
    let mut domain = SimDomain::create(config).unwrap();
    domain.run(steps).unwrap();
    domain
}

pub fn options() -> save::Options {
    save::Options { config: Some(r#"{"c_info":{"type":"hvm","name":"sim"}}"#.into()), ..save::Options::default() }
}

/// A Remus stream with so many checkpoints, and the guest's state at each of them. Every other one is sent from a copy,
/// the rest from the guest's own memory.
pub fn remus(config: &SimConfig, checkpoints: u64) -> (Vec<u8>, Vec<Snapshot>) {
    let mut domain = guest(config, 20);
    let mut saver = Saver::new(&mut domain, options()).unwrap();
    let sink = Shared::default();
    let mut out = saver.begin(&mut domain, sink.clone()).unwrap();
    let mut states = Vec::new();
    for number in 1..=checkpoints {
        domain.run(7 * number).unwrap();
        domain.suspend().unwrap();
        assert!(saver.collect(&mut domain).unwrap() > 0);
        states.push(domain.snapshot().unwrap());
        let between = if number % 2 == 0 {
            let between = saver.send_direct(&domain, out).unwrap();
            domain.resume().unwrap();
            between
        } else {
            saver.stage(&domain).unwrap();
            domain.resume().unwrap();
            // What the guest does now must not get into the checkpoint.
            domain.run(3).unwrap();
            saver.send(out).unwrap()
        };
        out = between.next_round();
    }
    saver.stop(&mut domain).unwrap();
    drop(out);
    (sink.take(), states)
}

/// The items of a stream, as far as they are whole.
pub fn items(stream: &[u8]) -> Vec<Item<'_>> {
    let mut reader = SliceReader::new(stream, Framing::default());
    std::iter::from_fn(|| reader.next_item().ok().flatten()).collect()
}

/// Name and round of each record of a stream.
pub fn records(stream: &[u8]) -> Vec<(&'static str, u64)> {
    use xen_replicate::stream::framer::{What, record_name};
    let name = |item: &Item<'_>| match item.what {
        What::Record(frame) => Some((record_name(item.layer, frame.header.type_id), item.round)),
        _ => None,
    };
    items(stream).iter().filter_map(name).collect()
}

/// What `xen-replicate verify` says, strictly.
pub fn verified(stream: &[u8]) -> Report {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(stream).unwrap();
    let options = Options { all: true, ..Options::default() };
    verify(Input::open(file.path()).unwrap(), &options, &mut Progress::none()).unwrap()
}

/// A sink that notes which pieces of memory it was given, and keeps nothing.
#[derive(Debug, Clone, Default)]
pub struct Addresses {
    pub pieces: Rc<RefCell<Vec<(usize, usize)>>>,
    pub bytes: Rc<Cell<usize>>,
}

impl Write for Addresses {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[io::IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, pieces: &[io::IoSlice<'_>]) -> io::Result<usize> {
        let mut seen = self.pieces.borrow_mut();
        seen.extend(pieces.iter().map(|piece| (piece.as_ptr() as usize, piece.len())));
        let bytes = pieces.iter().map(|piece| piece.len()).sum();
        self.bytes.set(self.bytes.get() + bytes);
        Ok(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where a guest's pages lie in our memory.
pub fn page_addresses(domain: &SimDomain) -> Vec<usize> {
    let memory = domain.memory();
    let mut addresses: Vec<_> =
        memory.populated_pfns().filter_map(|pfn| memory.page(pfn)).map(|page| page.as_ptr() as usize).collect();
    addresses.sort_unstable();
    assert!(addresses.windows(2).all(|pair| pair[1] - pair[0] >= PAGE_SIZE));
    addresses
}
