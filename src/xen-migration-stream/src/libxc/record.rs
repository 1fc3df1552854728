//! A record of libxc, parsed. Source: "Records".

use super::{CpuidPolicy, DirtyPfnList, HvmParams, MsrPolicy, P2mFrames, PAGE_SIZE, PageData, PvInfo};
use super::{VcpuBlob, VcpuRecord, types};
use crate::error::{BodyError, Problem};
use crate::record::Frame;
use byteorder::{ByteOrder, LittleEndian};
use nom::IResult;
use nom::Parser;
use nom::number::complete::{le_u32, le_u64};

/// How a domain sees the time stamp counter (`XEN_DOMCTL_gettscinfo`): an X86_TSC_INFO body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct TscInfo {
    /// `TSC_MODE_*`: 0 default, 1 always emulated, 2 never emulated.
    pub mode: u32,
    /// The counter's frequency in kHz.
    pub khz: u32,
    /// Nanoseconds that have passed in the guest.
    pub nsec: u64,
    /// How often the domain has been migrated or restored.
    pub incarnation: u32,
    /// Reserved; written as zero.
    pub reserved: u32,
}

impl TscInfo {
    /// Bytes of the body.
    pub const LEN: usize = 24;

    fn parse(body: &[u8]) -> Result<Self, BodyError> {
        let got = body.len() as u64;
        let parsed: IResult<&[u8], _> = (le_u32, le_u32, le_u64, le_u32, le_u32).parse(body);
        match parsed {
            Ok((&[], (mode, khz, nsec, incarnation, reserved))) => {
                Ok(TscInfo { mode, khz, nsec, incarnation, reserved })
            }
            _ => Err(BodyError::Size { record: "X86_TSC_INFO", expected: Self::LEN as u64, got }),
        }
    }

    /// The body's bytes, the reserved field zero.
    pub fn emit(self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        LittleEndian::write_u32(&mut out[0..4], self.mode);
        LittleEndian::write_u32(&mut out[4..8], self.khz);
        LittleEndian::write_u64(&mut out[8..16], self.nsec);
        LittleEndian::write_u32(&mut out[16..20], self.incarnation);
        out
    }
}

