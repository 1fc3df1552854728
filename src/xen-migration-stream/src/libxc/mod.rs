//! libxc's part of the stream: two headers, then records.
//!
//! Source: `docs/specs/libxc-migration-stream.pandoc`, revision 3; section names below are its own.

mod arrays;
mod header;
mod page_data;
mod pv;
mod record;
mod torn;

pub use arrays::{CpuidPolicy, DirtyPfnList, HvmParam, HvmParams, MsrPolicy, emit_hvm_params};
pub use header::{DomainHeader, DomainType, ImageHeader};
pub(crate) use page_data::emit_head as page_data_emit_head;
pub use page_data::{PageData, PageEntry, PageType, head_len as page_data_head_len};
pub use pv::{P2mFrames, PvInfo, VcpuBlob, VcpuRecord, emit_p2m_frames};
pub use record::{Record, TscInfo};
pub(crate) use torn::judge as judge_torn;

/// Bytes of a guest page; the only size that x86 has.
pub const PAGE_SIZE: usize = 4096;
/// Pages that Xen's saver puts into one PAGE_DATA record.
pub const BATCH: usize = 1024;
/// Longest body that Xen's receiver takes (`REC_LENGTH_MAX`).
pub const MAX_BODY: u32 = 128 << 20;
/// The largest pfn of an x86 domain: 52 bits of physical address less the 12 of a page.
pub const MAX_PFN: u64 = (1 << 40) - 1;

/// Record types, by the specification's numbers.
pub mod types {
    /// END.
    pub const END: u32 = 0x00;
    /// PAGE_DATA.
    pub const PAGE_DATA: u32 = 0x01;
    /// X86_PV_INFO.
    pub const X86_PV_INFO: u32 = 0x02;
    /// X86_PV_P2M_FRAMES.
    pub const X86_PV_P2M_FRAMES: u32 = 0x03;
    /// X86_PV_VCPU_BASIC.
    pub const X86_PV_VCPU_BASIC: u32 = 0x04;
    /// X86_PV_VCPU_EXTENDED.
    pub const X86_PV_VCPU_EXTENDED: u32 = 0x05;
    /// X86_PV_VCPU_XSAVE.
    pub const X86_PV_VCPU_XSAVE: u32 = 0x06;
    /// SHARED_INFO.
    pub const SHARED_INFO: u32 = 0x07;
    /// X86_TSC_INFO.
    pub const X86_TSC_INFO: u32 = 0x08;
    /// HVM_CONTEXT.
    pub const HVM_CONTEXT: u32 = 0x09;
    /// HVM_PARAMS.
    pub const HVM_PARAMS: u32 = 0x0a;
    /// TOOLSTACK, deprecated.
    pub const TOOLSTACK: u32 = 0x0b;
    /// X86_PV_VCPU_MSRS.
    pub const X86_PV_VCPU_MSRS: u32 = 0x0c;
    /// VERIFY.
    pub const VERIFY: u32 = 0x0d;
    /// CHECKPOINT.
    pub const CHECKPOINT: u32 = 0x0e;
    /// CHECKPOINT_DIRTY_PFN_LIST: back channel only.
    pub const CHECKPOINT_DIRTY_PFN_LIST: u32 = 0x0f;
    /// STATIC_DATA_END.
    pub const STATIC_DATA_END: u32 = 0x10;
    /// X86_CPUID_POLICY.
    pub const X86_CPUID_POLICY: u32 = 0x11;
    /// X86_MSR_POLICY.
    pub const X86_MSR_POLICY: u32 = 0x12;
}

/// The specification's name of a record type; `None` for types it does not define.
pub const fn type_name(type_id: u32) -> Option<&'static str> {
    Some(match type_id {
        types::END => "END",
        types::PAGE_DATA => "PAGE_DATA",
        types::X86_PV_INFO => "X86_PV_INFO",
        types::X86_PV_P2M_FRAMES => "X86_PV_P2M_FRAMES",
        types::X86_PV_VCPU_BASIC => "X86_PV_VCPU_BASIC",
        types::X86_PV_VCPU_EXTENDED => "X86_PV_VCPU_EXTENDED",
        types::X86_PV_VCPU_XSAVE => "X86_PV_VCPU_XSAVE",
        types::SHARED_INFO => "SHARED_INFO",
        types::X86_TSC_INFO => "X86_TSC_INFO",
        types::HVM_CONTEXT => "HVM_CONTEXT",
        types::HVM_PARAMS => "HVM_PARAMS",
        types::TOOLSTACK => "TOOLSTACK",
        types::X86_PV_VCPU_MSRS => "X86_PV_VCPU_MSRS",
        types::VERIFY => "VERIFY",
        types::CHECKPOINT => "CHECKPOINT",
        types::CHECKPOINT_DIRTY_PFN_LIST => "CHECKPOINT_DIRTY_PFN_LIST",
        types::STATIC_DATA_END => "STATIC_DATA_END",
        types::X86_CPUID_POLICY => "X86_CPUID_POLICY",
        types::X86_MSR_POLICY => "X86_MSR_POLICY",
        _ => return None,
    })
}
