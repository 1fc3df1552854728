//! Records onto a [`Write`], page contents without a copy.
//!
//! A record goes out as one list of iovecs: header, body parts as the caller holds them, padding. In the steady state
//! nothing is allocated.

use super::libxc::{PAGE_SIZE, PageEntry, page_data_emit_head, types};
use super::record::{HEADER_LEN, RecordHeader};
use arrayvec::ArrayVec;
use std::io::{self, ErrorKind, IoSlice, Write};

/// Most iovecs that Linux takes in one call (`UIO_MAXIOV`).
const MAX_IOVECS: usize = 1024;

/// Writes whole records and counts bytes.
#[derive(Debug)]
pub struct RecordWriter<W> {
    sink: W,
    written: u64,
    head: Vec<u8>,
}

impl<W: Write> RecordWriter<W> {
    /// A writer that starts counting at 0.
    pub fn new(sink: W) -> Self {
        RecordWriter { sink, written: 0, head: Vec::new() }
    }

    /// Bytes written.
    pub const fn written(&self) -> u64 {
        self.written
    }

    /// The sink.
    pub const fn get_ref(&self) -> &W {
        &self.sink
    }

    /// The sink, to configure it; writing to it breaks the stream.
    pub const fn get_mut(&mut self) -> &mut W {
        &mut self.sink
    }

    /// The sink, behind the last record.
    pub fn into_inner(self) -> W {
        self.sink
    }

    /// Flushes the sink.
    ///
    /// # Errors
    /// The sink's.
    pub fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }

    /// Writes bytes that are no record: a header, a preamble.
    ///
    /// # Errors
    /// The sink's.
    pub fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sink.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Writes a record whose body is the concatenation of `parts`.
    ///
    /// # Errors
    /// The sink's; [`ErrorKind::InvalidInput`] when the body is longer than 32 bits can say.
    pub fn record(&mut self, type_id: u32, parts: &[&[u8]]) -> io::Result<()> {
        let length = parts.iter().map(|part| part.len() as u64).sum();
        let header = header(type_id, length)?;
        let bytes = header.emit();
        let sent = send(&mut self.sink, [&bytes[..]].into_iter().chain(parts.iter().copied()).chain([padding(header)]));
        self.written += header.total();
        sent
    }

    /// Writes a PAGE_DATA record. `contents` gives the pages of those entries that have contents, in their order; each
    /// piece is a whole number of pages, and the more pages a piece has the fewer iovecs are needed.
    ///
    /// # Errors
    /// The sink's; [`ErrorKind::InvalidInput`] for no entries, too many, or contents that do not match them - found
    /// before anything is written.
    pub fn page_data<'a, E, C>(&mut self, entries: E, contents: C) -> io::Result<()>
    where
        E: ExactSizeIterator<Item = PageEntry> + Clone,
        C: IntoIterator<Item = &'a [u8]>,
        C::IntoIter: Clone,
    {
        let contents = contents.into_iter();
        let count = entries.len();
        let pages = entries.clone().filter(|entry| entry.page_type.has_contents()).count();
        let bytes: usize = contents.clone().map(<[u8]>::len).sum();
        if count == 0 || bytes != pages * PAGE_SIZE {
            let text = format!("PAGE_DATA: {count} entries need {pages} pages, {bytes} bytes given");
            return Err(io::Error::new(ErrorKind::InvalidInput, text));
        }
        let header = header(types::PAGE_DATA, 8 + count as u64 * 8 + bytes as u64)?;
        self.head.clear();
        self.head.extend_from_slice(&header.emit());
        page_data_emit_head(entries, &mut self.head);
        let sent = send(&mut self.sink, [&self.head[..]].into_iter().chain(contents.map(shorten)));
        self.written += header.total();
        sent
    }

    /// Writes all of a PAGE_DATA record but its contents, which must follow by [`RecordWriter::raw`]: a page for each of the entries that have
    /// contents, in their order. For contents that are not at hand in one piece.
    ///
    /// # Errors
    /// The sink's; [`ErrorKind::InvalidInput`] for no entries, or too many, found before anything is written.
    pub fn page_data_head<E>(&mut self, entries: E) -> io::Result<()>
    where
        E: ExactSizeIterator<Item = PageEntry> + Clone,
    {
        let count = entries.len();
        if count == 0 {
            return Err(io::Error::new(ErrorKind::InvalidInput, "PAGE_DATA without entries"));
        }
        let pages = entries.clone().filter(|entry| entry.page_type.has_contents()).count();
        let header = header(types::PAGE_DATA, 8 + count as u64 * 8 + (pages * PAGE_SIZE) as u64)?;
        self.head.clear();
        self.head.extend_from_slice(&header.emit());
        page_data_emit_head(entries, &mut self.head);
        self.written += self.head.len() as u64;
        self.sink.write_all(&self.head)
    }
}

