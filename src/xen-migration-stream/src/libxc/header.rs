//! The image header and the domain header. Source: "Headers".

use crate::error::{BodyError, FrameError, Problem};
use byteorder::{BigEndian, ByteOrder, LittleEndian};
use nom::IResult;
use nom::Parser;
use nom::number::complete::{be_u16, be_u32, be_u64, le_u16, le_u32};

/// The first 8 bytes of every stream since Xen 4.6.
pub const MARKER: u64 = u64::MAX;
/// "XENF".
pub const ID: u32 = 0x5845_4e46;
/// Option: records are big-endian.
pub const OPTION_BIG_ENDIAN: u16 = 1 << 0;

/// The image header, checked. Its fields are big-endian whatever the records are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageHeader {
    /// 2 or 3.
    pub version: u32,
    /// The option bits as they stand there; reserved ones may be set.
    pub options: u16,
    /// The 6 reserved bytes behind them.
    pub reserved: u64,
}

impl ImageHeader {
    /// Bytes on the wire.
    pub const LEN: usize = 24;

    /// A header of the given version without options.
    pub const fn new(version: u32) -> Self {
        ImageHeader { version, options: 0, reserved: 0 }
    }

    /// Parses and checks the bytes at the front of `input`; `None` when there are fewer.
    ///
    /// # Errors
    /// Another marker or id, a version other than 2 and 3, or big-endian records.
    pub fn parse(input: &[u8]) -> Result<Option<Self>, FrameError> {
        let parsed: IResult<&[u8], _> = (be_u64, be_u32, be_u32, be_u16, be_u16, be_u32).parse(input);
        let Ok((_, (marker, id, version, options, high, low))) = parsed else {
            return Ok(None);
        };
        if marker != MARKER {
            return Err(FrameError::Marker(marker));
        }
        if id != ID {
            return Err(FrameError::LibxcId(id));
        }
        if !(2..=3).contains(&version) {
            return Err(FrameError::LibxcVersion(version));
        }
        if options & OPTION_BIG_ENDIAN != 0 {
            return Err(FrameError::BigEndian(u32::from(options)));
        }
        Ok(Some(ImageHeader { version, options, reserved: u64::from(high) << 32 | u64::from(low) }))
    }

    /// The header's bytes, reserved fields zero.
    pub fn emit(self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        BigEndian::write_u64(&mut out[0..8], MARKER);
        BigEndian::write_u32(&mut out[8..12], ID);
        BigEndian::write_u32(&mut out[12..16], self.version);
        BigEndian::write_u16(&mut out[16..18], self.options);
        out
    }

    /// Reports what a writer must leave zero.
    pub fn strict(self, report: &mut dyn FnMut(Problem)) {
        const RECORD: &str = "libxc image header";
        let options = self.options & !OPTION_BIG_ENDIAN;
        if options != 0 {
            report(Problem::Reserved { record: RECORD, field: "options", value: u64::from(options) });
        }
        if self.reserved != 0 {
            report(Problem::Reserved { record: RECORD, field: "reserved", value: self.reserved });
        }
    }
}

/// What kind of domain a stream holds. PVH saves as HVM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DomainType {
    /// x86 PV.
    Pv,
    /// x86 HVM or PVH.
    Hvm,
}

impl DomainType {
    /// `PV` or `HVM`.
    pub const fn name(self) -> &'static str {
        match self {
            DomainType::Pv => "PV",
            DomainType::Hvm => "HVM",
        }
    }

    /// The number on the wire.
    pub const fn wire(self) -> u32 {
        match self {
            DomainType::Pv => 1,
            DomainType::Hvm => 2,
        }
    }
}

/// The domain header as it stands in the stream: framing goes on whatever its values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DomainHeader {
    /// 1 PV, 2 HVM.
    pub type_id: u32,
    /// log2 of the page size.
    pub page_shift: u16,
    /// Reserved.
    pub reserved: u16,
    /// Xen's major version at the time of the save; 0 from the converter for legacy streams.
    pub xen_major: u32,
    /// Xen's minor version; the converter's own version when the major one is 0.
    pub xen_minor: u32,
}

