//! The two records about a device model, and their common sub-header.
//!
//! Source: "Emulator Records", "EMULATOR_XENSTORE_DATA" and "EMULATOR_CONTEXT" of the libxl specification.

use crate::error::BodyError;
use byteorder::{ByteOrder, LittleEndian};
use nom::IResult;
use nom::Parser;
use nom::number::complete::le_u32;

/// Bytes of the sub-header.
const SUBHEADER_LEN: usize = 8;

/// Which device model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EmulatorId {
    /// Not recorded: the stream was converted from a legacy one.
    Unknown,
    /// qemu-xen-traditional.
    QemuTraditional,
    /// qemu-xen.
    QemuUpstream,
}

impl EmulatorId {
    const fn from_wire(value: u32) -> Option<Self> {
        Some(match value {
            0 => EmulatorId::Unknown,
            1 => EmulatorId::QemuTraditional,
            2 => EmulatorId::QemuUpstream,
            _ => return None,
        })
    }

    /// The number on the wire.
    pub const fn wire(self) -> u32 {
        match self {
            EmulatorId::Unknown => 0,
            EmulatorId::QemuTraditional => 1,
            EmulatorId::QemuUpstream => 2,
        }
    }

    /// The usual name of the device model.
    pub const fn name(self) -> &'static str {
        match self {
            EmulatorId::Unknown => "unknown",
            EmulatorId::QemuTraditional => "qemu-traditional",
            EmulatorId::QemuUpstream => "qemu-upstream",
        }
    }
}

/// The sub-header of both records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EmulatorHeader {
    /// Which device model.
    pub id: EmulatorId,
    /// Which of the domain's device models.
    pub index: u32,
}

impl EmulatorHeader {
    /// The sub-header's bytes.
    pub fn emit(self) -> [u8; SUBHEADER_LEN] {
        let mut out = [0; SUBHEADER_LEN];
        LittleEndian::write_u32(&mut out[0..4], self.id.wire());
        LittleEndian::write_u32(&mut out[4..8], self.index);
        out
    }

    fn parse<'a>(record: &'static str, body: &'a [u8]) -> Result<(Self, &'a [u8]), BodyError> {
        let parsed: IResult<&[u8], (u32, u32)> = (le_u32, le_u32).parse(body);
        let Ok((rest, (id, index))) = parsed else {
            return Err(BodyError::TooShort { record, least: SUBHEADER_LEN as u64, got: body.len() as u64 });
        };
        let id = EmulatorId::from_wire(id).ok_or(BodyError::EmulatorId { record, id })?;
        Ok((EmulatorHeader { id, index }, rest))
    }
}

/// An EMULATOR_CONTEXT body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmulatorContext<'a> {
    /// Which device model.
    pub header: EmulatorHeader,
    /// Its state, opaque here; QEMU writes a `QEVM` container.
    pub context: &'a [u8],
}

impl<'a> EmulatorContext<'a> {
    pub(super) fn parse(body: &'a [u8]) -> Result<Self, BodyError> {
        let (header, context) = EmulatorHeader::parse("EMULATOR_CONTEXT", body)?;
        Ok(EmulatorContext { header, context })
    }
}

/// An EMULATOR_XENSTORE_DATA body: a checked view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct XenstoreData<'a> {
    /// Which device model.
    pub header: EmulatorHeader,
    data: &'a [u8],
}

impl<'a> XenstoreData<'a> {
    /// Checks a body: sub-header, then data as [`emit_xenstore_data`] makes it.
    ///
    /// # Errors
    /// A body too short, strings unterminated or without a partner, a key that [`check_key`] refuses.
    pub fn parse(body: &'a [u8]) -> Result<Self, BodyError> {
        let (header, data) = EmulatorHeader::parse("EMULATOR_XENSTORE_DATA", body)?;
        let tail = data.iter().rev().take_while(|&&byte| byte != 0).count();
        if tail != 0 {
            return Err(BodyError::XenstoreUnterminated { at: (data.len() - tail) as u64, bytes: tail as u64 });
        }
        let view = XenstoreData { header, data };
        let mut strings = view.strings();
        while let Some(key) = strings.next() {
            let lossy = || String::from_utf8_lossy(key).into_owned();
            if strings.next().is_none() {
                return Err(BodyError::XenstoreOdd { key: lossy() });
            }
            check_key(key).map_err(|why| BodyError::XenstoreKey { key: lossy(), why })?;
        }
        Ok(view)
    }

