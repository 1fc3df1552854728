//! Page contents that are read from the source to where they belong.

use std::io::Read;
use xen_replicate::stream::Mode;
use xen_replicate::stream::framer::Options;
use xen_replicate::stream::handover::{Alone, LibxcReader, LibxcWriter};
use xen_replicate::stream::libxc::{DomainHeader, DomainType, PAGE_SIZE, PageEntry, PageType, Record, TscInfo};
use xen_replicate::stream::reader::ReadError;

const PAGES: usize = 5;

/// Pages 0 to 4 with a hole among them, then X86_TSC_INFO.
fn stream() -> Vec<u8> {
    let header = DomainHeader::new(DomainType::Hvm, 4, 17);
    let mut out = LibxcWriter::start(Vec::new(), Mode::Plain, 3, header).unwrap();
    out.record(&Record::StaticDataEnd).unwrap();
    let kinds = [PageType::NOTAB, PageType::NOTAB, PageType::XTAB, PageType::NOTAB, PageType::NOTAB, PageType::NOTAB];
    let entries: Vec<_> = (0..).zip(kinds).map(|(pfn, page_type)| PageEntry { page_type, pfn }).collect();
    let pages = contents();
    out.page_data(entries.iter().copied(), [&pages[..]]).unwrap();
    out.record(&Record::X86TscInfo(TscInfo { nsec: 77, ..TscInfo::default() })).unwrap();
    out.end().unwrap()
}

fn contents() -> Vec<u8> {
    (0..PAGES * PAGE_SIZE).map(|n| (n / 7 % 251) as u8).collect()
}

/// Gives a few bytes a call.
#[derive(Debug)]
struct Trickle<'a>(&'a [u8]);

impl Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let most = buffer.len().min(1000);
        self.0.read(&mut buffer[..most])
    }
}

fn reader(stream: &[u8]) -> LibxcReader<Trickle<'_>, Alone> {
    let mut reader = LibxcReader::start(Trickle(stream), Options { mode: Some(Mode::Plain), ..Options::default() });
    reader.headers().unwrap();
    assert!(matches!(reader.next_held(), Ok(Some((_, Record::StaticDataEnd, _)))));
    reader
}

/// Reads the pages in two parts, the last `unread` bytes not at all, and finds the record behind them.
fn taken(unread: usize) {
    let stream = stream();
    let mut reader = reader(&stream);
    let wanted = contents();
    let mut found = vec![0; wanted.len() - unread];
    {
        let Ok(Some((item, Record::PageData(pages), mut held))) = reader.next_held() else { panic!("no pages") };
        assert_eq!((pages.count(), pages.contents(), held.left()), (6, None, wanted.len() as u64));
        assert_eq!(item.size, 8 + 8 + 6 * 8 + wanted.len() as u64);
        let (first, second) = found.split_at_mut(1500);
        held.read_exact(first).unwrap();
        held.read_exact(second).unwrap();
        assert_eq!(held.left(), unread as u64);
        assert!(matches!(held.read_exact(&mut vec![0; unread + 1]), Err(ReadError::Io { .. })));
    }
    assert!(found == wanted[..wanted.len() - unread]);
    let Ok(Some((_, Record::X86TscInfo(tsc), held))) = reader.next_held() else { panic!("no TSC") };
    assert_eq!((tsc.nsec, held.left()), (77, 0));
    assert!(matches!(reader.next_record(), Ok(Some((_, Record::End)))));
    assert_eq!(reader.offset(), stream.len() as u64);
}

#[test]
fn contents_are_read_to_where_they_belong_and_the_rest_is_passed_over() {
    taken(0);
    taken(4000);
    taken(PAGES * PAGE_SIZE - 1500);
}

#[test]
fn a_record_may_be_held_or_not_as_it_comes() {
    let stream = stream();
    let mut reader = reader(&stream);
    let Ok(Some((_, Record::PageData(pages)))) = reader.next_record() else { panic!("no pages") };
    assert!(pages.contents() == Some(&contents()[..]));
}

#[test]
fn a_torn_stream_is_the_same_error_either_way() {
    let stream = stream();
    // Behind headers, STATIC_DATA_END, and the pfns: within the contents.
    let torn = &stream[..24 + 16 + 8 + 64 + 6000];
    let mut whole = reader(torn);
    let expected = whole.next_record().unwrap_err().to_string();
    let mut held_reader = reader(torn);
    {
        let Ok(Some((_, _, mut held))) = held_reader.next_held() else { panic!("no pages") };
        let error = held.read_exact(&mut vec![0; PAGES * PAGE_SIZE]).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
    assert!(matches!(held_reader.next_record(), Ok(None)));
    let mut passed = reader(torn);
    assert!(matches!(passed.next_held(), Ok(Some(_))));
    assert_eq!(passed.next_held().unwrap_err().to_string(), expected);
}
