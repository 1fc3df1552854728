//! Which items of a stream are wanted.

use crate::stream::check::Parsed;
use crate::stream::framer::Item;
use crate::stream::libxc::{self, Record};
use crate::stream::{Layer, libxl};
use std::str::FromStr;

/// Names of the items that are no records.
const HEADERS: [&str; 5] =
    ["XL_PREAMBLE", "LIBXL_HEADER", "LIBXC_IMAGE_HEADER", "LIBXC_DOMAIN_HEADER", "MIGRATION_HANDSHAKE"];
/// One more than the highest type of a record that has a name.
const TYPES: u32 = 64;

/// A type of item, by its name or number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TypeIs {
    /// As `dump` names it.
    Name(&'static str),
    /// A record's type.
    Number(u32),
}

impl FromStr for TypeIs {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(Ok(number)) = number(text).map(u32::try_from) {
            return Ok(TypeIs::Number(number));
        }
        let records = (0..TYPES).flat_map(|id| [libxl::type_name(id), libxc::type_name(id)]).flatten();
        let mut names = HEADERS.into_iter().chain(records);
        match names.find(|name| name.eq_ignore_ascii_case(text)) {
            Some(name) => Ok(TypeIs::Name(name)),
            None => {
                Err("there is no such type of record: PAGE_DATA, HVM_CONTEXT, ... as dump names them, or a number"
                    .into())
            }
        }
    }
}

/// Numbers from one to another, both included: `3`, `3-7`, `3-`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    first: u64,
    last: u64,
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, last) = match text.split_once('-') {
            None => (number(text)?, number(text)?),
            Some((first, "")) => (number(first)?, u64::MAX),
            Some((first, last)) => (number(first)?, number(last)?),
        };
        if first > last {
            return Err(format!("{first} is over {last}"));
        }
        Ok(Span { first, last })
    }
}

/// A number, decimal or hexadecimal behind `0x`.
///
/// # Errors
/// What is no number.
pub fn number(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|error| format!("{text:?}: {error}"))
}

/// What items must be to be shown; one that asks for nothing takes all.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Of any of these types.
    pub types: Vec<TypeIs>,
    /// Of any of these layers.
    pub layers: Vec<Layer>,
    /// In any of these rounds.
    pub rounds: Vec<Span>,
    /// At this offset or behind it.
    pub from: Option<u64>,
    /// At this offset or before it.
    pub to: Option<u64>,
    /// With any of these pfns.
    pub pfns: Vec<Span>,
}

impl Filter {
    /// Whether an item is wanted; `name` and `type_id` are as it is shown.
    pub(super) fn takes(&self, item: &Item<'_>, parsed: Option<&Parsed<'_>>, name: &str, type_id: Option<u32>) -> bool {
        let is = |wanted: &TypeIs| match wanted {
            TypeIs::Name(wanted) => *wanted == name,
            TypeIs::Number(number) => type_id == Some(*number),
        };
        (self.types.is_empty() || self.types.iter().any(is))
            && (self.layers.is_empty() || self.layers.contains(&item.layer))
            && (self.rounds.is_empty() || self.rounds.iter().any(|span| span.has(item.round)))
            && self.from.is_none_or(|from| item.offset >= from)
            && self.to.is_none_or(|to| item.offset <= to)
            && (self.pfns.is_empty() || self.pfns.iter().any(|span| span.is_in(parsed)))
    }
}

impl Span {
    const fn has(self, number: u64) -> bool {
        self.first <= number && number <= self.last
    }

    /// Whether a record is about any of these pfns.
    fn is_in(self, parsed: Option<&Parsed<'_>>) -> bool {
        match parsed {
            Some(Parsed::Libxc(Record::PageData(pages))) => pages.entries().any(|entry| self.has(entry.pfn)),
            Some(Parsed::Libxc(Record::CheckpointDirtyPfnList(list))) => list.pfns().any(|pfn| self.has(pfn)),
            Some(Parsed::Libxc(Record::X86PvP2mFrames(frames))) => {
                self.first <= frames.end.into() && u64::from(frames.start) <= self.last
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_types_as_people_write_them() {
        assert_eq!("3".parse(), Ok(Span { first: 3, last: 3 }));
        assert_eq!("0x10-32".parse(), Ok(Span { first: 16, last: 32 }));
        assert_eq!("7-".parse(), Ok(Span { first: 7, last: u64::MAX }));
        for bad in ["", "-", "-3", "3-2", "x", "0x", "1-x"] {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
        assert_eq!("page_data".parse(), Ok(TypeIs::Name("PAGE_DATA")));
        assert_eq!("XL_PREAMBLE".parse(), Ok(TypeIs::Name("XL_PREAMBLE")));
        assert_eq!("0x80000042".parse(), Ok(TypeIs::Number(0x8000_0042)));
        assert!("PAGES".parse::<TypeIs>().is_err() && "0x100000000".parse::<TypeIs>().is_err());
    }
}
