//! Records of PV domains. Source: "X86_PV_INFO", "X86_PV_P2M_FRAMES", "X86_PV_VCPU_BASIC, EXTENDED, XSAVE, MSRS".

use super::types;
use crate::error::{BodyError, Problem};
use byteorder::{ByteOrder, LittleEndian};
use nom::IResult;
use nom::Parser;
use nom::number::complete::{le_u8, le_u16, le_u32};

/// An X86_PV_INFO body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PvInfo {
    /// Bytes of a guest word: 8 or 4.
    pub guest_width: u8,
    /// Levels of its page tables: 4 with 8 bytes, 3 with 4.
    pub pt_levels: u8,
    reserved: u64,
}

impl PvInfo {
    /// Bytes of the body.
    pub const LEN: usize = 8;

    /// The body of a 64-bit guest.
    pub const GUEST_64: PvInfo = PvInfo { guest_width: 8, pt_levels: 4, reserved: 0 };
    /// The body of a 32-bit (PAE) guest.
    pub const GUEST_32: PvInfo = PvInfo { guest_width: 4, pt_levels: 3, reserved: 0 };

    pub(super) fn parse(body: &[u8]) -> Result<Self, BodyError> {
        let got = body.len() as u64;
        let parsed: IResult<&[u8], _> = (le_u8, le_u8, le_u16, le_u32).parse(body);
        match parsed {
            Ok((&[], (guest_width, pt_levels, low, high))) => {
                if !matches!((guest_width, pt_levels), (8, 4) | (4, 3)) {
                    return Err(BodyError::PvInfo { width: guest_width, levels: pt_levels });
                }
                Ok(PvInfo { guest_width, pt_levels, reserved: u64::from(high) << 16 | u64::from(low) })
            }
            _ => Err(BodyError::Size { record: "X86_PV_INFO", expected: Self::LEN as u64, got }),
        }
    }

    /// The body's bytes, reserved fields zero.
    pub const fn emit(self) -> [u8; Self::LEN] {
        [self.guest_width, self.pt_levels, 0, 0, 0, 0, 0, 0]
    }

    pub(super) fn strict(self, report: &mut dyn FnMut(Problem)) {
        if self.reserved != 0 {
            report(Problem::Reserved { record: "X86_PV_INFO", field: "reserved", value: self.reserved });
        }
    }
}

/// An X86_PV_P2M_FRAMES body: a checked view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct P2mFrames<'a> {
    /// First pfn that the frames cover.
    pub start: u32,
    /// Last pfn that they cover.
    pub end: u32,
    frames: &'a [u8],
}

/// Appends an X86_PV_P2M_FRAMES body: the frames that cover the pfns `start` to `end`.
pub fn emit_p2m_frames(start: u32, end: u32, frames: &[u64], out: &mut Vec<u8>) {
    out.extend_from_slice(&start.to_le_bytes());
    out.extend_from_slice(&end.to_le_bytes());
    out.extend(frames.iter().flat_map(|frame| frame.to_le_bytes()));
}

impl<'a> P2mFrames<'a> {
    /// Checks a body, as [`emit_p2m_frames`] makes it.
    ///
    /// # Errors
    /// A range that is none, or that needs another number of frames in either width.
    pub fn parse(body: &'a [u8]) -> Result<Self, BodyError> {
        const RECORD: &str = "X86_PV_P2M_FRAMES";
        let parsed: IResult<&[u8], (u32, u32)> = (le_u32, le_u32).parse(body);
        let Ok((frames, (start, end))) = parsed else {
            return Err(BodyError::TooShort { record: RECORD, least: 8, got: body.len() as u64 });
        };
        if frames.len() % 8 != 0 {
            return Err(BodyError::NotMultiple { record: RECORD, unit: 8, got: body.len() as u64 });
        }
        if start > end {
            return Err(BodyError::P2mRange { start, end });
        }
        // A frame holds 512 entries of a 64-bit guest and 1024 of a 32-bit one; the width stands in another record.
        let touched = |per_frame: u32| u64::from(end / per_frame - start / per_frame) + 1;
        let (got, frames64, frames32) = (frames.len() as u64 / 8, touched(512), touched(1024));
        if got != frames64 && got != frames32 {
            return Err(BodyError::P2mFrames { start, end, got, frames64, frames32 });
        }
        Ok(P2mFrames { start, end, frames })
    }

    /// The pfns of the frames.
    pub fn pfns(&self) -> impl ExactSizeIterator<Item = u64> + 'a {
        self.frames.chunks_exact(8).map(LittleEndian::read_u64)
    }

    pub(crate) const fn bytes(&self) -> &'a [u8] {
        self.frames
    }

    /// Frames that a guest of this width has for the range.
    pub fn frames_for_width(&self, guest_width: u8) -> u64 {
        let per_frame = if guest_width == 4 { 1024 } else { 512 };
        u64::from(self.end / per_frame - self.start / per_frame) + 1
    }
}

/// Which part of a vCPU's state a record holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VcpuRecord {
    /// `XEN_DOMCTL_{get,set}vcpucontext`.
    Basic,
    /// `XEN_DOMCTL_{get,set}_ext_vcpucontext`.
    Extended,
    /// `XEN_DOMCTL_{get,set}vcpuextstate`.
    Xsave,
    /// `XEN_DOMCTL_{get,set}_vcpu_msrs`.
    Msrs,
}

