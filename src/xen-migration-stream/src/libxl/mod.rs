//! libxl's part of the stream: one header, then records.
//!
//! Source: `docs/specs/libxl-migration-stream.pandoc`, revision 2.

mod emulator;

pub use emulator::{EmulatorContext, EmulatorHeader, EmulatorId, XenstoreData, check_key, emit_xenstore_data};

use super::error::{BodyError, FrameError, Problem};
use super::record::Frame;
use byteorder::{BigEndian, ByteOrder};
use nom::IResult;
use nom::Parser;
use nom::number::complete::{be_u32, be_u64, le_u32};

/// "LibxlFmt".
pub const IDENT: u64 = 0x4c69_6278_6c46_6d74;
/// The only version there is.
pub const VERSION: u32 = 2;
/// Bytes of the header.
pub const HEADER_LEN: usize = 16;
/// Option: records are big-endian.
pub const OPTION_BIG_ENDIAN: u32 = 1 << 0;
/// Option: made by the converter for legacy streams.
pub const OPTION_LEGACY: u32 = 1 << 1;

/// libxl's header, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The option bits as they stand there; reserved ones may be set.
    pub options: u32,
}

impl Header {
    /// Parses and checks the 16 bytes at the front of `input`; `None` when there are fewer.
    ///
    /// # Errors
    /// Another ident or version, or big-endian records.
    pub fn parse(input: &[u8]) -> Result<Option<Self>, FrameError> {
        let parsed: IResult<&[u8], (u64, u32, u32)> = (be_u64, be_u32, be_u32).parse(input);
        let Ok((_, (ident, version, options))) = parsed else {
            return Ok(None);
        };
        if ident != IDENT {
            return Err(FrameError::LibxlIdent(ident));
        }
        if version != VERSION {
            return Err(FrameError::LibxlVersion(version));
        }
        if options & OPTION_BIG_ENDIAN != 0 {
            return Err(FrameError::BigEndian(options));
        }
        Ok(Some(Header { options }))
    }

    /// The header's bytes.
    pub fn emit(self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        BigEndian::write_u64(&mut out[0..8], IDENT);
        BigEndian::write_u32(&mut out[8..12], VERSION);
        BigEndian::write_u32(&mut out[12..16], self.options);
        out
    }

    /// Whether the converter for legacy streams made it.
    pub const fn is_converted(self) -> bool {
        self.options & OPTION_LEGACY != 0
    }

    /// Reports what a writer must leave zero.
    pub fn strict(self, report: &mut dyn FnMut(Problem)) {
        let reserved = self.options & !(OPTION_BIG_ENDIAN | OPTION_LEGACY);
        if reserved != 0 {
            report(Problem::Reserved { record: "libxl header", field: "options", value: u64::from(reserved) });
        }
    }
}

/// Record types, by the specification's numbers.
pub mod types {
    /// END: the last record.
    pub const END: u32 = 0;
    /// LIBXC_CONTEXT: the libxc stream follows at once.
    pub const LIBXC_CONTEXT: u32 = 1;
    /// EMULATOR_XENSTORE_DATA.
    pub const EMULATOR_XENSTORE_DATA: u32 = 2;
    /// EMULATOR_CONTEXT.
    pub const EMULATOR_CONTEXT: u32 = 3;
    /// CHECKPOINT_END: the stream goes back to libxc.
    pub const CHECKPOINT_END: u32 = 4;
    /// CHECKPOINT_STATE: a sync point of COLO.
    pub const CHECKPOINT_STATE: u32 = 5;
}

/// The specification's name of a record type; `None` for types it does not define.
pub const fn type_name(type_id: u32) -> Option<&'static str> {
    Some(match type_id {
        types::END => "END",
        types::LIBXC_CONTEXT => "LIBXC_CONTEXT",
        types::EMULATOR_XENSTORE_DATA => "EMULATOR_XENSTORE_DATA",
        types::EMULATOR_CONTEXT => "EMULATOR_CONTEXT",
        types::CHECKPOINT_END => "CHECKPOINT_END",
        types::CHECKPOINT_STATE => "CHECKPOINT_STATE",
        _ => return None,
    })
}

/// The sync points of COLO as libxl writes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ControlId {
    /// Primary to secondary: out of sync, start a checkpoint.
    New,
    /// Secondary to primary: the secondary is suspended.
    SvmSuspended,
    /// Secondary to primary: the secondary has loaded the checkpoint.
    SvmReady,
    /// Secondary to primary: the secondary runs.
    SvmResumed,
}

impl ControlId {
    /// The id with this number.
    pub const fn from_wire(value: u32) -> Option<Self> {
        Some(match value {
            0 => ControlId::New,
            1 => ControlId::SvmSuspended,
            2 => ControlId::SvmReady,
            3 => ControlId::SvmResumed,
            _ => return None,
        })
    }

    /// The number on the wire.
    pub const fn wire(self) -> u32 {
        match self {
            ControlId::New => 0,
            ControlId::SvmSuspended => 1,
            ControlId::SvmReady => 2,
            ControlId::SvmResumed => 3,
        }
    }

    /// The specification's name.
    pub const fn name(self) -> &'static str {
        match self {
            ControlId::New => "NEW",
            ControlId::SvmSuspended => "SVM_SUSPENDED",
            ControlId::SvmReady => "SVM_READY",
            ControlId::SvmResumed => "SVM_RESUMED",
        }
    }
}