    fn strings(&self) -> impl Iterator<Item = &'a [u8]> {
        // The data ends with a NUL, so the last piece of the split is empty and is no string.
        let pieces = self.data.iter().filter(|&&byte| byte == 0).count();
        self.data.split(|&byte| byte == 0).take(pieces)
    }

    pub(crate) const fn bytes(&self) -> &'a [u8] {
        self.data
    }

    /// Keys with their values, in stream order. Keys are relative to the device model's directory.
    pub fn pairs(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        let mut strings = self.strings();
        std::iter::from_fn(move || Some((strings.next()?, strings.next()?)))
    }
}

/// Whether a key may stand in the record.
///
/// # Errors
/// Why it may not: the specification wants relative keys of letters, digits and `-/_@`.
pub fn check_key(key: &[u8]) -> Result<(), &'static str> {
    if key.is_empty() {
        Err("empty")
    } else if key.starts_with(b"/") {
        Err("absolute")
    } else if !key.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-/_@".contains(byte)) {
        Err("not of letters, digits and -/_@")
    } else {
        Ok(())
    }
}

/// Appends `pairs` as the data of an EMULATOR_XENSTORE_DATA record (without the sub-header).
///
/// # Errors
/// [`std::io::ErrorKind::InvalidInput`] for a key that [`check_key`] refuses or a value with a NUL.
pub fn emit_xenstore_data<'a>(
    pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
    out: &mut Vec<u8>,
) -> std::io::Result<()> {
    for (key, value) in pairs {
        let invalid = |why: &str| std::io::Error::new(std::io::ErrorKind::InvalidInput, format!("key {key:?}: {why}"));
        check_key(key.as_bytes()).map_err(invalid)?;
        if value.contains('\0') {
            return Err(invalid("value with a NUL"));
        }
        for text in [key, value] {
            out.extend_from_slice(text.as_bytes());
            out.push(0);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(data: &[u8]) -> Vec<u8> {
        let header = EmulatorHeader { id: EmulatorId::QemuUpstream, index: 3 };
        [&header.emit()[..], data].concat()
    }

    #[test]
    fn pairs_round_trip_with_empty_values() {
        let pairs = [("physmap/1/name", "vga.vram"), ("state", "")];
        let mut data = Vec::new();
        emit_xenstore_data(pairs, &mut data).unwrap();
        let bytes = body(&data);
        let view = XenstoreData::parse(&bytes).unwrap();
        assert_eq!(view.header, EmulatorHeader { id: EmulatorId::QemuUpstream, index: 3 });
        let got: Vec<_> = view.pairs().collect();
        assert_eq!(got, pairs.map(|(key, value)| (key.as_bytes(), value.as_bytes())));
        assert_eq!(XenstoreData::parse(&body(b"")).unwrap().pairs().count(), 0);
    }

    #[test]
    fn bad_data_is_named() {
        let error = |data: &[u8]| XenstoreData::parse(&body(data)).unwrap_err();
        assert_eq!(error(b"a\0b"), BodyError::XenstoreUnterminated { at: 2, bytes: 1 });
        assert_eq!(error(b"a\0b\0c\0"), BodyError::XenstoreOdd { key: "c".into() });
        assert_eq!(error(b"/a\0b\0"), BodyError::XenstoreKey { key: "/a".into(), why: "absolute" });
        assert!(matches!(error(b"\0b\0"), BodyError::XenstoreKey { why: "empty", .. }));
        assert!(matches!(error(b"a b\0c\0"), BodyError::XenstoreKey { .. }));
        assert_eq!(
            EmulatorContext::parse(&[0; 7]),
            Err(BodyError::TooShort { record: "EMULATOR_CONTEXT", least: 8, got: 7 })
        );
        assert_eq!(
            EmulatorContext::parse(&[3, 0, 0, 0, 0, 0, 0, 0]),
            Err(BodyError::EmulatorId { record: "EMULATOR_CONTEXT", id: 3 })
        );
    }
}