impl VcpuRecord {
    /// The record's type.
    pub const fn type_id(self) -> u32 {
        match self {
            VcpuRecord::Basic => types::X86_PV_VCPU_BASIC,
            VcpuRecord::Extended => types::X86_PV_VCPU_EXTENDED,
            VcpuRecord::Xsave => types::X86_PV_VCPU_XSAVE,
            VcpuRecord::Msrs => types::X86_PV_VCPU_MSRS,
        }
    }

    /// The specification's name.
    pub const fn name(self) -> &'static str {
        match self {
            VcpuRecord::Basic => "X86_PV_VCPU_BASIC",
            VcpuRecord::Extended => "X86_PV_VCPU_EXTENDED",
            VcpuRecord::Xsave => "X86_PV_VCPU_XSAVE",
            VcpuRecord::Msrs => "X86_PV_VCPU_MSRS",
        }
    }
}

/// One of the four vCPU bodies: a checked view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VcpuBlob<'a> {
    /// Which part.
    pub part: VcpuRecord,
    /// The vCPU's number.
    pub vcpu_id: u32,
    reserved: u32,
    /// The state, as the hypercall takes it. Empty in streams of Xen 4.6 to 4.8 (erratum 1), never in a BASIC record.
    pub context: &'a [u8],
}

impl<'a> VcpuBlob<'a> {
    /// A part of a vCPU's state.
    pub const fn new(part: VcpuRecord, vcpu_id: u32, context: &'a [u8]) -> Self {
        VcpuBlob { part, vcpu_id, reserved: 0, context }
    }

    pub(super) fn parse(part: VcpuRecord, body: &'a [u8]) -> Result<Self, BodyError> {
        let record = part.name();
        let got = body.len() as u64;
        let parsed: IResult<&[u8], (u32, u32)> = (le_u32, le_u32).parse(body);
        let Ok((context, (vcpu_id, reserved))) = parsed else {
            return Err(BodyError::TooShort { record, least: 8, got });
        };
        match part {
            VcpuRecord::Basic if context.is_empty() => return Err(BodyError::Empty { record }),
            VcpuRecord::Xsave if (1..16).contains(&context.len()) => {
                return Err(BodyError::TooShort { record, least: 24, got });
            }
            VcpuRecord::Msrs if context.len() % 16 != 0 => {
                return Err(BodyError::NotMultiple { record, unit: 16, got: context.len() as u64 });
            }
            _ => {}
        }
        Ok(VcpuBlob { part, vcpu_id, reserved, context })
    }

    pub(super) fn strict(self, report: &mut dyn FnMut(Problem)) {
        let record = self.part.name();
        if self.reserved != 0 {
            report(Problem::Reserved { record, field: "reserved", value: self.reserved.into() });
        }
        if self.context.is_empty() {
            report(Problem::ZeroContent { record });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pv_info_pairs() {
        for info in [PvInfo::GUEST_64, PvInfo::GUEST_32] {
            assert_eq!(PvInfo::parse(&info.emit()), Ok(info));
        }
        for (width, levels) in [(8, 3), (4, 4), (0, 0), (5, 4)] {
            let body = [width, levels, 0, 0, 0, 0, 0, 0];
            assert_eq!(PvInfo::parse(&body), Err(BodyError::PvInfo { width, levels }));
        }
        for len in [0, 7, 9] {
            assert!(matches!(PvInfo::parse(&[8; 9][..len]), Err(BodyError::Size { .. })));
        }
    }

    #[test]
    fn p2m_frames_must_match_the_range() {
        let body = |start: u32, end: u32, frames: usize| {
            let mut out = [start.to_le_bytes(), end.to_le_bytes()].concat();
            out.resize(8 + frames * 8, 1);
            out
        };
        // 511..=512 touches two frames of 512 entries and one of 1024.
        for frames in [1, 2] {
            let bytes = body(511, 512, frames);
            let view = P2mFrames::parse(&bytes).unwrap();
            assert_eq!(view.pfns().len(), frames);
            assert_eq!((view.frames_for_width(8), view.frames_for_width(4)), (2, 1));
        }
        assert!(matches!(P2mFrames::parse(&body(511, 512, 3)), Err(BodyError::P2mFrames { got: 3, .. })));
        // 16 bytes that claim all pfns there are.
        assert!(matches!(P2mFrames::parse(&body(0, u32::MAX, 1)), Err(BodyError::P2mFrames { .. })));
        assert_eq!(P2mFrames::parse(&body(2, 1, 1)), Err(BodyError::P2mRange { start: 2, end: 1 }));
    }

    #[test]
    fn vcpu_blobs() {
        let body = [&7u32.to_le_bytes()[..], &[0; 4], &[1; 16]].concat();
        let blob = VcpuBlob::parse(VcpuRecord::Msrs, &body).unwrap();
        assert_eq!((blob.vcpu_id, blob.context.len()), (7, 16));
        assert!(VcpuBlob::parse(VcpuRecord::Xsave, &body[..8]).is_ok());
        assert!(VcpuBlob::parse(VcpuRecord::Basic, &body[..8]).is_err());
        assert!(VcpuBlob::parse(VcpuRecord::Xsave, &body[..23]).is_err());
        assert!(VcpuBlob::parse(VcpuRecord::Msrs, &body[..23]).is_err());
        assert!(VcpuBlob::parse(VcpuRecord::Extended, &body[..7]).is_err());
    }
}
