//! A real, deterministic guest in process memory: the default backend of demo, tests and benchmarks.
//!
//! The guest is a HVM domain with physical memory on a PC layout, vCPUs, a platform, a device model, and a network card. It runs a
//! program ([`workload`]) whose whole state lies in guest memory, vCPU registers and device registers. Hence a restored guest goes on
//! exactly as the original would have, and that is what makes it worth anything as a test: lose a page, and the next
//! [`SimDomain::self_check`] or comparison tells.
//!
//! The guest's memory map may change under it, by its own program (`balloon_pages` of its configuration) or by whoever drives it
//! ([`SimDomain::give_back`], [`SimDomain::take`], [`SimDomain::move_page`]), under a hypervisor whose dirty log tells of that or does not.
//!
//! [`SimDomain`] is the domain, standing still between calls of [`SimDomain::run`]; [`Runner`] lets it run on a thread of its own
//! and implements the same traits, for live saving and checkpoints. [`SimWire`] connects its network card with a UDP socket, and
//! [`SimOutput`] holds its output back. [`SimDomain::snapshot`] keeps a state to compare with.
//!
//! [`pv`] has a PV guest with page tables, for [`crate::libxc`] alone: it has no devices.
#![forbid(unsafe_code)]

mod balloon;
pub mod config;
pub mod device_model;
pub mod domain;
mod hvm_blob;
pub mod image;
pub mod layout;
pub mod memory;
pub mod nic;
mod platform;
mod policy;
pub mod pv;
pub mod runner;
mod runner_traits;
pub mod snapshot;
mod traits;
pub mod vcpu;
pub mod wire;
pub mod workload;

#[cfg(test)]
mod tests;

pub use config::SimConfig;
pub use domain::{SimDomain, SimPages, SimPagesMut};
pub use image::SimImage;
pub use layout::{MemoryLayout, SpecialPages};
pub use nic::Nic;
pub use runner::{Pace, Runner, RunnerPages, RunnerPagesMut, Turn};
pub use snapshot::{Difference, Digest, Snapshot};
pub use wire::{SimOutput, SimWire, WireStats};
pub use workload::{PacketKind, WorkloadPacket};
