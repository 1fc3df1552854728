//! Xen's migration-v2 stream outside Xen, and what stands on it.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod decode;
pub mod stream;
