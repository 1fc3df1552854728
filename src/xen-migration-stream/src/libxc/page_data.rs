//! PAGE_DATA: pfns with their types, and the contents of those that have some. Source: "PAGE_DATA".

use super::{MAX_PFN, PAGE_SIZE};
use crate::error::{BodyError, Problem};
use byteorder::{ByteOrder, LittleEndian};
use nom::IResult;
use nom::Parser;
use nom::number::complete::le_u32;
use std::fmt;

const RECORD: &str = "PAGE_DATA";
/// Bytes before the pfn array.
const FIXED: usize = 8;
/// Bytes of one entry of the pfn array.
const ENTRY: usize = 8;
const PFN_MASK: u64 = (1 << 52) - 1;
const RESERVED_MASK: u64 = 0xff << 52;

/// The numbers that are no type, a bit each: 5 to 8.
const NO_TYPES: u16 = 0b1_1110_0000;
/// The types that are page tables, a bit each: 1 to 4 and 9 to 12.
const TABLES: u16 = 0b1_1110_0001_1110;

/// The type of a page: `XEN_DOMCTL_PFINFO_*`, 4 bits. [`PageType::NOTAB`] by default.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct PageType(u8);

impl PageType {
    /// A normal page.
    pub const NOTAB: PageType = PageType(0x0);
    /// A level 1 page table.
    pub const L1TAB: PageType = PageType(0x1);
    /// A level 2 page table.
    pub const L2TAB: PageType = PageType(0x2);
    /// A level 3 page table.
    pub const L3TAB: PageType = PageType(0x3);
    /// A level 4 page table.
    pub const L4TAB: PageType = PageType(0x4);
    /// A broken page: no contents.
    pub const BROKEN: PageType = PageType(0xd);
    /// Allocate only: no contents.
    pub const XALLOC: PageType = PageType(0xe);
    /// Invalid, a hole: no contents.
    pub const XTAB: PageType = PageType(0xf);

    /// The type with this number; `None` for 5 to 8 and above 15, which do not exist.
    pub const fn from_wire(value: u8) -> Option<Self> {
        match value {
            0..=4 | 9..=15 => Some(PageType(value)),
            _ => None,
        }
    }

    /// The number on the wire.
    pub const fn wire(self) -> u8 {
        self.0
    }

    /// Whether a page of contents stands in the stream.
    pub const fn has_contents(self) -> bool {
        self.0 < 0xd
    }

    /// Whether a restorer gives the guest memory for a page of this type.
    pub const fn is_populated(self) -> bool {
        !matches!(self, PageType::BROKEN | PageType::XTAB)
    }

    /// 1 to 4 for page tables, pinned or not.
    pub const fn table_level(self) -> Option<u8> {
        match self.0 {
            1..=4 => Some(self.0),
            9..=0xc => Some(self.0 - 8),
            _ => None,
        }
    }

    /// Whether it is a pinned page table.
    pub const fn is_pinned(self) -> bool {
        matches!(self.0, 9..=0xc)
    }

    /// The specification's name.
    pub const fn name(self) -> &'static str {
        const NAMES: [&str; 16] = [
            "NOTAB",
            "L1TAB",
            "L2TAB",
            "L3TAB",
            "L4TAB",
            "5",
            "6",
            "7",
            "8",
            "L1TAB_PIN",
            "L2TAB_PIN",
            "L3TAB_PIN",
            "L4TAB_PIN",
            "BROKEN",
            "XALLOC",
            "XTAB",
        ];
        NAMES[self.0 as usize & 0xf]
    }
}

impl fmt::Debug for PageType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One entry of the pfn array.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageEntry {
    /// The page's type.
    pub page_type: PageType,
    /// The page frame number, at most [`MAX_PFN`].
    pub pfn: u64,
}

impl PageEntry {
    /// The entry as it stands in the stream; bits 59 to 52 are zero.
    pub const fn wire(self) -> u64 {
        (self.page_type.0 as u64) << 60 | (self.pfn & PFN_MASK)
    }
}

