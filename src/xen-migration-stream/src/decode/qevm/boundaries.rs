//! Where the sections of a savevm stream begin and end, by inference.
//!
//! A device section carries no length: only the device's own description of its state knows it. What
//! can be seen is that each section begins with a header of a rigid form (type, section id, length
//! of a name, printable name, instance, version) and, unless the machine type turns footers off,
//! ends with a footer that repeats the section id. So the extents are accepted only if they make
//! one chain from the first header to the end-of-file mark, and there is no second such chain:
//!
//! * *with footers*: section `i` may end at a place where the footer of `i`'s id is followed by a
//!   header or the end of file. The number of ways from each header to the end is counted from the
//!   back; exactly one way from the first header must exist. A section that comes in parts has a
//!   footer of the same id behind each part: there the nearest place from which the end can be
//!   reached is the end of the part.
//! * *without footers* (the form that QEMU writes under Xen): every place of header form is taken
//!   for a header. Device data that imitates a header would give a section too many; what speaks
//!   against it is that section ids and pairs of name and instance are unique in a stream, and the
//!   chain is refused where they are not.
//!
//! Both are linear in the blob's length.

use std::collections::{HashMap, HashSet};

use nom::bytes::complete::take;
use nom::number::complete::{be_u8, be_u32};
use nom::{IResult, Parser};

/// `QEMU_VM_SECTION_START`.
const START: u8 = 1;
/// `QEMU_VM_SECTION_PART`.
const PART: u8 = 2;
/// `QEMU_VM_SECTION_END`.
const END: u8 = 3;
/// `QEMU_VM_SECTION_FULL`.
const FULL: u8 = 4;
/// `QEMU_VM_SECTION_FOOTER`.
const FOOTER_MARK: u8 = 0x7e;
/// Bytes of a footer: mark and section id.
const FOOTER: usize = 5;

/// Why the chain of sections stops before the end of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// There is more than one way to read on.
    Ambiguous,
    /// No section header here.
    NoHeader,
    /// No end of the section that starts here.
    NoEnd,
}

/// A place of header form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header<'a> {
    /// Offset of the type byte.
    pub(super) offset: usize,
    /// Bytes of the header.
    pub(super) length: usize,
    /// Type byte.
    pub(super) kind: u8,
    /// Section id.
    pub(super) id: u32,
    /// Name, instance and version; only with START and FULL.
    pub(super) name: Option<(&'a str, u32, u32)>,
}

/// The accepted sections: header, offset behind the data.
pub(super) struct Chain<'a> {
    pub(super) sections: Vec<(Header<'a>, usize)>,
    pub(super) footers: bool,
    /// Absent when the chain reaches the end of file.
    pub(super) stop: Option<(usize, Stop)>,
}

/// Finds the sections from `first` to the end-of-file mark at `eof` (`None`: the blob has no such
/// mark where it should).
pub(super) fn chain(blob: &[u8], first: usize, eof: Option<usize>) -> Chain<'_> {
    if eof == Some(first) {
        return Chain { sections: Vec::new(), footers: false, stop: None };
    }
    let limit = eof.unwrap_or(blob.len());
    let headers = candidates(blob, first, limit);
    if headers.first().is_none_or(|h| h.offset != first) {
        return Chain { sections: Vec::new(), footers: false, stop: Some((first, Stop::NoHeader)) };
    }
    let with = with_footers(blob, &headers, eof);
    let footers_seen =
        with.stop.is_none() || !with.sections.is_empty() || matches!(with.stop, Some((_, Stop::Ambiguous)));
    if footers_seen { with } else { without_footers(blob, &headers, eof) }
}

fn named_header(input: &[u8]) -> IResult<&[u8], (u32, &[u8], u32, u32)> {
    let (input, id) = be_u32(input)?;
    let (input, length) = be_u8(input)?;
    let (input, name) = take(length)(input)?;
    let (input, (instance, version)) = (be_u32, be_u32).parse(input)?;
    Ok((input, (id, name, instance, version)))
}

