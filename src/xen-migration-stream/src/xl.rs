//! The preamble of `xl save` and `xl migrate`: magic, flags, and the domain's configuration.
//!
//! Source: `struct save_file_header` in Xen's `tools/xl/xl.h` and its users in `xl_saverestore.c`.

use super::error::{BodyError, FrameError};
use byteorder::{LittleEndian, WriteBytesExt};
use nom::IResult;
use nom::Parser;
use nom::bytes::complete::take;
use nom::number::complete::le_u32;

/// The first 32 bytes.
pub const MAGIC: &[u8; 32] = b"Xen saved domain, xl format\n \0 \r";
/// The byte order word as a little-endian writer means it.
pub const BYTEORDER: u32 = 0x0102_0304;
/// Bytes of the fixed part.
pub const HEADER_LEN: usize = 48;
/// Mandatory flag: the configuration is JSON.
pub const MANDATORY_JSON: u32 = 1 << 0;
/// Mandatory flag: a v2 stream follows.
pub const MANDATORY_STREAM_V2: u32 = 1 << 1;
/// All mandatory flags that exist.
pub const MANDATORY_KNOWN: u32 = MANDATORY_JSON | MANDATORY_STREAM_V2;

/// The fixed part of the preamble, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Flags that a reader must know.
    pub mandatory_flags: u32,
    /// Flags that a reader may ignore.
    pub optional_flags: u32,
    /// Bytes that follow before the stream proper.
    pub optional_data_len: u32,
}

impl Header {
    /// Parses and checks the 48 bytes at the front of `input`; `None` when there are fewer.
    ///
    /// # Errors
    /// A wrong magic, a foreign byte order, a mandatory flag that is not known, or a legacy stream behind it.
    pub fn parse(input: &[u8]) -> Result<Option<Self>, FrameError> {
        let parsed: IResult<&[u8], _> = (take(MAGIC.len()), le_u32, le_u32, le_u32, le_u32).parse(input);
        let Ok((_, (magic, byteorder, mandatory_flags, optional_flags, optional_data_len))) = parsed else {
            return Ok(None);
        };
        if magic != MAGIC {
            let mut got = [0; 32];
            got.copy_from_slice(magic);
            return Err(FrameError::XlMagic(got));
        }
        if byteorder != BYTEORDER {
            return Err(FrameError::XlByteOrder(byteorder));
        }
        if mandatory_flags & !MANDATORY_KNOWN != 0 {
            return Err(FrameError::XlMandatoryFlags(mandatory_flags));
        }
        if mandatory_flags & MANDATORY_STREAM_V2 == 0 {
            return Err(FrameError::XlLegacy(mandatory_flags));
        }
        Ok(Some(Header { mandatory_flags, optional_flags, optional_data_len }))
    }
}

/// The whole preamble: a view over its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preamble<'a> {
    /// The fixed part.
    pub header: Header,
    /// Everything between the fixed part and the stream proper.
    pub optional_data: &'a [u8],
}

impl<'a> Preamble<'a> {
    /// The configuration as it stands there, its NUL included; empty when there is no optional data.
    ///
    /// # Errors
    /// A length field that is cut, or that does not fit the optional data.
    pub fn config(&self) -> Result<&'a [u8], BodyError> {
        if self.optional_data.is_empty() {
            return Ok(&[]);
        }
        let got = self.optional_data.len() as u64;
        let parsed: IResult<&[u8], u32> = le_u32(self.optional_data);
        let Ok((rest, config_len)) = parsed else {
            return Err(BodyError::TooShort { record: "xl preamble", least: 4, got });
        };
        let wrong = BodyError::ConfigLength { config_len, available: rest.len() as u64 };
        if rest.len() > config_len as usize {
            return Err(wrong);
        }
        rest.get(..config_len as usize).ok_or(wrong)
    }
}

/// Appends a preamble with the configuration `json`, which must be JSON text; the NUL that ends it is added here.
///
/// # Errors
/// [`std::io::ErrorKind::InvalidInput`] when the text would not fit 32 bits of length or holds a NUL.
pub fn emit(json: &str, out: &mut Vec<u8>) -> std::io::Result<()> {
    let config_len = json.len() as u64 + 1;
    let (Ok(config_len), Ok(optional_len)) = (u32::try_from(config_len), u32::try_from(config_len + 4)) else {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "configuration over 4 GiB"));
    };
    if json.contains('\0') {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "configuration with a NUL"));
    }
    out.extend_from_slice(MAGIC);
    for word in [BYTEORDER, MANDATORY_KNOWN, 0, optional_len, config_len] {
        out.write_u32::<LittleEndian>(word)?;
    }
    out.extend_from_slice(json.as_bytes());
    out.push(0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(bytes: &[u8]) -> Preamble<'_> {
        let header = Header::parse(bytes).unwrap().unwrap();
        assert_eq!(bytes.len(), HEADER_LEN + header.optional_data_len as usize);
        Preamble { header, optional_data: &bytes[HEADER_LEN..] }
    }

    #[test]
    fn round_trip() {
        let mut bytes = Vec::new();
        emit("{\"a\": 1}", &mut bytes).unwrap();
        assert_eq!(whole(&bytes).config().unwrap(), b"{\"a\": 1}\0");
    }

    #[test]
    fn empty_config_is_legal() {
        let mut bytes = Vec::new();
        emit("", &mut bytes).unwrap();
        assert_eq!(whole(&bytes).config().unwrap(), b"\0");
        bytes.truncate(HEADER_LEN);
        bytes[44..48].fill(0);
        assert_eq!(whole(&bytes).config().unwrap(), b"");
    }

    #[test]
    fn refuses_what_it_must() {
        let mut bytes = Vec::new();
        emit("{}", &mut bytes).unwrap();
        let with = |at: usize, value: u8| {
            let mut changed = bytes.clone();
            changed[at] = value;
            Header::parse(&changed).unwrap_err()
        };
        assert!(matches!(with(0, b'x'), FrameError::XlMagic(m) if m[0] == b'x'));
        assert_eq!(with(32, 5), FrameError::XlByteOrder(0x0102_0305));
        assert_eq!(with(36, 7), FrameError::XlMandatoryFlags(7));
        assert_eq!(with(36, 1), FrameError::XlLegacy(1));
        assert_eq!(Header::parse(&bytes[..47]), Ok(None));
    }

    #[test]
    fn config_length_must_fit() {
        let mut bytes = Vec::new();
        emit("{}", &mut bytes).unwrap();
        for wrong in [2, 4, 0xff] {
            bytes[48] = wrong;
            assert_eq!(
                whole(&bytes).config(),
                Err(BodyError::ConfigLength { config_len: u32::from(wrong), available: 3 })
            );
        }
    }
}
