//! Records that are arrays: HVM params, CPU policies, dirty pfns.
//!
//! Source: "HVM_PARAMS", "X86_CPUID_POLICY", "X86_MSR_POLICY", "CHECKPOINT_DIRTY_PFN_LIST".

use super::MAX_PFN;
use crate::error::{BodyError, Problem};
use byteorder::{ByteOrder, LittleEndian};
use nom::IResult;
use nom::Parser;
use nom::number::complete::le_u32;

/// One parameter of a HVM domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct HvmParam {
    /// `HVM_PARAM_*` of Xen's `public/hvm/params.h`.
    pub index: u64,
    /// Its value.
    pub value: u64,
}

/// A HVM_PARAMS body: a checked view. May be without parameters (erratum 1), but not without their number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HvmParams<'a> {
    reserved: u32,
    params: &'a [u8],
}

impl<'a> HvmParams<'a> {
    /// Checks a body, as [`emit_hvm_params`] makes it.
    ///
    /// # Errors
    /// A count that does not fit the body's length.
    pub fn parse(body: &'a [u8]) -> Result<Self, BodyError> {
        const RECORD: &str = "HVM_PARAMS";
        let length = body.len() as u64;
        let parsed: IResult<&[u8], (u32, u32)> = (le_u32, le_u32).parse(body);
        let Ok((params, (count, reserved))) = parsed else {
            return Err(BodyError::TooShort { record: RECORD, least: 8, got: length });
        };
        let expected = 8 + u64::from(count) * 16;
        if expected > length {
            return Err(BodyError::Count { record: RECORD, count, length, room: (length - 8) / 16 });
        }
        if expected != length {
            return Err(BodyError::Size { record: RECORD, expected, got: length });
        }
        Ok(HvmParams { reserved, params })
    }

    /// The parameters, in stream order.
    pub fn params(&self) -> impl ExactSizeIterator<Item = HvmParam> + 'a {
        self.params.chunks_exact(16).map(|bytes| HvmParam {
            index: LittleEndian::read_u64(&bytes[..8]),
            value: LittleEndian::read_u64(&bytes[8..]),
        })
    }

    pub(crate) const fn bytes(&self) -> &'a [u8] {
        self.params
    }

    pub(super) fn strict(&self, report: &mut dyn FnMut(Problem)) {
        const RECORD: &str = "HVM_PARAMS";
        if self.reserved != 0 {
            report(Problem::Reserved { record: RECORD, field: "reserved", value: self.reserved.into() });
        }
        if self.params.is_empty() {
            report(Problem::ZeroContent { record: RECORD });
        }
    }
}

/// Appends a HVM_PARAMS body.
pub fn emit_hvm_params(params: &[HvmParam], out: &mut Vec<u8>) {
    out.extend_from_slice(&(params.len() as u32).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    for param in params {
        out.extend_from_slice(&param.index.to_le_bytes());
        out.extend_from_slice(&param.value.to_le_bytes());
    }
}

fn whole_entries<'a>(record: &'static str, unit: usize, body: &'a [u8]) -> Result<&'a [u8], BodyError> {
    if body.is_empty() {
        Err(BodyError::Empty { record })
    } else if !body.len().is_multiple_of(unit) {
        Err(BodyError::NotMultiple { record, unit: unit as u64, got: body.len() as u64 })
    } else {
        Ok(body)
    }
}

/// An X86_CPUID_POLICY body: at least one leaf of 24 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuidPolicy<'a> {
    /// The leaves as they stand there: `xen_cpuid_leaf_t[]`.
    pub leaves: &'a [u8],
}

impl<'a> CpuidPolicy<'a> {
    /// Bytes of a leaf.
    pub const LEAF: usize = 24;

    pub(super) fn parse(body: &'a [u8]) -> Result<Self, BodyError> {
        whole_entries("X86_CPUID_POLICY", Self::LEAF, body).map(|leaves| CpuidPolicy { leaves })
    }

    /// Number of leaves.
    pub const fn count(&self) -> usize {
        self.leaves.len() / Self::LEAF
    }
}

