//! What stands in a RAM section: pages and their headers, and the list of blocks.
#![forbid(unsafe_code)]

use super::error::WalkError;
use serde::Serialize;

/// Most RAM blocks of a guest: each device's memory is one.
const MOST_BLOCKS: usize = 1024;

const ZERO: u64 = 0x02;
const MEM_SIZE: u64 = 0x04;
const PAGE: u64 = 0x08;
const EOS: u64 = 0x10;
const CONTINUE: u64 = 0x20;
const XBZRLE: u64 = 0x40;
const HOOK: u64 = 0x80;
const COMPRESS_PAGE: u64 = 0x100;
const MULTIFD_FLUSH: u64 = 0x200;
/// All that is below the smallest page.
const FLAGS: u64 = 0x3ff;

/// The only encoding of an XBZRLE page.
const ENCODING_XBZRLE: u8 = 1;

/// Pages, counted by how they are sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Ram {
    /// With their contents.
    pub full: u64,
    /// Filled with one byte.
    pub zero: u64,
    /// As a difference to what was sent before.
    pub xbzrle: u64,
    /// Packed by zlib.
    pub compressed: u64,
    /// Sections they came in.
    pub sections: u64,
    /// Marks at which every multifd channel has to be flushed.
    #[serde(skip_serializing_if = "is_zero")]
    pub flushes: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
const fn is_zero(value: &u64) -> bool {
    *value == 0
}

impl Ram {
    /// All of them.
    pub const fn pages(&self) -> u64 {
        self.full.saturating_add(self.zero).saturating_add(self.xbzrle).saturating_add(self.compressed)
    }

    pub(super) const fn count(&mut self, kind: PageKind) {
        match kind {
            PageKind::Full => self.full += 1,
            PageKind::Zero => self.zero += 1,
            PageKind::Xbzrle => self.xbzrle += 1,
            PageKind::Compressed => self.compressed += 1,
            PageKind::Flush => self.flushes += 1,
            PageKind::Sizes | PageKind::End | PageKind::Hook => {}
        }
    }
}

/// What a header in a RAM section is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PageKind {
    Full,
    Zero,
    Xbzrle,
    Compressed,
    /// The list of blocks.
    Sizes,
    /// The end of the section.
    End,
    /// A mark of a transport that sends pages by other ways.
    Hook,
    /// The pages on the multifd channels belong in front of this mark.
    Flush,
}

impl PageKind {
    const fn of(flags: u64) -> Option<Self> {
        Some(match flags & !CONTINUE {
            ZERO => PageKind::Zero,
            MEM_SIZE => PageKind::Sizes,
            PAGE => PageKind::Full,
            EOS => PageKind::End,
            XBZRLE => PageKind::Xbzrle,
            HOOK => PageKind::Hook,
            MULTIFD_FLUSH => PageKind::Flush,
            COMPRESS_PAGE => PageKind::Compressed,
            _ => return None,
        })
    }

    const fn is_page(self) -> bool {
        matches!(self, PageKind::Full | PageKind::Zero | PageKind::Xbzrle | PageKind::Compressed)
    }

    /// Bytes of the header behind address and block.
    const fn more(self) -> usize {
        match self {
            // Which byte it is filled with.
            PageKind::Zero => 1,
            // Encoding and length.
            PageKind::Xbzrle => 3,
            // Length.
            PageKind::Compressed => 4,
            _ => 0,
        }
    }
}

/// A page's header, or a mark.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    pub(super) kind: PageKind,
    /// Where the page is in its block; with [`PageKind::Sizes`] the sum of the blocks.
    pub(super) address: u64,
    /// Bytes of contents.
    pub(super) follows: u64,
}

impl Header {
    /// Bytes of the header that begins with `held`, as far as those tell.
    pub(super) fn needed(held: &[u8]) -> usize {
        let Some((first, rest)) = held.split_first_chunk() else { return 8 };
        let flags = u64::from_be_bytes(*first) & FLAGS;
        match PageKind::of(flags) {
            Some(kind) if kind.is_page() && flags & CONTINUE == 0 => match rest.first() {
                None => 9,
                Some(length) => 9 + usize::from(*length) + kind.more(),
            },
            Some(kind) => 8 + kind.more(),
            None => 8,
        }
    }