/// A PAGE_DATA body: a checked view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageData<'a> {
    reserved: u32,
    /// The types that occur, a bit each.
    types: u16,
    /// What all of the entries' words have in common or not: their OR.
    bits: u64,
    entries: &'a [u8],
    contents: Option<&'a [u8]>,
}

/// Bytes of a body of `length` up to the end of its pfn array, as far as the first 8 of them tell.
///
/// Never more than `length`.
pub fn head_len(length: u32, first: &[u8; FIXED]) -> u64 {
    let count = LittleEndian::read_u32(&first[..4]);
    u64::from(length).min(FIXED as u64 + u64::from(count) * ENTRY as u64)
}

impl<'a> PageData<'a> {
    /// Checks a body of `length` bytes, of which `body` holds all, or those up to the end of the pfn array when the
    /// reader left the contents out.
    pub(super) fn parse(body: &'a [u8], length: u32) -> Result<Self, BodyError> {
        let length = u64::from(length);
        let fixed: IResult<&[u8], (u32, u32)> = (le_u32, le_u32).parse(body);
        let Ok((rest, (count, reserved))) = fixed else {
            return Err(BodyError::TooShort { record: RECORD, least: FIXED as u64, got: length });
        };
        if count == 0 {
            return Err(BodyError::NoPages);
        }
        let room = (length - FIXED as u64) / ENTRY as u64;
        // On every platform here usize has 64 bits or the body already fits it, so the product cannot wrap.
        let Some((entries, contents)) = rest.split_at_checked((count as usize).saturating_mul(ENTRY)) else {
            return Err(BodyError::Count { record: RECORD, count, length, room });
        };
        // One walk for what is right, which is nearly always all of it.
        let (mut types, mut bits, mut pages) = (0u16, 0u64, 0u64);
        for value in entries.chunks_exact(ENTRY).map(LittleEndian::read_u64) {
            let page_type = PageType((value >> 60) as u8);
            types |= 1 << page_type.0;
            bits |= value;
            pages += u64::from(page_type.has_contents());
        }
        if types & NO_TYPES != 0 || bits & PFN_MASK > MAX_PFN {
            check_entries(entries)?;
        }
        let expected = (FIXED + entries.len()) as u64 + pages * PAGE_SIZE as u64;
        if length != expected {
            return Err(BodyError::PageDataSize { count, pages, expected, got: length });
        }
        let contents = (body.len() as u64 == length).then_some(contents);
        Ok(PageData { reserved, types, bits, entries, contents })
    }

    /// Whether there is a page table among the pages.
    pub const fn has_tables(&self) -> bool {
        self.types & TABLES != 0
    }

    /// Whether each page that has to be populated comes with contents.
    pub const fn populates_with_contents(&self) -> bool {
        self.types & 1 << PageType::XALLOC.0 == 0
    }

    /// At least the highest pfn among the entries: all of their bits together.
    pub const fn highest_possible(&self) -> u64 {
        self.bits & PFN_MASK
    }

    /// Entries in the record; at least 1.
    pub const fn count(&self) -> usize {
        self.entries.len() / ENTRY
    }

    /// The entries, in stream order. Reserved bits are masked out.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = PageEntry> + Clone + use<'a> {
        self.entries.chunks_exact(ENTRY).map(|bytes| {
            let value = LittleEndian::read_u64(bytes);
            // The types were checked when the view was made.
            PageEntry { page_type: PageType((value >> 60) as u8), pfn: value & PFN_MASK }
        })
    }

    /// Entries with the contents that belong to them: `None` for types without contents, and for all when the reader
    /// left contents out.
    pub fn pages(&self) -> impl Iterator<Item = (PageEntry, Option<&'a [u8]>)> + use<'a> {
        let mut contents = self.contents.unwrap_or_default().chunks_exact(PAGE_SIZE);
        self.entries().map(move |entry| {
            let page = if entry.page_type.has_contents() { contents.next() } else { None };
            (entry, page)
        })
    }

    /// All contents in one piece, in stream order; `None` when the reader left them out.
    pub const fn contents(&self) -> Option<&'a [u8]> {
        self.contents
    }

    /// Reports what a writer must leave zero: the reserved word, and the first entry with reserved bits.
    pub fn strict(&self, report: &mut dyn FnMut(Problem)) {
        if self.reserved != 0 {
            report(Problem::Reserved { record: RECORD, field: "reserved", value: self.reserved.into() });
        }
        if self.bits & RESERVED_MASK == 0 {
            return;
        }
        let mut bits = self.entries.chunks_exact(ENTRY).map(|bytes| LittleEndian::read_u64(bytes) & RESERVED_MASK);
        if let Some(value) = bits.find(|&bits| bits != 0) {
            report(Problem::Reserved { record: RECORD, field: "pfn bits 52-59", value: value >> 52 });
        }
    }
}