/// An X86_MSR_POLICY body: at least one entry of 16 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MsrPolicy<'a> {
    /// The entries as they stand there: `xen_msr_entry_t[]`.
    pub entries: &'a [u8],
}

impl<'a> MsrPolicy<'a> {
    /// Bytes of an entry.
    pub const ENTRY: usize = 16;

    pub(super) fn parse(body: &'a [u8]) -> Result<Self, BodyError> {
        whole_entries("X86_MSR_POLICY", Self::ENTRY, body).map(|entries| MsrPolicy { entries })
    }

    /// Number of entries.
    pub const fn count(&self) -> usize {
        self.entries.len() / Self::ENTRY
    }
}

/// A CHECKPOINT_DIRTY_PFN_LIST body: pfns in any order, possibly none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirtyPfnList<'a> {
    pfns: &'a [u8],
}

impl<'a> DirtyPfnList<'a> {
    pub(super) fn parse(body: &'a [u8]) -> Result<Self, BodyError> {
        const RECORD: &str = "CHECKPOINT_DIRTY_PFN_LIST";
        if !body.len().is_multiple_of(8) {
            return Err(BodyError::NotMultiple { record: RECORD, unit: 8, got: body.len() as u64 });
        }
        let list = DirtyPfnList { pfns: body };
        match list.pfns().enumerate().find(|&(_, pfn)| pfn > MAX_PFN) {
            Some((entry, pfn)) => Err(BodyError::Pfn { record: RECORD, entry: entry as u64, pfn, limit: MAX_PFN }),
            None => Ok(list),
        }
    }

    /// The pfns.
    pub fn pfns(&self) -> impl ExactSizeIterator<Item = u64> + 'a {
        self.pfns.chunks_exact(8).map(LittleEndian::read_u64)
    }

    pub(crate) const fn bytes(&self) -> &'a [u8] {
        self.pfns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hvm_params_round_trip() {
        let params = [HvmParam { index: 1, value: 0xfeffe }, HvmParam { index: 37, value: u64::MAX }];
        let mut body = Vec::new();
        emit_hvm_params(&params, &mut body);
        assert_eq!(HvmParams::parse(&body).unwrap().params().collect::<Vec<_>>(), params);
    }

    #[test]
    fn hvm_params_bad_counts() {
        let mut body = Vec::new();
        emit_hvm_params(&[HvmParam { index: 1, value: 2 }], &mut body);
        body[0] = 2;
        assert_eq!(
            HvmParams::parse(&body),
            Err(BodyError::Count { record: "HVM_PARAMS", count: 2, length: 24, room: 1 })
        );
        body[0] = 0;
        assert_eq!(HvmParams::parse(&body), Err(BodyError::Size { record: "HVM_PARAMS", expected: 8, got: 24 }));
        assert!(HvmParams::parse(&body[..7]).is_err());
        // Without a count it is no body at all, as for Xen's restorer.
        assert_eq!(HvmParams::parse(&[]), Err(BodyError::TooShort { record: "HVM_PARAMS", least: 8, got: 0 }));
        let mut problems = Vec::new();
        HvmParams::parse(&body[..8]).unwrap().strict(&mut |p| problems.push(p));
        assert_eq!(problems, [Problem::ZeroContent { record: "HVM_PARAMS" }]);
    }

    #[test]
    fn arrays_are_whole() {
        assert!(CpuidPolicy::parse(&[0; 48]).is_ok_and(|policy| policy.count() == 2));
        assert!(MsrPolicy::parse(&[0; 48]).is_ok_and(|policy| policy.count() == 3));
        for len in [0, 1, 23, 25] {
            assert!(CpuidPolicy::parse(&[0; 25][..len]).is_err());
        }
        assert!(MsrPolicy::parse(&[0; 17]).is_err());
        assert!(DirtyPfnList::parse(&[]).is_ok_and(|list| list.pfns().len() == 0));
        assert!(DirtyPfnList::parse(&[0; 12]).is_err());
        assert!(matches!(DirtyPfnList::parse(&[0xff; 8]), Err(BodyError::Pfn { entry: 0, .. })));
    }
}