/// The largest section id taken for real; QEMU counts them up from 0 as devices register.
const MAX_ID: u32 = 0xffff;
/// The largest version of a device's state taken for real; they count up from 0.
const MAX_VERSION: u32 = 0xffff;
/// The shortest name taken for real.
const MIN_NAME: usize = 2;

fn header_at<'a>(blob: &'a [u8], offset: usize, limit: usize, started: &HashSet<u32>) -> Option<Header<'a>> {
    let (kind, rest) = blob.get(offset..limit)?.split_first()?;
    match *kind {
        START | FULL => {
            let (after, (id, name, instance, version)) = named_header(rest).ok()?;
            let plausible = id <= MAX_ID
                && version <= MAX_VERSION
                && name.len() >= MIN_NAME
                && name.iter().all(|c| (b' '..=b'~').contains(c));
            let name = std::str::from_utf8(name).ok().filter(|_| plausible)?;
            let length = 1 + rest.len() - after.len();
            Some(Header { offset, length, kind: *kind, id, name: Some((name, instance, version)) })
        }
        PART | END => {
            let id = u32::from_be_bytes(*rest.first_chunk()?);
            started.contains(&id).then_some(Header { offset, length: 5, kind: *kind, id, name: None })
        }
        _ => None,
    }
}

/// Every place of header form, ascending. PART and END sections have no name: they are taken only
/// where they continue a section seen to start and follow a footer.
fn candidates(blob: &[u8], first: usize, limit: usize) -> Vec<Header<'_>> {
    let mut started = HashSet::new();
    let mut headers = Vec::new();
    for offset in first..limit {
        let Some(header) = header_at(blob, offset, limit, &started) else {
            continue;
        };
        if header.name.is_none() && footer_before(blob, offset).is_none() {
            continue;
        }
        if header.kind == START {
            started.insert(header.id);
        }
        headers.push(header);
    }
    headers
}

/// The id of the footer that ends at `offset`.
fn footer_before(blob: &[u8], offset: usize) -> Option<u32> {
    let footer = blob.get(offset.checked_sub(FOOTER)?..offset)?;
    match footer {
        [FOOTER_MARK, id @ ..] => Some(u32::from_be_bytes(*id.first_chunk()?)),
        _ => None,
    }
}

/// Where the section before place `next` ends: at that header, or (the last place) at the end of
/// file.
fn end_of(headers: &[Header<'_>], next: usize, eof: Option<usize>) -> Option<usize> {
    match headers.get(next) {
        Some(header) => Some(header.offset),
        None => eof,
    }
}

/// Ways from a place to the end of file, and the nearest place they go by.
#[derive(Clone, Copy, Default)]
struct Ways {
    /// Ways over all places, counted up to 2.
    all: u8,
    /// Ways by the nearest place alone, counted up to 2.
    nearest: u8,
    /// The nearest place.
    next: usize,
}

impl Ways {
    /// The ways that count for a section of this kind.
    fn of(self, kind: u8) -> u8 {
        if kind == FULL { self.all } else { self.nearest }
    }
}

fn with_footers<'a>(blob: &[u8], headers: &[Header<'a>], eof: Option<usize>) -> Chain<'a> {
    // Per section id: the ways that start behind a footer of this id, at any place further on.
    let mut behind: HashMap<u32, Ways> = HashMap::new();
    if let Some(id) = eof.and_then(|eof| footer_before(blob, eof)) {
        behind.insert(id, Ways { all: 1, nearest: 1, next: headers.len() });
    }
    let mut ways = vec![Ways::default(); headers.len()];
    for (i, (header, slot)) in headers.iter().zip(&mut ways).enumerate().rev() {
        let own = behind.get(&header.id).copied().unwrap_or_default();
        // A footer that begins inside the header is none.
        let fits = end_of(headers, own.next, eof).is_some_and(|end| end >= header.offset + header.length + FOOTER);
        if own.all == 0 || !fits {
            continue;
        }
        *slot = own;
        if let Some(id) = footer_before(blob, header.offset) {
            let here = own.of(header.kind);
            let entry = behind.entry(id).or_default();
            *entry = Ways { all: (entry.all + here).min(2), nearest: here, next: i };
        }
    }
    let unique = headers.first().zip(ways.first()).is_some_and(|(first, ways)| ways.of(first.kind) == 1);
    if !unique {
        return forward(blob, headers, eof);
    }
    let mut sections = Vec::new();
    let mut at = 0;
    while let (Some(header), Some(way)) = (headers.get(at), ways.get(at)) {
        let Some(end) = end_of(headers, way.next, eof) else {
            break;
        };
        sections.push((*header, end - FOOTER));
        at = way.next;
    }
    Chain { sections, footers: true, stop: None }
}

