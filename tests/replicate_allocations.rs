//! Saving and receiving checkpoints costs no allocation once the buffers have their size.

mod replicate_support;

use replicate_support::remus;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{self, Read};
use xen_replicate::hypervisor::Domain;
use xen_replicate::hypervisor::sim::{SimConfig, SimDomain};
use xen_replicate::libxc::{self, Round};
use xen_replicate::stream::framer::{Options as Framing, What};
use xen_replicate::stream::handover::{LibxcReader, LibxcWriter};
use xen_replicate::stream::{Layer, Mode};

/// Counts the allocations of each thread.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is passed on to the system's allocator as it came, and that keeps the contract. Counting touches a
// constant-initialised thread-local without a destructor, so it neither allocates nor fails.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from `alloc` or `realloc` above, hence from the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as in `dealloc`, and the caller keeps `realloc`'s contract.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(vec![1, 2, 3]))), 1);
}

#[test]
fn saving_a_checkpoint_allocates_nothing() {
    let mut domain =
        SimDomain::create(&SimConfig { memory: 4096, working_set: 3000, hot_permille: 0, ..SimConfig::small(2) })
            .unwrap();
    let mut saver = libxc::Saver::new(&mut domain, Default::default()).unwrap();
    let mut out = LibxcWriter::start(io::sink(), Mode::Remus, 3, saver.header()).unwrap();
    saver.static_data(&domain, &mut out).unwrap();
    saver.start_log(&mut domain).unwrap();
    let mut round = Round::default();
    // The first rounds are large, and the buffers get their size.
    saver.everything();
    domain.suspend().unwrap();
    saver.stage(&domain, &mut round).unwrap();
    round.write(&mut out).unwrap();
    saver.send_state(&domain, &mut out).unwrap();
    domain.resume().unwrap();
    for staged in [true, false, true, false] {
        domain.run(200).unwrap();
        domain.suspend().unwrap();
        let count = allocations(|| {
            let dirty = saver.collect(&mut domain).unwrap();
            assert!(dirty > 1024, "{dirty}");
            if staged {
                saver.stage(&domain, &mut round).unwrap();
                round.write(&mut out).unwrap();
            } else {
                saver.send_pages(&domain, &mut out).unwrap();
                saver.send_state(&domain, &mut out).unwrap();
            }
        });
        domain.resume().unwrap();
        // The domain's information comes with the domain's name.
        assert_eq!(count, 1, "staged: {staged}");
    }
}

/// The bytes of libxc's part of a stream of libxl, of all rounds.
fn bare(stream: &[u8]) -> Vec<u8> {
    let items = replicate_support::items(stream);
    let libxc = items.iter().filter(|item| item.layer == Layer::Libxc);
    libxc.flat_map(|item| &stream[item.offset as usize..(item.offset + item.size) as usize]).copied().collect()
}

#[test]
fn receiving_a_checkpoint_allocates_nothing() {
    let config = SimConfig::small(2);
    let (stream, _) = remus(&config, 5);
    assert!(replicate_support::items(&stream).iter().any(|item| matches!(item.what, What::LibxlHeader(_))));
    let bare = bare(&stream);
    let mut domain = SimDomain::empty(&config).unwrap();
    let mut reader =
        LibxcReader::start((&bare[..]).take(u64::MAX), Framing { mode: Some(Mode::Remus), ..Framing::default() });
    let mut restorer = libxc::Restorer::new(&domain, Default::default()).unwrap();
    restorer.headers(&mut reader).unwrap();
    restorer.first_image(&mut reader, &mut domain).unwrap();
    let mut round = Round::default();
    let counts: Vec<_> = (0..4)
        .map(|_| {
            let count = allocations(|| {
                restorer.receive(&mut reader, &mut round).unwrap();
            });
            restorer.prepare(&round, &mut domain).unwrap();
            restorer.commit(&mut round, &mut domain).unwrap();
            count
        })
        .collect();
    assert!(counts[0] > 0, "{counts:?}");
    assert_eq!(counts[3], 0, "{counts:?}");
}