/// A CHECKPOINT_STATE body. The specification draws 8 bytes, libxl writes 4; both are read, 4 are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckpointState {
    /// The sync point.
    pub control_id: ControlId,
    /// The field that the specification draws behind it; zero when the body has 4 bytes.
    pub padding: u32,
}

impl CheckpointState {
    fn parse(body: &[u8]) -> Result<Self, BodyError> {
        const RECORD: &str = "CHECKPOINT_STATE";
        let got = body.len() as u64;
        let parsed: IResult<&[u8], u32> = le_u32(body);
        let Ok((rest, id)) = parsed else {
            return Err(BodyError::TooShort { record: RECORD, least: 4, got });
        };
        let padding = match rest.len() {
            0 => 0,
            4 => {
                let parsed: IResult<&[u8], u32> = le_u32(rest);
                parsed.map_or(0, |(_, value)| value)
            }
            _ => return Err(BodyError::Size { record: RECORD, expected: 4, got }),
        };
        let control_id = ControlId::from_wire(id).ok_or(BodyError::ControlId(id))?;
        Ok(CheckpointState { control_id, padding })
    }
}

/// A record of libxl, parsed. Bodies are views over the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Record<'a> {
    /// The last record.
    End,
    /// libxc takes the stream.
    LibxcContext,
    /// The device model's xenstore entries.
    EmulatorXenstoreData(XenstoreData<'a>),
    /// The device model's state.
    EmulatorContext(EmulatorContext<'a>),
    /// The checkpoint is whole; libxc takes the stream.
    CheckpointEnd,
    /// A sync point of COLO.
    CheckpointState(CheckpointState),
    /// A type that is not known and may be skipped.
    Optional {
        /// The record's type, bit 31 set.
        type_id: u32,
        /// The body, not looked into.
        body: &'a [u8],
    },
}

impl<'a> Record<'a> {
    /// Parses the body of a whole frame.
    ///
    /// # Errors
    /// A mandatory type that is not known, or a body that does not fit its type. Reserved fields pass, see
    /// [`Record::strict`].
    pub fn parse(frame: &Frame<'a>) -> Result<Self, BodyError> {
        let type_id = frame.header.type_id;
        let body = frame.body;
        let empty = |record, value| frame.expect_empty(record).map(|()| value);
        match type_id {
            types::END => empty("END", Record::End),
            types::LIBXC_CONTEXT => empty("LIBXC_CONTEXT", Record::LibxcContext),
            types::EMULATOR_XENSTORE_DATA => XenstoreData::parse(body).map(Record::EmulatorXenstoreData),
            types::EMULATOR_CONTEXT => EmulatorContext::parse(body).map(Record::EmulatorContext),
            types::CHECKPOINT_END => empty("CHECKPOINT_END", Record::CheckpointEnd),
            types::CHECKPOINT_STATE => CheckpointState::parse(body).map(Record::CheckpointState),
            _ if frame.header.is_optional() => Ok(Record::Optional { type_id, body }),
            _ => Err(BodyError::UnknownMandatory { type_id, length: frame.header.length }),
        }
    }

    /// Reports what a writer must leave zero and a reader ignores.
    pub fn strict(&self, report: &mut dyn FnMut(Problem)) {
        match self {
            Record::CheckpointState(state) if state.padding != 0 => report(Problem::Reserved {
                record: "CHECKPOINT_STATE",
                field: "padding",
                value: u64::from(state.padding),
            }),
            Record::Optional { type_id, body } => {
                report(Problem::UnknownOptional { type_id: *type_id, length: body.len() as u32 });
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::RecordHeader;

    fn frame(type_id: u32, body: &[u8]) -> Frame<'_> {
        Frame { header: RecordHeader::new(type_id, body.len() as u32), body, padding: &[] }
    }

    #[test]
    fn header_round_trip_and_refusals() {
        let bytes = Header { options: OPTION_LEGACY }.emit();
        assert_eq!(&bytes[..8], b"LibxlFmt");
        assert_eq!(Header::parse(&bytes), Ok(Some(Header { options: 2 })));
        assert_eq!(Header::parse(&bytes[..15]), Ok(None));
        let big = Header { options: OPTION_BIG_ENDIAN }.emit();
        assert_eq!(Header::parse(&big), Err(FrameError::BigEndian(1)));
    }

    #[test]
    fn checkpoint_state_takes_4_or_8_bytes() {
        for (body, padding) in [(&[2, 0, 0, 0][..], 0), (&[2, 0, 0, 0, 9, 0, 0, 0], 9)] {
            let record = Record::parse(&frame(types::CHECKPOINT_STATE, body)).unwrap();
            assert_eq!(record, Record::CheckpointState(CheckpointState { control_id: ControlId::SvmReady, padding }));
            let mut reports = Vec::new();
            record.strict(&mut |problem| reports.push(problem));
            assert_eq!(reports.is_empty(), padding == 0);
        }
        for len in [0, 1, 2, 3] {
            assert_eq!(
                Record::parse(&frame(types::CHECKPOINT_STATE, &[0; 3][..len])),
                Err(BodyError::TooShort { record: "CHECKPOINT_STATE", least: 4, got: len as u64 })
            );
        }
        for len in [5, 7, 9] {
            assert!(matches!(
                Record::parse(&frame(types::CHECKPOINT_STATE, &[0; 9][..len])),
                Err(BodyError::Size { .. })
            ));
        }
    }

    #[test]
    fn control_ids_round_trip() {
        for wire in 0..4 {
            assert_eq!(ControlId::from_wire(wire).unwrap().wire(), wire);
        }
        assert_eq!(ControlId::from_wire(4), None);
    }
}