impl DomainHeader {
    /// Bytes on the wire.
    pub const LEN: usize = 16;

    /// A header for pages of 4 KiB.
    pub const fn new(domain: DomainType, xen_major: u32, xen_minor: u32) -> Self {
        DomainHeader { type_id: domain.wire(), page_shift: 12, reserved: 0, xen_major, xen_minor }
    }

    /// Parses the bytes at the front of `input`; `None` when there are fewer.
    pub fn parse(input: &[u8]) -> Option<Self> {
        let parsed: IResult<&[u8], _> = (le_u32, le_u16, le_u16, le_u32, le_u32).parse(input);
        let (_, (type_id, page_shift, reserved, xen_major, xen_minor)) = parsed.ok()?;
        Some(DomainHeader { type_id, page_shift, reserved, xen_major, xen_minor })
    }

    /// The header's bytes, reserved fields zero.
    pub fn emit(self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        LittleEndian::write_u32(&mut out[0..4], self.type_id);
        LittleEndian::write_u16(&mut out[4..6], self.page_shift);
        LittleEndian::write_u32(&mut out[8..12], self.xen_major);
        LittleEndian::write_u32(&mut out[12..16], self.xen_minor);
        out
    }

    /// The domain's kind.
    ///
    /// # Errors
    /// A type that does not exist, or pages that are not of 4 KiB.
    pub fn check(self) -> Result<DomainType, BodyError> {
        let domain = self.domain_type().ok_or(BodyError::DomainType(self.type_id))?;
        if self.page_shift != 12 {
            return Err(BodyError::PageShift(self.page_shift));
        }
        Ok(domain)
    }

    /// The domain's kind, when the type exists.
    pub const fn domain_type(self) -> Option<DomainType> {
        match self.type_id {
            1 => Some(DomainType::Pv),
            2 => Some(DomainType::Hvm),
            _ => None,
        }
    }

    /// Reports what a writer must leave zero, and a converted stream.
    pub fn strict(self, report: &mut dyn FnMut(Problem)) {
        if self.reserved != 0 {
            let value = u64::from(self.reserved);
            report(Problem::Reserved { record: "libxc domain header", field: "reserved", value });
        }
        if self.xen_major == 0 {
            report(Problem::Converted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_header_round_trip_and_refusals() {
        for version in [2, 3] {
            let bytes = ImageHeader::new(version).emit();
            assert_eq!(ImageHeader::parse(&bytes), Ok(Some(ImageHeader::new(version))));
            assert_eq!(ImageHeader::parse(&bytes[..23]), Ok(None));
        }
        let with = |at: usize, value: u8| {
            let mut bytes = ImageHeader::new(3).emit();
            bytes[at] = value;
            ImageHeader::parse(&bytes)
        };
        assert_eq!(with(7, 0xfe), Err(FrameError::Marker(u64::MAX - 1)));
        assert_eq!(with(11, 0), Err(FrameError::LibxcId(0x5845_4e00)));
        assert_eq!(with(15, 4), Err(FrameError::LibxcVersion(4)));
        assert_eq!(with(17, 1), Err(FrameError::BigEndian(1)));
        let mut problems = Vec::new();
        with(17, 2).unwrap().unwrap().strict(&mut |p| problems.push(p));
        with(23, 5).unwrap().unwrap().strict(&mut |p| problems.push(p));
        assert_eq!(
            problems,
            [("options", 2), ("reserved", 5)].map(|(field, value)| Problem::Reserved {
                record: "libxc image header",
                field,
                value
            })
        );
    }

    #[test]
    fn domain_header_round_trip_and_refusals() {
        let header = DomainHeader::new(DomainType::Hvm, 4, 17);
        let mut bytes = header.emit();
        assert_eq!(DomainHeader::parse(&bytes), Some(header));
        assert_eq!(header.check(), Ok(DomainType::Hvm));
        bytes[4] = 16;
        assert_eq!(DomainHeader::parse(&bytes).unwrap().check(), Err(BodyError::PageShift(16)));
        bytes[0] = 3;
        assert_eq!(DomainHeader::parse(&bytes).unwrap().check(), Err(BodyError::DomainType(3)));
    }
}