/// What can be read with footers where there is no chain to the end, or more than one: on from
/// section to section as long as there is one way.
fn forward<'a>(blob: &[u8], headers: &[Header<'a>], eof: Option<usize>) -> Chain<'a> {
    // Places behind a footer, by the footer's id, ascending; the end of file is the last place.
    let mut places: HashMap<u32, Vec<usize>> = HashMap::new();
    for (place, offset) in headers.iter().map(|h| h.offset).chain(eof).enumerate() {
        if let Some(id) = footer_before(blob, offset) {
            places.entry(id).or_default().push(place);
        }
    }
    let mut sections = Vec::new();
    let mut at = 0;
    let stop = loop {
        let Some(header) = headers.get(at) else {
            break (blob.len(), Stop::NoEnd);
        };
        let after = header.offset + header.length + FOOTER;
        let ends = places.get(&header.id).map(Vec::as_slice).unwrap_or_default();
        let from = ends.partition_point(|p| end_of(headers, *p, eof).is_some_and(|end| end < after));
        let end = match ends.get(from..) {
            Some([next]) => end_of(headers, *next, eof).map(|end| (*next, end)),
            Some([next, ..]) if header.kind != FULL => end_of(headers, *next, eof).map(|end| (*next, end)),
            Some([_, _, ..]) => break (header.offset, Stop::Ambiguous),
            _ => None,
        };
        let Some((next, end)) = end else {
            break (header.offset, Stop::NoEnd);
        };
        sections.push((*header, end - FOOTER));
        at = next;
    };
    Chain { sections, footers: true, stop: Some(stop) }
}

/// Bytes of the state of devices that QEMU has under Xen, without subsections: version, name or its end, and the least
/// size. Without footers the last section ends where the blob ends, also where that was cut.
///
/// Source: the states of QEMU 7.2 and 10.0 in real streams.
const LEAST: &[(u32, &str, usize)] = &[
    (2, "timer", 24),
    (1, "cpu_common", 8),
    (12, "cpu", 1313),
    (3, "apic", 181),
    (2, "fw_cfg", 6),
    (1, "PCIBUS", 516),
    (3, "/I440FX", 277),
    (1, "dma", 75),
    (3, "/PIIX3", 292),
    (3, "ioapic", 206),
    (2, "hpet", 151),
    (3, "mc146818rtc", 245),
    (3, "serial", 11),
    (2, "fdc", 542),
    (3, "ps2kbd", 284),
    (2, "ps2mouse", 291),
    (3, "pckbd", 4),
    (1, "port92", 1),
    (3, "/ide", 430),
    (1, "i2c_bus", 1),
    (3, "/piix4_pm", 312),
    (4, "/platform", 277),
];

/// The size of the data of those that have a subsection: version, name or its end, the subsection, and the size with it and what
/// comes with it.
const WITH: &[(u32, &str, &[u8], usize)] = &[
    (12, "cpu", b"cpu/poll_control_msr", 1347),
    (2, "fdc", b"fdrive/media_rate", 593),
    (3, "/piix4_pm", b"piix4_pm/memhp", 336),
];

