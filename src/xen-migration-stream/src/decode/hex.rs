//! How numbers and opaque bytes look in JSON: registers, addresses and bit masks as `"0x..."`
//! strings (a JSON number above 2^53 does not survive most readers), opaque areas as a preview.

use std::fmt;

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use super::wire::Wire;

/// Bytes of an opaque area that its JSON preview shows.
pub const PREVIEW: usize = 16;

/// A number that is shown in hexadecimal.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hex<T>(pub T);

/// 8-bit register or mask.
pub type Hex8 = Hex<u8>;
/// 16-bit register or mask.
pub type Hex16 = Hex<u16>;
/// 32-bit register or mask.
pub type Hex32 = Hex<u32>;
/// 64-bit register, address or mask.
pub type Hex64 = Hex<u64>;

impl<T: fmt::LowerHex> fmt::Display for Hex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl<T: fmt::LowerHex> fmt::Debug for Hex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<T: fmt::LowerHex> Serialize for Hex<T> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<T: Wire> Wire for Hex<T> {
    const SIZE: usize = T::SIZE;

    fn parse(input: &[u8]) -> Option<(&[u8], Self)> {
        let (rest, value) = T::parse(input)?;
        Some((rest, Hex(value)))
    }

    fn emit(&self, out: &mut Vec<u8>) {
        self.0.emit(out);
    }
}

/// Lower-case hexadecimal digits of a short run of bytes, two per byte, no prefix.
pub struct HexDigits<'a>(pub &'a [u8]);

impl fmt::Display for HexDigits<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// A short opaque field of exactly `N` bytes, shown whole as hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HexBytes<const N: usize>(pub [u8; N]);

impl<const N: usize> fmt::Debug for HexBytes<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", HexDigits(&self.0))
    }
}

impl<const N: usize> Serialize for HexBytes<N> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&HexDigits(&self.0))
    }
}

impl<const N: usize> Wire for HexBytes<N> {
    const SIZE: usize = N;

    fn parse(input: &[u8]) -> Option<(&[u8], Self)> {
        let (rest, bytes) = take_array(input)?;
        Some((rest, HexBytes(bytes)))
    }

    fn emit(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }
}

/// Reserved or padding bytes: kept, so that emission is exact, and shown only when not all zero.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Reserved<const N: usize>(pub [u8; N]);

impl<const N: usize> Default for Reserved<N> {
    fn default() -> Self {
        Reserved([0; N])
    }
}

impl<const N: usize> fmt::Debug for Reserved<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Preview(&self.0).fmt(f)
    }
}

impl<const N: usize> Serialize for Reserved<N> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if N <= PREVIEW { s.collect_str(&HexDigits(&self.0)) } else { Preview(&self.0).serialize(s) }
    }
}

impl<const N: usize> Wire for Reserved<N> {
    const SIZE: usize = N;

    fn parse(input: &[u8]) -> Option<(&[u8], Self)> {
        let (rest, bytes) = take_array(input)?;
        Some((rest, Reserved(bytes)))
    }

    fn emit(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }

    fn hidden(&self) -> bool {
        all_zero(&self.0)
    }
}

/// An area of exactly `N` bytes that is kept but not interpreted, shown as a preview.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Area<const N: usize>(pub [u8; N]);

impl<const N: usize> fmt::Debug for Area<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Preview(&self.0).fmt(f)
    }
}

impl<const N: usize> Serialize for Area<N> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        Preview(&self.0).serialize(s)
    }
}

impl<const N: usize> Wire for Area<N> {
    const SIZE: usize = N;

    fn parse(input: &[u8]) -> Option<(&[u8], Self)> {
        let (rest, bytes) = take_array(input)?;
        Some((rest, Area(bytes)))
    }

    fn emit(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }
}

/// A long opaque area whose content this crate does not interpret, shown as a preview:
/// `{"length", "head", "all_zero"}` with the first [`PREVIEW`] bytes as `head`.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Opaque(pub Vec<u8>);

impl fmt::Debug for Opaque {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Preview(&self.0).fmt(f)
    }
}

impl Serialize for Opaque {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        Preview(&self.0).serialize(s)
    }
}

/// The preview of a borrowed area, as [`Opaque`] shows it.
pub struct Preview<'a>(pub &'a [u8]);

impl Preview<'_> {
    fn head(&self) -> &[u8] {
        self.0.get(..PREVIEW).unwrap_or(self.0)
    }
}

impl fmt::Debug for Preview<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes: {}..", self.0.len(), HexDigits(self.head()))
    }
}

impl Serialize for Preview<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut out = s.serialize_struct("Opaque", 3)?;
        out.serialize_field("length", &self.0.len())?;
        out.serialize_field("head", &HexDigits(self.head()).to_string())?;
        out.serialize_field("all_zero", &all_zero(self.0))?;
        out.end()
    }
}

/// Whether every byte is zero (true for none).
pub fn all_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|b| *b == 0)
}

/// Takes `N` bytes as an array.
pub(crate) fn take_array<const N: usize>(input: &[u8]) -> Option<(&[u8], [u8; N])> {
    input.split_first_chunk().map(|(array, rest)| (rest, *array))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_hex_strings() {
        assert_eq!(serde_json::to_string(&Hex(0u8)).unwrap(), "\"0x0\"");
        assert_eq!(serde_json::to_string(&Hex(u64::MAX)).unwrap(), "\"0xffffffffffffffff\"");
    }

    #[test]
    fn reserved_bytes_show_only_when_set() {
        assert!(Reserved([0u8; 8]).hidden());
        let odd = Reserved([0, 1, 0xff]);
        assert!(!odd.hidden());
        assert_eq!(serde_json::to_string(&odd).unwrap(), "\"0001ff\"");
    }

    #[test]
    fn opaque_areas_are_previewed() {
        let mut area = vec![0u8; 512];
        area[0] = 0x7f;
        area[20] = 1;
        assert_eq!(
            serde_json::to_value(Opaque(area)).unwrap(),
            serde_json::json!({"length": 512, "head": "7f000000000000000000000000000000", "all_zero": false})
        );
        assert_eq!(
            serde_json::to_value(Opaque(vec![0; 3])).unwrap(),
            serde_json::json!({"length": 3, "head": "000000", "all_zero": true})
        );
    }
}
