//! Deep decoding: the opaque blobs that stream records carry, as typed values for people.
//!
//! Independent of the stream's framing: every function takes the blob without its record header
//! and gives a value that serialises to JSON, or a [`DecodeError`] that says what and where. Nothing
//! here panics on any bytes, and memory stays proportional to the input. In JSON, registers,
//! addresses and masks are `"0x..."` strings; counts, sizes and ids are numbers; reserved fields
//! appear only when they are not zero. Structures from C are declared once, field by field, and can
//! be emitted as well ([`wire`]).
//!
//! | record | blob | decoder |
//! |---|---|---|
//! | (xl preamble) | the configuration text | [`xl_config::XlConfig::decode`] |
//! | X86_CPUID_POLICY | the body | [`cpuid::CpuidPolicy::decode`] |
//! | X86_MSR_POLICY | the body | [`msr::decode_msrs`] |
//! | X86_TSC_INFO | the body | [`tsc::TscInfo`] |
//! | HVM_CONTEXT | the body | [`hvm_context::HvmContext`], or [`hvm_context::Entries`] for the chain alone |
//! | HVM_PARAMS | the body | [`hvm_params::decode_hvm_params`] |
//! | SHARED_INFO | the body | [`shared_info::SharedInfo::decode`] |
//! | X86_PV_VCPU_BASIC | behind the vCPU id | [`pv_vcpu::Basic::decode`] |
//! | X86_PV_VCPU_EXTENDED | behind the vCPU id | [`pv_vcpu::Extended`] |
//! | X86_PV_VCPU_XSAVE | behind the vCPU id | [`pv_vcpu::Xsave::decode`] |
//! | X86_PV_VCPU_MSRS | behind the vCPU id | [`pv_vcpu::decode_vcpu_msrs`] |
//! | EMULATOR_CONTEXT | behind emulator id and index | [`qevm::QemuState::decode`] |
//!
//! "Behind the vCPU id" is behind `u32 vcpu_id, u32 reserved`. Types that implement
//! [`wire::Blob`] decode with its `decode`.

#![forbid(unsafe_code)]

pub mod bits;
#[cfg(test)]
mod c_offsets;
pub mod cpuid;
pub mod error;
pub mod hex;
pub mod hvm_context;
pub mod hvm_entry;
pub mod hvm_params;
pub mod msr;
pub mod pv_vcpu;
pub mod pv_words;
pub mod qemu_stream;
pub mod qevm;
pub mod shared_info;
pub mod tsc;
pub mod wire;
pub mod xl_config;
pub mod xsave;

pub use error::DecodeError;