/// Mark in front of a subsection.
const SUBSECTION_MARK: u8 = 5;

fn is(name: &str, known: &str) -> bool {
    if known.starts_with('/') { name.ends_with(known) } else { name == known }
}

/// The least size of a section's data; 0 where it is not known.
fn least(header: &Header<'_>) -> usize {
    let Some((name, _, version)) = header.name else { return 0 };
    let entry = LEAST.iter().find(|(known, device, _)| *known == version && is(name, device));
    entry.map_or(0, |(.., least)| *least)
}

/// Whether the last section, one of a known device, was cut in its subsection or in the header behind it. A cut behind a zero
/// leaves what looks like the end-of-file mark.
fn is_cut(blob: &[u8], header: &Header<'_>) -> bool {
    let Some(data) = blob.get(header.offset + header.length..) else { return false };
    let least = least(header);
    let end = match data.get(least..).and_then(<[u8]>::split_first) {
        Some((&SUBSECTION_MARK, subsection)) => {
            let name = subsection.get(1..).unwrap_or_default();
            let with = WITH.iter().find(|(version, device, with, _)| {
                let same = name.len().min(with.len());
                header.name.is_some_and(|(name, _, found)| found == *version && is(name, device))
                    && name.get(..same) == with.get(..same)
            });
            with.map_or(least, |(.., size)| *size)
        }
        _ => least,
    };
    least > 0 && data.get(end..).is_none_or(|behind| behind.is_empty() || is_cut_header(behind))
}

/// Whether bytes are the beginning of a section's header and no more.
fn is_cut_header(bytes: &[u8]) -> bool {
    let Some((kind, rest)) = bytes.split_first() else { return false };
    let (id, name) = rest.split_at(rest.len().min(4));
    let id_fits = id.iter().take(2).all(|byte| *byte == 0);
    let (length, name) = name.split_first().map_or((None, name), |(length, name)| (Some(usize::from(*length)), name));
    let named = length.is_none_or(|length| {
        let behind = name.len().saturating_sub(length);
        let printable = name.iter().take(length).all(|byte| (b' '..=b'~').contains(byte));
        // A length alone is cut behind a zero too.
        (length == 0 && name.is_empty()) || (length >= MIN_NAME && printable && behind < 8)
    });
    *kind == FULL && !rest.is_empty() && id_fits && named
}

fn without_footers<'a>(blob: &[u8], headers: &[Header<'a>], eof: Option<usize>) -> Chain<'a> {
    let mut ids: HashMap<u32, usize> = HashMap::new();
    let mut names: HashMap<(&str, u32), usize> = HashMap::new();
    let mut disputed = headers.len();
    for (i, header) in headers.iter().enumerate() {
        let same_id = ids.insert(header.id, i);
        let same_name = header.name.and_then(|(name, instance, _)| names.insert((name, instance), i));
        for earlier in same_id.into_iter().chain(same_name) {
            // The first header is certain by its place: of such a pair the later one is not.
            disputed = disputed.min(if earlier == 0 { i } else { earlier });
        }
    }
    let mut sections = Vec::new();
    let mut stop = None;
    for (i, header) in headers.iter().enumerate() {
        let end = end_of(headers, i + 1, eof);
        match end {
            // The end of the section before a disputed header is as uncertain.
            _ if disputed < headers.len() && i + 1 >= disputed => {
                stop = Some((header.offset, Stop::Ambiguous));
            }
            // START belongs to a stream with RAM, whose nameless parts cannot be told from data
            // without footers.
            Some(end) if header.kind == FULL && !(i + 1 == headers.len() && is_cut(blob, header)) => {
                sections.push((*header, end));
                continue;
            }
            _ => stop = Some((header.offset, Stop::NoEnd)),
        }
        break;
    }
    Chain { sections, footers: false, stop }
}
