//! A PV vCPU's state, in the four parts that a stream has, frames as mfns.
#![forbid(unsafe_code)]

use super::XenDomain;
use crate::decode::pv_words::{CONTEXT_32, CONTEXT_64};
use crate::hypervisor::PvDomain;
use crate::hypervisor::error::{Error, Result};
use crate::hypervisor::pv::{VcpuRecord, Width};
use crate::hypervisor::xen::hypercall::abi::DOMCTL_BODY;
use crate::hypervisor::xen::hypercall::vcpu::MSR;

impl XenDomain {
    pub(super) fn online(&self, vcpu: u32) -> Result<bool> {
        self.interface.vcpu_is_online(self.domid, vcpu)
    }

    pub(super) fn read_part(&self, vcpu: u32, part: VcpuRecord, blob: &mut Vec<u8>) -> Result<()> {
        blob.clear();
        match part {
            VcpuRecord::Basic => self.read_basic(vcpu, blob),
            VcpuRecord::Extended => self.read_extended(vcpu, blob),
            VcpuRecord::Xsave => self.interface.xsave(self.domid, vcpu, blob),
            VcpuRecord::Msrs => self.interface.msrs(self.domid, vcpu, blob),
        }
    }

    pub(super) fn write_part(&self, vcpu: u32, part: VcpuRecord, blob: &[u8]) -> Result<()> {
        match part {
            VcpuRecord::Basic => self.write_basic(vcpu, blob),
            VcpuRecord::Extended => self.write_extended(vcpu, blob),
            VcpuRecord::Xsave => self.interface.set_xsave(self.domid, vcpu, blob),
            VcpuRecord::Msrs => self.write_msrs(vcpu, blob),
        }
    }

    fn context_bytes(&self) -> Result<usize> {
        Ok(match self.guest_width()? {
            Width::Bits64 => CONTEXT_64,
            Width::Bits32 => CONTEXT_32,
        })
    }

    fn read_basic(&self, vcpu: u32, blob: &mut Vec<u8>) -> Result<()> {
        let length = self.context_bytes()?;
        let context = self.interface.vcpu_context(self.domid, vcpu)?;
        blob.extend_from_slice(context.get(..length).unwrap_or(&context));
        Ok(())
    }

    fn write_basic(&self, vcpu: u32, blob: &[u8]) -> Result<()> {
        if blob.len() != self.context_bytes()? {
            return Err(bad_length("X86_PV_VCPU_BASIC", blob));
        }
        self.interface.set_vcpu_context(self.domid, vcpu, blob)
    }

    fn read_extended(&self, vcpu: u32, blob: &mut Vec<u8>) -> Result<()> {
        let body = self.interface.extended_context(self.domid, vcpu)?;
        // Behind the vCPU's number.
        let size = body.as_chunks().0.get(1).copied().map_or(0, u32::from_ne_bytes) as usize;
        blob.extend_from_slice(body.get(..size).unwrap_or(&body));
        Ok(())
    }

    /// The vCPU is the one of the record, whatever the blob says.
    fn write_extended(&self, vcpu: u32, blob: &[u8]) -> Result<()> {
        let mut body = [0; DOMCTL_BODY];
        match body.get_mut(..blob.len()) {
            Some(start) if blob.len() >= size_of::<u64>() => start.copy_from_slice(blob),
            _ => return Err(bad_length("X86_PV_VCPU_EXTENDED", blob)),
        }
        self.interface.set_extended_context(self.domid, vcpu, body)
    }

    fn write_msrs(&self, vcpu: u32, blob: &[u8]) -> Result<()> {
        let count = u32::try_from(blob.len() / MSR).ok().filter(|_| blob.len().is_multiple_of(MSR));
        let count = count.ok_or(bad_length("X86_PV_VCPU_MSRS", blob))?;
        self.interface.set_msrs(self.domid, vcpu, count, blob)
    }
}

fn bad_length(field: &'static str, blob: &[u8]) -> Error {
    Error::Config { field, value: blob.len() as u64, reason: "bytes, which no such part of a vCPU's state has" }
}
