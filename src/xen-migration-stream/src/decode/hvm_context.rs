//! The chain of entries that Xen saves a HVM domain's state in, the body of HVM_CONTEXT.
//!
//! Source: `struct hvm_save_descriptor` in `xen/include/public/hvm/save.h`: `u16 typecode`,
//! `u16 instance`, `u32 length`, then that many bytes; HEADER (1) first, END (0) last. There is no
//! padding between entries.

use byteorder::{ByteOrder, LittleEndian};
use nom::number::complete::{le_u16, le_u32};
use nom::{IResult, Parser};
use serde::Serialize;

use super::error::DecodeError;
use super::hvm_entry::{END, EntryBody, HEADER, entry_name};

/// Bytes of an entry's descriptor.
pub const DESCRIPTOR: usize = 8;

/// One entry of the chain, its data not looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Where the descriptor starts.
    pub offset: usize,
    /// What the data is.
    pub typecode: u16,
    /// vCPU or device number.
    pub instance: u16,
    /// The data.
    pub data: &'a [u8],
}

/// Walks the chain. Whatever is wrong with it comes as an `Err` item in place:
/// [`DecodeError::HeaderNotFirst`] and [`DecodeError::HeaderAgain`] before the entry they are about,
/// and the walk goes on; [`DecodeError::EndWithLength`] and [`DecodeError::AfterEnd`] behind END;
/// [`DecodeError::ChainTorn`], [`DecodeError::EntryPastEnd`] and [`DecodeError::MissingEnd`] as the
/// last item. A chain without `Err` items is one that Xen can have written.
#[derive(Debug, Clone)]
pub struct Entries<'a> {
    blob: &'a [u8],
    offset: usize,
    state: Walk<'a>,
}

#[derive(Debug, Clone)]
enum Walk<'a> {
    /// At an entry.
    At,
    /// This entry was preceded by a complaint and is still to be given.
    Pending(Entry<'a>),
    /// END with this length was given.
    End(u32),
    /// END was given and its length complained about.
    Tail,
    Done,
}

impl<'a> Entries<'a> {
    /// Starts at the front of the blob.
    pub fn new(blob: &'a [u8]) -> Self {
        Entries { blob, offset: 0, state: Walk::At }
    }

    /// Takes the entry at the current offset and moves behind it.
    fn take(&mut self) -> Result<Entry<'a>, DecodeError> {
        let offset = self.offset;
        let at = self.blob.get(offset..).unwrap_or_default();
        if at.is_empty() {
            return Err(DecodeError::MissingEnd { offset });
        }
        let (rest, (typecode, instance, length)) =
            descriptor(at).map_err(|_| DecodeError::ChainTorn { offset, remaining: at.len() })?;
        let data = usize::try_from(length).ok().and_then(|length| rest.get(..length));
        let Some(data) = data else {
            return Err(DecodeError::EntryPastEnd { offset, typecode, instance, length, remaining: rest.len() });
        };
        self.offset = offset + DESCRIPTOR + data.len();
        Ok(Entry { offset, typecode, instance, data })
    }

    /// Gives an entry out, and notes when it was the last.
    fn give(&mut self, entry: Entry<'a>) -> Entry<'a> {
        self.state = if entry.typecode == END { Walk::End(entry.data.len() as u32) } else { Walk::At };
        entry
    }
}

fn descriptor(input: &[u8]) -> IResult<&[u8], (u16, u16, u32)> {
    (le_u16, le_u16, le_u32).parse(input)
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        match std::mem::replace(&mut self.state, Walk::Done) {
            Walk::At => {
                let entry = match self.take() {
                    Ok(entry) => entry,
                    Err(error) => return Some(Err(error)),
                };
                let complaint = match (entry.offset, entry.typecode) {
                    (0, HEADER) => None,
                    (offset @ 0, typecode) => Some(DecodeError::HeaderNotFirst { offset, typecode }),
                    (offset, HEADER) => Some(DecodeError::HeaderAgain { offset }),
                    _ => None,
                };
                match complaint {
                    Some(error) => {
                        self.state = Walk::Pending(entry);
                        Some(Err(error))
                    }
                    None => Some(Ok(self.give(entry))),
                }
            }
            Walk::Pending(entry) => Some(Ok(self.give(entry))),
            Walk::End(length) if length != 0 => {
                self.state = Walk::Tail;
                let offset = self.offset - length as usize - DESCRIPTOR;
                Some(Err(DecodeError::EndWithLength { offset, length }))
            }
            Walk::End(_) | Walk::Tail => {
                let count = self.blob.len() - self.offset;
                (count != 0).then_some(Err(DecodeError::AfterEnd { offset: self.offset, count }))
            }
            Walk::Done => None,
        }
    }
}