    /// The header in `held`, which is whole and stands at `offset`.
    pub(super) fn parse(held: &[u8], blocks: &mut Blocks, offset: u64) -> Result<Self, WalkError> {
        let (first, rest) = held.split_first_chunk().unwrap_or((&[0; 8], &[]));
        let value = u64::from_be_bytes(*first);
        let flags = value & blocks.flags();
        let kind = PageKind::of(flags).ok_or(WalkError::Flags { offset, flags })?;
        let address = value & !blocks.flags();
        let mut follows = 0;
        if kind.is_page() {
            let more = if flags & CONTINUE == 0 {
                let (name, more) = short_text(rest);
                blocks.choose(name, address, offset)?;
                more
            } else {
                rest
            };
            blocks.check(address, offset)?;
            follows = match kind {
                PageKind::Full => blocks.page(),
                PageKind::Xbzrle => {
                    let (encoding, length) = match more {
                        [encoding, high, low] => (*encoding, u64::from(u16::from_be_bytes([*high, *low]))),
                        _ => (0, 0),
                    };
                    if encoding != ENCODING_XBZRLE {
                        let most = ENCODING_XBZRLE.into();
                        return Err(WalkError::Packed { offset, value: encoding.into(), most });
                    }
                    at_most(length, blocks.page(), offset)?
                }
                PageKind::Compressed => {
                    let length = more.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
                    at_most(length.into(), packed_bound(blocks.page()), offset)?
                }
                _ => 0,
            };
        }
        Ok(Header { kind, address, follows })
    }
}

/// What zlib makes of a page that cannot be packed.
const fn packed_bound(page: u64) -> u64 {
    page + (page >> 12) + (page >> 14) + (page >> 25) + 13
}

const fn at_most(value: u64, most: u64, offset: u64) -> Result<u64, WalkError> {
    if value > most { Err(WalkError::Packed { offset, value, most }) } else { Ok(value) }
}

/// Text behind an 8-bit length, and what follows it.
fn short_text(bytes: &[u8]) -> (&[u8], &[u8]) {
    bytes.split_first().and_then(|(length, rest)| rest.split_at_checked((*length).into())).unwrap_or_default()
}

/// The guest's RAM blocks: from the list at the start of the first image.
#[derive(Debug, Clone)]
pub(super) struct Blocks {
    list: Vec<(Vec<u8>, u64)>,
    /// The block of the last page: the next one's where it says "the same".
    last: Option<usize>,
    page_bits: u32,
    addresses: bool,
}

impl Default for Blocks {
    fn default() -> Self {
        Blocks { list: Vec::new(), last: None, page_bits: 12, addresses: false }
    }
}

impl Blocks {
    pub(super) const fn page_bits(&mut self, bits: u32) {
        self.page_bits = bits;
    }

    /// The list has an address with each block: capability x-ignore-shared.
    pub(super) const fn with_addresses(&mut self) {
        self.addresses = true;
    }

    /// Bytes of a list's entry behind the name.
    pub(super) const fn tail(&self) -> usize {
        if self.addresses { 16 } else { 8 }
    }

    pub(super) const fn page(&self) -> u64 {
        1 << self.page_bits
    }

    const fn flags(&self) -> u64 {
        self.page() - 1
    }

    /// Takes an entry of the list. Gives what is left of the sum.
    pub(super) fn list(&mut self, held: &[u8], left: u64, offset: u64) -> Result<u64, WalkError> {
        let (name, rest) = short_text(held);
        let length = rest.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        let less = left.checked_sub(length).ok_or(WalkError::BlockLength { offset, length, left })?;
        if let Some((_, known)) = self.list.iter_mut().find(|(known, _)| known == name) {
            *known = length;
        } else if self.list.len() == MOST_BLOCKS {
            return Err(WalkError::Blocks { offset, most: MOST_BLOCKS });
        } else {
            self.list.push((name.to_vec(), length));
        }
        Ok(less)
    }

    /// Bytes of a block of that name.
    pub(super) fn length(&self, name: &[u8]) -> Option<u64> {
        self.list.iter().find(|(known, _)| known == name).map(|(_, length)| *length)
    }

    /// Whether any list has come.
    pub(super) const fn is_known(&self) -> bool {
        !self.list.is_empty()
    }

    fn choose(&mut self, name: &[u8], address: u64, offset: u64) -> Result<(), WalkError> {
        self.last = self.list.iter().position(|(known, _)| known == name);
        if self.last.is_none() {
            let block = String::from_utf8_lossy(name).into_owned();
            return Err(WalkError::Page { offset, address, block, length: 0 });
        }
        Ok(())
    }

    /// Whether the block of the last page has a page here.
    fn check(&self, address: u64, offset: u64) -> Result<(), WalkError> {
        let block = self.last.and_then(|last| self.list.get(last));
        let length = block.map_or(0, |(_, length)| *length);
        if address.saturating_add(self.page()) > length.checked_next_multiple_of(self.page()).unwrap_or(u64::MAX) {
            let block = block.map_or(String::new(), |(name, _)| String::from_utf8_lossy(name).into_owned());
            return Err(WalkError::Page { offset, address, block, length });
        }
        Ok(())
    }
}
