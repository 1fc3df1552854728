//! In the steady state reading and writing records allocates nothing: the heap is asked for nothing between the first
//! few records and the last, however many there are.

mod common;

use common::build::small_context;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{self, Cursor, IoSlice, Write};
use xen_replicate::inspect::progress::Progress;
use xen_replicate::inspect::{Flow, Input, walk};
use xen_replicate::stream::check::Checker;
use xen_replicate::stream::framer::{Item, Options};
use xen_replicate::stream::libxc::{PAGE_SIZE, PageEntry, PageType, types};
use xen_replicate::stream::reader::{PullReader, PushReader, SliceReader};
use xen_replicate::stream::writer::RecordWriter;

/// The system's allocator, which counts the calls of each thread that ask for memory.
struct Counting;

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
    /// Bytes asked for, those given back not taken off.
    static BYTES: Cell<u64> = const { Cell::new(0) };
}

fn count(bytes: usize) {
    CALLS.with(|calls| calls.set(calls.get() + 1));
    BYTES.with(|asked| asked.set(asked.get() + bytes as u64));
}

// SAFETY: every call is passed on to the system's allocator as it is; counting touches a thread-local number that has
// no destructor and never allocates.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps GlobalAlloc's contract, which is System's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above; the pointer came from System.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: as above; the pointer came from System.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Records before counting starts.
const WARM_UP: u64 = 8;
/// Records of the whole stream, at the least.
const RECORDS: u64 = 200;
/// Pages of a large record; the other kind has one page less, so that buffers cannot fit by chance.
const PAGES: usize = 64;

/// STORE_PFN and CONSOLE_PFN.
const PARAMS: &[u8] = b"\x02\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\xfc\0\0\0\0\0\0\0\x11\0\0\0\0\0\0\0\xff\0\0\0\0\0\0\0";

/// A HVM context of a length that needs padding: what a vCPU needs, and an XSAVE area that was not used.
fn context() -> Vec<u8> {
    let mut context = small_context();
    let end = context.len() - 8;
    context.splice(end..end, [&[16, 0, 0, 0][..], &601u32.to_le_bytes(), &[0; 601]].concat());
    context
}

fn entries(pages: usize) -> impl ExactSizeIterator<Item = PageEntry> + Clone {
    // A hole at the end: entries without contents take another way.
    (0..pages + 1).map(move |pfn| {
        let page_type = if pfn == pages { PageType::XTAB } else { PageType::NOTAB };
        PageEntry { page_type, pfn: pfn as u64 }
    })
}

/// The records of a round, several kinds of them.
fn write_round<W: Write>(writer: &mut RecordWriter<W>, memory: &[u8], context: &[u8], round: u64) -> io::Result<()> {
    let pages = PAGES - (round % 2) as usize;
    writer.page_data(entries(pages), memory[..pages * PAGE_SIZE].chunks(PAGE_SIZE))?;
    writer.record(types::X86_TSC_INFO, &[&[0; 24]])?;
    writer.record(types::HVM_PARAMS, &[PARAMS])?;
    writer.record(types::HVM_CONTEXT, &[context])?;
    writer.record(types::CHECKPOINT, &[])
}

/// A bare libxc stream of a HVM guest with many checkpoints.
fn stream() -> Vec<u8> {
    let mut writer = RecordWriter::new(Vec::new());
    writer.raw(&[0xff; 8]).unwrap();
    writer.raw(b"XENF\0\0\0\x03\0\0\0\0\0\0\0\0").unwrap();
    writer.raw(b"\x02\0\0\0\x0c\0\0\0\x04\0\0\0\x11\0\0\0").unwrap();
    writer.record(types::STATIC_DATA_END, &[]).unwrap();
    let (memory, context) = (vec![0x5a; PAGES * PAGE_SIZE], context());
    for round in 0..RECORDS / 5 {
        write_round(&mut writer, &memory, &context, round).unwrap();
    }
    writer.into_inner()
}

/// Checks items and notes the calls made for memory behind the first few.
struct Watch {
    checker: Checker,
    items: u64,
    since: u64,
}

impl Watch {
    fn new() -> Self {
        Watch { checker: Checker::new(None), items: 0, since: 0 }
    }

    fn item(&mut self, item: &Item<'_>) {
        let mut problems = 0;
        assert!(self.checker.item(item, &mut |_| problems += 1).is_some() || self.items < 2);
        // One remark: real streams have HVM_PARAMS behind HVM_CONTEXT, this one does not.
        assert_eq!(problems, 0, "{item:?}");
        self.items += 1;
        if self.items == WARM_UP {
            self.since = CALLS.get();
        }
    }

    fn assert_none(&self, what: &str) {
        let calls = CALLS.get() - self.since;
        assert!(self.items >= RECORDS, "{what}: {} items", self.items);
        assert_eq!(calls, 0, "{what}: calls for memory in {} items", self.items - WARM_UP);
    }
}

