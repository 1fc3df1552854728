//! Deep decoding: the opaque blobs that stream records carry, as typed values for people.
//!
//! Independent of the stream's framing: every function takes the blob without its record header
//! and gives a value that serialises to JSON, or a [`DecodeError`] that says what and where. Nothing
//! here panics on any octets, and memory stays proportional to the input. In JSON, registers,
//! addresses and masks are `"0x..."` strings; counts, sizes and ids are numbers; reserved fields
//! appear only when they are not zero.

#![forbid(unsafe_code)]

pub mod bits;
pub mod cpuid;
pub mod error;
pub mod hex;
pub mod hvm_context;
pub mod hvm_entry;
pub mod hvm_params;
pub mod msr;
pub mod pv_vcpu;
pub mod qevm;
pub mod shared_info;
pub mod tsc;
pub mod wire;
pub mod xl_config;
pub mod xsave;

pub use error::DecodeError;
