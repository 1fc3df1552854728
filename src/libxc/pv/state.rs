//! What the hypervisor keeps of a PV domain besides its memory, as a stream carries it.

use super::context;
use super::p2m::{P2m, shared_info};
use crate::hypervisor::SaveDomain;
use crate::hypervisor::pv::VcpuRecord;
use crate::hypervisor::types::Page;
use crate::libxc::SaveError;
use crate::stream::handover::LibxcWriter;
use crate::stream::libxc::{Record, VcpuBlob};
use std::io::Write;

/// The parts of a vCPU's state, in the order of the stream.
pub const PARTS: [VcpuRecord; 4] = [VcpuRecord::Basic, VcpuRecord::Extended, VcpuRecord::Xsave, VcpuRecord::Msrs];

/// A part of one vCPU's state, frames as pfns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The vCPU's number.
    pub vcpu: u32,
    /// Which part.
    pub part: VcpuRecord,
    /// Its bytes.
    pub blob: Vec<u8>,
}

/// Shared info and vCPUs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PvState {
    /// The shared info page.
    pub shared_info: Option<Box<Page>>,
    /// The vCPUs' parts, in stream order.
    pub parts: Vec<Part>,
}

impl PvState {
    /// Drops everything.
    pub fn clear(&mut self) {
        self.shared_info = None;
        self.parts.clear();
    }

    /// Bytes that it holds.
    pub fn bytes(&self) -> u64 {
        let parts = self.parts.iter().map(|part| part.blob.len() as u64).sum::<u64>();
        parts + self.shared_info.as_ref().map_or(0, |page| page.len() as u64)
    }

    /// Sets a part, in place of the one there was.
    pub fn set(&mut self, vcpu: u32, part: VcpuRecord, blob: &[u8]) {
        let blob = blob.to_vec();
        match self.parts.iter_mut().find(|known| (known.vcpu, known.part) == (vcpu, part)) {
            Some(known) => known.blob = blob,
            None => self.parts.push(Part { vcpu, part, blob }),
        }
    }

    /// Takes the state of a domain that is suspended: shared info, and all parts of the vCPUs that are online.
    ///
    /// # Errors
    /// The hypervisor's; [`SaveError::Context`].
    pub fn take(&mut self, domain: &impl SaveDomain, p2m: &P2m, nr_vcpus: u32) -> Result<(), SaveError> {
        self.clear();
        self.shared_info = Some(shared_info(domain)?);
        for vcpu in 0..nr_vcpus {
            if !domain.vcpu_is_online(vcpu)? {
                continue;
            }
            for part in PARTS {
                let mut blob = Vec::new();
                domain.vcpu_part(vcpu, part, &mut blob)?;
                if part == VcpuRecord::Basic {
                    context::normalise(&mut blob, p2m.width(), vcpu, |mfn| p2m.pfn_of(domain, mfn))
                        .map_err(|error| SaveError::Context { vcpu, error })?;
                }
                if !blob.is_empty() {
                    self.parts.push(Part { vcpu, part, blob });
                }
            }
        }
        Ok(())
    }

    /// Writes SHARED_INFO and the vCPU records.
    ///
    /// # Errors
    /// The stream's.
    pub fn write<W: Write, Home>(&self, out: &mut LibxcWriter<W, Home>) -> Result<(), SaveError> {
        if let Some(page) = &self.shared_info {
            out.record(&Record::SharedInfo(&page[..]))?;
        }
        for Part { vcpu, part, blob } in &self.parts {
            out.record(&Record::X86PvVcpu(VcpuBlob::new(*part, *vcpu, blob)))?;
        }
        Ok(())
    }
}
