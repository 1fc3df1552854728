//! How a simulated PV guest is to be.

use crate::decode::shared_info::Width;

/// How a guest tells the toolstack about its p2m.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum P2mKind {
    /// By an address space and a virtual address.
    List,
    /// By frames that name frames.
    Tree,
}

/// A PV guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PvConfig {
    /// Its number.
    pub domid: u32,
    /// What is random in it.
    pub seed: u64,
    /// Pfns, holes and its own tables included.
    pub pages: u64,
    /// Frames that the machine has for it.
    pub budget: u64,
    /// vCPUs.
    pub vcpus: u32,
    /// 64 or 32 bits.
    pub width: Width,
    /// Where its p2m is.
    pub p2m: P2mKind,
}

impl PvConfig {
    /// A guest of 6 MiB with two vCPUs.
    pub const fn small(seed: u64, width: Width, p2m: P2mKind) -> Self {
        PvConfig { domid: 1, seed, pages: 1500, budget: 2500, vcpus: 2, width, p2m }
    }
}
