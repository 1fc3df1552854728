//! A PV domain put down in a form that another process can take up: everything but the contents of its frames and of the m2p.
//!
//! These two stay in the mappings that the machine lives in, which are files' where somebody else is to have them: page `n` of the
//! one is frame `n`, entry `n` of the other its pfn.

use super::config::{P2mKind, PvConfig};
use super::domain::{PvSim, Vcpu};
use super::machine::{Machine, m2p_length, nr_mfns};
use crate::decode::shared_info::Width;
use crate::hypervisor::error::{Error, Result};
use crate::hypervisor::pv::Mfn;
use crate::hypervisor::types::{CpuPolicy, GrantSeed, PAGE_SIZE, PageType, ShutdownReason, TscInfo};
use memmap2::MmapMut;
use serde::{Deserialize, Serialize};

/// A vCPU's state, in the bytes of its records, frames as mfns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PvVcpuImage {
    /// Whether it is online.
    pub online: bool,
    /// Basic, extended, xsave, MSRs.
    pub parts: [Vec<u8>; 4],
}

/// A PV domain's state without its frames' contents and without the m2p. What is under way is not part of it: the dirty log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PvImage {
    /// Its number.
    pub domid: u32,
    /// [`PvConfig::seed`].
    pub seed: u64,
    /// [`PvConfig::pages`].
    pub pages: u64,
    /// [`PvConfig::budget`].
    pub budget: u64,
    /// [`PvConfig::width`], in bytes.
    pub configured_width: u8,
    /// Whether [`PvConfig::p2m`] is [`P2mKind::Tree`].
    pub p2m_tree: bool,
    /// The domain's width in bytes.
    pub width: u8,
    /// The type of each frame of the machine, as streams have it.
    pub types: Vec<u8>,
    /// Frames that are nobody's, in the order in which they will be given.
    pub free: Vec<Mfn>,
    /// The frame of the shared info page.
    pub shared_info: Mfn,
    /// Frames of pinned page tables, in the order of pinning.
    pub pinned: Vec<Mfn>,
    /// The vCPUs.
    pub vcpus: Vec<PvVcpuImage>,
    /// The time stamp counter's mode, kHz, nanoseconds and incarnation.
    pub tsc: (u32, u32, u64, u32),
    /// CPUID leaves in the bytes of their record.
    pub cpuid: Vec<u8>,
    /// MSRs in the bytes of their record.
    pub msrs: Vec<u8>,
    /// Who the rings are granted to: console frame and domain, xenstore frame and domain.
    pub grants: (Mfn, u32, Mfn, u32),
    /// Whether the toolstack has paused it.
    pub paused: bool,
    /// Whether it is suspended.
    pub suspended: bool,
}

impl PvSim {
    /// The domain's state without its frames' contents and without the m2p.
    pub fn image(&self) -> PvImage {
        let (types, free) = self.machine.parts();
        let TscInfo { mode, khz, nsec, incarnation, .. } = self.tsc;
        let GrantSeed { console_gfn, console_domid, xenstore_gfn, xenstore_domid } = self.grants;
        let vcpu = |vcpu: &Vcpu| PvVcpuImage {
            online: vcpu.online,
            parts: [&vcpu.basic, &vcpu.extended, &vcpu.xsave, &vcpu.msrs].map(Clone::clone),
        };
        PvImage {
            domid: self.config.domid,
            seed: self.config.seed,
            pages: self.config.pages,
            budget: self.config.budget,
            configured_width: self.config.width.bytes() as u8,
            p2m_tree: self.config.p2m == P2mKind::Tree,
            width: self.width.bytes() as u8,
            types: types.iter().map(|page_type| page_type.wire()).collect(),
            free: free.to_vec(),
            shared_info: self.shared_info,
            pinned: self.pinned.clone(),
            vcpus: self.vcpus.iter().map(vcpu).collect(),
            tsc: (mode, khz, nsec, incarnation),
            cpuid: self.policy.cpuid.clone(),
            msrs: self.policy.msrs.clone(),
            grants: (console_gfn, console_domid, xenstore_gfn, xenstore_domid),
            paused: self.paused,
            suspended: self.shutdown == Some(ShutdownReason::Suspend),
        }
    }
}

impl PvImage {
    /// Bytes of the machine's memory.
    pub const fn memory_bytes(&self) -> usize {
        (nr_mfns(self.budget) as usize).saturating_mul(PAGE_SIZE)
    }

    /// Bytes of the m2p: whole extents of 2 MiB.
    pub const fn m2p_bytes(&self) -> usize {
        m2p_length(nr_mfns(self.budget))
    }

    /// Makes the domain whose machine has this memory and this m2p.
    ///
    /// # Errors
    /// Parts that do not fit each other.
    pub fn wake(&self, memory: MmapMut, m2p: MmapMut) -> Result<PvSim> {
        let bad = |field, value, reason| Error::Config { field, value, reason };
        let width = |bytes| Width::from_bytes(bytes).ok_or(bad("width", bytes.into(), "neither 4 nor 8"));
        let type_of = |&wire: &u8| PageType::from_wire(wire).ok_or(bad("types", wire.into(), "no type of a page"));
        let types = self.types.iter().map(type_of).collect::<Result<Vec<_>>>()?;
        if types.len() as u64 != nr_mfns(self.budget) {
            return Err(bad("types", types.len() as u64, "not one for each frame"));
        }
        if self.vcpus.is_empty() || self.shared_info >= types.len() as u64 {
            return Err(bad("shared_info", self.shared_info, "no frame of the machine, or no vCPU"));
        }
        let config = PvConfig {
            domid: self.domid,
            seed: self.seed,
            pages: self.pages,
            budget: self.budget,
            vcpus: self.vcpus.len() as u32,
            width: width(self.configured_width)?,
            p2m: if self.p2m_tree { P2mKind::Tree } else { P2mKind::List },
        };
        let machine = Machine::wake(memory, m2p, types, self.free.clone())?;
        let mut domain = PvSim::around(&config, machine, self.shared_info);
        domain.width = width(self.width)?;
        domain.vcpus = self.vcpus.iter().map(vcpu).collect();
        domain.pinned = self.pinned.clone();
        let (mode, khz, nsec, incarnation) = self.tsc;
        domain.tsc = TscInfo { mode, khz, nsec, incarnation, reserved: 0 };
        domain.policy = CpuPolicy { cpuid: self.cpuid.clone(), msrs: self.msrs.clone() };
        let (console_gfn, console_domid, xenstore_gfn, xenstore_domid) = self.grants;
        domain.grants = GrantSeed { console_gfn, console_domid, xenstore_gfn, xenstore_domid };
        domain.paused = self.paused;
        domain.shutdown = self.suspended.then_some(ShutdownReason::Suspend);
        Ok(domain)
    }
}

fn vcpu(image: &PvVcpuImage) -> Vcpu {
    let [basic, extended, xsave, msrs] = image.parts.clone();
    Vcpu { online: image.online, basic, extended, xsave, msrs }
}
