//! Where each page frame's contents stand.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use xen_migration_stream::libxc::PageType;

/// Page frames that are kept together.
const SPAN: u64 = 512;
/// From this number on a span is kept as a table: a list then takes as much.
const FULL: usize = 256;

/// A page frame and what the image has of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// The page frame number.
    pub pfn: u64,
    /// Its type.
    pub page_type: PageType,
    /// Where in the stream its contents begin; none for a type without contents.
    pub offset: Option<u64>,
}

/// The offset above 4 bits of type. Neither a type without contents nor an offset behind a header is 0.
#[derive(Debug, Clone, Copy)]
struct Slot(NonZeroU64);

impl Slot {
    fn new(page_type: PageType, offset: Option<u64>) -> Option<Slot> {
        NonZeroU64::new(offset.unwrap_or(0) << 4 | u64::from(page_type.wire())).map(Slot)
    }

    fn page(self, pfn: u64) -> Option<Page> {
        let page_type = PageType::from_wire((self.0.get() & 0xf) as u8)?;
        Some(Page { pfn, page_type, offset: page_type.has_contents().then_some(self.0.get() >> 4) })
    }
}

/// Page frames far apart cost as little as their entries in the stream do.
#[derive(Debug)]
enum Span {
    /// Place in the span and slot, in order.
    List(Vec<(u16, Slot)>),
    Table(Box<[Option<Slot>; SPAN as usize]>),
}

impl Span {
    fn set(&mut self, place: u16, slot: Slot) {
        match self {
            Span::Table(table) => {
                if let Some(entry) = table.get_mut(usize::from(place)) {
                    *entry = Some(slot);
                }
            }
            Span::List(list) => match list.binary_search_by_key(&place, |entry| entry.0) {
                Ok(at) => list[at].1 = slot,
                Err(at) if list.len() < FULL => list.insert(at, (place, slot)),
                Err(_) => {
                    let mut table = Box::new([None; SPAN as usize]);
                    for &(place, slot) in list.iter() {
                        table[usize::from(place)] = Some(slot);
                    }
                    table[usize::from(place)] = Some(slot);
                    *self = Span::Table(table);
                }
            },
        }
    }

    fn get(&self, place: u16) -> Option<Slot> {
        match self {
            Span::Table(table) => *table.get(usize::from(place))?,
            Span::List(list) => {
                let at = list.binary_search_by_key(&place, |entry| entry.0).ok()?;
                Some(list.get(at)?.1)
            }
        }
    }
}

/// The newest entry of each page frame.
#[derive(Debug, Default)]
pub struct PageMap(BTreeMap<u64, Span>);

impl PageMap {
    /// Takes a newer entry. `offset` is where the contents begin, for a type that has some.
    pub fn set(&mut self, pfn: u64, page_type: PageType, offset: Option<u64>) {
        if let Some(slot) = Slot::new(page_type, offset) {
            let span = self.0.entry(pfn / SPAN).or_insert_with(|| Span::List(Vec::new()));
            span.set((pfn % SPAN) as u16, slot);
        }
    }

    /// The newest entry of a page frame.
    pub fn get(&self, pfn: u64) -> Option<Page> {
        self.0.get(&(pfn / SPAN))?.get((pfn % SPAN) as u16)?.page(pfn)
    }

    /// All entries in the order of their page frames.
    pub fn iter(&self) -> impl Iterator<Item = Page> + '_ {
        self.0.iter().flat_map(|(span, slots)| {
            let places: Box<dyn Iterator<Item = (u16, Slot)>> = match slots {
                Span::List(list) => Box::new(list.iter().copied()),
                Span::Table(table) => {
                    Box::new((0..).zip(table.iter()).filter_map(|(place, slot)| Some((place, (*slot)?))))
                }
            };
            places.filter_map(move |(place, slot)| slot.page(span * SPAN + u64::from(place)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn the_newest_entry_of_each_frame_is_kept_in_order() {
        let mut map = PageMap::default();
        let mut known = HashMap::new();
        // A fixed walk over near and far frames, many of them more than once.
        let mut at: u64 = 1;
        for step in 1..20_000u64 {
            at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let pfn = if at & 1 == 0 { at >> 50 } else { (at >> 24) % (1 << 40) };
            let page_type =
                [PageType::NOTAB, PageType::L1TAB, PageType::XTAB, PageType::XALLOC][(at >> 8) as usize % 4];
            let offset = page_type.has_contents().then_some(step * 8);
            map.set(pfn, page_type, offset);
            known.insert(pfn, Page { pfn, page_type, offset });
        }
        let mut expected: Vec<Page> = known.values().copied().collect();
        expected.sort_by_key(|page| page.pfn);
        assert_eq!(map.iter().collect::<Vec<_>>(), expected);
        assert!(known.iter().all(|(&pfn, &page)| map.get(pfn) == Some(page)));
        assert_eq!(map.get(1 << 41), None);
    }
}