impl std::iter::FusedIterator for Entries<'_> {}

/// An entry with its data decoded.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DecodedEntry {
    /// Where the descriptor starts, from the start of the blob.
    pub offset: usize,
    /// Type code.
    pub typecode: u16,
    /// Name of the type code; absent for one that is not known.
    pub name: Option<&'static str>,
    /// vCPU or device number.
    pub instance: u16,
    /// Bytes of data.
    pub length: usize,
    /// Bytes behind the longest layout known, if any.
    #[serde(skip_serializing_if = "is_zero")]
    pub extra: usize,
    /// The data; absent for END, for unknown type codes, and where it does not decode (the
    /// context's `problems` say why).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<EntryBody>,
}

fn is_zero(n: &usize) -> bool {
    *n == 0
}

/// A whole HVM context.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HvmContext {
    /// The entries in order, END included.
    pub entries: Vec<DecodedEntry>,
    /// What is wrong with the chain or an entry, in order of appearance; empty as a rule.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<DecodeError>,
}

impl HvmContext {
    /// Decodes all that can be decoded and lists what is wrong.
    pub fn inspect(blob: &[u8]) -> HvmContext {
        let mut context = HvmContext { entries: Vec::new(), problems: Vec::new() };
        for item in Entries::new(blob) {
            match item {
                Ok(entry) => context.add(&entry),
                Err(error) => context.problems.push(error),
            }
        }
        context
    }

    /// Decodes a context that must be in order.
    ///
    /// # Errors
    /// The first thing wrong with it.
    pub fn parse(blob: &[u8]) -> Result<HvmContext, DecodeError> {
        let mut context = HvmContext::inspect(blob);
        if context.problems.is_empty() { Ok(context) } else { Err(context.problems.swap_remove(0)) }
    }

    /// The entries with this type code.
    pub fn of_type(&self, typecode: u16) -> impl Iterator<Item = &DecodedEntry> {
        self.entries.iter().filter(move |entry| entry.typecode == typecode)
    }

    fn add(&mut self, entry: &Entry<'_>) {
        let (body, extra) = match EntryBody::decode(entry.typecode, entry.data) {
            Ok(Some((body, extra))) => {
                if let EntryBody::Header(header) = &body
                    && let Err(error) = header.check()
                {
                    self.problems.push(error.shifted(entry.offset + DESCRIPTOR));
                }
                (Some(body), extra)
            }
            Ok(None) => (None, 0),
            Err(error) => {
                self.problems.push(error.shifted(entry.offset + DESCRIPTOR));
                (None, 0)
            }
        };
        self.entries.push(DecodedEntry {
            offset: entry.offset,
            typecode: entry.typecode,
            name: entry_name(entry.typecode),
            instance: entry.instance,
            length: entry.data.len(),
            extra,
            body,
        });
    }
}

/// Builds the body of a HVM_CONTEXT record.
#[derive(Debug, Clone, Default)]
pub struct HvmContextBuilder {
    out: Vec<u8>,
}

impl HvmContextBuilder {
    /// An empty chain.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends an entry. The caller pushes HEADER first; END is [`finish`](Self::finish)'s.
    ///
    /// # Errors
    /// [`DecodeError::EntryTooLong`] where the data does not fit a 32-bit length.
    pub fn push(&mut self, typecode: u16, instance: u16, data: &[u8]) -> Result<&mut Self, DecodeError> {
        let Ok(length) = u32::try_from(data.len()) else {
            return Err(DecodeError::EntryTooLong { typecode, length: data.len() });
        };
        let mut descriptor = [0u8; DESCRIPTOR];
        LittleEndian::write_u16(&mut descriptor[0..2], typecode);
        LittleEndian::write_u16(&mut descriptor[2..4], instance);
        LittleEndian::write_u32(&mut descriptor[4..8], length);
        self.out.extend_from_slice(&descriptor);
        self.out.extend_from_slice(data);
        Ok(self)
    }

    /// Appends a typed entry.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn push_body(&mut self, instance: u16, body: &EntryBody) -> Result<&mut Self, DecodeError> {
        self.push(body.typecode(), instance, &body.encode())
    }

    /// Appends END and gives the blob.
    pub fn finish(mut self) -> Vec<u8> {
        self.out.extend_from_slice(&[0; DESCRIPTOR]);
        self.out
    }
}

#[cfg(test)]
mod tests;