fn header(type_id: u32, length: u64) -> io::Result<RecordHeader> {
    match u32::try_from(length) {
        // The padding must not carry the record over 32 bits either: real receivers round up in 32 bits.
        Ok(length) if length <= u32::MAX - 7 => Ok(RecordHeader::new(type_id, length)),
        _ => Err(io::Error::new(ErrorKind::InvalidInput, format!("a record body of {length} bytes"))),
    }
}

fn padding(header: RecordHeader) -> &'static [u8] {
    const ZERO: [u8; HEADER_LEN] = [0; HEADER_LEN];
    &ZERO[..header.padding() as usize]
}

fn shorten<'s, 'l: 's>(piece: &'l [u8]) -> &'s [u8] {
    piece
}

/// Writes all pieces, as many a call as the system takes.
fn send<'a>(sink: &mut impl Write, pieces: impl Iterator<Item = &'a [u8]>) -> io::Result<()> {
    let mut batch: ArrayVec<IoSlice<'a>, MAX_IOVECS> = ArrayVec::new();
    for piece in pieces.filter(|piece| !piece.is_empty()) {
        if batch.is_full() {
            write_all_vectored(sink, &mut batch)?;
            batch.clear();
        }
        batch.push(IoSlice::new(piece));
    }
    write_all_vectored(sink, &mut batch)
}

fn write_all_vectored(sink: &mut impl Write, mut pieces: &mut [IoSlice<'_>]) -> io::Result<()> {
    while !pieces.is_empty() {
        match sink.write_vectored(pieces) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut pieces, written),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libxc::PageType;

    /// Takes a few bytes a call, across pieces.
    struct Trickle(Vec<u8>, usize);

    impl Write for Trickle {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.write_vectored(&[IoSlice::new(bytes)])
        }

        fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
            assert!(pieces.len() <= MAX_IOVECS);
            self.1 = self.1 % 5000 + 7;
            let before = self.0.len();
            self.0.extend(pieces.iter().flat_map(|piece| piece.iter()).take(self.1));
            Ok(self.0.len() - before)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_head_and_its_contents_are_the_record() {
        let entries = [(PageType::NOTAB, 7), (PageType::XTAB, 8), (PageType::L1TAB, 9)];
        let entries = entries.map(|(page_type, pfn)| PageEntry { page_type, pfn });
        let contents = [[1; PAGE_SIZE], [2; PAGE_SIZE]].concat();
        let (mut whole, mut parts) = (RecordWriter::new(Vec::new()), RecordWriter::new(Vec::new()));
        whole.page_data(entries.into_iter(), [&contents[..]]).unwrap();
        parts.page_data_head(entries.into_iter()).unwrap();
        for piece in contents.chunks(1000) {
            parts.raw(piece).unwrap();
        }
        assert_eq!(parts.written(), whole.written());
        assert!(parts.into_inner() == whole.into_inner());
        let error = RecordWriter::new(Vec::new()).page_data_head(entries[..0].iter().copied()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }

    #[test]
    fn records_are_padded_whatever_the_sink_takes() {
        let mut writer = RecordWriter::new(Trickle(Vec::new(), 0));
        writer.record(9, &[b"ab", b"", b"cde"]).unwrap();
        assert_eq!(writer.written(), 16);
        assert_eq!(writer.into_inner().0, [&[9, 0, 0, 0, 5, 0, 0, 0][..], b"abcde\0\0\0"].concat());
    }

    #[test]
    fn more_pages_than_iovecs() {
        let count = 2 * MAX_IOVECS + 3;
        let entries: Vec<_> = (0..count as u64)
            .map(|pfn| PageEntry { page_type: if pfn % 7 == 0 { PageType::XTAB } else { PageType::NOTAB }, pfn })
            .collect();
        let pages: Vec<[u8; PAGE_SIZE]> =
            entries.iter().filter(|e| e.page_type.has_contents()).map(|e| [e.pfn as u8; PAGE_SIZE]).collect();
        let mut writer = RecordWriter::new(Trickle(Vec::new(), 0));
        writer.page_data(entries.iter().copied(), pages.iter().map(|page| &page[..])).unwrap();
        let written = writer.written();
        let bytes = writer.into_inner().0;
        assert_eq!(bytes.len() as u64, written);
        assert_eq!(bytes.len(), 16 + count * 8 + pages.len() * PAGE_SIZE);
        assert!(bytes.ends_with(pages.as_flattened()));
    }

    #[test]
    fn contents_must_match_before_anything_is_written() {
        let mut writer = RecordWriter::new(Vec::new());
        let entry = PageEntry { page_type: PageType::NOTAB, pfn: 1 };
        for (entries, pages) in [(&[][..], 0), (&[entry], 0), (&[entry], 2)] {
            let page = [0; PAGE_SIZE];
            let result = writer.page_data(entries.iter().copied(), std::iter::repeat_n(&page[..], pages));
            assert_eq!(result.unwrap_err().kind(), ErrorKind::InvalidInput);
        }
        assert!(writer.into_inner().is_empty());
    }
}