/// Judges a body of `length` bytes by those that have arrived: by its length, its count, and its entries as far as they go.
pub(super) fn judge(length: u32, arrived: &[u8]) -> Result<(), BodyError> {
    let got = u64::from(length);
    let Some(room) = got.checked_sub(FIXED as u64) else {
        return Err(BodyError::TooShort { record: RECORD, least: FIXED as u64, got });
    };
    let Some(count) = arrived.first_chunk().map(|&count| u32::from_le_bytes(count)) else { return Ok(()) };
    if count == 0 {
        return Err(BodyError::NoPages);
    }
    let Some(contents) = room.checked_sub(u64::from(count) * ENTRY as u64) else {
        return Err(BodyError::Count { record: RECORD, count, length: got, room: room / ENTRY as u64 });
    };
    let entries = arrived.get(FIXED..).unwrap_or_default();
    let (entries, _) = entries.split_at(entries.len().min((count as usize).saturating_mul(ENTRY)));
    check_entries(entries)?;
    let types = entries.chunks_exact(ENTRY).map(|bytes| PageType((LittleEndian::read_u64(bytes) >> 60) as u8));
    let known = types.len() as u64;
    let least = types.filter(|page_type| page_type.has_contents()).count() as u64;
    let most = least + (u64::from(count) - known);
    let pages = contents / PAGE_SIZE as u64;
    if contents % PAGE_SIZE as u64 == 0 && (least..=most).contains(&pages) {
        return Ok(());
    }
    let pages = pages.clamp(least, most);
    let expected = got - contents + pages * PAGE_SIZE as u64;
    Err(BodyError::PageDataSize { count, pages, expected, got })
}

/// The first entry whose type or pfn there is not.
fn check_entries(entries: &[u8]) -> Result<(), BodyError> {
    for (entry, value) in entries.chunks_exact(ENTRY).map(LittleEndian::read_u64).enumerate() {
        let entry = entry as u32;
        if PageType::from_wire((value >> 60) as u8).is_none() {
            return Err(BodyError::PageType { entry, value });
        }
        let pfn = value & PFN_MASK;
        if pfn > MAX_PFN {
            return Err(BodyError::Pfn { record: RECORD, entry: entry.into(), pfn, limit: MAX_PFN });
        }
    }
    Ok(())
}