#[test]
fn the_counter_counts() {
    let before = CALLS.get();
    let mut bytes = std::hint::black_box(Vec::<u8>::with_capacity(1));
    bytes.reserve(100);
    assert_eq!(CALLS.get() - before, 2);
}

#[test]
fn reading_a_slice() {
    let stream = stream();
    for skip_contents in [false, true] {
        let mut watch = Watch::new();
        let mut reader = SliceReader::new(&stream, Options { skip_contents, ..Options::default() });
        // The stream stops behind a checkpoint, as Remus streams do; the error for that may allocate.
        while reader.framer().offset() < stream.len() as u64 {
            watch.item(&reader.next_item().unwrap().unwrap());
        }
        watch.assert_none("SliceReader");
    }
}

#[test]
fn pulling() {
    let stream = stream();
    for skip_contents in [false, true] {
        let mut watch = Watch::new();
        let mut reader = PullReader::new(&stream[..], Options { skip_contents, ..Options::default() });
        while reader.framer().offset() < stream.len() as u64 {
            watch.item(&reader.next_item().unwrap().unwrap());
        }
        watch.assert_none("PullReader");
    }
}

#[test]
fn pushing() {
    let stream = stream();
    for skip_contents in [false, true] {
        let mut watch = Watch::new();
        let mut reader = PushReader::new(Options { skip_contents, ..Options::default() });
        for piece in stream.chunks(1000) {
            reader.push(piece);
            while let Some(item) = reader.next_item().unwrap() {
                watch.item(&item);
            }
        }
        watch.assert_none("PushReader");
    }
}

#[test]
fn walking() {
    let input = Input::Compressed(Box::new(Cursor::new(stream())));
    let mut watch = Watch::new();
    let mut calls = 0;
    let options = Options { skip_contents: true, ..Options::default() };
    walk(input, options, &mut Progress::none(), &mut |item| {
        watch.item(item);
        calls = CALLS.get() - watch.since;
        Flow::Next
    });
    assert!(watch.items >= RECORDS);
    assert_eq!(calls, 0, "walk: calls for memory");
}

/// Takes everything, as pieces or not.
struct Sink(u64);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let bytes = pieces.iter().map(|piece| piece.len()).sum();
        self.0 += bytes as u64;
        Ok(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn writing() {
    let (memory, context) = (vec![0x5a; PAGES * PAGE_SIZE], context());
    let mut writer = RecordWriter::new(Sink(0));
    let mut since = 0;
    for round in 0..RECORDS {
        write_round(&mut writer, &memory, &context, round).unwrap();
        if round == 2 {
            since = CALLS.get();
        }
    }
    assert_eq!(CALLS.get() - since, 0, "RecordWriter: calls for memory");
    assert_eq!(writer.written(), writer.get_ref().0);
}

/// Parse and emit in one, without a copy of page contents in between.
#[test]
fn rewriting() {
    let stream = stream();
    let mut writer = RecordWriter::new(Sink(0));
    let mut reader = SliceReader::new(&stream, Options::default());
    let mut items = 0;
    let mut since = 0;
    while reader.framer().offset() < stream.len() as u64 {
        writer.item(&reader.next_item().unwrap().unwrap()).unwrap();
        items += 1;
        if items == WARM_UP {
            since = CALLS.get();
        }
    }
    assert!(items >= RECORDS);
    assert_eq!(CALLS.get() - since, 0, "RecordWriter::item: calls for memory");
    assert_eq!(writer.get_ref().0, stream.len() as u64);
}

/// A record that claims the longest body there is, of which a few bytes are there.
#[test]
fn a_length_that_is_only_claimed_costs_no_memory() {
    let head = &stream()[..40];
    for type_id in [types::PAGE_DATA, types::HVM_CONTEXT, types::X86_PV_P2M_FRAMES] {
        // A count that fills the body, for those who believe it.
        let claim = [type_id.to_le_bytes(), (128u32 << 20).to_le_bytes(), [0xff; 4]].concat();
        let stream = [head, &claim[..], &[1; 5000]].concat();
        for skip_contents in [false, true] {
            let options = Options { skip_contents, ..Options::default() };
            let before = BYTES.get();
            let mut reader = PullReader::new(Cursor::new(&stream), options);
            while matches!(reader.next_item(), Ok(Some(_))) {}
            assert_eq!(reader.framer().offset(), 40);
            let pulled = BYTES.get() - before;
            assert!(pulled < 4 << 20, "{pulled} bytes asked for to pull {}", stream.len());
            let mut reader = PushReader::new(options);
            for piece in stream.chunks(100) {
                reader.push(piece);
                while matches!(reader.next_item(), Ok(Some(_))) {}
            }
            let pushed = BYTES.get() - before - pulled;
            assert!(pushed < 1 << 20, "{pushed} bytes asked for to push {}", stream.len());
        }
    }
}
