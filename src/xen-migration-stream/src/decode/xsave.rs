//! The FXSAVE image and the XSAVE area, shared by HVM and PV vCPU state.
//!
//! Source: Intel SDM volume 1, chapters 10.5 (FXSAVE) and 13.4 (XSAVE area); Xen's
//! `struct hvm_hw_cpu_xsave` in `xen/include/public/arch-x86/hvm/save.h`.

use serde::Serialize;

use super::bits::{Bits, Xstate};
use super::error::DecodeError;
use super::hex::{Area, Hex8, Hex16, Hex32, Hex64, Opaque, Reserved};
use super::wire::{Wire, layout, parse_at};

layout! {
    /// The 512-byte FXSAVE image: control words by name, register files in raw form.
    pub struct Fxsave = "FXSAVE image" {
        /// x87 control word.
        fcw: Hex16,
        /// x87 status word.
        fsw: Hex16,
        /// Abridged tag word.
        ftw: Hex8,
        reserved0: Reserved<1>,
        /// Last opcode.
        fop: Hex16,
        /// Last instruction pointer.
        fip: Hex64,
        /// Last data pointer.
        fdp: Hex64,
        mxcsr: Hex32,
        mxcsr_mask: Hex32,
        /// ST0 to ST7, 16 bytes each.
        st: Area<128>,
        /// XMM0 to XMM15.
        xmm: Area<256>,
        /// Reserved and software-available bytes.
        reserved1: Reserved<96>,
    }
}

layout! {
    /// The 64-byte header of an XSAVE area.
    pub struct XsaveHeader = "XSAVE header" {
        /// Components that the area holds.
        xstate_bv: Bits<u64, Xstate>,
        /// Bit 63 set: compacted format, with the components of the lower bits.
        xcomp_bv: Hex64,
        reserved: Reserved<48>,
    }
}

/// An XSAVE area: legacy region, header, and whatever components follow.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct XsaveArea {
    /// Legacy region.
    pub legacy: Fxsave,
    /// Header.
    pub header: XsaveHeader,
    /// The extended region behind the header (AVX and later components).
    pub extended: Opaque,
}

impl XsaveArea {
    /// Bytes of legacy region and header.
    pub const MIN: usize = Fxsave::SIZE + XsaveHeader::SIZE;

    /// Decodes the area that starts at `offset` of a blob and fills it; `input` is what is there.
    ///
    /// # Errors
    /// [`DecodeError::TooShort`] below 576 bytes.
    pub fn decode_at(input: &[u8], offset: usize) -> Result<Self, DecodeError> {
        if input.len() < Self::MIN {
            return Err(DecodeError::TooShort { what: "XSAVE area", offset, needed: Self::MIN, got: input.len() });
        }
        let (rest, legacy) = parse_at("XSAVE legacy region", input, offset)?;
        let (rest, header) = parse_at("XSAVE header", rest, offset + Fxsave::SIZE)?;
        Ok(XsaveArea { legacy, header, extended: Opaque(rest.to_vec()) })
    }

    /// Appends the area.
    pub fn emit(&self, out: &mut Vec<u8>) {
        self.legacy.emit(out);
        self.header.emit(out);
        out.extend_from_slice(&self.extended.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::wire::Blob;

    #[test]
    fn layout_sizes() {
        assert_eq!(Fxsave::SIZE, 512);
        assert_eq!(XsaveHeader::SIZE, 64);
        assert_eq!(XsaveArea::MIN, 576);
    }

    #[test]
    fn fields_lie_where_the_manual_says() {
        let mut area: Vec<u8> = (0..600u32).map(|i| (i % 251) as u8).collect();
        area[0..2].copy_from_slice(&0x037fu16.to_le_bytes());
        area[24..28].copy_from_slice(&0x1f80u32.to_le_bytes());
        area[512..520].copy_from_slice(&7u64.to_le_bytes());
        let decoded = XsaveArea::decode_at(&area, 0).unwrap();
        assert_eq!(decoded.legacy.fcw.0, 0x037f);
        assert_eq!(decoded.legacy.mxcsr.0, 0x1f80);
        assert_eq!(decoded.legacy.xmm.0[0], 160);
        assert_eq!(decoded.header.xstate_bv.names(), ["x87", "sse", "avx"]);
        assert_eq!(decoded.extended.0.len(), 24);
        let mut out = Vec::new();
        decoded.emit(&mut out);
        assert_eq!(out, area);
    }

    #[test]
    fn every_prefix_is_an_error_with_figures() {
        for len in 0..576 {
            assert_eq!(
                XsaveArea::decode_at(&vec![0; len], 24),
                Err(DecodeError::TooShort { what: "XSAVE area", offset: 24, needed: 576, got: len })
            );
        }
        assert!(Fxsave::decode(&[0; 511]).is_err());
    }
}