/// Appends everything of a body that stands before the page contents.
pub(crate) fn emit_head(entries: impl ExactSizeIterator<Item = PageEntry>, out: &mut Vec<u8>) {
    out.extend_from_slice(&(entries.len() as u32).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    let start = out.len();
    out.resize(start + entries.len() * ENTRY, 0);
    let places = out.get_mut(start..).unwrap_or_default().chunks_exact_mut(ENTRY);
    for (place, entry) in places.zip(entries) {
        place.copy_from_slice(&entry.wire().to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(entries: &[u64], pages: usize) -> Vec<u8> {
        let mut out = (entries.len() as u64).to_le_bytes().to_vec();
        out.extend(entries.iter().flat_map(|entry| entry.to_le_bytes()));
        for page in 0..pages {
            out.extend([page as u8 + 1; PAGE_SIZE]);
        }
        out
    }

    fn parse(bytes: &[u8]) -> Result<PageData<'_>, BodyError> {
        PageData::parse(bytes, bytes.len() as u32)
    }

    #[test]
    fn contents_go_to_the_entries_that_have_some() {
        let bytes = body(&[5, 0xf << 60 | 6, 0x9 << 60 | 7, 0xe << 60 | 8], 2);
        let view = parse(&bytes).unwrap();
        let got: Vec<_> = view.pages().map(|(e, page)| (e.pfn, e.page_type.name(), page.map(|p| p[0]))).collect();
        assert_eq!(got, [(5, "NOTAB", Some(1)), (6, "XTAB", None), (7, "L1TAB_PIN", Some(2)), (8, "XALLOC", None)]);
        let mut head = Vec::new();
        emit_head(view.entries(), &mut head);
        assert_eq!(head, bytes[..head.len()]);
        assert_eq!(head_len(bytes.len() as u32, bytes[..8].try_into().unwrap()), head.len() as u64);
    }

    #[test]
    fn only_three_types_carry_no_contents_and_allocate_only_is_populated() {
        let types = || (0..=255).filter_map(PageType::from_wire);
        assert_eq!(types().map(PageType::wire).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 9, 10, 11, 12, 13, 14, 15]);
        let empty: Vec<_> = types().filter(|t| !t.has_contents()).map(|t| (t, t.is_populated())).collect();
        assert_eq!(empty, [(PageType::BROKEN, false), (PageType::XALLOC, true), (PageType::XTAB, false)]);
        assert_eq!(PageType::default(), PageType::NOTAB);
    }

    #[test]
    fn what_occurs_among_the_types_is_known() {
        for page_type in (0..=255).filter_map(PageType::from_wire) {
            let bytes = body(&[7, u64::from(page_type.wire()) << 60 | 8], 1 + usize::from(page_type.has_contents()));
            let view = parse(&bytes).unwrap();
            assert_eq!(view.has_tables(), page_type.table_level().is_some(), "{page_type:?}");
            let without = page_type.is_populated() && !page_type.has_contents();
            assert_eq!(view.populates_with_contents(), !without, "{page_type:?}");
        }
    }

    #[test]
    fn without_contents_the_size_is_still_checked() {
        let bytes = body(&[5, 6], 2);
        let view = PageData::parse(&bytes[..24], bytes.len() as u32).unwrap();
        assert_eq!((view.contents(), view.count()), (None, 2));
        assert!(view.pages().all(|(_, page)| page.is_none()));
        assert!(matches!(PageData::parse(&bytes[..24], 24 + 4096), Err(BodyError::PageDataSize { .. })));
    }

    #[test]
    fn bad_bodies_are_named() {
        assert_eq!(parse(&[0; 7]), Err(BodyError::TooShort { record: RECORD, least: 8, got: 7 }));
        assert_eq!(parse(&body(&[], 0)), Err(BodyError::NoPages));
        for wire in 5..=8u64 {
            let value = wire << 60 | 1;
            assert_eq!(parse(&body(&[0, value], 2)), Err(BodyError::PageType { entry: 1, value }));
        }
        assert_eq!(
            parse(&body(&[1 << 51], 1)),
            Err(BodyError::Pfn { record: RECORD, entry: 0, pfn: 1 << 51, limit: MAX_PFN })
        );
        // Data for a hole, and a page too few.
        for (entry, pages) in [(0xf << 60, 1), (0, 0)] {
            assert!(matches!(parse(&body(&[entry], pages)), Err(BodyError::PageDataSize { .. })));
        }
        // 0x2000_0001 entries of 8 bytes are 8 when counted in 32 bits.
        let mut bytes = body(&[0], 1);
        bytes[..4].copy_from_slice(&0x2000_0001u32.to_le_bytes());
        let length = bytes.len() as u64;
        let room = (length - 8) / 8;
        assert_eq!(parse(&bytes), Err(BodyError::Count { record: RECORD, count: 0x2000_0001, length, room }));
    }

    #[test]
    fn reserved_bits_are_reported_and_masked() {
        let bytes = body(&[0x21 << 52 | 9], 1);
        let view = parse(&bytes).unwrap();
        assert_eq!(view.entries().next().unwrap().pfn, 9);
        let mut problems = Vec::new();
        view.strict(&mut |p| problems.push(p));
        assert_eq!(problems, [Problem::Reserved { record: RECORD, field: "pfn bits 52-59", value: 0x21 }]);
    }
}