/// A record of libxc, parsed. Bodies are views over the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Record<'a> {
    /// The last record.
    End,
    /// Pages.
    PageData(PageData<'a>),
    /// Width and levels of a PV guest.
    X86PvInfo(PvInfo),
    /// Where a PV guest keeps its p2m.
    X86PvP2mFrames(P2mFrames<'a>),
    /// A part of a PV vCPU's state.
    X86PvVcpu(VcpuBlob<'a>),
    /// A PV guest's shared info page: exactly one page.
    SharedInfo(&'a [u8]),
    /// The guest's TSC.
    X86TscInfo(TscInfo),
    /// Xen's HVM save blob; never empty.
    HvmContext(&'a [u8]),
    /// HVM parameters.
    HvmParams(HvmParams<'a>),
    /// Deprecated blob.
    Toolstack(&'a [u8]),
    /// Pages after it are to be compared.
    Verify,
    /// The state is whole; the stream goes back to libxl.
    Checkpoint,
    /// Pages that the secondary dirtied; back channel only.
    CheckpointDirtyPfnList(DirtyPfnList<'a>),
    /// What does not change while the guest runs has been sent.
    StaticDataEnd,
    /// CPUID policy.
    X86CpuidPolicy(CpuidPolicy<'a>),
    /// MSR policy.
    X86MsrPolicy(MsrPolicy<'a>),
    /// A type that is not known and may be skipped.
    Optional {
        /// The record's type, bit 31 set.
        type_id: u32,
        /// The body, not looked into.
        body: &'a [u8],
    },
}

impl<'a> Record<'a> {
    /// Parses the body of a whole frame; of PAGE_DATA also one without page contents.
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
            types::PAGE_DATA => PageData::parse(body, frame.header.length).map(Record::PageData),
            types::X86_PV_INFO => PvInfo::parse(body).map(Record::X86PvInfo),
            types::X86_PV_P2M_FRAMES => P2mFrames::parse(body).map(Record::X86PvP2mFrames),
            types::X86_PV_VCPU_BASIC => VcpuBlob::parse(VcpuRecord::Basic, body).map(Record::X86PvVcpu),
            types::X86_PV_VCPU_EXTENDED => VcpuBlob::parse(VcpuRecord::Extended, body).map(Record::X86PvVcpu),
            types::X86_PV_VCPU_XSAVE => VcpuBlob::parse(VcpuRecord::Xsave, body).map(Record::X86PvVcpu),
            types::X86_PV_VCPU_MSRS => VcpuBlob::parse(VcpuRecord::Msrs, body).map(Record::X86PvVcpu),
            types::SHARED_INFO if body.len() == PAGE_SIZE => Ok(Record::SharedInfo(body)),
            types::SHARED_INFO => {
                Err(BodyError::Size { record: "SHARED_INFO", expected: PAGE_SIZE as u64, got: body.len() as u64 })
            }
            types::X86_TSC_INFO => TscInfo::parse(body).map(Record::X86TscInfo),
            types::HVM_CONTEXT if body.is_empty() => Err(BodyError::Empty { record: "HVM_CONTEXT" }),
            types::HVM_CONTEXT => Ok(Record::HvmContext(body)),
            types::HVM_PARAMS => HvmParams::parse(body).map(Record::HvmParams),
            types::TOOLSTACK => Ok(Record::Toolstack(body)),
            types::VERIFY => empty("VERIFY", Record::Verify),
            types::CHECKPOINT => empty("CHECKPOINT", Record::Checkpoint),
            types::CHECKPOINT_DIRTY_PFN_LIST => DirtyPfnList::parse(body).map(Record::CheckpointDirtyPfnList),
            types::STATIC_DATA_END => empty("STATIC_DATA_END", Record::StaticDataEnd),
            types::X86_CPUID_POLICY => CpuidPolicy::parse(body).map(Record::X86CpuidPolicy),
            types::X86_MSR_POLICY => MsrPolicy::parse(body).map(Record::X86MsrPolicy),
            _ if frame.header.is_optional() => Ok(Record::Optional { type_id, body }),
            _ => Err(BodyError::UnknownMandatory { type_id, length: frame.header.length }),
        }
    }

    /// The record's type.
    pub const fn type_id(&self) -> u32 {
        match self {
            Record::End => types::END,
            Record::PageData(_) => types::PAGE_DATA,
            Record::X86PvInfo(_) => types::X86_PV_INFO,
            Record::X86PvP2mFrames(_) => types::X86_PV_P2M_FRAMES,
            Record::X86PvVcpu(blob) => blob.part.type_id(),
            Record::SharedInfo(_) => types::SHARED_INFO,
            Record::X86TscInfo(_) => types::X86_TSC_INFO,
            Record::HvmContext(_) => types::HVM_CONTEXT,
            Record::HvmParams(_) => types::HVM_PARAMS,
            Record::Toolstack(_) => types::TOOLSTACK,
            Record::Verify => types::VERIFY,
            Record::Checkpoint => types::CHECKPOINT,
            Record::CheckpointDirtyPfnList(_) => types::CHECKPOINT_DIRTY_PFN_LIST,
            Record::StaticDataEnd => types::STATIC_DATA_END,
            Record::X86CpuidPolicy(_) => types::X86_CPUID_POLICY,
            Record::X86MsrPolicy(_) => types::X86_MSR_POLICY,
            Record::Optional { type_id, .. } => *type_id,
        }
    }

    /// Reports what a writer must leave zero and a reader ignores, and what deserves a remark.
    pub fn strict(&self, report: &mut dyn FnMut(Problem)) {
        match self {
            Record::PageData(pages) => pages.strict(report),
            Record::X86PvInfo(info) => info.strict(report),
            Record::X86PvVcpu(blob) => blob.strict(report),
            Record::HvmParams(params) => params.strict(report),
            Record::X86TscInfo(tsc) if tsc.reserved != 0 => {
                report(Problem::Reserved { record: "X86_TSC_INFO", field: "reserved", value: tsc.reserved.into() });
            }
            Record::Toolstack(_) => report(Problem::Deprecated { record: "TOOLSTACK" }),
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

    fn parse(type_id: u32, body: &[u8]) -> Result<Record<'_>, BodyError> {
        Record::parse(&Frame { header: RecordHeader::new(type_id, body.len() as u32), body, padding: &[] })
    }

    #[test]
    fn signals_have_no_body() {
        for (type_id, record) in [
            (types::END, Record::End),
            (types::VERIFY, Record::Verify),
            (types::CHECKPOINT, Record::Checkpoint),
            (types::STATIC_DATA_END, Record::StaticDataEnd),
        ] {
            assert_eq!(parse(type_id, &[]), Ok(record));
            assert!(matches!(parse(type_id, &[0]), Err(BodyError::Size { expected: 0, got: 1, .. })));
        }
    }

    #[test]
    fn fixed_sizes() {
        let tsc = TscInfo { mode: 1, khz: 2_400_000, nsec: 3, incarnation: 4, reserved: 0 };
        assert_eq!(parse(types::X86_TSC_INFO, &tsc.emit()), Ok(Record::X86TscInfo(tsc)));
        assert!(parse(types::X86_TSC_INFO, &[0; 23]).is_err());
        assert!(parse(types::X86_TSC_INFO, &[0; 25]).is_err());
        assert!(parse(types::SHARED_INFO, &[0; 4096]).is_ok());
        assert!(parse(types::SHARED_INFO, &[0; 4095]).is_err());
        assert!(parse(types::HVM_CONTEXT, &[]).is_err());
    }

    #[test]
    fn unknown_types() {
        assert_eq!(parse(0x13, &[0; 3]), Err(BodyError::UnknownMandatory { type_id: 0x13, length: 3 }));
        assert_eq!(parse(0x8000_0001, &[7]), Ok(Record::Optional { type_id: 0x8000_0001, body: &[7] }));
    }
}
